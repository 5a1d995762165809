//! The sequencer's key: made at the first start, kept in a file that only its owner can read.

use crate::crypto::sign::Signer;
use alloy_primitives::{B256, hex};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Name of the key file in the data folder.
pub const KEY_FILE: &str = "sequencer.key";
const OWNER_ONLY: u32 = 0o600;

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read or made.
    #[error("{}: {source}", path.display())]
    File {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner may read or write the file.
    #[error("{}: mode {mode:o} lets others read the key; set mode 600 with chmod", .path.display())]
    Mode {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is no secret key.
    #[error("{}: no secp256k1 secret key in 64 hex digits; restore it", .path.display())]
    Content {
        /// The key file.
        path: PathBuf,
    },
}

/// Reads the key of the data folder, or makes one where there is none.
///
/// # Errors
/// Where the file cannot be read or made, is open to others, or holds no key.
pub fn load_or_create(folder: &Path) -> Result<Signer, KeyError> {
    let path = folder.join(KEY_FILE);
    match fs::metadata(&path) {
        Ok(metadata) => {
            let mode = metadata.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(KeyError::Mode { path, mode });
            }
            load(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(folder, &path)
                .map_err(|source| KeyError::File { path: path.clone(), source })?;
            load(path)
        }
        Err(source) => Err(KeyError::File { path, source }),
    }
}

fn load(path: PathBuf) -> Result<Signer, KeyError> {
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(KeyError::File { path, source }),
    };
    let secret = text.trim().parse::<B256>().ok();
    secret.and_then(|secret| Signer::from_secret(&secret).ok()).ok_or(KeyError::Content { path })
}

/// Writes beside, syncs, renames: a power cut leaves no key or a whole one.
fn create(folder: &Path, path: &Path) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(OWNER_ONLY);
    let mut file = options.open(&fresh)?;
    file.set_permissions(fs::Permissions::from_mode(OWNER_ONLY))?;
    file.write_all(hex::encode(Signer::random().secret()).as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = load_or_create(folder.path()).unwrap();
        let second = load_or_create(folder.path()).unwrap();
        assert_eq!(first.address(), second.address());
        let path = folder.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let refusal = load_or_create(folder.path()).err().unwrap().to_string();
        assert!(refusal.contains("chmod"), "{refusal}");
    }

    #[test]
    fn a_broken_key_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        fs::write(&path, "not a key").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(load_or_create(folder.path()), Err(KeyError::Content { .. })));
    }
}
