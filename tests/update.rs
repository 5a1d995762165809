//! Updates of an appliance from outside: what is refused, what is left, what goes back.
//!
//! Keys and signatures are gpg's own; for systemd-sysupdate stands a script that notes its call.
#![expect(clippy::disallowed_methods, reason = "a test owns its threads")]
#![expect(clippy::unwrap_used, reason = "a test: what cannot be is a failure")]

#[path = "support/mirror.rs"]
mod mirror;
#[path = "support/secured.rs"]
mod secured;

use mirror::Mirror;
use secured::Secured;
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::SystemTime,
};

/// A machine that runs version 1.0, a mirror that has 1.1, and the mirror's key.
struct World(tempfile::TempDir);

/// What counts of a unified kernel image here: its section `.osrel`.
fn kernel(version: &str, state_format: &str) -> Vec<u8> {
    let text = format!("IMAGE_VERSION={version}\nBASALT_STATE_FORMAT={state_format}\n");
    let mut bytes = b"MZ".to_vec();
    bytes.resize(0x3C, 0);
    bytes.extend(64_u32.to_le_bytes());
    bytes.extend(b"PE\0\0\0\0\x01\0");
    bytes.resize(64 + 24, 0);
    bytes.extend(b".osrel\0\0");
    let length = u32::try_from(text.len()).unwrap().to_le_bytes();
    bytes.extend(length);
    bytes.extend([0; 4]);
    bytes.extend(length);
    bytes.extend(128_u32.to_le_bytes());
    bytes.resize(128, 0);
    bytes.extend(text.as_bytes());
    bytes
}

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        for folder in [
            "mirror",
            "keys",
            "other",
            "esp/EFI/Linux",
            "esp/loader/basalt",
            "etc",
            "health",
            "data",
        ] {
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
        let script = format!(
            "#!/bin/sh\necho \"$@\" >{}\nls {} >{}\n",
            world.path("called").display(),
            world.path("update").display(),
            world.path("listed").display()
        );
        world.put("sysupdate", &script);
        let script = format!("#!/bin/sh\necho \"$@\" >{}\n", world.path("restarted").display());
        world.put("systemctl", &script);
        for name in ["sysupdate", "systemctl"] {
            fs::set_permissions(world.path(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
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
        self.publish_all(&[(version, "1")], key);
    }

    /// Versions and the state formats that they read.
    fn publish_all(&self, versions: &[(&str, &str)], key: &str) {
        let mut sums = String::new();
        for (version, state_format) in versions {
            for part in ["root-x86-64.0a.raw", "root-x86-64-verity.0b.raw", "efi"] {
                let name = format!("basalt_{version}.{part}");
                let bytes = match part {
                    "efi" => kernel(version, state_format),
                    // Several pieces of a large file.
                    "root-x86-64.0a.raw" => version.repeat(4 << 20).into_bytes(),
                    _ => format!("{part} {version}").into_bytes(),
                };
                sums.push_str(&format!("{}  {name}\n", hex::encode(Sha256::digest(&bytes))));
                fs::write(self.path(&format!("mirror/{name}")), bytes).unwrap();
            }
        }
        self.put("mirror/SHA256SUMS", &sums);
        let signature = self.path("mirror/SHA256SUMS.gpg");
        fs::remove_file(&signature).ok();
        let (sums, signature) = (self.path("mirror/SHA256SUMS"), signature.display().to_string());
        let sums = sums.display().to_string();
        gpg(&self.path(key), &["--output", &signature, "--detach-sign", &sums]);
    }

    fn update(&self, action: &str, arguments: &[&str]) -> Output {
        self.update_from(action, &self.path("mirror").display().to_string(), arguments, None)
    }

    fn update_from(
        &self,
        action: &str,
        source: &str,
        arguments: &[&str],
        authorities: Option<&Path>,
    ) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_basalt"));
        command.args(["update", action]).args(arguments);
        if ["check", "apply"].contains(&action) {
            command.args(["--from", source]);
            self.means(&mut command);
        }
        if let Some(path) = authorities {
            command.env("SSL_CERT_FILE", path);
        }
        self.machine(&mut command);
        command.output().unwrap()
    }

    fn means(&self, command: &mut Command) {
        command.arg("--keyring").arg(self.path("keyring.gpg"));
        command.arg("--into").arg(self.path("update"));
        command.arg("--sysupdate").arg(self.path("sysupdate"));
    }

    fn machine(&self, command: &mut Command) {
        command.arg("--root").arg(self.path("")).arg("--esp").arg(self.path("esp"));
        command.arg("--health").arg(self.path("health")).arg("--data").arg(self.path("data"));
    }

    /// A boot that finds this request; what became of it.
    fn request(&self, text: &str) -> String {
        self.put("esp/loader/basalt/request.toml", text);
        let mut command = Command::new(env!("CARGO_BIN_EXE_basalt"));
        command.arg("request").arg("--told").arg(self.path("told"));
        command.arg("--systemctl").arg(self.path("systemctl"));
        self.means(&mut command);
        self.machine(&mut command);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!self.path("esp/loader/basalt/request.toml").exists());
        assert!(!self.path("esp/loader/basalt/request.running.toml").exists());
        assert!(self.path("told/outcome.json").exists());
        fs::read_to_string(self.path("esp/loader/basalt/request.done.toml")).unwrap()
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
    let listed = fs::read_to_string(world.path("listed")).unwrap();
    let files = ["SHA256SUMS", "SHA256SUMS.gpg", "basalt_1.1.efi", "basalt_1.1.root-x86-64.0a.raw"];
    assert!(files.iter().all(|name| listed.lines().any(|line| line == *name)), "{listed}");
    assert!(!world.path("update").exists(), "what is in the slot is not kept twice");
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
    fs::write(world.path("esp/EFI/Linux/basalt_0.9.efi"), kernel("0.9", "1")).unwrap();
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

#[test]
fn a_version_that_could_not_read_the_data_is_refused_in_both_directions() {
    let world = World::new();
    world.put("data/format", "2\n");
    let text = world.refused();
    let wanted = "1.1 reads state up to format 1, the data on this machine has format 2; nothing";
    assert!(text.contains(wanted), "{text}");
    fs::write(world.path("esp/EFI/Linux/basalt_0.9.efi"), kernel("0.9", "1")).unwrap();
    let refused = world.update("rollback", &[]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("0.9 reads state up to format 1"), "{text}");
    assert!(world.path("esp/EFI/Linux/basalt_1.0.efi").exists());
    fs::write(world.path("esp/EFI/Linux/basalt_0.9.efi"), kernel("0.9", "")).unwrap();
    let refused = world.update("rollback", &[]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("0.9 does not say which state it reads"), "{text}");

    // A data folder below the usual one counts as well.
    fs::remove_file(world.path("data/format")).unwrap();
    fs::create_dir_all(world.path("data/chains/a")).unwrap();
    world.put("data/chains/a/format", "3\n");
    assert!(world.refused().contains("has format 3"));
    world.publish_all(&[("1.1", "3")], "keys");
    assert!(world.good("apply").starts_with("1.1 is in the other slot."));
}

#[test]
fn a_version_that_went_back_is_applied_only_by_name() {
    let world = World::new();
    world.put("health/refused.json", "{\"version\": \"1.1\", \"reason\": \"too slow\"}");
    let text = world.refused();
    assert!(text.contains("1.1 went back on this machine (too slow); nothing"), "{text}");
    assert!(world.good("check").contains("1.1 went back on this machine (too slow); it is"));
    world.publish_all(&[("1.0.5", "1"), ("1.1", "1")], "keys");
    assert!(world.good("apply").starts_with("1.0.5 is in the other slot."));
    fs::remove_file(world.path("called")).unwrap();

    // By its spent tries alone; by name it gets new ones, and the slot is not written again.
    fs::remove_file(world.path("health/refused.json")).unwrap();
    world.publish("1.1", "keys");
    fs::write(world.path("esp/EFI/Linux/basalt_1.1+0-3.efi"), kernel("1.1", "1")).unwrap();
    assert!(world.refused().contains("1.1 went back on this machine (its tries are used up)"));
    let named = world.update("apply", &["--version", "1.1"]);
    assert!(named.status.success(), "{}", String::from_utf8_lossy(&named.stderr));
    assert!(world.path("esp/EFI/Linux/basalt_1.1+3-0.efi").exists());
    assert!(!world.path("called").exists());
}

#[test]
fn the_way_back_of_a_version_on_trial_is_not_written_over() {
    let world = World::new();
    let (good, tried) = ("esp/EFI/Linux/basalt_1.0.efi", "esp/EFI/Linux/basalt_1.0+2-1.efi");
    fs::rename(world.path(good), world.path(tried)).unwrap();
    let text = world.refused();
    assert!(text.contains("1.0, which runs, has not proved itself yet (2 tries left)"), "{text}");
}

#[test]
fn a_mirror_that_breaks_off_is_asked_for_the_rest() {
    let world = World::new();
    let folder = world.path("mirror");
    for (gives_pieces, breaks) in [(true, 3), (true, 0), (false, 2), (false, 0)] {
        let mirror = Mirror::new(&folder, gives_pieces, breaks);
        let applied = world.update_from("apply", &mirror.url, &[], None);
        let error = String::from_utf8_lossy(&applied.stderr).into_owned();
        assert!(applied.status.success(), "{gives_pieces} {breaks}: {error}");
        fs::remove_file(world.path("called")).unwrap();
    }
    let mirror = Mirror::new(&folder, true, usize::MAX);
    let refused = world.update_from("apply", &mirror.url, &[], None);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        error.contains("cannot be fetched") && error.contains("nothing was changed"),
        "{error}"
    );
    for name in ["called", "update", "update.new"] {
        assert!(!world.path(name).exists(), "{name} is there");
    }
}

#[test]
fn https_is_for_servers_that_an_authority_vouches_for() {
    let world = World::new();
    let secured = Secured::new(&world.path("mirror"), &world.path(""));
    let authority = world.path("authority.pem");
    let good = world.update_from("apply", &secured.url, &[], Some(&authority));
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    fs::remove_file(world.path("called")).unwrap();
    world.put("nobody.pem", "");
    let refused = world.update_from("apply", &secured.url, &[], Some(&world.path("nobody.pem")));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("TLS: ") && error.contains("is the clock right?"), "{error}");
    assert!(!world.path("called").exists());
}

#[test]
fn an_update_is_looked_for_and_applied_as_the_configuration_says() {
    let world = World::new();
    for folder in ["run", "var/lib/basalt-update"] {
        fs::create_dir_all(world.path(folder)).unwrap();
    }
    let at = |hours: u64| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let minute = (now / 60 + hours * 60) % 1_440;
        format!("{:02}:{:02}", minute / 60, minute % 60)
    };
    let scheduled = |apply: &str, at: &str| {
        let source = world.path("mirror").display().to_string();
        let text = format!("source = \"{source}\"\napply = \"{apply}\"\nat = \"{at}\"\n");
        world.put("run/basalt.toml", &format!("[update]\n{text}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_basalt"));
        command.args(["update", "scheduled", "--run"]).arg(world.path("run"));
        command.arg("--metrics").arg(world.path("metrics.txt"));
        command.arg("--systemctl").arg(world.path("systemctl"));
        world.means(&mut command);
        world.machine(&mut command);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(scheduled("never", &at(0)), "");
    assert_eq!(scheduled("automatic", &at(2)), "", "its time was 22 hours ago");
    assert!(!world.path("metrics.txt").exists());
    assert_eq!(scheduled("check", &at(2)), "1.1: newer than 1.0, which runs\n");
    assert_eq!(scheduled("check", &at(2)), "", "once a day");
    let metrics = fs::read_to_string(world.path("metrics.txt")).unwrap();
    assert!(metrics.contains("basalt_update_available{version=\"1.1\"} 1"), "{metrics}");
    assert!(world.good("status").contains("1.1 is available, seen "));
    assert!(!world.path("called").exists() && !world.path("restarted").exists());
    fs::remove_file(world.path("var/lib/basalt-update/last.json")).unwrap();
    assert!(scheduled("automatic", &at(0)).contains("1.1 is in the other slot."));
    assert!(world.path("called").exists() && world.path("restarted").exists());
}

#[test]
fn a_request_on_the_boot_partition_is_carried_out_once_and_told() {
    let world = World::new();
    let source = world.path("mirror").display().to_string();
    let done = world.request(&format!("update = \"{source}\"\nrestart = false\n"));
    assert!(done.contains("result = \"done\"") && done.contains("1.1 is in the other"), "{done}");
    assert!(!world.path("restarted").exists());
    fs::write(world.path("esp/EFI/Linux/basalt_0.9.efi"), kernel("0.9", "1")).unwrap();
    assert!(world.request("rollback = true\n").contains("The next boot takes 0.9."));
    let called = fs::read_to_string(world.path("restarted")).unwrap();
    assert_eq!(called, "--no-block reboot\n");
    fs::remove_file(world.path("restarted")).unwrap();

    fs::create_dir_all(world.path("proc/sys/kernel")).unwrap();
    world.put("proc/sys/kernel/hostname", "node-7\n");
    fs::create_dir_all(world.path("sys/firmware/efi/efivars")).unwrap();
    fs::create_dir_all(world.path("usr/lib/repart.d")).unwrap();
    world.put("usr/lib/repart.d/50-data.conf", "[Partition]\nFactoryReset=yes\n");
    let refused = world.request("reset = \"node-8\"\n");
    assert!(refused.contains("result = \"refused\""), "{refused}");
    assert!(refused.contains("is not this host's name"), "{refused}");
    assert!(!world.path("restarted").exists());
    assert!(world.request("reset = \"node-7\"\n").contains("result = \"done\""));
    assert_eq!(fs::read_dir(world.path("sys/firmware/efi/efivars")).unwrap().count(), 1);
    assert!(world.path("restarted").exists());
    let log = fs::read_to_string(world.path("esp/loader/basalt/request.log")).unwrap();
    assert_eq!(log.lines().count(), 4, "{log}");
}
