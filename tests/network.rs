//! What a configuration makes of an appliance's network: links, time servers, open ports, and what
//! is left where it is wrong.
#![expect(clippy::disallowed_methods, reason = "a test owns its threads")]
#![expect(clippy::unwrap_used, reason = "a test: what cannot be is a failure")]

#[path = "support/serve.rs"]
mod serve;

use serve::serve;
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

/// A machine that boots.
struct Boot(tempfile::TempDir);

impl Boot {
    fn new() -> Self {
        let boot = Self(tempfile::tempdir().unwrap());
        for folder in
            ["esp/loader/basalt", "credentials", "firmware", "run", "state", "links", "machine"]
        {
            fs::create_dir_all(boot.path(folder)).unwrap();
        }
        boot.put("cmdline", "quiet ro");
        boot
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn run(&self, command: &str, flags: &[(&str, &str)]) -> Output {
        let mut program = Command::new(env!("CARGO_BIN_EXE_basalt"));
        program.arg(command).args(["--wait-s", "1"]);
        let all = [
            ("--esp", "esp"),
            ("--kernel-arguments", "cmdline"),
            ("--firmware", "firmware"),
            ("--accept", "accept"),
        ];
        for (flag, name) in all.iter().chain(flags) {
            program.arg(flag).arg(self.path(name));
        }
        program.env("CREDENTIALS_DIRECTORY", self.path("credentials")).output().unwrap()
    }

    /// `boot-network`: whether all is well, and what it complains about.
    fn network(&self) -> (bool, String) {
        let flags = [("--links", "links"), ("--into", "machine"), ("--hostname", "hostname")];
        let output = self.run("boot-network", &flags);
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    }

    /// `boot-config`: the same.
    fn config(&self) -> (bool, String) {
        let output = self.run("boot-config", &[("--into", "run"), ("--state", "state")]);
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    }

    fn refusal(&self) -> String {
        let (is_well, complaint) = self.config();
        assert!(!is_well && !self.path("run/basalt.toml").exists(), "a node could start");
        complaint
    }

    fn links(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("links")).unwrap();
        let mut names: Vec<_> =
            entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

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
    assert!(boot.config().0);
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
