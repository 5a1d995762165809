//! The state as a lane sees it: what is committed, and what the lane itself would have written.

use crate::execution::{
    cache::{Hot, NoCode, Window, bring_accounts, bring_slots},
    parallel::{
        pace::Paced,
        speculation::{AccountRead, Batch, Ends, SlotRead, Source},
    },
    preimages::{Expected, Preimages, Remembers},
    store::{ReadError, account_info, is_late},
    table::Id,
    words::{Key, account_key, code_key, hot_of, is_cold, slot_key},
};
use crate::types::map::Map;
use alloy_primitives::{Address, B256, U256};
use revm::{
    Database,
    state::{AccountId, AccountInfo, Bytecode},
};

/// Bytes of code that a lane keeps.
const CODE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Own writes from which on those that are committed are looked for and forgotten.
const OWN_TIDIED: usize = 8_192;
/// What a lane keeps of its own writes; with more, what depends on them is executed again.
const OWN_MAX: usize = 65_536;

/// A lane's state.
#[derive(Default)]
pub(super) struct View {
    window: Option<Window>,
    /// Read below the cache during this cut.
    fetched: Map<Key<3>, Hot>,
    fetched_slots: Map<Key<7>, U256>,
    /// What the lane would have written, and by which transaction of the cut.
    own: Map<Key<3>, (u32, Hot)>,
    own_slots: Map<Key<7>, (u32, U256)>,
    /// How many of these may come before they are tidied.
    own_tidied: usize,
    codes: Map<Key<4>, Bytecode>,
    no_code: NoCode,
    code_bytes: usize,
    /// Own writes of transactions before this one are committed or void.
    committed: u32,
    /// Own writes may matter.
    depends: bool,
    /// Accounts whose balance was looked at.
    balances: Vec<Address>,
    /// What the lane has done and not handed over yet.
    pub(super) batch: Box<Batch>,
    /// Where in it the transaction that is being executed begins.
    pub(super) begins: Ends,
    preimages: Preimages,
    paced: Paced,
}

impl View {
    pub(super) fn new(paced: Paced) -> Self {
        Self { paced, ..Self::default() }
    }

    /// Opens a cut.
    pub(super) fn open(&mut self, window: Window) {
        self.close();
        self.window = Some(window);
    }

    /// Lets go of the cut's state.
    pub(super) fn close(&mut self) {
        self.window = None;
        self.fetched.clear();
        self.fetched_slots.clear();
        self.own.clear();
        self.own_slots.clear();
        self.own_tidied = 0;
    }

    /// Begins a transaction. `depends`: one before it, on this lane, will have changed what it
    /// reads; those before `committed` are in the cache.
    pub(super) fn begin(&mut self, depends: bool, committed: u32) {
        self.begins = self.batch.ends();
        self.balances.clear();
        (self.depends, self.committed) = (depends, committed);
        if self.own.len() + self.own_slots.len() > self.own_tidied.max(OWN_TIDIED) {
            self.tidy();
        }
    }

    /// Forgets own writes that are committed. What is left may double before the next time, so
    /// that each write is looked at about once, but near the bound.
    #[cold]
    fn tidy(&mut self) {
        let committed = self.committed;
        self.own.retain(|_, (place, _)| *place >= committed);
        self.own_slots.retain(|_, (place, _)| *place >= committed);
        let left = self.own.len() + self.own_slots.len();
        if left > OWN_MAX {
            self.own.clear();
            self.own_slots.clear();
        }
        self.own_tidied = OWN_MAX.min(2 * left);
    }

    /// The balance of an account was looked at, not only added to or paid from.
    pub(super) fn looked_at(&mut self, address: Address) {
        self.balances.push(address);
    }

    /// Whether anything looked at its balance.
    pub(super) fn was_looked_at(&self, address: &Address) -> bool {
        self.balances.contains(address)
    }

    /// Notes what transaction `place` would have written, for those after it on this lane.
    pub(super) fn keep_own(&mut self, place: u32) {
        let Self { batch, own, own_slots, codes, code_bytes, begins, .. } = self;
        let mut slots_done = begins.slot_writes;
        for write in &batch.account_writes[begins.account_writes..] {
            let AccountRead { address, hot, .. } = batch.accounts[write.read as usize];
            let after = write.becomes.after(&hot);
            let is_void = write.becomes.is_created() || (after.is_none() && hot.account.is_some());
            let incarnation = hot.incarnation + u32::from(is_void);
            own.insert(Key(account_key(address)), (place, Hot { account: after, incarnation }));
            for write in &batch.slot_writes[slots_done..write.slots_end as usize] {
                let slot = &batch.slots[write.read as usize].slot;
                own_slots.insert(Key(slot_key(address, incarnation, slot)), (place, write.value));
            }
            slots_done = write.slots_end as usize;
            if let (Some(after), Some(code)) = (after, write.becomes.code()) {
                *code_bytes += code.len();
                codes.insert(code_key(after.code_hash), code.clone());
            }
        }
    }

    fn account(&mut self, address: Address) -> Result<(Source, Hot), ReadError> {
        self.paced.point();
        let key = Key(account_key(address));
        if self.depends
            && let Some((place, hot)) = self.own.get(&key)
            && *place >= self.committed
        {
            return Ok((Source::Own, *hot));
        }
        let Some(window) = &self.window else { return Err(ReadError::Abandoned) };
        if let Some(id) = window.young.accounts.find(&key.0) {
            let seen = window.young.accounts.read(id, is_cold);
            return Ok((Source::Cached(id, seen.version), hot_of(&seen.value)));
        }
        if let Some(hot) = self.fetched.get(&key) {
            return Ok((Source::Below, *hot));
        }
        let hot = match window.old.accounts.find(&key.0) {
            Some(id) => hot_of(&window.old.accounts.read(id, is_cold).value),
            None => Hot { account: window.below.account(&address)?, incarnation: 0 },
        };
        self.fetched.insert(key, hot);
        Ok((Source::Below, hot))
    }

    fn slot(
        &mut self,
        address: Address,
        incarnation: u32,
        slot: &U256,
    ) -> Result<(Source, U256), ReadError> {
        self.paced.point();
        let key = Key(slot_key(address, incarnation, slot));
        if self.depends
            && let Some((place, value)) = self.own_slots.get(&key)
            && *place >= self.committed
        {
            return Ok((Source::Own, *value));
        }
        let Some(window) = &self.window else { return Err(ReadError::Abandoned) };
        if let Some(id) = window.young.slots.find(&key.0) {
            let seen = window.young.slots.read(id, |_| false);
            return Ok((Source::Cached(id, seen.version), U256::from_limbs(seen.value.hot)));
        }
        if let Some(value) = self.fetched_slots.get(&key) {
            return Ok((Source::Below, *value));
        }
        let value = match window.old.slots.find(&key.0) {
            Some(id) => U256::from_limbs(window.old.slots.read(id, |_| false).value.hot),
            None if incarnation > 0 => U256::ZERO,
            None => window.below.storage(&address, slot)?,
        };
        self.fetched_slots.insert(key, value);
        Ok((Source::Below, value))
    }

    fn storage_of(
        &mut self,
        address: Address,
        incarnation: u32,
        slot: U256,
    ) -> Result<U256, ReadError> {
        let (source, value) = self.slot(address, incarnation, &slot)?;
        self.batch.slot_sources.push(source);
        self.batch.slots.push(SlotRead { address, slot, incarnation, value });
        Ok(value)
    }

    /// Its place among the reads.
    fn note_account(&mut self, address: Address) -> Result<usize, ReadError> {
        let begins = self.begins.accounts;
        let known = self.batch.accounts[begins..].iter().rposition(|it| it.address == address);
        if let Some(at) = known {
            return Ok(begins + at);
        }
        let (source, hot) = self.account(address)?;
        let any_balance = false;
        self.batch.account_sources.push(source);
        self.batch.accounts.push(AccountRead { address, hot, any_balance });
        Ok(self.batch.accounts.len() - 1)
    }
}

impl Remembers for View {
    fn preimages(&mut self) -> &mut Preimages {
        &mut self.preimages
    }

    fn bring(&self, senders: &[Address], expected: &[Expected]) {
        if let Some(Window { young, .. }) = &self.window {
            bring_accounts(&young.accounts, senders);
            bring_slots(&young.accounts, &young.slots, expected);
        }
    }
}

impl Database for View {
    type Error = ReadError;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, ReadError> {
        let at = self.note_account(address)?;
        let id = Id::try_from(at).unwrap_or(Id::MAX);
        let account = self.batch.accounts[at].hot.account;
        Ok(account.map(|account| account_info(account, Some(id), &self.no_code)))
    }

    fn code_by_hash(&mut self, hash: B256) -> Result<Bytecode, ReadError> {
        if let Some(code) = self.codes.get(&code_key(hash)) {
            return Ok(code.clone());
        }
        let Some(window) = &self.window else { return Err(ReadError::Abandoned) };
        let code = window.below.code(hash)?;
        if self.code_bytes + code.len() > CODE_BYTES_MAX {
            self.codes.clear();
            self.code_bytes = 0;
        }
        self.code_bytes += code.len();
        self.codes.insert(code_key(hash), code.clone());
        Ok(code)
    }

    fn storage(&mut self, address: Address, slot: U256) -> Result<U256, ReadError> {
        let late_parent = self.window.as_ref().and_then(|window| window.late_parent);
        if late_parent.is_some_and(|parent| is_late(parent, address, &slot)) {
            return Err(ReadError::Abandoned);
        }
        let of = self.note_account(address)?;
        self.storage_of(address, self.batch.accounts[of].hot.incarnation, slot)
    }

    fn storage_by_account_id(
        &mut self,
        address: Address,
        id: AccountId,
        slot: U256,
    ) -> Result<U256, ReadError> {
        let late_parent = self.window.as_ref().and_then(|window| window.late_parent);
        match self.batch.accounts.get(id.get()) {
            Some(of) if late_parent.is_none() => self.storage_of(address, of.hot.incarnation, slot),
            _ => self.storage(address, slot),
        }
    }

    /// Hashes may have to be waited for: only the committing thread does.
    fn block_hash(&mut self, _number: u64) -> Result<B256, ReadError> {
        Err(ReadError::Abandoned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(place: u32) -> Key<3> {
        Key([place.into(), 0, 0])
    }

    /// A view after so many transactions that each wrote one account; those before the last
    /// `uncommitted` are committed.
    fn after(transactions: u32, uncommitted: u32) -> View {
        let mut view = View::default();
        for place in 0..transactions {
            view.begin(true, place.saturating_sub(uncommitted));
            view.own.insert(key(place), (place, Hot { account: None, incarnation: 0 }));
        }
        view
    }

    #[test]
    fn own_writes_are_kept_until_they_are_committed() {
        for uncommitted in [10, 7_000, 30_000] {
            let view = after(100_000, uncommitted);
            let kept = (100_000 - uncommitted..100_000).all(|it| view.own.contains_key(&key(it)));
            assert!(kept, "of the last {uncommitted} some are gone");
            assert!(view.own.len() <= OWN_MAX.min(OWN_TIDIED + 2 * uncommitted as usize) + 1);
        }
    }

    #[test]
    fn own_writes_that_nobody_commits_are_bounded() {
        assert!((1..=OWN_MAX).contains(&after(200_000, 200_000).own.len()));
    }
}
