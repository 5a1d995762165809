//! `[time]`: who tells the machine the time of day.

use crate::config::appliance::Complain;
use crate::config::fault::shortened;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde::Deserialize;
use std::{net::IpAddr, str::FromStr};

/// chrony asks each of them; more would only be load on others.
const SERVERS_MAX: usize = 16;

/// `[time]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Time {
    /// `nts://HOST` or `ntp://HOST`, with `:PORT` where it is not the standard's.
    pub servers: Vec<String>,
    /// Servers that DHCP names are asked too.
    pub from_dhcp: bool,
    /// Certificates (PEM) of those who vouch for `nts://` servers, besides the public authorities.
    pub authorities: String,
}

/// Four operators in four hands. Three that answer outvote one that is wrong.
pub const SERVERS: [&str; 4] = [
    "nts://time.cloudflare.com",
    "nts://nts.netnod.se",
    "nts://ptbtime1.ptb.de",
    "nts://nts.time.nl",
];

impl Default for Time {
    fn default() -> Self {
        Self {
            servers: SERVERS.map(str::to_owned).to_vec(),
            from_dhcp: false,
            authorities: String::new(),
        }
    }
}

/// A server, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Network Time Security (RFC 8915): nobody on the way can change the time.
    pub is_authenticated: bool,
    /// A name or an address, without brackets.
    pub host: String,
    /// Of the key exchange with NTS, else of NTP; `None`: the standard's.
    pub port: Option<u16>,
}

impl FromStr for Server {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (scheme, rest) = text.split_once("://").ok_or(())?;
        let is_authenticated = match scheme {
            "nts" => true,
            "ntp" => false,
            _ => return Err(()),
        };
        let (host, port) = match rest.strip_prefix('[') {
            Some(inner) => {
                let (host, rest) = inner.split_once(']').ok_or(())?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| ())?;
                let port = rest.strip_prefix(':');
                (host, if rest.is_empty() { None } else { Some(port.ok_or(())?) })
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let port = match port {
            Some(digits) => Some(digits.parse().ok().filter(|port| *port > 0).ok_or(())?),
            None => None,
        };
        (host.parse::<IpAddr>().is_ok() || is_domain(host))
            .then(|| Self { is_authenticated, host: host.to_owned(), port })
            .ok_or(())
    }
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

impl Time {
    /// The servers, taken apart; one that is none is left out.
    pub fn parsed(&self) -> Vec<Server> {
        self.servers.iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// Nobody on the way can change the time.
    pub fn is_authenticated(&self) -> bool {
        !self.from_dhcp && self.parsed().iter().all(|server| server.is_authenticated)
    }

    /// Says what is wrong with the values.
    pub fn check(&self, complain: Complain<'_>) {
        for (at, text) in self.servers.iter().enumerate() {
            let key = format!("time.servers.{at}");
            if text.parse::<Server>().is_err() {
                let what = format!("time.servers has \"{}\", no time server", shortened(text));
                let remedy = "use nts://HOST, or ntp://HOST without authentication".to_owned();
                complain(&key, what, remedy);
            } else if self.servers[..at].contains(text) {
                let what = format!("time.servers has \"{text}\" twice");
                complain(&key, what, "keep one".to_owned());
            }
        }
        if self.servers.len() > SERVERS_MAX {
            let what = format!("time.servers has {} servers", self.servers.len());
            complain("time.servers", what, format!("use {SERVERS_MAX} at most"));
        }
        if self.servers.is_empty() && !self.from_dhcp {
            let what = "time.servers = [] leaves nobody to tell the time".to_owned();
            let remedy = "name one, leave it out for the defaults, or set from_dhcp = true";
            complain("time.servers", what, remedy.to_owned());
        }
        if let Err(what) = read_authorities(&self.authorities) {
            let remedy = "put certificates there, each from its BEGIN to its END line";
            complain("time.authorities", format!("time.authorities {what}"), remedy.to_owned());
        }
    }
}

/// Every certificate has to be one: chronyd would not start with the others.
fn read_authorities(pem: &str) -> Result<(), String> {
    let mut store = RootCertStore::empty();
    for (at, item) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        item.map_err(|error| error.to_string())
            .and_then(|it| store.add(it).map_err(|error| error.to_string()))
            .map_err(|error| format!("has a broken certificate, number {} ({error})", at + 1))?;
    }
    if store.is_empty() && !pem.trim().is_empty() {
        return Err(format!("has no certificate: \"{}\"", shortened(pem)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::appliance::appliance;

    #[test]
    fn servers_are_taken_apart() {
        let server = |is_authenticated, host: &str, port| {
            Ok(Server { is_authenticated, host: host.to_owned(), port })
        };
        for (text, expected) in [
            ("nts://time.cloudflare.com", server(true, "time.cloudflare.com", None)),
            ("ntp://10.0.0.1:1123", server(false, "10.0.0.1", Some(1123))),
            ("nts://[2001:db8::1]:4460", server(true, "2001:db8::1", Some(4460))),
            ("ntp://[2001:db8::1]", server(false, "2001:db8::1", None)),
            ("time.cloudflare.com", Err(())),
            ("http://a", Err(())),
            ("nts://", Err(())),
            ("nts://a b", Err(())),
            ("nts://a\nallow all", Err(())),
            ("nts://a:0", Err(())),
            ("nts://a:b", Err(())),
            ("nts://[::1", Err(())),
            ("nts://[::1]4460", Err(())),
            ("nts://[a]", Err(())),
        ] {
            assert_eq!(text.parse(), expected, "{text:?}");
        }
    }

    /// Signed by itself; its key is gone.
    const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBjzCCATWgAwIBAgIUUU1kU9NQLvtOGqk7thtdTTKNoTQwCgYIKoZIzj0EAwIw
HDEaMBgGA1UEAwwRVGltZSBvZiB0aGUgaG91c2UwIBcNMjYxMTIyMTQzOTM4WhgP
MjEyNjEwMjkxNDM5MzhaMBwxGjAYBgNVBAMMEVRpbWUgb2YgdGhlIGhvdXNlMFkw
EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEbqUQ0JVcpsKcEIuMX1lFU6BxyhsQafYa
UoeUULXm8W2C/k+EA5jUjp1E3XDA+iSxl8e/Oi+f/kiTcRCTagSXIaNTMFEwHQYD
VR0OBBYEFBdG7tzatBL/fYtOVW1n5rZT5sMdMB8GA1UdIwQYMBaAFBdG7tzatBL/
fYtOVW1n5rZT5sMdMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIg
I0RCohZJpsPeYXYIm8MJfEgZCBeQubTYukOB47HaJ8UCIQC50eb4Z7FPzJg7QQd+
zMf/zhaZGbZycN8PMlk3Dit3Tg==
-----END CERTIFICATE-----
";

    #[test]
    fn authorities_are_certificates_every_one() {
        let checked = |pem: &str| {
            let text =
                format!("[time]\nservers = [\"nts://a\"]\nauthorities = \"\"\"\n{pem}\"\"\"");
            appliance("f", &text).map(|it| it.time.authorities).map_err(|error| error.to_string())
        };
        assert_eq!(checked("").unwrap(), "");
        let two = format!("Of the house:\n{AUTHORITY}{AUTHORITY}");
        assert_eq!(checked(&two).unwrap(), two);
        for (pem, expected) in [
            ("a file", "has no certificate: \"a file"),
            (&AUTHORITY.replace("MIIB", "MIIC"), "has a broken certificate, number 1 ("),
            (&AUTHORITY[..200], "has a broken certificate, number 1 ("),
            (&two.replacen("-----BEGIN", "----BEGIN", 1).replace("MIIB", "M"), "has a broken"),
        ] {
            let refused = checked(pem).unwrap_err();
            assert!(refused.starts_with(&format!("f:3: time.authorities {expected}")), "{refused}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, expected) in [
            ("[time]\nservers = []", "f:2: time.servers = [] leaves nobody"),
            ("[time]\nservers = [\n\"nts://a\",\n\"b\"]", "f:4: time.servers has \"b\", no time"),
            (
                "[time]\nservers = [\"nts://a\", \"nts://a\"]",
                "f:2: time.servers has \"nts://a\" tw",
            ),
            ("[time]\nserver = []", "f:2: unknown field `server`"),
        ] {
            let refused = appliance("f", text).unwrap_err().to_string();
            assert!(refused.starts_with(expected), "{text:?}: {refused}");
        }
        let text = "[time]\nservers = []\nfrom_dhcp = true";
        assert!(!appliance("f", text).unwrap().time.is_authenticated());
        assert!(Time::default().is_authenticated());
    }
}
