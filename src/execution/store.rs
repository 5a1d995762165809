//! What the EVM reads from and writes to: a bounded cache over the overlay over a snapshot.
//!
//! The cache always holds the newest values, so neither a mini-block nor a checkpoint empties it.
//! Beside it stands the list of what changed since the last `take_diff` (`changes`).

use crate::execution::{
    cache::{Below, Cache, Cached, Codes, Hot, NoCode, Window, bring_accounts, bring_slots},
    changes::Changes,
    hashes::BlockHashes,
    preimages::{Expected, Preimages, Remembers},
    table::{Id, Version, hash},
    words::{
        PURSE_AT, Purse, account_key, account_value, code_key, hot_of, is_cold, purse_of,
        purse_words, slot_key, slot_value,
    },
};
use crate::types::{
    diff::{Account, Diff},
    ids::BlockNumber,
    overlay::Overlay,
    view::{StateView, ViewError},
};
use alloy_eips::eip2935::{HISTORY_SERVE_WINDOW, HISTORY_STORAGE_ADDRESS};
use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256};
use revm::{
    Database,
    database_interface::DBErrorMarker,
    state::{Account as EvmAccount, AccountId, AccountInfo, Bytecode, EvmStorageSlot},
};
use std::sync::Arc;

/// The state could not be read during execution.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The view failed.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A block's hash is neither stored nor can it still come.
    #[error("hash of block {0} is not known and its sealing stage is gone: look for its error")]
    NoHash(BlockNumber),
    /// A lane cannot go on: the committing thread will execute this in its place.
    #[error("given up ahead of time")]
    Abandoned,
    /// An account names code that is not there.
    #[error("code {0} is missing in the database: restore it or start afresh")]
    NoCode(B256),
}

impl DBErrorMarker for ReadError {}

/// How much may be cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLimits {
    /// Accounts and slots together; the mini-block being executed may overshoot by what it
    /// touches.
    pub entries_max: usize,
    /// Bytes of code.
    pub code_bytes_max: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { entries_max: 400_000, code_bytes_max: 32 * 1024 * 1024 }
    }
}

/// Everything that the EVM sees of the state.
pub struct Store {
    below: Below,
    cache: Cache,
    changes: Changes,
    codes: Codes,
    no_code: NoCode,
    hashes: BlockHashes,
    preimages: Preimages,
    limits: CacheLimits,
    /// The block whose hash the history contract does not hold yet.
    late_parent: Option<BlockNumber>,
}

impl Store {
    /// A store over a state.
    pub fn new(
        base: Arc<dyn StateView>,
        overlay: Overlay,
        hashes: BlockHashes,
        limits: CacheLimits,
    ) -> Self {
        Self {
            below: Below { overlay, base },
            cache: Cache::default(),
            changes: Changes::default(),
            codes: Codes::default(),
            no_code: NoCode::default(),
            hashes,
            preimages: Preimages::default(),
            limits,
            late_parent: None,
        }
    }

    /// The state newer than the snapshot, less what was not taken yet.
    pub fn overlay(&self) -> &Overlay {
        &self.below.overlay
    }

    /// The state newer than the snapshot, to be pushed to or closed.
    pub fn overlay_mut(&mut self) -> &mut Overlay {
        &mut self.below.overlay
    }

    /// Puts a snapshot taken after block `number` under the overlay; cached values stay true.
    pub fn rebase(&mut self, number: BlockNumber, base: Arc<dyn StateView>) {
        self.below.base = base;
        self.below.overlay.prune(number);
    }

    /// Notes a sealed block's hash.
    pub fn learn_hash(&mut self, number: BlockNumber, hash: B256) {
        self.hashes.learn(number, hash);
    }

    /// A sealed block's hash, waited for where need be.
    ///
    /// # Errors
    /// As [`BlockHashes::get`].
    pub fn hash_of(&mut self, number: BlockNumber) -> Result<B256, ReadError> {
        self.hashes.get(number, self.below.base.as_ref())
    }

    /// From now on the history contract's slot of `parent` reads as that block's hash, which is
    /// waited for; `None`: the slot holds it.
    pub fn set_late_parent(&mut self, parent: Option<BlockNumber>) {
        self.late_parent = parent;
    }

    /// The account has code.
    ///
    /// # Errors
    /// Where the view cannot be read.
    pub fn has_code(&mut self, address: Address) -> Result<bool, ReadError> {
        let account = self.account(address)?;
        Ok(account.is_some_and(|account| account.code_hash != KECCAK256_EMPTY))
    }

    /// The account as it is now, `None` where there is none.
    ///
    /// # Errors
    /// Where the view cannot be read.
    pub(super) fn account(&mut self, address: Address) -> Result<Option<Account>, ReadError> {
        let id = self.account_id(address)?;
        Ok(self.hot(id).account)
    }

    /// The account's number, good until the next `take_diff`.
    ///
    /// # Errors
    /// Where the view cannot be read.
    pub(super) fn account_id(&mut self, address: Address) -> Result<Id, ReadError> {
        let key = account_key(address);
        match self.cache.accounts.reader().find(&key) {
            Some(id) => Ok(id),
            None => Ok(self.cache.fetch_account(&self.below, address, &key)?),
        }
    }

    /// As `account_id`, where it may be known already.
    ///
    /// # Errors
    /// Where the view cannot be read.
    #[inline]
    pub(super) fn known_or_found(
        &mut self,
        known: Option<Id>,
        address: Address,
    ) -> Result<Id, ReadError> {
        known.map_or_else(|| self.account_id(address), Ok)
    }

    /// Has what a look-up of an account will read first brought near; its hash for the next.
    #[inline]
    pub(super) fn bring_place(&self, address: Address) -> u64 {
        let hash = hash(&account_key(address));
        self.cache.accounts.reader().bring_place(hash);
        hash
    }

    /// Has an account brought near by the hash of its address: most likely it has this number.
    #[inline]
    pub(super) fn bring_account(&self, hash: u64) -> Option<Id> {
        self.cache.accounts.reader().bring_record(hash)
    }

    /// The number of an account in the cache, by its address, the hash of that, and a guess.
    #[inline]
    pub(super) fn cached_id(&self, address: Address, hash: u64, guess: Option<Id>) -> Option<Id> {
        let (accounts, key) = (self.cache.accounts.reader(), account_key(address));
        match guess {
            Some(id) if accounts.key(id) == key => guess,
            _ => accounts.find_hashed(&key, hash),
        }
    }

    /// The account of a number.
    #[inline]
    pub(super) fn hot(&self, id: Id) -> Hot {
        hot_of(&self.cache.accounts.own(id, is_cold))
    }

    /// The account of a number as a purse, nothing where there is none.
    ///
    /// # Errors
    /// Where it is more than that.
    #[inline]
    pub(super) fn purse(&self, id: Id) -> Result<Option<Purse>, ()> {
        purse_of(&self.cache.accounts.hot(id))
    }

    /// Sets nonce and balance of an account that is a purse.
    #[inline]
    pub(super) fn set_purse(&mut self, id: Id, purse: &Purse) {
        let mut entry = self.cache.accounts.entry(id);
        self.changes.note(id, &mut entry);
        entry.write_hot(PURSE_AT, &purse_words(purse));
    }

    /// Sets nonce and balance of an account that exists.
    #[inline]
    pub(super) fn set_nonce_and_balance(&mut self, id: Id, nonce: u64, balance: &U256) {
        let mut entry = self.cache.accounts.entry(id);
        self.changes.note(id, &mut entry);
        let [low, high, more @ ..] = *balance.as_limbs();
        if more == [0; 2] && !is_cold(&entry.hot()) {
            return entry.write_hot(PURSE_AT, &[nonce, low, high]);
        }
        let mut hot = hot_of(&entry.value(is_cold));
        hot.account = hot.account.map(|it| Account { nonce, balance: *balance, ..it });
        entry.write(&account_value(&hot));
    }

    /// Sets an account; its storage stays.
    pub(super) fn set_account(&mut self, id: Id, account: Option<Account>) {
        let hot = self.hot(id);
        if hot.account != account {
            self.change_account(id, &hot, account);
        }
    }

    /// Sets an account that is `hot` now.
    #[inline]
    pub(super) fn change_account(&mut self, id: Id, hot: &Hot, account: Option<Account>) {
        let mut entry = self.cache.accounts.entry(id);
        self.changes.note(id, &mut entry);
        entry.write(&account_value(&Hot { account, ..*hot }));
    }

    /// Empties an account's storage.
    pub(super) fn void_storage(&mut self, id: Id) {
        let hot = self.hot(id);
        let mut entry = self.cache.accounts.entry(id);
        self.changes.note_wiped(id, &mut entry);
        let incarnation = hot.incarnation + 1;
        entry.write(&account_value(&Hot { incarnation, ..hot }));
    }

    /// What other threads need to read the state while it is being written.
    pub(super) fn window(&self) -> Window {
        let young = Cached {
            accounts: self.cache.accounts.reader().clone(),
            slots: self.cache.slots.reader().clone(),
        };
        let (old, below) = (self.cache.old.clone(), self.below.clone());
        Window { young, old, below, late_parent: self.late_parent }
    }

    /// Has an account's record brought near to be written.
    #[inline]
    pub(super) fn bring_account_to_write(&self, id: Id) {
        self.cache.accounts.reader().bring_to_write(id);
    }

    /// Has a slot's record brought near to be written.
    #[inline]
    pub(super) fn bring_slot_to_write(&self, id: Id) {
        self.cache.slots.reader().bring_to_write(id);
    }

    /// Which write an account stands at.
    #[inline]
    pub(super) fn account_version(&self, id: Id) -> Version {
        self.cache.accounts.reader().version(id)
    }

    /// Which write a slot stands at.
    #[inline]
    pub(super) fn slot_version(&self, id: Id) -> Version {
        self.cache.slots.reader().version(id)
    }

    /// The number of an account that another thread found below the cache in this cut.
    pub(super) fn adopt_account(&mut self, address: Address, hot: Hot) -> Id {
        let key = account_key(address);
        let known = self.cache.accounts.reader().find(&key);
        known.unwrap_or_else(|| self.cache.accounts.insert(&key, &account_value(&hot)))
    }

    /// The number of a slot that another thread found below the cache in this cut.
    pub(super) fn adopt_slot(
        &mut self,
        address: Address,
        incarnation: u32,
        slot: &U256,
        value: U256,
    ) -> Id {
        let key = slot_key(address, incarnation, slot);
        let known = self.cache.slots.reader().find(&key);
        known.unwrap_or_else(|| self.cache.slots.insert(&key, &slot_value(&value)))
    }

    /// A slot's number, good until the next `take_diff`, in an incarnation of its account.
    ///
    /// # Errors
    /// Where the view cannot be read.
    pub(super) fn slot_id(
        &mut self,
        address: Address,
        incarnation: u32,
        slot: &U256,
    ) -> Result<Id, ReadError> {
        let key = slot_key(address, incarnation, slot);
        if let Some(id) = self.cache.slots.reader().find(&key) {
            return Ok(id);
        }
        let value = match self.cache.old.slots.find(&key) {
            Some(old) => self.cache.old.slots.read(old, |_| false).value,
            None if incarnation > 0 => slot_value(&U256::ZERO),
            None => slot_value(&self.below.storage(&address, slot)?),
        };
        Ok(self.cache.slots.insert(&key, &value))
    }

    /// What a slot holds.
    pub(super) fn slot(&self, id: Id) -> U256 {
        U256::from_limbs(self.cache.slots.hot(id))
    }

    /// Sets a slot of the account `of`.
    pub(super) fn set_slot(&mut self, of: Id, id: Id, value: U256) {
        let Self { cache, changes, .. } = self;
        let mut entry = cache.slots.entry(id);
        let before = U256::from_limbs(entry.hot());
        if before == value {
            return;
        }
        changes.note_slot((id, &mut entry), (of, &mut cache.accounts));
        entry.write_hot(0, value.as_limbs());
    }

    /// What a slot of an account holds.
    fn storage_of(&mut self, address: Address, id: Id, slot: &U256) -> Result<U256, ReadError> {
        let Hot { incarnation, .. } = self.hot(id);
        let id = self.slot_id(address, incarnation, slot)?;
        Ok(self.slot(id))
    }

    /// Takes over what one transaction did to one account.
    ///
    /// # Errors
    /// Where the view cannot be read.
    pub(super) fn commit(&mut self, address: Address, new: EvmAccount) -> Result<(), ReadError> {
        if !new.is_touched() {
            return Ok(());
        }
        let known = new.info.account_id.and_then(|id| Id::try_from(id.get()).ok());
        let id = self.known_or_found(known, address)?;
        let after = outcome_of(&new);
        if let (Some(account), Some(code)) = (after, &new.info.code) {
            self.keep_fresh_code(id, &account, code);
        }
        self.leave_account(id, after, new.is_created());
        if after.is_some() && new.storage.values().any(EvmStorageSlot::is_changed) {
            let Hot { incarnation, .. } = self.hot(id);
            for (key, slot) in new.storage.into_iter().filter(|(_, slot)| slot.is_changed()) {
                let slot_id = self.slot_id(address, incarnation, &key)?;
                self.set_slot(id, slot_id, slot.present_value);
            }
        }
        Ok(())
    }

    /// Leaves an account as a transaction did. One that goes, or is created (again), has none of
    /// its storage any more.
    pub(super) fn leave_account(&mut self, id: Id, after: Option<Account>, created: bool) {
        if created || (after.is_none() && self.hot(id).account.is_some()) {
            self.void_storage(id);
        }
        self.set_account(id, after);
    }

    /// Keeps code that an account has from now on and had not before.
    pub(super) fn keep_fresh_code(&mut self, id: Id, account: &Account, code: &Bytecode) {
        if account.code_hash == KECCAK256_EMPTY {
            return;
        }
        let had = self.hot(id).account.map_or(KECCAK256_EMPTY, |account| account.code_hash);
        if account.code_hash != had {
            self.codes.fresh.insert(code_key(account.code_hash), code.clone());
        }
    }

    /// So many transactions come before the next `take_diff`.
    pub(super) fn expect(&mut self, transactions: usize) {
        self.changes.expect(transactions);
    }

    /// What changed since the last call: exactly the accounts, slots and codes that differ.
    pub fn take_diff(&mut self) -> Diff {
        let Self { cache, changes, codes, .. } = self;
        let diff = changes.take(cache, codes);
        codes.settle(self.limits.code_bytes_max);
        cache.forget(self.limits.entries_max / 2);
        diff
    }
}

/// The account that a transaction leaves: none where it destroyed it, or left it empty (EIP-161).
pub(super) fn outcome_of(new: &EvmAccount) -> Option<Account> {
    let gone = new.is_selfdestructed() || new.is_empty();
    (!gone).then_some(Account {
        nonce: new.info.nonce,
        balance: new.info.balance,
        code_hash: new.info.code_hash,
    })
}

/// EIP-2935: the slot of the history contract that holds the hash of block `number`.
pub(super) fn history_slot(number: BlockNumber) -> U256 {
    U256::from(number % u64::try_from(HISTORY_SERVE_WINDOW).unwrap_or(u64::MAX))
}

/// The account as revm wants it; its code is asked for by hash, its storage by `id`.
pub(super) fn account_info(account: Account, id: Option<Id>, no_code: &NoCode) -> AccountInfo {
    AccountInfo {
        balance: account.balance,
        nonce: account.nonce,
        code_hash: account.code_hash,
        account_id: id.and_then(|id| AccountId::new(id as usize)),
        code: (account.code_hash == KECCAK256_EMPTY).then(|| no_code.code()),
    }
}

impl Remembers for Store {
    fn preimages(&mut self) -> &mut Preimages {
        &mut self.preimages
    }

    fn bring(&self, senders: &[Address], expected: &[Expected]) {
        bring_accounts(self.cache.accounts.reader(), senders);
        bring_slots(self.cache.accounts.reader(), self.cache.slots.reader(), expected);
    }
}

impl Database for Store {
    type Error = ReadError;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, ReadError> {
        let id = self.account_id(address)?;
        let account = self.hot(id).account;
        Ok(account.map(|account| account_info(account, Some(id), &self.no_code)))
    }

    fn code_by_hash(&mut self, hash: B256) -> Result<Bytecode, ReadError> {
        if let Some(code) = self.codes.get(hash) {
            return Ok(code.clone());
        }
        let code = self.below.code(hash)?;
        self.codes.keep(code_key(hash), code.clone(), self.limits.code_bytes_max);
        Ok(code)
    }

    fn storage(&mut self, address: Address, slot: U256) -> Result<U256, ReadError> {
        if let Some(parent) = self.late_parent
            && is_late(parent, address, &slot)
        {
            return Ok(U256::from_be_bytes(self.hash_of(parent)?.0));
        }
        let id = self.account_id(address)?;
        self.storage_of(address, id, &slot)
    }

    fn storage_by_account_id(
        &mut self,
        address: Address,
        id: AccountId,
        slot: U256,
    ) -> Result<U256, ReadError> {
        match Id::try_from(id.get()) {
            Ok(id) if self.late_parent.is_none() => self.storage_of(address, id, &slot),
            _ => self.storage(address, slot),
        }
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, ReadError> {
        self.hash_of(number)
    }
}

/// EIP-2935: this slot of the history contract holds the hash of `parent`, once that is known.
pub(super) fn is_late(parent: BlockNumber, address: Address, slot: &U256) -> bool {
    address == HISTORY_STORAGE_ADDRESS && *slot == history_slot(parent)
}
