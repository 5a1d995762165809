//! What the engine counts: how transactions were executed, and what speculations failed on.

use crate::types::map::Map;
use alloy_primitives::Address;

/// Addresses whose conflicts are counted.
const CONFLICTS_KNOWN_MAX: usize = 4_096;

/// What the engine has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Plain transfers, done in the ledger.
    pub direct: u64,
    /// Executed by a lane and taken over.
    pub ahead: u64,
    /// Executed in place by the committing thread; those below among them.
    pub in_place: u64,
    /// Executed by a lane and again in place, because what was read had changed.
    pub aborted: u64,
    /// Given up by a lane: only the committing thread could execute them.
    pub abandoned: u64,
}

/// How often speculations failed on an account: its balance, nonce, code or a slot had changed.
#[derive(Debug, Default)]
pub struct Conflicts(Map<Address, u64>);

impl Conflicts {
    pub(super) fn note(&mut self, address: Address) {
        if self.0.len() < CONFLICTS_KNOWN_MAX || self.0.contains_key(&address) {
            *self.0.entry(address).or_default() += 1;
        }
    }

    /// The worst, and everything counts half from now on.
    pub fn top(&mut self, count: usize) -> Vec<(Address, u64)> {
        let mut all: Vec<(Address, u64)> = self.0.iter().map(|(at, times)| (*at, *times)).collect();
        all.sort_unstable_by_key(|(address, times)| (std::cmp::Reverse(*times), *address));
        all.truncate(count);
        self.0.retain(|_, times| {
            *times /= 2;
            *times > 0
        });
        all
    }
}
