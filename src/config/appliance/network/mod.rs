//! `[network]`: how links get their addresses, bonds, VLANs, and who may reach the node's ports.
//! What is written here and what it does is one thing; whether a machine has such an interface is
//! known at its boot only.

use crate::config::appliance::Complain;
use crate::config::fault::shortened;
use serde::Deserialize;
use std::{net::IpAddr, str::FromStr};

/// Tables of one kind at most.
const TABLES_MAX: usize = 64;
/// The kernel's limit for an interface's name.
const NAME_BYTES_MAX: usize = 15;
const MTU_MIN: u32 = 1_280; // What IPv6 needs.
const MTU_MAX: u32 = 9_216;
const MII_MONITOR_MS: std::ops::RangeInclusive<u32> = 10..=10_000;

/// `[network]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Networks that may reach the ports of RPC and metrics; empty: all.
    pub allow_from: Vec<String>,
    /// `[[network.link]]`
    pub link: Vec<Link>,
    /// `[[network.bond]]`
    pub bond: Vec<Bond>,
    /// `[[network.vlan]]`
    pub vlan: Vec<Vlan>,
}

/// `[[network.link]]`: how interfaces get their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// A hardware address, a name, or a pattern of names with `*`.
    pub r#match: String,
    /// `None`: yes without `addresses`, no with them.
    pub dhcp: Option<bool>,
    /// With the length of their prefix.
    pub addresses: Vec<String>,
    /// One for IPv4, one for IPv6 at most.
    pub gateways: Vec<String>,
    /// A gateway that is in no network of the link is on the link all the same.
    pub gateway_on_link: bool,
    /// Addresses of name servers.
    pub dns: Vec<String>,
    /// Domains that names are completed with.
    pub search: Vec<String>,
    /// Bytes; `None`: the driver's.
    pub mtu: Option<u32>,
}

/// `[[network.bond]]`: several cards as one interface.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bond {
    /// Of the new interface.
    pub name: String,
    /// Hardware addresses or names.
    pub members: Vec<String>,
    /// Linux's word for it.
    pub mode: String,
    /// `slow` or `fast`; 802.3ad only.
    pub lacp_rate: Option<String>,
    /// Milliseconds.
    pub mii_monitor_ms: u32,
}

/// `[[network.vlan]]`: one tagged network of a cable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vlan {
    /// 1 to 4094.
    pub id: u32,
    /// A bond's name, or what a link is matched by.
    pub parent: String,
    /// Empty: `PARENT.ID`.
    pub name: String,
}

impl Default for Bond {
    fn default() -> Self {
        Self {
            name: String::new(),
            members: Vec::new(),
            mode: "active-backup".to_owned(),
            lacp_rate: None,
            mii_monitor_ms: 100,
        }
    }
}

/// Modes of Linux's bonding driver.
pub const BOND_MODES: &[&str] =
    &["active-backup", "802.3ad", "balance-xor", "balance-rr", "balance-tlb", "balance-alb"];

/// A network, or an address in one: `10.0.0.7/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// Any address of it.
    pub address: IpAddr,
    /// Bits that all its addresses have in common.
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.split_once('/').ok_or(())?;
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix: u8 = prefix.parse().map_err(|_| ())?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        (digits && prefix <= bits_max).then_some(Self { address, prefix }).ok_or(())
    }
}

impl Cidr {
    /// Whether an address is in this network.
    pub fn holds(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                (a.to_bits() ^ b.to_bits()) & mask == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                (a.to_bits() ^ b.to_bits()) & mask == 0
            }
            _ => false,
        }
    }

    /// Whether two networks have an address in common.
    fn overlaps(&self, other: &Self) -> bool {
        let (wide, narrow) =
            if self.prefix <= other.prefix { (self, other) } else { (other, self) };
        wide.holds(narrow.address)
    }
}

/// Whether a text names an interface by its hardware address.
pub fn is_mac(text: &str) -> bool {
    let mut parts = text.split(':');
    let is_byte = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    text.len() == 17 && parts.all(is_byte)
}

/// An interface can have this name.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && text.bytes().all(plain)
        && !["lo", "all", "default", ".", ".."].contains(&text)
        && !text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A name in which `*` stands for anything.
pub fn is_pattern(text: &str) -> bool {
    text.contains('*') && is_name(&text.replace('*', "x")) && !text.starts_with('*')
}

impl Link {
    /// Whether it asks for addresses.
    pub fn asks(&self) -> bool {
        self.dhcp.unwrap_or(self.addresses.is_empty())
    }

    fn cidrs(&self) -> impl Iterator<Item = (usize, Cidr)> {
        self.addresses.iter().enumerate().filter_map(|(at, text)| Some((at, text.parse().ok()?)))
    }
}

impl Vlan {
    /// Of the new interface.
    pub fn interface(&self) -> String {
        match self.name.as_str() {
            "" => format!("{}.{}", self.parent, self.id),
            name => name.to_owned(),
        }
    }
}

impl Network {
    /// Says what is wrong with the values.
    pub fn check(&self, complain: Complain<'_>) {
        for (at, text) in self.allow_from.iter().enumerate() {
            if text.parse::<Cidr>().is_err() {
                let what = format!("network.allow_from has \"{}\", no network", shortened(text));
                complain(&format!("network.allow_from.{at}"), what, USE_CIDR.to_owned());
            }
        }
        for (name, count) in
            [("link", self.link.len()), ("bond", self.bond.len()), ("vlan", self.vlan.len())]
        {
            if count > TABLES_MAX {
                let what = format!("network.{name} stands there {count} times");
                complain(&format!("network.{name}"), what, format!("use {TABLES_MAX} at most"));
                return; // The checks below compare each with each.
            }
        }
        for (at, link) in self.link.iter().enumerate() {
            link.check(at, complain);
        }
        self.check_links_together(complain);
        self.check_bonds(complain);
        self.check_vlans(complain);
    }

    fn check_links_together(&self, complain: Complain<'_>) {
        for (at, link) in self.link.iter().enumerate() {
            let before = &self.link[..at];
            if before.iter().any(|other| other.r#match.eq_ignore_ascii_case(&link.r#match)) {
                let what = format!("network.link.match = \"{}\" stands there twice", link.r#match);
                complain(&format!("network.link.{at}.match"), what, "keep one".to_owned());
            }
            for (index, cidr) in link.cidrs() {
                let others = before.iter().flat_map(Link::cidrs);
                if let Some((_, other)) = others.into_iter().find(|(_, it)| it.overlaps(&cidr)) {
                    let (text, other) = (&link.addresses[index], other.address);
                    let what = format!("network.link.addresses has \"{text}\", a network that");
                    let what = format!("{what} overlaps the one of {other} on another link");
                    let remedy = "give each link a network of its own".to_owned();
                    complain(&format!("network.link.{at}.addresses.{index}"), what, remedy);
                }
            }
            for (index, text) in link.gateways.iter().enumerate() {
                let Ok(gateway) = text.parse::<IpAddr>() else { continue };
                let family = |other: &String| {
                    other.parse::<IpAddr>().is_ok_and(|it| it.is_ipv4() == gateway.is_ipv4())
                };
                let mut earlier = before.iter().flat_map(|other| &other.gateways);
                if earlier.any(family) || link.gateways[..index].iter().any(family) {
                    let what = format!("network.link.gateways has \"{text}\", a second one for");
                    let what = format!("{what} IPv{}", if gateway.is_ipv4() { 4 } else { 6 });
                    let remedy = "keep the one that leads to the world".to_owned();
                    complain(&format!("network.link.{at}.gateways.{index}"), what, remedy);
                }
            }
        }
    }

    fn check_bonds(&self, complain: Complain<'_>) {
        for (at, bond) in self.bond.iter().enumerate() {
            let mut say = |key: &str, what: String, remedy: &str| {
                complain(
                    &format!("network.bond.{at}.{key}"),
                    format!("network.bond.{what}"),
                    remedy.to_owned(),
                );
            };
            bond.check(&mut say);
            if self.bond[..at].iter().any(|other| other.name == bond.name) {
                say("name", format!("name = \"{}\" stands there twice", bond.name), "keep one");
            }
            for (index, member) in bond.members.iter().enumerate() {
                let key = format!("members.{index}");
                let is = |other: &String| other.eq_ignore_ascii_case(member);
                let mut earlier = self.bond[..at].iter().flat_map(|other| &other.members);
                if earlier.any(is) || bond.members[..index].iter().any(is) {
                    let what = format!("members has \"{member}\", which is a member already");
                    say(&key, what, "a card is in one bond, once");
                }
                if self.link.iter().any(|link| is(&link.r#match)) {
                    let what = format!("members has \"{member}\", which is also a network.link");
                    say(
                        &key,
                        what,
                        "the bond has the addresses: match the link by the bond's name",
                    );
                }
            }
        }
    }

    fn check_vlans(&self, complain: Complain<'_>) {
        for (at, vlan) in self.vlan.iter().enumerate() {
            let mut say = |key: &str, what: String, remedy: String| {
                let key = format!("network.vlan.{at}.{key}");
                complain(&key, format!("network.vlan.{what}"), remedy);
            };
            if !(1..=4094).contains(&vlan.id) {
                say("id", format!("id = {} is no VLAN", vlan.id), "use 1..=4094".to_owned());
            }
            let parent = &vlan.parent;
            let is_bond = self.bond.iter().any(|bond| &bond.name == parent);
            let mut links = self.link.iter().filter(|link| &link.r#match == parent);
            let link = links.next();
            if !is_bond && (link.is_none() || is_pattern(parent)) {
                let what = format!("parent = \"{}\" is no bond and no link", shortened(parent));
                let remedy = "name a network.bond, or what a network.link without * is matched by";
                say("parent", what, remedy.to_owned());
            }
            let name = vlan.interface();
            if !is_name(&name) {
                let what = format!("name = \"{}\" is no name of an interface", shortened(&name));
                let remedy = format!("use letters, digits, . _ and -, {NAME_BYTES_MAX} at most");
                say(if vlan.name.is_empty() { "parent" } else { "name" }, what, remedy);
            }
            let mut taken = self.vlan[..at].iter().map(Vlan::interface);
            if taken.any(|it| it == name) || self.bond.iter().any(|bond| bond.name == name) {
                let what = format!("name = \"{name}\" is taken");
                say("name", what, "give each interface a name of its own".to_owned());
            }
            let same = |other: &&Vlan| (other.id, &other.parent) == (vlan.id, parent);
            if self.vlan[..at].iter().find(same).is_some() {
                let what = format!("id = {} stands there twice for {parent}", vlan.id);
                say("id", what, "keep one".to_owned());
            }
            let mtu = |name: &str| self.link.iter().find(|it| it.r#match == name)?.mtu;
            if let (Some(inner), outer) = (mtu(&name), mtu(parent).unwrap_or(1_500))
                && inner > outer
            {
                let what = format!("name = \"{name}\" has mtu = {inner}, above its parent's");
                say("name", what, format!("use {outer} at most, or raise the parent's"));
            }
        }
    }
}

const USE_CIDR: &str = "use ADDRESS/PREFIX, such as \"10.0.0.7/24\" or \"2001:db8::7/64\"";

impl Link {
    fn check(&self, at: usize, complain: Complain<'_>) {
        let mut say = |key: &str, what: String, remedy: &str| {
            complain(
                &format!("network.link.{at}.{key}"),
                format!("network.link.{what}"),
                remedy.to_owned(),
            );
        };
        let matched = &self.r#match;
        if !(is_usable_mac(matched) || is_name(matched) || is_pattern(matched)) {
            let what = format!("match = \"{}\" is no interface", shortened(matched));
            say("match", what, "use a hardware address, a name, or a pattern such as \"en*\"");
        }
        for (index, text) in self.addresses.iter().enumerate() {
            if !text.parse::<Cidr>().is_ok_and(is_host) {
                let what = format!("addresses has \"{}\", no address", shortened(text));
                say(&format!("addresses.{index}"), what, USE_CIDR);
            } else if is_pattern(matched) {
                let what = format!("addresses has \"{text}\" for every \"{matched}\"");
                say(&format!("addresses.{index}"), what, "match one interface, without *");
            }
        }
        self.check_gateways(&mut say);
        for (index, text) in self.dns.iter().enumerate() {
            if text.parse::<IpAddr>().is_err() {
                let what = format!("dns has \"{}\", no address", shortened(text));
                say(&format!("dns.{index}"), what, "use an IP address, such as \"9.9.9.9\"");
            }
        }
        for (index, text) in self.search.iter().enumerate() {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            if text.is_empty() || text.len() > 253 || !text.bytes().all(plain) {
                let what = format!("search has \"{}\", no domain", shortened(text));
                say(&format!("search.{index}"), what, "use a domain, such as \"example.org\"");
            }
        }
        if let Some(mtu) = self.mtu.filter(|mtu| !(MTU_MIN..=MTU_MAX).contains(mtu)) {
            say("mtu", format!("mtu = {mtu} is out of range {MTU_MIN}..={MTU_MAX}"), "use 1500");
        }
    }

    fn check_gateways(&self, say: &mut dyn FnMut(&str, String, &str)) {
        for (index, text) in self.gateways.iter().enumerate() {
            let key = format!("gateways.{index}");
            let Ok(gateway) = text.parse::<IpAddr>() else {
                let what = format!("gateways has \"{}\", no address", shortened(text));
                say(&key, what, "use an IP address without a prefix");
                continue;
            };
            let is_local = matches!(gateway, IpAddr::V6(it) if it.is_unicast_link_local());
            let own = self.cidrs().any(|(_, cidr)| cidr.address == gateway);
            if own {
                let what = format!("gateways has \"{text}\", this machine's own address");
                say(&key, what, "use the router's address");
            } else if !(is_local
                || self.gateway_on_link
                || self.cidrs().any(|(_, cidr)| cidr.holds(gateway)))
            {
                let what = format!("gateways has \"{text}\", in no network of its addresses");
                let remedy = "correct the address or its prefix, or set gateway_on_link = true";
                say(&key, what, remedy);
            }
        }
    }
}

impl Bond {
    fn check(&self, say: &mut dyn FnMut(&str, String, &str)) {
        if !is_name(&self.name) {
            let what = format!("name = \"{}\" is no name of an interface", shortened(&self.name));
            say("name", what, "use letters, digits, . _ and -, 15 at most, such as \"bond0\"");
        }
        if self.members.is_empty() {
            say("members", "members is empty".to_owned(), "name the cards that it is made of");
        }
        for (index, member) in self.members.iter().enumerate() {
            if !(is_usable_mac(member) || is_name(member)) || *member == self.name {
                let what = format!("members has \"{}\", no card", shortened(member));
                say(&format!("members.{index}"), what, "use a hardware address or a name");
            }
        }
        if !BOND_MODES.contains(&self.mode.as_str()) {
            let what = format!("mode = \"{}\" is no mode", shortened(&self.mode));
            say("mode", what, &format!("use one of {}", BOND_MODES.join(", ")));
        }
        match self.lacp_rate.as_deref() {
            Some("slow" | "fast") if self.mode != "802.3ad" => {
                let what = format!("lacp_rate is set, but mode = \"{}\"", self.mode);
                say("lacp_rate", what, "remove it, or use mode = \"802.3ad\"");
            }
            None | Some("slow" | "fast") => {}
            Some(rate) => {
                let what = format!("lacp_rate = \"{}\" is no rate", shortened(rate));
                say("lacp_rate", what, "use \"slow\" or \"fast\"");
            }
        }
        if !MII_MONITOR_MS.contains(&self.mii_monitor_ms) {
            let what = format!("mii_monitor_ms = {} is out of range", self.mii_monitor_ms);
            say("mii_monitor_ms", what, "use 10..=10000, such as 100");
        }
    }
}

/// A card's own: not all zeros, not a group's.
fn is_usable_mac(text: &str) -> bool {
    let first = text.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let zero = text.bytes().all(|byte| matches!(byte, b'0' | b':'));
    is_mac(text) && !zero && first.is_some_and(|byte| byte & 1 == 0)
}

/// An address that one machine can have.
fn is_host(cidr: Cidr) -> bool {
    let address = cidr.address;
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback())
        && cidr.prefix > 0
        && !is_edge(cidr)
}

/// The network itself, or its broadcast address.
fn is_edge(cidr: Cidr) -> bool {
    let IpAddr::V4(address) = cidr.address else { return false };
    let hosts = u32::MAX.checked_shr(u32::from(cidr.prefix)).unwrap_or(0);
    let host = address.to_bits() & hosts;
    cidr.prefix < 31 && (host == 0 || host == hosts)
}

#[cfg(test)]
mod tests;
