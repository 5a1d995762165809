//! The log's directory: its lock and name, its segments, and how they are made ahead of use.
//!
//! A segment `wal-<sequence>.seg` is a file of fixed size, written with zeros before its first
//! record: a write into merely allocated space costs several times as much. Sequence numbers grow
//! by one without a gap. A segment behind the steady checkpoint is renamed to the next number.

use crate::runtime::{
    memory::{AlignedBuffer, BLOCK_BYTES},
    ring::{Consumer, Producer},
    uring::direct,
};
use crate::wal::record;
use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

/// Zeros are written in pieces of this size, so that records of the segment in use get between.
const ZERO_BYTES: usize = 1 << 20;
const IDENTITY: &str = "identity";
const IDENTITY_MAGIC: &[u8; 8] = b"BSLTWAL1";
const PREFIX: &str = "wal-";
const SUFFIX: &str = ".seg";
/// A segment in the making; worthless after a crash.
const UNFINISHED: &str = ".new";

/// Why a log's directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be made, read or written.
    #[error("log directory {path}: {source}; check that it exists and may be written")]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("log directory {0} is in use by another process; stop it or choose another directory")]
    Locked(PathBuf),
    /// The file that names the log is missing or damaged, though there are segments.
    #[error(
        "{0} is missing or damaged, but there are segments: without it no record can be told from \
         a forged one; restore it from a copy, or move the segments away to start without them"
    )]
    Identity(PathBuf),
    /// A segment is missing between others.
    #[error("segment {missing} is missing in {path}, though later ones exist; restore it")]
    Gap {
        /// The directory.
        path: PathBuf,
        /// Sequence number of the first missing segment.
        missing: u64,
    },
    /// A file that no log has written.
    #[error(
        "{path} has {bytes} bytes, but a segment has a multiple of {BLOCK_BYTES} and at least \
        {min}: it was cut off, and with it what had been acknowledged; restore it from a copy",
        min = SEGMENT_BYTES_MIN
    )]
    Cut {
        /// The segment.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A segment size that cannot work.
    #[error("segment size {0} must be a multiple of {BLOCK_BYTES} and at least {min}",
        min = SEGMENT_BYTES_MIN)]
    SegmentBytes(u64),
}

/// Smallest segment that may be configured.
pub const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
/// Size of a segment where nothing else is configured; a plain transfer takes about 290 bytes.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;

/// An open segment.
#[derive(Debug)]
pub struct Segment {
    pub(crate) sequence: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) bytes: u64,
}

/// The directory, locked by this process as long as this lives.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    /// Random name of this log, in every record.
    pub(crate) log: u64,
    /// Holds the lock.
    _identity: File,
}

impl Directory {
    /// Makes the directory where needed, locks it, and lists its segments, oldest first.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<u64>), OpenError> {
        let failed = |source| OpenError::Directory { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed)?;
        let identity_path = path.join(IDENTITY);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut identity = options.open(&identity_path).map_err(failed)?;
        match identity.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let sequences = list(path).map_err(failed)?;
        if let Some(pair) = sequences.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
            return Err(OpenError::Gap { path: path.to_owned(), missing: pair[0] + 1 });
        }
        for sequence in &sequences {
            let path = segment_path(path, *sequence);
            let bytes = fs::metadata(&path).map_err(failed)?.len();
            let block_bytes = u64::try_from(BLOCK_BYTES).unwrap_or(u64::MAX);
            if bytes < SEGMENT_BYTES_MIN || !bytes.is_multiple_of(block_bytes) {
                return Err(OpenError::Cut { path, bytes });
            }
        }
        let mut bytes = Vec::new();
        identity.read_to_end(&mut bytes).map_err(failed)?;
        let log = match name_in(&bytes) {
            Some(log) => log,
            None if sequences.is_empty() => write_name(&identity, path).map_err(failed)?,
            None => return Err(OpenError::Identity(identity_path)),
        };
        Ok((Self { path: path.to_owned(), log, _identity: identity }, sequences))
    }

    pub(crate) fn segment_path(&self, sequence: u64) -> PathBuf {
        segment_path(&self.path, sequence)
    }
}

/// Order to have a segment ready.
#[derive(Debug)]
pub(crate) struct Order {
    /// Its sequence number.
    pub(crate) sequence: u64,
    /// The oldest segment, where it is no longer needed: becomes the new one.
    pub(crate) recycle: Option<u64>,
    /// The next oldest, not needed at all: deleted.
    pub(crate) discard: Vec<u64>,
}

/// Makes segments ready ahead of their use. To be run on a seat off the hot path; ends when the
/// log is dropped.
pub struct Preparer {
    pub(crate) directory: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) orders: Consumer<Order>,
    pub(crate) ready: Producer<io::Result<Segment>>,
}

impl Preparer {
    /// Serves orders until the log is gone. A failure is reported to the log, which stops at its
    /// next change of segment.
    pub fn run(self) {
        while let Some(order) = self.orders.pop_wait() {
            let made = self.serve(&order);
            if self.ready.push_wait(made).is_err() {
                return;
            }
        }
    }

    fn serve(&self, order: &Order) -> io::Result<Segment> {
        let folder = &self.directory;
        match order.recycle {
            // An earlier run had made it ready.
            Some(oldest) if segment_path(folder, order.sequence).exists() => {
                remove(folder, oldest)?;
            }
            Some(oldest) => recycle(folder, oldest, order.sequence, self.segment_bytes)?,
            None => {}
        }
        for sequence in &order.discard {
            remove(folder, *sequence)?;
        }
        open_or_create(folder, order.sequence, self.segment_bytes)
    }
}

/// Opens the segment if it is there, else makes it.
pub(crate) fn open_or_create(folder: &Path, sequence: u64, bytes: u64) -> io::Result<Segment> {
    let path = segment_path(folder, sequence);
    if !path.exists() {
        create(folder, &path, bytes)?;
    }
    let (file, _) = direct::open(&path, false)?;
    let bytes = file.metadata()?.len();
    Ok(Segment { sequence, path, file, bytes })
}

/// A segment appears under its name only when it is written out: a crash leaves a `.new` file.
fn create(folder: &Path, path: &Path, bytes: u64) -> io::Result<()> {
    let unfinished = path.with_extension(&UNFINISHED[1..]);
    let (file, _) = direct::open(&unfinished, true)?;
    file.set_len(bytes)?;
    let zeros = AlignedBuffer::zeroed(ZERO_BYTES);
    let mut offset = 0;
    while offset < bytes {
        let left = usize::try_from(bytes - offset).unwrap_or(ZERO_BYTES).min(ZERO_BYTES);
        file.write_all_at(&zeros.as_slice()[..left], offset)?;
        offset += u64::try_from(left).map_err(io::Error::other)?;
    }
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    sync_folder(folder)
}

fn recycle(folder: &Path, oldest: u64, sequence: u64, bytes: u64) -> io::Result<()> {
    let path = segment_path(folder, oldest);
    let found = fs::metadata(&path)?.len();
    if found < bytes {
        // The configured size grew: a new one is written out instead.
        return remove(folder, oldest);
    }
    if found > bytes {
        File::options().write(true).open(&path)?.set_len(bytes)?;
    }
    fs::rename(&path, segment_path(folder, sequence))?;
    sync_folder(folder)
}

/// Deletes a segment durably: one after another from the oldest, so that no gap can appear.
pub(crate) fn remove(folder: &Path, sequence: u64) -> io::Result<()> {
    fs::remove_file(segment_path(folder, sequence))?;
    sync_folder(folder)
}

/// Makes renames and deletions durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn segment_path(folder: &Path, sequence: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{sequence:016}{SUFFIX}"))
}

/// Whether a folder holds segments of a log. Nothing is changed, nor is the log locked.
///
/// # Errors
/// Where the folder is there and cannot be listed.
pub fn holds_segments(folder: &Path) -> io::Result<bool> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    for entry in listed {
        let name = entry?.file_name();
        let name = name.to_str().unwrap_or_default();
        if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sequence numbers of all segments in order; unfinished ones are removed.
fn list(folder: &Path) -> io::Result<Vec<u64>> {
    let mut sequences = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        if name.ends_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        } else if let Some(number) = name.strip_suffix(SUFFIX) {
            sequences.extend(number.parse::<u64>().ok());
        }
    }
    sequences.sort_unstable();
    Ok(sequences)
}

fn name_in(bytes: &[u8]) -> Option<u64> {
    let (magic, rest) = bytes.split_at_checked(IDENTITY_MAGIC.len())?;
    let (name, check) = rest.split_at_checked(8)?;
    let whole = magic == IDENTITY_MAGIC && check == record::checksum(name).to_le_bytes();
    whole.then(|| name.try_into().map(u64::from_le_bytes).ok()).flatten()
}

fn write_name(identity: &File, folder: &Path) -> io::Result<u64> {
    let mut name = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut name)?;
    let check = record::checksum(&name).to_le_bytes();
    let bytes = [IDENTITY_MAGIC.as_slice(), &name, &check].concat();
    identity.set_len(0)?;
    identity.write_all_at(&bytes, 0)?;
    identity.sync_all()?;
    sync_folder(folder)?;
    Ok(u64::from_le_bytes(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cannot_share_a_directory() {
        let folder = tempfile::tempdir().unwrap();
        let first = Directory::open(folder.path()).unwrap();
        let second = Directory::open(folder.path()).unwrap_err();
        assert!(matches!(second, OpenError::Locked(_)), "{second}");
        drop(first);
        Directory::open(folder.path()).unwrap();
    }

    #[test]
    fn a_log_keeps_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let name = Directory::open(folder.path()).unwrap().0.log;
        assert_eq!(Directory::open(folder.path()).unwrap().0.log, name);
        create(folder.path(), &segment_path(folder.path(), 1), SEGMENT_BYTES_MIN).unwrap();
        fs::write(folder.path().join(IDENTITY), b"BSLTWAL1 damaged").unwrap();
        let error = Directory::open(folder.path()).unwrap_err();
        assert!(matches!(error, OpenError::Identity(_)), "{error}");
    }

    #[test]
    fn a_missing_segment_and_an_unfinished_one_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        for sequence in [4, 6] {
            fs::write(segment_path(folder.path(), sequence), []).unwrap();
        }
        fs::write(folder.path().join("wal-0000000000000007.new"), []).unwrap();
        let error = Directory::open(folder.path()).unwrap_err();
        assert!(matches!(error, OpenError::Gap { missing: 5, .. }), "{error}");
        assert!(!folder.path().join("wal-0000000000000007.new").exists());
    }

    #[test]
    fn a_segment_that_was_cut_off_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!holds_segments(&folder.path().join("nowhere")).unwrap());
        assert!(!holds_segments(folder.path()).unwrap());
        let path = segment_path(folder.path(), 1);
        for bytes in [0, SEGMENT_BYTES_MIN - 4096, SEGMENT_BYTES_MIN + 100] {
            fs::write(&path, vec![0; usize::try_from(bytes).unwrap()]).unwrap();
            let error = Directory::open(folder.path()).unwrap_err();
            assert!(matches!(error, OpenError::Cut { .. }), "{error}");
            assert!(error.to_string().contains(&format!("{bytes} bytes")), "{error}");
        }
        assert!(holds_segments(folder.path()).unwrap());
    }

    #[test]
    fn a_recycled_segment_has_the_configured_size() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = SEGMENT_BYTES_MIN;
        for (found, sequence) in [(bytes, 5), (bytes * 2, 6), (bytes / 2, 7)] {
            fs::write(segment_path(folder.path(), 1), vec![1; usize::try_from(found).unwrap()])
                .unwrap();
            recycle(folder.path(), 1, sequence, bytes).unwrap();
            let segment = open_or_create(folder.path(), sequence, bytes).unwrap();
            assert_eq!(segment.bytes, bytes);
            assert!(!segment_path(folder.path(), 1).exists());
        }
    }
}
