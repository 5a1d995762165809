//! Reads all that lies in a folder from the disk itself, past the page cache: a block that rots
//! where nobody looks is found while the rest is whole. Changes nothing; a node may run meanwhile.

use crate::runtime::memory::{AlignedBuffer, BLOCK_BYTES};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Bytes of one read.
const READ_BYTES: usize = 256 * BLOCK_BYTES;

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Files read to their end.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// What could not be read: file, offset and the system's reason.
    pub faults: Vec<String>,
}

/// Reads every file below `folder`. Links are not followed; a file that goes away meanwhile is no
/// fault: the log is recycled.
///
/// # Errors
/// Where the folder itself cannot be listed.
pub fn scrub(folder: &Path) -> io::Result<Scrubbed> {
    let mut scrubbed = Scrubbed::default();
    let mut buffer = AlignedBuffer::zeroed(READ_BYTES);
    let mut folders = vec![folder.to_owned()];
    fs::read_dir(folder)?;
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                scrubbed.fault(&folder, 0, &error);
                continue;
            }
        };
        for entry in entries {
            let entry = match entry.and_then(|entry| Ok((entry.file_type()?, entry.path()))) {
                Ok(entry) => entry,
                Err(error) => {
                    scrubbed.fault(&folder, 0, &error);
                    continue;
                }
            };
            match entry {
                (kind, path) if kind.is_dir() => folders.push(path),
                (kind, path) if kind.is_file() => read(&path, &mut buffer, &mut scrubbed),
                _ => {}
            }
        }
    }
    Ok(scrubbed)
}

impl Scrubbed {
    fn fault(&mut self, path: &Path, offset: u64, error: &io::Error) {
        if error.kind() != io::ErrorKind::NotFound {
            self.faults.push(format!("{} at byte {offset}: {error}", path.display()));
        }
    }
}

fn read(path: &Path, buffer: &mut AlignedBuffer, scrubbed: &mut Scrubbed) {
    let mut offset = 0;
    let file = match open(path) {
        Ok(file) => file,
        Err(error) => return scrubbed.fault(path, 0, &error),
    };
    loop {
        match file.read_at(buffer.as_mut_slice(), offset) {
            // The end, or a length that is no whole block: direct reads stop there.
            Ok(count) => {
                offset += u64::try_from(count).unwrap_or_default();
                if count < READ_BYTES {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return scrubbed.fault(path, offset, &error),
        }
    }
    scrubbed.files += 1;
    scrubbed.bytes += offset;
}

/// Past the page cache, where the file system can.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    match options.clone().custom_flags(libc::O_DIRECT).open(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => options.open(path),
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_file_is_read_to_its_end_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("wal")).unwrap();
        fs::write(folder.path().join("wal/0"), vec![1; READ_BYTES * 2 + 5]).unwrap();
        fs::write(folder.path().join("key"), b"x").unwrap();
        fs::write(folder.path().join("empty"), b"").unwrap();
        symlink("/proc/self/mem", folder.path().join("link")).unwrap();
        let scrubbed = scrub(folder.path()).unwrap();
        let bytes = u64::try_from(READ_BYTES * 2 + 6).unwrap();
        assert_eq!(scrubbed, Scrubbed { files: 3, bytes, faults: Vec::new() });
        assert!(scrub(&folder.path().join("none")).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_place_and_the_rest_is_read() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("good"), b"x").unwrap();
        let mut scrubbed = Scrubbed::default();
        let mut buffer = AlignedBuffer::zeroed(READ_BYTES);
        // Address 0 of a process is mapped nowhere: a read there fails as one of a bad sector does.
        read(Path::new("/proc/self/mem"), &mut buffer, &mut scrubbed);
        read(&folder.path().join("good"), &mut buffer, &mut scrubbed);
        read(&folder.path().join("gone"), &mut buffer, &mut scrubbed);
        assert_eq!((scrubbed.files, scrubbed.faults.len()), (1, 1), "{:?}", scrubbed.faults);
        assert!(scrubbed.faults[0].starts_with("/proc/self/mem at byte 0: "));
    }
}
