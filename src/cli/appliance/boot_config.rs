//! `basalt boot-config`: finds the configuration of an appliance, checks it and puts it in force.
//!
//! 1. find: file on the ESP, credential, kernel argument, none  2. check as the node would
//! 3. write it under `/run/basalt`, or what is wrong with it
//!
//! A node is started only after this went well.

use crate::cli::appliance::boot_network;
use crate::cli::appliance::boot_source::{Asked, Found};
use crate::cli::appliance::console_facts::assigned;
use crate::cli::appliance::disk_state::{self, DiskState};
use crate::cli::appliance::in_force::{self, InForce, Trouble, Wrong};
use crate::cli::appliance::install::mode::{Wanted, is_installer};
use crate::cli::appliance::sysctls::ReadBack;
use crate::cli::{Output, say};
use crate::config::{
    appliance::{appliance, line_of_key},
    chain_spec::ChainSpec,
    fault::{Fault, Origin},
    overlay::{Effective, Sources, effective},
};
use clap::Args;
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Component, PathBuf},
    thread,
    time::Duration,
};

const EXAMPLES: &str = "\
Examples:
  basalt boot-config                       at every boot of the appliance, by basalt-config.service
  basalt boot-config --esp /mnt --into /tmp/checked --wait-s 0
                                           what a boot from this ESP would make of it

The first of: /loader/basalt/basalt.toml on the ESP, the credential basalt.config,
basalt.config_url=https://… with basalt.config_sha256=… among the kernel's arguments. None of them:
a development chain that only this machine can reach.";

/// Where the debug image lets its owner in.
const SSH_PORT: u16 = 22;
/// Where metrics are in maintenance, unless the configuration names another place.
const METRICS_DEFAULT: &str = "127.0.0.1:9545";
const NONE_TEXT: &str = "# No configuration was found: the defaults, a development chain that \
                         only this machine can reach.\n";

/// Arguments of `basalt boot-config`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BootConfig {
    #[command(flatten)]
    asked: Asked,
    /// Folder to put it in force in
    #[arg(long, value_name = "DIR", default_value = in_force::FOLDER)]
    into: PathBuf,
    /// Folder below which the chain lies, in `basalt`
    #[arg(long, value_name = "DIR", default_value = "/var/lib")]
    state: PathBuf,
    /// Where `boot-network` has left what it found
    #[arg(long, value_name = "DIR", default_value = boot_network::FOLDER, hide = true)]
    machine: PathBuf,
    /// Root of the file systems, to tell whether the machine was started from a stick
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
    /// What the image says of itself
    #[arg(long, value_name = "FILE", default_value = "/etc/os-release")]
    os_release: PathBuf,
    /// Folder of what the initrd has decided about disks
    #[arg(long, value_name = "DIR", default_value = disk_state::FOLDER)]
    disk: PathBuf,
}

impl BootConfig {
    /// Finds, checks, puts in force.
    ///
    /// # Errors
    /// Lists what is wrong; the same stands in `maintenance.json`.
    pub fn run(self, sources: &Sources, output: &mut Output<'_>) -> Result<(), String> {
        // A configuration that was in force before this boot's check must not start a node.
        for name in in_force::NAMES {
            in_force::remove(&self.into.join(name))?;
        }
        let found = match self.asked.find(in_force::credentials(sources)) {
            Ok(found) => found,
            Err(wrong) => return Err(self.refuse("the sources", "", vec![wrong])),
        };
        // What is wrong in the file is told by the check.
        let install = appliance(&found.name, &found.text).unwrap_or_default().install;
        let installs = is_installer(&self.root, &install);
        match self.check(&found, installs) {
            Ok(in_force) if installs => {
                let wanted = Wanted::of(&install);
                let json = serde_json::to_vec(&wanted).map_err(|error| error.to_string())?;
                in_force::put(&self.into.join(in_force::INSTALL), &json)?;
                say(output.out, &format!("{}: installer, no node\n", in_force.source));
                Ok(())
            }
            Ok(in_force) => {
                self.put(&found, &in_force)?;
                for note in &in_force.notes {
                    say(output.err, &format!("note: {note}\n"));
                }
                if let Some(ReadBack { in_force, .. }) = self.read_back() {
                    say(output.out, &format!("{in_force} kernel settings are in force\n"));
                }
                say(output.out, &format!("{}: {}\n", in_force.source, in_force.role));
                Ok(())
            }
            Err(faults) => Err(self.refuse(&found.name, &found.text, faults)),
        }
    }

    /// An installer has no use for the addresses of the node to come.
    fn check(&self, found: &Found, installs: bool) -> Result<InForce, Vec<Wrong>> {
        let state = self.state.display().to_string();
        let sources = Sources {
            file: Some((found.name.clone(), found.text.clone())),
            environment: vec![("XDG_STATE_HOME".to_owned(), state)],
            ..Sources::default()
        };
        let effective = effective(&sources)
            .map_err(|error| error.faults.iter().map(wrong).collect::<Vec<_>>())?;
        let mut faults: Vec<Wrong> = Vec::new();
        faults.extend(self.wrong_folder(&effective).err());
        let sections = appliance(&found.name, &found.text).unwrap_or_default();
        faults.extend(too_late(found));
        let disk = DiskState::read(&self.disk);
        faults.extend(disk.fault);
        let mut notes = genesis_notes(found, &effective).unwrap_or_else(|wrong| {
            faults.push(wrong);
            Vec::new()
        });
        let keys = self.debug_keys(found).unwrap_or_else(|wrong| {
            faults.push(wrong);
            Vec::new()
        });
        if !faults.is_empty() {
            return Err(faults);
        }
        notes.extend(disk.notes);
        notes.extend(disk.volatile.map(|why| format!("/var is in memory, until power-off: {why}")));
        if !installs {
            self.wait_for_addresses(&effective).map_err(|wrong| vec![wrong])?;
        }
        notes.extend(self.read_back().map(|it| it.notes).unwrap_or_default());
        let mut in_force = in_force_of(found, &effective, notes);
        in_force.allow_from = sections.network.allow_from;
        if !keys.is_empty() {
            in_force.open_tcp_ports.insert(0, SSH_PORT);
            in_force.notes.push("debug.authorized_keys: SSH is open to their owners".to_owned());
        }
        Ok(in_force)
    }

    fn read_back(&self) -> Option<ReadBack> {
        in_force::read_json(&self.machine.join(boot_network::SYSCTLS))
    }

    /// Keys that may log in; a fault where the image lets nobody in.
    fn debug_keys(&self, found: &Found) -> Result<Vec<String>, Wrong> {
        let told = appliance(&found.name, &found.text);
        let keys = told.map(|it| it.debug.authorized_keys).unwrap_or_default();
        let release = fs::read_to_string(&self.os_release).unwrap_or_default();
        let is_debug = assigned(&release, "VARIANT_ID").as_deref() == Some("debug");
        if keys.is_empty() || is_debug {
            return Ok(keys);
        }
        let line = found.text.lines().position(|it| it.trim_start().starts_with("authorized_keys"));
        Err(Wrong {
            line: line.map(|index| index + 1),
            ..Wrong::of(
                &found.name,
                "debug.authorized_keys has keys, but this is the release image, which has no login",
                "remove them, or flash the debug image (make image PROFILE=debug)",
            )
        })
    }

    /// The chain is on the data partition, where updates keep it and a reset finds it.
    fn wrong_folder(&self, effective: &Effective) -> Result<(), Wrong> {
        let (folder, home) = (&effective.config.data_directory, self.state.join("basalt"));
        let plain = folder.components().all(|part| part != Component::ParentDir);
        if plain && folder.starts_with(&home) {
            return Ok(());
        }
        let what =
            format!("data.directory = \"{}\" is not on the data partition", folder.display());
        let remedy = format!("leave it out, or name a folder below {}", home.display());
        Err(placed(effective, "data.directory", what, remedy))
    }

    /// Addresses that a network must give first. Which program listens there is not asked: the
    /// node finds out.
    fn wait_for_addresses(&self, effective: &Effective) -> Result<(), Wrong> {
        let config = &effective.config;
        let wanted =
            [("rpc.address", Some(config.rpc.address)), ("metrics.address", config.metrics)];
        let mut waited_s = 0;
        for (key, address) in wanted {
            let Some(address) = address else { continue };
            while let Err(error) = TcpListener::bind((address.ip(), 0)) {
                if waited_s >= self.asked.wait_s {
                    let what = format!("{key} = \"{address}\" is no address of this machine");
                    let what = format!("{what} after {waited_s} s ({error})");
                    let remedy = format!(
                        "name one that its network gives, or 0.0.0.0:{} for all",
                        address.port()
                    );
                    return Err(placed(effective, key, what, remedy));
                }
                thread::sleep(Duration::from_secs(1));
                waited_s += 1;
            }
        }
        Ok(())
    }

    fn put(&self, found: &Found, in_force: &InForce) -> Result<(), String> {
        if let Some((name, path)) = &found.genesis {
            let bytes = fs::read(path)
                .map_err(|error| format!("{}: cannot be read ({error})", path.display()))?;
            in_force::put(&self.into.join(name), &bytes)?;
        }
        let keys = self.debug_keys(found).unwrap_or_default();
        if !keys.is_empty() {
            let text = format!("{}\n", keys.join("\n"));
            in_force::put(&self.into.join(in_force::KEYS), text.as_bytes())?;
        }
        in_force::put(&self.into.join(in_force::CONFIG), found.text.as_bytes())?;
        let ports = ports_text(&in_force.open_tcp_ports, &in_force.allow_from);
        in_force::put(&self.into.join(in_force::PORTS), ports.as_bytes())?;
        let json = serde_json::to_vec_pretty(in_force).map_err(|error| error.to_string())?;
        in_force::put(&self.into.join(in_force::IN_FORCE), &json)
    }

    /// Leaves what is wrong for maintenance, and gives it back as text.
    fn refuse(&self, source: &str, text: &str, faults: Vec<Wrong>) -> String {
        let metrics_address = metrics_in(text).unwrap_or_else(|| METRICS_DEFAULT.to_owned());
        let trouble = Trouble { source: source.to_owned(), faults, metrics_address };
        let json = serde_json::to_vec_pretty(&trouble).map_err(|error| error.to_string());
        let path = self.into.join(in_force::MAINTENANCE);
        let metrics = trouble.metrics_address.parse::<SocketAddr>().ok();
        // A list that is itself wrong keeps nobody out: the operator has to see what is wrong.
        let allow_from = appliance(source, text).unwrap_or_default().network.allow_from;
        let open: Vec<_> = metrics.and_then(open_port).into_iter().collect();
        let ports = ports_text(&open, &allow_from);
        let left = json
            .and_then(|json| in_force::put(&path, &json))
            .and_then(|()| in_force::put(&self.into.join(in_force::PORTS), ports.as_bytes()));
        match left {
            Ok(()) => trouble.text(),
            Err(error) => format!("{}\n{error}", trouble.text()),
        }
    }
}

fn wrong(fault: &Fault) -> Wrong {
    let (file, line) = match &fault.origin {
        Origin::File { name, line } => (name.clone(), Some(*line)),
        other => (other.to_string(), None),
    };
    Wrong { file, line, what: fault.what.clone(), remedy: fault.remedy.clone() }
}

/// A fault where a key stands.
fn placed(effective: &Effective, key: &str, what: String, remedy: String) -> Wrong {
    let mut settings = effective.settings.iter();
    let origin = settings.find(|setting| setting.key == key).map(|setting| setting.origin.clone());
    wrong(&Fault { origin: origin.unwrap_or(Origin::Default), what, remedy })
}

/// Reads the genesis where the node will: beside the configuration, or on the data partition.
fn genesis_notes(found: &Found, effective: &Effective) -> Result<Vec<String>, Wrong> {
    let key = "chain.genesis_file";
    let mut chain = effective.config.chain.clone();
    let Some(named) = chain.genesis_file.clone() else { return Ok(Vec::new()) };
    let shown = named.display();
    match &found.genesis {
        Some((_, path)) => chain.genesis_file = Some(path.clone()),
        None if named.is_absolute() => {}
        None => {
            let what = format!("{key} = \"{shown}\" is no file beside the configuration");
            let remedy = "put it on the ESP beside basalt.toml, under a plain name".to_owned();
            return Err(placed(effective, key, what, remedy));
        }
    }
    let spec = ChainSpec::new(&chain, &[]).map_err(|error| {
        let remedy = "correct the genesis file".to_owned();
        placed(effective, key, format!("{key} = \"{shown}\": {error}"), remedy)
    })?;
    Ok(spec.notes)
}

fn in_force_of(found: &Found, effective: &Effective, mut notes: Vec<String>) -> InForce {
    let config = &effective.config;
    let open = [open_port(config.rpc.address), config.metrics.and_then(open_port)];
    let mut open_tcp_ports: Vec<u16> = open.into_iter().flatten().collect();
    open_tcp_ports.sort_unstable();
    let has_dev_accounts = config.chain.genesis_file.is_none() && config.chain.dev_accounts > 0;
    if !config.rpc.address.ip().is_loopback() && has_dev_accounts {
        let address = config.rpc.address;
        notes.push(format!("rpc.address = \"{address}\": keys of its accounts are known to all"));
    }
    notes.extend(found.passed_over.iter().cloned());
    notes.extend(effective.warnings.iter().cloned());
    let role = match found.is_default {
        true => "development chain on loopback: no configuration was found",
        false if has_dev_accounts => "single sequencer with development accounts",
        false => "single sequencer",
    };
    InForce {
        source: found.name.clone(),
        role: role.to_owned(),
        sha256: hex::encode(Sha256::digest(found.text.as_bytes())),
        rpc_address: config.rpc.address.to_string(),
        metrics_address: config.metrics.map_or("off".to_owned(), |address| address.to_string()),
        open_tcp_ports,
        allow_from: Vec::new(),
        notes,
    }
}

/// The port of an address that others can reach.
fn open_port(address: SocketAddr) -> Option<u16> {
    (!address.ip().is_loopback()).then_some(address.port())
}

/// What is needed before the network, in a configuration that came over it.
fn too_late(found: &Found) -> Vec<Wrong> {
    let Ok(document) = toml_edit::Document::parse(found.text.as_str()) else { return Vec::new() };
    let table = |name: &str| document.get(name).and_then(|item| item.as_table_like());
    let mut late = vec![("time", table("time").is_some())];
    late.push(("machine.hostname", table("machine").is_some_and(|it| it.contains_key("hostname"))));
    for key in ["link", "bond", "vlan"] {
        let set = table("network").is_some_and(|it| it.contains_key(key));
        late.push((
            match key {
                "link" => "network.link",
                "bond" => "network.bond",
                _ => "network.vlan",
            },
            set,
        ));
    }
    let late = late.into_iter().filter(|(_, is_set)| *is_set && found.is_fetched);
    late.map(|(key, _)| {
        let what = format!("{key} is needed before the network, over which this file came");
        let remedy = "put it into loader/basalt/basalt.toml on the ESP, or into a credential";
        Wrong { line: Some(line_of_key(&found.text, key)), ..Wrong::of(&found.name, what, remedy) }
    })
    .collect()
}

/// Rules for the appliance's table, whose input chain drops what nothing accepts.
fn ports_text(ports: &[u16], allow_from: &[String]) -> String {
    let mut text = "# Made by basalt boot-config from the configuration.\n".to_owned();
    if ports.is_empty() {
        return text;
    }
    let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
    let accept = format!("tcp dport {{ {} }} accept", ports.join(", "));
    let mut rule = |from: &str| {
        text.push_str(&format!("add rule inet basalt input {from}{accept}\n"));
    };
    if allow_from.is_empty() {
        rule("");
    }
    for network in allow_from {
        let family = if network.contains(':') { "ip6" } else { "ip" };
        rule(&format!("{family} saddr {network} "));
    }
    text
}

/// `metrics.address` of a text that may be wrong elsewhere: maintenance is to be seen where the
/// operator looks.
fn metrics_in(text: &str) -> Option<String> {
    let document = toml_edit::Document::parse(text).ok()?;
    let address = document.as_table().get("metrics")?.get("address")?.as_str()?.to_owned();
    let usable = address == "off" || address.parse::<SocketAddr>().is_ok();
    usable.then_some(address)
}

/// The text that stands for no configuration.
pub(super) fn none() -> Found {
    Found {
        name: "no configuration".to_owned(),
        text: NONE_TEXT.to_owned(),
        is_default: true,
        is_fetched: false,
        genesis: None,
        passed_over: Vec::new(),
    }
}

/// Where to ask for something that is served on this address.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => ([127, 0, 0, 1], address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => {
            (std::net::Ipv6Addr::LOCALHOST, address.port()).into()
        }
        _ => address,
    }
}
