//! What `[network]` takes and refuses.

use super::*;
use crate::config::appliance::appliance;
use proptest::prelude::*;

fn network(text: &str) -> Network {
    appliance("f", text).unwrap_or_else(|error| panic!("{text}: {error}")).network
}

const GOOD: &str = "\
[network]
allow_from = [\"10.0.0.0/8\", \"2001:db8::/32\"]
[[network.link]]
match = \"bond0\"
addresses = [\"10.1.0.7/24\", \"2001:db8:1::7/64\"]
gateways = [\"10.1.0.1\", \"fe80::1\"]
dns = [\"9.9.9.9\"]
search = [\"example.org\"]
mtu = 9000
[[network.link]]
match = \"52:54:00:00:00:03\"
[[network.bond]]
name = \"bond0\"
members = [\"52:54:00:00:00:01\", \"enp2s0\"]
mode = \"802.3ad\"
lacp_rate = \"fast\"
[[network.vlan]]
id = 40
parent = \"bond0\"
";

#[test]
fn a_good_network_is_taken_as_it_stands() {
    let network = network(GOOD);
    assert!(!network.link[0].asks() && network.link[1].asks());
    assert_eq!(network.bond[0].mii_monitor_ms, 100);
    assert_eq!(network.vlan[0].interface(), "bond0.40");
}

/// A text, and what is said of it.
const REFUSED: &[(&str, &str)] = &[
    ("[network]\nallow_from = [\n\"10.0.0.0/8\",\n\"all\"]", "f:4: network.allow_from has \"all\""),
    ("[[network.link]]\nmatch = \"a b\"", "f:2: network.link.match = \"a b\" is no interface"),
    ("[[network.link]]\nmatch = \"lo\"", "f:2: network.link.match = \"lo\" is no interface"),
    ("[[network.link]]\nmtu = 1500", "f:1: network.link.match = \"\" is no interface"),
    ("[[network.link]]\nmatch = \"*\"", "f:2: network.link.match = \"*\" is no interface"),
    ("[[network.link]]\nmatch = \"01:00:00:00:00:01\"", "f:2: network.link.match = \"01:"),
    ("[[network.link]]\nmatch = \"e0\"\nadresses = []", "f:3: unknown field `adresses`"),
    ("[[network.link]]\nmatch = \"e0\"\nmtu = 40", "f:3: network.link.mtu = 40 is out of range"),
    (
        "[[network.link]]\nmatch = \"e0\"\naddresses = [\"10.0.0.7\"]",
        "f:3: network.link.addresses has \"10.0.0.7\", no address; use ADDRESS/PREFIX",
    ),
    (
        "[[network.link]]\nmatch = \"e0\"\naddresses = [\"10.0.0.0/24\"]",
        "f:3: network.link.addresses has \"10.0.0.0/24\", no address",
    ),
    (
        "[[network.link]]\nmatch = \"e*\"\naddresses = [\"10.0.0.7/24\"]",
        "f:3: network.link.addresses has \"10.0.0.7/24\" for every \"e*\"",
    ),
    (
        "[[network.link]]\nmatch = \"e0\"\naddresses = [\"10.0.0.7/24\"]\n\
         gateways = [\"10.0.1.1\"]",
        "f:4: network.link.gateways has \"10.0.1.1\", in no network of its addresses",
    ),
    (
        "[[network.link]]\nmatch = \"e0\"\naddresses = [\"10.0.0.7/24\"]\n\
         gateways = [\"10.0.0.7\"]",
        "f:4: network.link.gateways has \"10.0.0.7\", this machine's own address",
    ),
    (
        "[[network.link]]\nmatch = \"e0\"\naddresses = [\"10.0.0.7/24\"]\n\
         [[network.link]]\nmatch = \"e1\"\naddresses = [\"10.0.0.9/16\"]",
        "f:6: network.link.addresses has \"10.0.0.9/16\", a network that overlaps the one of 10.0",
    ),
    (
        "[[network.link]]\nmatch = \"e0\"\naddresses = [\"10.0.0.7/24\"]\n\
         gateways = [\"10.0.0.1\",\n\"10.0.0.2\"]",
        "f:5: network.link.gateways has \"10.0.0.2\", a second one for IPv4",
    ),
    ("[[network.link]]\nmatch = \"e0\"\n[[network.link]]\nmatch = \"E0\"", "f:4: network.link.ma"),
    ("[[network.link]]\nmatch = \"e0\"\ndns = [\"one\"]", "f:3: network.link.dns has \"one\""),
    ("[[network.link]]\nmatch = \"e0\"\nsearch = [\"a b\"]", "f:3: network.link.search has \"a b"),
    ("[[network.bond]]\nname = \"b0\"", "f:1: network.bond.members is empty; name the cards"),
    (
        "[[network.bond]]\nname = \"b0\"\nmembers = [\"e0\"]\nmode = \"lacp\"",
        "f:4: network.bond.mode = \"lacp\" is no mode; use one of active-backup",
    ),
    (
        "[[network.bond]]\nname = \"b0\"\nmembers = [\"e0\"]\nlacp_rate = \"fast\"",
        "f:4: network.bond.lacp_rate is set, but mode = \"active-backup\"",
    ),
    (
        "[[network.bond]]\nname = \"b0\"\nmembers = [\"e0\"]\nmii_monitor_ms = 1",
        "f:4: network.bond.mii_monitor_ms = 1 is out of range",
    ),
    (
        "[[network.bond]]\nname = \"b0\"\nmembers = [\"e0\"]\n[[network.bond]]\nname = \"b1\"\n\
         members = [\n\"e0\"]",
        "f:7: network.bond.members has \"e0\", which is a member already",
    ),
    (
        "[[network.link]]\nmatch = \"e0\"\n[[network.bond]]\nname = \"b0\"\nmembers = [\"e0\"]",
        "f:5: network.bond.members has \"e0\", which is also a network.link",
    ),
    (
        "[[network.vlan]]\nid = 7\nparent = \"e0\"",
        "f:3: network.vlan.parent = \"e0\" is no bond and no link; name a network.bond",
    ),
    (
        "[[network.link]]\nmatch = \"e0\"\n[[network.vlan]]\nid = 4095\nparent = \"e0\"",
        "f:4: network.vlan.id = 4095 is no VLAN; use 1..=4094",
    ),
    (
        "[[network.link]]\nmatch = \"52:54:00:00:00:03\"\n[[network.vlan]]\nid = 7\n\
         parent = \"52:54:00:00:00:03\"",
        "f:5: network.vlan.name = \"52:54:00:00:00:03.7\" is no name of an interface",
    ),
    (
        "[[network.link]]\nmatch = \"e0\"\n[[network.vlan]]\nid = 7\nparent = \"e0\"\n\
         [[network.vlan]]\nid = 7\nparent = \"e0\"\nname = \"x\"",
        "f:7: network.vlan.id = 7 stands there twice for e0",
    ),
    (
        "[[network.link]]\nmatch = \"e0\"\n[[network.link]]\nmatch = \"e0.7\"\nmtu = 9000\n\
         [[network.vlan]]\nid = 7\nparent = \"e0\"",
        "f:6: network.vlan.name = \"e0.7\" has mtu = 9000, above its parent's",
    ),
    ("[network]\nlink = 7", "f:2: invalid type"),
];

#[test]
fn what_is_wrong_is_refused_with_line_value_and_remedy() {
    for (text, expected) in REFUSED {
        let refused = appliance("f", text).expect_err(text).to_string();
        assert!(refused.lines().any(|line| line.starts_with(expected)), "{text}\n{refused}");
    }
}

#[test]
fn a_gateway_outside_is_taken_where_it_is_said_to_be_on_the_link() {
    let text = "[[network.link]]\nmatch = \"e0\"\naddresses = [\"203.0.113.7/32\"]\n\
                gateways = [\"10.0.0.1\"]\ngateway_on_link = true\n";
    assert_eq!(network(text).link[0].gateways, ["10.0.0.1"]);
}

proptest! {
    /// A network holds exactly the addresses whose first bits are its own.
    #[test]
    fn a_network_holds_what_shares_its_prefix(a: u32, b: u32, prefix in 0_u8..=32) {
        let cidr: Cidr = format!("{}/{prefix}", std::net::Ipv4Addr::from(a)).parse().unwrap();
        let same = (a ^ b).leading_zeros() >= u32::from(prefix);
        prop_assert_eq!(cidr.holds(IpAddr::V4(b.into())), same);
    }

    #[test]
    fn overlap_is_a_common_address(a: u32, b: u32, p in 0_u8..=32, q in 0_u8..=32) {
        let cidr = |bits: u32, prefix: u8| Cidr { address: IpAddr::V4(bits.into()), prefix };
        let (one, other) = (cidr(a, p), cidr(b, q));
        let common = (a ^ b).leading_zeros() >= u32::from(p.min(q));
        prop_assert_eq!(one.overlaps(&other), common);
        prop_assert_eq!(other.overlaps(&one), common);
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,40}") {
        let text = format!("[[network.link]]\nmatch = \"e0\"\naddresses = [{text:?}]\n");
        let found = appliance("f", &text);
        let taken = found.is_ok_and(|it| !it.network.link.is_empty());
        let known = toml_edit::Document::parse(text.as_str()).is_err();
        prop_assert!(!taken || !known);
    }
}
