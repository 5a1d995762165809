//! An add-on to a unified kernel image: a PE program of systemd's, never run, with one more section
//! that has kernel arguments. systemd-stub appends them, under Secure Boot only where it is signed.

/// Where systemd's package puts the program to add to.
pub const STUB: &str = "/usr/lib/systemd/boot/efi/addonx64.efi.stub";
/// Of the section; eight bytes.
const NAME: &[u8; 8] = b".cmdline";
/// Initialised data, readable.
const CHARACTERISTICS: u32 = 0x4000_0040;
/// Bytes of arguments at most: what the kernel takes.
pub const LINE_BYTES_MAX: usize = 2048;
const SECTION_BYTES: usize = 40;
/// PE32+.
const MAGIC: u16 = 0x20b;

/// Why there is no add-on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddonError {
    /// It cannot be read as a PE program.
    #[error("it is no 64-bit PE program with room for a section ({0})")]
    Stub(&'static str),
    /// The arguments do not fit.
    #[error("{0} bytes of arguments, at most {LINE_BYTES_MAX} printable ASCII characters fit")]
    Line(usize),
}

/// A place in the program, little-endian as PE is.
struct Program(Vec<u8>);

impl Program {
    fn u16(&self, at: usize, what: &'static str) -> Result<u16, AddonError> {
        let bytes = at.checked_add(2).and_then(|end| self.0.get(at..end));
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(u16::from_le_bytes).ok_or(AddonError::Stub(what))
    }

    fn u32(&self, at: usize, what: &'static str) -> Result<u32, AddonError> {
        let bytes = at.checked_add(4).and_then(|end| self.0.get(at..end));
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_le_bytes).ok_or(AddonError::Stub(what))
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> Result<(), AddonError> {
        let place = at.checked_add(bytes.len()).and_then(|end| self.0.get_mut(at..end));
        place.ok_or(AddonError::Stub("it ends too early"))?.copy_from_slice(bytes);
        Ok(())
    }
}

/// The add-on with these arguments; the same ones give the same bytes.
///
/// 1. the header: one section more, the size of the image in memory  2. the section's header
/// 3. at the end of the file its bytes, filled up to the file's alignment
///
/// # Errors
/// Where the stub is none, or the arguments are empty or too long.
pub fn addon(stub: &[u8], line: &str) -> Result<Vec<u8>, AddonError> {
    let printable = line.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if line.is_empty() || line.len() > LINE_BYTES_MAX || !printable {
        return Err(AddonError::Line(line.len()));
    }
    let length = u32::try_from(line.len()).map_err(|_| AddonError::Line(line.len()))?;
    let mut program = Program(stub.to_vec());
    let header = index(program.u32(0x3c, "no PE header")?)?;
    let mark = header.checked_add(4).and_then(|end| stub.get(header..end));
    if !stub.starts_with(b"MZ") || mark != Some(b"PE\0\0") {
        return Err(AddonError::Stub("no PE header"));
    }
    let count = program.u16(header + 6, "no count of sections")?;
    let optional = header + 24;
    if program.u16(optional, "no optional header")? != MAGIC {
        return Err(AddonError::Stub("not PE32+"));
    }
    let in_memory = program.u32(optional + 32, "no alignment")?;
    let in_file = program.u32(optional + 36, "no alignment")?;
    let headers = index(program.u32(optional + 60, "no size of headers")?)?;
    let table = optional + usize::from(program.u16(header + 20, "no optional header")?);
    let entry = table + usize::from(count) * SECTION_BYTES;
    if count == 0 || entry + SECTION_BYTES > headers {
        return Err(AddonError::Stub("no room in its headers"));
    }
    let last = entry - SECTION_BYTES;
    let end = program.u32(last + 8, "no section")?.checked_add(program.u32(last + 12, "none")?);
    let address = aligned(end.ok_or(AddonError::Stub("a section too large"))?, in_memory)?;
    let file_end = u32::try_from(stub.len()).map_err(|_| AddonError::Stub("too large"))?;
    let (start, size) = (aligned(file_end, in_file)?, aligned(length, in_file)?);
    let whole = address.checked_add(length).ok_or(AddonError::Stub("too large"))?;
    let whole = aligned(whole, in_memory)?;

    program.put(header + 6, &count.saturating_add(1).to_le_bytes())?;
    program.put(optional + 56, &whole.to_le_bytes())?;
    // The checksum; nobody asks for it, and zero says so.
    program.put(optional + 64, &0_u32.to_le_bytes())?;
    program.put(entry, NAME)?;
    for (at, value) in [(8, length), (12, address), (16, size), (20, start)] {
        program.put(entry + at, &value.to_le_bytes())?;
    }
    program.put(entry + 24, &[0; 12])?;
    program.put(entry + 36, &CHARACTERISTICS.to_le_bytes())?;
    let mut bytes = program.0;
    bytes.resize(index(start)?, 0);
    bytes.extend_from_slice(line.as_bytes());
    bytes.resize(index(start)? + index(size)?, 0);
    Ok(bytes)
}

/// The arguments of an add-on; `None` where it has none.
pub fn line_of(bytes: &[u8]) -> Option<String> {
    let program = Program(bytes.to_vec());
    let header = index(program.u32(0x3c, "").ok()?).ok()?;
    let count = program.u16(header + 6, "").ok()?;
    let table = header + 24 + usize::from(program.u16(header + 20, "").ok()?);
    let mut entries = (0..usize::from(count)).map(|number| table + number * SECTION_BYTES);
    let entry = entries.find(|at| bytes.get(*at..at + NAME.len()) == Some(NAME))?;
    let size = index(program.u32(entry + 8, "").ok()?).ok()?;
    let start = index(program.u32(entry + 20, "").ok()?).ok()?;
    let text = bytes.get(start..start.checked_add(size)?)?;
    let text = std::str::from_utf8(text).ok()?;
    Some(text.trim_end_matches('\0').to_owned())
}

fn index(value: u32) -> Result<usize, AddonError> {
    usize::try_from(value).map_err(|_| AddonError::Stub("too large"))
}

fn aligned(value: u32, to: u32) -> Result<u32, AddonError> {
    value.checked_next_multiple_of(to.max(1)).ok_or(AddonError::Stub("too large"))
}

/// A stub as systemd 257's: headers of 1024 bytes, two sections.
#[cfg(test)]
pub(super) fn stub_for_tests() -> Vec<u8> {
    let mut program = Program(vec![0; 2048]);
    let mut put = |at: usize, bytes: &[u8]| program.put(at, bytes).unwrap();
    put(0, b"MZ");
    put(0x3c, &0x40_u32.to_le_bytes());
    put(0x40, b"PE\0\0");
    put(0x46, &2_u16.to_le_bytes());
    put(0x54, &240_u16.to_le_bytes());
    put(0x58, &MAGIC.to_le_bytes());
    for (at, value) in [(32, 4096_u32), (36, 512), (56, 12_288), (60, 1024)] {
        put(0x58 + at, &value.to_le_bytes());
    }
    for (section, name) in [(0_u32, b".text\0\0\0"), (1, b".sdmagic")] {
        let at = 0x148 + usize::try_from(section).unwrap() * SECTION_BYTES;
        put(at, name);
        put(at + 8, &0x34_u32.to_le_bytes());
        put(at + 12, &(0x1000 * (section + 1)).to_le_bytes());
        put(at + 16, &0x200_u32.to_le_bytes());
        put(at + 20, &(0x400 + 0x200 * section).to_le_bytes());
    }
    program.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_section_follows_the_last_one_in_file_and_memory() {
        let bytes = addon(&stub_for_tests(), "isolcpus=3 nohz_full=3").unwrap();
        let program = Program(bytes.clone());
        assert_eq!(program.u16(0x46, "").unwrap(), 3);
        assert_eq!(&bytes[0x198..0x1a0], NAME);
        let fields: Vec<_> =
            [8, 12, 16, 20].map(|at| program.u32(0x198 + at, "").unwrap()).to_vec();
        assert_eq!(fields, [22, 0x3000, 0x200, 0x800]);
        assert_eq!(program.u32(0x58 + 56, "").unwrap(), 0x4000);
        assert_eq!(&bytes[0x800..0x816], b"isolcpus=3 nohz_full=3");
        assert_eq!(bytes.len(), 0xa00);
        assert_eq!(line_of(&bytes).as_deref(), Some("isolcpus=3 nohz_full=3"));
        assert_eq!(line_of(&stub_for_tests()), None);
    }

    #[test]
    fn what_is_no_stub_is_refused() {
        assert!(matches!(addon(b"MZ", "ro"), Err(AddonError::Stub(_))));
        let mut full = stub_for_tests();
        full[0x46] = 17;
        let refused = addon(&full, "ro").unwrap_err().to_string();
        assert!(refused.contains("no room in its headers"), "{refused}");
        assert_eq!(addon(&stub_for_tests(), ""), Err(AddonError::Line(0)));
        assert_eq!(addon(&stub_for_tests(), "a\nb"), Err(AddonError::Line(3)));
        assert_eq!(addon(&stub_for_tests(), &"a".repeat(2049)), Err(AddonError::Line(2049)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_taken_without_a_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..600),
            header in 0_u32..700, count in any::<u16>(),
        ) {
            for (at, value) in [(0, b"MZ".to_vec()), (0x3c, header.to_le_bytes().to_vec())] {
                if let Some(place) = bytes.get_mut(at..at + value.len()) {
                    place.copy_from_slice(&value);
                }
            }
            let header = usize::try_from(header).unwrap();
            for (at, value) in [(header, b"PE\0\0".to_vec()),
                (header + 6, count.to_le_bytes().to_vec()),
                (header + 24, MAGIC.to_le_bytes().to_vec())] {
                if let Some(place) = bytes.get_mut(at..at + value.len()) {
                    place.copy_from_slice(&value);
                }
            }
            if let Ok(made) = addon(&bytes, "ro") {
                prop_assert!(made.len() > bytes.len());
                prop_assert_eq!(line_of(&made), Some("ro".to_owned()));
            }
        }
    }
}
