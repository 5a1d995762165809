//! The settings of a machine that boots the image, beside those of its node: in the same file,
//! in sections of their own. A node that runs elsewhere checks them and does nothing with them.

pub mod install;
pub mod update;
pub mod network;
pub mod time;

use crate::config::fault::{ConfigError, Fault, Origin, line_of, shortened};
use install::Install;
use network::Network;
use serde::{Deserialize, de::DeserializeOwned};
use time::Time;
use toml_edit::Document;

/// The commented defaults: appended to the node's manual.
pub const MANUAL: &str = include_str!("../appliance.toml");

/// Sections that are the appliance's, not the node's.
pub const SECTIONS: &[&str] = &["machine", "install", "update", "debug", "network", "time"];

/// Everything that can be set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Appliance {
    /// `[machine]`
    pub machine: Machine,
    /// `[install]`
    pub install: Install,
    /// `[update]`
    pub update: update::Update,
    /// `[debug]`
    pub debug: Debug,
    /// `[network]`
    pub network: Network,
    /// `[time]`
    pub time: Time,
}

/// One section by itself: what is wrong elsewhere in the file does not take it away.
pub trait Section: DeserializeOwned + Default {
    /// Says what is wrong with its values.
    fn check(&self, complain: Complain<'_>);
}

/// `[debug]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Debug {
    /// Who may log in, as OpenSSH writes public keys; only the debug image lets anybody in.
    pub authorized_keys: Vec<String>,
}

/// `[machine]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Machine {
    /// Empty: as DHCP says, or "basalt".
    pub hostname: String,
    /// Whether the plan's kernel arguments are brought into force.
    pub kernel_arguments: KernelArguments,
    /// How the data partition is made.
    pub encrypt_data: Encryption,
    /// Serial number or WWN of the disk that has the log alone; empty: the data partition has it.
    pub wal_disk: String,
}

/// Whether the plan's kernel arguments are brought into force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelArguments {
    /// At once where a running kernel takes them, else at the next restart.
    #[default]
    Auto,
    /// Never; an add-on that is there is removed.
    Off,
}

impl KernelArguments {
    /// They are.
    pub fn is_auto(self) -> bool {
        self == Self::Auto
    }
}

/// How a data partition is protected from who takes the disk out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// Not.
    #[default]
    Off,
    /// LUKS, with a key that this machine's TPM 2.0 gives to an unchanged boot.
    Tpm2,
}

impl Encryption {
    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Tpm2 => "tpm2",
        }
    }
}

/// Reads the appliance's sections of a configuration file.
///
/// # Errors
/// Where a value is of another type, unknown, or out of its range. A text that is no TOML is the
/// node's layer to complain about, and gives the defaults here.
pub fn appliance(name: &str, text: &str) -> Result<Appliance, ConfigError> {
    section(name, text)
}

/// Reads one section of a configuration file, as a type whose fields are sections.
///
/// # Errors
/// As for `appliance`.
pub fn section<T: Section>(name: &str, text: &str) -> Result<T, ConfigError> {
    if Document::parse(text).is_err() {
        return Ok(T::default());
    }
    let found: T = toml_edit::de::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let origin = Origin::File { name: name.to_owned(), line: line_of(text, at) };
        let remedy = "see `basalt config show --manual` for what can be set".to_owned();
        ConfigError { faults: vec![Fault { origin, what: shortened(error.message()), remedy }] }
    })?;
    let mut faults = Vec::new();
    found.check(&mut |key, what, remedy| {
        let origin = Origin::File { name: name.to_owned(), line: line_of_key(text, key) };
        faults.push(Fault { origin, what, remedy });
    });
    if faults.is_empty() { Ok(found) } else { Err(ConfigError { faults }) }
}

impl Section for Appliance {
    fn check(&self, complain: Complain<'_>) {
        self.machine.check(complain);
        self.install.check(complain);
        self.update.check(complain);
        self.debug.check(complain);
        self.network.check(complain);
        self.time.check(complain);
    }
}

/// Takes a fault: where it stands (`section.key`, `section.list.INDEX.key`), what is wrong, what to
/// do about it.
pub type Complain<'a> = &'a mut dyn FnMut(&str, String, String);

impl Machine {
    /// Says what is wrong with the values.
    pub fn check(&self, complain: Complain<'_>) {
        let label = |text: &str| {
            !text.is_empty()
                && text.len() <= 63
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !text.starts_with('-')
                && !text.ends_with('-')
        };
        let name = &self.hostname;
        let fits = name.len() <= 64 && name.split('.').all(label);
        if !(name.is_empty() || fits) {
            complain(
                "machine.hostname",
                format!("machine.hostname = \"{}\" is no host name", shortened(name)),
                "use letters, digits, - and . (RFC 1123), 64 at most".to_owned(),
            );
        }
        let disk = &self.wal_disk;
        let printable = disk.bytes().all(|byte| byte.is_ascii_graphic());
        if disk.len() > 64 || !printable {
            complain(
                "machine.wal_disk",
                format!("machine.wal_disk = \"{}\" names no disk", shortened(disk)),
                "give the disk's serial number or WWN, without blanks".to_owned(),
            );
        }
        if !disk.is_empty() && self.encrypt_data != Encryption::Off {
            complain(
                "machine.wal_disk",
                "machine.wal_disk with machine.encrypt_data: the log would not be encrypted"
                    .to_owned(),
                "leave one of them out".to_owned(),
            );
        }
    }
}

impl Debug {
    fn check(&self, complain: Complain<'_>) {
        for (index, key) in self.authorized_keys.iter().enumerate() {
            if !is_public_key(key) {
                complain(
                    &format!("debug.authorized_keys.{index}"),
                    format!("debug.authorized_keys: \"{}\" is no public key", shortened(key)),
                    "use a line of an .pub file: type, key in base64, comment; no options"
                        .to_owned(),
                );
            }
        }
    }
}

/// `ssh-ed25519 AAAA… comment`, of a type that OpenSSH takes by default.
fn is_public_key(line: &str) -> bool {
    const TYPES: [&str; 7] = [
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    ];
    let mut words = line.split(' ');
    let known = words.next().is_some_and(|word| TYPES.contains(&word));
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    // Four bytes of length before the type: every key begins so.
    let is_key = |word: &str| word.starts_with("AAAA") && word.bytes().all(base64);
    known && words.next().is_some_and(is_key) && !line.contains(char::is_control)
}

/// The line, from 1, where a key such as `network.links.0.address` stands.
pub fn line_of_key(text: &str, key: &str) -> usize {
    let Ok(document) = Document::parse(text) else { return 1 };
    let mut item = document.as_item();
    let mut at = 0;
    for part in key.split('.') {
        let next = match part.parse::<usize>() {
            Ok(index) => item.get(index),
            Err(_) => item.get(part),
        };
        let Some(next) = next else { break };
        let key = item.as_table_like().and_then(|table| table.key(part)?.span());
        at = key.or_else(|| next.span()).map_or(at, |span| span.start);
        item = next;
    }
    line_of(text, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text and what is said of it.
    const REFUSED: &[(&str, &str)] = &[
        ("[machine]\nhostname = \"a b\"", "f:2: machine.hostname = \"a b\" is no host name; use l"),
        ("\n[machine]\nhostnam = \"a\"", "f:3: unknown field `hostnam`"),
        ("[machine]\nhostname = 7", "f:2: invalid type: integer `7`, expected a string"),
        (
            "[machine]\nkernel_arguments = \"on\"",
            "f:2: unknown variant `on`, expected `auto` or `off`",
        ),
        (
            "[debug]\nauthorized_keys = [\n\"ssh-ed25519 AAAAC3 me\",\n\"no-pty ssh-rsa AAAA\"]",
            "f:4: debug.authorized_keys: \"no-pty ssh-rsa AAAA\" is no public key; use a line",
        ),
        ("[debug]\nauthorized_keys = [\"ssh-rsa AAAA\\nssh-rsa AAAA\"]", "f:2: debug.authorized"),
        ("machine = 1", "f:1: invalid type: integer `1`"),
        (
            "[machine]\nencrypt_data = \"yes\"",
            "f:2: unknown variant `yes`, expected `off` or `tpm2`",
        ),
        (
            "[machine]\nencrypt_data = \"tpm2\"\nwal_disk = \"S4\"",
            "f:3: machine.wal_disk with machine.encrypt_data: the log would not",
        ),
        (
            "[machine]\nwal_disk = \"a b\"",
            "f:2: machine.wal_disk = \"a b\" names no disk; give the",
        ),
    ];

    #[test]
    fn what_is_wrong_is_refused_with_line_and_remedy() {
        for (text, expected) in REFUSED {
            let refused = appliance("f", text).unwrap_err().to_string();
            assert!(refused.starts_with(expected), "{text:?}: {refused}");
        }
    }

    #[test]
    fn the_manual_is_the_default_and_has_every_section() {
        assert_eq!(appliance("manual", MANUAL).unwrap(), Appliance::default());
        let document = Document::parse(MANUAL).unwrap();
        let sections: Vec<_> = document.as_table().iter().map(|(name, _)| name).collect();
        assert_eq!(sections, SECTIONS);
    }

    #[test]
    fn the_nodes_sections_are_passed_over() {
        let text = "[rpc]\naddress = 7\n[machine]\nhostname = \"a.b-1\"";
        assert_eq!(appliance("f", text).unwrap().machine.hostname, "a.b-1");
    }
}
