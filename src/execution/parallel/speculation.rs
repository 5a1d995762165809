//! What a lane did ahead of time: what it read, and what it would write. The committing thread
//! checks the first and applies the second.

use crate::execution::{
    cache::Hot,
    evm::Executed,
    parallel::planted::{Fault, planted},
    prefetch::prefetch_all,
    store::{ReadError, Store},
    table::{Id, Version},
};
use crate::types::diff::Account;
use alloy_primitives::{Address, U256};
use revm::state::Bytecode;

/// Where a value was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// In the cache: the record and its version.
    Cached(Id, Version),
    /// Among what the lane itself would write.
    Own,
    /// Below the cache.
    Below,
    /// Nowhere: it is only written to.
    Unread,
}

/// An account as it was read: looked at again only where its record has changed since.
#[derive(Debug, Clone, Copy)]
pub(super) struct AccountRead {
    pub(super) address: Address,
    pub(super) hot: Hot,
    /// Any other balance would do as well, as long as what is paid can be paid.
    pub(super) any_balance: bool,
}

/// A slot as it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotRead {
    pub(super) address: Address,
    pub(super) slot: U256,
    pub(super) incarnation: u32,
    pub(super) value: U256,
}

/// What would be written to an account.
#[derive(Debug)]
pub(super) struct AccountWrite {
    /// Its place among the reads.
    pub(super) read: u32,
    /// Slots up to here, from where the account before ends.
    pub(super) slots_end: u32,
    pub(super) becomes: Becomes,
}

/// What would become of an account.
#[derive(Debug)]
pub(super) enum Becomes {
    /// It stays as it is: slots of it change.
    Same,
    /// It is there, as it was but for these.
    Paid { nonce: u64, balance: U256 },
    /// Anything else.
    Other(Box<Other>),
}

/// All that may become of an account.
#[derive(Debug)]
pub(super) struct Other {
    pub(super) created: bool,
    pub(super) after: Option<Account>,
    /// Where it is new.
    pub(super) code: Option<Bytecode>,
}

/// What would become of a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotWrite {
    /// Its place among the reads.
    pub(super) read: u32,
    pub(super) value: U256,
}

/// What one transaction did ahead of its time.
#[derive(Debug)]
pub(super) struct Speculation {
    /// Its place in the cut.
    pub(super) place: u32,
    /// `None` where the lane gave up: then nothing else counts.
    pub(super) executed: Option<Executed>,
    /// Where its parts end; they begin where those of the one before end.
    pub(super) ends: Ends,
}

/// Places in the lists of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) accounts: usize,
    pub(super) slots: usize,
    pub(super) account_writes: usize,
    pub(super) slot_writes: usize,
}

/// What a lane did ahead of time, some transactions in a row. It goes from one core's caches to
/// another's: what the committing thread always looks at lies close together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) cut: u64,
    pub(super) done: Vec<Speculation>,
    pub(super) account_sources: Vec<Source>,
    pub(super) slot_sources: Vec<Source>,
    pub(super) account_writes: Vec<AccountWrite>,
    pub(super) slot_writes: Vec<SlotWrite>,
    pub(super) accounts: Vec<AccountRead>,
    pub(super) slots: Vec<SlotRead>,
    /// Accounts that `check` has found with another balance than they were read with.
    shifted: Vec<u32>,
}

/// What was read is no longer so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Conflict {
    pub(super) address: Address,
    pub(super) slot: Option<U256>,
}

impl Batch {
    /// Forgets everything but its room.
    pub(super) fn clear(&mut self) {
        self.done.clear();
        self.cut_off(Ends::default());
    }

    /// Where its lists end now.
    pub(super) fn ends(&self) -> Ends {
        Ends {
            accounts: self.accounts.len(),
            slots: self.slots.len(),
            account_writes: self.account_writes.len(),
            slot_writes: self.slot_writes.len(),
        }
    }

    /// Forgets what lies behind these ends.
    pub(super) fn cut_off(&mut self, ends: Ends) {
        self.account_sources.truncate(ends.accounts);
        self.accounts.truncate(ends.accounts);
        self.slot_sources.truncate(ends.slots);
        self.slots.truncate(ends.slots);
        self.account_writes.truncate(ends.account_writes);
        self.slot_writes.truncate(ends.slot_writes);
    }

    /// Where the lists of its speculation `at` begin.
    fn begins(&self, at: usize) -> Ends {
        at.checked_sub(1).map_or_else(Ends::default, |before| self.done[before].ends)
    }

    /// Has what the committing thread will look at brought near.
    pub(super) fn bring_all(&self) {
        prefetch_all(&self.done);
        prefetch_all(&self.account_sources);
        prefetch_all(&self.slot_sources);
        prefetch_all(&self.account_writes);
        prefetch_all(&self.slot_writes);
    }

    /// Has the records that speculation `at` would write brought near.
    pub(super) fn bring(&self, store: &Store, at: usize) {
        let Some(Speculation { ends, .. }) = self.done.get(at) else { return };
        let begins = self.begins(at);
        for source in &self.account_sources[begins.accounts..ends.accounts] {
            if let Source::Cached(id, _) = source {
                store.bring_account_to_write(*id);
            }
        }
        for source in &self.slot_sources[begins.slots..ends.slots] {
            if let Source::Cached(id, _) = source {
                store.bring_slot_to_write(*id);
            }
        }
    }

    /// Speculation `at` has looked at an account, which is given by its record and its address.
    pub(super) fn reads(&self, at: usize, (id, address): (Id, Address)) -> bool {
        (self.begins(at).accounts..self.done[at].ends.accounts).any(|read| {
            match self.account_sources[read] {
                Source::Cached(known, _) => known == id,
                _ => self.accounts[read].address == address,
            }
        })
    }

    /// Looks whether all that speculation `at` read still is so, and notes the records for
    /// `apply`. `cost` is what the sender must be able to pay.
    ///
    /// # Errors
    /// Where the view cannot be read.
    pub(super) fn check(
        &mut self,
        store: &mut Store,
        at: usize,
        (sender, cost): (Address, U256),
    ) -> Result<Result<(), Conflict>, ReadError> {
        if planted(Fault::NoCheck) {
            return Ok(Ok(()));
        }
        let (begins, ends) = (self.begins(at), self.done[at].ends);
        self.shifted.clear();
        for at in begins.accounts..ends.accounts {
            let source = &mut self.account_sources[at];
            let is_passed_over = planted(Fault::NoAccountCheck)
                || (planted(Fault::ExpectationTrusted) && *source == Source::Own);
            let id = match *source {
                _ if is_passed_over => continue,
                Source::Cached(id, version) if store.account_version(id) == version => continue,
                Source::Cached(id, _) => id,
                Source::Own | Source::Unread => store.account_id(self.accounts[at].address)?,
                Source::Below => {
                    store.adopt_account(self.accounts[at].address, self.accounts[at].hot)
                }
            };
            *source = Source::Cached(id, store.account_version(id));
            let (read, now) = (&self.accounts[at], store.hot(id));
            let least = if read.address == sender { cost } else { U256::ZERO };
            let is_free = read.any_balance || planted(Fault::LookedAtBalanceIsFree);
            if now != read.hot {
                if !(is_free && differs_in_wei(&read.hot, &now, least)) {
                    return Ok(Err(Conflict { address: read.address, slot: None }));
                }
                self.shifted.push(u32::try_from(at).unwrap_or(u32::MAX));
            }
        }
        for at in begins.slots..ends.slots {
            let source = &mut self.slot_sources[at];
            let is_passed_over = planted(Fault::NoSlotCheck)
                || (planted(Fault::ExpectationTrusted) && *source == Source::Own);
            let id = match *source {
                Source::Unread => continue,
                _ if is_passed_over => continue,
                Source::Cached(id, version) if store.slot_version(id) == version => continue,
                Source::Cached(id, _) => id,
                Source::Own => {
                    let SlotRead { address, slot, incarnation, .. } = self.slots[at];
                    store.slot_id(address, incarnation, &slot)?
                }
                Source::Below => {
                    let SlotRead { address, slot, incarnation, value } = self.slots[at];
                    store.adopt_slot(address, incarnation, &slot, value)
                }
            };
            *source = Source::Cached(id, store.slot_version(id));
            let SlotRead { address, slot, value, .. } = self.slots[at];
            if store.slot(id) != value {
                return Ok(Err(Conflict { address, slot: Some(slot) }));
            }
        }
        Ok(Ok(()))
    }

    /// Writes what speculation `at` would write. `check` has passed.
    ///
    /// # Errors
    /// Where the view cannot be read.
    pub(super) fn apply(&mut self, store: &mut Store, at: usize) -> Result<(), ReadError> {
        let (begins, ends) = (self.begins(at), self.done[at].ends);
        let mut slots_done = begins.slot_writes;
        for write in &self.account_writes[begins.account_writes..ends.account_writes] {
            let read = write.read as usize;
            let id = match self.account_sources[read] {
                Source::Cached(id, _) => id,
                _ => store.account_id(self.accounts[read].address)?,
            };
            let is_shifted = self.shifted.contains(&write.read);
            match &write.becomes {
                Becomes::Same => {}
                Becomes::Paid { nonce, balance } if !is_shifted => {
                    store.set_nonce_and_balance(id, *nonce, balance);
                }
                other => {
                    let seen = &self.accounts[read].hot;
                    let after = other.after(seen);
                    let after = if is_shifted { moved(after, seen, &store.hot(id)) } else { after };
                    if let (Some(after), Some(code)) = (&after, other.code())
                        && !planted(Fault::CodeDropped)
                    {
                        store.keep_fresh_code(id, after, code);
                    }
                    let created = other.is_created() && !planted(Fault::VoidDropped);
                    store.leave_account(id, after, created);
                }
            }
            let slots_end = write.slots_end as usize;
            for slot in &self.slot_writes[slots_done..slots_end] {
                let slot_id = match self.slot_sources[slot.read as usize] {
                    Source::Cached(id, _) if !write.becomes.is_created() => id,
                    _ => {
                        let SlotRead { address, slot, .. } = self.slots[slot.read as usize];
                        store.slot_id(address, store.hot(id).incarnation, &slot)?
                    }
                };
                store.set_slot(id, slot_id, slot.value);
            }
            slots_done = slots_end;
        }
        Ok(())
    }
}

impl Becomes {
    /// The account then, which is `seen` before.
    pub(super) fn after(&self, seen: &Hot) -> Option<Account> {
        match self {
            Self::Same => seen.account,
            Self::Paid { nonce, balance } => {
                let seen = seen.account.unwrap_or_default();
                Some(Account { nonce: *nonce, balance: *balance, ..seen })
            }
            Self::Other(other) => other.after,
        }
    }

    /// It is created, again or for the first time.
    pub(super) fn is_created(&self) -> bool {
        matches!(self, Self::Other(other) if other.created)
    }

    /// Its code, where it is new.
    pub(super) fn code(&self) -> Option<&Bytecode> {
        match self {
            Self::Other(other) => other.code.as_ref(),
            _ => None,
        }
    }
}

/// Wei below which two balances can be added; more is refused here and left to the EVM.
pub(super) const WEI_MAX: U256 = U256::from_limbs([0, 0, 0, 1 << 62]);

/// The account still is what it was but for its balance, which is enough, and not too much.
fn differs_in_wei(seen: &Hot, now: &Hot, least: U256) -> bool {
    let (Some(was), Some(is)) = (seen.account, now.account) else { return false };
    let alike = Account { balance: was.balance, ..is } == was;
    // EIP-161: whether an account is empty is looked at by whoever calls it.
    let exist = !was.is_empty() && !is.is_empty();
    let is_same = seen.incarnation == now.incarnation && alike && exist;
    is_same && is.balance >= least && is.balance < WEI_MAX
}

/// What becomes of an account that is `now`, by what would have become of it as it was `seen`.
fn moved(after: Option<Account>, seen: &Hot, now: &Hot) -> Option<Account> {
    let (Some(after), Some(was), Some(is)) = (after, seen.account, now.account) else {
        return after;
    };
    if planted(Fault::DifferenceDropped) {
        return Some(after);
    }
    // Equal but for the sum, whose wrapping undoes itself: what is paid can be paid.
    let balance = is.balance.wrapping_add(after.balance).wrapping_sub(was.balance);
    Some(Account { balance, ..after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{B256, KECCAK256_EMPTY};

    fn hot(balance: u64, nonce: u64) -> Hot {
        let balance = U256::from(balance);
        let account = Account { nonce, balance, code_hash: KECCAK256_EMPTY };
        Hot { account: Some(account), incarnation: 0 }
    }

    #[test]
    fn only_a_balance_that_suffices_may_differ() {
        let least = U256::from(50);
        assert!(differs_in_wei(&hot(100, 1), &hot(50, 1), least));
        assert!(!differs_in_wei(&hot(100, 1), &hot(49, 1), least), "it cannot pay");
        assert!(!differs_in_wei(&hot(100, 1), &hot(100, 2), least), "another nonce");
        let gone = Hot { account: None, incarnation: 0 };
        assert!(!differs_in_wei(&hot(100, 1), &gone, U256::ZERO), "gone");
        assert!(!differs_in_wei(&gone, &hot(100, 1), U256::ZERO), "come");
        assert!(!differs_in_wei(&hot(0, 0), &hot(1, 0), U256::ZERO), "no longer empty");
        assert!(!differs_in_wei(&hot(1, 0), &hot(0, 0), U256::ZERO), "empty now");
        let anew = Hot { incarnation: 1, ..hot(60, 1) };
        assert!(!differs_in_wei(&hot(100, 1), &anew, least), "made anew");
        let code = Account { code_hash: B256::repeat_byte(1), ..hot(60, 1).account.unwrap() };
        let coded = Hot { account: Some(code), incarnation: 0 };
        assert!(!differs_in_wei(&hot(100, 1), &coded, least), "it has code now");
        let rich = Account { balance: WEI_MAX, ..hot(60, 1).account.unwrap() };
        let rich = Hot { account: Some(rich), incarnation: 0 };
        assert!(!differs_in_wei(&hot(100, 1), &rich, least), "too much to add to");
    }
}
