//! The settings as types, and the rules that hold between them. Ranges stand in `keys`.

use crate::config::fault::{Fault, Origin};
use crate::config::keys::Value;
use crate::crypto::recover::Engine;
use alloy_primitives::Address;
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

/// Everything that can be set. Meaning, unit and range of each value stand in `default.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What the chain is.
    pub chain: Chain,
    /// When mini-blocks and blocks end.
    pub sequencing: Sequencing,
    /// What may wait.
    pub pool: Pool,
    /// How senders are recovered.
    pub recovery: Engine,
    /// What clients may ask.
    pub rpc: Rpc,
    /// Where metrics are served; `None` where they are off.
    pub metrics: Option<SocketAddr>,
    /// Folder of the chain.
    pub data_directory: PathBuf,
    /// The write-ahead log.
    pub wal: Wal,
    /// When state goes to the database.
    pub checkpoint: Checkpoint,
    /// Bytes of trie nodes kept decoded in memory.
    pub trie_cache_bytes: usize,
    /// How many threads a stage gets.
    pub topology: Topology,
    /// The log on standard error.
    pub log: Log,
}

/// `[chain]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// EIP-155.
    pub id: u64,
    /// Nothing but the manual set the id.
    pub id_is_default: bool,
    /// In the format of geth and reth; `None`: the development accounts.
    pub genesis_file: Option<PathBuf>,
    /// BIP-39.
    pub dev_mnemonic: String,
    /// Accounts that the genesis funds.
    pub dev_accounts: usize,
    /// Of 10^18 wei.
    pub dev_balance_mega: u64,
    /// Gas.
    pub block_gas_limit: u64,
    /// Wei per gas.
    pub base_fee_floor_wei: u64,
    /// Wei per gas, not below the floor.
    pub initial_base_fee_wei: u64,
    /// The header's beneficiary.
    pub fee_recipient: Address,
    /// At most 32 bytes.
    pub extra_data: Vec<u8>,
}

/// `[sequencing]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequencing {
    /// Milliseconds.
    pub mini_block_interval_ms: u64,
    /// Milliseconds.
    pub block_interval_ms: u64,
    /// Gas.
    pub mini_block_gas_limit: u64,
    /// Gas.
    pub early_start_gas: u64,
}

/// `[pool]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Transactions.
    pub transactions_max: usize,
    /// Bytes.
    pub bytes_max: usize,
    /// Transactions.
    pub transactions_per_sender_max: usize,
    /// Nonces.
    pub nonce_gap_max: u64,
    /// Percent.
    pub replacement_bump_percent: u64,
    /// Wei per gas.
    pub tip_floor_wei: u64,
}

/// `[rpc]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rpc {
    /// HTTP and WebSocket.
    pub address: SocketAddr,
    /// Bytes.
    pub request_bytes_max: usize,
    /// Bytes.
    pub response_bytes_max: usize,
    /// Calls.
    pub batch_max: usize,
    /// Connections.
    pub connections_max: usize,
    /// Subscriptions.
    pub subscriptions_per_connection_max: usize,
    /// Notifications.
    pub subscription_buffer: usize,
    /// Gas.
    pub call_gas_max: u64,
    /// Calls.
    pub calls_in_flight_max: usize,
    /// Blocks.
    pub logs_blocks_max: u64,
    /// Logs.
    pub logs_max: usize,
    /// Milliseconds.
    pub sync_timeout_ms: u64,
    /// Milliseconds.
    pub sync_timeout_max_ms: u64,
}

/// `[wal]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wal {
    /// Bytes, a multiple of 4096.
    pub segment_bytes: u64,
    /// `None`: probed at the start.
    pub durable_write: Option<DurableWrite>,
}

/// How a record of the log is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DurableWrite {
    /// An io_uring write linked to fdatasync.
    Linked,
    /// An io_uring write with RWF_DSYNC.
    Dsync,
    /// `pwrite` and `fdatasync`.
    Pwrite,
}

/// `[checkpoint]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Blocks.
    pub blocks_max: u64,
    /// Entries of `Overlay::weight`.
    pub weight_max: usize,
    /// Bytes of memory.
    pub bytes_max: usize,
}

/// `[topology]`; `None` stands for `auto`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Threads that serve RPC.
    pub rpc_seats: Option<usize>,
    /// Threads that recover senders.
    pub ingress_seats: Option<usize>,
    /// Threads that execute ahead.
    pub lane_seats: Option<usize>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// JSON for machines, otherwise lines for people.
    pub json: bool,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
}

/// Checked values of all keys with their origins.
#[derive(Debug, Clone, Default)]
pub struct Values(pub BTreeMap<&'static str, (Value, Origin)>);

impl Config {
    /// Types the values.
    ///
    /// # Errors
    /// Where two values contradict each other.
    ///
    /// # Panics
    /// Where a key of `KEYS` has no value: `default.toml` gives one to each, kept by a test.
    pub fn from_values(values: &Values) -> Result<Self, Vec<Fault>> {
        let faults = contradictions(values);
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            chain: Chain::from_values(values),
            sequencing: Sequencing {
                mini_block_interval_ms: values.number("sequencing.mini_block_interval_ms"),
                block_interval_ms: values.number("sequencing.block_interval_ms"),
                mini_block_gas_limit: values.number("sequencing.mini_block_gas_limit"),
                early_start_gas: values.number("sequencing.early_start_gas"),
            },
            pool: Pool {
                transactions_max: values.count("pool.transactions_max"),
                bytes_max: values.count("pool.bytes_max"),
                transactions_per_sender_max: values.count("pool.transactions_per_sender_max"),
                nonce_gap_max: values.number("pool.nonce_gap_max"),
                replacement_bump_percent: values.number("pool.replacement_bump_percent"),
                tip_floor_wei: values.number("pool.tip_floor_wei"),
            },
            recovery: match values.text("ingress.recovery") {
                "libsecp256k1" => Engine::Libsecp256k1,
                "checked" => Engine::Checked,
                _ => Engine::Lanes,
            },
            rpc: Rpc::from_values(values),
            metrics: values.text("metrics.address").parse().ok(),
            data_directory: PathBuf::from(values.text("data.directory")),
            wal: Wal {
                segment_bytes: values.number("wal.segment_bytes"),
                durable_write: match values.text("wal.durable_write") {
                    "linked" => Some(DurableWrite::Linked),
                    "dsync" => Some(DurableWrite::Dsync),
                    "pwrite" => Some(DurableWrite::Pwrite),
                    _ => None,
                },
            },
            checkpoint: Checkpoint {
                blocks_max: values.number("checkpoint.blocks_max"),
                weight_max: values.count("checkpoint.weight_max"),
                bytes_max: values.count("checkpoint.bytes_max"),
            },
            trie_cache_bytes: values.count("trie.cache_bytes"),
            topology: Topology {
                rpc_seats: values.count_or_auto("topology.rpc_seats"),
                ingress_seats: values.count_or_auto("topology.ingress_seats"),
                lane_seats: values.count_or_auto("topology.lane_seats"),
            },
            log: Log {
                json: values.text("log.format") == "json",
                level: values.text("log.level").to_owned(),
            },
        })
    }
}

impl Chain {
    fn from_values(values: &Values) -> Self {
        let genesis_file = values.text("chain.genesis_file");
        Self {
            id: values.number("chain.id"),
            id_is_default: *values.origin("chain.id") == Origin::Default,
            genesis_file: (!genesis_file.is_empty()).then(|| PathBuf::from(genesis_file)),
            dev_mnemonic: values.text("chain.dev_mnemonic").to_owned(),
            dev_accounts: values.count("chain.dev_accounts"),
            dev_balance_mega: values.number("chain.dev_balance_mega"),
            block_gas_limit: values.number("chain.block_gas_limit"),
            base_fee_floor_wei: values.number("chain.base_fee_floor_wei"),
            initial_base_fee_wei: values
                .number("chain.initial_base_fee_wei")
                .max(values.number("chain.base_fee_floor_wei")),
            fee_recipient: values.text("chain.fee_recipient").parse().unwrap_or_default(),
            extra_data: values.text("chain.extra_data").as_bytes().to_vec(),
        }
    }
}

impl Rpc {
    fn from_values(values: &Values) -> Self {
        Self {
            address: values.text("rpc.address").parse().expect("Kind::Socket was checked"),
            request_bytes_max: values.count("rpc.request_bytes_max"),
            response_bytes_max: values.count("rpc.response_bytes_max"),
            batch_max: values.count("rpc.batch_max"),
            connections_max: values.count("rpc.connections_max"),
            subscriptions_per_connection_max: values.count("rpc.subscriptions_per_connection_max"),
            subscription_buffer: values.count("rpc.subscription_buffer"),
            call_gas_max: values.number("rpc.call_gas_max"),
            calls_in_flight_max: values.count("rpc.calls_in_flight_max"),
            logs_blocks_max: values.number("rpc.logs_blocks_max"),
            logs_max: values.count("rpc.logs_max"),
            sync_timeout_ms: values.number("rpc.sync_timeout_ms"),
            sync_timeout_max_ms: values.number("rpc.sync_timeout_max_ms"),
        }
    }
}

impl Values {
    fn get(&self, name: &str) -> &(Value, Origin) {
        self.0.get(name).expect("default.toml has every key")
    }

    fn origin(&self, name: &str) -> &Origin {
        &self.get(name).1
    }

    fn number(&self, name: &str) -> u64 {
        match &self.get(name).0 {
            Value::Integer(number) => *number,
            Value::Text(_) => 0,
        }
    }

    fn count(&self, name: &str) -> usize {
        usize::try_from(self.number(name)).unwrap_or(usize::MAX)
    }

    fn count_or_auto(&self, name: &str) -> Option<usize> {
        match &self.get(name).0 {
            Value::Integer(_) => Some(self.count(name)),
            Value::Text(_) => None,
        }
    }

    fn text(&self, name: &str) -> &str {
        match &self.get(name).0 {
            Value::Text(text) => text,
            Value::Integer(_) => "",
        }
    }
}

/// Pairs `(a, b)` where `a` may not exceed `b`.
const NOT_ABOVE: &[(&str, &str)] = &[
    ("sequencing.mini_block_interval_ms", "sequencing.block_interval_ms"),
    ("rpc.sync_timeout_ms", "rpc.sync_timeout_max_ms"),
];

const SECTOR_BYTES: u64 = 4_096;

fn contradictions(values: &Values) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (low, high) in NOT_ABOVE {
        let (a, b) = (values.number(low), values.number(high));
        if a > b {
            faults.push(Fault {
                origin: nearer_to_the_user(values, low, high),
                what: format!("{low} = {a} is above {high} = {b}"),
                remedy: format!("lower {low} or raise {high}"),
            });
        }
    }
    let segment_bytes = values.number("wal.segment_bytes");
    if !segment_bytes.is_multiple_of(SECTOR_BYTES) {
        faults.push(Fault {
            origin: values.origin("wal.segment_bytes").clone(),
            what: format!("wal.segment_bytes = {segment_bytes} is no multiple of {SECTOR_BYTES}"),
            remedy: format!("use {}", segment_bytes.next_multiple_of(SECTOR_BYTES)),
        });
    }
    let (rpc, metrics) = (values.text("rpc.address"), values.text("metrics.address"));
    if rpc == metrics && !rpc.ends_with(":0") {
        faults.push(Fault {
            origin: nearer_to_the_user(values, "rpc.address", "metrics.address"),
            what: format!("metrics.address = {metrics:?} is also rpc.address"),
            remedy: "give metrics a port of their own, or switch them off".to_owned(),
        });
    }
    faults
}

/// The origin of the two that somebody set, so that the message points at a line of theirs.
fn nearer_to_the_user(values: &Values, a: &str, b: &str) -> Origin {
    match values.origin(a) {
        Origin::Default => values.origin(b).clone(),
        origin => origin.clone(),
    }
}
