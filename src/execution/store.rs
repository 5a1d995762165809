//! What the EVM reads from and writes to: a bounded cache over the overlay over a snapshot.
//!
//! The cache always holds the newest values, so neither a mini-block nor a checkpoint empties it.
//! Beside it stands the list of what changed since the last `take_diff`, with the values before.

use crate::execution::hashes::BlockHashes;
use crate::types::{
    diff::{Account, AccountDiff, Diff},
    ids::BlockNumber,
    map::Map,
    overlay::Overlay,
    view::{StateView, ViewError},
};
use alloy_eips::eip2935::{HISTORY_SERVE_WINDOW, HISTORY_STORAGE_ADDRESS};
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, U256};
use revm::{
    Database,
    database_interface::DBErrorMarker,
    state::{Account as EvmAccount, AccountInfo, Bytecode, EvmStorageSlot},
};
use std::{collections::hash_map::Entry, sync::Arc};

/// The state could not be read during execution.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The view failed.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A block's hash is neither stored nor can it still come.
    #[error("hash of block {0} is not known and its sealing stage is gone: look for its error")]
    NoHash(BlockNumber),
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
    changes: Vec<(Address, Change)>,
    codes: Map<B256, Bytecode>,
    /// Code that came into being since the last `take_diff`.
    fresh_codes: Map<B256, Bytecode>,
    code_bytes: usize,
    hashes: BlockHashes,
    limits: CacheLimits,
    /// The block whose hash the history contract does not hold yet.
    late_parent: Option<BlockNumber>,
}

struct Below {
    overlay: Overlay,
    base: Arc<dyn StateView>,
}

/// Two generations: what was not used while the young one filled is forgotten.
#[derive(Default)]
struct Cache {
    young: Map<Address, Hot>,
    old: Map<Address, Hot>,
    young_entries: usize,
}

struct Hot {
    account: Option<Account>,
    slots: Map<U256, U256>,
    /// Slots that are not in `slots` are zero, whatever lies below.
    storage_void: bool,
    /// Its place in `Store::changes`.
    change: Option<usize>,
}

/// An account as it was at the last `take_diff`.
struct Change {
    before: Option<Account>,
    wiped: bool,
    slots_before: Map<U256, U256>,
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
            changes: Vec::new(),
            codes: Map::default(),
            fresh_codes: Map::default(),
            code_bytes: 0,
            hashes,
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
        let hot = self.cache.get(&self.below, address)?;
        Ok(hot.account.is_some_and(|account| account.code_hash != KECCAK256_EMPTY))
    }

    /// The account as it is now, `None` where there is none.
    ///
    /// # Errors
    /// Where the view cannot be read.
    pub(super) fn account(&mut self, address: Address) -> Result<Option<Account>, ReadError> {
        Ok(self.cache.get(&self.below, address)?.account)
    }

    /// Sets nonce and balance of an account that is not empty; its code and storage stay.
    ///
    /// # Errors
    /// Where the view cannot be read.
    pub(super) fn put_account(
        &mut self,
        address: Address,
        account: Account,
    ) -> Result<(), ReadError> {
        let hot = self.cache.get(&self.below, address)?;
        if hot.account != Some(account) {
            note(&mut self.changes, address, hot);
            hot.account = Some(account);
        }
        Ok(())
    }

    /// Takes over what one transaction did to one account.
    ///
    /// # Errors
    /// Where the view cannot be read.
    pub(super) fn commit(&mut self, address: Address, new: EvmAccount) -> Result<(), ReadError> {
        if !new.is_touched() {
            return Ok(());
        }
        let hot = self.cache.get(&self.below, address)?;
        let gone = new.is_selfdestructed() || new.is_empty();
        let after = (!gone).then_some(Account {
            nonce: new.info.nonce,
            balance: new.info.balance,
            code_hash: new.info.code_hash,
        });
        let wipes = hot.account.is_some() && (gone || new.is_created());
        let stores = !gone && new.storage.values().any(EvmStorageSlot::is_changed);
        if hot.account == after && !wipes && !stores {
            return Ok(());
        }
        if let (Some(account), Some(code)) = (after, &new.info.code) {
            let had = hot.account.map_or(KECCAK256_EMPTY, |account| account.code_hash);
            if account.code_hash != had && account.code_hash != KECCAK256_EMPTY {
                self.fresh_codes.insert(account.code_hash, code.clone());
            }
        }
        let change = note(&mut self.changes, address, hot);
        if gone || new.is_created() {
            hot.slots.clear();
            hot.storage_void = true;
        }
        if wipes {
            change.wiped = true;
            change.slots_before.clear();
        }
        hot.account = after;
        if stores {
            let changed = new.storage.into_iter().filter(|(_, slot)| slot.is_changed());
            let slots_then = hot.slots.len();
            changed.for_each(|(key, slot)| {
                change.slots_before.entry(key).or_insert(slot.original_value);
                hot.slots.insert(key, slot.present_value);
            });
            self.cache.young_entries += hot.slots.len() - slots_then;
        }
        Ok(())
    }

    /// What changed since the last call: exactly the accounts, slots and codes that differ.
    pub fn take_diff(&mut self) -> Diff {
        let mut diff = Diff::default();
        diff.accounts.reserve(self.changes.len());
        for (address, change) in self.changes.drain(..) {
            // Nothing leaves the young generation while it has a change.
            let Some(hot) = self.cache.young.get_mut(&address) else { continue };
            hot.change = None;
            let wiped = change.wiped && change.before.is_some();
            let now = |slot: &U256| hot.slots.get(slot).copied().unwrap_or_default();
            let storage: Map<U256, U256> = change
                .slots_before
                .iter()
                .map(|(slot, before)| (*slot, if wiped { U256::ZERO } else { *before }, now(slot)))
                .filter(|(_, before, now)| before != now)
                .map(|(slot, _, now)| (slot, now))
                .collect();
            if hot.account == change.before && !wiped && storage.is_empty() {
                continue;
            }
            if let Some(account) = hot.account
                && let Some(code) = self.fresh_codes.get(&account.code_hash)
            {
                diff.codes.insert(account.code_hash, code.original_bytes());
            }
            diff.accounts.insert(address, AccountDiff { account: hot.account, wiped, storage });
        }
        #[expect(clippy::iter_over_hash_type, reason = "only the cache sees the order")]
        for (hash, code) in std::mem::take(&mut self.fresh_codes) {
            self.keep_code(hash, code);
        }
        self.cache.forget(self.limits.entries_max / 2);
        diff
    }

    fn keep_code(&mut self, hash: B256, code: Bytecode) {
        if self.code_bytes + code.len() > self.limits.code_bytes_max {
            self.codes.clear();
            self.code_bytes = 0;
        }
        self.code_bytes += code.len();
        self.codes.insert(hash, code);
    }
}

/// The account's change since the last `take_diff`, begun where there is none.
fn note<'a>(
    changes: &'a mut Vec<(Address, Change)>,
    address: Address,
    hot: &mut Hot,
) -> &'a mut Change {
    let at = *hot.change.get_or_insert(changes.len());
    if at == changes.len() {
        let slots_before = Map::default();
        changes.push((address, Change { before: hot.account, wiped: false, slots_before }));
    }
    &mut changes[at].1
}

impl Cache {
    fn get(&mut self, below: &Below, address: Address) -> Result<&mut Hot, ReadError> {
        match self.young.entry(address) {
            Entry::Occupied(found) => Ok(found.into_mut()),
            Entry::Vacant(free) => {
                let hot = match self.old.remove(&address) {
                    Some(hot) => hot,
                    None => Hot {
                        account: below.account(&address)?,
                        slots: Map::default(),
                        storage_void: false,
                        change: None,
                    },
                };
                self.young_entries += 1 + hot.slots.len();
                Ok(free.insert(hot))
            }
        }
    }

    fn forget(&mut self, young_entries_max: usize) {
        if self.young_entries > young_entries_max {
            self.old = std::mem::take(&mut self.young);
            self.young_entries = 0;
        }
    }
}

impl Below {
    fn account(&self, address: &Address) -> Result<Option<Account>, ViewError> {
        match self.overlay.account(address) {
            Some(account) => Ok(account),
            None => self.base.account(address),
        }
    }

    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ViewError> {
        match self.overlay.storage(address, slot) {
            Some(value) => Ok(value),
            None => self.base.storage(address, slot),
        }
    }
}

/// EIP-2935: the slot of the history contract that holds the hash of block `number`.
pub(super) fn history_slot(number: BlockNumber) -> U256 {
    U256::from(number % u64::try_from(HISTORY_SERVE_WINDOW).unwrap_or(u64::MAX))
}

/// Code with its jump table. What looks like a delegation and is none runs as plain code.
pub(super) fn analysed(raw: Bytes) -> Bytecode {
    Bytecode::new_raw_checked(raw.clone()).unwrap_or_else(|_| Bytecode::new_legacy(raw))
}

/// The account as revm wants it; its code is asked for by hash.
pub(super) fn account_info(account: Account) -> AccountInfo {
    AccountInfo {
        balance: account.balance,
        nonce: account.nonce,
        code_hash: account.code_hash,
        account_id: None,
        code: (account.code_hash == KECCAK256_EMPTY).then(Bytecode::default),
    }
}

impl Database for Store {
    type Error = ReadError;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, ReadError> {
        Ok(self.cache.get(&self.below, address)?.account.map(account_info))
    }

    fn code_by_hash(&mut self, hash: B256) -> Result<Bytecode, ReadError> {
        if let Some(code) = self.codes.get(&hash).or_else(|| self.fresh_codes.get(&hash)) {
            return Ok(code.clone());
        }
        let raw = match self.below.overlay.code(&hash) {
            Some(code) => code,
            None => self.below.base.code(&hash)?.ok_or(ReadError::NoCode(hash))?,
        };
        let code = analysed(raw);
        self.keep_code(hash, code.clone());
        Ok(code)
    }

    fn storage(&mut self, address: Address, slot: U256) -> Result<U256, ReadError> {
        if address == HISTORY_STORAGE_ADDRESS
            && let Some(parent) = self.late_parent
            && slot == history_slot(parent)
        {
            return Ok(U256::from_be_bytes(self.hash_of(parent)?.0));
        }
        let hot = self.cache.get(&self.below, address)?;
        if let Some(value) = hot.slots.get(&slot) {
            return Ok(*value);
        }
        let value =
            if hot.storage_void { U256::ZERO } else { self.below.storage(&address, &slot)? };
        hot.slots.insert(slot, value);
        self.cache.young_entries += 1;
        Ok(value)
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, ReadError> {
        self.hash_of(number)
    }
}
