//! Writes rows: flat state, trie rows, block rows, the checkpoint. One transaction a value.

use crate::state::{
    environment::{Environment, StoreError, Tables},
    tables::{self, BlockRow, CHECKPOINT_KEY, Checkpoint},
};
use crate::types::{
    block::NodeKey,
    diff::{AccountDiff, Diff},
};
use alloy_primitives::{B256, Bytes, keccak256};
use signet_libmdbx::{
    MdbxError, WriteFlags,
    tx::aliases::{RwCursorUnsync, RwTxUnsync},
};
use std::borrow::Cow;

/// An open write transaction. Dropped without `commit`, it leaves no trace.
///
/// Its cursors live inside one function each: the binding lets a cursor cross threads, which mdbx
/// does not allow.
pub(in crate::state) struct Writer {
    txn: RwTxUnsync,
    tables: Tables,
}

impl Writer {
    pub(in crate::state) fn begin(environment: &Environment) -> Result<Self, StoreError> {
        Ok(Self { txn: environment.mdbx.begin_rw_unsync()?, tables: environment.tables })
    }

    /// Empties every table that genesis fills.
    pub(in crate::state) fn clear(&self) -> Result<(), StoreError> {
        for table in self.tables.of_state() {
            self.txn.clear_db(table)?;
        }
        Ok(())
    }

    /// Puts a diff over the flat state, in key order: neighbours then share a dirty page.
    pub(in crate::state) fn put_diff(&self, diff: &Diff) -> Result<(), StoreError> {
        let mut accounts: Vec<(B256, &AccountDiff)> =
            diff.accounts.iter().map(|(address, change)| (keccak256(address), change)).collect();
        accounts.sort_unstable_by_key(|(key, _)| *key);
        let mut rows = self.txn.cursor(self.tables.accounts)?;
        let mut row = Vec::new();
        for (key, change) in &accounts {
            if let Some(account) = &change.account {
                tables::encode_account(account, &mut row);
                rows.put(key.as_slice(), &row, WriteFlags::UPSERT)?;
            } else if rows.set::<()>(key.as_slice())?.is_some() {
                rows.del()?;
            }
        }
        drop(rows);
        let mut slots = self.txn.cursor(self.tables.storage)?;
        for (key, change) in &accounts {
            put_storage(&mut slots, key, change, &mut row)?;
        }
        drop(slots);
        for (hash, code) in diff.sorted_codes() {
            self.txn.put(self.tables.code, hash, code, WriteFlags::UPSERT)?;
        }
        Ok(())
    }

    /// Writes trie rows, which come in key order; `None` deletes.
    pub(in crate::state) fn put_trie<'a>(
        &self,
        rows: impl Iterator<Item = (&'a NodeKey, &'a Option<Bytes>)>,
    ) -> Result<(), StoreError> {
        let mut accounts = self.txn.cursor(self.tables.account_trie)?;
        let mut storages = self.txn.cursor(self.tables.storage_trie)?;
        let mut key = Vec::with_capacity(80);
        for (node, row) in rows {
            node_key(node, &mut key);
            let cursor = if node.owner.is_some() { &mut storages } else { &mut accounts };
            match row {
                Some(row) => cursor.put(&key, row, WriteFlags::UPSERT)?,
                None if cursor.set::<()>(&key)?.is_some() => cursor.del()?,
                None => {}
            }
        }
        Ok(())
    }

    /// Writes a block's row and its number by hash.
    pub(in crate::state) fn put_block(&self, row: &BlockRow) -> Result<(), StoreError> {
        let number = row.header.number.to_be_bytes();
        self.txn.put(self.tables.blocks, number, row.encode(), WriteFlags::UPSERT)?;
        self.txn.put(self.tables.block_numbers, row.hash, number, WriteFlags::UPSERT)?;
        Ok(())
    }

    /// Says how far the database has come.
    pub(in crate::state) fn put_checkpoint(&self, at: &Checkpoint) -> Result<(), StoreError> {
        self.txn.put(self.tables.meta, CHECKPOINT_KEY, at.encode(), WriteFlags::UPSERT)?;
        Ok(())
    }

    /// Makes everything durable at once.
    pub(in crate::state) fn commit(self) -> Result<(), StoreError> {
        Ok(self.txn.commit()?)
    }
}

/// Appends the key of a trie row to an empty buffer.
pub(in crate::state) fn node_key(node: &NodeKey, key: &mut Vec<u8>) {
    key.clear();
    if let Some(owner) = &node.owner {
        key.extend_from_slice(owner.as_slice());
    }
    tables::encode_path(&node.path, key);
}

fn put_storage(
    cursor: &mut RwCursorUnsync<'_>,
    key: &B256,
    change: &AccountDiff,
    row: &mut Vec<u8>,
) -> Result<(), StoreError> {
    if change.wiped {
        cursor.del_all_dups_of(key.as_slice())?;
    }
    let hashed =
        change.storage.iter().map(|(slot, value)| (keccak256(slot.to_be_bytes::<32>()), *value));
    let mut slots: Vec<_> = hashed.collect();
    slots.sort_unstable_by_key(|(slot, _)| *slot);
    for (slot, value) in slots {
        if !change.wiped && holds(cursor, key, &slot)? {
            cursor.del()?;
        }
        if !value.is_zero() {
            tables::encode_slot(&slot, &value, row);
            cursor.put(key.as_slice(), row, WriteFlags::UPSERT)?;
        }
    }
    Ok(())
}

/// Places the cursor on a slot's row; `false` where there is none.
fn holds(cursor: &mut RwCursorUnsync<'_>, key: &B256, slot: &B256) -> Result<bool, MdbxError> {
    let found = cursor.get_both_range::<Cow<'_, [u8]>>(key.as_slice(), slot.as_slice());
    match found {
        Ok(row) => Ok(row.is_some_and(|row| row.starts_with(slot.as_slice()))),
        Err(signet_libmdbx::ReadError::Mdbx(error)) => Err(error),
        Err(signet_libmdbx::ReadError::Decoding(_)) => Err(MdbxError::DecodeError),
    }
}
