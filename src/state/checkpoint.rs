//! Writes a checkpoint: several sealed blocks in one database transaction.
//!
//! 1. bodies into the archive, durable
//! 2. merged flat state, merged trie rows, block rows and the checkpoint's own row into one
//!    transaction
//! 3. durable commit
//! 4. a snapshot of it, and undo layers from the snapshot before

use crate::state::{
    archive::{Archive, ArchiveError},
    environment::{Environment, StoreError},
    flat::Writer,
    snapshot::Snapshot,
    tables::{BlockRow, Checkpoint, Position},
    undo::{self, Undo},
};
use crate::types::{
    block::{Block, NodeKey, SealedBlock},
    diff::Diff,
    ids::{BlockNumber, MiniBlockNumber},
    view::ViewError,
};
use alloy_primitives::{B256, Bytes};
use std::sync::Arc;

/// A checkpoint could not be written: the node must stop, the log has everything.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The state before cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// Blocks come out of order.
    #[error(
        "block {found} came where {expected} was to follow the checkpoint: this is a fault \
        of the program, restart replays the log"
    )]
    Order {
        /// What came.
        found: BlockNumber,
        /// What was to come.
        expected: BlockNumber,
    },
    /// A block disagrees with its own trie update.
    #[error(
        "block {number} has state root {header} but its trie rows belong to {rows}: this is \
        a fault of the program, restart replays the log"
    )]
    Root {
        /// The block.
        number: BlockNumber,
        /// In its header.
        header: B256,
        /// Of the rows.
        rows: B256,
    },
    /// Nobody said which mini-block closed a block.
    #[error(
        "block {0} was sealed but never closed: this is a fault of the program, restart \
        replays the log"
    )]
    NotClosed(BlockNumber),
}

/// What a checkpoint left.
pub struct Written {
    /// The state at its block.
    pub snapshot: Arc<Snapshot>,
    /// What undoes its blocks, oldest first.
    pub undo: Vec<(BlockNumber, Arc<Undo>)>,
    /// Entries of flat state written.
    pub weight: usize,
    /// Trie rows written or deleted.
    pub trie_rows: usize,
}

/// Where checkpoints go.
pub struct Target<'a> {
    /// The database.
    pub environment: &'a Environment,
    /// The archive.
    pub archive: &'a Archive,
    /// Read transactions that the new snapshot gets.
    pub readers: usize,
}

/// Writes `blocks`, which follow the snapshot `before`, durably. `mini_head` is the newest
/// mini-block, with its hash, when the last of them closed.
///
/// # Errors
/// Where disk or database fail, or the blocks do not follow.
pub fn write(
    target: &Target<'_>,
    before: &Arc<Snapshot>,
    blocks: &[SealedBlock],
    mini_head: (MiniBlockNumber, B256),
) -> Result<Written, CheckpointError> {
    check_order(before.checkpoint(), blocks)?;
    let Some(last) = blocks.last() else {
        let snapshot = Arc::clone(before);
        return Ok(Written { snapshot, undo: Vec::new(), weight: 0, trie_rows: 0 });
    };
    let diffs: Vec<(BlockNumber, Arc<Diff>)> = blocks
        .iter()
        .map(|sealed| (sealed.block.header.number, Arc::clone(&sealed.diff)))
        .collect();
    let undo = undo::layers(before, &diffs)?;
    let bodies: Vec<Arc<Block>> = blocks.iter().map(|sealed| Arc::clone(&sealed.block)).collect();
    let positions = target.archive.append(&bodies)?;
    let diff = merged(&diffs);
    let rows = newest_rows(blocks);
    let writer = Writer::begin(target.environment)?;
    writer.put_diff(&diff)?;
    writer.put_trie(rows.iter().copied())?;
    for (block, position) in bodies.iter().zip(positions) {
        writer.put_block(&row_of(block, position))?;
    }
    writer.put_checkpoint(&Checkpoint {
        block: last.block.header.number,
        hash: last.block.hash,
        mini_block: mini_head.0,
        mini_block_hash: mini_head.1,
    })?;
    writer.commit()?;
    let snapshot = Arc::new(Snapshot::open(target.environment, target.readers)?);
    Ok(Written { snapshot, undo, weight: diff.weight(), trie_rows: rows.len() })
}

/// A block's row in the database.
pub fn row_of(block: &Block, position: Position) -> BlockRow {
    BlockRow {
        hash: block.hash,
        last_mini_block: block.last_mini_block,
        mini_block_count: block.mini_block_count,
        transaction_count: u64::try_from(block.transactions.len()).unwrap_or(u64::MAX),
        position,
        header: block.header.clone(),
    }
}

fn check_order(before: &Checkpoint, blocks: &[SealedBlock]) -> Result<(), CheckpointError> {
    for (expected, sealed) in (before.block + 1..).zip(blocks) {
        let (found, header) = (sealed.block.header.number, sealed.block.header.state_root);
        if found != expected {
            return Err(CheckpointError::Order { found, expected });
        }
        if header != sealed.trie.root {
            return Err(CheckpointError::Root { number: found, header, rows: sealed.trie.root });
        }
    }
    Ok(())
}

fn merged(diffs: &[(BlockNumber, Arc<Diff>)]) -> Arc<Diff> {
    match diffs {
        [(_, only)] => Arc::clone(only),
        diffs => {
            let mut merged = Diff::default();
            diffs.iter().for_each(|(_, diff)| merged.merge(diff));
            Arc::new(merged)
        }
    }
}

/// The newest row of every key, in key order.
fn newest_rows(blocks: &[SealedBlock]) -> Vec<(&NodeKey, &Option<Bytes>)> {
    let rows = blocks.iter().flat_map(|sealed| sealed.trie.rows.iter().map(|(k, row)| (k, row)));
    let mut rows: Vec<_> = rows.collect();
    // Stable: rows of one key stay in block order, so the last one wins.
    rows.sort_by_key(|(key, _)| *key);
    let mut newest: Vec<(&NodeKey, &Option<Bytes>)> = Vec::with_capacity(rows.len());
    for row in rows {
        match newest.last_mut() {
            Some(last) if last.0 == row.0 => *last = row,
            _ => newest.push(row),
        }
    }
    newest
}
