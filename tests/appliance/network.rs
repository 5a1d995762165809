//! What is put in force before the network: links, time servers, and who may reach the ports.

use crate::{boot::Boot, serve};
use sha2::{Digest as _, Sha256};
use std::fs;

const STATIC: &str = "[[network.link]]\nmatch = \"e0\"\naddresses = [\"10.0.0.7/24\"]\n";

#[test]
fn links_and_time_servers_are_put_in_force_before_the_network() {
    let boot = Boot::new();
    boot.put("esp/loader/basalt/basalt.toml", &format!("[rpc]\nbatch_max = 0\n{STATIC}"));
    assert_eq!(boot.network(), (true, String::new()), "what is wrong elsewhere is no matter here");
    assert_eq!(boot.links(), ["20-basalt-link00.network"]);
    let text = fs::read_to_string(boot.path("links/20-basalt-link00.network")).unwrap();
    assert!(text.contains("Address=10.0.0.7/24\n"), "{text}");
    let chrony = fs::read_to_string(boot.path("machine/chrony.conf")).unwrap();
    assert!(chrony.contains(" iburst nts\n"), "{chrony}");
    fs::remove_file(boot.path("esp/loader/basalt/basalt.toml")).unwrap();
    boot.put("credentials/basalt.config", &format!("{STATIC}[time]\nservers = [\"ntp://a\"]\n"));
    boot.put("links/50-other.network", "");
    assert!(boot.network().0);
    assert_eq!(boot.links(), ["20-basalt-link00.network", "50-other.network"]);
    let chrony = fs::read_to_string(boot.path("machine/chrony.conf")).unwrap();
    assert!(chrony.contains("server a iburst\n"), "{chrony}");
}

#[test]
fn a_wrong_network_leaves_the_images_own_way_and_starts_maintenance() {
    let boot = Boot::new();
    boot.put("esp/loader/basalt/basalt.toml", STATIC);
    boot.network();
    let wrong = format!("[time]\nservers = [\"ntp://b\"]\n{STATIC}gateways = [\"10.0.1.1\"]\n");
    boot.put("esp/loader/basalt/basalt.toml", &wrong);
    let (is_well, complaint) = boot.network();
    let path = boot.path("esp/loader/basalt/basalt.toml").display().to_string();
    let wanted = format!("error: {path}:6: network.link.gateways has \"10.0.1.1\", in no network");
    assert!(!is_well && complaint.starts_with(&wanted), "{complaint}");
    assert!(boot.links().is_empty(), "{:?}", boot.links());
    let chrony = fs::read_to_string(boot.path("machine/chrony.conf")).unwrap();
    assert!(chrony.contains("server b iburst\n"), "another section is in force: {chrony}");
    assert!(boot.refusal().contains(&wanted), "boot-config says the same");
}

#[test]
fn a_network_by_url_is_too_late() {
    let boot = Boot::new();
    let text =
        format!("[network]\nallow_from = [\"10.0.0.0/8\"]\n{STATIC}[time]\nfrom_dhcp = true\n");
    let url = serve(Box::leak(text.clone().into_boxed_str()));
    let digest = hex::encode(Sha256::digest(&text));
    boot.put("cmdline", &format!("ro basalt.config_url={url} basalt.config_sha256={digest}\n"));
    assert_eq!(boot.network(), (true, String::new()));
    assert!(boot.links().is_empty());
    let refusal = boot.refusal();
    assert!(refusal.contains(&format!("{url}:3: network.link is needed before")), "{refusal}");
    assert!(refusal.contains(&format!("{url}:6: time is needed before")), "{refusal}");
    assert!(!refusal.contains("allow_from"), "{refusal}");
}

#[test]
fn ports_are_open_to_the_networks_that_are_named() {
    let boot = Boot::new();
    let text = "[rpc]\naddress = \"0.0.0.0:18545\"\n[network]\n\
                allow_from = [\"10.0.0.0/8\", \"2001:db8::/32\"]\n";
    boot.put("esp/loader/basalt/basalt.toml", text);
    boot.in_force();
    let ports = fs::read_to_string(boot.path("run/ports.nft")).unwrap();
    let rules: Vec<_> = ports.lines().filter(|line| line.starts_with("add rule")).collect();
    assert_eq!(
        rules,
        [
            "add rule inet basalt input ip saddr 10.0.0.0/8 tcp dport { 18545 } accept",
            "add rule inet basalt input ip6 saddr 2001:db8::/32 tcp dport { 18545 } accept",
        ]
    );
}
