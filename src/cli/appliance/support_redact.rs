//! What must not be in a support bundle: taken out of every text, and counted by kind. Pure.
//!
//! 1. values of the configuration under names that say secret, wherever they stand
//! 2. recovery phrases, private keys, passwords in URLs and after a name that says so
//! 3. all but the beginning of 32-byte numbers, which could be keys as well as hashes

use std::collections::BTreeMap;
use toml_edit::{DocumentMut, Item, TableLike, Value};

/// What is in place of it.
pub const GONE: &str = "[redacted]";
/// Shorter values are no secrets, and taking them out would tear other words.
const SECRET_BYTES_MIN: usize = 6;
/// A recovery phrase has 12 words or more; one of 11 is a torn one.
const PHRASE_WORDS_MIN: usize = 11;
/// Digits that are left of 32 bytes, to find a transaction again.
const DIGITS_LEFT: usize = 8;
/// Parts of a name that say that its value is a secret.
const SECRET_NAMES: &[&str] =
    &["mnemonic", "secret", "password", "passphrase", "token", "private", "seed", "key", "keys"];

/// How often each kind of secret was taken out.
pub type Counts = BTreeMap<&'static str, usize>;

/// What is known to be secret on this machine.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Vec<String>);

fn says_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let mut parts = name.split(|c: char| !c.is_ascii_alphanumeric());
    parts.any(|part| SECRET_NAMES.contains(&part))
}

impl Secrets {
    /// Takes the secrets of a configuration into account, and gives the configuration without
    /// them. One that is no TOML keeps its names and loses all values.
    pub fn of_config(&mut self, text: &str) -> String {
        let Ok(mut document) = text.parse::<DocumentMut>() else {
            let lines = text.lines().map(|line| match line.split_once('=') {
                Some((name, _)) => format!("{name}= {GONE}\n"),
                None if line.trim_start().starts_with('[') => format!("{line}\n"),
                None => format!("{GONE}\n"),
            });
            return lines.collect();
        };
        self.table(document.as_table_mut(), false);
        document.to_string()
    }

    fn table(&mut self, table: &mut dyn TableLike, is_secret: bool) {
        for (key, item) in table.iter_mut() {
            let is_secret = is_secret || says_secret(key.get());
            match item {
                Item::Value(value) => self.value(value, is_secret),
                Item::ArrayOfTables(tables) => {
                    tables.iter_mut().for_each(|table| self.table(table, is_secret));
                }
                Item::Table(table) => self.table(table, is_secret),
                Item::None => {}
            }
        }
    }

    fn value(&mut self, value: &mut Value, is_secret: bool) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(|it| self.value(it, is_secret)),
            Value::InlineTable(table) => self.table(table, is_secret),
            _ if !is_secret => {}
            other => {
                let text = match &*other {
                    Value::String(text) => text.value().clone(),
                    scalar => scalar.to_string().trim().to_owned(),
                };
                if text.len() >= SECRET_BYTES_MIN {
                    self.0.push(text);
                }
                let decor = other.decor().clone();
                *other = GONE.into();
                *other.decor_mut() = decor;
            }
        }
    }

    /// A text without secrets.
    pub fn redact(&self, text: &str, counts: &mut Counts) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            let found = text.matches(secret.as_str()).count();
            if found > 0 {
                *counts.entry("values of the configuration").or_default() += found;
                text = text.replace(secret.as_str(), GONE);
            }
        }
        let mut in_key = false;
        let mut redacted = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            if line.contains("-----BEGIN") && line.contains("PRIVATE KEY") {
                *counts.entry("private keys").or_default() += 1;
                in_key = true;
            }
            if in_key {
                in_key = !line.contains("-----END");
                if !in_key || line.contains("-----BEGIN") {
                    redacted.push_str(GONE);
                    redacted.push('\n');
                }
                continue;
            }
            redacted.push_str(&redact_line(line, counts));
        }
        redacted
    }
}

fn redact_line(line: &str, counts: &mut Counts) -> String {
    let line = without_phrases(line, counts);
    let line = without_named(&line, counts);
    let line = without_passwords(&line, counts);
    without_numbers(&line, counts)
}

/// Bytes that words of a phrase and names are made of.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Start and end, in bytes.
type Range = (usize, usize);

/// Each run of bytes that belong together.
fn runs(text: &str, belongs: fn(u8) -> bool) -> Vec<Range> {
    let (mut found, mut start) = (Vec::new(), None);
    for (at, byte) in text.bytes().enumerate() {
        match (belongs(byte), start) {
            (true, None) => start = Some(at),
            (false, Some(begun)) => {
                found.push((begun, at));
                start = None;
            }
            _ => {}
        }
    }
    found.extend(start.map(|begun| (begun, text.len())));
    found
}

/// Takes ranges, in order and apart from each other, out of a text.
fn without(text: &str, ranges: &[Range]) -> String {
    let (mut left, mut at) = (String::with_capacity(text.len()), 0);
    for (start, end) in ranges {
        left.push_str(&text[at..*start]);
        left.push_str(GONE);
        at = *end;
    }
    left.push_str(&text[at..]);
    left
}

/// Words of a recovery phrase, whatever stands between them.
fn without_phrases(text: &str, counts: &mut Counts) -> String {
    let is_phrase_word = |word: &str| {
        let word = word.to_ascii_lowercase();
        bip39::Language::English.find_word(&word).is_some()
    };
    let (mut ranges, mut run) = (Vec::new(), Vec::<Range>::new());
    let mut end_run = |run: &mut Vec<Range>| {
        if let ([first, .., last], true) = (run.as_slice(), run.len() >= PHRASE_WORDS_MIN) {
            ranges.push((first.0, last.1));
        }
        run.clear();
    };
    for (start, end) in runs(text, is_word) {
        match is_phrase_word(&text[start..end]) {
            true => run.push((start, end)),
            false => end_run(&mut run),
        }
    }
    end_run(&mut run);
    if !ranges.is_empty() {
        *counts.entry("recovery phrases").or_default() += ranges.len();
    }
    without(text, &ranges)
}

/// The value after a name that says secret: `token=…`, `"password": "…"`, `jwt_secret: …`.
fn without_named(text: &str, counts: &mut Counts) -> String {
    let bytes = text.as_bytes();
    let mut ranges: Vec<Range> = Vec::new();
    for (start, end) in runs(text, is_word) {
        if ranges.last().is_some_and(|(_, last)| start < *last) || !says_secret(&text[start..end]) {
            continue;
        }
        let skip = |from: usize, skipped: &[u8]| {
            let mut rest = bytes[from..].iter();
            from + rest.position(|byte| !skipped.contains(byte)).unwrap_or(bytes.len() - from)
        };
        let at = skip(end, b"\"' \t");
        if !matches!(bytes.get(at), Some(b'=' | b':')) {
            continue;
        }
        let at = skip(at + 1, b" \t=:");
        let close: &[u8] = match bytes.get(at) {
            Some(b'"') => b"\"\n",
            Some(b'\'') => b"'\n",
            _ => b" \t\n,;&",
        };
        let from = at + usize::from(close.len() == 2);
        let length = bytes.get(from..).unwrap_or_default().iter();
        let length = length.clone().position(|byte| close.contains(byte)).unwrap_or(length.len());
        let said = text.get(from..from + length).unwrap_or_default();
        if !said.is_empty() && !said.starts_with(GONE) {
            ranges.push((from, from + length));
        }
    }
    if !ranges.is_empty() {
        *counts.entry("values after a name that says secret").or_default() += ranges.len();
    }
    without(text, &ranges)
}

/// `scheme://user:password@host`, and keys that say themselves what they are.
fn without_passwords(text: &str, counts: &mut Counts) -> String {
    let mut ranges = Vec::new();
    for (start, end) in runs(text, |byte| byte.is_ascii_graphic()) {
        let word = &text[start..end];
        if let Some(at) = word.find("AGE-SECRET-KEY-") {
            ranges.push((start + at, end));
            continue;
        }
        let Some(at) = word.find("://").map(|at| at + 3) else { continue };
        let host = word[at..].find('/').map_or(word.len(), |slash| at + slash);
        if let Some(user) = word[at..host].rfind('@') {
            ranges.push((start + at, start + at + user));
        }
    }
    if !ranges.is_empty() {
        *counts.entry("passwords in addresses and keys by their prefix").or_default() +=
            ranges.len();
    }
    without(text, &ranges)
}

/// 32 bytes or more in hexadecimal digits: their beginning stays.
fn without_numbers(text: &str, counts: &mut Counts) -> String {
    let mut ranges = Vec::new();
    for (start, end) in runs(text, |byte| byte.is_ascii_alphanumeric()) {
        let digits = start + if text[start..end].starts_with("0x") { 2 } else { 0 };
        let is_number = text[digits..end].bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_number && end - digits >= 64 {
            ranges.push((digits + DIGITS_LEFT, end));
        }
    }
    if !ranges.is_empty() {
        *counts.entry("numbers of 32 bytes, cut to 8 digits").or_default() += ranges.len();
    }
    without(text, &ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PHRASE: &str = "test test test test test test test test test test test junk";

    fn redacted(text: &str) -> String {
        Secrets::default().redact(text, &mut Counts::new())
    }

    #[test]
    fn a_configuration_loses_values_and_keeps_the_rest() {
        let mut secrets = Secrets::default();
        let text = format!(
            "[chain]\ndev_mnemonic = \"{PHRASE}\" # mine\nid = 7\n[a]\nssh_keys = [\"one-key\"]\n\
             x = {{ token = \"abc-def\", y = 2 }}\n[[b]]\npassword = 123456\n"
        );
        let left = secrets.of_config(&text);
        assert!(left.contains("dev_mnemonic = \"[redacted]\" # mine\nid = 7\n"), "{left}");
        assert!(left.contains("y = 2") && left.contains("password = \"[redacted]\"\n"), "{left}");
        for secret in [PHRASE, "one-key", "abc-def", "123456"] {
            assert!(!left.contains(secret), "{left}");
            let log = secrets.redact(&format!("said {secret} aloud\n"), &mut Counts::new());
            assert_eq!(log, "said [redacted] aloud\n");
        }
    }

    #[test]
    fn a_configuration_that_is_no_toml_keeps_names_only() {
        let left = Secrets::default().of_config("[rpc]\na = \"x\"\"\nhush hush\n");
        assert_eq!(left, "[rpc]\na = [redacted]\n[redacted]\n");
    }

    #[test]
    fn what_looks_like_a_secret_goes() {
        let key = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
        for (text, expected) in [
            (format!("says {PHRASE}, too"), "says [redacted], too".to_owned()),
            (PHRASE.replace(' ', "\", \""), "[redacted]".to_owned()),
            (
                format!("# dev_mnemonic = \"{}\"", "x y"),
                "# dev_mnemonic = \"[redacted]\"".to_owned(),
            ),
            ("JWT_SECRET=abc next".to_owned(), "JWT_SECRET=[redacted] next".to_owned()),
            ("{\"token\": \"a b\"}".to_owned(), "{\"token\": \"[redacted]\"}".to_owned()),
            ("http://me:pw@host/x".to_owned(), "http://[redacted]@host/x".to_owned()),
            (format!("block 0x{key} ok"), "block 0xac0974be[redacted] ok".to_owned()),
            ("AGE-SECRET-KEY-1QQ".to_owned(), "[redacted]".to_owned()),
        ] {
            assert_eq!(redacted(&text), expected);
        }
        let pem = "a\n-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nb\n";
        assert!(!redacted(pem).contains("MIIE") && redacted(pem).ends_with("b\n"));
    }

    #[test]
    fn what_is_no_secret_stays() {
        let text = "monkey: sees\nThe keyboard = 1\nblock 0xabcdef sealed\nhttp://a/b@c\nkey\n";
        assert_eq!(redacted(text), text);
    }

    proptest! {
        #[test]
        fn no_text_panics_and_a_phrase_never_stays(before in "\\PC{0,40}", after in "\\PC{0,40}") {
            let text = format!("{before} {PHRASE} {after}\n");
            prop_assert!(!redacted(&text).contains(PHRASE));
        }
    }
}
