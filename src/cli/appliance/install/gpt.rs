//! Partition tables: GUID partition tables, read from one disk and written to another whose
//! sectors may have another size. What is on the partitions is not looked at.
//!
//! Layout (UEFI 2.10, 5.3): protective MBR in sector 0, header in sector 1, 128 entries of 128
//! bytes after it; a copy of the entries and of the header ends the disk.

use std::io::{self, Read, Seek, SeekFrom, Write};

/// Entries that a table has room for.
const ENTRIES: usize = 128;
const ENTRY_BYTES: usize = 128;
const HEADER_BYTES: usize = 92;
const SIGNATURE: &[u8; 8] = b"EFI PART";
/// Partitions begin at multiples of this.
pub const ALIGNMENT: u64 = 1 << 20;
/// Characters of a partition's name.
const NAME_UNITS: usize = 36;

/// A GUID in the order of bytes that it has on disks.
pub type Guid = [u8; 16];

/// EFI system partition.
pub const ESP: Guid = guid(0xC12A_7328, 0xF81F, 0x11D2, 0xBA4B_00A0_C93E_C93B);
/// Root file system for x86-64.
pub const ROOT: Guid = guid(0x4F68_BCE3, 0xE8CD, 0x4DB1, 0x96E7_FBCA_F984_B709);
/// Hash tree of a root file system for x86-64.
pub const ROOT_VERITY: Guid = guid(0x2C73_57ED, 0xEBD2, 0x46D9, 0xAEC1_23D4_37EC_2BF5);
/// Data of Linux.
pub const LINUX: Guid = guid(0x0FC6_3DAF, 0x8483, 0x4772, 0x8E79_3D69_D847_7DE4);

/// The bytes of a GUID that is written as `first-second-third-rest`.
pub const fn guid(first: u32, second: u16, third: u16, rest: u64) -> Guid {
    let (a, b, c, d) =
        (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes(), rest.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// As it is written: `0fc63daf-8483-4772-8e79-3d69d8477de4`.
pub fn shown(id: &Guid) -> String {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *id;
    let tail = hex::encode(rest);
    let (fourth, fifth) = tail.split_at(4);
    let head = hex::encode([d, c, b, a]);
    format!("{head}-{}-{}-{fourth}-{fifth}", hex::encode([f, e]), hex::encode([h, g]))
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is for.
    pub kind: Guid,
    /// Its own.
    pub id: Guid,
    /// Where it begins on the disk, in bytes.
    pub start: u64,
    /// Its size.
    pub bytes: u64,
    /// Flags of its kind: read-only, no automatic mount and so on.
    pub attributes: u64,
    /// Its name.
    pub name: String,
}

/// A disk's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The disk's own id.
    pub id: Guid,
    /// In the order of the table.
    pub entries: Vec<Entry>,
}

/// What a disk must have for a table to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Of the disk.
    pub bytes: u64,
    /// A logical sector: 512 or 4096.
    pub sector: u64,
}

impl Geometry {
    fn entry_sectors(self) -> u64 {
        ((ENTRIES * ENTRY_BYTES) as u64).div_ceil(self.sector)
    }

    fn last_sector(self) -> u64 {
        self.bytes / self.sector - 1
    }

    /// Where the last partition has to end, in bytes.
    pub fn usable_end(self) -> u64 {
        (self.last_sector() - self.entry_sectors()) * self.sector / ALIGNMENT * ALIGNMENT
    }
}

/// A table as it is written: the copy at the disk's end first, so that a cut between the two
/// leaves one that is whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Encoded {
    /// From the disk's first byte.
    pub primary: Vec<u8>,
    /// To the disk's last sector.
    pub backup: Vec<u8>,
    /// Where that begins.
    pub backup_at: u64,
}

/// The bytes of a table.
///
/// # Errors
/// Where it has too many partitions, one that is not on the disk, or a name that is too long.
pub fn encode(table: &Table, geometry: Geometry) -> Result<Encoded, String> {
    let Geometry { sector, .. } = geometry;
    if table.entries.len() > ENTRIES {
        return Err(format!("{} partitions are more than {ENTRIES}", table.entries.len()));
    }
    let mut entries = Vec::with_capacity(ENTRIES * ENTRY_BYTES);
    for entry in &table.entries {
        entries.extend(encoded(entry, geometry)?);
    }
    entries.resize(ENTRIES * ENTRY_BYTES, 0);
    let (last, rows) = (geometry.last_sector(), geometry.entry_sectors());
    let header = |at: u64, other: u64, rows_at: u64| {
        let mut head = Vec::with_capacity(HEADER_BYTES);
        head.extend(SIGNATURE);
        head.extend(0x0001_0000_u32.to_le_bytes());
        head.extend(92_u32.to_le_bytes());
        head.extend([0; 8]); // Own checksum, filled in below; reserved.
        for value in [at, other, 2 + rows, last - rows - 1] {
            head.extend(value.to_le_bytes());
        }
        head.extend(table.id);
        head.extend(rows_at.to_le_bytes());
        head.extend(128_u32.to_le_bytes());
        head.extend(128_u32.to_le_bytes());
        head.extend(crc32(&entries).to_le_bytes());
        let own = crc32(&head).to_le_bytes();
        head[16..20].copy_from_slice(&own);
        head
    };
    let pad = |bytes: &mut Vec<u8>| {
        let whole = (bytes.len() as u64).next_multiple_of(sector);
        bytes.resize(usize::try_from(whole).unwrap_or(usize::MAX), 0);
    };
    let mut primary = protective_mbr(last);
    pad(&mut primary);
    primary.extend(header(1, last, 2));
    pad(&mut primary);
    primary.extend(&entries);
    pad(&mut primary);
    let mut backup = entries.clone();
    pad(&mut backup);
    backup.extend(header(last, 1, last - rows));
    pad(&mut backup);
    Ok(Encoded { primary, backup, backup_at: (last - rows) * sector })
}

fn encoded(entry: &Entry, geometry: Geometry) -> Result<Vec<u8>, String> {
    let (name, sector) = (&entry.name, geometry.sector);
    let end = entry.start.checked_add(entry.bytes).filter(|end| *end <= geometry.usable_end());
    let on_disk = entry.start >= ALIGNMENT && entry.bytes > 0;
    let whole = entry.start.is_multiple_of(sector) && entry.bytes.is_multiple_of(sector);
    let Some(end) = end.filter(|_| on_disk && whole) else {
        let Entry { start, bytes, .. } = entry;
        return Err(format!(
            "partition \"{name}\" at {start} of {bytes} bytes does not fit a disk of {} bytes",
            geometry.bytes
        ));
    };
    let mut units: Vec<u16> = name.encode_utf16().collect();
    if units.len() > NAME_UNITS {
        return Err(format!("partition \"{name}\": its name is longer than {NAME_UNITS}"));
    }
    units.resize(NAME_UNITS, 0);
    let mut bytes = Vec::with_capacity(ENTRY_BYTES);
    bytes.extend(entry.kind);
    bytes.extend(entry.id);
    bytes.extend((entry.start / sector).to_le_bytes());
    bytes.extend((end / sector - 1).to_le_bytes());
    bytes.extend(entry.attributes.to_le_bytes());
    bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
    Ok(bytes)
}

/// One partition of type EE over all of the disk, so that no tool takes the disk for empty.
fn protective_mbr(last: u64) -> Vec<u8> {
    let mut mbr = vec![0; 512];
    let sectors = u32::try_from(last).unwrap_or(u32::MAX);
    mbr[447..454].copy_from_slice(&[0x00, 0x02, 0x00, 0xEE, 0xFF, 0xFF, 0xFF]);
    mbr[454..458].copy_from_slice(&1_u32.to_le_bytes());
    mbr[458..462].copy_from_slice(&sectors.to_le_bytes());
    mbr[510..512].copy_from_slice(&[0x55, 0xAA]);
    mbr
}

/// Reads a disk's table: the one at its head, or where that is broken the copy at its end.
///
/// # Errors
/// Where there is none, or the disk cannot be read.
pub fn read(disk: &mut (impl Read + Seek), geometry: Geometry) -> io::Result<Table> {
    let head = read_at_sector(disk, geometry, 1)?;
    if let Some(table) = head {
        return Ok(table);
    }
    let tail = read_at_sector(disk, geometry, geometry.last_sector())?;
    tail.ok_or_else(|| io::Error::other("no GUID partition table"))
}

fn read_at_sector(
    disk: &mut (impl Read + Seek),
    geometry: Geometry,
    at: u64,
) -> io::Result<Option<Table>> {
    let mut head = vec![0; HEADER_BYTES];
    disk.seek(SeekFrom::Start(at * geometry.sector))?;
    disk.read_exact(&mut head)?;
    let number =
        |from: usize| u64::from_le_bytes(head[from..from + 8].try_into().unwrap_or([0; 8]));
    let small = |from: usize| u32::from_le_bytes(head[from..from + 4].try_into().unwrap_or([0; 4]));
    let mut unsummed = head.clone();
    unsummed[16..20].fill(0);
    let is_whole = &head[..8] == SIGNATURE
        && small(12) == 92
        && crc32(&unsummed) == small(16)
        && number(24) == at
        && (small(80), small(84)) == (128, 128);
    if !is_whole {
        return Ok(None);
    }
    let mut rows = vec![0; ENTRIES * ENTRY_BYTES];
    let rows_at = number(72).checked_mul(geometry.sector);
    disk.seek(SeekFrom::Start(rows_at.ok_or_else(|| io::Error::other("a table off the disk"))?))?;
    disk.read_exact(&mut rows)?;
    if crc32(&rows) != small(88) {
        return Ok(None);
    }
    let id = head[56..72].try_into().unwrap_or([0; 16]);
    let used = rows.chunks_exact(ENTRY_BYTES).filter(|row| row[..16] != [0; 16]);
    Ok(Some(Table { id, entries: used.map(|row| decoded(row, geometry)).collect() }))
}

fn decoded(row: &[u8], geometry: Geometry) -> Entry {
    let number = |from: usize| u64::from_le_bytes(row[from..from + 8].try_into().unwrap_or([0; 8]));
    let (first, last) = (number(32), number(40));
    let units = row[56..].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    Entry {
        kind: row[..16].try_into().unwrap_or([0; 16]),
        id: row[16..32].try_into().unwrap_or([0; 16]),
        start: first.saturating_mul(geometry.sector),
        bytes: last.saturating_add(1).saturating_sub(first).saturating_mul(geometry.sector),
        attributes: number(48),
        name: String::from_utf16_lossy(&units),
    }
}

/// Writes a table, the copy first. Each part is on the disk (`sync`) before the next one begins.
///
/// # Errors
/// Where the disk refuses.
pub fn write<D: Write + Seek>(
    disk: &mut D,
    table: &Encoded,
    sync: impl Fn(&mut D) -> io::Result<()>,
) -> io::Result<()> {
    disk.seek(SeekFrom::Start(table.backup_at))?;
    disk.write_all(&table.backup)?;
    sync(disk)?;
    disk.seek(SeekFrom::Start(0))?;
    disk.write_all(&table.primary)?;
    sync(disk)
}

/// CRC-32 of IEEE 802.3, which the table is summed with.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    };
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const MIB: u64 = 1 << 20;

    fn table() -> Table {
        let entry = |kind, id: u8, start, bytes, name: &str| Entry {
            kind,
            id: [id; 16],
            start: start * MIB,
            bytes: bytes * MIB,
            attributes: u64::from(id) << 60,
            name: name.to_owned(),
        };
        let entries = vec![
            entry(ESP, 1, 1, 4, "esp"),
            entry(ROOT, 2, 5, 8, "basalt_0.1.0"),
            entry(LINUX, 3, 13, 2, "ö"),
        ];
        Table { id: [9; 16], entries }
    }

    fn written(geometry: Geometry) -> Cursor<Vec<u8>> {
        let mut disk = Cursor::new(vec![0; usize::try_from(geometry.bytes).unwrap()]);
        write(&mut disk, &encode(&table(), geometry).unwrap(), |_| Ok(())).unwrap();
        disk
    }

    #[test]
    fn a_table_is_read_as_it_was_written_with_either_size_of_sectors() {
        for sector in [512, 4096] {
            let geometry = Geometry { bytes: 16 * MIB + 65_536, sector };
            let mut disk = written(geometry);
            assert_eq!(read(&mut disk, geometry).unwrap(), table());
        }
    }

    #[test]
    fn a_broken_head_leaves_the_copy_at_the_end() {
        let geometry = Geometry { bytes: 17 * MIB, sector: 512 };
        for at in [512 + 40, 1024 + 7] {
            let mut disk = written(geometry);
            disk.get_mut()[at] ^= 1;
            assert_eq!(read(&mut disk, geometry).unwrap(), table());
            let end = disk.get_ref().len() - 512 + 40;
            disk.get_mut()[end] ^= 1;
            assert!(read(&mut disk, geometry).is_err());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let geometry = Geometry { bytes: 15 * MIB, sector: 512 };
        let refused = encode(&table(), geometry).unwrap_err();
        assert!(refused.contains("\"ö\" at 13631488 of 2097152 bytes does not fit"), "{refused}");
        let mut long = table();
        long.entries[0].name = "n".repeat(37);
        assert!(encode(&long, Geometry { bytes: 17 * MIB, sector: 512 }).is_err());
    }

    #[test]
    fn checksums_and_ids_are_those_of_the_standards() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(shown(&LINUX), "0fc63daf-8483-4772-8e79-3d69d8477de4");
    }
}
