//! The newest blocks and mini-blocks in memory: found by number, hash or transaction.

use crate::types::{
    block::Block,
    ids::{BlockNumber, MiniBlockNumber},
    map::Map,
    mini_block::MiniBlock,
    view::Place,
};
use alloy_primitives::B256;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Sealed blocks kept in memory at most, once a checkpoint has them.
pub const RECENT_BLOCKS_MAX: usize = 128;
/// Transactions of such blocks kept in memory at most; about 60 bytes of index each beside the
/// transactions themselves.
pub const RECENT_TRANSACTIONS_MAX: usize = 100_000;
/// Block hashes kept in memory: more than any reader of an older snapshot can lack.
pub const RECENT_HASHES_MAX: usize = 4_096;

#[derive(Debug, Clone, Copy)]
struct At {
    block: BlockNumber,
    /// Place among the block's transactions.
    index: u64,
}

/// Everything that is sealed but not yet under a checkpoint, what is not yet sealed, and as much
/// of the newest past as the limits allow.
#[derive(Debug, Default)]
pub struct Recent {
    /// Mini-blocks of blocks that are not sealed, oldest first.
    open: VecDeque<Arc<MiniBlock>>,
    blocks: BTreeMap<BlockNumber, Arc<Block>>,
    numbers: Map<B256, BlockNumber>,
    hashes: BTreeMap<BlockNumber, B256>,
    transactions: Map<B256, At>,
    /// Newest mini-block when a block closed, for its checkpoint.
    mini_heads: BTreeMap<BlockNumber, (MiniBlockNumber, B256)>,
    newest_mini_block: (MiniBlockNumber, B256),
}

impl Recent {
    /// A chain whose newest block and mini-block these are.
    pub fn starting_at(block: Arc<Block>, mini_block: (MiniBlockNumber, B256)) -> Self {
        let mut recent = Self { newest_mini_block: mini_block, ..Self::default() };
        recent.mini_heads.insert(block.header.number, mini_block);
        recent.seal(block);
        recent
    }

    /// Adds hashes of older blocks.
    pub fn remember_hashes(&mut self, hashes: impl IntoIterator<Item = (BlockNumber, B256)>) {
        self.hashes.extend(hashes);
    }

    /// Adds a durable mini-block.
    pub fn push(&mut self, mini_block: Arc<MiniBlock>) {
        let block = mini_block.environment.number;
        self.transactions.reserve(mini_block.transactions.len());
        for (index, transaction) in (mini_block.first_transaction..).zip(&mini_block.transactions) {
            self.transactions.insert(transaction.hash, At { block, index });
        }
        self.newest_mini_block = (mini_block.number, mini_block.hash);
        self.open.push_back(mini_block);
    }

    /// Notes that a block closed and gives its mini-blocks in order.
    pub fn close(&mut self, block: BlockNumber) -> Vec<Arc<MiniBlock>> {
        self.mini_heads.insert(block, self.newest_mini_block);
        let of_block = self.open.iter().filter(|mini| mini.environment.number == block);
        of_block.cloned().collect()
    }

    /// Adds a sealed block; its mini-blocks are no longer open.
    pub fn seal(&mut self, block: Arc<Block>) {
        let number = block.header.number;
        while self.open.front().is_some_and(|mini| mini.environment.number <= number) {
            self.open.pop_front();
        }
        // Its mini-blocks have brought them, save for the block that a start begins with.
        let known = |hash| self.transactions.contains_key(hash);
        if block.transactions.last().is_some_and(|last| !known(&last.hash)) {
            for (index, transaction) in (0..).zip(&block.transactions) {
                self.transactions.insert(transaction.hash, At { block: number, index });
            }
        }
        self.numbers.insert(block.hash, number);
        self.hashes.insert(number, block.hash);
        self.blocks.insert(number, block);
    }

    /// Forgets what is under the checkpoint at `steady` and beyond the limits, and gives the
    /// blocks back: freeing their transactions takes long and needs no lock.
    pub fn forget(&mut self, steady: BlockNumber) -> Vec<Arc<Block>> {
        let mut forgotten = Vec::new();
        let mut held: usize = self.blocks.values().map(|block| block.transactions.len()).sum();
        while let Some(oldest) = self.blocks.first_entry()
            && *oldest.key() < steady
            && (self.blocks.len() > RECENT_BLOCKS_MAX || held > RECENT_TRANSACTIONS_MAX)
        {
            let Some((number, block)) = self.blocks.pop_first() else { break };
            held -= block.transactions.len();
            self.numbers.remove(&block.hash);
            for transaction in &block.transactions {
                if self.transactions.get(&transaction.hash).is_some_and(|at| at.block == number) {
                    self.transactions.remove(&transaction.hash);
                }
            }
            forgotten.push(block);
        }
        while self.hashes.len() > RECENT_HASHES_MAX
            && self.hashes.first_key_value().is_some_and(|(number, _)| *number < steady)
        {
            self.hashes.pop_first();
        }
        self.mini_heads.retain(|number, _| *number >= steady);
        forgotten
    }

    /// The newest mini-block when a block closed, `None` where that is long ago.
    pub fn mini_head(&self, block: BlockNumber) -> Option<(MiniBlockNumber, B256)> {
        self.mini_heads.get(&block).copied()
    }

    /// A sealed block.
    pub fn block(&self, number: BlockNumber) -> Option<Arc<Block>> {
        self.blocks.get(&number).cloned()
    }

    /// The height of a sealed block.
    pub fn number(&self, hash: &B256) -> Option<BlockNumber> {
        self.numbers.get(hash).copied()
    }

    /// The hash of a sealed block.
    pub fn hash(&self, number: BlockNumber) -> Option<B256> {
        self.hashes.get(&number).copied()
    }

    /// Where a transaction stands.
    pub fn transaction(&self, hash: &B256) -> Option<Place> {
        let at = self.transactions.get(hash)?;
        if let Some(block) = self.blocks.get(&at.block) {
            return Some(Place::Sealed(Arc::clone(block), usize::try_from(at.index).ok()?));
        }
        let found = self.open.partition_point(|mini| {
            (mini.environment.number, mini.first_transaction) <= (at.block, at.index)
        });
        // Empty mini-blocks start where their successor does: the last that starts at or before
        // the transaction, and holds it, is the one.
        let mini = self.open.get(found.checked_sub(1)?)?;
        let index = usize::try_from(at.index.checked_sub(mini.first_transaction)?).ok()?;
        Some(Place::Open(Arc::clone(mini), index))
    }

    /// Mini-blocks of the newest block that is not sealed, oldest first.
    pub fn open_mini_blocks(&self) -> Vec<Arc<MiniBlock>> {
        let newest = self.open.back().map(|mini| mini.environment.number);
        let of_newest = self.open.iter().filter(|mini| Some(mini.environment.number) == newest);
        of_newest.cloned().collect()
    }

    /// Oldest block in memory, where there is one.
    pub fn oldest(&self) -> Option<BlockNumber> {
        self.blocks.first_key_value().map(|(number, _)| *number)
    }
}
