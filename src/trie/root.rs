//! The state root of a block's diff: storages first, then the accounts that hold their roots.

use crate::crypto::keccak::keccak_batch;
use crate::trie::{
    nibbles::Key,
    rlp,
    row::Span,
    rows::Rows,
    update::{AccountLeaf, Arena, Changes, NewValue, Op, Pass, Roots, RowList},
    walk,
};
use crate::types::{
    block::{NodeKey, TrieUpdate},
    diff::{AccountDiff, Diff},
    flow::ClosedBlock,
    ids::BlockNumber,
    view::{NodeSource, ViewError},
};
use alloy_primitives::{Address, B256, keccak256};
use alloy_trie::EMPTY_ROOT_HASH;
use std::sync::Arc;

/// Memory for so many changes and rows is kept from block to block.
const CHANGES_KEPT_MAX: usize = 32_768;

/// Why a root could not be computed. The trie is as it was before.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RootError {
    /// The database could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A row is missing or not what `trie` wrote.
    #[error("trie row {at} is unusable: {why}; restore the data folder or start with --fresh")]
    Corrupt {
        /// Owner and path.
        at: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The same, before it is known in which row.
    #[error("a trie row is unusable: {0}; restore the data folder or start with --fresh")]
    Fault(&'static str),
    /// Storage rows and account leaf contradict each other.
    #[error(
        "an account's leaf has storage root {leaf}, its storage rows have {rows}; \
         restore the data folder or start with --fresh"
    )]
    StorageDiffers {
        /// In the account trie.
        leaf: B256,
        /// Of the rows.
        rows: B256,
    },
    /// Keys of a plain trie have 32 bytes at most.
    #[error("key of {0} bytes is too long for a trie: 32 at most")]
    KeyTooLong(usize),
    /// Values have 65,000 bytes at most.
    #[error("a leaf of {0} bytes is too long for a trie row: 65,000 at most")]
    ValueTooLong(usize),
}

impl RootError {
    /// Says in which row it was found.
    #[must_use]
    pub(crate) fn at(self, key: &NodeKey) -> Self {
        match self {
            Self::Fault(why) => Self::Corrupt { at: name(key), why },
            other => other,
        }
    }
}

/// `accounts/` or the hashed address, then the path in nibbles.
pub(crate) fn name(key: &NodeKey) -> String {
    let owner = key.owner.map_or_else(|| "accounts".to_owned(), |owner| owner.to_string());
    let path: String = key.path.iter().map(|nibble| format!("{nibble:x}")).collect();
    format!("{owner}/{path}")
}

/// A block with its state root.
#[derive(Debug, Clone)]
pub struct RootedBlock {
    /// The block.
    pub closed: ClosedBlock,
    /// Its root and changed rows.
    pub update: Arc<TrieUpdate>,
}

/// The tries of accounts and storages, after the newest block applied.
pub struct StateTrie {
    rows: Rows,
    arena: Arena,
    /// Memory for the changes of the account trie, kept from block to block.
    accounts: Changes,
    /// The same for one storage.
    slots: Changes,
    /// Rows of the newest update.
    row_count: usize,
    root: B256,
}

impl StateTrie {
    /// The trie that `source` holds (an empty source: the empty trie), with `budget_bytes` of
    /// memory for rows between blocks. Rows newer than the checkpoint count, but are never
    /// dropped: the caller bounds them by making checkpoints.
    ///
    /// # Errors
    /// Where the topmost row cannot be read.
    pub fn new(source: Arc<dyn NodeSource>, budget_bytes: usize) -> Result<Self, RootError> {
        let root = walk::root(source.as_ref(), None)?;
        let rows = Rows::new(source, budget_bytes);
        let (arena, accounts, slots) = Default::default();
        Ok(Self { rows, arena, accounts, slots, row_count: 0, root })
    }

    /// The state root after the newest block.
    pub fn root(&self) -> B256 {
        self.root
    }

    /// Bytes that rows in memory take.
    pub fn held_bytes(&self) -> usize {
        self.rows.held_bytes()
    }

    /// Applies a block's diff. A large genesis may come in several diffs under one number.
    ///
    /// # Errors
    /// Where a row cannot be read or is not sound; the trie is then as it was before.
    pub fn apply(&mut self, block: BlockNumber, diff: &Diff) -> Result<TrieUpdate, RootError> {
        let addresses: Vec<&Address> = diff.accounts.keys().collect();
        let mut hashes = Vec::new();
        keccak_batch(&addresses, &mut hashes);
        let mut touched: Vec<(B256, &AccountDiff)> =
            hashes.into_iter().zip(diff.accounts.values()).collect();
        touched.sort_unstable_by_key(|(hash, _)| *hash);
        let mut rows = RowList::with_capacity(self.row_count);
        let Changes { mut ops, mut accounts, .. } = std::mem::take(&mut self.accounts);
        ops.clear();
        accounts.clear();
        for (hash, change) in touched {
            let storage = self.storage(hash, change, &mut rows)?;
            let value = match change.account {
                Some(account) => {
                    accounts.push(AccountLeaf { account, storage });
                    NewValue::Account(accounts.len() - 1)
                }
                None => NewValue::Nothing,
            };
            ops.push(op(hash, value)?);
        }
        self.accounts = Changes { ops, accounts, values: Vec::new() };
        let roots = self.pass(None, false, &mut rows)?;
        self.accounts.ops.shrink_to(CHANGES_KEPT_MAX);
        self.accounts.accounts.shrink_to(CHANGES_KEPT_MAX);
        if roots.before != Some(self.root) {
            return Err(RootError::Fault("the topmost row is not that of the newest root"));
        }
        let rows = in_order(rows);
        self.rows.commit(block, &rows);
        self.root = roots.after;
        self.row_count = rows.len().min(CHANGES_KEPT_MAX);
        Ok(TrieUpdate { root: roots.after, rows })
    }

    /// Rows up to `block` can be read from `source` from now on and may leave memory.
    pub fn checkpointed(&mut self, block: BlockNumber, source: Arc<dyn NodeSource>) {
        self.rows.checkpointed(block, source);
    }

    /// The account's storage root, where this change touches it.
    fn storage(
        &mut self,
        owner: B256,
        change: &AccountDiff,
        rows: &mut RowList,
    ) -> Result<Option<Roots>, RootError> {
        let fresh = change.wiped || change.account.is_none();
        if fresh {
            walk::list_rows(&mut self.rows, owner, rows)?;
        }
        if change.storage.is_empty() || change.account.is_none() {
            return Ok(fresh.then_some(Roots { before: None, after: EMPTY_ROOT_HASH }));
        }
        let Changes { ops, values, .. } = &mut self.slots;
        ops.clear();
        values.clear();
        for (slot, value) in change.sorted_storage() {
            let start = values.len();
            rlp::integer(values, &value.to_be_bytes::<32>());
            let bytes = NewValue::Bytes(Span::new(start, values.len()));
            let value = if value.is_zero() { NewValue::Nothing } else { bytes };
            ops.push(op(keccak256(slot.to_be_bytes::<32>()), value)?);
        }
        ops.sort_unstable_by_key(|op| op.key);
        self.pass(Some(owner), fresh, rows).map(Some)
    }

    fn pass(
        &mut self,
        owner: Option<B256>,
        fresh: bool,
        changed: &mut RowList,
    ) -> Result<Roots, RootError> {
        let Self { rows, arena, accounts, slots, .. } = self;
        let changes = if owner.is_some() { slots } else { accounts };
        Pass { owner, rows, arena, changes, changed, warm: false }.run(fresh)
    }
}

/// Rows by key, the last one of each.
pub(crate) fn in_order(mut rows: RowList) -> RowList {
    if rows.is_sorted_by(|a, b| a.0 < b.0) {
        return rows; // As a rule: sorting would need as much memory again.
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0)); // Stable, and quick on what is nearly sorted.
    rows.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            std::mem::swap(later, earlier);
        }
        same
    });
    rows
}

fn op(hash: B256, value: NewValue) -> Result<Op, RootError> {
    let key = Key::new(hash.as_slice()).ok_or(RootError::KeyTooLong(hash.len()))?;
    Ok(Op { key, value })
}
