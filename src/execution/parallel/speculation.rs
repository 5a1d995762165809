//! What a lane did ahead of time: what it read, and what it would write. The committing thread
//! checks the first and applies the second.

use crate::execution::{
    cache::Hot,
    evm::Executed,
    parallel::planted::{Fault, planted},
    store::{ReadError, Store},
    table::Id,
};
use crate::types::diff::Account;
use alloy_primitives::{Address, U256};
use revm::state::Bytecode;

/// Where a value was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// In the cache: the record and its version.
    Cached(Id, u64),
    /// Among what the lane itself would write.
    Own,
    /// Below the cache.
    Below,
}

/// An account as it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct AccountRead {
    pub(super) address: Address,
    pub(super) source: Source,
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
    pub(super) source: Source,
    pub(super) value: U256,
}

/// What would become of an account.
#[derive(Debug)]
pub(super) struct AccountWrite {
    /// Its place among the reads.
    pub(super) read: usize,
    pub(super) after: Option<Account>,
    pub(super) created: bool,
    /// Where it is new.
    pub(super) code: Option<Bytecode>,
    /// Slots up to here, from where the account before ends.
    pub(super) slots_end: usize,
}

/// What would become of a slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotWrite {
    pub(super) slot: U256,
    /// Its place among the reads.
    pub(super) read: Option<usize>,
    pub(super) value: U256,
}

/// Everything that one transaction did ahead of its time.
#[derive(Debug, Default)]
pub(super) struct Speculation {
    pub(super) accounts: Vec<AccountRead>,
    pub(super) slots: Vec<SlotRead>,
    pub(super) account_writes: Vec<AccountWrite>,
    pub(super) slot_writes: Vec<SlotWrite>,
    /// `None` where the lane gave up: then nothing else counts.
    pub(super) executed: Option<Executed>,
}

/// What was read is no longer so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Conflict {
    pub(super) address: Address,
    pub(super) slot: Option<U256>,
}

impl Speculation {
    /// Forgets everything but its room.
    pub(super) fn clear(&mut self) {
        self.accounts.clear();
        self.slots.clear();
        self.account_writes.clear();
        self.slot_writes.clear();
        self.executed = None;
    }

    /// Looks whether all that was read still is so, and notes the records for `apply`. `cost` is
    /// what the sender must be able to pay.
    ///
    /// # Errors
    /// Where the view cannot be read.
    pub(super) fn check(
        &mut self,
        store: &mut Store,
        sender: Address,
        cost: U256,
    ) -> Result<Result<(), Conflict>, ReadError> {
        if planted(Fault::NoCheck) {
            return Ok(Ok(()));
        }
        for read in &mut self.accounts {
            if planted(Fault::NoAccountCheck)
                || (planted(Fault::ExpectationTrusted) && read.source == Source::Own)
            {
                continue;
            }
            let id = match read.source {
                Source::Cached(id, version) if store.account_version(id) == version => continue,
                Source::Cached(id, _) => id,
                Source::Own => store.account_id(read.address)?,
                Source::Below => store.adopt_account(read.address, read.hot),
            };
            read.source = Source::Cached(id, store.account_version(id));
            let now = store.hot(id);
            let least = if read.address == sender { cost } else { U256::ZERO };
            let is_free = read.any_balance || planted(Fault::LookedAtBalanceIsFree);
            if now != read.hot && !(is_free && differs_in_wei(&read.hot, &now, least)) {
                return Ok(Err(Conflict { address: read.address, slot: None }));
            }
        }
        for read in &mut self.slots {
            if planted(Fault::NoSlotCheck)
                || (planted(Fault::ExpectationTrusted) && read.source == Source::Own)
            {
                continue;
            }
            let SlotRead { address, slot, incarnation, .. } = *read;
            let id = match read.source {
                Source::Cached(id, version) if store.slot_version(id) == version => continue,
                Source::Cached(id, _) => id,
                Source::Own => store.slot_id(address, incarnation, &slot)?,
                Source::Below => store.adopt_slot(address, incarnation, &slot, read.value),
            };
            read.source = Source::Cached(id, store.slot_version(id));
            if store.slot(id) != read.value {
                return Ok(Err(Conflict { address, slot: Some(slot) }));
            }
        }
        Ok(Ok(()))
    }

    /// Writes what it would write. `check` has passed.
    ///
    /// # Errors
    /// Where the view cannot be read.
    pub(super) fn apply(&mut self, store: &mut Store) -> Result<(), ReadError> {
        let mut slots_done = 0;
        for write in &self.account_writes {
            let read = &self.accounts[write.read];
            let id = match read.source {
                Source::Cached(id, _) => id,
                Source::Own | Source::Below => store.account_id(read.address)?,
            };
            let now = store.hot(id);
            if let (Some(after), Some(code)) = (&write.after, &write.code)
                && !planted(Fault::CodeDropped)
            {
                store.keep_fresh_code(id, after, code);
            }
            let created = write.created && !planted(Fault::VoidDropped);
            store.leave_account(id, moved(write.after, &read.hot, &now), created);
            let Hot { incarnation, .. } = store.hot(id);
            for slot in &self.slot_writes[slots_done..write.slots_end] {
                let known = slot.read.map(|at| &self.slots[at]);
                let slot_id = match known.map(|read| (read.source, read.incarnation)) {
                    Some((Source::Cached(id, _), of)) if of == incarnation => id,
                    _ => store.slot_id(read.address, incarnation, &slot.slot)?,
                };
                store.set_slot(id, slot_id, slot.value);
            }
            slots_done = write.slots_end;
        }
        Ok(())
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
