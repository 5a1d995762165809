//! JSON-RPC over HTTP and WebSocket on one port, and the metrics on another.
//!
//! Input: requests of clients; reads of the chain through the traits of `types::view`; everything
//! that became durable, through `Events`. Output: transactions for ingress, answers, notifications.
//!
//! Limits: sizes of requests and answers, entries of a batch, connections, subscriptions, waiting
//! synchronous sends, queued blocking requests (`Settings`), bytes of large answers that wait for
//! their clients (`answers`); what exceeds one is refused with -32005. A WebSocket that asks
//! faster than it is answered, or does not take its answers, is not read (`socket`).
//!
//! Failure: every refusal is a JSON-RPC error; a panic in a handler is logged and answered with
//! -32603; nothing in here ends the process. A subscriber that is too slow is told so and its
//! subscription ends.
//!
//! Seats: the runtime's threads take the seats of stage `rpc` in turn. What may wait for the disk
//! or computes for long runs on the runtime's blocking threads, never on its workers.
//!
//! Tags: `pending` is the newest durable mini-block, `latest` the newest sealed block, `safe` and
//! `finalized` the newest block under a steady checkpoint. As long as a block is not sealed, its
//! hash is shown as all `ff`.

pub mod error;
pub mod params;
pub mod convert;
pub mod realtime;
pub mod eth;
pub mod methods;
pub mod waiters;
pub mod send;
pub mod sends;
pub mod subscribe;
pub mod metrics;
pub mod socket;
pub mod answers;
pub mod dispatch;
pub mod http;
pub mod server;

use crate::rpc::{metrics::RpcMetrics, socket::ASK_TIMEOUT, subscribe::Events, waiters::Waiters};
use crate::runtime::{clock::Clock, pin::Seat};
use crate::types::{
    ids::BlockNumber,
    view::{ChainReader, PoolReader, ProofSource, Simulator},
};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

/// What requests are answered from.
#[derive(Clone)]
pub struct Backend {
    /// Blocks, transactions, states.
    pub chain: Arc<dyn ChainReader>,
    /// Merkle proofs.
    pub proofs: Arc<dyn ProofSource>,
    /// Transactions that wait, and the way to ingress.
    pub pool: Arc<dyn PoolReader>,
    /// Calls.
    pub simulator: Arc<dyn Simulator>,
}

/// What never changes while the node runs.
#[derive(Debug, Clone)]
pub struct Facts {
    /// EIP-155.
    pub chain_id: u64,
    /// Answer to `web3_clientVersion`.
    pub client_version: String,
    /// Gas of a block at most.
    pub block_gas_limit: u64,
    /// Wei per gas below which the base fee never falls.
    pub fee_floor: u64,
    /// Gas of `eth_call` and `eth_estimateGas` at most.
    pub call_gas_max: u64,
    /// Microseconds between mini-blocks.
    pub mini_block_interval_us: u64,
    /// Seconds between blocks, at least 1; what a block after `latest` would have.
    pub block_interval_s: u64,
}

/// Which browsers may read answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cors {
    /// Any page.
    Any,
    /// Pages of these origins.
    Origins(Vec<String>),
    /// None.
    Off,
}

/// Where and within which limits to serve.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of HTTP and WebSocket; port 0 takes a free one.
    pub address: SocketAddr,
    /// Address of the metrics; `None`: not served.
    pub metrics_address: Option<SocketAddr>,
    /// A socket in the file system that serves the same; `None`: none.
    pub metrics_socket: Option<PathBuf>,
    /// A file with more metrics in OpenMetrics' form, by others on this machine; `None`: none.
    pub metrics_more: Option<PathBuf>,
    /// Threads' places; empty: one thread without a place.
    pub seats: Vec<Seat>,
    /// Bytes of a request at most.
    pub request_bytes_max: u32,
    /// Bytes of an answer at most.
    pub response_bytes_max: u32,
    /// Entries of a batch at most.
    pub batch_max: usize,
    /// Open connections at most.
    pub connections_max: u32,
    /// How long a connection that is no WebSocket may ask nothing.
    pub ask_timeout: Duration,
    /// Subscriptions of a connection at most.
    pub subscriptions_max: u32,
    /// Threads for requests that block.
    pub blocking_threads: usize,
    /// Requests that wait for or run on those threads at most.
    pub blocking_queue_max: usize,
    /// Milliseconds that `eth_sendRawTransactionSync` waits unless told otherwise (EIP-7966).
    pub sync_timeout_ms: u64,
    /// Milliseconds that it may be told to wait at most.
    pub sync_timeout_max_ms: u64,
    /// Synchronous sends that wait at most.
    pub sync_waiters_max: usize,
    /// Logs in one answer at most.
    pub logs_max: usize,
    /// Blocks that one `eth_getLogs` may span at most.
    pub logs_blocks_max: BlockNumber,
    /// Browsers.
    pub cors: Cors,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8545)),
            metrics_address: None,
            metrics_socket: None,
            metrics_more: None,
            seats: Vec::new(),
            request_bytes_max: 5 * 1024 * 1024,
            response_bytes_max: 160 * 1024 * 1024,
            batch_max: 1_000,
            connections_max: 1_000,
            ask_timeout: ASK_TIMEOUT,
            subscriptions_max: 128,
            blocking_threads: 4,
            blocking_queue_max: 4_096,
            sync_timeout_ms: 2_000,
            sync_timeout_max_ms: 60_000,
            sync_waiters_max: 65_536,
            logs_max: 20_000,
            logs_blocks_max: 100_000,
            cors: Cors::Any,
        }
    }
}

/// What all handlers share.
pub struct Api {
    /// What requests are answered from.
    pub backend: Backend,
    /// What never changes.
    pub facts: Facts,
    /// Limits.
    pub settings: Settings,
    /// What became durable.
    pub events: Events,
    /// Synchronous sends that wait.
    pub waiters: Arc<Waiters>,
    /// Requests in numbers.
    pub metrics: RpcMetrics,
    /// Time.
    pub clock: Clock,
}
