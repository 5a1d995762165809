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
