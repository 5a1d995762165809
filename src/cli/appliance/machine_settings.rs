//! `basalt machine-settings`: what the scripts of the initrd need of a configuration, a line a key.
//! They mount the data partition, so this runs before there is one.

use crate::cli::{Output, say};
use crate::config::appliance::{Complain, Machine, Section, install::Install, section};
use crate::config::overlay::FILE_BYTES_MAX;
use clap::Args;
use serde::Deserialize;
use std::io::Read as _;

const EXAMPLES: &str = "\
Examples:
  basalt machine-settings </efi/loader/basalt/basalt.toml
                                           encrypt_data=off, wal_disk=, run_from_usb=no";

/// Arguments of `basalt machine-settings`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct MachineSettings {}

impl MachineSettings {
    /// Reads a configuration from standard input and prints what is to be done with disks. What is
    /// wrong in other sections is not looked at.
    ///
    /// # Errors
    /// Where the text is no TOML, or such a section is wrong: nothing is to be made on a disk then.
    pub fn run(self, output: &mut Output<'_>) -> Result<(), String> {
        let mut text = String::new();
        let mut input =
            std::io::stdin().lock().take(u64::try_from(FILE_BYTES_MAX).unwrap_or(0) + 1);
        input.read_to_string(&mut text).map_err(|error| format!("basalt.toml: {error}"))?;
        if text.len() > FILE_BYTES_MAX {
            return Err(format!("basalt.toml: more than {FILE_BYTES_MAX} bytes; make it shorter"));
        }
        say(output.out, &lines(&text)?);
        Ok(())
    }
}

/// What says something about disks. A fault in another section, such as `[network]`, is no reason
/// to leave the data partition alone: with it goes the machine's id, and by that its address from
/// DHCP.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Disks {
    machine: Machine,
    install: Install,
}

impl Section for Disks {
    fn check(&self, complain: Complain<'_>) {
        self.machine.check(complain);
        self.install.check(complain);
    }
}

fn lines(text: &str) -> Result<String, String> {
    let document = toml_edit::Document::parse(text)
        .map_err(|error| format!("basalt.toml: no valid TOML: {}", error.message()))?;
    let found: Disks = section("basalt.toml", text).map_err(|error| error.to_string())?;
    let Disks { machine, install } = found;
    let directory = document.get("data").and_then(|data| data.get("directory")?.as_str());
    if let Some(directory) = directory.filter(|it| !it.is_empty() && !machine.wal_disk.is_empty()) {
        return Err(format!(
            "basalt.toml: data.directory = \"{directory}\" with machine.wal_disk: the log's disk \
             is for the default folder only; leave data.directory out"
        ));
    }
    let run_from_usb = if install.run_from_usb { "yes" } else { "no" };
    let encrypt_data = machine.encrypt_data.name();
    Ok(format!(
        "encrypt_data={encrypt_data}\nwal_disk={}\nrun_from_usb={run_from_usb}\n",
        machine.wal_disk
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_lines_and_the_defaults_are_told_too() {
        assert_eq!(lines("").unwrap(), "encrypt_data=off\nwal_disk=\nrun_from_usb=no\n");
        let text = "[machine]\nencrypt_data = \"tpm2\"\n[wal]\nnonsense = 1\n";
        assert_eq!(lines(text).unwrap(), "encrypt_data=tpm2\nwal_disk=\nrun_from_usb=no\n");
        let text = "[network]\nallow_from = [\"nowhere\"]\n";
        assert!(lines(text).unwrap().contains("wal_disk=\n"), "no matter of disks");
        let text = "[machine]\nwal_disk = \"S4\"\n";
        assert_eq!(lines(text).unwrap(), "encrypt_data=off\nwal_disk=S4\nrun_from_usb=no\n");
        assert!(lines("[install]\nrun_from_usb = true\n").unwrap().contains("run_from_usb=yes\n"));
    }

    #[test]
    fn what_cannot_be_read_gives_no_settings() {
        assert!(lines("[machine").unwrap_err().contains("no valid TOML"));
        assert!(
            lines("[machine]\nencrypt_date = 1").unwrap_err().contains("basalt.toml:2: unknown")
        );
        let text = "[machine]\nwal_disk = \"S4\"\n[data]\ndirectory = \"/var/lib/basalt/b\"\n";
        assert!(lines(text).unwrap_err().contains("leave data.directory out"));
        assert!(lines("[machine]\nwal_disk = \"a\\nb\"").unwrap_err().contains("names no disk"));
    }
}
