//! The disks of a machine: what they are called, what is on them and who uses them. Read from
//! `/sys`, udev's data base and `/proc` below a root folder; nothing is decided here.

use crate::cli::appliance::install::content::Content;
use crate::cli::appliance::install::gpt::Geometry;
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Names of drivers whose devices are no hardware: memory, files, floppies, optical drives.
const NO_DISKS: &[&str] = &["loop", "ram", "zram", "fd", "sr", "nbd", "mtdblock", "pmem"];

/// A whole disk, or what looks like one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// The kernel's: `nvme0n1`. Another one at the next boot, maybe.
    pub name: String,
    /// The maker's name of it.
    pub model: String,
    /// Empty: it has none.
    pub serial: String,
    /// World-wide name, as `naa.…`, `eui.…`, `0x…`. Empty: it has none.
    pub wwn: String,
    /// Other forms of its serial number and its world-wide name.
    pub also: Vec<String>,
    /// Its size.
    pub bytes: u64,
    /// A logical sector.
    pub sector: u64,
    /// It comes by USB or can be taken out.
    pub is_removable: bool,
    /// The kernel takes no writes to it.
    pub is_read_only: bool,
    /// What it is, where it is no disk of its own.
    pub made_of: Option<String>,
    /// Where it or its partitions are mounted: `nvme0n1p2 on /mnt`.
    pub mounts: Vec<String>,
    /// Devices that are made of it or its partitions.
    pub holders: Vec<String>,
    /// Swap on it.
    pub swaps: Vec<String>,
    /// The running system was started from it.
    pub is_boot_disk: bool,
    /// What is on it.
    pub content: Content,
}

/// Reads what is on a disk and its partitions, given their paths and the disk's size.
pub type Look<'a> = &'a dyn Fn(&[PathBuf], Geometry) -> Content;

/// Where to look.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Root of the file systems.
    pub root: PathBuf,
}

impl Machine {
    /// All disks, by name; the one that this system was booted from is marked.
    ///
    /// # Errors
    /// Where there is no list of them.
    pub fn disks(&self, boot_disks: &[String], look: Look<'_>) -> Result<Vec<Disk>, String> {
        let folder = self.root.join("sys/block");
        let entries = fs::read_dir(&folder)
            .map_err(|error| format!("{}: cannot be read ({error})", folder.display()))?;
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| {
            !NO_DISKS.contains(&name.trim_end_matches(|c: char| c.is_ascii_digit()))
        });
        names.sort();
        Ok(names.iter().map(|name| self.disk(name, boot_disks, look)).collect())
    }

    fn disk(&self, name: &str, boot_disks: &[String], look: Look<'_>) -> Disk {
        let sys = self.root.join("sys/block").join(name);
        let number = |path: &str| text(&sys.join(path)).parse::<u64>().unwrap_or(0);
        let event = self.udev(&text(&sys.join("dev")));
        let bytes = number("size").saturating_mul(512);
        let sector = number("queue/logical_block_size").max(512);
        let (serials, wwns) = (serials(&sys, &event), wwns(&sys, &event));
        let parts = partitions(&sys, name);
        let by_usb = event.iter().any(|(key, value)| key == "ID_BUS" && value == "usb")
            || fs::canonicalize(&sys).is_ok_and(|path| path.to_string_lossy().contains("/usb"));
        let nodes: Vec<_> = parts.iter().map(|part| self.device(&part.name)).collect();
        let also = serials.iter().skip(1).chain(wwns.iter().skip(1)).cloned().collect();
        Disk {
            name: name.to_owned(),
            model: model(&sys, &event),
            serial: serials.first().cloned().unwrap_or_default(),
            wwn: wwns.first().cloned().unwrap_or_default(),
            also,
            bytes,
            sector,
            is_removable: by_usb || number("removable") == 1,
            is_read_only: number("ro") == 1,
            made_of: made_of(&sys, name),
            mounts: self.mounts(&parts),
            holders: self.holders(&parts),
            swaps: self.swaps(&parts),
            is_boot_disk: boot_disks.iter().any(|boot| boot == name),
            content: look(&nodes, Geometry { bytes, sector }),
        }
    }

    /// The node in `/dev`.
    pub fn device(&self, name: &str) -> PathBuf {
        self.root.join("dev").join(name.replace('!', "/"))
    }

    /// Properties that udev found, by major and minor number.
    fn udev(&self, numbers: &str) -> Vec<(String, String)> {
        let data = text(&self.root.join("run/udev/data").join(format!("b{numbers}")));
        let pairs = data.lines().filter_map(|line| line.strip_prefix("E:")?.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// By device number, and by name for file systems that have a number of their own (btrfs).
    fn mounts(&self, parts: &[Part]) -> Vec<String> {
        let table = text(&self.root.join("proc/self/mountinfo"));
        let mut found = Vec::new();
        for line in table.lines() {
            let columns: Vec<&str> = line.split(' ').collect();
            let source = columns.iter().position(|column| *column == "-").map(|at| at + 2);
            let source = source.and_then(|at| columns.get(at)).copied().unwrap_or_default();
            let (Some(numbers), Some(place)) = (columns.get(2), columns.get(4)) else { continue };
            let part = parts
                .iter()
                .find(|part| part.numbers == *numbers || source == format!("/dev/{}", part.name));
            found.extend(part.map(|part| format!("{} on {place}", part.name)));
        }
        found.dedup();
        found
    }

    fn holders(&self, parts: &[Part]) -> Vec<String> {
        let mut found = Vec::new();
        for part in parts {
            let holders = fs::read_dir(part.sys.join("holders")).into_iter().flatten().flatten();
            for holder in holders {
                let kernel = holder.file_name().to_string_lossy().into_owned();
                let name = text(&self.root.join("sys/block").join(&kernel).join("dm/name"));
                found.push(if name.is_empty() { kernel } else { format!("{kernel} ({name})") });
            }
        }
        found.sort();
        found.dedup();
        found
    }

    fn swaps(&self, parts: &[Part]) -> Vec<String> {
        let table = text(&self.root.join("proc/swaps"));
        let used = |part: &&Part| {
            let device = format!("/dev/{}", part.name);
            table.lines().any(|line| line.split_whitespace().next() == Some(&device))
        };
        parts.iter().filter(used).map(|part| part.name.clone()).collect()
    }
}

/// The disk itself, or one of its partitions.
struct Part {
    name: String,
    numbers: String,
    sys: PathBuf,
}

fn partitions(sys: &Path, name: &str) -> Vec<Part> {
    let whole =
        Part { name: name.to_owned(), numbers: text(&sys.join("dev")), sys: sys.to_owned() };
    let mut parts = vec![whole];
    for entry in fs::read_dir(sys).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.join("partition").exists() {
            let name = entry.file_name().to_string_lossy().into_owned();
            parts.push(Part { name, numbers: text(&path.join("dev")), sys: path });
        }
    }
    // The disk stays the first one: its name is the beginning of all others.
    parts.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
    parts
}

/// What a device is, that other devices are below of.
fn made_of(sys: &Path, name: &str) -> Option<String> {
    if sys.join("partition").exists() {
        return Some("a partition".to_owned());
    }
    let below = fs::read_dir(sys.join("slaves")).into_iter().flatten().flatten();
    let below: Vec<_> = below.map(|it| it.file_name().to_string_lossy().into_owned()).collect();
    if below.is_empty() && sys.join("device").exists() {
        return None;
    }
    if sys.join("dm").is_dir() || sys.join("md").is_dir() || !below.is_empty() {
        return Some(format!("made of {}", if below.is_empty() { "nothing" } else { &below[0] }));
    }
    // A disk that hardware stands behind says so.
    Some(format!("{name} has no hardware behind it"))
}

/// Without doubles, the form first that other tools print.
fn serials(sys: &Path, event: &[(String, String)]) -> Vec<String> {
    let mut found = listed(event, &["ID_SERIAL_SHORT", "ID_SCSI_SERIAL"]);
    for path in ["device/serial", "serial"] {
        found.push(text(&sys.join(path)));
    }
    found.push(page_80(&sys.join("device/vpd_pg80")));
    unique(found)
}

fn wwns(sys: &Path, event: &[(String, String)]) -> Vec<String> {
    let mut found = listed(event, &["ID_WWN_WITH_EXTENSION", "ID_WWN"]);
    found.extend([text(&sys.join("wwid")), text(&sys.join("device/wwid"))]);
    // A name that is made up of maker, model and serial number is not world-wide.
    found.retain(|name| !name.starts_with("t10."));
    unique(found)
}

fn listed(event: &[(String, String)], keys: &[&str]) -> Vec<String> {
    let find = |key: &&str| event.iter().find(|(name, _)| name == key);
    keys.iter().filter_map(find).map(|(_, value)| value.trim().to_owned()).collect()
}

fn unique(all: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for one in all {
        if !one.is_empty() && !kept.contains(&one) {
            kept.push(one);
        }
    }
    kept
}

fn model(sys: &Path, event: &[(String, String)]) -> String {
    let told = listed(event, &["ID_MODEL"]).pop().map(|model| model.replace('_', " "));
    let vendor = text(&sys.join("device/vendor"));
    let own = text(&sys.join("device/model"));
    // Virtio has a number there.
    let vendor = if vendor.starts_with("0x") { "" } else { &vendor };
    match (own.is_empty(), told) {
        (false, _) => format!("{vendor} {own}").trim().to_owned(),
        (true, told) => told.unwrap_or_else(|| vendor.to_owned()),
    }
}

/// The serial number of a SCSI disk: page 80 of its vital product data, four bytes and text.
fn page_80(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(bytes.get(4..).unwrap_or_default())
        .trim_matches(|c: char| c.is_whitespace() || c.is_control())
        .to_owned()
}

fn text(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

impl Disk {
    /// Whether this name is one of its serial numbers or world-wide names.
    pub fn is_called(&self, name: &str) -> bool {
        let plain = |wwn: &str| {
            let mut rest = wwn.trim().to_ascii_lowercase();
            for prefix in ["wwn-", "nvme-", "naa.", "eui.", "uuid.", "0x"] {
                rest = rest.strip_prefix(prefix).map(str::to_owned).unwrap_or(rest);
            }
            rest
        };
        let name = name.trim();
        let own = [&self.serial, &self.wwn];
        let mut all = own.into_iter().chain(&self.also).filter(|one| !one.is_empty());
        let wanted = plain(name);
        !name.is_empty()
            && all.any(|one| {
                let is_wwn = plain(one) == wanted && wanted.len() >= 16;
                one == name || is_wwn
            })
    }

    /// What to call it by: the serial number, else the world-wide name.
    pub fn called(&self) -> &str {
        if self.serial.is_empty() { &self.wwn } else { &self.serial }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::appliance::install::content::Kind;
    use crate::cli::appliance::install::mode::is_installer;
    use crate::cli::appliance::install::running::disks_in_use;
    use crate::config::appliance::install::Install;
    use std::os::unix::fs::symlink;

    /// A stick with a running image, an NVMe that is mounted and held, an array, no-disks.
    fn server() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let usb = "sys/devices/pci0000:00/usb2/2-1/host0/block/sda";
        let nvme = "sys/devices/pci0000:00/nvme/nvme0/nvme0n1";
        for (path, text) in [
            (format!("{usb}/dev"), "8:0\n"),
            (format!("{usb}/size"), "8388608\n"),
            (format!("{usb}/removable"), "1\n"),
            (format!("{usb}/device/model"), "QEMU HARDDISK   \n"),
            (format!("{usb}/device/vendor"), "QEMU    \n"),
            (format!("{usb}/device/vpd_pg80"), "\0\u{80}\0\x07STICK01"),
            (format!("{usb}/sda1/partition"), "1\n"),
            (format!("{usb}/sda1/dev"), "8:1\n"),
            (format!("{nvme}/dev"), "259:0\n"),
            (format!("{nvme}/size"), "2048\n"),
            (format!("{nvme}/queue/logical_block_size"), "4096\n"),
            (format!("{nvme}/ro"), "1\n"),
            (format!("{nvme}/wwid"), "eui.0025385b01234567\n"),
            (format!("{nvme}/device/model"), "FAST 1\n"),
            (format!("{nvme}/device/serial"), "S2      \n"),
            (format!("{nvme}/nvme0n1p2/partition"), "2\n"),
            (format!("{nvme}/nvme0n1p2/dev"), "259:2\n"),
            (format!("{nvme}/nvme0n1p2/holders/dm-3/x"), ""),
            ("sys/block/dm-3/dm/name".to_owned(), "vg-lv\n"),
            ("sys/block/dm-3/slaves/nvme0n1p2/x".to_owned(), ""),
            ("sys/block/loop0/size".to_owned(), "1\n"),
            ("sys/block/sr0/size".to_owned(), "1\n"),
            (
                "proc/self/mountinfo".to_owned(),
                "30 1 8:1 / /efi rw - vfat /dev/sda1 rw\n\
                 31 1 0:40 / /mnt rw shared:1 - btrfs /dev/nvme0n1p2 rw\n",
            ),
            ("proc/swaps".to_owned(), "Filename Type\n/dev/nvme0n1p2 partition 1 0 -2\n"),
            (
                "run/udev/data/b259:0".to_owned(),
                "S:disk/by-id/x\nE:ID_SERIAL_SHORT=S2\nE:ID_WWN=eui.0025385b01234567\n",
            ),
            ("efi/loader/loader.conf".to_owned(), ""),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let links = [("block/sda", usb), ("block/nvme0n1", nvme)];
        fs::create_dir_all(root.path().join("sys/class/block")).unwrap();
        for (link, target) in links {
            symlink(root.path().join(target), root.path().join("sys").join(link)).unwrap();
        }
        let part = root.path().join(usb).join("sda1");
        symlink(part, root.path().join("sys/class/block/sda1")).unwrap();
        root
    }

    #[test]
    fn disks_are_told_with_names_users_and_what_they_are() {
        let root = server();
        let machine = Machine { root: root.path().to_owned() };
        let look = |nodes: &[PathBuf], geometry: Geometry| {
            assert!(nodes[0].starts_with(root.path().join("dev")));
            let what = vec![format!("{} nodes, {}", nodes.len(), geometry.sector)];
            Content { kind: Kind::Used, what }
        };
        let booted = disks_in_use(&machine);
        assert_eq!(booted, ["sda"]);
        let disks = machine.disks(&booted, &look).unwrap();
        let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["dm-3", "nvme0n1", "sda"]);
        let [mapped, fast, stick] = disks.as_slice() else { panic!("{disks:?}") };
        assert_eq!(mapped.made_of.as_deref(), Some("made of nvme0n1p2"));
        assert_eq!((fast.serial.as_str(), fast.model.as_str()), ("S2", "FAST 1"));
        assert_eq!((fast.wwn.as_str(), fast.sector), ("eui.0025385b01234567", 4096));
        assert_eq!(fast.mounts, ["nvme0n1p2 on /mnt"]);
        assert_eq!(
            (fast.holders.as_slice(), fast.swaps.len()),
            (&["dm-3 (vg-lv)".to_owned()][..], 1)
        );
        assert!(fast.is_read_only && !fast.is_boot_disk && !fast.is_removable);
        assert_eq!((fast.made_of.as_ref(), fast.bytes), (None, 1 << 20));
        assert_eq!(fast.content.text(), "2 nodes, 4096");
        assert_eq!((stick.serial.as_str(), stick.mounts.len()), ("STICK01", 1));
        assert_eq!(stick.model, "QEMU QEMU HARDDISK");
        assert!(stick.is_boot_disk && stick.is_removable);
    }

    #[test]
    fn a_stick_without_data_installs_unless_it_is_told_to_run() {
        let root = server();
        let state = root.path().join("run/basalt-disk/state");
        let says = |text: &str, install: &Install| {
            fs::create_dir_all(state.parent().unwrap()).unwrap();
            fs::write(&state, text).unwrap();
            is_installer(root.path(), install)
        };
        let (normal, runs) =
            (Install::default(), Install { run_from_usb: true, ..Install::default() });
        assert!(is_installer(root.path(), &normal), "nothing is known but the boot partition");
        assert!(says("disk=/dev/sda\nvolatile=yes\n", &normal));
        assert!(!says("disk=/dev/sda\nvolatile=yes\n", &runs));
        assert!(!says("disk=/dev/sda\ndata=/dev/sda6\nvolatile=no\n", &normal));
        assert!(!says("disk=/dev/nvme0n1\nvolatile=yes\n", &normal));
        assert!(!says("disk=/dev/sda\nvolatile=yes\nfault=no room\n", &normal));
    }
}
