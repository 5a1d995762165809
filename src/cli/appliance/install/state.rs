//! What an installation is about to do and how far it is, under `/run/basalt-install`: written by
//! the process that installs, shown on every console. Its lock lets one process install at a time.

use crate::cli::appliance::in_force::{put, read_json};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

/// The folder, unless a flag names another.
pub const FOLDER: &str = "/run/basalt-install";
const STATE: &str = "state.json";
const LOCK: &str = "lock";

/// How far an installation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Somebody has to say what to do.
    Asking,
    /// It was asked for, and cannot be done.
    Refused,
    /// It goes on.
    Working,
    /// It failed on the way.
    Failed,
    /// It is done and checked.
    Done,
}

/// What the consoles show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// How far.
    pub stage: Stage,
    /// The step and how far it is, the reason of a refusal, or what was done.
    pub text: String,
    /// Of the step, 0 to 100.
    pub percent: u64,
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Place(PathBuf);

impl Place {
    /// Makes it where it is missing.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn new(folder: PathBuf) -> Result<Self, String> {
        fs::create_dir_all(&folder)
            .map_err(|error| format!("{}: cannot be made ({error})", folder.display()))?;
        Ok(Self(folder))
    }

    /// For the consoles to see.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn tell(&self, stage: Stage, text: &str, percent: u64) -> Result<(), String> {
        let state = State { stage, text: text.to_owned(), percent };
        let json = serde_json::to_vec(&state).map_err(|error| error.to_string())?;
        put(&self.0.join(STATE), &json)
    }

    /// What was told last.
    pub fn told(&self) -> Option<State> {
        read_json(&self.0.join(STATE))
    }

    /// The right to install, until the file is closed. `None`: another process has it.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn lock(&self) -> Result<Option<File>, String> {
        let path: &Path = &self.0.join(LOCK);
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let file = File::create(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_installs_and_all_see_how_far_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path().join("install")).unwrap();
        let held = place.lock().unwrap();
        assert!(held.is_some() && place.lock().unwrap().is_none());
        drop(held);
        assert!(place.lock().unwrap().is_some());
        assert_eq!(place.told(), None);
        place.tell(Stage::Working, "writing the root", 40).unwrap();
        let told = place.told().unwrap();
        assert_eq!((told.stage, told.percent), (Stage::Working, 40));
    }
}
