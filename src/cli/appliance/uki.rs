//! What a unified kernel image says of its version, without booting it: the section `.osrel` holds
//! the os-release of the root that it starts.

use crate::cli::appliance::console_facts::assigned;
use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

/// Newest format of a data folder that a version reads, in its os-release.
pub const STATE_FORMAT: &str = "BASALT_STATE_FORMAT";
/// Sections of an image at most, as UEFI's loaders have it.
const SECTIONS_MAX: u16 = 96;
/// Bytes of an os-release at most.
const TEXT_BYTES_MAX: u32 = 64 * 1024;
/// A section's row in the table of a PE file.
const ROW_BYTES: usize = 40;

/// The state format that the version in this image reads; `None` where it does not say.
///
/// # Errors
/// Where the file cannot be read or is no unified kernel image.
pub fn state_format(path: &Path) -> Result<Option<u32>, String> {
    let text = File::open(path).and_then(os_release);
    let text = text.map_err(|error| format!("{}: cannot be read ({error})", path.display()))?;
    Ok(assigned(&text, STATE_FORMAT).and_then(|number| number.parse().ok()))
}

/// Byte layout: at 0x3C the offset of `PE\0\0`; after it a COFF header of 20 bytes (number of
/// sections at 2, size of the optional header at 16), the optional header, then a row a section:
/// name(8) size in memory(4) address(4) size in the file(4) offset in the file(4) ….
fn os_release(mut file: File) -> io::Result<String> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut start = [0; 64];
    file.read_exact(&mut start)?;
    let mut head = [0; 24];
    file.seek(SeekFrom::Start(u64::from(u32_at(&start, 0x3C))))?;
    file.read_exact(&mut head)?;
    if start[..2] != *b"MZ" || head[..4] != *b"PE\0\0" {
        return Err(wrong("no UEFI program"));
    }
    let (sections, optional) = (u16_at(&head, 6), u16_at(&head, 20));
    file.seek(SeekFrom::Current(i64::from(optional)))?;
    for _ in 0..sections.min(SECTIONS_MAX) {
        let mut row = [0; ROW_BYTES];
        file.read_exact(&mut row)?;
        if row[..8] != *b".osrel\0\0" {
            continue;
        }
        // What is in the file is padded; what is in memory is the text.
        let bytes = u32_at(&row, 8).min(u32_at(&row, 16));
        if bytes > TEXT_BYTES_MAX {
            return Err(wrong("its .osrel is too long"));
        }
        file.seek(SeekFrom::Start(u64::from(u32_at(&row, 20))))?;
        let mut text = Vec::new();
        file.take(u64::from(bytes)).read_to_end(&mut text)?;
        return Ok(String::from_utf8_lossy(&text).into_owned());
    }
    Err(wrong("no section .osrel: no unified kernel image"))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    /// An image with one other section before the one that counts.
    fn image(text: &str) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3C] = 64;
        bytes.extend(b"PE\0\0");
        let mut coff = [0; 20];
        (coff[2], coff[16]) = (2, 4);
        bytes.extend(coff);
        bytes.extend([7; 4]);
        let at = u32::try_from(bytes.len() + 2 * ROW_BYTES).unwrap();
        for (name, size) in [(b".linux\0\0", 9), (b".osrel\0\0", text.len())] {
            let mut row = [0; ROW_BYTES];
            row[..8].copy_from_slice(name);
            row[8..12].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
            row[16..20].copy_from_slice(&512_u32.to_le_bytes());
            row[20..24].copy_from_slice(&at.to_le_bytes());
            bytes.extend(row);
        }
        bytes.extend(text.as_bytes());
        bytes.extend([0; 16]);
        bytes
    }

    #[test]
    fn the_format_is_read_from_the_section() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.efi");
        fs::write(&path, image("ID=debian\nBASALT_STATE_FORMAT=7\n")).unwrap();
        assert_eq!(state_format(&path), Ok(Some(7)));
        fs::write(&path, image("ID=debian\n")).unwrap();
        assert_eq!(state_format(&path), Ok(None));
        for bytes in [&b""[..], b"MZ", &[0; 200]] {
            fs::write(&path, bytes).unwrap();
            assert!(state_format(&path).unwrap_err().contains("a.efi: cannot be read"));
        }
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0_usize..200, value in any::<u8>()) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.efi");
            let mut bytes = image("BASALT_STATE_FORMAT=7\n");
            bytes[at] = value;
            fs::write(&path, bytes).unwrap();
            state_format(&path).ok();
        }
    }
}
