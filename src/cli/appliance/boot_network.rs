//! `basalt boot-network`: the machine around the node, before the network is up: the host's name,
//! what systemd-networkd reads, what chronyd reads.
//!
//! 1. find: file on the ESP, credential
//! 2. remove what an earlier call made
//! 3. each section by itself: check it, put it in force
//!
//! A section that is wrong leaves the image's own way (DHCP on each card, the default servers), so
//! that a machine in maintenance can be reached. What is wrong is told by `boot-config`, too, which
//! then starts no node. A section is not harmed by what is wrong in others.

use crate::cli::appliance::boot_source::Asked;
use crate::cli::appliance::in_force;
use crate::cli::appliance::network_files;
use crate::cli::appliance::sysctls;
use crate::cli::appliance::time_files;
use crate::cli::{Output, say};
use crate::config::appliance::{Machine, Section, network::Network, section, time::Time};
use crate::config::overlay::Sources;
use clap::Args;
use serde::Deserialize;
use serde_json::json;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const EXAMPLES: &str = "\
Examples:
  basalt boot-network                      at every boot, by basalt-network.service
  basalt boot-network --esp /mnt --links /tmp/links --into /tmp/machine --keep-name
                                           what a boot from this ESP would make of it";

/// Where the time servers in force are, for chronyd and the status page.
pub const FOLDER: &str = "/run/basalt-machine";
/// chronyd's configuration.
pub const CHRONY: &str = "chrony.conf";
/// Certificates that chronyd trusts besides the public ones.
pub const AUTHORITIES: &str = "time-authorities.pem";
/// What the status page tells about time.
pub const TIME: &str = "time.json";
/// Which of the image's kernel settings are in force.
pub const SYSCTLS: &str = "sysctls.json";

/// Arguments of `basalt boot-network`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BootNetwork {
    #[command(flatten)]
    asked: Asked,
    /// Folder that systemd-networkd reads
    #[arg(long, value_name = "DIR", default_value = "/run/systemd/network")]
    links: PathBuf,
    /// Folder for all else
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    into: PathBuf,
    /// Leave the host's name as it is
    #[arg(long)]
    keep_name: bool,
    /// File with the host's own name, before which one by DHCP does not count
    #[arg(long, value_name = "FILE", default_value = "/etc/hostname", hide = true)]
    hostname: PathBuf,
    /// Root of the file systems, below which the kernel's settings are read back
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OnlyMachine {
    machine: Machine,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OnlyNetwork {
    network: Network,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OnlyTime {
    time: Time,
}

impl Section for OnlyMachine {
    fn check(&self, complain: crate::config::appliance::Complain<'_>) {
        self.machine.check(complain);
    }
}

impl Section for OnlyNetwork {
    fn check(&self, complain: crate::config::appliance::Complain<'_>) {
        self.network.check(complain);
    }
}

impl Section for OnlyTime {
    fn check(&self, complain: crate::config::appliance::Complain<'_>) {
        self.time.check(complain);
    }
}

impl BootNetwork {
    /// Finds, checks, puts in force.
    ///
    /// # Errors
    /// Lists what is wrong; all else is in force.
    pub fn run(self, sources: &Sources, output: &mut Output<'_>) -> Result<(), String> {
        let mut wrong = Vec::new();
        let mut note = |result: Result<(), String>| wrong.extend(result.err());
        let (name, text) = match self.asked.find_local(in_force::credentials(sources)) {
            Ok(found) => (found.name, found.text),
            Err(fault) => {
                note(Err(fault.text()));
                ("no configuration".to_owned(), String::new())
            }
        };
        say(output.out, &format!("from {name}\n"));
        note(self.put_sysctls());
        let time = section(&name, &text).map(|it: OnlyTime| it.time);
        note(self.put_time(&time.as_ref().cloned().unwrap_or_default()));
        note(time.map(drop).map_err(|error| error.to_string()));
        note(self.remove_links());
        match section(&name, &text) {
            Ok(OnlyNetwork { network }) => note(self.put_links(&network, output)),
            Err(error) => note(Err(error.to_string())),
        }
        match section(&name, &text) {
            Ok(OnlyMachine { machine }) => note(self.put_name(&machine.hostname, output)),
            Err(error) => note(Err(error.to_string())),
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    fn put_sysctls(&self) -> Result<(), String> {
        let found = serde_json::to_vec(&sysctls::read_back(&self.root));
        let found = found.map_err(|error| error.to_string())?;
        in_force::put(&self.into.join(SYSCTLS), &found)
    }

    fn put_time(&self, time: &Time) -> Result<(), String> {
        let state = json!({ "authenticated": time.is_authenticated(), "servers": time.servers });
        let authorities = self.into.join(AUTHORITIES);
        in_force::put(&authorities, time.authorities.as_bytes())?;
        let chrony = time_files::chrony_text(time, &authorities);
        in_force::put(&self.into.join(CHRONY), chrony.as_bytes())?;
        in_force::put(&self.into.join(TIME), state.to_string().as_bytes())
    }

    fn remove_links(&self) -> Result<(), String> {
        let entries = match fs::read_dir(&self.links) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(refused(&self.links, &error)),
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.to_string_lossy().contains(network_files::MARK) {
                in_force::remove(&path)?;
            }
        }
        Ok(())
    }

    /// All of them or none: a bond without its members would take the machine off the network.
    fn put_links(&self, network: &Network, output: &mut Output<'_>) -> Result<(), String> {
        let files = network_files::files(network);
        for (name, text) in &files {
            if let Err(error) = in_force::put(&self.links.join(name), text.as_bytes()) {
                self.remove_links()?;
                return Err(error);
            }
        }
        match files.len() {
            0 => say(output.out, "network: DHCP on each wired interface\n"),
            count => say(output.out, &format!("network: {count} files for systemd-networkd\n")),
        }
        Ok(())
    }

    fn put_name(&self, name: &str, output: &mut Output<'_>) -> Result<(), String> {
        if self.keep_name {
            return Ok(());
        }
        if name.is_empty() {
            return in_force::remove(&self.hostname); // The one of an earlier configuration.
        }
        in_force::put(&self.hostname, format!("{name}\n").as_bytes())?;
        set_hostname(name).map_err(|error| format!("machine.hostname = \"{name}\": {error}"))?;
        say(output.out, &format!("hostname: {name}\n"));
        Ok(())
    }
}

fn refused(path: &Path, error: &io::Error) -> String {
    format!("{}: cannot be read ({error}); run it as root", path.display())
}

/// The kernel's own, which every program asks for.
#[expect(unsafe_code, reason = "the standard library cannot name the host")]
fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: the pointer is valid for that many bytes, and the kernel only reads them.
    match unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
