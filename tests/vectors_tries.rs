//! The suite `tries`: Ethereum's trie tests, through the node's own trie.

mod support;

use alloy_primitives::{B256, hex, keccak256};
use basalt::trie::PlainTrie;
use serde_json::Value;
use support::vectors::{Tally, suite};

#[test]
fn tries() {
    let Some(files) = suite("tries") else { return };
    let mut tally = Tally::default();
    for file in files.iter().filter(|file| file.path.ends_with(".json")) {
        let lower = file.path.to_lowercase();
        let secure = lower.contains("secure");
        let parsed: Value = serde_json::from_slice(&file.bytes).expect("JSON");
        for (name, case) in parsed.as_object().expect("cases by name") {
            let name = format!("{}::{name}", file.path);
            let verdict =
                if lower.contains("nextprev") { neighbours(case) } else { root(case, secure) };
            tally.ran(&name, verdict);
        }
    }
    tally.finish("tries");
}

type Change = (Vec<u8>, Option<Vec<u8>>);

/// Three ways to the same root: one key at a time, all at once, and from a fuller trie.
fn root(case: &Value, secure: bool) -> Result<(), String> {
    let mut changes = Vec::<Change>::new();
    match &case["in"] {
        Value::Array(pairs) => {
            for pair in pairs {
                changes.push((bytes(&pair[0])?.ok_or("no key")?, bytes(&pair[1])?));
            }
        }
        Value::Object(pairs) => {
            for (key, value) in pairs {
                changes.push((text(key)?, bytes(value)?));
            }
        }
        other => return Err(format!("`in` is neither list nor map: {other}")),
    }
    if secure {
        for (key, _) in &mut changes {
            *key = keccak256(&key).to_vec();
        }
    }
    let expected = case["root"].as_str().ok_or("no root")?;
    let expected: B256 = expected.parse().map_err(|error| format!("{error}"))?;
    let mut one_by_one = PlainTrie::default();
    for change in &changes {
        apply(&mut one_by_one, std::slice::from_ref(change))?;
    }
    let mut at_once = PlainTrie::default();
    apply(&mut at_once, &changes)?;
    let extra: Vec<Change> = (0..64u8).map(|at| (vec![at, 200], Some(vec![at; 40]))).collect();
    let mut fuller = PlainTrie::default();
    apply(&mut fuller, &extra)?;
    apply(&mut fuller, &changes)?;
    let without: Vec<Change> = extra.into_iter().map(|(key, _)| (key, None)).collect();
    apply(&mut fuller, &without)?;
    for (way, trie) in [("one by one", one_by_one), ("at once", at_once), ("fuller", fuller)] {
        if trie.root() != expected {
            return Err(format!("{way}: root {}, expected {expected}", trie.root()));
        }
    }
    Ok(())
}

/// `tests`: a key, the key before it and the key after it, empty where there is none.
fn neighbours(case: &Value) -> Result<(), String> {
    let keys = case["in"].as_array().ok_or("`in` is no list")?;
    let mut trie = PlainTrie::default();
    for key in keys {
        apply(&mut trie, &[(bytes(key)?.ok_or("no key")?, Some(vec![1]))])?;
    }
    let entries = trie.entries().map_err(|error| error.to_string())?;
    for test in case["tests"].as_array().ok_or("`tests` is no list")? {
        let asked = bytes(&test[0])?.unwrap_or_default();
        let before = entries.iter().rev().find(|(key, _)| *key < asked);
        let after = entries.iter().find(|(key, _)| *key > asked);
        let found = [before, after].map(|entry| entry.map(|(key, _)| key.clone()));
        let expected = [bytes(&test[1])?, bytes(&test[2])?];
        if found.clone().map(Option::unwrap_or_default) != expected.map(Option::unwrap_or_default) {
            return Err(format!("{test}: found {found:?}"));
        }
    }
    Ok(())
}

fn apply(trie: &mut PlainTrie, changes: &[Change]) -> Result<(), String> {
    let changes: Vec<_> = changes.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
    trie.apply(&changes).map(|_| ()).map_err(|error| error.to_string())
}

fn bytes(value: &Value) -> Result<Option<Vec<u8>>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(string) => text(string).map(Some),
        other => Err(format!("neither string nor null: {other}")),
    }
}

/// Hex after `0x`, otherwise the characters themselves.
fn text(string: &str) -> Result<Vec<u8>, String> {
    match string.strip_prefix("0x") {
        Some(digits) => hex::decode(digits).map_err(|error| format!("{string}: {error}")),
        None => Ok(string.as_bytes().to_vec()),
    }
}
