//! The chain as clients see it: one pointer to a state that fits together, and the newest blocks.
//!
//! Invariant: a published overlay holds every change after its snapshot's checkpoint. An overlay
//! is cut only against the snapshot that it is published with, under one lock, so a pruned
//! overlay never stands over an older snapshot.

use crate::state::{
    archive::{Archive, ArchiveError},
    recent::Recent,
    snapshot::Snapshot,
    tables::BlockRow,
    undo::Undo,
};
use crate::types::{
    block::{Block, BlockClose},
    diff::Account,
    flow::ClosedBlock,
    ids::{BlockNumber, MiniBlockNumber},
    mini_block::MiniBlock,
    overlay::Overlay,
    view::{BlockId, ChainReader, Heads, LogQuery, Place, StateView, ViewError},
};
use alloy_primitives::{Address, B256, BloomInput, Bytes, U256};
use arc_swap::ArcSwap;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

/// Blocks behind the checkpoint whose states are kept at most.
pub const UNDO_BLOCKS_MAX: usize = 128;
/// Entries (accounts and slots) of all undo layers at most, about 100 bytes each: 50 MB.
pub const UNDO_ENTRIES_MAX: usize = 500_000;

type UndoLayers = VecDeque<(BlockNumber, Arc<Undo>)>;

/// What fits together.
struct Head {
    latest: Arc<Block>,
    mini_block: MiniBlockNumber,
    overlay: Overlay,
    snapshot: Arc<Snapshot>,
    undo: Arc<UndoLayers>,
}

impl Head {
    fn steady(&self) -> BlockNumber {
        self.snapshot.checkpoint().block
    }
}

/// The published chain. Writers are the `state` stage's loops; readers are everyone.
pub struct Published {
    head: ArcSwap<Head>,
    /// Held by whoever replaces `head`, for microseconds.
    writer: Mutex<()>,
    recent: Arc<RwLock<Recent>>,
    archive: Arc<Archive>,
}

impl From<ArchiveError> for ViewError {
    fn from(error: ArchiveError) -> Self {
        Self::Database(error.to_string())
    }
}

impl Published {
    /// The chain at the snapshot's checkpoint, before anything after it is replayed.
    ///
    /// # Errors
    /// Where the checkpoint's block cannot be read from the archive.
    pub fn new(
        snapshot: Arc<Snapshot>,
        archive: Arc<Archive>,
        hashes: Vec<(BlockNumber, B256)>,
    ) -> Result<Self, ViewError> {
        let at = *snapshot.checkpoint();
        let row = snapshot.block_row(at.block)?.ok_or_else(|| {
            ViewError::Database(format!("block {} of the checkpoint has no row", at.block))
        })?;
        let latest = archive.read(row.position)?;
        let mut recent =
            Recent::starting_at(Arc::clone(&latest), (at.mini_block, at.mini_block_hash));
        recent.remember_hashes(hashes);
        let head = Head {
            latest,
            mini_block: at.mini_block,
            overlay: Overlay::default(),
            snapshot,
            undo: Arc::default(),
        };
        Ok(Self {
            head: ArcSwap::from_pointee(head),
            writer: Mutex::new(()),
            recent: Arc::new(RwLock::new(recent)),
            archive,
        })
    }

    /// Publishes a durable mini-block with the state after it.
    pub fn push(&self, mini_block: Arc<MiniBlock>, overlay: &Overlay) {
        let number = mini_block.number;
        self.with_recent(|recent| recent.push(mini_block));
        self.replace(|head| Head {
            mini_block: number,
            overlay: above(overlay, head.steady()),
            ..copy(head)
        });
    }

    /// Publishes a durable end of a block and gives what `trie` needs to seal it.
    pub fn close(&self, close: Arc<BlockClose>, overlay: &Overlay) -> ClosedBlock {
        let number = close.environment.number;
        let mini_blocks = self.with_recent(|recent| recent.close(number));
        // Costs nothing where execution has merged the block's layers already.
        let mut overlay = overlay.clone();
        let diff = overlay.close(number);
        self.replace(|head| Head { overlay: above(&overlay, head.steady()), ..copy(head) });
        ClosedBlock { close, mini_blocks, diff }
    }

    /// Publishes a sealed block as the newest.
    pub fn seal(&self, block: Arc<Block>) {
        self.with_recent(|recent| recent.seal(Arc::clone(&block)));
        self.replace(|head| Head { latest: block, ..copy(head) });
    }

    /// Replaces the snapshot by one of a newer checkpoint, cuts the overlay to match and keeps
    /// the undo layers of the blocks between the two.
    pub fn checkpoint(&self, snapshot: Arc<Snapshot>, layers: Vec<(BlockNumber, Arc<Undo>)>) {
        let steady = snapshot.checkpoint().block;
        self.replace(|head| {
            let mut undo = UndoLayers::clone(&head.undo);
            undo.extend(layers);
            let mut entries: usize = undo.iter().map(|(_, layer)| layer.weight()).sum();
            while undo.len() > UNDO_BLOCKS_MAX || entries > UNDO_ENTRIES_MAX {
                entries -= undo.pop_front().map_or(0, |(_, layer)| layer.weight());
            }
            let overlay = above(&head.overlay, steady);
            Head { snapshot, overlay, undo: Arc::new(undo), ..copy(head) }
        });
        drop(self.with_recent(|recent| recent.forget(steady)));
    }

    /// The newest mini-block, with its hash, when a block closed that no checkpoint had yet.
    pub fn mini_head(&self, block: BlockNumber) -> Option<(MiniBlockNumber, B256)> {
        self.read_recent(|recent| recent.mini_head(block))
    }

    /// The snapshot of the newest checkpoint.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.head.load().snapshot)
    }

    /// The state after block `number`, for whoever has it as a number already.
    ///
    /// # Errors
    /// `NotKept` where it is too old or not sealed.
    pub fn state_after(&self, number: BlockNumber) -> Result<Arc<dyn StateView>, ViewError> {
        let head = self.head.load();
        let (steady, newest) = (head.steady(), head.latest.header.number);
        let oldest = head.undo.front().map_or(steady, |(first, _)| first - 1);
        if number > newest || number < oldest {
            return Err(ViewError::NotKept { asked: number, oldest, newest });
        }
        let undo = head.undo.iter().filter(|(block, _)| *block > number);
        let undo = undo.map(|(_, layer)| Arc::clone(layer)).collect();
        let overlay = head.overlay.up_to(number);
        Ok(self.state_of(&head, undo, overlay))
    }

    fn state_of(&self, head: &Head, undo: Vec<Arc<Undo>>, overlay: Overlay) -> Arc<dyn StateView> {
        let (snapshot, recent) = (Arc::clone(&head.snapshot), Arc::clone(&self.recent));
        Arc::new(StateAt { undo, overlay, snapshot, recent })
    }

    fn number_of(&self, id: BlockId) -> Result<Option<BlockNumber>, ViewError> {
        match id {
            BlockId::Number(number) => Ok(Some(number)),
            BlockId::Earliest => Ok(Some(0)),
            BlockId::Steady => Ok(Some(self.head.load().steady())),
            BlockId::Latest | BlockId::Pending => Ok(Some(self.head.load().latest.header.number)),
            BlockId::Hash(hash) => match self.read_recent(|recent| recent.number(&hash)) {
                Some(number) => Ok(Some(number)),
                None => Ok(self.head.load().snapshot.block_number(&hash)?),
            },
        }
    }

    fn block_at(&self, number: BlockNumber) -> Result<Option<Arc<Block>>, ViewError> {
        // Memory first: what it forgets is under the snapshot that is loaded after it.
        if let Some(block) = self.read_recent(|recent| recent.block(number)) {
            return Ok(Some(block));
        }
        let row = self.head.load().snapshot.block_row(number)?;
        Ok(row.map(|row| self.archive.read(row.position)).transpose()?)
    }

    fn replace(&self, change: impl FnOnce(&Head) -> Head) {
        let _one: MutexGuard<'_, ()> = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let next = change(&self.head.load());
        self.head.store(Arc::new(next));
    }

    fn with_recent<R>(&self, work: impl FnOnce(&mut Recent) -> R) -> R {
        work(&mut self.recent.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn read_recent<R>(&self, work: impl FnOnce(&Recent) -> R) -> R {
        work(&self.recent.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ChainReader for Published {
    fn heads(&self) -> Heads {
        let head = self.head.load();
        Heads {
            latest: head.latest.header.number,
            steady: head.steady(),
            mini_block: head.mini_block,
        }
    }

    fn block(&self, id: BlockId) -> Result<Option<Arc<Block>>, ViewError> {
        if matches!(id, BlockId::Latest | BlockId::Pending) {
            return Ok(Some(Arc::clone(&self.head.load().latest)));
        }
        match self.number_of(id)? {
            Some(number) => self.block_at(number),
            None => Ok(None),
        }
    }

    fn open_mini_blocks(&self) -> Vec<Arc<MiniBlock>> {
        self.read_recent(Recent::open_mini_blocks)
    }

    fn transaction(&self, hash: &B256) -> Result<Option<Place>, ViewError> {
        if let Some(place) = self.read_recent(|recent| recent.transaction(hash)) {
            return Ok(Some(place));
        }
        for (number, index) in self.archive.look_up(hash)? {
            let Some(row) = self.head.load().snapshot.block_row(number)? else { continue };
            let found = self.archive.read_one(row.position, index)?;
            if let Some(found) = found.filter(|found| found.transaction.hash == *hash) {
                return Ok(Some(Place::Archived(Arc::new(found))));
            }
        }
        Ok(None)
    }

    fn state(&self, id: BlockId) -> Result<Arc<dyn StateView>, ViewError> {
        if id == BlockId::Pending {
            let head = self.head.load();
            return Ok(self.state_of(&head, Vec::new(), head.overlay.clone()));
        }
        // A block that nobody knows has no number to report: the greatest stands for it.
        self.state_after(self.number_of(id)?.unwrap_or(BlockNumber::MAX))
    }

    fn blocks_with_logs(
        &self,
        query: &LogQuery,
        blocks_max: usize,
    ) -> Result<Vec<Arc<Block>>, ViewError> {
        let to = query.to.min(self.heads().latest);
        let in_memory = self.read_recent(Recent::oldest).unwrap_or(BlockNumber::MAX);
        let mut found = Vec::new();
        if query.from < in_memory {
            let snapshot = self.snapshot();
            let span = (query.from, to.min(in_memory - 1));
            let wanted = |row: &BlockRow| may_match(query, &row.header.logs_bloom);
            for row in snapshot.find_blocks(span, blocks_max, wanted)? {
                found.push(self.archive.read(row.position)?);
            }
        }
        for number in query.from.max(in_memory)..=to {
            if found.len() >= blocks_max {
                break;
            }
            // Forgotten in the meantime: then it is in the archive by now.
            let Some(block) = self.block_at(number)? else { continue };
            if may_match(query, &block.header.logs_bloom) {
                found.push(block);
            }
        }
        Ok(found)
    }
}

/// A block with this bloom may hold a log that fits (EIP-234's filter semantics).
fn may_match(query: &LogQuery, bloom: &alloy_primitives::Bloom) -> bool {
    let has = |bytes: &[u8]| bloom.contains_input(BloomInput::Raw(bytes));
    let emitter = query.addresses.is_empty() || query.addresses.iter().any(|a| has(a.as_slice()));
    emitter
        && query
            .topics
            .iter()
            .all(|any| any.is_empty() || any.iter().any(|topic| has(topic.as_slice())))
}

fn above(overlay: &Overlay, block: BlockNumber) -> Overlay {
    let mut overlay = overlay.clone();
    overlay.prune(block);
    overlay
}

fn copy(head: &Head) -> Head {
    Head {
        latest: Arc::clone(&head.latest),
        mini_block: head.mini_block,
        overlay: head.overlay.clone(),
        snapshot: Arc::clone(&head.snapshot),
        undo: Arc::clone(&head.undo),
    }
}

/// A state: what undoes newer blocks, what is newer than the checkpoint, the checkpoint.
struct StateAt {
    /// Of the blocks after the wanted one and up to the snapshot's, oldest first.
    undo: Vec<Arc<Undo>>,
    overlay: Overlay,
    snapshot: Arc<Snapshot>,
    recent: Arc<RwLock<Recent>>,
}

impl StateView for StateAt {
    fn account(&self, address: &Address) -> Result<Option<Account>, ViewError> {
        if let Some(found) = self.undo.iter().find_map(|layer| layer.account(address)) {
            return Ok(found);
        }
        match self.overlay.account(address) {
            Some(found) => Ok(found),
            None => self.snapshot.account(address),
        }
    }

    fn bring(&self, addresses: &[Address]) {
        self.snapshot.bring(addresses);
    }

    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ViewError> {
        if let Some(found) = self.undo.iter().find_map(|layer| layer.storage(address, slot)) {
            return Ok(found);
        }
        match self.overlay.storage(address, slot) {
            Some(found) => Ok(found),
            None => self.snapshot.storage(address, slot),
        }
    }

    fn code(&self, hash: &B256) -> Result<Option<Bytes>, ViewError> {
        match self.overlay.code(hash) {
            Some(found) => Ok(Some(found)),
            None => self.snapshot.code(hash),
        }
    }

    fn block_hash(&self, number: BlockNumber) -> Result<Option<B256>, ViewError> {
        let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
        match recent.hash(number) {
            Some(hash) => Ok(Some(hash)),
            None => self.snapshot.block_hash(number),
        }
    }
}
