//! What travels on the rings between stages. A link is named producer_consumer in `node/wire`.

use crate::types::{
    block::{Block, BlockClose},
    diff::Diff,
    ids::{TimestampS, TimestampUs},
    mini_block::MiniBlock,
    overlay::Overlay,
    transaction::SharedTransaction,
};
use alloy_primitives::{B256, Bytes};
use std::sync::Arc;

/// Takes the hash of an admitted transaction, or why it was refused.
pub type Reply = Box<dyn FnOnce(Result<B256, Refusal>) + Send>;

/// rpc → ingress: a raw transaction and where its verdict goes.
pub struct Submission {
    /// EIP-2718 encoding as it came.
    pub raw: Bytes,
    /// Called once, on an ingress seat; must not block.
    pub reply: Reply,
}

/// Why a transaction was not admitted, in JSON-RPC's terms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// JSON-RPC error code as geth gives it (-32000 for most, -32003 rejected, -32602 malformed).
    pub code: i32,
    /// Ethereum's usual text, with the offending values.
    pub message: String,
}

/// ordering → execution: an interval's transactions in order, or some of them ahead of its end.
#[derive(Debug, Clone)]
pub struct Cut {
    /// When it was made; of the last of an interval, when that ended.
    pub timestamp_us: TimestampUs,
    /// Execution stops at the first transaction boundary after this; the rest goes back.
    pub deadline_us: TimestampUs,
    /// Header timestamp for the block, should this cut open one.
    pub block_timestamp: TimestampS,
    /// In order of execution.
    pub transactions: Vec<SharedTransaction>,
    /// What ends with this cut.
    pub ends: Ends,
}

/// What ends with a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// Nothing yet: the next cut goes on with the mini-block.
    Nothing,
    /// The mini-block.
    MiniBlock,
    /// The mini-block, and the block with it.
    Block,
}

/// execution → ordering: the credit for one cut, and what it did not take.
#[derive(Debug, Clone, Default)]
pub struct Credit {
    /// Not executed for lack of time, gas or bytes: to be offered again, in this order.
    pub left_over: Vec<SharedTransaction>,
    /// Found invalid at its turn: to be forgotten, with the reason.
    pub dropped: Vec<(SharedTransaction, String)>,
    /// Base fee of the block that the next cut belongs to, wei per gas.
    pub base_fee: u64,
    /// The block has no room for another plain transfer, in gas or in bytes: close it early.
    pub block_full: bool,
}

/// execution → mini_block → wal → state: what happened, in order, with the state after it.
///
/// Before `mini_block` the fields `number`, `parent_hash`, the roots, `hash` and `signature` of a
/// mini-block are blank; `wal` passes on only what is durable.
#[derive(Debug, Clone)]
pub struct Step {
    /// What happened.
    pub event: Event,
    /// The state after it, over the last checkpoint.
    pub overlay: Overlay,
}

/// One thing that happened to the chain.
#[derive(Debug, Clone)]
pub enum Event {
    /// Transactions were executed.
    MiniBlock(Arc<MiniBlock>),
    /// A block ended.
    Close(Arc<BlockClose>),
}

/// state → trie → block: a durable block that awaits its root and header.
#[derive(Debug, Clone)]
pub struct ClosedBlock {
    /// How it ended.
    pub close: Arc<BlockClose>,
    /// Its mini-blocks in order.
    pub mini_blocks: Vec<Arc<MiniBlock>>,
    /// All of its state changes.
    pub diff: Arc<Diff>,
}

/// state → rpc: what a client may learn, in order; everything in it is durable.
#[derive(Debug, Clone)]
pub enum ChainEvent {
    /// A mini-block became durable.
    MiniBlock(Arc<MiniBlock>),
    /// A block was sealed.
    Block(Arc<Block>),
    /// An interval passed without a transaction.
    Heartbeat {
        /// When.
        timestamp_us: TimestampUs,
    },
    /// A transaction was admitted to the pool.
    Admitted(SharedTransaction),
}
