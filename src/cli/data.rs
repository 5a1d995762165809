//! The folder of the chain: one process at a time, and never emptied unless it is ours.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The file that marks a folder as ours; its lock is held while a node runs.
pub const MARKER: &str = "basalt.lock";
const MARKER_TEXT: &[u8] = b"A Basalt node keeps its chain in this folder.\n";

/// A folder that this process alone may use.
#[derive(Debug)]
pub struct DataDirectory {
    /// Where it is.
    pub path: PathBuf,
    /// Locked until it is dropped; the system unlocks it when the process dies.
    _lock: File,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The system refuses.
    #[error("data folder {path}: cannot {action} ({error}); name another with --data DIR")]
    Unusable {
        /// The folder.
        path: String,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        error: io::Error,
    },
    /// Another process has it.
    #[error(
        "data folder {path} is in use by another node; stop it, or name another with --data DIR"
    )]
    InUse {
        /// The folder.
        path: String,
    },
    /// It holds something else.
    #[error("data folder {path} holds files but no {MARKER}: not a chain; name an empty folder")]
    Foreign {
        /// The folder.
        path: String,
    },
}

impl DataDirectory {
    /// Opens or makes the folder, alone; `fresh` deletes what an earlier node left in it.
    ///
    /// # Errors
    /// Where it is in use, holds anything but a chain, or the system refuses.
    pub fn open(path: &Path, fresh: bool) -> Result<Self, DataError> {
        let name = || path.display().to_string();
        let refused = |action| {
            move |error| DataError::Unusable { path: path.display().to_string(), action, error }
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).map_err(refused("make it"))?;
        let marker = path.join(MARKER);
        let is_new = !marker.exists();
        let mut entries = fs::read_dir(path).map_err(refused("list it"))?;
        if is_new && entries.any(|entry| !entry.is_ok_and(|entry| is_empty_log(&entry.path()))) {
            return Err(DataError::Foreign { path: name() });
        }
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        let mut lock = options.open(&marker).map_err(refused("open its lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => DataError::InUse { path: name() },
            TryLockError::Error(error) => refused("lock it")(error),
        })?;
        if is_new {
            lock.write_all(MARKER_TEXT).map_err(refused("mark it"))?;
        } else if fresh {
            empty(path).map_err(refused("empty it"))?;
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }
}

/// Where an appliance has mounted a disk for the log, before there is a chain.
fn is_empty_log(path: &Path) -> bool {
    path.ends_with("wal") && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Deletes all but the marker, whose lock is held. Links are deleted, not followed.
fn empty(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == MARKER {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_serves_one_process_and_is_emptied_only_if_ours() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/chain");
        let held = DataDirectory::open(&path, false).unwrap();
        assert!(matches!(DataDirectory::open(&path, true), Err(DataError::InUse { .. })));
        fs::create_dir(path.join("wal")).unwrap();
        fs::write(path.join("wal/0"), b"x").unwrap();
        drop(held);
        drop(DataDirectory::open(&path, false).unwrap());
        assert!(path.join("wal/0").exists());
        drop(DataDirectory::open(&path, true).unwrap());
        assert!(!path.join("wal").exists());

        let foreign = parent.path().join("home");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("thesis.txt"), b"x").unwrap();
        let error = DataDirectory::open(&foreign, true).unwrap_err();
        assert!(matches!(error, DataError::Foreign { .. }), "{error}");
        assert!(foreign.join("thesis.txt").exists());
        let prepared = parent.path().join("prepared");
        fs::create_dir_all(prepared.join("wal")).unwrap();
        assert!(DataDirectory::open(&prepared, false).is_ok());
    }
}
