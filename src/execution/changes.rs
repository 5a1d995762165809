//! What changed since the last diff was taken, and that diff.

use crate::execution::{
    cache::{Cache, Codes, Hot},
    table::{Entry, Id},
    words::{Accounts, address_of, code_key, hot_of, incarnation_of, is_cold, slot_of},
};
use crate::types::{
    diff::{AccountDiff, Diff, Slots},
    listed::Listed,
    map::Map,
};
use alloy_primitives::{Address, U256};

/// Records that are brought near before they are needed.
const RECORDS_AHEAD: usize = 12;
/// A diff has room for this many times its accounts, at most.
const ROOM_LEFT_MAX: usize = 2;

/// What may differ since the last `take`. A record's mark is its place in a list, where the
/// record is named at that place.
#[derive(Default)]
pub(super) struct Changes {
    /// The next diff, but that it still holds accounts as they were at the last one, without slots.
    accounts: Vec<(Address, AccountDiff)>,
    /// Of each its record, and how many of its slots are listed.
    records: Vec<(Id, u32)>,
    slots: Vec<SlotChange>,
}

/// A slot as it was at the last `take`.
struct SlotChange {
    /// Its account's place among the changes.
    of: u32,
    id: Id,
    before: U256,
}

impl Changes {
    /// The place of an account, which is as it was or noted already, among the changes.
    #[inline]
    pub(super) fn note(&mut self, id: Id, entry: &mut Entry<'_, 3, 4, 6>) -> usize {
        let mark = entry.mark() as usize;
        if self.records.get(mark).is_some_and(|(known, _)| *known == id) {
            return mark;
        }
        let at = self.accounts.len();
        entry.set_mark(number_of(at));
        let account = hot_of(&entry.value(is_cold)).account;
        let before = AccountDiff { account, ..AccountDiff::default() };
        self.accounts.push((address_of(&entry.key()), before));
        self.records.push((id, 0));
        at
    }

    /// Notes a slot, which is as it was or noted already; its account lies in `accounts`.
    #[inline]
    pub(super) fn note_slot(
        &mut self,
        (id, entry): (Id, &mut Entry<'_, 7, 4, 0>),
        (of, accounts): (Id, &mut Accounts),
    ) {
        let noted = self.slots.get(entry.mark() as usize);
        if noted.is_some_and(|noted| noted.id == id) {
            return;
        }
        entry.set_mark(number_of(self.slots.len()));
        let at = self.note(of, &mut accounts.entry(of));
        self.records[at].1 += 1;
        let before = U256::from_limbs(entry.hot());
        self.slots.push(SlotChange { of: number_of(at), id, before });
    }

    /// Notes that the storage of an account is void.
    pub(super) fn note_wiped(&mut self, id: Id, entry: &mut Entry<'_, 3, 4, 6>) {
        let at = self.note(id, entry);
        let exists = hot_of(&entry.value(is_cold)).account.is_some();
        self.accounts[at].1.wiped |= exists;
    }

    /// So many transactions come before the next `take`: most have two parties.
    pub(super) fn expect(&mut self, transactions: usize) {
        self.accounts.reserve(2 * transactions + 1);
    }

    /// Exactly the accounts, slots and codes that differ.
    pub(super) fn take(&mut self, cache: &Cache, codes: &Codes) -> Diff {
        if !self.slots.is_sorted_by_key(|slot| slot.of) {
            // Stable or not: of a slot that changed twice there is only one entry anyway.
            self.slots.sort_unstable_by_key(|slot| slot.of);
        }
        let mut accounts = std::mem::take(&mut self.accounts);
        let (mut same, mut fresh) = (Vec::new(), Map::default());
        let mut next_slot = 0;
        for (at, ((_, change), (id, slots))) in accounts.iter_mut().zip(&self.records).enumerate() {
            if let Some((far, _)) = self.records.get(at + RECORDS_AHEAD) {
                cache.accounts.reader().bring(*far);
            }
            let Hot { account, incarnation } = hot_of(&cache.accounts.own(*id, is_cold));
            change.wiped &= change.account.is_some();
            let slots = *slots as usize;
            if slots > 0 {
                change.storage = Slots::with_capacity(slots);
            }
            for at in next_slot..next_slot + slots {
                if let Some(far) = self.slots.get(at + RECORDS_AHEAD) {
                    cache.slots.reader().bring(far.id);
                }
                let slot = &self.slots[at];
                let key = cache.slots.reader().key(slot.id);
                let before = if change.wiped { U256::ZERO } else { slot.before };
                let now = U256::from_limbs(cache.slots.hot(slot.id));
                if incarnation_of(&key) == incarnation && before != now {
                    change.storage.push(slot_of(&key), now);
                }
            }
            next_slot += slots;
            if change.account == account && !change.wiped && change.storage.is_empty() {
                same.push(at);
                continue;
            }
            change.account = account;
            if let Some(account) = account
                && let Some(code) = codes.fresh.get(&code_key(account.code_hash))
            {
                fresh.insert(account.code_hash, code.original_bytes());
            }
        }
        leave_out(&mut accounts, &same);
        if accounts.len() < accounts.capacity() / ROOM_LEFT_MAX {
            accounts.shrink_to_fit();
        }
        self.records.clear();
        self.slots.clear();
        Diff { accounts: Listed::of_unique(accounts), codes: fresh }
    }
}

/// Removes what stands at these places, which are in order.
fn leave_out<T>(list: &mut Vec<T>, places: &[usize]) {
    if places.is_empty() {
        return;
    }
    let (mut at, mut places) = (0, places.iter().peekable());
    list.retain(|_| {
        at += 1;
        places.next_if_eq(&&(at - 1)).is_none()
    });
}

fn number_of(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}
