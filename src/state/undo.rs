//! What blocks changed, as it was before: so that recent states outlive their checkpoint.

use crate::state::{environment::StoreError, snapshot::Snapshot};
use crate::types::{
    diff::{Account, AccountDiff, Diff},
    ids::BlockNumber,
    map::Map,
    overlay::Overlay,
    view::{StateView, ViewError},
};
use alloy_primitives::{Address, B256, U256, keccak256};
use std::sync::Arc;

/// The values before one block of everything that the block changed.
///
/// The state after block `n` is: the undo of `n + 1` where it has the key, else that of `n + 2`
/// and so on, else the state after the newest of them.
#[derive(Debug, Default)]
pub struct Undo {
    accounts: Map<Address, AccountUndo>,
    weight: usize,
}

#[derive(Debug, Default)]
struct AccountUndo {
    account: Option<Account>,
    storage: Map<U256, U256>,
    /// Where the block voided the storage: all of it as it was, by hashed slot (slots themselves
    /// are not in the database). Since EIP-6780 only accounts as old as their transaction lose
    /// their storage, so this is empty in practice.
    wiped: Option<Map<B256, U256>>,
}

impl Undo {
    /// Entries held: accounts and slots.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// The account before the block, where the block changed it.
    pub fn account(&self, address: &Address) -> Option<Option<Account>> {
        self.accounts.get(address).map(|undo| undo.account)
    }

    /// The slot before the block, where the block changed it.
    pub fn storage(&self, address: &Address, slot: &U256) -> Option<U256> {
        let undo = self.accounts.get(address)?;
        match &undo.wiped {
            Some(all) => {
                let hashed = keccak256(slot.to_be_bytes::<32>());
                Some(all.get(&hashed).copied().unwrap_or_default())
            }
            None => undo.storage.get(slot).copied(),
        }
    }
}

/// Undo layers of successive blocks, given the snapshot of the state before the first.
///
/// # Errors
/// Where the snapshot cannot be read.
pub fn layers(
    before: &Snapshot,
    blocks: &[(BlockNumber, Arc<Diff>)],
) -> Result<Vec<(BlockNumber, Arc<Undo>)>, ViewError> {
    let mut layers = Vec::with_capacity(blocks.len());
    let mut newer = Overlay::default();
    for (at, (number, diff)) in blocks.iter().enumerate() {
        let earlier = blocks.get(..at).unwrap_or_default();
        let mut undo = Undo::default();
        undo.accounts.reserve(diff.accounts.len());
        for (address, change) in diff.sorted_accounts() {
            let account = match newer.account(address) {
                Some(account) => account,
                None => before.account(address)?,
            };
            let mut was = AccountUndo { account, ..AccountUndo::default() };
            if change.wiped {
                was.wiped = Some(storage_before(before, earlier, address)?);
            } else {
                was.storage = slots_before(before, &newer, address, change)?;
            }
            let slots = was.wiped.as_ref().map_or(was.storage.len(), Map::len);
            undo.weight += 1 + slots;
            undo.accounts.insert(*address, was);
        }
        layers.push((*number, Arc::new(undo)));
        newer.push(*number, Arc::clone(diff));
    }
    Ok(layers)
}

fn slots_before(
    before: &Snapshot,
    newer: &Overlay,
    address: &Address,
    change: &AccountDiff,
) -> Result<Map<U256, U256>, ViewError> {
    let mut slots = Map::default();
    if change.storage.is_empty() {
        return Ok(slots);
    }
    let key = keccak256(address);
    for (slot, _) in change.sorted_storage() {
        let value = match newer.storage(address, &slot) {
            Some(value) => value,
            None => before.slot_at(&key, &keccak256(slot.to_be_bytes::<32>()))?,
        };
        slots.insert(slot, value);
    }
    Ok(slots)
}

fn storage_before(
    before: &Snapshot,
    earlier: &[(BlockNumber, Arc<Diff>)],
    address: &Address,
) -> Result<Map<B256, U256>, StoreError> {
    let mut slots: Map<B256, U256> = before.storage_of(address)?.into_iter().collect();
    for (_, diff) in earlier {
        let Some(change) = diff.accounts.get(address) else { continue };
        if change.wiped {
            slots.clear();
        }
        let hashed = change
            .storage
            .iter()
            .map(|(slot, value)| (keccak256(slot.to_be_bytes::<32>()), *value));
        slots.extend(hashed);
    }
    Ok(slots)
}
