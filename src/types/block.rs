//! The Ethereum block: closed by execution, sealed once its state root is known.

use crate::types::{
    diff::Diff, ids::MiniBlockNumber, mini_block::BlockEnvironment, receipt::Receipt,
    transaction::SharedTransaction,
};
use alloy_consensus::Header;
use alloy_primitives::{B256, Bytes};
use std::sync::{Arc, OnceLock};

/// The end of a block as execution fixes it: durable before the block is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockClose {
    /// The block's own environment.
    pub environment: BlockEnvironment,
    /// Hash of the parent's header.
    pub parent_hash: B256,
    /// Number of the newest mini-block when the block closed, whichever block that was in.
    pub last_mini_block: MiniBlockNumber,
    /// Mini-blocks of this block.
    pub mini_block_count: u64,
    /// Transactions of this block.
    pub transaction_count: u64,
    /// Gas of all of its transactions.
    pub gas_used: u64,
    /// EIP-7685 requests in order of type, each with its type byte, empty ones left out.
    pub requests: Vec<Bytes>,
    /// What the closing system calls changed (and the opening ones, where no mini-block took them).
    pub diff: Arc<Diff>,
}

/// A sealed block with what it did.
#[derive(Debug, Clone)]
pub struct Block {
    /// Its header; number, gas used and roots stand there.
    pub header: Header,
    /// Keccak of the header's RLP.
    pub hash: B256,
    /// In order.
    pub transactions: Vec<SharedTransaction>,
    /// One a transaction.
    pub receipts: Vec<Receipt>,
    /// Number of the newest mini-block when it closed.
    pub last_mini_block: MiniBlockNumber,
    /// Its mini-blocks' numbers are the `mini_block_count` up to `last_mini_block`.
    pub mini_block_count: u64,
    /// Filled by the first who asks.
    pub log_starts: LogStarts,
}

/// Places of each transaction's first log among the logs of its block, counted once and only for
/// blocks whose receipts somebody reads.
#[derive(Debug, Clone, Default)]
pub struct LogStarts(OnceLock<Box<[u64]>>);

impl Block {
    /// Place of the first log of the transaction at `index` among the block's logs.
    pub fn first_log(&self, index: usize) -> u64 {
        let starts = self.log_starts.0.get_or_init(|| {
            let counts = self.receipts.iter().map(|receipt| receipt.logs.len());
            let starts = counts.scan(0u64, |next, count| {
                let start = *next;
                *next += u64::try_from(count).unwrap_or(0);
                Some(start)
            });
            starts.collect()
        });
        starts.get(index).copied().unwrap_or_default()
    }
}

/// Nodes that a state root changed, for the checkpoint; opaque outside of `trie`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrieUpdate {
    /// The state root after the block.
    pub root: B256,
    /// New rows in key order; `None` deletes.
    pub rows: Vec<(NodeKey, Option<Bytes>)>,
}

/// Memory of an entry of a diff, bytes: an account with its key, and its place in a map.
const DIFF_ENTRY_BYTES: usize = 200;
/// Memory of a row of trie nodes beside its bytes: key, path, counts.
const ROW_OVERHEAD_BYTES: usize = 160;

impl SealedBlock {
    /// Memory that it takes until its checkpoint, bytes, near enough for limits.
    pub fn memory_bytes(&self) -> usize {
        let transactions = self.block.transactions.iter().map(|tx| tx.memory_bytes());
        let receipts = self.block.receipts.iter().map(Receipt::memory_bytes);
        let row = |(_, row): &(NodeKey, Option<Bytes>)| row.as_ref().map_or(0, |bytes| bytes.len());
        let rows = self.trie.rows.iter().map(|of| ROW_OVERHEAD_BYTES + row(of));
        let diff = self.diff.weight() * DIFF_ENTRY_BYTES;
        diff + transactions.sum::<usize>() + receipts.sum::<usize>() + rows.sum::<usize>()
    }
}

/// Where a row of trie nodes lives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey {
    /// Hashed address of the account whose storage trie it is; `None`: the account trie.
    pub owner: Option<B256>,
    /// Path from the root, one nibble a byte.
    pub path: Vec<u8>,
}

/// A sealed block and what its checkpoint writes.
#[derive(Debug, Clone)]
pub struct SealedBlock {
    /// The block.
    pub block: Arc<Block>,
    /// All state changes of the block.
    pub diff: Arc<Diff>,
    /// Trie rows to write.
    pub trie: Arc<TrieUpdate>,
}
