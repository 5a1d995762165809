//! `[time]`: who tells the machine the time of day.

use crate::config::appliance::Complain;
use crate::config::fault::shortened;
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
        Self { servers: SERVERS.map(str::to_owned).to_vec(), from_dhcp: false }
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
    }
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
