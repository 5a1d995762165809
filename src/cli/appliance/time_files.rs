//! What chronyd reads, made from `[time]`. Pure: no file is touched here.

use crate::config::appliance::time::{Server, Time};
use std::path::Path;

/// Of chronyd, beside its socket. Sources that DHCP named are put there.
pub const DHCP_FOLDER: &str = "/run/basalt-time/dhcp";

/// chronyd's configuration; `authorities` is where those of `[time]` are. It asks and answers
/// nobody: no port is open, commands come by a socket that only its own user may open.
pub fn chrony_text(time: &Time, authorities: &Path) -> String {
    let mut text = "# Made by basalt boot-network from the configuration.\n".to_owned();
    let servers = time.parsed();
    for server in &servers {
        text.push_str(&server_line(server));
    }
    if time.from_dhcp {
        text.push_str(&format!("sourcedir {DHCP_FOLDER}\n"));
    }
    if !time.authorities.trim().is_empty() {
        text.push_str(&format!("ntstrustedcerts {}\n", authorities.display()));
    }
    let has_authenticated = servers.iter().any(|server| server.is_authenticated);
    let mode = match (has_authenticated, time.is_authenticated()) {
        (true, true) => "require",
        // Others count only while no authenticated one answers.
        (true, false) => "prefer",
        (false, _) => "ignore",
    };
    text.push_str(&format!("authselectmode {mode}\n"));
    // One server alone can be wrong; where two were named, one is not believed.
    if servers.len() > 1 && time.is_authenticated() {
        text.push_str("minsources 2\n");
    }
    text.push_str(FIXED);
    text
}

fn server_line(server: &Server) -> String {
    let nts = if server.is_authenticated { " nts" } else { "" };
    let port = match (server.port, server.is_authenticated) {
        (None, _) => String::new(),
        (Some(port), true) => format!(" ntsport {port}"),
        (Some(port), false) => format!(" port {port}"),
    };
    format!("server {} iburst{nts}{port}\n", server.host)
}

/// Servers that the network's leases name, one line each as chronyd reads them.
pub fn dhcp_sources(leases: &[String]) -> String {
    let mut found: Vec<&str> = Vec::new();
    for value in
        leases.iter().flat_map(|text| text.lines()).filter_map(|it| it.strip_prefix("NTP="))
    {
        for host in value.split_whitespace() {
            if host.parse::<std::net::IpAddr>().is_ok() && !found.contains(&host) {
                found.push(host);
            }
        }
    }
    found.iter().map(|host| format!("server {host} iburst\n")).collect()
}

/// What no configuration changes.
const FIXED: &str = "\
# No NTP server, no command port; commands by the socket only.
port 0
cmdport 0
# A wrong time at the boot is set at once, later ones are slewed: a chain's time never jumps back.
makestep 1.0 3
# The kernel keeps the hardware clock on time.
rtcsync
driftfile /var/lib/chrony/drift
ntsdumpdir /var/lib/chrony
# A machine without a clock cannot tell whether a certificate is still valid: the first update is
# made without that question.
nocerttimecheck 1
leapseclist /usr/share/zoneinfo/leap-seconds.list
";

#[cfg(test)]
mod tests {
    use super::*;

    fn time(servers: &[&str], from_dhcp: bool) -> Time {
        let servers = servers.iter().map(|text| (*text).to_owned()).collect();
        Time { servers, from_dhcp, ..Time::default() }
    }

    fn chrony_text(time: &Time) -> String {
        super::chrony_text(time, Path::new("/run/authorities.pem"))
    }

    #[test]
    fn the_defaults_are_authenticated_and_nothing_listens() {
        let text = chrony_text(&Time::default());
        assert!(text.contains("server time.cloudflare.com iburst nts\n"), "{text}");
        for line in ["authselectmode require", "minsources 2", "port 0", "cmdport 0"] {
            assert!(text.lines().any(|it| it == line), "no {line} in\n{text}");
        }
        assert!(!text.contains("sourcedir") && !text.contains("ntstrustedcerts"), "{text}");
    }

    #[test]
    fn the_owners_authorities_are_asked_besides_the_public_ones() {
        let time = Time { authorities: "a certificate".to_owned(), ..Time::default() };
        let text = chrony_text(&time);
        assert!(text.contains("\nntstrustedcerts /run/authorities.pem\n"), "{text}");
        assert!(!text.contains("nosystemcert"), "{text}");
    }

    #[test]
    fn what_is_not_authenticated_counts_only_where_nothing_else_answers() {
        let text = chrony_text(&time(&["nts://a:4461", "ntp://[2001:db8::1]:1123"], false));
        assert!(text.contains("server a iburst nts ntsport 4461\n"), "{text}");
        assert!(text.contains("server 2001:db8::1 iburst port 1123\n"), "{text}");
        assert!(text.contains("authselectmode prefer\n") && !text.contains("minsources"), "{text}");
        let text = chrony_text(&time(&[], true));
        assert!(text.contains("sourcedir /run/basalt-time/dhcp\n"), "{text}");
        assert!(text.contains("authselectmode ignore\n"), "{text}");
    }

    #[test]
    fn a_lease_names_addresses_and_nothing_else() {
        let leases = ["ADDRESS=10.0.0.7\nNTP=10.0.0.1 10.0.0.2\n", "NTP=10.0.0.1 x;allow\n"];
        let leases = leases.map(str::to_owned);
        assert_eq!(dhcp_sources(&leases), "server 10.0.0.1 iburst\nserver 10.0.0.2 iburst\n");
    }
}
