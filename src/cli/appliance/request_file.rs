//! The files of a request on the boot partition: the request, the one that runs, the outcome.

use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Below the ESP.
const FOLDER: &str = "loader/basalt";
const WANTED: &str = "request.toml";
const RUNNING: &str = "request.running.toml";
const DONE: &str = "request.done.toml";
const LOG: &str = "request.log";
/// Bytes of a request at most.
const BYTES_MAX: u64 = 16 * 1024;
/// Bytes of the log, of which the older half then goes.
const LOG_BYTES_MAX: usize = 64 * 1024;
/// Before the request's own text, in the file of the one that runs.
const TAKEN: &str = "# taken ";

/// A request as it stands in the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    update: Option<String>,
    version: Option<String>,
    rollback: Option<bool>,
    reset: Option<String>,
    support_bundle: Option<String>,
    restart: Option<bool>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What to do.
    pub action: Action,
    /// Restart the machine afterwards.
    pub restart: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Bring a version into the other slot.
    Update {
        /// From where.
        source: String,
        /// Which; the newest where none is named.
        version: Option<String>,
    },
    /// Go back to the version before.
    Rollback,
    /// Wipe the data.
    Reset {
        /// What the operator takes the host's name for.
        hostname: String,
    },
    /// Put an encrypted support bundle beside the request.
    SupportBundle {
        /// Who may read it.
        recipient: String,
    },
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// As asked.
    Done,
    /// Not done, for a reason.
    Refused,
    /// The power went while it was carried out.
    Interrupted,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// When it was taken, and which it is.
    pub taken: String,
    /// When it ended.
    pub ended: String,
    /// How.
    pub result: Word,
    /// What there is to say of it.
    pub reason: String,
    /// The version that ran then.
    pub version: String,
    /// The request's own text.
    pub request: String,
}

impl Outcome {
    /// On one line.
    pub fn line(&self) -> String {
        let word = match self.result {
            Word::Done => "done",
            Word::Refused => "refused",
            Word::Interrupted => "interrupted",
        };
        let reason: Vec<_> = self.reason.split_whitespace().collect();
        format!("{} {}: {word}: {}", self.ended, first_line(&self.request), reason.join(" "))
    }
}

/// A request that was taken and will not be taken again.
#[derive(Debug)]
pub struct Taken {
    at: String,
    text: String,
}

impl Taken {
    /// What of it says most.
    pub fn first_line(&self) -> &str {
        first_line(&self.text)
    }

    /// What it asks for.
    ///
    /// # Errors
    /// Where it is no TOML, has keys that there are not, or asks for more or less than one thing.
    pub fn asked(&self) -> Result<Asked, String> {
        let written: Written = toml_edit::de::from_str(&self.text)
            .map_err(|error| format!("{WANTED}: {}", error.message()))?;
        let Written { update, version, rollback, reset, support_bundle, restart } = written;
        let is_update = update.is_some();
        let mut actions = Vec::new();
        actions.extend(update.map(|source| Action::Update { source, version: version.clone() }));
        actions.extend(rollback.filter(|wanted| *wanted).map(|_| Action::Rollback));
        actions.extend(reset.map(|hostname| Action::Reset { hostname }));
        let needs_restart = support_bundle.is_none();
        actions.extend(support_bundle.map(|recipient| Action::SupportBundle { recipient }));
        if version.is_some() && !is_update {
            return Err(format!("{WANTED}: version is only for update = \"SOURCE\""));
        }
        match (actions.pop(), actions.is_empty()) {
            (Some(action), true) => Ok(Asked { action, restart: restart.unwrap_or(needs_restart) }),
            _ => Err(format!(
                "{WANTED}: want exactly one of update = \"SOURCE\", rollback = true, reset = \
                 \"HOSTNAME\", support_bundle = \"KEY\""
            )),
        }
    }

    /// How it ended.
    pub fn outcome(self, done: Result<String, String>, version: &str) -> Outcome {
        let (result, reason) = match done {
            Ok(told) => (Word::Done, told),
            Err(why) => (Word::Refused, why),
        };
        Outcome {
            taken: self.at,
            ended: now(),
            result,
            reason: reason.trim().to_owned(),
            version: version.to_owned(),
            request: self.text,
        }
    }
}

/// The folder on the boot partition.
#[derive(Debug)]
pub struct Files(PathBuf);

impl Files {
    /// In the first ESP that has the folder.
    pub fn find(esps: &[PathBuf]) -> Option<Self> {
        let mut folders = esps.iter().map(|esp| esp.join(FOLDER));
        folders.find(|folder| folder.is_dir()).map(Self)
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Ends what an earlier boot began and did not end; `None` where there is no such thing.
    ///
    /// # Errors
    /// Where the files cannot be read or written.
    pub fn cut_off(&self, version: &str) -> Result<Option<Outcome>, String> {
        let Some(text) = read(&self.path(RUNNING))? else { return Ok(None) };
        let (at, text) = text.split_once('\n').unwrap_or(("", &text));
        let at = at.strip_prefix(TAKEN).unwrap_or("unknown").to_owned();
        // The power may have gone between the copy and the removal of the original.
        if read(&self.path(WANTED))?.is_some_and(|wanted| wanted == text) {
            self.remove(WANTED)?;
        }
        if self.last().is_some_and(|outcome| outcome.taken == at) {
            self.remove(RUNNING)?;
            return Ok(None);
        }
        let reason = "the machine went off while it was carried out. It is not tried again by \
                      itself: see what is there, and ask anew";
        let taken = Taken { at, text: text.to_owned() };
        let outcome = taken.outcome(Err(reason.to_owned()), version);
        let outcome = Outcome { result: Word::Interrupted, ..outcome };
        self.finish(&outcome)?;
        Ok(Some(outcome))
    }

    /// Takes the request: from here on it counts as begun.
    ///
    /// # Errors
    /// Where the files cannot be read or written; the request then stays.
    pub fn take(&self) -> Result<Option<Taken>, String> {
        let Some(text) = read(&self.path(WANTED))? else { return Ok(None) };
        let taken = Taken { at: now(), text };
        self.write(RUNNING, &format!("{TAKEN}{}\n{}", taken.at, taken.text))?;
        self.remove(WANTED)?;
        Ok(Some(taken))
    }

    /// What became of the last request, if there was one.
    pub fn last(&self) -> Option<Outcome> {
        let text = read(&self.path(DONE)).ok()??;
        toml_edit::de::from_str(&text).ok()
    }

    /// Puts the outcome in the request's place.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn finish(&self, outcome: &Outcome) -> Result<(), String> {
        let text = toml_edit::ser::to_string_pretty(outcome).map_err(|error| error.to_string())?;
        self.write(DONE, &format!("# What became of {WANTED}; written by the machine.\n{text}"))?;
        let log = read_all(&self.path(LOG))?;
        let kept = match log.len() > LOG_BYTES_MAX {
            false => log.as_str(),
            true => {
                let half = log.lines().count() / 2;
                log.match_indices('\n').nth(half).map_or("", |(at, _)| &log[at + 1..])
            }
        };
        self.write(LOG, &format!("{kept}{}\n", outcome.line()))?;
        self.remove(RUNNING)
    }

    /// Whole and durable, or as before: the boot partition has no journal.
    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let (path, staged) = (self.path(name), self.path("request.new"));
        let written = (|| {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).open(&staged)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&staged, &path)?;
            // FAT's new entry has the file's size on the disk only after this.
            file.sync_all()?;
            File::open(&self.0)?.sync_all()
        })();
        written.map_err(|error: io::Error| {
            format!("{}: cannot be written ({error}); nothing was done", path.display())
        })
    }

    fn remove(&self, name: &str) -> Result<(), String> {
        let path = self.path(name);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        let synced = removed.and_then(|()| File::open(&self.0)?.sync_all());
        synced.map_err(|error| format!("{}: cannot be removed ({error})", path.display()))
    }
}

fn first_line(text: &str) -> &str {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or("(empty)")
}

/// A request or an outcome; what is too long or no text is cut, and then refused as no TOML.
fn read(path: &Path) -> Result<Option<String>, String> {
    let mut bytes = Vec::new();
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file,
    };
    let read = file.and_then(|file| file.take(4 * BYTES_MAX).read_to_end(&mut bytes));
    read.map_err(|error| format!("{}: cannot be read ({error})", path.display()))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn read_all(path: &Path) -> Result<String, String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(format!("{}: cannot be read ({error})", path.display())),
    }
}

/// In UTC, as RFC 3339 has it, with microseconds so that no two requests are taken at one time.
pub(super) fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (second, micros) = (since.as_secs(), since.subsec_micros());
    let (year, month, day) = civil(second / 86_400);
    let (hour, minute, second) = (second / 3_600 % 24, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Year, month and day of a day since 1970.
fn civil(mut day: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    loop {
        let days = if is_leap(year) { 366 } else { 365 };
        if day < days {
            break;
        }
        (day, year) = (day - days, year + 1);
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if day < length {
            break;
        }
        (day, month) = (day - length, month + 1);
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn files() -> (tempfile::TempDir, Files) {
        let esp = tempfile::tempdir().unwrap();
        fs::create_dir_all(esp.path().join(FOLDER)).unwrap();
        let files = Files::find(&[PathBuf::from("/nowhere"), esp.path().to_owned()]).unwrap();
        (esp, files)
    }

    fn asked(text: &str) -> Result<Asked, String> {
        Taken { at: String::new(), text: text.to_owned() }.asked()
    }

    #[test]
    fn one_thing_is_asked_for() {
        let update = asked("update = \"http://m\"\nversion = \"2\"\nrestart = false").unwrap();
        let (source, version) = ("http://m".to_owned(), Some("2".to_owned()));
        assert_eq!(update.action, Action::Update { source, version });
        assert!(!update.restart);
        assert_eq!(asked("rollback = true").unwrap().action, Action::Rollback);
        assert!(asked("reset = \"a\"").unwrap().restart);
        for (text, part) in [
            ("", "exactly one of"),
            ("rollback = false", "exactly one of"),
            ("rollback = true\nreset = \"a\"", "exactly one of"),
            ("version = \"1\"\nrollback = true", "only for update"),
            ("updat = \"x\"", "unknown field `updat`"),
            ("update = ", "request.toml: "),
            ("reset = 7", "expected a string"),
        ] {
            let refusal = asked(text).unwrap_err();
            assert!(refusal.contains(part), "{text:?}: {refusal}");
        }
    }

    #[test]
    fn a_request_is_taken_once_and_leaves_its_outcome() {
        let (_esp, files) = files();
        assert!(files.take().unwrap().is_none() && files.last().is_none());
        fs::write(files.path(WANTED), "rollback = true\n").unwrap();
        let taken = files.take().unwrap().unwrap();
        assert!(!files.path(WANTED).exists() && files.path(RUNNING).exists());
        let outcome = taken.outcome(Err("no \"other\"\nversion".to_owned()), "1.0");
        files.finish(&outcome).unwrap();
        assert_eq!(files.last(), Some(outcome));
        assert!(files.take().unwrap().is_none() && files.cut_off("1.0").unwrap().is_none());
        let log = fs::read_to_string(files.path(LOG)).unwrap();
        assert!(log.ends_with("rollback = true: refused: no \"other\" version\n"), "{log}");
    }

    #[test]
    fn a_request_that_the_power_cut_off_is_told_and_not_tried_again() {
        let (_esp, files) = files();
        let text = "update = \"http://m\"\n";
        fs::write(files.path(WANTED), text).unwrap();
        files.take().unwrap().unwrap();
        fs::write(files.path(WANTED), text).unwrap(); // The removal had not reached the disk.
        let outcome = files.cut_off("1.0").unwrap().unwrap();
        assert_eq!((outcome.result, outcome.request.as_str()), (Word::Interrupted, text));
        assert!(files.take().unwrap().is_none() && files.cut_off("1.0").unwrap().is_none());
        // The outcome is there, the removal of the running one had not reached the disk.
        let running = format!("{TAKEN}{}\n{text}", outcome.taken);
        fs::write(files.path(RUNNING), running).unwrap();
        assert!(files.cut_off("1.0").unwrap().is_none());
        assert!(!files.path(RUNNING).exists());
        assert_eq!(fs::read_to_string(files.path(LOG)).unwrap().lines().count(), 1);
    }

    #[test]
    fn the_log_stays_small() {
        let (_esp, files) = files();
        for _ in 0..800 {
            let taken = Taken { at: now(), text: "rollback = true".to_owned() };
            files.finish(&taken.outcome(Ok("x".repeat(100)), "1.0")).unwrap();
        }
        let log = fs::read_to_string(files.path(LOG)).unwrap();
        assert!(log.len() < LOG_BYTES_MAX + 1_000 && log.lines().count() > 100, "{}", log.len());
        assert!(log.lines().all(|line| line.ends_with('x')));
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_454), (2026, 1, 1));
        assert_eq!(civil(20_453), (2025, 12, 31));
    }

    proptest! {
        #[test]
        fn any_text_is_an_answer(text in "\\PC{0,80}") {
            asked(&text).ok();
        }
    }
}
