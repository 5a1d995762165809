//! What a boot leaves under `/run/basalt`: the configuration in force, or why there is none.
//! Written by `boot-config`, read by the node, `maintenance` and `console`.

use crate::config::overlay::Sources;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The folder, unless a flag names another.
pub const FOLDER: &str = "/run/basalt";
/// The configuration in force, as it was found.
pub const CONFIG: &str = "basalt.toml";
/// Where it came from and what follows from it.
pub const IN_FORCE: &str = "in-force.json";
/// What is wrong, where there is none.
pub const MAINTENANCE: &str = "maintenance.json";
/// Ports to open, in nftables' language.
pub const PORTS: &str = "ports.nft";
/// What to install and where, on a machine that was started from a stick: no node runs then.
pub const INSTALL: &str = "install.json";
/// Who may log in to a debug image.
pub const KEYS: &str = "authorized_keys";
/// Names in the folder that a genesis file cannot have.
pub const NAMES: [&str; 6] = [CONFIG, IN_FORCE, MAINTENANCE, PORTS, INSTALL, KEYS];

/// The node's own folder, where it leaves the reason of a failure.
pub const NODE_FOLDER: &str = "/run/basalt-node";
/// The reason.
pub const FAILURE: &str = "failure.txt";
/// The node's numbers, as at its metrics port, on a socket for this machine alone.
pub const METRICS: &str = "metrics.sock";
/// Metrics of updates, beside the node's folder: its page shows them.
pub const UPDATES: &str = "basalt-update/metrics.txt";
/// Says that no node runs any more, and none is started in this boot.
pub const GIVEN_UP: &str = "given-up";

/// Where what became of the last request is shown to the console.
pub const REQUEST_FOLDER: &str = "/run/basalt-request";
/// It.
pub const REQUEST: &str = "outcome.json";
/// Bytes of a reason that are read.
const FAILURE_BYTES_MAX: usize = 4096;

/// Where the configuration in force came from and what follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// A file, a credential, a URL, or none.
    pub source: String,
    /// What the machine is.
    pub role: String,
    /// Of its text, in hexadecimal digits.
    pub sha256: String,
    /// Where JSON-RPC is to be served.
    pub rpc_address: String,
    /// Where metrics are to be served, or "off".
    pub metrics_address: String,
    /// Ports that others may reach.
    pub open_tcp_ports: Vec<u16>,
    /// Networks that may; empty: all.
    #[serde(default)]
    pub allow_from: Vec<String>,
    /// What is odd but harmless.
    pub notes: Vec<String>,
}

/// Why no node runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Where the configuration was taken from, or what failed.
    pub source: String,
    /// Never empty.
    pub faults: Vec<Wrong>,
    /// Where metrics are served in maintenance, or "off".
    pub metrics_address: String,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrong {
    /// Where it stands.
    pub file: String,
    /// From 1, where there is one.
    pub line: Option<usize>,
    /// The setting, its value and what is wrong with it.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Wrong {
    /// A fault of a whole file, or of no file.
    pub fn of(file: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, what: what.into(), remedy: remedy.into() }
    }

    /// `file:line: what; remedy`.
    pub fn text(&self) -> String {
        let line = self.line.map(|line| format!(":{line}")).unwrap_or_default();
        let remedy = if self.remedy.is_empty() { "" } else { "; " };
        format!("{}{line}: {}{remedy}{}", self.file, self.what, self.remedy)
    }
}

impl Trouble {
    /// A line a fault.
    pub fn text(&self) -> String {
        self.faults.iter().map(Wrong::text).collect::<Vec<_>>().join("\n")
    }

    /// What is wrong on this machine: with the configuration, else what the node said when it
    /// failed. `None` where nobody complained.
    pub fn read(folder: &Path, node_folder: &Path, metrics_address: &str) -> Option<Self> {
        if let Some(trouble) = read_json(&folder.join(MAINTENANCE)) {
            return Some(trouble);
        }
        let reason = fs::read(node_folder.join(FAILURE)).ok()?;
        let reason = &reason[..reason.len().min(FAILURE_BYTES_MAX)];
        let reason = String::from_utf8_lossy(reason);
        let lines = reason.lines().filter(|line| !line.trim().is_empty());
        let mut faults: Vec<_> = lines.map(|line| Wrong::of("basalt.service", line, "")).collect();
        if faults.is_empty() {
            faults.push(silent_failure());
        }
        let (source, metrics_address) = ("the node".to_owned(), metrics_address.to_owned());
        Some(Self { source, faults, metrics_address })
    }
}

/// For a node that was killed before it could say anything.
pub fn silent_failure() -> Wrong {
    Wrong::of(
        "basalt.service",
        "the node failed again and again and left no reason",
        "read the journal, and /var/lib/systemd/coredump for dumps",
    )
}

/// Where systemd has put this process's credentials.
pub fn credentials(sources: &Sources) -> Option<&Path> {
    let mut all = sources.environment.iter();
    all.find(|(name, _)| name == "CREDENTIALS_DIRECTORY").map(|(_, folder)| Path::new(folder))
}

/// A file of the folder, where it is there and whole.
pub fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes a file so that a reader sees all of it or nothing.
///
/// # Errors
/// Where the system refuses, with the path.
pub fn put(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    let staged = PathBuf::from(staged);
    let written = fs::write(&staged, bytes).and_then(|()| fs::rename(&staged, path));
    written.map_err(|error| format!("{}: cannot be written ({error})", path.display()))
}

/// Removes a file that need not be there.
///
/// # Errors
/// Where the system refuses, with the path.
pub fn remove(path: &Path) -> Result<(), String> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("{}: cannot be removed ({error})", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_configuration_is_told_before_a_failed_node() {
        let folder = tempfile::tempdir().unwrap();
        let read = || Trouble::read(folder.path(), folder.path(), "off");
        assert_eq!(read(), None);
        fs::write(folder.path().join(FAILURE), "the disk is full\n").unwrap();
        assert_eq!(read().unwrap().text(), "basalt.service: the disk is full");
        fs::write(folder.path().join(FAILURE), "").unwrap();
        assert!(read().unwrap().text().contains("left no reason"));
        let trouble = Trouble {
            source: "s".to_owned(),
            faults: vec![Wrong { line: Some(3), ..Wrong::of("a.toml", "x = 1", "use 2") }],
            metrics_address: "off".to_owned(),
        };
        let text = serde_json::to_vec(&trouble).unwrap();
        put(&folder.path().join(MAINTENANCE), &text).unwrap();
        assert_eq!(read().unwrap().text(), "a.toml:3: x = 1; use 2");
        remove(&folder.path().join(MAINTENANCE)).unwrap();
        remove(&folder.path().join(MAINTENANCE)).unwrap();
        assert!(read().is_some());
    }
}
