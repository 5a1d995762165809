//! What the store keeps of the state: a bounded cache, and how to get at what lies below it.

use crate::crypto::keccak::LANES;
use crate::execution::{
    preimages::Expected,
    store::ReadError,
    table::{self, Id, Reader},
    words::{
        Accounts, Key, Slots, account_key, account_value, code_key, hot_of, is_cold, slot_key,
    },
};
use crate::types::{
    diff::Account,
    ids::BlockNumber,
    map::Map,
    overlay::Overlay,
    view::{StateView, ViewError},
};
use alloy_primitives::{Address, B256, Bytes, U256};
use revm::{
    bytecode::{JumpTable, opcode},
    state::Bytecode,
};
use std::sync::Arc;

/// State that the cache does not hold.
#[derive(Clone)]
pub(super) struct Below {
    pub(super) overlay: Overlay,
    pub(super) base: Arc<dyn StateView>,
}

/// Two generations: what was not used while the young one filled is forgotten.
#[derive(Default)]
pub(super) struct Cache {
    pub(super) accounts: Accounts,
    pub(super) slots: Slots,
    pub(super) old: Cached,
}

/// A generation of the cache, for other threads.
#[derive(Clone)]
pub(super) struct Cached {
    pub(super) accounts: Reader<3, 4, 6>,
    pub(super) slots: Reader<7, 4, 0>,
}

/// The state during one cut, for threads that read while another writes.
#[derive(Clone)]
pub(super) struct Window {
    pub(super) young: Cached,
    pub(super) old: Cached,
    pub(super) below: Below,
    pub(super) late_parent: Option<BlockNumber>,
}

/// Bounded code, analysed.
#[derive(Default)]
pub(super) struct Codes {
    known: Map<Key<4>, Bytecode>,
    /// Code that came into being since the last `take_diff`.
    pub(super) fresh: Map<Key<4>, Bytecode>,
    bytes: usize,
}

/// An account in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hot {
    pub(super) account: Option<Account>,
    /// How often its storage became void; where it did, slots that are not cached are zero.
    pub(super) incarnation: u32,
}

impl Codes {
    pub(super) fn get(&self, hash: B256) -> Option<&Bytecode> {
        let key = code_key(hash);
        self.known.get(&key).or_else(|| self.fresh.get(&key))
    }

    pub(super) fn keep(&mut self, hash: Key<4>, code: Bytecode, bytes_max: usize) {
        if self.bytes + code.len() > bytes_max {
            self.known.clear();
            self.bytes = 0;
        }
        self.bytes += code.len();
        self.known.insert(hash, code);
    }

    pub(super) fn settle(&mut self, bytes_max: usize) {
        #[expect(clippy::iter_over_hash_type, reason = "only the cache sees the order")]
        for (hash, code) in std::mem::take(&mut self.fresh) {
            self.keep(hash, code, bytes_max);
        }
    }
}

impl Default for Cached {
    fn default() -> Self {
        let (accounts, slots) = (Accounts::default(), Slots::default());
        Self { accounts: accounts.reader().clone(), slots: slots.reader().clone() }
    }
}

impl Cache {
    /// Brings an account that is not in the young generation into it.
    #[cold]
    pub(super) fn fetch_account(
        &mut self,
        below: &Below,
        address: Address,
        key: &[u64; 3],
    ) -> Result<Id, ViewError> {
        let value = match self.old.accounts.find(key) {
            Some(old) => self.old.accounts.read(old, is_cold).value,
            None => account_value(&Hot { account: below.account(&address)?, incarnation: 0 }),
        };
        Ok(self.accounts.insert(key, &value))
    }

    pub(super) fn forget(&mut self, young_entries_max: usize) {
        if self.accounts.len() + self.slots.len() > young_entries_max {
            let Self { accounts, slots, .. } = std::mem::take(self);
            self.old =
                Cached { accounts: accounts.reader().clone(), slots: slots.reader().clone() };
        }
    }
}

/// Has accounts that will be read brought near: all their places, then their records.
pub(super) fn bring_accounts(accounts: &Reader<3, 4, 6>, addresses: &[Address]) {
    for some in addresses.chunks(LANES) {
        let mut hashes = [0; LANES];
        for (hash, address) in hashes.iter_mut().zip(some) {
            *hash = table::hash(&account_key(*address));
            accounts.bring_place(*hash);
        }
        for (hash, _) in hashes.iter().zip(some) {
            accounts.bring_record(*hash);
        }
    }
}

/// Has slots that will most likely be read brought near: all their places, then their records.
pub(super) fn bring_slots(
    accounts: &Reader<3, 4, 6>,
    slots: &Reader<7, 4, 0>,
    expected: &[Expected],
) {
    let mut hashes = [0; LANES];
    for (hash, Expected { contract, slot }) in hashes.iter_mut().zip(expected) {
        let account = accounts.find(&account_key(*contract));
        let incarnation = |id| hot_of(&accounts.read(id, is_cold).value).incarnation;
        let incarnation = account.map_or(0, incarnation);
        *hash = table::hash(&slot_key(*contract, incarnation, slot));
        slots.bring_place(*hash);
    }
    for (hash, _) in hashes.iter().zip(expected) {
        slots.bring_record(*hash);
    }
}

impl Below {
    pub(super) fn account(&self, address: &Address) -> Result<Option<Account>, ViewError> {
        match self.overlay.account(address) {
            Some(account) => Ok(account),
            None => self.base.account(address),
        }
    }

    pub(super) fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ViewError> {
        match self.overlay.storage(address, slot) {
            Some(value) => Ok(value),
            None => self.base.storage(address, slot),
        }
    }

    pub(super) fn code(&self, hash: B256) -> Result<Bytecode, ReadError> {
        let raw = match self.overlay.code(&hash) {
            Some(code) => code,
            None => self.base.code(&hash)?.ok_or(ReadError::NoCode(hash))?,
        };
        Ok(analysed(raw))
    }
}

/// Code with its jump table. What looks like a delegation and is none runs as plain code.
pub(super) fn analysed(raw: Bytes) -> Bytecode {
    Bytecode::new_raw_checked(raw.clone()).unwrap_or_else(|_| Bytecode::new_legacy(raw))
}

/// The code of accounts that have none, for one thread. revm has one for all threads: they would
/// count their uses of it in one place, and wait for each other there.
pub(super) struct NoCode(Bytecode);

impl NoCode {
    pub(super) fn code(&self) -> Bytecode {
        self.0.clone()
    }
}

impl Default for NoCode {
    #[expect(unsafe_code, reason = "revm makes no second empty code otherwise")]
    fn default() -> Self {
        let stop = Bytes::from(vec![opcode::STOP]);
        // SAFETY: the code is STOP alone, which needs nothing behind it.
        Self(unsafe { Bytecode::new_analyzed(stop, 0, JumpTable::default()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_an_empty_code_of_its_own() {
        let [first, second] = [NoCode::default(), NoCode::default()];
        let place = |of: &NoCode| of.code().bytes_ref().as_ptr();
        assert_ne!(place(&first), place(&second), "two threads share none");
        assert_eq!(place(&first), place(&first), "a thread makes one");
        assert_eq!(first.code(), Bytecode::default());
        assert!(first.code().is_empty());
        assert_eq!(first.code().hash_slow(), Bytecode::default().hash_slow());
    }
}
