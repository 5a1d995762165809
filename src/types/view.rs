//! What one folder may read of another without importing it.

use crate::types::{
    block::{Block, NodeKey},
    diff::Account,
    flow::Submission,
    ids::{BlockNumber, MiniBlockNumber},
    mini_block::MiniBlock,
    receipt::Receipt,
    transaction::SharedTransaction,
};
use alloy_consensus::Header;
use alloy_primitives::{Address, B256, Bytes, Log, U256};
use std::sync::Arc;

/// Reading failed: the disk or the database did. Never "not found".
#[derive(Debug, Clone, thiserror::Error)]
pub enum ViewError {
    /// The database could not be read.
    #[error("state cannot be read: {0}")]
    Database(String),
    /// The state of a block that is no longer, or not yet, kept.
    #[error("historical state of block {asked} is not available; kept are {oldest} to {newest}")]
    NotKept {
        /// What was asked for.
        asked: BlockNumber,
        /// Oldest block whose state is kept.
        oldest: BlockNumber,
        /// Newest block.
        newest: BlockNumber,
    },
}

/// A consistent state at one moment.
pub trait StateView: Send + Sync {
    /// The account, `None` where there is none.
    ///
    /// # Errors
    /// Where the database cannot be read.
    fn account(&self, address: &Address) -> Result<Option<Account>, ViewError>;
    /// Has what a disk holds of these accounts brought into memory: who reads one next need not
    /// wait. An error is for those who read.
    fn bring(&self, addresses: &[Address]) {
        addresses.iter().for_each(|address| drop(self.account(address)));
    }
    /// A storage slot; zero where it was never written.
    ///
    /// # Errors
    /// Where the database cannot be read.
    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ViewError>;
    /// Code by its hash, `None` where no account ever had it.
    ///
    /// # Errors
    /// Where the database cannot be read.
    fn code(&self, hash: &B256) -> Result<Option<Bytes>, ViewError>;
    /// Hash of a sealed block, `None` where it is not sealed.
    ///
    /// # Errors
    /// Where the database cannot be read.
    fn block_hash(&self, number: BlockNumber) -> Result<Option<B256>, ViewError>;
}

/// Persisted trie rows.
pub trait NodeSource: Send + Sync {
    /// The row at a key, as `trie` wrote it.
    ///
    /// # Errors
    /// Where the database cannot be read.
    fn row(&self, key: &NodeKey) -> Result<Option<Bytes>, ViewError>;
}

/// Which block a request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockId {
    /// By height.
    Number(BlockNumber),
    /// By hash.
    Hash(B256),
    /// The newest sealed block.
    Latest,
    /// The newest durable mini-block.
    Pending,
    /// The newest block under a steady checkpoint (`safe`, `finalized`).
    Steady,
    /// Genesis.
    Earliest,
}

/// How far the chain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heads {
    /// Newest sealed block.
    pub latest: BlockNumber,
    /// Newest block under a steady checkpoint.
    pub steady: BlockNumber,
    /// Newest durable mini-block.
    pub mini_block: MiniBlockNumber,
}

/// Where a transaction stands.
#[derive(Debug, Clone)]
pub enum Place {
    /// In a sealed block, at an index.
    Sealed(Arc<Block>, usize),
    /// In a durable mini-block of the open block, at an index of the mini-block.
    Open(Arc<MiniBlock>, usize),
    /// In a sealed block that is no longer in memory.
    Archived(Arc<Archived>),
}

/// One transaction of a sealed block, read without the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// The block's header.
    pub header: Header,
    /// Keccak of the header's RLP.
    pub block_hash: B256,
    /// Place among the block's transactions.
    pub index: u64,
    /// Place of its first log among the block's logs.
    pub first_log: u64,
    /// The transaction.
    pub transaction: SharedTransaction,
    /// What it did.
    pub receipt: Receipt,
}

/// Logs to look for.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// First block.
    pub from: BlockNumber,
    /// Last block.
    pub to: BlockNumber,
    /// Any of these emitters; empty: every one.
    pub addresses: Vec<Address>,
    /// By position, any of these topics; empty: every one.
    pub topics: [Vec<B256>; 4],
}

impl LogQuery {
    /// Emitter and topics fit; the block range is the caller's affair.
    pub fn matches(&self, log: &Log) -> bool {
        let topics = log.data.topics();
        (self.addresses.is_empty() || self.addresses.contains(&log.address))
            && self.topics.iter().enumerate().all(|(at, any)| {
                any.is_empty() || topics.get(at).is_some_and(|topic| any.contains(topic))
            })
    }
}

/// The chain as clients may see it: durable, consistent, from memory or disk.
pub trait ChainReader: Send + Sync {
    /// How far the chain has come.
    fn heads(&self) -> Heads;
    /// The block, `None` where there is none; `Pending` gives the newest sealed one.
    ///
    /// # Errors
    /// Where the archive cannot be read.
    fn block(&self, id: BlockId) -> Result<Option<Arc<Block>>, ViewError>;
    /// Durable mini-blocks of the open block, oldest first.
    fn open_mini_blocks(&self) -> Vec<Arc<MiniBlock>>;
    /// Where a transaction stands, `None` where no durable mini-block has it.
    ///
    /// # Errors
    /// Where the archive cannot be read.
    fn transaction(&self, hash: &B256) -> Result<Option<Place>, ViewError>;
    /// The state after a block, or after the newest durable mini-block for `Pending`.
    ///
    /// # Errors
    /// `NotKept` for old blocks, or where the database cannot be read.
    fn state(&self, id: BlockId) -> Result<Arc<dyn StateView>, ViewError>;
    /// Blocks in the query's range (which is sealed) that may hold a fitting log, oldest first,
    /// at most `blocks_max` of them.
    ///
    /// # Errors
    /// Where the archive cannot be read.
    fn blocks_with_logs(
        &self,
        query: &LogQuery,
        blocks_max: usize,
    ) -> Result<Vec<Arc<Block>>, ViewError>;
}

/// One account's proof against a state root (EIP-1186).
#[derive(Debug, Clone)]
pub struct AccountProof {
    /// The account, `None` where it does not exist.
    pub account: Option<Account>,
    /// Root of its storage trie.
    pub storage_root: B256,
    /// RLP nodes from the root down.
    pub nodes: Vec<Bytes>,
    /// One a slot that was asked for: slot, value, RLP nodes from the storage root down.
    pub slots: Vec<(U256, U256, Vec<Bytes>)>,
}

/// Gives proofs.
pub trait ProofSource: Send + Sync {
    /// A proof of an account and slots at a block.
    ///
    /// # Errors
    /// `NotKept` for blocks whose trie is no longer kept, or where the database cannot be read.
    fn proof(
        &self,
        address: Address,
        slots: &[U256],
        block: BlockId,
    ) -> Result<AccountProof, ViewError>;
}

/// What is known of transactions that are not yet in a durable mini-block.
pub trait PoolReader: Send + Sync {
    /// Hands a transaction to ingress; a full queue gives it back at once.
    ///
    /// # Errors
    /// The submission itself, where the queue is full or closed.
    fn submit(&self, submission: Submission) -> Result<(), Submission>;
    /// A transaction that waits.
    fn pending(&self, hash: &B256) -> Option<SharedTransaction>;
    /// The nonce after the sender's gapless waiting transactions, `None` where none waits.
    fn pending_nonce(&self, sender: &Address) -> Option<u64>;
    /// Transactions that wait.
    fn pending_count(&self) -> usize;
}

/// A call to try, with what the caller left open (EIP-1474 semantics).
#[derive(Debug, Clone, Default)]
pub struct CallRequest {
    /// Zero address where absent.
    pub from: Address,
    /// `None`: contract creation.
    pub to: Option<Address>,
    /// Gas, `None`: as much as the server allows.
    pub gas: Option<u64>,
    /// Fee cap (or gas price), `None`: zero, base fee not checked.
    pub max_fee_per_gas: Option<u128>,
    /// Tip, `None`: zero.
    pub max_priority_fee_per_gas: Option<u128>,
    /// Wei to send.
    pub value: U256,
    /// Call data or init code.
    pub input: Bytes,
    /// EIP-2930 list.
    pub access_list: alloy_eips::eip2930::AccessList,
    /// EIP-7702 list.
    pub authorizations: Vec<alloy_eips::eip7702::SignedAuthorization>,
    /// Nonce, `None`: the account's.
    pub nonce: Option<u64>,
}

/// How a tried call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallOutcome {
    /// It returned.
    Success {
        /// What it returned.
        output: Bytes,
        /// Gas used.
        gas_used: u64,
    },
    /// It reverted, with this data.
    Revert {
        /// Revert data.
        output: Bytes,
        /// Gas used.
        gas_used: u64,
    },
    /// It stopped on an exception, such as "out of gas".
    Halt {
        /// Geth's text.
        reason: String,
        /// Gas used.
        gas_used: u64,
    },
    /// It could not start: Ethereum's usual text, such as "insufficient funds for gas * price +
    /// value".
    Invalid(String),
}

/// Tries calls on a state without leaving a trace.
pub trait Simulator: Send + Sync {
    /// Executes `call` on `state` within `block` (for `pending`: the environment after it).
    ///
    /// # Errors
    /// Where the state cannot be read.
    fn call(
        &self,
        state: &dyn StateView,
        block: &crate::types::mini_block::BlockEnvironment,
        call: &CallRequest,
    ) -> Result<CallOutcome, ViewError>;
    /// The least gas limit with which `call` succeeds, or how it fails with the most gas.
    ///
    /// # Errors
    /// Where the state cannot be read.
    fn estimate(
        &self,
        state: &dyn StateView,
        block: &crate::types::mini_block::BlockEnvironment,
        call: &CallRequest,
    ) -> Result<Result<u64, CallOutcome>, ViewError>;
}

/// Told of everything that became durable, by the state stage, in order; must not block.
pub trait Settlement: Send + Sync {
    /// These transactions, with these receipts, are durable.
    fn included(&self, transactions: &[SharedTransaction], receipts: &[Receipt]);
    /// This transaction will not be included.
    fn dropped(&self, transaction: &SharedTransaction, reason: &str);
}
