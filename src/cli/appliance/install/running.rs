//! What the running system was started from: the disk, the slot and its boot partition. That is
//! what is installed, and the disk that is never chosen.

use crate::cli::appliance::console_facts::{assigned, version};
use crate::cli::appliance::install::disk::Machine;
use crate::cli::appliance::install::esp::{self, EspFile};
use crate::cli::appliance::install::gpt::{self, ESP, Entry, Geometry, ROOT, ROOT_VERITY, Table};
use crate::cli::appliance::install::verity::Superblock;
use crate::cli::appliance::install::write::Source;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

/// What the initrd has found out about the disk that was booted: lines of `key=value`.
pub const STATE: &str = "run/basalt-disk/state";
/// Where the boot partition may be mounted.
const ESP_PLACES: [&str; 2] = ["efi", "boot"];

/// The running system's parts on disks.
#[derive(Debug, Clone)]
pub struct Running {
    /// Disks that it needs: the one of the root, the one of the boot partition. Never empty.
    pub disks: Vec<String>,
    /// Boot partition, root, hash tree.
    pub slots: [Entry; 3],
    /// Of the image.
    pub version: String,
    /// Its name with its version: `basalt_0.1.0`.
    image: String,
    /// Of the kernel's command line, in hexadecimal digits.
    pub root_hash: String,
    /// Where the boot partition is mounted.
    esp: PathBuf,
    /// Device of the hash tree's partition.
    tree: PathBuf,
    /// Device of the verified root.
    root: PathBuf,
}

/// Disks that the running system needs, as far as can be told; for machines that run no image, too.
pub fn disks_in_use(machine: &Machine) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for part in root_parts(machine).map(|(_, parts)| parts).unwrap_or_default() {
        found.extend(parent(machine, &part));
    }
    found.extend(esp_part(machine).and_then(|(part, _)| parent(machine, &part)));
    found.extend(boot_disk(machine));
    found.sort();
    found.dedup();
    found
}

/// The disk that the firmware has started: as the initrd says, else the one of the boot partition.
pub fn boot_disk(machine: &Machine) -> Option<String> {
    let told = state(machine, "disk").and_then(|path| Some(path.strip_prefix("/dev/")?.to_owned()));
    told.or_else(|| esp_part(machine).and_then(|(part, _)| parent(machine, &part)))
}

/// What the initrd says under this key.
pub fn state(machine: &Machine, key: &str) -> Option<String> {
    let text = fs::read_to_string(machine.root.join(STATE)).ok()?;
    let mut values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.next().map(str::to_owned).filter(|value| !value.is_empty())
}

/// Finds the running slot.
///
/// # Errors
/// Where this is no image, or its parts cannot be found.
pub fn running(machine: &Machine) -> Result<Running, String> {
    let no_image = "this system does not run the Basalt image";
    let line = fs::read_to_string(machine.root.join("proc/cmdline")).unwrap_or_default();
    let mut hashes = line.split_whitespace().filter_map(|word| word.strip_prefix("roothash="));
    let root_hash = hashes.next_back().ok_or_else(|| {
        format!("{no_image} (no roothash= among the kernel's arguments); start it from a stick")
    })?;
    let (mapped, parts) = root_parts(machine)
        .ok_or_else(|| format!("{no_image} (no verified root); start it from a stick"))?;
    let (esp, place) = esp_part(machine).ok_or("the boot partition is not mounted on /efi")?;
    let mut found: Vec<(String, Entry)> = Vec::new();
    for part in parts.iter().chain([&esp]) {
        found.push((part.clone(), entry_of(machine, part)?));
    }
    let take = |kind: gpt::Guid, what: &str| {
        let of_kind = found.iter().find(|(_, entry)| entry.kind == kind);
        of_kind.cloned().ok_or_else(|| format!("{what} is not among {parts:?} and {esp}"))
    };
    let (tree, tree_entry) = take(ROOT_VERITY, "the hash tree")?;
    let slots =
        [take(ESP, "the boot partition")?.1, take(ROOT, "the root file system")?.1, tree_entry];
    let release = fs::read_to_string(machine.root.join("etc/os-release")).unwrap_or_default();
    let (id, version) = (assigned(&release, "IMAGE_ID"), version(&machine.root));
    Ok(Running {
        image: format!("{}_{version}", id.as_deref().unwrap_or("basalt")),
        disks: disks_in_use(machine),
        slots,
        version,
        root_hash: root_hash.to_owned(),
        esp: place,
        tree: machine.device(&tree),
        root: machine.device(&mapped),
    })
}

impl Running {
    /// What is on the boot partition and belongs to the new disk.
    ///
    /// # Errors
    /// As `esp::collect`.
    pub fn files(&self) -> Result<Vec<EspFile>, String> {
        esp::collect(&self.esp, &self.image, &self.root_hash)
    }

    /// Opens what is to be installed.
    ///
    /// # Errors
    /// Where it cannot be read, or is not what the image's build made.
    pub fn source(&self, files: Vec<EspFile>) -> Result<Source, String> {
        let open = |path: &Path| {
            File::open(path)
                .map_err(|error| format!("{}: cannot be opened ({error})", path.display()))
        };
        let (root, mut tree) = (open(&self.root)?, open(&self.tree)?);
        let verity = Superblock::read(&mut tree)
            .map_err(|error| format!("{}: {error}", self.tree.display()))?;
        let root_hash = hex::decode(&self.root_hash)
            .map_err(|error| format!("roothash={}: {error}", self.root_hash))?;
        Ok(Source { root, tree, verity, root_hash, slots: self.slots.clone(), files })
    }
}

/// The verified root's device, and the partitions that it is made of.
fn root_parts(machine: &Machine) -> Option<(String, Vec<String>)> {
    let blocks = fs::read_dir(machine.root.join("sys/block")).ok()?.flatten();
    let mut mapped = blocks.map(|entry| entry.path()).filter(|path| {
        fs::read_to_string(path.join("dm/name")).is_ok_and(|name| name.trim() == "root")
    });
    let mapped = mapped.next()?;
    let below = fs::read_dir(mapped.join("slaves")).ok()?.flatten();
    let mut below: Vec<_> = below.map(|it| it.file_name().to_string_lossy().into_owned()).collect();
    below.sort();
    Some((mapped.file_name()?.to_string_lossy().into_owned(), below))
}

/// The boot partition's device and where it is mounted. Looking into the folder mounts it.
fn esp_part(machine: &Machine) -> Option<(String, PathBuf)> {
    for place in ESP_PLACES {
        let folder = machine.root.join(place);
        if !folder.join("loader").is_dir() {
            continue;
        }
        let table = fs::read_to_string(machine.root.join("proc/self/mountinfo")).ok()?;
        let found = table.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut right = right.split(' ');
            let (kind, source) = (right.next()?, right.next()?);
            let is_it = left.split(' ').nth(4) == Some(&format!("/{place}")) && kind == "vfat";
            is_it.then(|| source.strip_prefix("/dev/").map(str::to_owned)).flatten()
        });
        if let Some(device) = found {
            return Some((device, folder));
        }
    }
    None
}

/// The whole disk of a partition.
fn parent(machine: &Machine, part: &str) -> Option<String> {
    let path = fs::canonicalize(machine.root.join("sys/class/block").join(part)).ok()?;
    Some(path.parent()?.file_name()?.to_string_lossy().into_owned())
}

/// A partition's row in the table of its disk.
fn entry_of(machine: &Machine, part: &str) -> Result<Entry, String> {
    let disk = parent(machine, part).ok_or_else(|| format!("{part}: its disk is not known"))?;
    let sys = machine.root.join("sys/class/block");
    let number = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let parsed = text.trim().parse::<u64>();
        parsed.map_err(|error| format!("{}: {text:?} is no number ({error})", path.display()))
    };
    let start = number(sys.join(part).join("start"))? * 512;
    let bytes = number(sys.join(&disk).join("size"))? * 512;
    let sector = number(sys.join(&disk).join("queue/logical_block_size"))?;
    let device = machine.device(&disk);
    let read =
        File::open(&device).and_then(|mut file| gpt::read(&mut file, Geometry { bytes, sector }));
    let table: Table = read.map_err(|error| format!("{}: {error}", device.display()))?;
    let entry = table.entries.into_iter().find(|entry| entry.start == start);
    entry.ok_or_else(|| format!("{part}: not in the partition table of {disk}"))
}
