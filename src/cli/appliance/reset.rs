//! `basalt reset`: factory reset of an appliance. Marks the firmware's variable that makes the next
//! boot's systemd-repart, in the initrd, delete and make anew what its definitions call resettable:
//! the data partition.

use crate::cli::appliance::console_facts::assigned;
use crate::cli::{Output, say};
use clap::Args;
use std::{
    fs::{self, OpenOptions},
    io::{self, BufRead as _, Write as _},
    path::{Path, PathBuf},
};

const EXAMPLES: &str = "\
Examples:
  basalt reset                             asks for the host's name
  basalt reset --confirm node-7            the same for scripts
  basalt reset --cancel                    takes the mark back before the next boot

The chain, the node's keys, the journal and everything under /etc and /var are gone after the next
boot. The configuration on the ESP stays.";

/// systemd's namespace of firmware variables, and the one that systemd-repart looks for.
const VARIABLE: &str = "FactoryReset-8cf2644b-4b0b-428f-9387-6d876050dc67";
/// Non-volatile, for boot services and run time.
const ATTRIBUTES: [u8; 4] = [7, 0, 0, 0];
/// What systemd reads as true, in UTF-16 as its string variables are.
const YES: [u8; 8] = [b'y', 0, b'e', 0, b's', 0, 0, 0];
/// Definitions of an image's partitions; without one that is reset there is nothing to do.
const DEFINITIONS: &str = "usr/lib/repart.d";

/// Arguments of `basalt reset`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Reset {
    /// The host's name, typed here instead of at the question
    #[arg(long, value_name = "HOSTNAME", conflicts_with = "cancel")]
    confirm: Option<String>,
    /// Take the mark back
    #[arg(long)]
    cancel: bool,
    /// Root of the file systems
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

impl Reset {
    /// With the name already given.
    pub fn confirmed(hostname: String, root: PathBuf) -> Self {
        Self { confirm: Some(hostname), cancel: false, root }
    }

    /// Marks the machine, after the host's name was given.
    ///
    /// # Errors
    /// Where this is no image, the name is another, or the firmware refuses.
    pub fn run(self, output: &mut Output<'_>) -> Result<(), String> {
        let variable = self.require_image()?;
        if self.cancel {
            return cancel(&variable, output);
        }
        let hostname = read(&self.root.join("proc/sys/kernel/hostname"))?;
        let hostname = hostname.trim();
        let given = match &self.confirm {
            Some(given) => given.clone(),
            None => ask(hostname, output)?,
        };
        if given != hostname || hostname.is_empty() {
            return Err(format!(
                "\"{given}\" is not this host's name, \"{hostname}\"; nothing was changed"
            ));
        }
        let mut bytes = ATTRIBUTES.to_vec();
        bytes.extend(YES);
        put(&variable, &bytes).map_err(|error| refused(&variable, &error))?;
        let text = "The next boot wipes the data partition. Reboot to do it, or take it back with \
                    `basalt reset --cancel`.\n";
        say(output.out, text);
        Ok(())
    }

    /// The variable's file, on a machine that can be reset.
    fn require_image(&self) -> Result<PathBuf, String> {
        let release = read(&self.root.join("etc/os-release")).unwrap_or_default();
        if assigned(&release, "IMAGE_ID").as_deref() != Some("basalt") {
            return Err("this machine does not run the Basalt image (no IMAGE_ID=basalt in \
                        /etc/os-release); empty a node's folder with `basalt dev --fresh`"
                .to_owned());
        }
        let folder = self.root.join(DEFINITIONS);
        if !has_resettable(&folder) {
            let folder = folder.display();
            return Err(format!("{folder}: no partition has FactoryReset=; flash the image again"));
        }
        let variables = self.root.join("sys/firmware/efi/efivars");
        if !variables.is_dir() {
            let variables = variables.display();
            return Err(format!("{variables}: no UEFI variables; boot the machine by UEFI"));
        }
        Ok(variables.join(VARIABLE))
    }
}

/// Whether a definition says that its partition is to be reset.
fn has_resettable(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    let texts = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let says_so = |line: &str| {
        let value = line.trim().strip_prefix("FactoryReset=").map(str::trim);
        matches!(value, Some("yes" | "true" | "on" | "1"))
    };
    texts.into_iter().any(|text| text.lines().any(says_so))
}

fn ask(hostname: &str, output: &mut Output<'_>) -> Result<String, String> {
    say(output.out, "This wipes the chain, the node's keys, the journal and all settings.\n");
    say(output.out, &format!("Type the name of this host ({hostname}) to go on: "));
    output.out.flush().map_err(|error| error.to_string())?;
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|error| format!("no answer ({error}); use --confirm HOSTNAME"))?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

fn cancel(variable: &Path, output: &mut Output<'_>) -> Result<(), String> {
    if !variable.exists() {
        say(output.out, "No reset was asked for.\n");
        return Ok(());
    }
    unlock(variable);
    fs::remove_file(variable).map_err(|error| refused(variable, &error))?;
    say(output.out, "The next boot wipes nothing.\n");
    Ok(())
}

/// Attributes and value go in one write: the firmware takes them as one.
pub(super) fn put(variable: &Path, bytes: &[u8]) -> io::Result<()> {
    unlock(variable);
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(variable)?;
    file.write_all(bytes)
}

/// Linux keeps variables that it does not know from being changed by accident: a mark that is
/// already there has to be made mutable first.
#[expect(unsafe_code, reason = "the standard library has no call for a file's flags")]
fn unlock(variable: &Path) {
    use std::os::fd::AsRawFd as _;
    let Ok(file) = fs::File::open(variable) else { return };
    let mut flags: libc::c_int = 0;
    let pointer = &raw mut flags;
    // SAFETY: the descriptor is open and the kernel writes one int at the pointer.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, pointer) } != 0 {
        return; // Not a file system with such flags.
    }
    flags &= !FS_IMMUTABLE_FL;
    let pointer = &raw const flags;
    // SAFETY: the descriptor is open and the kernel reads one int at the pointer.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, pointer) } != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "the variable's flags stay");
    }
}

/// `FS_IMMUTABLE_FL` of linux/fs.h.
const FS_IMMUTABLE_FL: libc::c_int = 0x10;

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path)
        .map_err(|error| format!("{}: cannot be read ({error})", path.display()))
}

fn refused(variable: &Path, error: &io::Error) -> String {
    format!("{}: the firmware refuses ({error}); run it as root", variable.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(release: &str, definition: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("etc/os-release", release),
            ("proc/sys/kernel/hostname", "node-7\n"),
            ("usr/lib/repart.d/50-data.conf", definition),
            ("sys/firmware/efi/efivars/x", ""),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn reset(root: &Path, confirm: Option<&str>, cancel: bool) -> Result<String, String> {
        let confirm = confirm.map(str::to_owned);
        let reset = Reset { confirm, cancel, root: root.to_owned() };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        reset.run(&mut Output { out: &mut out, err: &mut err })?;
        Ok(String::from_utf8(out).unwrap())
    }

    const IMAGE: &str = "ID=debian\nIMAGE_ID=\"basalt\"\n";
    const DATA: &str = "[Partition]\nType=linux-generic\nFactoryReset=yes\n";

    #[test]
    fn the_mark_is_what_systemd_reads_as_yes() {
        let root = machine(IMAGE, DATA);
        let variable = root.path().join("sys/firmware/efi/efivars").join(VARIABLE);
        assert!(reset(root.path(), Some("node-7"), false).unwrap().contains("next boot wipes"));
        assert_eq!(fs::read(&variable).unwrap(), b"\x07\0\0\0y\0e\0s\0\0\0");
        reset(root.path(), Some("node-7"), false).unwrap();
        assert!(reset(root.path(), None, true).unwrap().contains("wipes nothing"));
        assert!(!variable.exists());
        assert!(reset(root.path(), None, true).unwrap().contains("No reset"));
    }

    #[test]
    fn another_name_changes_nothing() {
        let root = machine(IMAGE, DATA);
        let refusal = reset(root.path(), Some("node-8"), false).unwrap_err();
        assert!(refusal.contains("\"node-8\" is not this host's name, \"node-7\""), "{refusal}");
        assert!(!root.path().join("sys/firmware/efi/efivars").join(VARIABLE).exists());
    }

    #[test]
    fn only_an_image_with_something_to_reset_is_marked() {
        let root = machine("ID=debian\n", DATA);
        assert!(reset(root.path(), Some("node-7"), false).unwrap_err().contains("--fresh"));
        let root = machine(IMAGE, "[Partition]\nFactoryReset=no\n");
        assert!(reset(root.path(), Some("node-7"), false).unwrap_err().contains("FactoryReset="));
        let root = machine(IMAGE, DATA);
        fs::remove_dir_all(root.path().join("sys")).unwrap();
        assert!(reset(root.path(), Some("node-7"), false).unwrap_err().contains("by UEFI"));
    }
}
