//! `basalt update scheduled`: what `[update]` of the configuration in force says, where it is time.
//!
//! Called by a timer every few minutes. What was found last stays in a file, for the console, for
//! `basalt update status` and for the metrics.

use crate::cli::appliance::in_force;
use crate::cli::appliance::request_file::now;
use crate::cli::appliance::update::Means;
use crate::cli::appliance::update_entries::order;
use crate::cli::appliance::update_machine::Machine;
use crate::cli::appliance::update_source::Source;
use crate::cli::{Output, say};
use crate::config::appliance::{
    appliance,
    update::{Apply, Update},
};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

/// Below the root.
const LAST: &str = "var/lib/basalt-update/last.json";
const DAY_S: u64 = 86_400;
/// How long after its time an update may still be applied.
const WINDOW_S: u64 = 3_600;

/// Arguments of `basalt update scheduled`.
#[derive(Debug, Args)]
pub struct Scheduled {
    /// Folder of the configuration in force
    #[arg(long, value_name = "DIR", default_value = in_force::FOLDER)]
    run: PathBuf,
    /// File of the metrics
    #[arg(long, value_name = "FILE", default_value = "/run/basalt-update/metrics.txt")]
    metrics: PathBuf,
    #[command(flatten)]
    means: Means,
    #[command(flatten)]
    machine: Machine,
    /// The program that restarts the machine
    #[arg(long, value_name = "FILE", default_value = "/usr/bin/systemctl")]
    systemctl: PathBuf,
}

/// What the last look found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// Seconds since 1970.
    pub at_s: u64,
    /// The same for people.
    pub at: String,
    /// Newer than what ran, and had not gone back.
    pub available: Option<String>,
}

impl Last {
    /// `None` where nobody has looked.
    pub fn read(root: &Path) -> Option<Self> {
        in_force::read_json(&root.join(LAST))
    }

    /// What is newer than the running version.
    fn newer(&self, running: &str) -> Option<&str> {
        let newer = |version: &&str| order(version, running) == Ordering::Greater;
        self.available.as_deref().filter(newer)
    }

    /// In words.
    pub fn line(&self, running: &str) -> String {
        let at = self.at.split('.').next().unwrap_or(&self.at);
        match self.newer(running) {
            Some(version) => format!("{version} is available, seen {at} UTC"),
            None => format!("none newer than {running}, looked {at} UTC"),
        }
    }

    fn metrics(&self, running: &str) -> String {
        let (version, is_there) = self.newer(running).map_or(("", 0), |version| (version, 1));
        let safe = |c: char| c.is_ascii_alphanumeric() || ".+~-".contains(c);
        let version: String = version.chars().filter(|c| safe(*c)).collect();
        format!(
            "# HELP basalt_update_available A version newer than the running one is to be had.\n\
             # TYPE basalt_update_available gauge\n\
             basalt_update_available{{version=\"{version}\"}} {is_there}\n\
             # HELP basalt_update_looked_seconds When that was found, since 1970.\n\
             # TYPE basalt_update_looked_seconds gauge\n\
             basalt_update_looked_seconds {}\n",
            self.at_s
        )
    }
}

impl Scheduled {
    /// Looks, tells, applies: as configured.
    ///
    /// # Errors
    /// Where the source cannot be read or an update is refused; the timer asks again.
    pub fn run(self, output: &mut Output<'_>) -> Result<(), String> {
        let path = self.run.join(in_force::CONFIG);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
        let update = appliance(&path.display().to_string(), &text);
        let update = update.map_err(|error| error.to_string())?.update;
        if update.apply == Apply::Never || update.source.is_empty() {
            return Ok(());
        }
        let last = Last::read(&self.machine.root);
        if let Some(last) = &last {
            self.publish(last)?;
        }
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if !is_due(&update, now_s, last.map(|last| last.at_s)) {
            return Ok(());
        }
        let source: Source = update.source.parse().unwrap_or_else(|never| match never {});
        let checked = self.means.check(&source, &self.machine)?;
        say(output.out, &checked.told);
        let wanted = checked.available.clone().filter(|_| update.apply == Apply::Automatic);
        if let Some(version) = &wanted {
            let mut tell = |line: &str| say(output.out, line);
            let told = self.means.apply(&source, Some(version), &self.machine, &mut tell)?;
            say(output.out, &told);
        }
        self.keep(&Last { at_s: now_s, at: now(), available: checked.available })?;
        match wanted {
            Some(_) => self.restart(),
            None => Ok(()),
        }
    }

    fn keep(&self, last: &Last) -> Result<(), String> {
        let path = self.machine.root.join(LAST);
        let json = serde_json::to_vec_pretty(last).map_err(|error| error.to_string())?;
        in_force::put(&path, &json)?;
        self.publish(last)
    }

    fn publish(&self, last: &Last) -> Result<(), String> {
        in_force::put(&self.metrics, last.metrics(&self.machine.running()).as_bytes())
    }

    fn restart(&self) -> Result<(), String> {
        let status = Command::new(&self.systemctl).args(["--no-block", "reboot"]).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("the machine is not restarted ({status})")),
            Err(error) => Err(format!("{}: {error}", self.systemctl.display())),
        }
    }
}

/// Whether it is time: the newest `at` has passed since the last look, and with "automatic" not
/// longer ago than the window.
fn is_due(update: &Update, now_s: u64, last_s: Option<u64>) -> bool {
    let Some(minute) = update.minute() else { return false };
    let since_s = (now_s + DAY_S - u64::from(minute) * 60) % DAY_S;
    let is_new = last_s.is_none_or(|last_s| last_s + since_s < now_s);
    is_new && (update.apply == Apply::Check || since_s < WINDOW_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_once_a_day_and_is_applied_only_within_the_hour() {
        let of = |apply| Update { source: "/a".to_owned(), apply, at: "03:00".to_owned() };
        let (check, automatic) = (of(Apply::Check), of(Apply::Automatic));
        let today = 20_000 * DAY_S;
        let at = |hour: u64, minute: u64| today + hour * 3_600 + minute * 60;
        assert!(is_due(&check, at(9, 0), None) && !is_due(&automatic, at(9, 0), None));
        assert!(is_due(&automatic, at(3, 0), None) && is_due(&automatic, at(3, 59), None));
        assert!(!is_due(&automatic, at(4, 0), None) && !is_due(&automatic, at(2, 59), None));
        assert!(!is_due(&check, at(9, 0), Some(at(3, 5))));
        assert!(is_due(&check, at(9, 0), Some(at(2, 59))));
        assert!(!is_due(&check, at(27, 0) - 1, Some(at(3, 0))));
        assert!(is_due(&automatic, at(27, 0), Some(at(3, 0))));
    }

    #[test]
    fn what_was_found_is_told_until_it_runs() {
        let at = "2026-01-02T03:04:05.000001Z".to_owned();
        let last = Last { at_s: 7, at, available: Some("1.1".to_owned()) };
        assert_eq!(last.line("1.0"), "1.1 is available, seen 2026-01-02T03:04:05 UTC");
        assert!(last.metrics("1.0").contains("basalt_update_available{version=\"1.1\"} 1\n"));
        assert!(last.line("1.1").starts_with("none newer than 1.1"));
        assert!(last.metrics("1.1").contains("basalt_update_available{version=\"\"} 0\n"));
    }
}
