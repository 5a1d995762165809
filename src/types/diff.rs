//! What execution changed: new values by address and slot, mergeable in order.

use crate::types::{listed::Listed, map::Map};
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256};
use std::{
    ops::{Deref, DerefMut},
    sync::LazyLock,
};

/// An account as the state trie holds it, less the storage root, which the trie computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Transactions sent, or contracts created plus one.
    pub nonce: u64,
    /// Wei of MEGA.
    pub balance: U256,
    /// Keccak of the code; `KECCAK256_EMPTY` without code.
    pub code_hash: B256,
}

impl Default for Account {
    fn default() -> Self {
        Self { nonce: 0, balance: U256::ZERO, code_hash: KECCAK256_EMPTY }
    }
}

impl Account {
    /// EIP-161: nothing distinguishes it from an account that does not exist.
    pub fn is_empty(&self) -> bool {
        self.nonce == 0 && self.balance.is_zero() && self.code_hash == KECCAK256_EMPTY
    }
}

/// The newest state of one touched account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountDiff {
    /// The account after the change; `None`: it no longer exists.
    pub account: Option<Account>,
    /// Storage before this change is void: every slot not in `storage` is zero.
    pub wiped: bool,
    /// Changed slots and their new values; zero means deleted.
    pub storage: Slots,
}

/// Changed slots. Most accounts have none, and then this is one word.
#[derive(Debug, Clone, Default)]
pub struct Slots(Option<Box<Listed<U256, U256>>>);

static NO_SLOTS: LazyLock<Listed<U256, U256>> = LazyLock::new(Listed::default);

/// All changes of a span of execution (transaction, mini-block, block), newest values only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Touched accounts.
    pub accounts: Listed<Address, AccountDiff>,
    /// Code that came into being, by its hash.
    pub codes: Map<B256, Bytes>,
}

impl Diff {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.codes.is_empty()
    }

    /// Entries, as a measure of size: accounts, slots and codes.
    pub fn weight(&self) -> usize {
        let slots: usize = self.accounts.values().map(|change| change.storage.len()).sum();
        self.accounts.len() + slots + self.codes.len()
    }

    /// Puts `newer` over this diff.
    pub fn merge(&mut self, newer: &Self) {
        self.accounts.reserve(newer.accounts.len());
        for (address, change) in newer.accounts.iter() {
            self.merge_account(*address, change);
        }
        self.codes.extend(newer.codes.iter().map(|(hash, code)| (*hash, code.clone())));
    }

    /// Puts one account's newer change over this diff.
    pub fn merge_account(&mut self, address: Address, newer: &AccountDiff) {
        let entry = self.accounts.get_or_default(address);
        entry.account = newer.account;
        if newer.wiped {
            entry.wiped = true;
            entry.storage = Slots::default();
        }
        if !newer.storage.is_empty() {
            entry.storage.extend(newer.storage.iter().map(|(slot, value)| (*slot, *value)));
        }
    }

    /// Accounts in address order: whatever is hashed or written goes through here.
    pub fn sorted_accounts(&self) -> Vec<(&Address, &AccountDiff)> {
        let mut accounts: Vec<_> = self.accounts.iter().collect();
        accounts.sort_unstable_by_key(|(address, _)| **address);
        accounts
    }

    /// Codes in hash order.
    pub fn sorted_codes(&self) -> Vec<(&B256, &Bytes)> {
        let mut codes: Vec<_> = self.codes.iter().collect();
        codes.sort_unstable_by_key(|(hash, _)| **hash);
        codes
    }
}

impl Slots {
    /// Room for so many.
    pub fn with_capacity(slots: usize) -> Self {
        Self((slots > 0).then(|| Box::new(Listed::with_capacity(slots))))
    }
}

impl Deref for Slots {
    type Target = Listed<U256, U256>;

    fn deref(&self) -> &Self::Target {
        self.0.as_deref().unwrap_or_else(|| &NO_SLOTS)
    }
}

impl DerefMut for Slots {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.0.get_or_insert_default()
    }
}

impl PartialEq for Slots {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Slots {}

impl FromIterator<(U256, U256)> for Slots {
    fn from_iter<T: IntoIterator<Item = (U256, U256)>>(slots: T) -> Self {
        let slots: Listed<_, _> = slots.into_iter().collect();
        Self((!slots.is_empty()).then(|| Box::new(slots)))
    }
}

impl AccountDiff {
    /// Slots in order.
    pub fn sorted_storage(&self) -> Vec<(U256, U256)> {
        let mut slots: Vec<_> = self.storage.iter().map(|(slot, value)| (*slot, *value)).collect();
        slots.sort_unstable();
        slots
    }
}
