//! The database at one checkpoint, for many threads at once.

use crate::crypto::keccak::keccak_batch;
use crate::state::{
    environment::{self, Environment, StoreError, Tables},
    flat,
    tables::{self, BlockRow, Checkpoint},
};
use crate::types::{
    block::NodeKey,
    diff::Account,
    ids::BlockNumber,
    view::{NodeSource, StateView, ViewError},
};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use signet_libmdbx::{Database, tx::aliases::RoTxSync};
use std::{
    borrow::Cow,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Read transactions on one checkpoint: a thread always takes the same one, so with as many
/// readers as reading threads none waits for another.
///
/// A snapshot pins the pages of its checkpoint for as long as it lives. So whoever serves clients
/// takes the `Arc` for one request and lets it go; stages replace theirs after each checkpoint.
#[derive(Debug)]
pub struct Snapshot {
    readers: Box<[RoTxSync]>,
    tables: Tables,
    checkpoint: Checkpoint,
}

static THREADS: AtomicUsize = AtomicUsize::new(0);
thread_local! {
    /// Which reader this thread takes.
    static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
}

impl From<StoreError> for ViewError {
    fn from(error: StoreError) -> Self {
        Self::Database(error.to_string())
    }
}

impl Snapshot {
    /// Opens `readers` transactions (at least one) on the newest checkpoint.
    ///
    /// # Errors
    /// Where mdbx has no more reader slots (snapshots are held for too long) or cannot be read.
    pub fn open(environment: &Environment, readers: usize) -> Result<Self, StoreError> {
        let tables = environment.tables;
        let readers = environment.mdbx.begin_ro_sync_multi(readers.max(1))?.into_boxed_slice();
        let mut checkpoint = None;
        if let Some(first) = readers.first() {
            checkpoint = environment::read_checkpoint(first, &tables)?;
        }
        Ok(Self { readers, tables, checkpoint: checkpoint.unwrap_or_default() })
    }

    /// Which checkpoint it is.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The row of a block, `None` where it is not under this checkpoint.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn block_row(&self, number: BlockNumber) -> Result<Option<BlockRow>, StoreError> {
        environment::read_block_row(self.reader(), &self.tables, number)
    }

    /// The height of the block with this hash, `None` where it is not under this checkpoint.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn block_number(&self, hash: &B256) -> Result<Option<BlockNumber>, StoreError> {
        let row: Option<[u8; 8]> = self.get(self.tables.block_numbers, hash.as_slice())?;
        Ok(row.map(u64::from_be_bytes))
    }

    /// Rows of the blocks `from..=to` for which `wanted` holds, oldest first, `max` at most.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn find_blocks(
        &self,
        (from, to): (BlockNumber, BlockNumber),
        max: usize,
        wanted: impl Fn(&BlockRow) -> bool,
    ) -> Result<Vec<BlockRow>, StoreError> {
        let mut found = Vec::new();
        let mut cursor = self.reader().cursor(self.tables.blocks)?;
        let mut next = cursor.set_range::<[u8; 8], Cow<'_, [u8]>>(&from.to_be_bytes())?;
        while let Some((number, row)) = next
            && u64::from_be_bytes(number) <= to
            && found.len() < max
        {
            let row = BlockRow::decode(&row)?;
            if wanted(&row) {
                found.push(row);
            }
            next = cursor.next()?;
        }
        Ok(found)
    }

    /// All slots of an account by hashed slot, in order.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn storage_of(&self, address: &Address) -> Result<Vec<(B256, U256)>, StoreError> {
        let key = keccak256(address);
        let mut cursor = self.reader().cursor(self.tables.storage)?;
        let mut slots = Vec::new();
        for row in cursor.iter_dup_of::<Vec<u8>>(key.as_slice())? {
            slots.push(tables::decode_slot(&row?)?);
        }
        Ok(slots)
    }

    /// The account, by its address's hash.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn account_at(&self, key: &B256) -> Result<Option<Account>, StoreError> {
        let row: Option<Cow<'_, [u8]>> = self.get(self.tables.accounts, key.as_slice())?;
        Ok(row.map(|row| tables::decode_account(&row)).transpose()?)
    }

    /// A slot, by the hashes of address and slot.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn slot_at(&self, key: &B256, slot: &B256) -> Result<U256, StoreError> {
        let mut cursor = self.reader().cursor(self.tables.storage)?;
        let row = cursor.get_both_range::<Cow<'_, [u8]>>(key.as_slice(), slot.as_slice())?;
        match row.map(|row| tables::decode_slot(&row)).transpose()? {
            Some((found, value)) if found == *slot => Ok(value),
            _ => Ok(U256::ZERO),
        }
    }

    fn reader(&self) -> &RoTxSync {
        let thread = THREAD.with(|thread| *thread);
        &self.readers[thread % self.readers.len()]
    }

    fn get<'a, V: signet_libmdbx::TableObject<'a>>(
        &'a self,
        table: Database,
        key: &[u8],
    ) -> Result<Option<V>, StoreError> {
        environment::get(self.reader(), table, key)
    }
}

impl StateView for Snapshot {
    fn account(&self, address: &Address) -> Result<Option<Account>, ViewError> {
        Ok(self.account_at(&keccak256(address))?)
    }

    fn bring(&self, addresses: &[Address]) {
        let mut keys = Vec::with_capacity(addresses.len());
        keccak_batch(addresses, &mut keys);
        keys.iter().for_each(|key| drop(self.account_at(key)));
    }

    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ViewError> {
        Ok(self.slot_at(&keccak256(address), &keccak256(slot.to_be_bytes::<32>()))?)
    }

    fn code(&self, hash: &B256) -> Result<Option<Bytes>, ViewError> {
        let code: Option<Vec<u8>> = self.get(self.tables.code, hash.as_slice())?;
        Ok(code.map(Bytes::from))
    }

    fn block_hash(&self, number: BlockNumber) -> Result<Option<B256>, ViewError> {
        Ok(self.block_row(number)?.map(|row| row.hash))
    }
}

impl NodeSource for Snapshot {
    fn row(&self, key: &NodeKey) -> Result<Option<Bytes>, ViewError> {
        let table = match key.owner {
            Some(_) => self.tables.storage_trie,
            None => self.tables.account_trie,
        };
        let mut packed = Vec::with_capacity(80);
        flat::node_key(key, &mut packed);
        let row: Option<Vec<u8>> = self.get(table, &packed)?;
        Ok(row.map(Bytes::from))
    }
}
