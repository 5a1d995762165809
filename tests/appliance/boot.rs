//! A machine that boots, in a folder.

use serde_json::Value;
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

/// A machine that boots: its ESP, credentials, kernel arguments and firmware.
pub(crate) struct Boot(tempfile::TempDir);

impl Boot {
    pub(crate) fn new() -> Self {
        let boot = Self(tempfile::tempdir().unwrap());
        for folder in ["esp/loader/basalt", "credentials", "firmware", "run", "state"] {
            fs::create_dir_all(boot.path(folder)).unwrap();
        }
        boot.put("cmdline", "quiet ro");
        boot
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn run(&self) -> Output {
        self.command().output().unwrap()
    }

    /// What `run` runs.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_basalt"));
        command.arg("boot-config").args(["--wait-s", "1"]);
        for (flag, name) in [
            ("--esp", "esp"),
            ("--into", "run"),
            ("--state", "state"),
            ("--kernel-arguments", "cmdline"),
            ("--firmware", "firmware"),
            ("--accept", "accept"),
            ("--closed", "closed"),
            ("--os-release", "os-release"),
            ("--disk", "disk"),
            ("--root", "root"),
        ] {
            command.arg(flag).arg(self.path(name));
        }
        command.env("CREDENTIALS_DIRECTORY", self.path("credentials"));
        command
    }

    /// What a good boot puts in force.
    pub(crate) fn in_force(&self) -> Value {
        let output = self.run();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        assert!(!self.path("run/maintenance.json").exists());
        serde_json::from_slice(&fs::read(self.path("run/in-force.json")).unwrap()).unwrap()
    }

    /// What a bad boot says on the console, after it left the same for maintenance and no
    /// configuration for a node.
    pub(crate) fn refusal(&self) -> String {
        let output = self.run();
        assert_eq!(output.status.code(), Some(1));
        assert!(!self.path("run/basalt.toml").exists(), "a node could start");
        let text = String::from_utf8(output.stderr).unwrap();
        let left = fs::read(self.path("run/maintenance.json")).unwrap();
        let left: Value = serde_json::from_slice(&left).unwrap();
        for fault in left["faults"].as_array().unwrap() {
            assert!(text.contains(fault["what"].as_str().unwrap()), "{text}");
            assert!(!fault["remedy"].as_str().unwrap().is_empty(), "{text}");
        }
        text
    }
}
