//! Whether execution begins with a mini-block before its interval ends, and what room is left in
//! one that is begun. Pure.
//!
//! Plain transfers are not worth it: thousands of them are executed in less than a millisecond.

use crate::ordering::policy::CutLimits;
use crate::types::{ids::TimestampUs, limits::TRANSFER_GAS, transaction::SharedTransaction};

/// It is looked as long as calls come, and this long after: each look wakes the thread.
const LOOKS_LAST_US: u64 = 1_000_000;

/// The mini-block of the current interval.
#[derive(Debug)]
pub struct Early {
    /// What a mini-block may hold.
    limits: CutLimits,
    /// Gas for code at which to begin; 0: never.
    enough_gas: u64,
    /// Gas for code of what came since the last cut.
    fresh_gas: u64,
    /// When to stop looking for more of it within intervals.
    look_until_us: TimestampUs,
    /// What the mini-block may still hold, where it is begun.
    room: Option<CutLimits>,
}

impl Early {
    /// Mini-blocks hold no more than `limits`, and are begun once what came may use as much gas as
    /// `enough_gas` beyond that of plain transfers; 0: at the end of their interval.
    pub fn new(limits: CutLimits, enough_gas: u64) -> Self {
        Self { limits, enough_gas, fresh_gas: 0, look_until_us: 0, room: None }
    }

    /// Notes a transaction that came.
    pub fn came(&mut self, tx: &SharedTransaction, now_us: TimestampUs) {
        let gas = tx.gas_limit().saturating_sub(TRANSFER_GAS);
        if gas > 0 && self.enough_gas > 0 {
            self.fresh_gas += gas;
            self.look_until_us = now_us + LOOKS_LAST_US;
        }
    }

    /// There is reason to look within an interval what came.
    pub fn looks(&self, now_us: TimestampUs) -> bool {
        now_us < self.look_until_us
    }

    /// Enough came to begin, or to go on.
    pub fn is_worthwhile(&self) -> bool {
        self.enough_gas > 0 && self.fresh_gas >= self.enough_gas
    }

    /// The mini-block is begun and has not ended.
    pub fn has_begun(&self) -> bool {
        self.room.is_some()
    }

    /// What the next cut may hold; whatever came is considered for it.
    pub fn room(&mut self) -> CutLimits {
        self.fresh_gas = 0;
        self.room.unwrap_or(self.limits)
    }

    /// These get their places in the mini-block, which does not end with them.
    pub fn begin(&mut self, transactions: &[SharedTransaction]) {
        self.room.get_or_insert(self.limits).take(transactions);
    }

    /// These have no places any more.
    pub fn give_back(&mut self, transactions: &[SharedTransaction]) {
        if let Some(room) = &mut self.room {
            room.give_back(transactions);
        }
    }

    /// The mini-block ends.
    pub fn end(&mut self) {
        self.room = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ordering::tests::{sized, transaction};

    fn call(nonce: u64) -> SharedTransaction {
        sized(1, nonce, (9, 9), (71_000, 100))
    }

    #[test]
    fn calls_are_worth_it_and_transfers_are_not() {
        let mut early = Early::new(CutLimits::new(0), 100_000);
        for nonce in 0..100 {
            early.came(&transaction(1, nonce, 9, 9), 5);
        }
        assert!(!early.is_worthwhile() && !early.looks(5));
        early.came(&call(0), 5);
        assert!(!early.is_worthwhile(), "50,000 so far");
        assert!(early.looks(LOOKS_LAST_US + 4) && !early.looks(LOOKS_LAST_US + 5));
        early.came(&call(1), 6);
        assert!(early.is_worthwhile());
        early.room();
        assert!(!early.is_worthwhile(), "they were considered");
        let mut never = Early::new(CutLimits::new(0), 0);
        never.came(&call(0), 5);
        assert!(!never.is_worthwhile() && !never.looks(5));
    }

    #[test]
    fn a_mini_block_has_the_same_room_in_parts() {
        let limits = CutLimits::new(20_000_000);
        let mut early = Early::new(limits, 1);
        let [one, two] = [0, 1].map(|nonce| [call(nonce)]);
        early.begin(&one);
        early.begin(&two);
        let mut less = limits;
        less.take(&[one, two.clone()].concat());
        assert_eq!((early.room(), early.has_begun()), (less, true));
        early.give_back(&two);
        less.give_back(&two);
        assert_eq!(early.room(), less);
        early.end();
        assert_eq!((early.room(), early.has_begun()), (limits, false));
        early.give_back(&two);
        assert_eq!(early.room(), limits, "of the mini-block before");
    }
}
