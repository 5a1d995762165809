//! Updates of an appliance from outside: what is refused, what is left, what goes back.
//!
//! Keys and signatures are gpg's own; for systemd-sysupdate stands a script that notes its call.
#![expect(clippy::unwrap_used, reason = "a test: what cannot be is a failure")]

use sha2::{Digest as _, Sha256};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A machine that runs version 1.0, a mirror that has 1.1, and the mirror's key.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        for folder in ["mirror", "keys", "other", "esp/EFI/Linux", "etc", "health"] {
            fs::create_dir_all(world.path(folder)).unwrap();
        }
        for folder in ["keys", "other"] {
            let mode = fs::Permissions::from_mode(0o700);
            fs::set_permissions(world.path(folder), mode).unwrap();
            let name = format!("{folder}@example.org");
            let make = ["--quick-gen-key", &name, "ed25519", "sign", "never"];
            let passless = ["--passphrase", "", "--pinentry-mode", "loopback"];
            gpg(&world.path(folder), &[&passless[..], &make[..]].concat());
        }
        let export = gpg(&world.path("keys"), &["--export"]);
        fs::write(world.path("keyring.gpg"), export).unwrap();
        world.put("etc/os-release", "IMAGE_ID=basalt\nIMAGE_VERSION=1.0\n");
        world.put("esp/EFI/Linux/basalt_1.0.efi", "");
        let script = format!("#!/bin/sh\necho \"$@\" >{}\n", world.path("called").display());
        world.put("sysupdate", &script);
        fs::set_permissions(world.path("sysupdate"), fs::Permissions::from_mode(0o755)).unwrap();
        world.publish("1.1", "keys");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Puts a version into the mirror, signed by a key.
    fn publish(&self, version: &str, key: &str) {
        let mut sums = String::new();
        for part in ["root-x86-64.0a.raw", "root-x86-64-verity.0b.raw", "efi"] {
            let (name, text) = (format!("basalt_{version}.{part}"), format!("{part} {version}"));
            self.put(&format!("mirror/{name}"), &text);
            sums.push_str(&format!("{}  {name}\n", hex::encode(Sha256::digest(text))));
        }
        self.put("mirror/SHA256SUMS", &sums);
        let signature = self.path("mirror/SHA256SUMS.gpg");
        fs::remove_file(&signature).ok();
        let (sums, signature) = (self.path("mirror/SHA256SUMS"), signature.display().to_string());
        let sums = sums.display().to_string();
        gpg(&self.path(key), &["--output", &signature, "--detach-sign", &sums]);
    }

    fn update(&self, action: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_basalt"));
        command.args(["update", action]).args(arguments);
        command.arg("--root").arg(self.path("")).arg("--esp").arg(self.path("esp"));
        command.arg("--health").arg(self.path("health"));
        if ["check", "apply"].contains(&action) {
            command.arg("--from").arg(self.path("mirror"));
            command.arg("--keyring").arg(self.path("keyring.gpg"));
        }
        if action == "apply" {
            command.arg("--into").arg(self.path("update"));
            command.arg("--sysupdate").arg(self.path("sysupdate"));
        }
        command.output().unwrap()
    }

    fn good(&self, action: &str) -> String {
        let output = self.update(action, &[]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{action}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a refusal says; nothing was called and nothing is left.
    fn refused(&self) -> String {
        let output = self.update("apply", &[]);
        assert_eq!(output.status.code(), Some(1));
        for name in ["called", "update", "update.new"] {
            assert!(!self.path(name).exists(), "{name} is there");
        }
        String::from_utf8(output.stderr).unwrap()
    }
}

fn gpg(home: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new("gpg");
    command.args(["--batch", "--yes", "--homedir"]).arg(home).args(arguments);
    let output = command.output().expect("gpg runs: install Debian's package gnupg");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn a_signed_newer_version_is_checked_fetched_and_handed_on() {
    let world = World::new();
    assert_eq!(world.good("check"), "1.1: newer than 1.0, which runs\n");
    assert!(!world.path("update").exists(), "a check fetches nothing");
    assert!(world.good("apply").starts_with("1.1 is in the other slot."));
    assert_eq!(fs::read_to_string(world.path("called")).unwrap(), "--verify=yes update 1.1\n");
    let fetched = fs::read_to_string(world.path("update/basalt_1.1.efi")).unwrap();
    assert_eq!(fetched, "efi 1.1");
    assert!(world.path("update/SHA256SUMS.gpg").exists());
}

#[test]
fn what_is_not_signed_or_not_what_was_signed_changes_nothing() {
    let world = World::new();
    world.put("mirror/basalt_1.1.efi", "tampered");
    let text = world.refused();
    assert!(text.contains("basalt_1.1.efi: has SHA-256 ") && text.contains("signed is"), "{text}");
    world.publish("1.1", "other");
    let text = world.refused();
    assert!(text.contains("not signed by a key of this machine"), "{text}");
    world.publish("1.1", "keys");
    let sums = fs::read_to_string(world.path("mirror/SHA256SUMS")).unwrap();
    world.put("mirror/SHA256SUMS", &sums.replacen("basalt_1.1.efi", "basalt_1.2.efi", 1));
    assert!(world.refused().contains("not signed by"), "sums were changed");
    fs::remove_file(world.path("mirror/SHA256SUMS.gpg")).unwrap();
    assert!(world.refused().contains("SHA256SUMS.gpg: cannot be read"));
    fs::remove_file(world.path("keyring.gpg")).unwrap();
    assert!(world.refused().contains("no key may sign an update"));
}

#[test]
fn an_older_or_incomplete_version_is_refused() {
    let world = World::new();
    world.publish("0.9", "keys");
    assert!(world.refused().contains("0.9 is not newer than 1.0"));
    world.publish("1.0", "keys");
    assert!(world.refused().contains("1.0 is not newer than 1.0"));
    assert_eq!(world.good("check"), "1.0: the same as 1.0, which runs\n");
    let missing = world.update("apply", &["--version", "7"]);
    let text = String::from_utf8(missing.stderr).unwrap();
    assert!(text.contains("has not all three parts of 7"), "{text}");
}

#[test]
fn a_rollback_needs_a_good_version_and_spends_the_running_ones_tries() {
    let world = World::new();
    let refused = world.update("rollback", &[]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("no good version beside 1.0"), "{text}");
    world.put("esp/EFI/Linux/basalt_0.8+0-3.efi", "");
    assert_eq!(world.update("rollback", &[]).status.code(), Some(1), "0.8 is not tried again");
    world.put("esp/EFI/Linux/basalt_0.9.efi", "");
    let reason = "{\"version\": \"0.8\", \"reason\": \"too slow\"}";
    world.put("health/refused.json", reason);
    let status = world.good("status");
    let wanted = "0.8             not tried again\n0.9             good\n\
                  1.0             good, runs now\n0.8 went back: too slow\n";
    assert_eq!(status, wanted);
    assert!(world.good("rollback").starts_with("The next boot takes 0.9."));
    assert!(world.path("esp/EFI/Linux/basalt_1.0+0.efi").exists());
    assert!(world.good("status").contains("1.0             not tried again, runs now\n"));
}
