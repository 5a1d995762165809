//! Rows at hand: those newer than the checkpoint, and as many older ones as the budget allows.

use crate::trie::{nibbles::Key, root::RootError};
use crate::types::{block::NodeKey, ids::BlockNumber, map::Map, view::NodeSource};
use alloy_primitives::{B256, Bytes};
use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// What a held row costs beside its bytes and path, as allocators and the map have it.
const ROW_OVERHEAD_BYTES: usize = 192;
/// A sweep leaves this many percent of the budget.
const SWEEP_TO_PERCENT: usize = 75;
/// Bytes that memory hands to a core at a time.
const CACHE_LINE_BYTES: usize = 64;

/// The store under a trie.
pub(crate) struct Rows {
    source: Arc<dyn NodeSource>,
    /// Apart from `storages`, so that a key and its row's place fit a cache line.
    accounts: Map<Place, Held>,
    storages: Map<(B256, Place), Held>,
    held_bytes: usize,
    budget_bytes: usize,
    /// First block that `source` lacks.
    uncovered: BlockNumber,
    /// Counts updates; the clock of `Held::used`.
    turn: u64,
}

struct Held {
    row: Option<Bytes>,
    /// The block that changed it, plus one; zero where it came from the source.
    changed: BlockNumber,
    used: u64,
}

/// A path as a map's key: short ones, which means nearly all, without a pointer to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// A one, then up to 15 nibbles.
    Short(u64),
    Long(Box<[u8]>),
}

/// Nibbles of the longest path that is `Place::Short`.
const SHORT_NIBBLES_MAX: usize = 15;

impl Place {
    fn new(path: &[u8]) -> Self {
        if path.len() > SHORT_NIBBLES_MAX {
            return Self::Long(path.into());
        }
        Self::Short(path.iter().fold(1, |packed, nibble| packed << 4 | u64::from(*nibble)))
    }

    fn len(&self) -> usize {
        match self {
            Self::Short(packed) => packed.ilog2() as usize / 4,
            Self::Long(path) => path.len(),
        }
    }
}

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Short(packed) => state.write_u64(*packed),
            Self::Long(path) => state.write(path),
        }
    }
}

impl Rows {
    pub(crate) fn new(source: Arc<dyn NodeSource>, budget_bytes: usize) -> Self {
        Self {
            source,
            accounts: Map::default(),
            storages: Map::default(),
            held_bytes: 0,
            budget_bytes,
            uncovered: 0,
            turn: 0,
        }
    }

    /// The row.
    pub(crate) fn get(&mut self, key: &NodeKey) -> Result<Option<Bytes>, RootError> {
        let mut row = Vec::new();
        self.copy_to(key, &mut row).map(|found| found.map(|_| row.into()))
    }

    /// Appends the row to `out`. Says whether it came from the source just now and so was never
    /// checked; `None` where there is no row.
    pub(crate) fn copy_to(
        &mut self,
        key: &NodeKey,
        out: &mut Vec<u8>,
    ) -> Result<Option<bool>, RootError> {
        let turn = self.turn;
        if let Some(held) = self.held(key) {
            held.used = turn;
            return Ok(held.row.as_ref().map(|row| {
                out.extend_from_slice(row);
                false
            }));
        }
        let Some(row) = self.source.row(key)? else { return Ok(None) };
        out.extend_from_slice(&row);
        self.hold(key, Some(row), 0);
        Ok(Some(true))
    }

    /// Asks memory for the rows of the account trie that walks to `keys` will read below `depth`,
    /// so that their ways into the core's caches overlap.
    pub(crate) fn warm<'k>(&self, keys: impl Iterator<Item = &'k Key>, depth: usize) {
        let mut before = None;
        for key in keys {
            // What it shares with the key before is asked for already.
            let shared = before.map_or(depth, |before| key.common_with(depth, before) + depth);
            for depth in shared + 1..=SHORT_NIBBLES_MAX.min(key.len()) {
                let place = Place::Short(key.first_nibbles(depth) | 1 << (4 * depth));
                let Some(Held { row: Some(row), .. }) = self.accounts.get(&place) else { break };
                prefetch(row);
            }
            before = Some(key);
        }
    }

    /// Takes what an update of `block` changed, then makes room.
    pub(crate) fn commit(&mut self, block: BlockNumber, rows: &[(NodeKey, Option<Bytes>)]) {
        for (key, row) in rows {
            self.hold(key, row.clone(), block + 1);
        }
        self.turn += 1;
        self.keep_to_budget();
    }

    /// Rows up to `block` are in `source` from now on and may go from memory.
    pub(crate) fn checkpointed(&mut self, block: BlockNumber, source: Arc<dyn NodeSource>) {
        self.uncovered = block + 1;
        self.source = source;
        self.keep_to_budget();
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    fn held(&mut self, key: &NodeKey) -> Option<&mut Held> {
        let place = Place::new(&key.path);
        match key.owner {
            None => self.accounts.get_mut(&place),
            Some(owner) => self.storages.get_mut(&(owner, place)),
        }
    }

    fn hold(&mut self, key: &NodeKey, row: Option<Bytes>, changed: BlockNumber) {
        let new = Held { row, changed, used: self.turn };
        let path_len = key.path.len();
        let cost = new.cost(path_len);
        if let Some(held) = self.held(key) {
            let old = std::mem::replace(held, new);
            self.held_bytes -= old.cost(path_len);
        } else {
            let place = Place::new(&key.path);
            match key.owner {
                None => self.accounts.insert(place, new),
                Some(owner) => self.storages.insert((owner, place), new),
            };
        }
        self.held_bytes += cost;
    }

    /// Drops what was not used for longest. Each sweep frees a quarter of the budget, so its cost
    /// spreads over all the rows that fill that quarter again.
    fn keep_to_budget(&mut self) {
        if self.held_bytes <= self.budget_bytes {
            return;
        }
        let goal = self.budget_bytes / 100 * SWEEP_TO_PERCENT;
        let mut excess = self.held_bytes.saturating_sub(goal);
        let mut by_use = BTreeMap::<u64, usize>::new();
        let uncovered = self.uncovered;
        let mut count = |place: &Place, held: &Held| {
            if held.changed <= uncovered {
                *by_use.entry(held.used).or_default() += held.cost(place.len());
            }
        };
        // Sums do not depend on order.
        self.accounts.iter().for_each(|(place, held)| count(place, held));
        self.storages.iter().for_each(|((_, place), held)| count(place, held));
        let mut oldest_kept = 0;
        for (used, bytes) in by_use {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(bytes);
            oldest_kept = used + 1;
        }
        let mut freed = 0;
        let mut stays = |place: &Place, held: &Held| {
            let stays = held.changed > uncovered || held.used >= oldest_kept;
            freed += if stays { 0 } else { held.cost(place.len()) };
            stays
        };
        self.accounts.retain(|place, held| stays(place, held));
        self.storages.retain(|(_, place), held| stays(place, held));
        self.held_bytes -= freed;
    }
}

impl Held {
    fn cost(&self, path_len: usize) -> usize {
        ROW_OVERHEAD_BYTES + path_len + self.row.as_ref().map_or(0, |row| row.len())
    }
}

/// Asks for each cache line of `bytes`, and waits for none.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "a load in its place would make the core wait")]
fn prefetch(bytes: &[u8]) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in bytes.chunks(CACHE_LINE_BYTES) {
        // SAFETY: a hint that reads nothing, on an address inside of `bytes`; every x86-64 has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
    }
}

/// Reads each cache line of `bytes`.
#[cfg(not(target_arch = "x86_64"))]
fn prefetch(bytes: &[u8]) {
    std::hint::black_box(bytes.iter().step_by(CACHE_LINE_BYTES).fold(0, |sum, byte| sum ^ byte));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_paths_share_a_place() {
        let paths: Vec<Vec<u8>> = [vec![], vec![0], vec![0, 0], vec![1], vec![1, 0]]
            .into_iter()
            .chain([14, 15, 16, 17, 64].map(|len| vec![0; len]))
            .chain([14, 15, 16, 17, 64].map(|len| vec![15; len]))
            .collect();
        for (at, path) in paths.iter().enumerate() {
            let place = Place::new(path);
            assert_eq!(place.len(), path.len());
            assert!(paths[..at].iter().all(|other| Place::new(other) != place), "{path:?}");
        }
    }

    #[test]
    fn a_key_begins_with_the_nibbles_of_its_place() {
        let key = Key::new(&[0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf1, 0x23]).unwrap();
        for depth in 0..=SHORT_NIBBLES_MAX {
            let place = Place::Short(key.first_nibbles(depth) | 1 << (4 * depth));
            assert_eq!(place, Place::new(&key.path_from(0).as_slice()[..depth]));
        }
    }
}
