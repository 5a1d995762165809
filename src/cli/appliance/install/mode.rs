//! Whether this boot installs instead of running a node, and what it was told to do.

use crate::cli::appliance::install::disk::Machine;
use crate::cli::appliance::install::running::{boot_disk, state};
use crate::cli::{Output, say};
use crate::config::appliance::install::{Install, Then};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path, process::Command, thread, time::Duration};

/// How long the consoles have to show how an installation ended.
const SHOWN_FOR: Duration = Duration::from_secs(10);

/// What the configuration says about an installation, for the processes that do it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wanted {
    /// Serial number or WWN. Empty: somebody at a console chooses.
    pub disk: String,
    /// The same, where it may be overwritten.
    pub overwrite: String,
    /// "reboot", "poweroff" or "stay".
    pub then: String,
}

impl Wanted {
    /// As the configuration says.
    pub fn of(install: &Install) -> Self {
        let then = match install.then {
            Then::Reboot => "reboot",
            Then::Poweroff => "poweroff",
            Then::Stay => "stay",
        };
        let (disk, overwrite) = (install.disk.clone(), install.overwrite.clone());
        Self { disk, overwrite, then: then.to_owned() }
    }

    /// Restarts, switches off, or leaves the machine as it is.
    ///
    /// # Errors
    /// Where systemd refuses.
    pub fn then_do(&self, output: &mut Output<'_>) -> Result<(), String> {
        match self.then.as_str() {
            verb @ ("reboot" | "poweroff") => {
                say(output.out, &format!("install.then = \"{verb}\"\n"));
                // The consoles look once a second, and a slow serial line takes its time: without
                // this a machine may go before it has said how it ended.
                thread::sleep(SHOWN_FOR);
                systemctl(verb)
            }
            _ => Ok(()),
        }
    }
}

/// Asks systemd to restart or switch off.
///
/// # Errors
/// Where it refuses.
pub fn systemctl(verb: &str) -> Result<(), String> {
    let done = Command::new("systemctl").args(["--no-block", verb]).output();
    let done = done.map_err(|error| format!("systemctl {verb}: {error}"))?;
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    if done.status.success() { Ok(()) } else { Err(format!("systemctl {verb}: {said}")) }
}

/// A machine that was started from a stick without data installs, unless it is told to run from it.
pub fn is_installer(root: &Path, install: &Install) -> bool {
    let machine = Machine { root: root.to_owned() };
    // Where the initrd says nothing, no data partition was refused.
    let has_data = state(&machine, "volatile").is_some_and(|volatile| volatile != "yes");
    let has_fault = state(&machine, "fault").is_some();
    let is_stick = boot_disk(&machine).is_some_and(|disk| is_removable(root, &disk));
    is_stick && !has_data && !has_fault && !install.run_from_usb
}

fn is_removable(root: &Path, disk: &str) -> bool {
    let path = root.join("sys/block").join(disk);
    let told = fs::read_to_string(path.join("removable")).unwrap_or_default();
    let by_usb = fs::canonicalize(&path).is_ok_and(|path| path.to_string_lossy().contains("/usb"));
    told.trim() == "1" || by_usb
}
