//! One sender's waiting transactions in nonce order: which are with ordering, which are held.

use crate::types::{ids::TimestampUs, transaction::SharedTransaction};
use alloy_primitives::U256;
use std::collections::VecDeque;

/// What a decoded transaction takes besides two copies of its bytes (raw and input): envelope,
/// reference counts, its places in the pool's and ordering's maps.
const OVERHEAD_BYTES: usize = 1_024;

/// Memory that a waiting transaction takes, bytes, rounded up.
pub(super) fn weight(tx: &SharedTransaction) -> usize {
    OVERHEAD_BYTES + 2 * tx.raw.len()
}

/// One waiting transaction.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) tx: SharedTransaction,
    pub(super) nonce: u64,
    pub(super) cost: U256,
    pub(super) arrived_us: TimestampUs,
}

/// A number of transactions and their weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Load {
    pub(super) count: usize,
    pub(super) bytes: usize,
}

/// Transactions of one sender. Those below `released_to` are with ordering; the others are held
/// until the gap before them closes.
#[derive(Debug)]
pub(super) struct SenderQueue {
    entries: VecDeque<Entry>,
    /// The least nonce that the chain can still take, as far as we know.
    chain_nonce: u64,
    /// The next nonce to hand to ordering; never below `chain_nonce`.
    released_to: u64,
    /// Wei that all entries may cost.
    cost: U256,
    /// Stands in the pool's list of senders to look at again.
    pub(super) listed: bool,
}

impl SenderQueue {
    pub(super) fn new(chain_nonce: u64) -> Self {
        Self {
            entries: VecDeque::with_capacity(1),
            chain_nonce,
            released_to: chain_nonce,
            cost: U256::ZERO,
            listed: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn chain_nonce(&self) -> u64 {
        self.chain_nonce
    }

    pub(super) fn released_to(&self) -> u64 {
        self.released_to
    }

    /// Something waits with ordering.
    pub(super) fn any_released(&self) -> bool {
        self.entries.front().is_some_and(|entry| entry.nonce < self.released_to)
    }

    /// What is held.
    pub(super) fn held(&self) -> Load {
        let held = self.entries.iter().rev().take_while(|entry| entry.nonce >= self.released_to);
        held.fold(Load::default(), |load, entry| Load {
            count: load.count + 1,
            bytes: load.bytes + weight(&entry.tx),
        })
    }

    pub(super) fn at(&self, nonce: u64) -> Option<&Entry> {
        self.place(nonce).ok().and_then(|at| self.entries.get(at))
    }

    fn place(&self, nonce: u64) -> Result<usize, usize> {
        match self.entries.back() {
            Some(last) if last.nonce < nonce => Err(self.entries.len()),
            None => Err(0),
            _ => self.entries.binary_search_by_key(&nonce, |entry| entry.nonce),
        }
    }

    /// Wei that entries from `nonce` on may cost; those before it are paid in that state already.
    pub(super) fn cost_from(&self, nonce: u64) -> U256 {
        let paid = self.entries.iter().take_while(|entry| entry.nonce < nonce);
        paid.fold(self.cost, |cost, entry| cost.saturating_sub(entry.cost))
    }

    /// Puts an entry at its nonce and returns the one that it replaces.
    pub(super) fn put(&mut self, entry: Entry) -> Option<Entry> {
        self.cost = self.cost.saturating_add(entry.cost);
        match self.place(entry.nonce) {
            Ok(at) => {
                let old = std::mem::replace(&mut self.entries[at], entry);
                self.cost = self.cost.saturating_sub(old.cost);
                Some(old)
            }
            Err(at) => {
                self.entries.insert(at, entry);
                None
            }
        }
    }

    pub(super) fn remove(&mut self, nonce: u64) -> Option<Entry> {
        let entry = self.entries.remove(self.place(nonce).ok()?)?;
        self.cost = self.cost.saturating_sub(entry.cost);
        Some(entry)
    }

    /// Learns that the chain has come to `nonce`; removes held entries that can no longer run.
    ///
    /// Released entries below it stay: whoever executes them will say so.
    pub(super) fn advance(&mut self, nonce: u64, removed: &mut Vec<Entry>) {
        if nonce <= self.chain_nonce {
            return;
        }
        self.chain_nonce = nonce;
        let stale: Vec<u64> = self
            .entries
            .iter()
            .map(|entry| entry.nonce)
            .filter(|held| (self.released_to..nonce).contains(held))
            .collect();
        removed.extend(stale.into_iter().filter_map(|held| self.remove(held)));
        self.released_to = self.released_to.max(nonce);
    }

    /// The entry whose turn it is to be released.
    pub(super) fn next(&self) -> Option<&SharedTransaction> {
        self.at(self.released_to).map(|entry| &entry.tx)
    }

    /// The entry that `next` gave is with ordering now.
    pub(super) fn mark_released(&mut self) {
        self.released_to += 1;
    }

    /// The entry at `nonce` was not executed: what is after it waits again for that nonce.
    pub(super) fn hold_from(&mut self, nonce: u64) {
        self.released_to = self.released_to.min(nonce.max(self.chain_nonce));
    }

    /// Removes held entries that waited too long or that `balance` cannot pay.
    pub(super) fn prune_held(
        &mut self,
        balance: U256,
        arrived_before_us: TimestampUs,
        removed: &mut Vec<Entry>,
    ) {
        let void: Vec<u64> = self
            .entries
            .iter()
            .filter(|entry| entry.nonce >= self.released_to)
            .filter(|entry| entry.cost > balance || entry.arrived_us < arrived_before_us)
            .map(|entry| entry.nonce)
            .collect();
        removed.extend(void.into_iter().filter_map(|nonce| self.remove(nonce)));
    }
}
