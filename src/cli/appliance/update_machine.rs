//! The machine's own side of updates: what its boot partition has, what went back, what its data
//! needs.

use crate::cli::appliance::console_facts::version;
use crate::cli::appliance::update_entries::{Entry, entries};
use crate::cli::appliance::update_schedule::Last;
use crate::cli::appliance::{health_gate::Refused, in_force, uki};
use crate::cli::{Output, say};
use crate::node::format;
use clap::Args;
use serde_json::json;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

/// How often the boot loader tries a version that was put back into its choice.
const TRIES: u32 = 3;
/// How deep below the data partition's folder a node may have its data folder.
const DATA_DEPTH_MAX: u32 = 3;

/// Where the machine's own state is.
#[derive(Debug, Args)]
pub struct Machine {
    /// Where the ESP may be mounted
    #[arg(long, value_name = "DIR", default_values = ["/efi", "/boot"])]
    pub esp: Vec<PathBuf>,
    /// Folder of the health gate
    #[arg(long, value_name = "DIR", default_value = "/var/lib/basalt-health")]
    health: PathBuf,
    /// Folder in or below which the node has its data
    #[arg(long, value_name = "DIR", default_value = "/var/lib/basalt")]
    data: PathBuf,
    /// Root of the file systems
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    pub root: PathBuf,
}

impl Machine {
    /// The version that runs.
    pub fn running(&self) -> String {
        version(&self.root)
    }

    fn entries(&self) -> Result<(PathBuf, Vec<Entry>), String> {
        let folders: Vec<_> = self.esp.iter().map(|esp| esp.join("EFI/Linux")).collect();
        let folder = folders.iter().find(|folder| folder.is_dir()).ok_or_else(|| {
            let shown: Vec<_> = folders.iter().map(|it| it.display().to_string()).collect();
            format!("no ESP of a Basalt image: {} is not there", shown.join(" nor "))
        })?;
        let found = entries(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok((folder.clone(), found))
    }

    fn refused(&self) -> Option<Refused> {
        in_force::read_json(&self.health.join("refused.json"))
    }

    /// Why a version was left again on this machine, if it was.
    pub fn went_back(&self, version: &str) -> Option<String> {
        if version == self.running() {
            return None;
        }
        if let Some(refused) = self.refused().filter(|refused| refused.version == version) {
            return Some(refused.reason);
        }
        let entries = self.entries().map(|(_, entries)| entries).unwrap_or_default();
        let spent = entries.iter().any(|entry| entry.version == version && !entry.is_good());
        spent.then(|| "its tries are used up".to_owned())
    }

    /// Refuses while the running version is on trial: the other slot is where the machine would go
    /// back to.
    ///
    /// # Errors
    /// Says how many tries are left.
    pub fn require_proven(&self) -> Result<(), String> {
        let (_, entries) = self.entries()?;
        let running = self.running();
        match entries.iter().find(|entry| entry.version == running) {
            Some(entry) if entry.tries_left.is_some() => Err(format!(
                "{running}, which runs, has not proved itself yet ({}), and the other slot is its \
                 way back; nothing was changed. Ask again once it is blessed",
                entry.state()
            )),
            _ => Ok(()),
        }
    }

    /// Puts a version that is whole in the other slot back into the boot loader's choice; `false`
    /// where it is not there.
    ///
    /// # Errors
    /// Where the boot partition cannot be written.
    pub fn try_again(&self, version: &str) -> Result<bool, String> {
        let (folder, entries) = self.entries()?;
        let Some(entry) = entries.iter().find(|entry| entry.version == version) else {
            return Ok(false);
        };
        self.require_readable(version, uki::state_format(&folder.join(&entry.file))?)?;
        rename(&folder, &entry.file, &format!("basalt_{version}+{TRIES}-0.efi"))?;
        Ok(true)
    }

    /// Refuses a version that could not read the data as it is now.
    ///
    /// # Errors
    /// Says both formats.
    pub fn require_readable(&self, version: &str, reads: Option<u32>) -> Result<(), String> {
        let Some(has) = recorded_below(&self.data, DATA_DEPTH_MAX)? else { return Ok(()) };
        let why = match reads {
            Some(reads) if reads >= has => return Ok(()),
            Some(reads) => format!("reads state up to format {reads}"),
            None => "does not say which state it reads".to_owned(),
        };
        Err(format!(
            "{version} {why}, the data on this machine has format {has}; nothing was changed. Use \
             a version that reads it, or reset the machine"
        ))
    }

    /// Prints versions and what went back.
    ///
    /// # Errors
    /// Where there is no boot partition.
    pub fn status(&self, as_json: bool, output: &mut Output<'_>) -> Result<(), String> {
        let (_, entries) = self.entries()?;
        let (running, refused) = (self.running(), self.refused());
        let last = Last::read(&self.root);
        if as_json {
            let value = json!({
                "running": running, "entries": entries, "refused": refused, "looked": last
            });
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
        if let Some(line) = last.map(|last| last.line(&running)) {
            say(output.out, &format!("{line}\n"));
        }
        Ok(())
    }

    /// Marks the running version as one whose tries are used up: the boot loader then takes the
    /// newest other one. What there is to say of it.
    ///
    /// # Errors
    /// Where there is no good other version, or it cannot read the data.
    pub fn rollback(&self) -> Result<String, String> {
        let (folder, entries) = self.entries()?;
        let running = self.running();
        let other = entries.iter().rfind(|entry| entry.version != running && entry.is_good());
        let other = other.ok_or_else(|| {
            format!("there is no good version beside {running}; nothing was changed")
        })?;
        self.require_readable(&other.version, uki::state_format(&folder.join(&other.file))?)?;
        let current = entries.iter().find(|entry| entry.version == running).ok_or_else(|| {
            format!("{}: has no entry of {running}, which runs", folder.display())
        })?;
        rename(&folder, &current.file, &format!("basalt_{running}+0.efi"))?;
        Ok(format!(
            "The next boot takes {}. {running} stays in its slot and is not tried again; an \
             update with a higher version replaces it.\n",
            other.version
        ))
    }
}

/// FAT makes a new entry, which is empty on the disk until the file itself is synced.
fn rename(folder: &Path, from: &str, to: &str) -> Result<(), String> {
    let renamed = fs::rename(folder.join(from), folder.join(to));
    let synced = renamed.and_then(|()| {
        File::open(folder.join(to))?.sync_all()?;
        File::open(folder)?.sync_all()
    });
    synced.map_err(|error| format!("{from}: cannot be renamed ({error})"))
}

/// The newest format that a data folder in or below this one records.
fn recorded_below(folder: &Path, depth: u32) -> Result<Option<u32>, String> {
    let mut newest = format::recorded(folder)?;
    let Ok(entries) = fs::read_dir(folder) else { return Ok(newest) };
    for entry in entries.flatten().filter(|_| depth > 0) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            newest = newest.max(recorded_below(&entry.path(), depth - 1)?);
        }
    }
    Ok(newest)
}
