//! `basalt install`: from a running image, usually on a USB stick, to the disk of a server.
//!
//! `disk` and `content` say what there is, `choose` what may be taken, `running` what is put there,
//! `write` how; `gpt`, `verity`, `esp`, `part` are forms on the disk, `firmware` is the boot entry.
//! `state` and `page` are for consoles without an operator's shell.

pub mod content;
pub mod gpt;
pub mod disk;
pub mod choose;
pub mod verity;
pub mod esp;
pub mod part;
pub mod write;
pub mod firmware;
pub mod running;
pub mod state;
pub mod perform;
pub mod mode;
pub mod page;

use crate::cli::appliance::in_force::{self, read_json};
use crate::cli::{Output, say};
use choose::{Asked, Freedom, freedom, own_name};
use clap::Args;
use disk::{Disk, Machine};
use mode::Wanted;
use page::Page;
use perform::{Job, Outcome};
use serde::Serialize;
use state::{Place, Stage};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  basalt install --list                    disks, what is on them, and which can be chosen
  basalt install --disk S4EVNX0R123456     installs to the empty disk with this serial number
  basalt install --disk 0x5000c500a1b2c3d4 --overwrite-what-is-on 0x5000c500a1b2c3d4
                                           the same to a disk that is not empty

The slot that runs is installed, with the configuration on the boot partition but for its [install].
A disk that is mounted, in use, too small, read-only or the one that was booted is never taken.";

/// Arguments of `basalt install`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Install {
    /// Show the disks and end
    #[arg(long, conflicts_with_all = ["disk", "by_config", "page"])]
    list: bool,
    /// With --list: for programs
    #[arg(long, requires = "list")]
    json: bool,
    /// Serial number or WWN of the disk to install to
    #[arg(long, value_name = "NAME", required_unless_present_any = ["list", "by_config", "page"])]
    disk: Option<String>,
    /// The same disk again, where it is not empty: what is on it is lost
    #[arg(long, value_name = "NAME", requires = "disk", default_value = "")]
    overwrite_what_is_on: String,
    /// As /run/basalt/install.json says
    #[arg(long, hide = true)]
    by_config: bool,
    /// Ask on this terminal, and show how far it is
    #[arg(long, hide = true)]
    page: bool,
    /// Folder of the configuration in force
    #[arg(long, value_name = "DIR", default_value = in_force::FOLDER, hide = true)]
    run: PathBuf,
    /// Folder of the installation's state
    #[arg(long, value_name = "DIR", default_value = state::FOLDER, hide = true)]
    state: PathBuf,
    /// Root of the file systems
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

/// A disk in the list.
#[derive(Debug, Serialize)]
pub struct Row {
    #[serde(flatten)]
    disk: Disk,
    can_be_chosen: &'static str,
    why_not: Vec<String>,
    /// What to call it by, so that no other disk is meant.
    own_name: Option<String>,
}

impl Install {
    /// Shows the disks, or installs.
    ///
    /// # Errors
    /// Where a disk is refused, or cannot be written.
    pub fn run(self, output: &mut Output<'_>) -> Result<(), String> {
        let machine = Machine { root: self.root };
        if self.list {
            return list(&machine, self.json, output);
        }
        let place = Place::new(self.state)?;
        let wanted: Option<Wanted> = read_json(&self.run.join(in_force::INSTALL));
        if self.page {
            return Page { machine, place, wanted: wanted.unwrap_or_default() }.run(output);
        }
        if self.by_config {
            return by_config(&machine, &place, &wanted.unwrap_or_default(), output);
        }
        let disk = self.disk.unwrap_or_default();
        let asked = Asked { disk: &disk, overwrite: &self.overwrite_what_is_on };
        let mut job = Job { machine: &machine, place: &place, asked, tell: &mut |_| () };
        let mut last = String::new();
        let mut tell = |line: &str| {
            if line != last {
                say(output.out, &format!("{line}\n"));
                line.clone_into(&mut last);
            }
        };
        job.tell = &mut tell;
        let done = job.perform()?;
        say(output.out, &format!("{}\n", done.text()));
        Ok(())
    }
}

/// Without an operator: what the configuration says, and then what it says to do then.
fn by_config(
    machine: &Machine,
    place: &Place,
    wanted: &Wanted,
    output: &mut Output<'_>,
) -> Result<(), String> {
    if wanted.disk.is_empty() {
        return place.tell(Stage::Asking, "", 0);
    }
    let asked = Asked { disk: &wanted.disk, overwrite: &wanted.overwrite };
    let mut job = Job { machine, place, asked, tell: &mut |_| () };
    if let Some(text) = job.is_done_already() {
        // Not again, and no restart: with the stick still in, both would go on for ever.
        say(output.out, &format!("{text}\n"));
        return place.tell(Stage::Done, &text, 100);
    }
    let mut last = 0;
    let mut tell = |line: &str| {
        // A line for each tenth is enough for the journal.
        let tenth = line.split_whitespace().rev().nth(1).and_then(|it| it.parse::<u64>().ok());
        let tenth = tenth.unwrap_or(0) / 10;
        if tenth != last {
            say(output.out, &format!("{line}\n"));
            last = tenth;
        }
    };
    job.tell = &mut tell;
    let done: Outcome = job.perform()?;
    say(output.out, &format!("{}\n", done.text()));
    wanted.then_do(output)
}

/// Every disk with what may be done with it.
///
/// # Errors
/// Where there is no list of disks.
pub fn rows(machine: &Machine) -> Result<(Vec<Row>, Option<String>), String> {
    let running = running::running(machine);
    let need = running.as_ref().map_or(0, |running| write::needed(&running.slots));
    let disks = machine.disks(&running::disks_in_use(machine), &content::look)?;
    let all = disks.clone();
    // What is made of disks has no name that could be asked for, and tells nothing here.
    let whole = disks.into_iter().filter(|disk| disk.made_of.is_none());
    let rows = whole.map(|disk| {
        let (freedom, why_not) = freedom(&disk, &all, need);
        let can_be_chosen = match freedom {
            Freedom::Free => "yes",
            Freedom::IfNamed => "if named to be overwritten",
            Freedom::Never => "no",
        };
        let own_name = own_name(&disk, &all).map(str::to_owned);
        Row { disk, can_be_chosen, why_not, own_name }
    });
    Ok((rows.collect(), running.err()))
}

fn list(machine: &Machine, json: bool, output: &mut Output<'_>) -> Result<(), String> {
    let (rows, trouble) = rows(machine)?;
    if json {
        let text = serde_json::to_string_pretty(&rows).map_err(|error| error.to_string())?;
        say(output.out, &format!("{text}\n"));
        return Ok(());
    }
    if rows.is_empty() {
        say(output.out, "No disks.\n");
    }
    for (number, row) in rows.iter().enumerate() {
        say(output.out, &row.text(number + 1));
    }
    if let Some(trouble) = trouble {
        say(output.err, &format!("note: nothing can be installed from here: {trouble}\n"));
    }
    Ok(())
}

impl Row {
    /// Three lines: the disk, what is on it, whether it can be chosen.
    pub fn text(&self, number: usize) -> String {
        let disk = &self.disk;
        let or_none = |text: &str| if text.is_empty() { "none" } else { text }.to_owned();
        let usb = if disk.is_removable { ", removable" } else { "" };
        let choice = match self.why_not.as_slice() {
            [] => "can be chosen".to_owned(),
            why if self.can_be_chosen == "no" => format!("CANNOT be chosen: {}", why.join("; ")),
            why => format!("can be chosen by naming it twice: {}", why.join("; ")),
        };
        let line = format!(
            "{number:>2}  {}  {}  {}{usb}\n    serial {}  WWN {}\n    {}; {choice}\n",
            disk.name,
            or_none(&disk.model),
            size(disk.bytes),
            or_none(&disk.serial),
            or_none(&disk.wwn),
            disk.content.text(),
        );
        line.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
    }
}

/// In GiB with one digit, as 1024³.
fn size(bytes: u64) -> String {
    let tenths = bytes / (107_374_182);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}
