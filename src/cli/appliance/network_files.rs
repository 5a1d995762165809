//! What systemd-networkd reads, made from `[network]`. Pure: no file is touched here.

use crate::config::appliance::network::{Bond, Link, Network, Vlan, is_mac, is_pattern};

/// Every file that is made has this in its name, so that old ones are found again.
pub const MARK: &str = "-basalt-";

/// Names and texts of all files. A number in front says which one counts where two match: members
/// of bonds, links without `*`, patterns, bonds and VLANs that no link names; then the image's own
/// file, by which the rest asks for addresses.
pub fn files(network: &Network) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for (at, bond) in network.bond.iter().enumerate() {
        files.push((format!("10{MARK}bond{at:02}.netdev"), bond_text(bond)));
        for (index, member) in bond.members.iter().enumerate() {
            let text = format!(
                "{HEAD}{}\n[Network]\nBond={}\n\n{}",
                match_text(member),
                bond.name,
                link_section(None)
            );
            files.push((format!("10{MARK}bond{at:02}-member{index:02}.network"), text));
        }
    }
    for (at, vlan) in network.vlan.iter().enumerate() {
        files.push((format!("10{MARK}vlan{at:02}.netdev"), vlan_text(vlan)));
    }
    for (at, link) in network.link.iter().enumerate() {
        let first = if is_pattern(&link.r#match) { 30 } else { 20 };
        files.push((format!("{first}{MARK}link{at:02}.network"), link_text(link, network)));
    }
    let made = network.bond.iter().map(|bond| bond.name.clone());
    let made = made.chain(network.vlan.iter().map(Vlan::interface));
    for (at, name) in made.enumerate() {
        if network.link.iter().all(|link| link.r#match != name) {
            let link = Link { r#match: name, ..Link::default() };
            files.push((format!("40{MARK}made{at:02}.network"), link_text(&link, network)));
        }
    }
    files
}

const HEAD: &str = "# Made by basalt boot-network from the configuration.\n";

/// A pattern or a hardware address means cards only: a bond and a VLAN have their parent's address.
fn match_text(matched: &str) -> String {
    if is_mac(matched) {
        format!("[Match]\nPermanentMACAddress={matched}\nKind=!*\nType=ether\n")
    } else if is_pattern(matched) {
        format!("[Match]\nName={matched}\nKind=!*\nType=ether\n")
    } else {
        format!("[Match]\nName={matched}\n")
    }
}

fn link_section(mtu: Option<u32>) -> String {
    let mtu = mtu.map(|mtu| format!("MTUBytes={mtu}\n")).unwrap_or_default();
    format!("[Link]\nRequiredForOnline=no\n{mtu}")
}

fn link_text(link: &Link, network: &Network) -> String {
    let asks = if link.asks() { "yes" } else { "no" };
    let mut text = format!("{HEAD}{}\n[Network]\n", match_text(&link.r#match));
    text.push_str(&format!("DHCP={asks}\nIPv6AcceptRA={asks}\n"));
    if !link.asks() && link.addresses.is_empty() {
        text.push_str("LinkLocalAddressing=no\n"); // Carries bonds' or VLANs' frames only.
    }
    for server in &link.dns {
        text.push_str(&format!("DNS={server}\n"));
    }
    if !link.search.is_empty() {
        text.push_str(&format!("Domains={}\n", link.search.join(" ")));
    }
    for vlan in network.vlan.iter().filter(|vlan| vlan.parent == link.r#match) {
        text.push_str(&format!("VLAN={}\n", vlan.interface()));
    }
    for address in &link.addresses {
        text.push_str(&format!("\n[Address]\nAddress={address}\n"));
    }
    for gateway in &link.gateways {
        text.push_str(&format!("\n[Route]\nGateway={gateway}\n"));
        if link.gateway_on_link {
            text.push_str("GatewayOnLink=yes\n");
        }
    }
    text.push('\n');
    text.push_str(&link_section(link.mtu));
    text
}

fn bond_text(bond: &Bond) -> String {
    let mut text = format!(
        "{HEAD}[NetDev]\nName={}\nKind=bond\nMACAddress=none\n\n[Bond]\nMode={}\n\
         MIIMonitorSec={}ms\n",
        bond.name, bond.mode, bond.mii_monitor_ms
    );
    if let Some(rate) = &bond.lacp_rate {
        text.push_str(&format!("LACPTransmitRate={rate}\n"));
    }
    // By addresses and ports: by hardware addresses alone, all goes to the gateway over one card.
    if matches!(bond.mode.as_str(), "802.3ad" | "balance-xor") {
        text.push_str("TransmitHashPolicy=layer3+4\n");
    }
    text
}

fn vlan_text(vlan: &Vlan) -> String {
    format!("{HEAD}[NetDev]\nName={}\nKind=vlan\n\n[VLAN]\nId={}\n", vlan.interface(), vlan.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::appliance::appliance;

    fn made(text: &str) -> Vec<(String, String)> {
        files(&appliance("f", text).unwrap().network)
    }

    #[test]
    fn nothing_is_made_of_nothing() {
        assert!(made("[network]\nallow_from = [\"10.0.0.0/8\"]\n").is_empty());
    }

    #[test]
    fn a_static_link_has_its_addresses_and_asks_nobody() {
        let files = made(
            "[[network.link]]\nmatch = \"52:54:00:12:34:56\"\n\
             addresses = [\"10.0.2.15/24\", \"2001:db8::7/64\"]\n\
             gateways = [\"10.0.2.2\", \"fe80::1\"]\ndns = [\"10.0.2.3\"]\n\
             search = [\"a.org\", \"b.org\"]\nmtu = 1400\ngateway_on_link = true\n",
        );
        let expected = "# Made by basalt boot-network from the configuration.\n[Match]\n\
             PermanentMACAddress=52:54:00:12:34:56\nKind=!*\nType=ether\n\n[Network]\nDHCP=no\n\
             IPv6AcceptRA=no\nDNS=10.0.2.3\nDomains=a.org b.org\n\n[Address]\n\
             Address=10.0.2.15/24\n\n[Address]\nAddress=2001:db8::7/64\n\n[Route]\n\
             Gateway=10.0.2.2\nGatewayOnLink=yes\n\n[Route]\nGateway=fe80::1\nGatewayOnLink=yes\n\
             \n[Link]\nRequiredForOnline=no\nMTUBytes=1400\n";
        assert_eq!(files, [("20-basalt-link00.network".to_owned(), expected.to_owned())]);
    }

    #[test]
    fn a_bond_and_its_vlan_are_made_joined_and_addressed() {
        let files = made(
            "[[network.bond]]\nname = \"bond0\"\nmembers = [\"enp1s0\", \"52:54:00:00:00:02\"]\n\
             mode = \"802.3ad\"\nlacp_rate = \"fast\"\n\
             [[network.vlan]]\nid = 40\nparent = \"bond0\"\n\
             [[network.link]]\nmatch = \"bond0.40\"\naddresses = [\"10.4.0.7/24\"]\n",
        );
        let text = |name: &str| {
            let found = files.iter().find(|(known, _)| known == name);
            &found.unwrap_or_else(|| panic!("no {name} in {files:?}")).1
        };
        let bond = text("10-basalt-bond00.netdev");
        for line in ["Kind=bond", "Mode=802.3ad", "MIIMonitorSec=100ms", "LACPTransmitRate=fast"] {
            assert!(bond.lines().any(|it| it == line), "{bond}");
        }
        assert!(text("10-basalt-bond00-member00.network").contains("Name=enp1s0\n"));
        assert!(text("10-basalt-bond00-member01.network").contains("\n[Network]\nBond=bond0\n"));
        assert!(text("10-basalt-vlan00.netdev").contains("Kind=vlan\n\n[VLAN]\nId=40\n"));
        assert!(text("20-basalt-link00.network").contains("Address=10.4.0.7/24\n"));
        let parent = text("40-basalt-made00.network");
        assert!(parent.contains("Name=bond0\n") && parent.contains("VLAN=bond0.40\n"), "{parent}");
        assert!(parent.contains("DHCP=yes\n"), "{parent}");
        assert_eq!(files.len(), 6, "{files:?}");
    }

    #[test]
    fn a_pattern_comes_after_names_and_means_cards_only() {
        let files = made(
            "[[network.link]]\nmatch = \"en*\"\n\
             [[network.link]]\nmatch = \"enp1s0\"\ndhcp = false\n",
        );
        assert_eq!(files[0].0, "30-basalt-link00.network");
        assert!(files[0].1.contains("Name=en*\nKind=!*\n"), "{}", files[0].1);
        assert_eq!(files[1].0, "20-basalt-link01.network");
        assert!(files[1].1.contains("LinkLocalAddressing=no\n"), "{}", files[1].1);
    }
}
