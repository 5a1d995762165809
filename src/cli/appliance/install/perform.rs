//! One installation: choose, write, check, tell the firmware; with a lock against a second one, and
//! a record on the new disk.

use crate::cli::appliance::install::choose::{Asked, choose};
use crate::cli::appliance::install::disk::{Disk, Machine};
use crate::cli::appliance::install::esp::{self, CONFIG, EspFile, RECORD};
use crate::cli::appliance::install::gpt::{self, ESP, Geometry, Guid};
use crate::cli::appliance::install::part::Uncached;
use crate::cli::appliance::install::running::{Running, disks_in_use, running};
use crate::cli::appliance::install::state::{Place, Stage};
use crate::cli::appliance::install::{content, firmware, write};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{fs::File, path::Path};

/// What an installation leaves of itself on the boot partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    version: String,
    root_hash: String,
    /// Of the configuration as it lies on the new disk.
    config_sha256: String,
}

/// What is to be done.
pub struct Job<'a> {
    /// Where.
    pub machine: &'a Machine,
    /// For the consoles.
    pub place: &'a Place,
    /// By whom it was asked.
    pub asked: Asked<'a>,
    /// Takes a line for each step and percent.
    pub tell: &'a mut dyn FnMut(&str),
}

/// What was done.
#[derive(Debug)]
pub struct Outcome {
    disk: String,
    version: String,
    boot: Result<String, String>,
}

impl Outcome {
    /// For an operator.
    pub fn text(&self) -> String {
        let boot = match &self.boot {
            Ok(told) => format!("{told}, before all others"),
            Err(error) => format!(
                "the firmware took no boot entry ({error}): it finds the disk by itself, or choose \
                 it in its menu"
            ),
        };
        format!(
            "Basalt {} is on {} and was read back: it is what was to be written. {boot}. Remove \
             the stick.",
            self.version, self.disk
        )
    }
}

impl Job<'_> {
    /// Does it, and tells the consoles how far it is and how it ended.
    ///
    /// # Errors
    /// Where the disk is refused or cannot be written.
    pub fn perform(&mut self) -> Result<Outcome, String> {
        let Some(_held) = self.place.lock()? else {
            return Err("an installation goes on already".to_owned());
        };
        let (running, disk) = match self.choose() {
            Ok(found) => found,
            Err(refused) => {
                self.place.tell(Stage::Refused, &refused, 0)?;
                return Err(refused);
            }
        };
        match self.write(&running, &disk) {
            Ok(done) => {
                self.place.tell(Stage::Done, &done.text(), 100)?;
                Ok(done)
            }
            Err(error) => {
                let name = disk.called();
                let error = format!(
                    "disk \"{name}\" ({}): {error}; the disk holds nothing that boots, and can be \
                     chosen again",
                    disk.name
                );
                self.place.tell(Stage::Failed, &error, 0)?;
                Err(error)
            }
        }
    }

    fn choose(&self) -> Result<(Running, Disk), String> {
        let running = running(self.machine)?;
        let disks = self.machine.disks(&disks_in_use(self.machine), &content::look)?;
        let disk = choose(&disks, self.asked, write::needed(&running.slots))?;
        Ok((running, disk.clone()))
    }

    fn write(&mut self, running: &Running, disk: &Disk) -> Result<Outcome, String> {
        let mut files = running.files()?;
        let record = record(running, &files);
        let json = serde_json::to_vec(&record).map_err(|error| error.to_string())?;
        files.push(EspFile { path: RECORD.to_owned(), bytes: json });
        let mut source = running.source(files)?;
        // Before anything is written, so that no half of it has no ids.
        let mut ids: Vec<Guid> = Vec::new();
        for _ in 0..FRESH_IDS {
            ids.push(write::fresh_guid().map_err(|error| format!("random numbers: {error}"))?);
        }
        let mut fresh = || ids.pop().unwrap_or([1; 16]);
        let geometry = Geometry { bytes: disk.bytes, sector: disk.sector };
        let device = self.machine.device(&disk.name);
        let (place, tell) = (self.place, &mut *self.tell);
        let mut last = (String::new(), u64::MAX);
        let mut progress = |step: &'static str, done: u64, all: u64| {
            let percent = done * 100 / all.max(1);
            if (last.0.as_str(), last.1) != (step, percent) {
                last = (step.to_owned(), percent);
                tell(&format!("{step}: {percent} %"));
                if let Err(error) = place.tell(Stage::Working, step, percent) {
                    tracing::debug!(%error, "consoles are not told");
                }
            }
        };
        let table = write::install(&device, geometry, &mut source, &mut fresh, &mut progress)?;
        let variables = self.machine.root.join("sys/firmware/efi/efivars");
        let description = format!("Basalt on {}", disk.called());
        let boot = &table.entries[0];
        let entered = firmware::enter(&variables, &description, boot, disk.sector);
        Ok(Outcome {
            disk: format!("{} ({})", disk.called(), disk.name),
            version: running.version.clone(),
            boot: entered.map(|number| firmware::told(number, boot)),
        })
    }

    /// Whether the disk that is asked for has this version with this configuration already, in
    /// words.
    pub fn is_done_already(&self) -> Option<String> {
        let running = running(self.machine).ok()?;
        let wanted = record(&running, &running.files().ok()?);
        let disks = self.machine.disks(&disks_in_use(self.machine), &content::look).ok()?;
        let mut named = disks.iter().filter(|disk| disk.is_called(self.asked.disk));
        let (disk, None) = (named.next()?, named.next()) else { return None };
        let geometry = Geometry { bytes: disk.bytes, sector: disk.sector };
        let found = record_on(&self.machine.device(&disk.name), geometry)?;
        (found == wanted).then(|| {
            format!(
                "Basalt {} with this configuration is on {} ({}) already. Remove the stick and \
                 restart the machine.",
                wanted.version,
                disk.called(),
                disk.name
            )
        })
    }
}

/// Five partitions or less, the disk, its mark, the volume; and some to spare.
const FRESH_IDS: usize = 12;

fn record(running: &Running, files: &[EspFile]) -> Record {
    let config = files.iter().find(|file| file.path == CONFIG).map(|file| file.bytes.as_slice());
    Record {
        version: running.version.clone(),
        root_hash: running.root_hash.clone(),
        config_sha256: hex::encode(Sha256::digest(config.unwrap_or_default())),
    }
}

/// What a finished installation says of itself.
fn record_on(device: &Path, geometry: Geometry) -> Option<Record> {
    let table = gpt::read(&mut File::open(device).ok()?, geometry).ok()?;
    let boot = table.entries.iter().find(|entry| entry.kind == ESP)?;
    let mut part = Uncached::open(device, boot.start, boot.bytes).ok()?;
    serde_json::from_slice(&esp::read_file(&mut part, RECORD)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::appliance::install::gpt::{Entry, ROOT, ROOT_VERITY, Table};
    use crate::cli::appliance::install::verity::tests::made;
    use std::{fs, io::Write as _, os::unix::fs::symlink};

    const MIB: u64 = 1 << 20;
    const STICK: Geometry = Geometry { bytes: 80 * MIB, sector: 512 };

    /// A machine that was started from a stick, with an empty NVMe whose sectors have 4096 bytes.
    /// Its devices are files.
    fn machine() -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        let (data, tree, root_hash) = made(300);
        let hash = hex::encode(root_hash);
        let put = |path: &str, bytes: &[u8]| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        put("proc/cmdline", format!("quiet roothash={hash}\n").as_bytes());
        put("proc/self/mountinfo", b"30 1 8:1 / /efi rw - vfat /dev/sda1 rw\n");
        put("etc/os-release", b"IMAGE_ID=\"basalt\"\nIMAGE_VERSION=\"1.2\"\n");
        put("efi/loader/basalt/basalt.toml", b"[install]\ndisk = \"S2\"\n[rpc]\n");
        put("efi/EFI/BOOT/BOOTX64.EFI", b"loader");
        put("efi/EFI/Linux/basalt_1.2.efi", format!("kernel roothash={hash} ro").as_bytes());
        put("sys/firmware/efi/efivars/x", b"");
        put("dev/dm-0", &data);
        put("dev/sda3", &tree);
        for part in ["dev/sda1", "dev/sda2"] {
            put(part, b"");
        }
        let mut at = MIB;
        let mut entries = Vec::new();
        for (id, kind, mib) in [(1, ESP, 64), (2, ROOT, 4), (3, ROOT_VERITY, 1)] {
            let sys = format!("sys/devices/usb1/block/sda/sda{id}");
            put(&format!("{sys}/partition"), b"1");
            put(&format!("{sys}/start"), format!("{}\n", at / 512).as_bytes());
            let (name, bytes) = (format!("part {id}"), mib * MIB);
            entries.push(Entry { kind, id: [id; 16], start: at, bytes, attributes: 0, name });
            at += bytes;
        }
        let table = Table { id: [9; 16], entries };
        put("dev/sda", &gpt::encode(&table, STICK).unwrap().primary);
        let sectors = 700 * MIB / 512;
        for (path, text) in [
            ("usb1/block/sda/size", (STICK.bytes / 512).to_string()),
            ("usb1/block/sda/queue/logical_block_size", "512".to_owned()),
            ("usb1/block/sda/device/serial", "STICK".to_owned()),
            ("nvme/nvme0n1/size", sectors.to_string()),
            ("nvme/nvme0n1/queue/logical_block_size", "4096".to_owned()),
            ("nvme/nvme0n1/device/serial", "S2".to_owned()),
        ] {
            put(&format!("sys/devices/{path}"), text.as_bytes());
        }
        put("sys/block/dm-0/dm/name", b"root\n");
        for part in ["sda2", "sda3"] {
            put(&format!("sys/block/dm-0/slaves/{part}/x"), b"");
        }
        fs::create_dir_all(root.path().join("sys/class/block")).unwrap();
        for (link, target) in [
            ("block/sda", "usb1/block/sda"),
            ("block/nvme0n1", "nvme/nvme0n1"),
            ("class/block/sda", "usb1/block/sda"),
            ("class/block/sda1", "usb1/block/sda/sda1"),
            ("class/block/sda2", "usb1/block/sda/sda2"),
            ("class/block/sda3", "usb1/block/sda/sda3"),
        ] {
            let (sys, devices) = (root.path().join("sys"), root.path().join("sys/devices"));
            symlink(devices.join(target), sys.join(link)).unwrap();
        }
        File::create(root.path().join("dev/nvme0n1")).unwrap().set_len(700 * MIB).unwrap();
        let stick = fs::OpenOptions::new().append(true).open(root.path().join("dev/sda")).unwrap();
        stick.set_len(STICK.bytes).unwrap();
        let machine = Machine { root: root.path().to_owned() };
        (root, machine)
    }

    #[test]
    fn a_stick_installs_once_and_again_only_where_it_is_named_and_something_is_new() {
        let (root, machine) = machine();
        let place = Place::new(root.path().join("run/install")).unwrap();
        let asked = |overwrite| Asked { disk: "S2", overwrite };
        let job = |overwrite| Job {
            machine: &machine,
            place: &place,
            asked: asked(overwrite),
            tell: Box::leak(Box::new(|_: &str| ())),
        };
        assert_eq!(job("").is_done_already(), None);
        let done = job("").perform().unwrap().text();
        assert!(done.contains("Basalt 1.2 is on S2 (nvme0n1)"), "{done}");
        assert!(done.contains("Boot0000 starts partition"), "{done}");
        assert_eq!(place.told().unwrap().stage, Stage::Done);
        let geometry = Geometry { bytes: 700 * MIB, sector: 4096 };
        let target = root.path().join("dev/nvme0n1");
        let table = gpt::read(&mut File::open(&target).unwrap(), geometry).unwrap();
        let boot = &table.entries[0];
        let mut part = Uncached::open(&target, boot.start, boot.bytes).unwrap();
        assert_eq!(esp::read_file(&mut part, CONFIG).unwrap(), b"[rpc]\n");

        let refused = job("").perform().unwrap_err();
        assert!(refused.contains("it is not empty (partitions part 1 part 2 part 3 _empty"));
        assert_eq!(place.told().unwrap().stage, Stage::Refused);
        let already = job("S2").is_done_already().unwrap();
        assert!(already.contains("Basalt 1.2 with this configuration is on S2"), "{already}");
        let config = root.path().join("efi").join(CONFIG);
        fs::OpenOptions::new().append(true).open(config).unwrap().write_all(b"# new\n").unwrap();
        assert_eq!(job("S2").is_done_already(), None);
        job("S2").perform().unwrap();
        assert!(job("S2").is_done_already().is_some());
        let stick = Asked { disk: "STICK", overwrite: "STICK" };
        let refused = Job { asked: stick, ..job("") }.perform().unwrap_err();
        assert!(refused.contains("this system was booted from it"), "{refused}");
    }
}
