//! The list of settings: name and admissible values of each. Defaults stand in the manual.

use crate::config::fault::shortened;
use crate::types::limits::TRANSACTION_GAS_MAX;
use alloy_primitives::Address;
use std::{fmt, net::SocketAddr};

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// `section.name`.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
}

/// The admissible values of a setting.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A whole number within bounds.
    Integer {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// `auto` or a whole number within bounds.
    AutoOr {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// One of several words.
    Choice(&'static [&'static str]),
    /// `ADDRESS:PORT`.
    Socket,
    /// `ADDRESS:PORT` or `off`.
    SocketOrOff,
    /// An account's address.
    Address,
    /// A BIP-39 phrase.
    Phrase,
    /// Free text.
    Text {
        /// Bytes of UTF-8 at most.
        bytes_max: usize,
    },
    /// A path; empty where none is given.
    Path,
}

/// A value as it stands in a layer, before it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Raw {
    /// A whole number.
    Integer(i64),
    /// A string.
    Text(String),
    /// Anything else, with the name of its type.
    Other {
        /// Such as `boolean`.
        type_name: &'static str,
        /// As it was written.
        shown: String,
    },
}

/// A checked value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Integer(u64),
    /// A string.
    Text(String),
}

const GAS_MAX: u64 = 1_000_000_000_000;
const FEE_MAX: u64 = 1_000_000_000_000;
/// EIP-2294: half of the numbers of 64 bits, less 36.
const CHAIN_ID_MAX: u64 = u64::MAX / 2 - 36;
const DEV_ACCOUNTS_MAX: u64 = 100_000;
const SEATS_MAX: u64 = 64;
const MIB: u64 = 1024 * 1024;

const fn integer(name: &'static str, min: u64, max: u64) -> Key {
    Key { name, kind: Kind::Integer { min, max } }
}

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind }
}

/// Every setting, in the order of the manual.
pub const KEYS: &[Key] = &[
    integer("chain.id", 1, CHAIN_ID_MAX),
    key("chain.genesis_file", Kind::Path),
    key("chain.dev_mnemonic", Kind::Phrase),
    integer("chain.dev_accounts", 0, DEV_ACCOUNTS_MAX),
    integer("chain.dev_balance_mega", 0, 10_000_000_000),
    integer("chain.block_gas_limit", TRANSACTION_GAS_MAX, GAS_MAX),
    integer("chain.base_fee_floor_wei", 0, FEE_MAX),
    integer("chain.initial_base_fee_wei", 0, FEE_MAX),
    key("chain.fee_recipient", Kind::Address),
    key("chain.extra_data", Kind::Text { bytes_max: 32 }),
    integer("sequencing.mini_block_interval_ms", 1, 1_000),
    integer("sequencing.block_interval_ms", 100, 60_000),
    integer("sequencing.mini_block_gas_limit", TRANSACTION_GAS_MAX, GAS_MAX),
    integer("sequencing.early_start_gas", 0, GAS_MAX),
    integer("pool.transactions_max", 16, 10_000_000),
    integer("pool.bytes_max", MIB, 65_536 * MIB),
    integer("pool.transactions_per_sender_max", 1, 1_000_000),
    integer("pool.nonce_gap_max", 0, 1_000_000),
    integer("pool.replacement_bump_percent", 1, 1_000),
    integer("pool.tip_floor_wei", 0, FEE_MAX),
    key("ingress.recovery", Kind::Choice(&["auto", "libsecp256k1", "checked"])),
    key("rpc.address", Kind::Socket),
    integer("rpc.request_bytes_max", 1_024, 1_024 * MIB),
    integer("rpc.response_bytes_max", 1_024, 1_024 * MIB),
    integer("rpc.batch_max", 1, 100_000),
    integer("rpc.connections_max", 1, 100_000),
    integer("rpc.subscriptions_per_connection_max", 1, 10_000),
    integer("rpc.subscription_buffer", 16, 65_536),
    integer("rpc.call_gas_max", 21_000, GAS_MAX),
    integer("rpc.calls_in_flight_max", 1, 1_024),
    integer("rpc.logs_blocks_max", 1, 10_000_000),
    integer("rpc.logs_max", 1, 10_000_000),
    integer("rpc.sync_timeout_ms", 1, 600_000),
    integer("rpc.sync_timeout_max_ms", 1, 600_000),
    key("metrics.address", Kind::SocketOrOff),
    key("data.directory", Kind::Path),
    integer("wal.segment_bytes", 4 * MIB, 4_096 * MIB),
    key("wal.durable_write", Kind::Choice(&["auto", "linked", "dsync", "pwrite"])),
    integer("checkpoint.blocks_max", 1, 3_600),
    integer("checkpoint.weight_max", 1_000, 100_000_000),
    integer("checkpoint.bytes_max", MIB, 1_048_576 * MIB),
    integer("trie.cache_bytes", MIB, 1_048_576 * MIB),
    key("topology.rpc_seats", Kind::AutoOr { min: 1, max: SEATS_MAX }),
    key("topology.ingress_seats", Kind::AutoOr { min: 1, max: SEATS_MAX }),
    key("topology.lane_seats", Kind::AutoOr { min: 1, max: SEATS_MAX }),
    key("log.format", Kind::Choice(&["text", "json"])),
    key("log.level", Kind::Choice(&["error", "warn", "info", "debug", "trace"])),
];

impl Key {
    /// The setting of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("BASALT_{}", self.name.replace('.', "_").to_uppercase())
    }
}

impl Kind {
    /// The range as the manual and the messages word it.
    pub fn range(&self) -> String {
        match self {
            Self::Integer { min, max } => format!("{min}..={max}"),
            Self::AutoOr { min, max } => format!("auto | {min}..={max}"),
            Self::Choice(words) => words.join(" | "),
            Self::Socket => "ADDRESS:PORT".to_owned(),
            Self::SocketOrOff => "ADDRESS:PORT, other than `rpc.address`, or \"off\"".to_owned(),
            Self::Address => "an address, `0x` and 40 hexadecimal digits".to_owned(),
            Self::Phrase => "12 to 24 English BIP-39 words with a valid checksum".to_owned(),
            Self::Text { bytes_max } => format!("0 to {bytes_max} bytes"),
            Self::Path => "a path".to_owned(),
        }
    }

    /// Reads what a flag or a variable says.
    pub fn from_text(&self, text: &str) -> Raw {
        let number = text.replace('_', "").parse();
        match (self, number) {
            (Self::Integer { .. } | Self::AutoOr { .. }, Ok(number)) => Raw::Integer(number),
            _ => Raw::Text(text.to_owned()),
        }
    }

    /// Checks a value.
    ///
    /// # Errors
    /// What is wrong with it, as a clause that follows `name = value`.
    pub fn accept(&self, raw: &Raw) -> Result<Value, String> {
        let value = match raw {
            Raw::Integer(number) => match u64::try_from(*number) {
                Ok(number) => Value::Integer(number),
                Err(_) => return Err(format!("is out of range {}", self.range())),
            },
            Raw::Text(text) => Value::Text(text.clone()),
            Raw::Other { type_name, .. } => {
                return Err(format!("is a {type_name} where {} is wanted", self.wanted()));
            }
        };
        match (self, &value) {
            (Self::Integer { min, max } | Self::AutoOr { min, max }, Value::Integer(number)) => {
                if !(*min..=*max).contains(number) {
                    return Err(format!("is out of range {}", self.range()));
                }
            }
            (Self::Integer { .. }, Value::Text(_)) | (_, Value::Integer(_)) => {
                let found = if matches!(value, Value::Text(_)) { "string" } else { "number" };
                return Err(format!("is a {found} where {} is wanted", self.wanted()));
            }
            (_, Value::Text(text)) => self.accept_text(text)?,
        }
        Ok(value)
    }

    fn accept_text(&self, text: &str) -> Result<(), String> {
        let fits = match self {
            Self::AutoOr { .. } => text == "auto",
            Self::Choice(words) => words.contains(&text),
            Self::Socket => text.parse::<SocketAddr>().is_ok(),
            Self::SocketOrOff => text == "off" || text.parse::<SocketAddr>().is_ok(),
            Self::Address => is_address(text),
            Self::Phrase => return check_phrase(text),
            Self::Text { bytes_max } => text.len() <= *bytes_max,
            Self::Path => !text.contains('\0'),
            Self::Integer { .. } => false,
        };
        if fits { Ok(()) } else { Err(format!("is not {}", self.wanted())) }
    }

    fn wanted(&self) -> String {
        match self {
            Self::Integer { min, max } => format!("a whole number in {min}..={max}"),
            Self::Choice(_) | Self::AutoOr { .. } => format!("one of {}", self.range()),
            Self::Socket => "an ADDRESS:PORT such as 127.0.0.1:8545 or [::1]:8545".to_owned(),
            Self::SocketOrOff => "an ADDRESS:PORT such as 127.0.0.1:9545, or off".to_owned(),
            Self::Text { bytes_max } => format!("a string of at most {bytes_max} bytes"),
            Self::Phrase => "a string of 12 to 24 English words".to_owned(),
            Self::Address | Self::Path => format!("{}, as a string", self.range()),
        }
    }
}

fn is_address(text: &str) -> bool {
    text.starts_with("0x") && text.parse::<Address>().is_ok()
}

fn check_phrase(text: &str) -> Result<(), String> {
    match bip39::Mnemonic::parse_in(bip39::Language::English, text) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("is no BIP-39 phrase ({error})")),
    }
}

impl Raw {
    /// Its type and form in TOML.
    pub fn shown(&self) -> String {
        match self {
            Self::Integer(number) => number.to_string(),
            Self::Text(text) => shortened(&format!("{text:?}")),
            Self::Other { shown, .. } => shortened(shown.trim()),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

impl From<&Value> for serde_json::Value {
    fn from(value: &Value) -> Self {
        match value {
            Value::Integer(number) => (*number).into(),
            Value::Text(text) => text.as_str().into(),
        }
    }
}

/// The one of `names` that a mistyped `name` most likely means, if any is near.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const NAME_BYTES_MAX: usize = 128; // A longer one means none of ours.
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let (near, distance) =
        names.map(|candidate| (candidate, distance(name, candidate))).min_by_key(|(_, d)| *d)?;
    (distance <= name.len().max(3) / 2).then_some(near)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
