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
    /// In order of addresses: half of a map's memory, and read seldom.
    accounts: Vec<(Address, Option<Account>)>,
    /// In order of addresses and slots.
    storage: Vec<((Address, U256), U256)>,
    /// Where the block voided the storage: all of it as it was, by hashed slot (slots themselves
    /// are not in the database). Since EIP-6780 only accounts as old as their transaction lose
    /// their storage, so this is empty in practice.
    wiped: Map<Address, Map<B256, U256>>,
}

impl Undo {
    /// Entries held: accounts and slots.
    pub fn weight(&self) -> usize {
        let wiped: usize = self.wiped.values().map(Map::len).sum();
        self.accounts.len() + self.storage.len() + wiped
    }

    /// The account before the block, where the block changed it.
    pub fn account(&self, address: &Address) -> Option<Option<Account>> {
        let at = self.accounts.binary_search_by_key(address, |(changed, _)| *changed).ok()?;
        self.accounts.get(at).map(|(_, account)| *account)
    }

    /// The slot before the block, where the block changed it.
    pub fn storage(&self, address: &Address, slot: &U256) -> Option<U256> {
        if let Some(all) = self.wiped.get(address) {
            let hashed = keccak256(slot.to_be_bytes::<32>());
            return Some(all.get(&hashed).copied().unwrap_or_default());
        }
        let key = (*address, *slot);
        let at = self.storage.binary_search_by_key(&key, |(changed, _)| *changed).ok()?;
        self.storage.get(at).map(|(_, value)| *value)
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
        undo.accounts.reserve_exact(diff.accounts.len());
        for (address, change) in diff.sorted_accounts() {
            let account = match newer.account(address) {
                Some(account) => account,
                None => before.account(address)?,
            };
            undo.accounts.push((*address, account));
            if change.wiped {
                undo.wiped.insert(*address, storage_before(before, earlier, address)?);
            } else {
                push_slots(&mut undo.storage, before, &newer, (address, change))?;
            }
        }
        layers.push((*number, Arc::new(undo)));
        newer.push(*number, Arc::clone(diff));
    }
    Ok(layers)
}

fn push_slots(
    slots: &mut Vec<((Address, U256), U256)>,
    before: &Snapshot,
    newer: &Overlay,
    (address, change): (&Address, &AccountDiff),
) -> Result<(), ViewError> {
    if change.storage.is_empty() {
        return Ok(());
    }
    let key = keccak256(address);
    slots.reserve(change.storage.len());
    for (slot, _) in change.sorted_storage() {
        let value = match newer.storage(address, &slot) {
            Some(value) => value,
            None => before.slot_at(&key, &keccak256(slot.to_be_bytes::<32>()))?,
        };
        slots.push(((*address, slot), value));
    }
    Ok(())
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
