//! `basalt update`: brings an appliance to a newer version, or back to the one before.
//!
//! 1. fetch the sums and their signature, check it  2. fetch the parts, check each against its sum
//! 3. only then let systemd-sysupdate write the slot that is not running
//!
//! So a refused update has not touched the spare slot. systemd-sysupdate checks the signature once
//! more; that a new version is tried, blessed or left again is the boot loader's part.

use crate::cli::appliance::console_facts::version;
use crate::cli::appliance::update_entries::{Entry, entries, order};
use crate::cli::appliance::update_source::{Release, Source};
use crate::cli::appliance::{health_gate::Refused, in_force};
use crate::cli::{Output, say};
use clap::{Args, Subcommand};
use serde_json::json;
use std::{cmp::Ordering, fs, path::PathBuf, process::Command};

const EXAMPLES: &str = "\
Examples:
  basalt update check --from http://mirror.example/basalt
  basalt update apply --from /media/usb    writes the other slot; the next boot tries it
  basalt update status                     versions on the boot partition, and what went back
  basalt update rollback                   the next boot takes the version before

A folder or http:// mirror holds SHA256SUMS, its signature SHA256SUMS.gpg, and the parts of each
version. The signature is held against the keys in --keyring.";

/// `basalt update …`
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum Update {
    /// Say which version is newest, and whether it is newer than the running one
    #[command(after_help = EXAMPLES)]
    Check {
        /// Where updates come from.
        #[command(flatten)]
        from: From,
        /// The machine's own state.
        #[command(flatten)]
        machine: Machine,
    },
    /// Fetch a version, check it, and write it to the slot that is not running
    #[command(after_help = EXAMPLES)]
    Apply {
        /// Where updates come from.
        #[command(flatten)]
        from: From,
        /// The machine's own state.
        #[command(flatten)]
        machine: Machine,
        /// Which version; the newest where none is named
        #[arg(long, value_name = "VERSION")]
        version: Option<String>,
        /// Folder that systemd-sysupdate takes updates from
        #[arg(long, value_name = "DIR", default_value = "/var/lib/update")]
        into: PathBuf,
        /// The program that writes the slot
        #[arg(
            long,
            value_name = "FILE",
            hide = true,
            default_value = "/usr/lib/systemd/systemd-sysupdate"
        )]
        sysupdate: PathBuf,
    },
    /// Show the versions on the boot partition and the last one that went back
    #[command(after_help = EXAMPLES)]
    Status {
        /// The machine's own state.
        #[command(flatten)]
        machine: Machine,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let the next boot take the version before
    #[command(after_help = EXAMPLES)]
    Rollback {
        /// The machine's own state.
        #[command(flatten)]
        machine: Machine,
    },
}

/// Where updates come from, and whose.
#[derive(Debug, Args)]
pub struct From {
    /// A folder, or an http:// URL
    #[arg(long = "from", value_name = "SOURCE")]
    source: Source,
    /// Public keys that may sign an update; the first that is there
    #[arg(long, value_name = "FILE", default_values = [
        "/etc/systemd/import-pubring.gpg", "/usr/lib/systemd/import-pubring.gpg"])]
    keyring: Vec<PathBuf>,
}

/// Where the machine's own state is.
#[derive(Debug, Args)]
pub struct Machine {
    /// Where the ESP may be mounted
    #[arg(long, value_name = "DIR", default_values = ["/efi", "/boot"])]
    esp: Vec<PathBuf>,
    /// Folder of the health gate
    #[arg(long, value_name = "DIR", default_value = "/var/lib/basalt-health")]
    health: PathBuf,
    /// Root of the file systems
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

impl Update {
    /// Does it.
    ///
    /// # Errors
    /// Where it is refused; the slots are then as they were, unless systemd-sysupdate failed.
    pub fn run(self, output: &mut Output<'_>) -> Result<(), String> {
        match self {
            Self::Check { from, machine } => {
                let release = from.releases()?.newest(None)?;
                let running = version(&machine.root);
                let word = match order(&release.version, &running) {
                    Ordering::Greater => "newer than",
                    Ordering::Equal => "the same as",
                    Ordering::Less => "older than",
                };
                let text = format!("{}: {word} {running}, which runs\n", release.version);
                say(output.out, &text);
                Ok(())
            }
            Self::Apply { from, machine, version: wanted, into, sysupdate } => {
                let running = version(&machine.root);
                let releases = from.releases()?;
                let release = releases.newest(wanted.as_deref())?;
                if order(&release.version, &running) != Ordering::Greater {
                    return Err(format!(
                        "{} is not newer than {running}, which runs; nothing was changed. An \
                         update goes forward only; `basalt update rollback` goes back",
                        release.version
                    ));
                }
                releases.fetch(&release, &into)?;
                write_slot(&sysupdate, &release)?;
                let text = format!(
                    "{} is in the other slot. The next boot tries it; where it is not good, the \
                     machine comes back to {running} by itself.\n",
                    release.version
                );
                say(output.out, &text);
                Ok(())
            }
            Self::Status { machine, json } => machine.status(json, output),
            Self::Rollback { machine } => machine.rollback(output),
        }
    }
}

impl From {
    fn releases(&self) -> Result<crate::cli::appliance::update_source::Releases, String> {
        let keyring = self.keyring.iter().find(|path| path.is_file()).ok_or_else(|| {
            let shown: Vec<_> = self.keyring.iter().map(|it| it.display().to_string()).collect();
            format!("no key may sign an update: {} is not there", shown.join(" nor "))
        })?;
        self.source.releases(keyring)
    }
}

fn write_slot(sysupdate: &PathBuf, release: &Release) -> Result<(), String> {
    let shown = sysupdate.display();
    let mut command = Command::new(sysupdate);
    command.args(["--verify=yes", "update", &release.version]);
    let status = command.status().map_err(|error| {
        format!("{shown}: cannot be run ({error}); this is no machine with a Basalt image")
    })?;
    match status.success() {
        true => Ok(()),
        false => Err(format!(
            "{shown} update {} failed ({status}); the running slot is whole, the other is not",
            release.version
        )),
    }
}

impl Machine {
    fn entries(&self) -> Result<(PathBuf, Vec<Entry>), String> {
        let folders: Vec<_> = self.esp.iter().map(|esp| esp.join("EFI/Linux")).collect();
        let folder = folders.iter().find(|folder| folder.is_dir()).ok_or_else(|| {
            let shown: Vec<_> = folders.iter().map(|it| it.display().to_string()).collect();
            format!("no ESP of a Basalt image: {} is not there", shown.join(" nor "))
        })?;
        let found = entries(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok((folder.clone(), found))
    }

    fn status(&self, as_json: bool, output: &mut Output<'_>) -> Result<(), String> {
        let (_, entries) = self.entries()?;
        let running = version(&self.root);
        let refused: Option<Refused> = in_force::read_json(&self.health.join("refused.json"));
        if as_json {
            let value = json!({ "running": running, "entries": entries, "refused": refused });
            say(output.out, &format!("{value:#}\n"));
            return Ok(());
        }
        for entry in &entries {
            let mark = if entry.version == running { ", runs now" } else { "" };
            say(output.out, &format!("{:<16}{}{mark}\n", entry.version, entry.state()));
        }
        if let Some(Refused { version, reason }) = refused {
            say(output.out, &format!("{version} went back: {reason}\n"));
        }
        Ok(())
    }

    /// Marks the running version as one whose tries are used up: the boot loader then takes the
    /// newest other one.
    fn rollback(&self, output: &mut Output<'_>) -> Result<(), String> {
        let (folder, entries) = self.entries()?;
        let running = version(&self.root);
        let other = entries.iter().rfind(|entry| entry.version != running && entry.is_good());
        let other = other.ok_or_else(|| {
            format!("there is no good version beside {running}; nothing was changed")
        })?;
        let current = entries.iter().find(|entry| entry.version == running).ok_or_else(|| {
            format!("{}: has no entry of {running}, which runs", folder.display())
        })?;
        let spent = folder.join(format!("basalt_{running}+0.efi"));
        fs::rename(folder.join(&current.file), &spent)
            .map_err(|error| format!("{}: cannot be renamed ({error})", current.file))?;
        let text = format!(
            "The next boot takes {}. {running} stays in its slot and is not tried again; an \
             update with a higher version replaces it.\n",
            other.version
        );
        say(output.out, &text);
        Ok(())
    }
}
