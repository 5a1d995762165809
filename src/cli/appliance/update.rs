//! `basalt update`: brings an appliance to a newer version, or back to the one before.
//!
//! 1. fetch the sums and their signature, check it  2. fetch the parts, check each against its sum,
//!    and that the version reads the data as it is  3. only then let systemd-sysupdate write the
//!    slot that is not running
//!
//! So a refused update has not touched the spare slot. systemd-sysupdate checks the signature once
//! more; that a new version is tried, blessed or left again is the boot loader's part.

use crate::cli::appliance::update_machine::Machine;
use crate::cli::appliance::update_schedule::Scheduled;
use crate::cli::appliance::update_source::{Release, Releases, Source, remove_folder};
use crate::cli::appliance::{uki, update_entries::order};
use crate::cli::{Output, say};
use clap::{Args, Subcommand};
use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

const EXAMPLES: &str = "\
Examples:
  basalt update check --from https://mirror.example/basalt
  basalt update apply --from /media/usb    writes the other slot; the next boot tries it
  basalt update status                     versions on the boot partition, and what went back
  basalt update rollback                   the next boot takes the version before

A folder, http:// or https:// mirror holds SHA256SUMS, its signature SHA256SUMS.gpg, and the parts
of each version. The signature is held against the keys in --keyring. A version that went back is
passed over, unless --version names it.";

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
        /// How they are checked and written.
        #[command(flatten)]
        means: Means,
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
        /// How they are checked and written.
        #[command(flatten)]
        means: Means,
        /// The machine's own state.
        #[command(flatten)]
        machine: Machine,
        /// Which version; the newest that did not go back, where none is named
        #[arg(long, value_name = "VERSION")]
        version: Option<String>,
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
    /// Do what `[update]` of the configuration says, where it is time for it
    #[command(hide = true)]
    Scheduled(Box<Scheduled>),
    /// Let the next boot take the version before
    #[command(after_help = EXAMPLES)]
    Rollback {
        /// The machine's own state.
        #[command(flatten)]
        machine: Machine,
    },
}

/// Where updates come from.
#[derive(Debug, Args)]
pub struct From {
    /// A folder, or an http:// or https:// URL
    #[arg(long = "from", value_name = "SOURCE")]
    source: Source,
}

/// How updates are checked and written.
#[derive(Debug, Args)]
pub struct Means {
    /// Public keys that may sign an update; the first that is there
    #[arg(long, value_name = "FILE", default_values = [
        "/etc/systemd/import-pubring.gpg", "/usr/lib/systemd/import-pubring.gpg"])]
    keyring: Vec<PathBuf>,
    /// Folder that systemd-sysupdate takes updates from
    #[arg(long, value_name = "DIR", default_value = "/var/lib/update")]
    into: PathBuf,
    /// Seconds to wait for a mirror that does not answer
    #[arg(long, value_name = "N", default_value_t = 0)]
    mirror_wait_s: u64,
    /// The program that writes the slot
    #[arg(
        long,
        value_name = "FILE",
        hide = true,
        default_value = "/usr/lib/systemd/systemd-sysupdate"
    )]
    sysupdate: PathBuf,
}

impl Update {
    /// Does it.
    ///
    /// # Errors
    /// Where it is refused; the slots are then as they were, unless systemd-sysupdate failed.
    pub fn run(self, output: &mut Output<'_>) -> Result<(), String> {
        let told = match self {
            Self::Check { from, means, machine } => means.check(&from.source, &machine)?.told,
            Self::Apply { from, means, machine, version } => {
                let mut tell = |line: &str| say(output.err, line);
                means.apply(&from.source, version.as_deref(), &machine, &mut tell)?
            }
            Self::Status { machine, json } => return machine.status(json, output),
            Self::Scheduled(scheduled) => return scheduled.run(output),
            Self::Rollback { machine } => machine.rollback()?,
        };
        say(output.out, &told);
        Ok(())
    }
}

/// What a source has for this machine.
#[derive(Debug)]
pub struct Checked {
    /// Newer than what runs, and did not go back.
    pub available: Option<String>,
    /// In words.
    pub told: String,
}

impl Means {
    /// With a wait for a network that is not up yet.
    pub fn waiting(mut self, wait_s: u64) -> Self {
        self.mirror_wait_s = self.mirror_wait_s.max(wait_s);
        self
    }

    fn releases(&self, source: &Source) -> Result<Releases, String> {
        let keyring = self.keyring.iter().find(|path| path.is_file()).ok_or_else(|| {
            let shown: Vec<_> = self.keyring.iter().map(|it| it.display().to_string()).collect();
            format!("no key may sign an update: {} is not there", shown.join(" nor "))
        })?;
        source.releases(keyring, Duration::from_secs(self.mirror_wait_s))
    }

    /// Looks what is newest; fetches nothing but the sums.
    ///
    /// # Errors
    /// Where the source cannot be read or is not signed.
    pub fn check(&self, source: &Source, machine: &Machine) -> Result<Checked, String> {
        let releases = self.releases(source)?;
        let running = machine.running();
        let newest = releases.newest(None)?.version;
        let word = match order(&newest, &running) {
            Ordering::Greater => "newer than",
            Ordering::Equal => "the same as",
            Ordering::Less => "older than",
        };
        let mut told = format!("{newest}: {word} {running}, which runs\n");
        if let Some(why) = machine.went_back(&newest) {
            told.push_str(&format!(
                "{newest} went back on this machine ({why}); it is applied only where --version \
                 names it\n"
            ));
        }
        let mut fitting = releases.all().iter().rev().map(|release| release.version.clone());
        let available = fitting.find(|version| {
            order(version, &running) == Ordering::Greater && machine.went_back(version).is_none()
        });
        Ok(Checked { available, told })
    }

    /// Brings a version into the other slot; what there is to say of it.
    ///
    /// # Errors
    /// Where it is refused; the slots are then as they were, unless systemd-sysupdate failed.
    pub fn apply(
        &self,
        source: &Source,
        wanted: Option<&str>,
        machine: &Machine,
        tell: &mut dyn FnMut(&str),
    ) -> Result<String, String> {
        let running = machine.running();
        machine.require_proven()?;
        let releases = self.releases(source)?;
        let release = choose(&releases, wanted, machine)?;
        let version = &release.version;
        if order(version, &running) != Ordering::Greater {
            return Err(format!(
                "{version} is not newer than {running}, which runs; nothing was changed. An update \
                 goes forward only; `basalt update rollback` goes back"
            ));
        }
        let told = format!(
            "{version} is in the other slot. The next boot tries it; where it is not good, the \
             machine comes back to {running} by itself.\n"
        );
        if machine.try_again(version)? {
            return Ok(told);
        }
        releases.fetch(&release, &self.into, tell)?;
        let fits = kernel_of(&release, &self.into)
            .and_then(|kernel| machine.require_readable(version, uki::state_format(&kernel)?));
        if let Err(why) = fits {
            remove_folder(&self.into).map_err(|error| format!("{why}; {error}"))?;
            return Err(why);
        }
        self.write_slot(version)?;
        remove_folder(&self.into).map_err(|error| format!("{}: {error}", self.into.display()))?;
        Ok(told)
    }

    fn write_slot(&self, version: &str) -> Result<(), String> {
        let shown = self.sysupdate.display();
        let mut command = Command::new(&self.sysupdate);
        command.args(["--verify=yes", "update", version]);
        let status = command.status().map_err(|error| {
            format!("{shown}: cannot be run ({error}); this is no machine with a Basalt image")
        })?;
        match status.success() {
            true => Ok(()),
            false => Err(format!(
                "{shown} update {version} failed ({status}); the running slot is whole, the other \
                 is not"
            )),
        }
    }
}

/// The version that is named, else the newest that did not go back.
fn choose(releases: &Releases, wanted: Option<&str>, machine: &Machine) -> Result<Release, String> {
    let newest = releases.newest(wanted)?;
    if wanted.is_some() {
        return Ok(newest);
    }
    let mut others = releases.all().iter().rev();
    let other = others.find(|release| machine.went_back(&release.version).is_none());
    other.cloned().ok_or_else(|| {
        let why = machine.went_back(&newest.version).unwrap_or_default();
        format!(
            "{} went back on this machine ({why}); nothing was changed. Name it with --version to \
             try it again",
            newest.version
        )
    })
}

/// The unified kernel image among the fetched parts, as it will lie on the ESP.
fn kernel_of(release: &Release, folder: &Path) -> Result<PathBuf, String> {
    let mut names = release.files.iter().map(|(name, _)| name);
    let name = names.find(|name| name.trim_end_matches(".xz").ends_with(".efi"));
    let name = name.ok_or("no unified kernel image among the parts")?;
    let path = folder.join(name);
    if !name.ends_with(".xz") {
        return Ok(path);
    }
    let plain = folder.join("kernel.efi");
    let fault = |error: std::io::Error| format!("{}: cannot be unpacked ({error})", path.display());
    let to = fs::File::create(&plain).map_err(fault)?;
    let mut command = Command::new("xz");
    command.args(["--decompress", "--stdout"]).arg(&path).stdout(to).stdin(Stdio::null());
    let status = command.status().map_err(fault)?;
    let done = status.success().then_some(plain);
    done.ok_or_else(|| format!("{}: cannot be unpacked ({status})", path.display()))
}
