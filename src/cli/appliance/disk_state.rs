//! What the initrd has decided about this machine's disks, in `/run/basalt-disk`: written by its
//! scripts, read by `boot-config` and `console`. Missing on a machine that boots no image.

use crate::cli::appliance::in_force::Wrong;
use std::{fs, path::Path};

/// The folder, unless a flag names another.
pub const FOLDER: &str = "/run/basalt-disk";

/// The decisions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskState {
    /// Device of the disk that was booted.
    pub disk: String,
    /// Device of the data partition; empty where there is none in use.
    pub data: String,
    /// `/var` is in memory, because of this.
    pub volatile: Option<String>,
    /// The data partition is encrypted.
    pub encrypted: bool,
    /// Device of the log, where it has a disk of its own.
    pub wal: String,
    /// Why no node may run.
    pub fault: Option<Wrong>,
    /// What differs from the configuration, and is left as it is.
    pub notes: Vec<String>,
    /// The slot that was left, and why.
    pub left: Option<String>,
    /// What is corrupted in the slot that runs.
    pub corrupted: Option<String>,
    /// Of an encrypted data partition that was made at this boot.
    pub recovery_key: Option<String>,
}

impl DiskState {
    /// Reads the folder.
    pub fn read(folder: &Path) -> Self {
        let text = fs::read_to_string(folder.join("state")).unwrap_or_default();
        let all = |key: &str| {
            let values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            values.map(str::to_owned).collect::<Vec<_>>()
        };
        let one = |key: &str| all(key).pop().unwrap_or_default();
        let line = |name: &str| {
            let text = fs::read_to_string(folder.join(name)).ok()?;
            text.lines().next().map(str::to_owned)
        };
        let fault = all("fault").pop().map(|what| Wrong::of(&one("disk"), what, one("remedy")));
        Self {
            disk: one("disk"),
            data: one("data"),
            volatile: (one("volatile") == "yes").then(|| one("reason")),
            encrypted: one("encrypted") == "yes",
            wal: one("wal"),
            fault,
            notes: all("note"),
            left: line("left"),
            corrupted: line("corrupted"),
            recovery_key: line("recovery-key"),
        }
    }

    /// For the status page, after the space that is left.
    pub fn words(&self) -> String {
        let mut words = String::new();
        if let Some(reason) = &self.volatile {
            words.push_str(&format!(", IN MEMORY: {reason}"));
        } else if !self.data.is_empty() {
            words.push_str(&format!(" on {}", self.data));
            words.push_str(if self.encrypted { ", encrypted" } else { "" });
        }
        if !self.wal.is_empty() {
            words.push_str(&format!(", log on {}", self.wal));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_lines_of_keys_and_values() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(DiskState::read(folder.path()), DiskState::default());
        let text = "disk=/dev/vda\nesp=/dev/vda1\ndata=/dev/vda6\nvolatile=no\nencrypted=yes\n\
                    wal=/dev/nvme1n1p1\nnote=a\nnote=b = c\n";
        fs::write(folder.path().join("state"), text).unwrap();
        fs::write(folder.path().join("left"), "basalt_1: its root is corrupted\n").unwrap();
        let state = DiskState::read(folder.path());
        assert_eq!(state.words(), " on /dev/vda6, encrypted, log on /dev/nvme1n1p1");
        assert_eq!((state.fault, state.notes.len()), (None, 2));
        assert_eq!(state.left.as_deref(), Some("basalt_1: its root is corrupted"));
        let text =
            "disk=/dev/vda\nvolatile=yes\nreason=no TPM\nfault=no TPM\nremedy=switch it on\n";
        fs::write(folder.path().join("state"), text).unwrap();
        let state = DiskState::read(folder.path());
        assert_eq!(state.words(), ", IN MEMORY: no TPM");
        assert_eq!(state.fault.unwrap().text(), "/dev/vda: no TPM; switch it on");
    }
}
