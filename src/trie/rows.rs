//! Rows at hand: those newer than the checkpoint, and as many older ones as the budget allows.

use crate::trie::root::RootError;
use crate::types::{block::NodeKey, ids::BlockNumber, map::Map, view::NodeSource};
use alloy_primitives::Bytes;
use std::{collections::BTreeMap, sync::Arc};

/// What a held row costs beside its bytes and path, as allocators and the map have it.
const ROW_OVERHEAD_BYTES: usize = 192;
/// A sweep leaves this many percent of the budget.
const SWEEP_TO_PERCENT: usize = 75;

/// The store under a trie.
pub(crate) struct Rows {
    source: Arc<dyn NodeSource>,
    held: Map<NodeKey, Held>,
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

impl Rows {
    pub(crate) fn new(source: Arc<dyn NodeSource>, budget_bytes: usize) -> Self {
        let held = Map::default();
        Self { source, held, held_bytes: 0, budget_bytes, uncovered: 0, turn: 0 }
    }

    /// The row, and whether it came from the source just now and so was never checked.
    pub(crate) fn get(&mut self, key: &NodeKey) -> Result<(Option<Bytes>, bool), RootError> {
        if let Some(held) = self.held.get_mut(key) {
            held.used = self.turn;
            return Ok((held.row.clone(), false));
        }
        let row = self.source.row(key)?;
        if row.is_some() {
            self.hold(key, row.clone(), 0);
        }
        Ok((row, true))
    }

    /// Takes what an update of `block` changed, then makes room.
    pub(crate) fn commit(&mut self, block: BlockNumber, rows: &[(NodeKey, Option<Bytes>)]) {
        for (key, row) in rows {
            self.hold(key, row.clone(), block + 1);
        }
        self.turn += 1;
        if self.held_bytes > self.budget_bytes {
            self.sweep();
        }
    }

    /// Rows up to `block` are in `source` from now on and may go from memory.
    pub(crate) fn checkpointed(&mut self, block: BlockNumber, source: Arc<dyn NodeSource>) {
        self.uncovered = block + 1;
        self.source = source;
        if self.held_bytes > self.budget_bytes {
            self.sweep();
        }
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    fn hold(&mut self, key: &NodeKey, row: Option<Bytes>, changed: BlockNumber) {
        let used = self.turn;
        let cost = cost(key, row.as_ref());
        if let Some(held) = self.held.get_mut(key) {
            self.held_bytes -= self::cost(key, held.row.as_ref());
            *held = Held { row, changed, used };
        } else {
            self.held.insert(key.clone(), Held { row, changed, used });
        }
        self.held_bytes += cost;
    }

    /// Drops what was not used for longest. Each sweep frees a quarter of the budget, so its cost
    /// spreads over all the rows that fill that quarter again.
    fn sweep(&mut self) {
        let goal = self.budget_bytes / 100 * SWEEP_TO_PERCENT;
        let mut excess = self.held_bytes.saturating_sub(goal);
        let mut by_use = BTreeMap::<u64, usize>::new();
        #[expect(clippy::iter_over_hash_type, reason = "sums do not depend on order")]
        for (key, held) in &self.held {
            if held.changed <= self.uncovered {
                *by_use.entry(held.used).or_default() += cost(key, held.row.as_ref());
            }
        }
        let mut oldest_kept = 0;
        for (used, bytes) in by_use {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(bytes);
            oldest_kept = used + 1;
        }
        let (uncovered, mut freed) = (self.uncovered, 0);
        self.held.retain(|key, held| {
            let stays = held.changed > uncovered || held.used >= oldest_kept;
            freed += if stays { 0 } else { cost(key, held.row.as_ref()) };
            stays
        });
        self.held_bytes -= freed;
    }
}

fn cost(key: &NodeKey, row: Option<&Bytes>) -> usize {
    ROW_OVERHEAD_BYTES + key.path.len() + row.map_or(0, |row| row.len())
}
