//! The installer on a terminal: asks for a disk, shows how far the installation is. No shell, and
//! no key that ends it: who wants something else switches the machine off.

use crate::cli::appliance::install::choose::Asked;
use crate::cli::appliance::install::disk::Machine;
use crate::cli::appliance::install::mode::{Wanted, systemctl};
use crate::cli::appliance::install::perform::Job;
use crate::cli::appliance::install::state::{Place, Stage, State};
use crate::cli::appliance::install::{Row, rows};
use crate::cli::{Output, say};
use std::{
    io::{self, BufRead as _},
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::Duration,
};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the process that follows the configuration may take to begin.
const BEGINS_WITHIN_S: u32 = 120;
const CLEAR: &str = "\x1b[2J\x1b[H";

/// A terminal and what stands behind it.
pub struct Page {
    /// Whose disks are shown.
    pub machine: Machine,
    /// What other processes do.
    pub place: Place,
    /// By the configuration.
    pub wanted: Wanted,
}

/// What a typed line means.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// Look again.
    Again,
    /// It cannot be.
    Refused(String),
    /// This disk, by a name of its own; whether it is to be typed once more.
    Take { name: String, is_used: bool },
}

impl Page {
    /// Asks, shows and installs, until the terminal goes away.
    ///
    /// # Errors
    /// Where it does.
    pub fn run(self, output: &mut Output<'_>) -> Result<(), String> {
        let pressed = Arc::new(AtomicBool::new(false));
        for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP] {
            signal_hook::flag::register(signal, Arc::clone(&pressed))
                .map_err(|error| format!("signal {signal}: {error}"))?;
        }
        let mut waited_s = 0;
        loop {
            let told = self.place.told();
            match told {
                None if !self.wanted.disk.is_empty() && waited_s < BEGINS_WITHIN_S => {
                    if waited_s == 0 {
                        let disk = &self.wanted.disk;
                        say(output.out, &format!("Basalt will be installed to \"{disk}\".\r\n"));
                    }
                    waited_s += 1;
                    thread::sleep(LOOK_EVERY);
                }
                Some(State { stage: Stage::Working, .. }) => self.watch(output)?,
                Some(State { stage: Stage::Done, text, .. }) => {
                    say(output.out, &format!("{CLEAR}DONE\n\n{text}\n\nEnter restarts: "));
                    if read_line(output)?.is_none() {
                        return Ok(());
                    }
                    systemctl("reboot")?;
                    thread::sleep(LOOK_EVERY * 60);
                }
                other => {
                    if self.ask(other.map(|state| state.text).unwrap_or_default(), output)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Shows what another process does until it is through. Where that has died, asks anew.
    fn watch(&self, output: &mut Output<'_>) -> Result<(), String> {
        let mut last = None;
        while let Some(state) = self.place.told().filter(|state| state.stage == Stage::Working) {
            if self.place.lock()?.is_some() {
                let text = "the installation was broken off; the disk can be chosen again";
                self.place.tell(Stage::Failed, text, 0)?;
                return Ok(());
            }
            if last.as_ref() != Some(&state) {
                say(output.out, &format!("\r{}: {} %\x1b[K", state.text, state.percent));
                flush(output)?;
            }
            last = Some(state);
            thread::sleep(LOOK_EVERY);
        }
        say(output.out, "\r\n");
        Ok(())
    }

    /// One round of the dialogue; whether the terminal has gone away.
    fn ask(&self, trouble: String, output: &mut Output<'_>) -> Result<bool, String> {
        let (rows, no_source) = rows(&self.machine)?;
        say(output.out, &page(&rows, &trouble, no_source.as_deref()));
        let Some(line) = self.prompt("Number or serial number of the disk: ", output)? else {
            return Ok(true);
        };
        let (name, is_used) = match choice(&rows, &line) {
            Choice::Again => return Ok(false),
            Choice::Refused(why) => {
                say(output.out, &format!("{why}\n"));
                thread::sleep(LOOK_EVERY * 3);
                return Ok(false);
            }
            Choice::Take { name, is_used } => (name, is_used),
        };
        let (question, answer) = match is_used {
            true => (format!("ALL that is on it is lost. Type {name} once more: "), name.as_str()),
            false => (format!("Type \"yes\" to install to {name}: "), "yes"),
        };
        let Some(line) = self.prompt(&question, output)? else { return Ok(true) };
        if line != answer {
            say(output.out, "Nothing was written.\n");
            thread::sleep(LOOK_EVERY);
            return Ok(false);
        }
        let overwrite = if is_used { name.as_str() } else { "" };
        let asked = Asked { disk: &name, overwrite };
        let mut tell = |line: &str| {
            say(output.out, &format!("\r{line}\x1b[K"));
        };
        let mut job = Job { machine: &self.machine, place: &self.place, asked, tell: &mut tell };
        // How it ended stands in the state, for every console.
        if let Err(error) = job.perform() {
            say(output.err, &format!("{error}\n"));
        }
        Ok(false)
    }

    fn prompt(&self, text: &str, output: &mut Output<'_>) -> Result<Option<String>, String> {
        say(output.out, text);
        flush(output)?;
        read_line(output)
    }
}

fn flush(output: &mut Output<'_>) -> Result<(), String> {
    output.out.flush().map_err(|error| format!("the terminal went away ({error})"))
}

/// What was typed; `None` where nobody can type any more.
fn read_line(output: &mut Output<'_>) -> Result<Option<String>, String> {
    flush(output)?;
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    let count = read.map_err(|error| format!("the terminal went away ({error})"))?;
    Ok((count > 0).then(|| line.trim().to_owned()))
}

/// What is shown before the question. Pure.
fn page(rows: &[Row], trouble: &str, no_source: Option<&str>) -> String {
    let mut text = format!("{CLEAR}BASALT INSTALLER\n\n");
    text.push_str("This machine was started from a stick. No node runs; nothing was written.\n\n");
    for (number, row) in rows.iter().enumerate() {
        text.push_str(&row.text(number + 1));
    }
    if rows.is_empty() {
        text.push_str("No disks.\n");
    }
    for line in [trouble, no_source.unwrap_or_default()].iter().filter(|line| !line.is_empty()) {
        text.push_str(&format!("\n! {line}\n"));
    }
    text.push_str("\nEnter looks again. To run from the stick: [install] run_from_usb = true.\n");
    text
}

/// A number in the list, or a name of a disk. Pure.
fn choice(rows: &[Row], typed: &str) -> Choice {
    if typed.is_empty() {
        return Choice::Again;
    }
    let called: Vec<&Row> = rows.iter().filter(|row| row.disk.is_called(typed)).collect();
    // A serial number may look like a number of the list.
    let row = match (called.as_slice(), typed.parse::<usize>()) {
        ([one], _) => *one,
        ([], Ok(number)) if (1..=rows.len()).contains(&number) => &rows[number - 1],
        ([], _) => return Choice::Refused(format!("\"{typed}\" is none of these disks.")),
        (many, _) => {
            let count = many.len();
            return Choice::Refused(format!(
                "{count} disks are called \"{typed}\": type a number."
            ));
        }
    };
    if row.can_be_chosen == "no" {
        return Choice::Refused(format!("{}: {}.", row.disk.name, row.why_not.join("; ")));
    }
    let name = row.own_name.clone().unwrap_or_default();
    Choice::Take { name, is_used: !row.why_not.is_empty() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::appliance::install::choose::tests::disk;

    fn row(name: &str, serial: &str, can_be_chosen: &'static str, why_not: &[&str]) -> Row {
        let why_not = why_not.iter().map(|&why| why.to_owned()).collect();
        let own_name = Some(serial.to_owned());
        Row { disk: disk(name, serial, ""), can_be_chosen, why_not, own_name }
    }

    #[test]
    fn a_disk_is_chosen_by_number_or_name() {
        let rows = [
            row("sda", "S1", "no", &["this system was booted from it"]),
            row("sdb", "1", "yes", &[]),
            row("sdc", "S3", "if named to be overwritten", &["it is not empty (ext4)"]),
            row("sdd", "S4", "yes", &[]),
        ];
        let take = |name: &str, is_used| Choice::Take { name: name.to_owned(), is_used };
        assert_eq!(choice(&rows, ""), Choice::Again);
        assert_eq!(choice(&rows, "1"), take("1", false), "a serial number before the list's");
        assert_eq!(choice(&rows, "3"), take("S3", true));
        assert_eq!(choice(&rows, "S4"), take("S4", false));
        for typed in ["S1", "5", "0", "S5", "sda", "-1", "\u{3}"] {
            assert!(matches!(choice(&rows, typed), Choice::Refused(_)), "{typed}");
        }
        let twice = [row("sda", "S1", "no", &["x"]), row("sdb", "S1", "no", &["x"])];
        assert!(matches!(choice(&twice, "S1"), Choice::Refused(text) if text.contains("2 disks")));
    }

    #[test]
    fn the_page_tells_what_is_wrong_and_no_name_can_rewrite_it() {
        let mut bad = row("sda", "S\x1b[2J1", "no", &["it is mounted (sda1 on /mnt); unmount it"]);
        bad.disk.model = "M\r".to_owned();
        let text = page(&[bad], "disk \"X\": no disk has this", None);
        assert!(text.contains("CANNOT be chosen: it is mounted"), "{text}");
        assert!(text.contains("! disk \"X\"") && text.contains("serial S?[2J1"), "{text}");
        assert!(page(&[], "", None).contains("No disks."));
    }
}
