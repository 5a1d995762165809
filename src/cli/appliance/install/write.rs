//! From the running system to an empty disk.
//!
//! 1. mark the disk as unfinished  2. write root, hash tree, boot partition  3. flush
//! 4. read all of it back past the cache: root and tree against the root hash, files byte for byte
//! 5. enter the final partition table  6. read that back
//!
//! Until step 5 the disk has one partition, `basalt_unfinished`, over all of it: a machine whose
//! power fails before neither boots from it nor mistakes its root for a whole one.

use crate::cli::appliance::install::content::UNFINISHED;
use crate::cli::appliance::install::esp::{self, EspFile};
use crate::cli::appliance::install::gpt::{self, ALIGNMENT, Entry, Geometry, Guid, Table};
use crate::cli::appliance::install::part::{Part, Uncached, open_alone};
use crate::cli::appliance::install::verity::Superblock;
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write as _},
    path::Path,
};

/// What systemd-repart wants for the data partition, at least.
const DATA_BYTES_MIN: u64 = 512 << 20;
/// What is copied at once.
const PIECE: usize = 4 << 20;
/// Bytes at both ends of a disk that are cleared, so that no older signature is found there.
const CLEARED: u64 = 2 << 20;

/// What is installed.
pub struct Source {
    /// Root file system, checked while it is read.
    pub root: File,
    /// Its hash tree.
    pub tree: File,
    /// What the tree's superblock says.
    pub verity: Superblock,
    /// Of the kernel's command line.
    pub root_hash: Vec<u8>,
    /// Boot partition, root, tree: as on the disk that runs.
    pub slots: [Entry; 3],
    /// Of the boot partition.
    pub files: Vec<EspFile>,
}

/// A step of the work: its name, bytes done, bytes in all.
pub type Progress<'a> = &'a mut dyn FnMut(&'static str, u64, u64);

/// Where something failed, in words.
type Failed = String;

fn failed(what: &'static str) -> impl Fn(io::Error) -> Failed {
    move |error| format!("{what}: {error}")
}

/// Partitions of the new disk: boot, both slots; data is made by the first boot. Ids that must be
/// this disk's alone are fresh, those that the root hash gives stay.
pub fn layout(slots: &[Entry; 3], fresh: &mut dyn FnMut() -> Guid) -> Table {
    let [boot, root, tree] = slots;
    let empty = |like: &Entry, id: Guid| Entry {
        id,
        attributes: 0,
        name: "_empty".to_owned(),
        ..like.clone()
    };
    let mut entries = vec![
        Entry { id: fresh(), ..boot.clone() },
        root.clone(),
        tree.clone(),
        empty(root, fresh()),
        empty(tree, fresh()),
    ];
    let mut at = ALIGNMENT;
    for entry in &mut entries {
        entry.start = at;
        at = (at + entry.bytes).next_multiple_of(ALIGNMENT);
    }
    Table { id: fresh(), entries }
}

/// Bytes that a disk must have.
pub fn needed(slots: &[Entry; 3]) -> u64 {
    let table = layout(slots, &mut || [0; 16]);
    let end = table.entries.last().map_or(0, |entry| entry.start + entry.bytes);
    end + DATA_BYTES_MIN + 2 * ALIGNMENT
}

/// A fresh GUID (version 4).
///
/// # Errors
/// Where the system has no random numbers.
pub fn fresh_guid() -> io::Result<Guid> {
    let mut id = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut id)?;
    id[7] = id[7] & 0x0F | 0x40;
    id[8] = id[8] & 0x3F | 0x80;
    Ok(id)
}

/// Installs to the disk at `path`, which nobody else may use meanwhile, and gives back its table.
///
/// # Errors
/// Where the disk is in use or refuses, and where what is read back is not what was written.
pub fn install(
    path: &Path,
    geometry: Geometry,
    source: &mut Source,
    fresh: &mut dyn FnMut() -> Guid,
    progress: Progress<'_>,
) -> Result<Table, Failed> {
    let disk = open_alone(path).map_err(failed("the disk cannot be opened alone"))?;
    let table = layout(&source.slots, fresh);
    let encoded = gpt::encode(&table, geometry)?;
    let volume_id = u32::from_le_bytes(fresh()[..4].try_into().unwrap_or([1; 4]));
    progress("marking the disk as unfinished", 0, 1);
    mark(&disk, geometry, fresh()).map_err(failed("marking the disk"))?;
    let [boot, root, tree, spare @ ..] = table.entries.as_slice() else {
        return Err("no slots to write".to_owned());
    };
    let bytes = source.verity.data_bytes();
    copy((&mut source.root, bytes), &disk, root, "writing the root", progress)?;
    let bytes = source.verity.tree_bytes();
    copy((&mut source.tree, bytes), &disk, tree, "writing the hash tree", progress)?;
    for entry in spare {
        let mut part = Part::new(&disk, entry.start, entry.bytes);
        let zeros = vec![0; usize::try_from(ALIGNMENT.min(entry.bytes)).unwrap_or(0)];
        part.write_all(&zeros).map_err(failed("clearing the spare slot"))?;
    }
    let all: u64 = source.files.iter().map(|file| file.bytes.len() as u64).sum();
    let mut part = Part::new(&disk, boot.start, boot.bytes);
    let told = &mut |done| progress("writing the boot partition", done, all);
    esp::write(&mut part, geometry.sector, volume_id, &source.files, told)
        .map_err(failed("writing the boot partition"))?;
    progress("waiting for the disk", 0, 1);
    disk.sync_all().map_err(failed("flushing the disk"))?;
    verify(path, source, &table, progress)?;
    progress("entering the partition table", 0, 1);
    let mut writer = &disk;
    gpt::write(&mut writer, &encoded, |disk| disk.sync_all())
        .map_err(failed("writing the partition table"))?;
    verify_table(path, geometry, &encoded)?;
    Ok(table)
}

/// Clears both ends of the disk and gives it one partition with a name that says what happens.
fn mark(disk: &File, geometry: Geometry, id: Guid) -> io::Result<()> {
    let zeros = vec![0; usize::try_from(CLEARED).unwrap_or(0)];
    for at in [0, geometry.bytes.saturating_sub(CLEARED)] {
        Part::new(disk, at, geometry.bytes - at).write_all(&zeros)?;
    }
    disk.sync_all()?;
    let bytes = geometry.usable_end() - ALIGNMENT;
    let name = UNFINISHED.to_owned();
    let only = Entry { kind: gpt::LINUX, id, start: ALIGNMENT, bytes, attributes: 0, name };
    let table = Table { id, entries: vec![only] };
    let encoded = gpt::encode(&table, geometry).map_err(io::Error::other)?;
    let mut writer = disk;
    gpt::write(&mut writer, &encoded, |disk| disk.sync_all())
}

/// Copies the first bytes of a file to the beginning of a partition.
fn copy(
    (from, bytes): (&mut File, u64),
    disk: &File,
    to: &Entry,
    step: &'static str,
    progress: Progress<'_>,
) -> Result<(), Failed> {
    if bytes > to.bytes {
        return Err(format!("{step}: {bytes} bytes are more than the {} of its slot", to.bytes));
    }
    from.seek(SeekFrom::Start(0)).map_err(failed(step))?;
    let mut part = Part::new(disk, to.start, to.bytes);
    let (mut piece, mut done) = (vec![0; PIECE], 0);
    while done < bytes {
        let count = usize::try_from(bytes - done).unwrap_or(PIECE).min(PIECE);
        from.read_exact(&mut piece[..count]).map_err(failed(step))?;
        part.write_all(&piece[..count]).map_err(failed(step))?;
        // What is told as done is on the disk.
        disk.sync_data().map_err(failed(step))?;
        done += count as u64;
        progress(step, done, bytes);
    }
    Ok(())
}

fn verify(
    path: &Path,
    source: &Source,
    table: &Table,
    progress: Progress<'_>,
) -> Result<(), Failed> {
    let read_back = "what was read back is not what was written";
    let open = |at: usize| {
        let entry = &table.entries[at];
        Uncached::open(path, entry.start, entry.bytes).map_err(failed("reading back"))
    };
    let (mut boot, mut root, mut tree) = (open(0)?, open(1)?, open(2)?);
    let head = Superblock::read(&mut tree).map_err(failed(read_back))?;
    let all = source.verity.data_bytes();
    let mut told = |blocks: u64| {
        if blocks.is_multiple_of(256) {
            progress("reading the root back", blocks * 4096, all);
        }
    };
    if head != source.verity {
        return Err(format!("{read_back}: the superblock of the hash tree"));
    }
    head.verify(&mut root, &mut tree, &source.root_hash, &mut told).map_err(failed(read_back))?;
    let all: u64 = source.files.iter().map(|file| file.bytes.len() as u64).sum();
    let told = &mut |done| progress("reading the boot partition back", done, all);
    esp::verify(&mut boot, &source.files, told).map_err(failed(read_back))
}

fn verify_table(path: &Path, geometry: Geometry, wanted: &gpt::Encoded) -> Result<(), Failed> {
    for (at, bytes) in [(0, &wanted.primary), (wanted.backup_at, &wanted.backup)] {
        let aligned = at / 4096 * 4096;
        let mut disk = Uncached::open(path, aligned, geometry.bytes - aligned)
            .map_err(failed("reading the partition table back"))?;
        let mut found = vec![0; bytes.len()];
        disk.seek(SeekFrom::Start(at - aligned))
            .and_then(|_| disk.read_exact(&mut found))
            .map_err(failed("reading the partition table back"))?;
        if found != *bytes {
            return Err(format!("the partition table at byte {at} differs from what was written"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::appliance::install::content::{self, Kind};
    use crate::cli::appliance::install::verity::tests::made;
    use std::os::unix::fs::FileExt as _;

    const MIB: u64 = 1 << 20;

    fn slot(kind: Guid, id: u8, mib: u64, name: &str) -> Entry {
        let name = name.to_owned();
        Entry { kind, id: [id; 16], start: 0, bytes: mib * MIB, attributes: 1 << 60, name }
    }

    fn slots() -> [Entry; 3] {
        [
            slot(gpt::ESP, 1, 64, "esp"),
            slot(gpt::ROOT, 2, 4, "basalt_1"),
            slot(gpt::ROOT_VERITY, 3, 1, "basalt_1_verity"),
        ]
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn source() -> Source {
        let (data, tree, root_hash) = made(300);
        let verity = Superblock::read(&mut io::Cursor::new(&tree)).unwrap();
        let files = vec![EspFile { path: "EFI/BOOT/BOOTX64.EFI".to_owned(), bytes: vec![7; 9999] }];
        let (root, tree) = (file(&data), file(&tree));
        Source { root, tree, verity, root_hash, slots: slots(), files }
    }

    fn disk(bytes: u64) -> (tempfile::NamedTempFile, Geometry) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        file.as_file().write_at(b"an older life", 7).unwrap();
        (file, Geometry { bytes, sector: 512 })
    }

    fn counting() -> impl FnMut() -> Guid {
        let mut count = 100;
        move || {
            count += 1;
            [count; 16]
        }
    }

    #[test]
    fn a_disk_gets_both_slots_fresh_ids_and_the_roots_own() {
        let (target, geometry) = disk(120 * MIB);
        let mut steps = Vec::new();
        let told = &mut |step, _, _| steps.push(step);
        let table = install(target.path(), geometry, &mut source(), &mut counting(), told).unwrap();
        let mut read = File::open(target.path()).unwrap();
        assert_eq!(gpt::read(&mut read, geometry).unwrap(), table);
        let names: Vec<&str> = table.entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["esp", "basalt_1", "basalt_1_verity", "_empty", "_empty"]);
        let ids: Vec<u8> = table.entries.iter().map(|entry| entry.id[0]).collect();
        assert_eq!(ids, [101, 2, 3, 102, 103]);
        let (data, ..) = made(300);
        let mut found = vec![0; data.len()];
        read.read_exact_at(&mut found, table.entries[1].start).unwrap();
        assert!(found == data);
        steps.dedup();
        assert_eq!(steps.first(), Some(&"marking the disk as unfinished"));
        assert_eq!(steps.last(), Some(&"entering the partition table"));
    }

    /// Power fails while the root is written: the progress callback never comes back.
    #[test]
    fn a_disk_that_was_left_half_written_is_known_as_such() {
        let (target, geometry) = disk(120 * MIB);
        let path = target.path().to_owned();
        let cut = std::panic::catch_unwind(move || {
            let told = &mut |step, _, _| assert_ne!(step, "reading the root back", "power fails");
            install(&path, geometry, &mut source(), &mut counting(), told)
        });
        assert!(cut.is_err());
        let nodes = [target.path().to_owned()];
        assert_eq!(content::look(&nodes, geometry).kind, Kind::Unfinished);
        let told = &mut |_, _, _| ();
        install(target.path(), geometry, &mut source(), &mut counting(), told).unwrap();
        assert_ne!(content::look(&nodes, geometry).kind, Kind::Unfinished);
    }

    #[test]
    fn a_disk_that_loses_bytes_is_found_out_before_it_gets_a_table() {
        for lost in [65 * MIB + 5000, 69 * MIB + 4096 + 5] {
            let (target, geometry) = disk(120 * MIB);
            let other = target.reopen().unwrap();
            let told = &mut |step, _, _| {
                if step == "waiting for the disk" {
                    other.write_at(b"?", lost).unwrap();
                }
            };
            let refused =
                install(target.path(), geometry, &mut source(), &mut counting(), told).unwrap_err();
            assert!(refused.contains("is not what was written"), "{refused}");
            let mut read = File::open(target.path()).unwrap();
            let table = gpt::read(&mut read, geometry).unwrap();
            assert_eq!(table.entries[0].name, UNFINISHED);
        }
    }

    #[test]
    fn what_is_needed_has_room_for_data() {
        assert_eq!(needed(&slots()), (1 + 64 + 5 + 5 + 512 + 2) * MIB);
        let (target, geometry) = disk(70 * MIB);
        let told = &mut |_, _, _| ();
        let refused = install(target.path(), geometry, &mut source(), &mut counting(), told);
        assert!(refused.unwrap_err().contains("does not fit"));
        let mut head = [0; 13];
        target.as_file().read_exact_at(&mut head, 7).unwrap();
        assert_eq!(&head, b"an older life");
    }
}
