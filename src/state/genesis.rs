//! The first state: allocations in chunks of bounded size, then block 0.

use crate::state::{
    archive::{Archive, ArchiveError},
    checkpoint,
    environment::{Environment, StoreError},
    flat::Writer,
    snapshot::Snapshot,
    tables::Checkpoint,
};
use crate::types::{
    block::{Block, LogStarts, TrieUpdate},
    diff::{Account, AccountDiff, Diff},
    view::NodeSource,
};
use alloy_consensus::Header;
use alloy_genesis::GenesisAccount;
use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256, keccak256};
use alloy_trie::EMPTY_ROOT_HASH;
use std::{collections::BTreeMap, sync::Arc};

/// Entries of one chunk: a million accounts come in ten of them, about 20 MB of memory each.
pub const CHUNK_WEIGHT: usize = 100_000;

/// Genesis could not be written. What was written is thrown away at the next attempt.
#[derive(Debug, thiserror::Error)]
pub enum GenesisError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The trie could not be computed.
    #[error("genesis state root: {0}")]
    Trie(Box<dyn std::error::Error + Send + Sync>),
    /// There is a chain already.
    #[error("the data folder has blocks up to {0}: genesis is only written into an empty one")]
    NotEmpty(u64),
}

/// Computes the trie rows of one chunk over the rows of the chunks before it.
pub type ApplyTrie<'a> =
    &'a mut dyn FnMut(
        Arc<dyn NodeSource>,
        &Diff,
    ) -> Result<TrieUpdate, Box<dyn std::error::Error + Send + Sync>>;

/// Allocations of a genesis as diffs of about `CHUNK_WEIGHT` entries, in order of address. Each
/// chunk takes its allocations out of memory: a million of them are 200 MB.
pub fn chunks(alloc: BTreeMap<Address, GenesisAccount>) -> impl Iterator<Item = Diff> {
    let mut allocations = alloc.into_iter().peekable();
    std::iter::from_fn(move || {
        allocations.peek()?;
        let (mut diff, mut weight) = (Diff::default(), 0);
        while weight < CHUNK_WEIGHT
            && let Some((address, account)) = allocations.next()
        {
            weight += put(&mut diff, address, &account);
        }
        Some(diff)
    })
}

/// Writes the first state and block 0, whose header `make_header` makes from the state root.
///
/// # Errors
/// Where there is a chain already, the trie refuses or the disk fails.
pub fn initialise(
    environment: &Environment,
    archive: &Archive,
    chunks: impl Iterator<Item = Diff>,
    apply_trie: ApplyTrie<'_>,
    make_header: impl FnOnce(B256) -> Header,
) -> Result<Checkpoint, GenesisError> {
    if let Some(opened) = environment.opened()? {
        return Err(GenesisError::NotEmpty(opened.checkpoint.block));
    }
    // An attempt that was cut off left chunks behind, but no checkpoint.
    let writer = Writer::begin(environment)?;
    writer.clear()?;
    writer.commit()?;
    let mut root = EMPTY_ROOT_HASH;
    for diff in chunks {
        let before = Arc::new(Snapshot::open(environment, 1)?);
        let update = apply_trie(before, &diff).map_err(GenesisError::Trie)?;
        let writer = Writer::begin(environment)?;
        writer.put_diff(&diff)?;
        writer.put_trie(update.rows.iter().map(|(key, row)| (key, row)))?;
        writer.commit()?;
        root = update.root;
    }
    let header = make_header(root);
    let hash = header.hash_slow();
    let block = Arc::new(Block {
        header,
        hash,
        transactions: Vec::new(),
        receipts: Vec::new(),
        last_mini_block: 0,
        mini_block_count: 0,
        log_starts: LogStarts::default(),
    });
    let positions = archive.append(&[Arc::clone(&block)])?;
    let number = block.header.number;
    let checkpoint = Checkpoint { block: number, hash, ..Checkpoint::default() };
    let writer = Writer::begin(environment)?;
    for position in positions {
        writer.put_block(&checkpoint::row_of(&block, position))?;
    }
    writer.put_checkpoint(&checkpoint)?;
    writer.commit()?;
    Ok(checkpoint)
}

/// Adds an allocation and gives its weight.
fn put(diff: &mut Diff, address: Address, allocation: &GenesisAccount) -> usize {
    let code = allocation.code.as_ref().filter(|code| !code.is_empty());
    let code_hash = code.map_or(KECCAK256_EMPTY, keccak256);
    if let Some(code) = code {
        diff.codes.insert(code_hash, code.clone());
    }
    let (nonce, balance) = (allocation.nonce.unwrap_or_default(), allocation.balance);
    let slots = allocation.storage.iter().flatten();
    let slots =
        slots.map(|(slot, value)| (U256::from_be_bytes(slot.0), U256::from_be_bytes(value.0)));
    let change = AccountDiff {
        account: Some(Account { nonce, balance, code_hash }),
        wiped: false,
        storage: slots.filter(|(_, value)| !value.is_zero()).collect(),
    };
    let weight = 1 + change.storage.len() + usize::from(code.is_some());
    diff.accounts.insert(address, change);
    weight
}
