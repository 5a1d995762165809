//! A part of a disk as a file of its own: written through the kernel's cache, read past it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Reads past the cache are multiples of this, at multiples of it.
const ALIGNMENT: usize = 4096;
/// What is read at once.
const WINDOW: usize = 1 << 20;

/// Opens a disk for writing, and keeps everybody else from mounting it meanwhile.
///
/// # Errors
/// Where it is mounted or held by another device (EBUSY), or the system refuses.
pub fn open_alone(path: &Path) -> io::Result<File> {
    let is_block = std::fs::metadata(path)?.file_type().is_block_device();
    // On a file, O_EXCL has a meaning only together with O_CREAT.
    let flags = if is_block { libc::O_EXCL } else { 0 };
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

/// Bytes `start..start + bytes` of a disk.
#[derive(Debug)]
pub struct Part<'a> {
    disk: &'a File,
    start: u64,
    bytes: u64,
    at: u64,
}

impl<'a> Part<'a> {
    /// At its beginning.
    pub fn new(disk: &'a File, start: u64, bytes: u64) -> Self {
        Self { disk, start, bytes, at: 0 }
    }

    fn left(&self, wanted: usize) -> usize {
        let left = usize::try_from(self.bytes.saturating_sub(self.at)).unwrap_or(usize::MAX);
        wanted.min(left)
    }
}

impl Read for Part<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.left(into.len());
        let read = self.disk.read_at(&mut into[..count], self.start + self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for Part<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let count = self.left(from.len());
        let written = self.disk.write_at(&from[..count], self.start + self.at)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Part<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = place(to, self.at, self.bytes)?;
        Ok(self.at)
    }
}

fn place(to: SeekFrom, at: u64, bytes: u64) -> io::Result<u64> {
    let found = match to {
        SeekFrom::Start(start) => Some(start),
        SeekFrom::Current(by) => at.checked_add_signed(by),
        SeekFrom::End(by) => bytes.checked_add_signed(by),
    };
    found.ok_or_else(|| io::Error::other("a place before the first byte"))
}

/// Bytes of a disk as they lie on it: no page of the kernel's cache answers.
#[derive(Debug)]
pub struct Uncached {
    disk: File,
    start: u64,
    bytes: u64,
    at: u64,
    window: Vec<u8>,
    /// Where the aligned part of the window begins.
    first: usize,
    /// Which bytes of the disk are in it.
    held: std::ops::Range<u64>,
}

impl Uncached {
    /// `start` is a multiple of 4096.
    ///
    /// # Errors
    /// Where the disk cannot be opened so.
    pub fn open(path: &Path, start: u64, bytes: u64) -> io::Result<Self> {
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
        let is_block = std::fs::metadata(path)?.file_type().is_block_device();
        let disk = match direct {
            // A file on a file system that cannot, in a test.
            Err(_) if !is_block => File::open(path)?,
            other => other?,
        };
        let window = vec![0; WINDOW + ALIGNMENT];
        let first = window.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Ok(Self { disk, start, bytes, at: 0, window, first, held: 0..0 })
    }

    /// Fills the window with what lies around `at`.
    fn fill(&mut self, at: u64) -> io::Result<()> {
        let base = at / WINDOW as u64 * WINDOW as u64;
        let mut filled = 0;
        while filled < WINDOW {
            let into = &mut self.window[self.first + filled..self.first + WINDOW];
            let read = self.disk.read_at(into, base + filled as u64)?;
            filled += read;
            if read == 0 || !filled.is_multiple_of(ALIGNMENT) {
                break;
            }
        }
        self.held = base..base + filled as u64;
        Ok(())
    }
}

impl Read for Uncached {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.bytes.saturating_sub(self.at);
        let at = self.start + self.at;
        if left == 0 || into.is_empty() {
            return Ok(0);
        }
        if !self.held.contains(&at) {
            self.fill(at)?;
        }
        let end = self.held.end.min(at + left).min(at + into.len() as u64);
        let count = usize::try_from(end.saturating_sub(at)).unwrap_or(0);
        let from = self.first + usize::try_from(at - self.held.start).unwrap_or(0);
        into[..count].copy_from_slice(&self.window[from..from + count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Uncached {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = place(to, self.at, self.bytes)?;
        Ok(self.at)
    }
}

/// Only for readers of file systems that ask for both; nothing is written.
impl Write for Uncached {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::from(io::ErrorKind::ReadOnlyFilesystem))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_where_it_ends_and_is_read_past_the_cache() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 << 20).unwrap();
        let disk = open_alone(file.path()).unwrap();
        let mut part = Part::new(&disk, 1 << 20, 2 << 20);
        let bytes: Vec<u8> = (0..2_u32 << 20).map(|at| at.to_le_bytes()[1]).collect();
        part.write_all(&bytes).unwrap();
        assert!(part.write_all(b"x").is_err());
        disk.sync_all().unwrap();
        let mut whole = Vec::new();
        let mut read = Uncached::open(file.path(), 1 << 20, 2 << 20).unwrap();
        read.read_to_end(&mut whole).unwrap();
        assert!(whole == bytes);
        let mut some = [0; 7];
        read.seek(SeekFrom::End(-7)).unwrap();
        read.read_exact(&mut some).unwrap();
        assert_eq!(some, bytes[bytes.len() - 7..]);
        part.seek(SeekFrom::Start(5)).unwrap();
        part.read_exact(&mut some).unwrap();
        assert_eq!(some, bytes[5..12]);
        assert!(part.seek(SeekFrom::Current(-20)).is_err());
    }
}
