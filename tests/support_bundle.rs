//! A support bundle is read by its recipient and by nobody else, and holds no secret.
#![expect(clippy::unwrap_used, reason = "a test: what cannot be is a failure")]

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const PHRASE: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";
const OLD: &str = "letter advice cage absurd amount doctor acoustic avoid letter advice cage above";
const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

/// A machine: files, and programs that say what theirs would.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(machine.path("bin")).unwrap();
        fs::create_dir_all(machine.path("root")).unwrap();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.path("root").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn run(&self, recipient: &str, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_basalt"));
        command.args(["support-bundle", "--recipient", recipient, "--out"]);
        command.arg(self.path("bundle")).arg("--root").arg(self.path("root")).args(more);
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", self.path("bin").display()));
        command.current_dir(self.0.path()).output().unwrap()
    }

    /// The encrypted bundle, after all went well, and what was said.
    fn bundle(&self, recipient: &str) -> (Vec<u8>, String) {
        let output = self.run(recipient, &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let sealed = fs::read(self.path("bundle")).unwrap();
        (sealed, String::from_utf8(output.stdout).unwrap())
    }

    fn refusal(&self, recipient: &str) -> String {
        let output = self.run(recipient, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(!self.path("bundle").exists() && !self.path("bundle.new").exists());
        String::from_utf8(output.stderr).unwrap()
    }
}

fn opened(sealed: &[u8], identity: &dyn age::Identity) -> Vec<u8> {
    let decryptor = age::Decryptor::new(sealed).unwrap();
    let mut plain = Vec::new();
    decryptor.decrypt(std::iter::once(identity)).unwrap().read_to_end(&mut plain).unwrap();
    plain
}

fn unpacked(packed: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(zstd::stream::read::Decoder::new(packed).unwrap());
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(name.trim_start_matches("basalt-support/").to_owned(), text);
    }
    files
}

fn age_key() -> (age::x25519::Identity, String) {
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public().to_string();
    (identity, recipient)
}

#[test]
fn the_recipient_reads_all_and_no_secret_is_in_it() {
    let machine = Machine::new();
    let config = format!(
        "[rpc]\naddress = \"127.0.0.1:8545\"\n[chain]\n# before: {OLD}\n\
         dev_mnemonic = \"{PHRASE}\"\n[other]\napi_token = \"hush-hush-7\"\n"
    );
    machine.put("run/basalt/basalt.toml", &config);
    machine.put("efi/loader/basalt/basalt.toml", &config.replace("hush-hush-7", "hush-hush-8"));
    machine.put("run/basalt/in-force.json", "{\"source\": \"esp\"}");
    machine.put("proc/cmdline", "quiet basalt.config_url=http://me:pass-9@host/x");
    machine.put("proc/sys/kernel/hostname", "node-7\n");
    machine.put("sys/class/dmi/id/bios_version", "1.2.3\n");
    machine.put("sys/class/dmi/id/product_serial", "SERIAL-0\n");
    machine.program(
        "journalctl",
        &format!(
            "echo \"$@\"; echo 'said hush-hush-7, and {PHRASE}'; echo 'key {KEY}'; \
             echo 'JWT_SECRET=leaked-1'"
        ),
    );
    let (identity, recipient) = age_key();
    let (sealed, told) = machine.bundle(&recipient);
    let files = unpacked(&opened(&sealed, &identity));
    assert!(files["config/in-force.toml"].contains("address = \"127.0.0.1:8545\""));
    assert!(files["config/esp.toml"].contains("dev_mnemonic = \"[redacted]\""));
    assert!(files["journal/boot-0-before"].contains("said [redacted], and [redacted]"));
    assert!(files["journal/boot-1-before"].contains("-b -1"));
    assert!(files["hardware/firmware"].contains("bios_version = 1.2.3"));
    assert!(files["state/sysctls"].contains("proc/sys/kernel/hostname = node-7"));
    assert!(files["versions/basalt"].contains(env!("CARGO_PKG_VERSION")));
    for (name, text) in &files {
        for secret in [PHRASE, OLD, "hush-hush", "pass-9", KEY, "leaked-1", "SERIAL-0"] {
            assert!(!text.contains(secret), "{secret} is in {name}:\n{text}");
        }
    }
    for kind in ["values of the configuration", "recovery phrases", "numbers of 32 bytes"] {
        assert!(told.contains(kind) && files["index.json"].contains(kind), "{told}");
    }
    assert_eq!(fs::metadata(machine.path("bundle")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_cannot_be_had_is_named() {
    let machine = Machine::new();
    machine.program("journalctl", "echo no journal >&2; exit 1");
    let (identity, recipient) = age_key();
    let (sealed, told) = machine.bundle(&recipient);
    let index = &unpacked(&opened(&sealed, &identity))["index.json"];
    let index: serde_json::Value = serde_json::from_str(index).unwrap();
    let missing = |name: &str| {
        let mut parts = index["parts"].as_array().unwrap().iter();
        let part = parts.find(|part| part["name"] == name).unwrap();
        part["missing"].as_str().unwrap().to_owned()
    };
    assert!(missing("journal/boot-0-before").contains("no journal"));
    assert!(missing("config/in-force.toml").contains("No such file"));
    assert!(missing("metrics.txt").contains("no configuration"));
    assert!(told.contains("missing: "), "{told}");
}

#[test]
fn nobody_else_reads_it() {
    let machine = Machine::new();
    let (_, recipient) = age_key();
    let (other, _) = age_key();
    let (sealed, _) = machine.bundle(&recipient);
    let decryptor = age::Decryptor::new(&sealed[..]).unwrap();
    let other: &dyn age::Identity = &other;
    assert!(decryptor.decrypt(std::iter::once(other)).is_err());
    let shows = |words: &[u8]| sealed.windows(words.len()).any(|window| window == words);
    assert!(!shows(b"index.json") && !shows(b"\x28\xb5\x2f\xfd"), "it is not encrypted");
}

#[test]
fn an_ssh_key_reads_it() {
    let machine = Machine::new();
    let key = machine.path("key");
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]).arg(&key);
    assert!(command.status().expect("install Debian's openssh-client").success());
    let recipient = fs::read_to_string(key.with_extension("pub")).unwrap();
    let text = fs::read(&key).unwrap();
    let identity = age::ssh::Identity::from_buffer(&text[..], None).unwrap();
    let (sealed, _) = machine.bundle(recipient.trim());
    assert!(unpacked(&opened(&sealed, &identity)).contains_key("index.json"));
    fs::remove_file(machine.path("bundle")).unwrap();
    let (sealed, _) = machine.bundle("key.pub");
    assert!(unpacked(&opened(&sealed, &identity)).contains_key("index.json"));
    fs::remove_file(machine.path("bundle")).unwrap();
    assert!(machine.refusal("key").contains("that is a private key"));
}

#[test]
fn a_pgp_key_reads_it() {
    let machine = Machine::new();
    let home = machine.path("gnupg");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    let passless = ["--pinentry-mode", "loopback", "--passphrase", ""];
    let make = ["--quick-generate-key", "operator", "future-default", "default", "never"];
    gpg(&home, &[&passless[..], &make[..]].concat());
    fs::write(machine.path("key.asc"), gpg(&home, &["--armor", "--export"])).unwrap();
    machine.bundle("key.asc");
    let bundle = machine.path("bundle").display().to_string();
    let packed = gpg(&home, &[&passless[..], &["--decrypt", &bundle]].concat());
    assert!(unpacked(&packed).contains_key("index.json"));
    let kill = Command::new("gpgconf").arg("--homedir").arg(&home).args(["--kill", "all"]).status();
    assert!(kill.unwrap().success());
}

fn gpg(home: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new("gpg");
    command.arg("--homedir").arg(home).args(["--batch", "--quiet"]).args(arguments);
    let output = command.output().expect("gpg runs: install Debian's package gnupg");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn without_a_recipient_nothing_is_made() {
    let machine = Machine::new();
    for (recipient, reason) in [
        ("", "no file"),
        ("age1qqqq", "recipient \"age1qqqq\""),
        ("ssh-ed25519 x", "no usable SSH key"),
        ("AGE-SECRET-KEY-1QQQ", "that is a private key"),
        ("nowhere.asc", "no file (No such file"),
    ] {
        let refusal = machine.refusal(recipient);
        assert!(refusal.contains(reason), "{recipient:?}: {refusal}");
        assert!(!refusal.contains("1QQQ"), "the key is repeated: {refusal}");
    }
    let (_, recipient) = age_key();
    machine.bundle(&recipient);
    let output = machine.run(&recipient, &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("is there already"));
}

#[test]
fn a_request_on_the_boot_partition_leaves_a_bundle_there() {
    let machine = Machine::new();
    let folder = machine.path("esp/loader/basalt");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("support-1.tar.zst.age"), "an earlier one").unwrap();
    let (identity, recipient) = age_key();
    let ask = |recipient: &str| {
        let text = format!("support_bundle = \"{recipient}\"\n");
        fs::write(folder.join("request.toml"), text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_basalt"));
        command.arg("request").arg("--esp").arg(machine.path("esp"));
        command.arg("--root").arg(machine.path("root")).arg("--told").arg(machine.path("told"));
        command.arg("--systemctl").arg("/bin/false");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read_to_string(folder.join("request.done.toml")).unwrap()
    };
    let told = ask(&recipient);
    assert!(told.contains("result = \"done\"") && told.contains("could not be had"), "{told}");
    let names = || {
        let entries = fs::read_dir(&folder).unwrap();
        let names = entries.map(|it| it.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("support-")).collect::<Vec<_>>()
    };
    let found = names();
    assert!(found.len() == 1 && found[0] != "support-1.tar.zst.age", "{found:?}");
    let sealed = fs::read(folder.join(&found[0])).unwrap();
    assert!(unpacked(&opened(&sealed, &identity)).contains_key("index.json"));
    assert!(ask("nobody.asc").contains("result = \"refused\""));
    assert_eq!(names(), found, "a refused request takes nothing away");
}

#[test]
fn a_large_journal_loses_its_oldest_lines() {
    let machine = Machine::new();
    machine.program("journalctl", "head -c 1500000 /dev/urandom | base64 -w 100; echo the newest");
    let (identity, recipient) = age_key();
    let output = machine.run(&recipient, &["--size-mib-max", "2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sealed = fs::read(machine.path("bundle")).unwrap();
    assert!(sealed.len() <= 2 << 20);
    let files = unpacked(&opened(&sealed, &identity));
    let journal = &files["journal/boot-0-before"];
    assert!(journal.ends_with("the newest\n") && journal.len() <= 512 << 10, "{}", journal.len());
    assert!(files["index.json"].contains("only the last"));
}
