//! The unit of durability: what one interval executed.

use crate::types::{
    diff::Diff,
    ids::{BlockNumber, MiniBlockNumber, TimestampS, TimestampUs},
    receipt::Receipt,
    transaction::SharedTransaction,
};
use alloy_primitives::{Address, B256, Signature};
use std::sync::Arc;

/// What transactions of one block can see of it; fixed when the block opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockEnvironment {
    /// Height.
    pub number: BlockNumber,
    /// Seconds since the epoch.
    pub timestamp: TimestampS,
    /// Wei per gas, EIP-1559 with a floor.
    pub base_fee: u64,
    /// Gas of the whole block at most.
    pub gas_limit: u64,
    /// Who gets the tips.
    pub fee_recipient: Address,
    /// EIP-4399 value; a hash of chain id and height, so known in advance: not randomness.
    pub prev_randao: B256,
}

/// Transactions of one interval with all that they did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MiniBlock {
    /// Height over the whole chain.
    pub number: MiniBlockNumber,
    /// The block that it belongs to.
    pub environment: BlockEnvironment,
    /// Place among the block's mini-blocks, from 0.
    pub index: u64,
    /// Place of its first transaction in the block.
    pub first_transaction: u64,
    /// Place of its first log in the block.
    pub first_log: u64,
    /// When ordering cut it.
    pub timestamp_us: TimestampUs,
    /// Hash of the mini-block before it, over block boundaries; zero for the first.
    pub parent_hash: B256,
    /// In order of execution.
    pub transactions: Vec<SharedTransaction>,
    /// One a transaction.
    pub receipts: Vec<Receipt>,
    /// State changes, with those of the block's opening system calls in the first one.
    pub diff: Arc<Diff>,
    /// Gas of its transactions.
    pub gas_used: u64,
    /// Ordered-trie root of `transactions`.
    pub transaction_root: B256,
    /// Ordered-trie root of `receipts`.
    pub receipt_root: B256,
    /// Commits to all of the above.
    pub hash: B256,
    /// The sequencer's secp256k1 signature of `hash`.
    pub signature: Signature,
}
