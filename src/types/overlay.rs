//! State newer than the last checkpoint, as a stack of immutable diffs.
//!
//! A clone costs one reference count a layer, so every mini-block carries the state after it, and
//! publishing a state is publishing a pointer. Layers of one block are merged like a binary
//! counter: a block of a thousand mini-blocks is ten layers deep, and each entry is copied ten
//! times at most.

use crate::types::{
    diff::{Account, Diff},
    ids::BlockNumber,
};
use alloy_primitives::{Address, B256, Bytes, U256};
use std::sync::Arc;

#[derive(Debug, Clone)]
struct Layer {
    block: BlockNumber,
    /// Mini-blocks merged into it: a power of two while the block is open.
    rank: u64,
    diff: Arc<Diff>,
}

/// A stack of diffs, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    layers: Vec<Layer>,
}

impl Overlay {
    /// Puts the diff of a mini-block of `block` on top. Takes no time: `compact` does the work
    /// once nobody waits for it.
    pub fn push(&mut self, block: BlockNumber, diff: Arc<Diff>) {
        debug_assert!(self.layers.last().is_none_or(|top| top.block <= block));
        self.layers.push(Layer { block, rank: 1, diff });
    }

    /// Merges layers of one block that stand for as many mini-blocks.
    pub fn compact(&mut self) {
        let Some(mut layer) = self.layers.pop() else { return };
        let alike =
            |top: &mut Layer, layer: &Layer| top.block == layer.block && top.rank == layer.rank;
        while let Some(top) = self.layers.pop_if(|top| alike(top, &layer)) {
            layer = merged(top, &layer);
        }
        self.layers.push(layer);
    }

    /// Merges all layers of `block` into one and returns it: the diff of the whole block.
    pub fn close(&mut self, block: BlockNumber) -> Arc<Diff> {
        while let Some(top) = self.layers.pop_if(|top| top.block == block) {
            match self.layers.pop_if(|below| below.block == block) {
                Some(below) => self.layers.push(merged(below, &top)),
                None => {
                    let diff = Arc::clone(&top.diff);
                    self.layers.push(top);
                    return diff;
                }
            }
        }
        Arc::default()
    }

    /// Drops the layers that a checkpoint at `block` covers.
    pub fn prune(&mut self, block: BlockNumber) {
        self.layers.retain(|layer| layer.block > block);
    }

    /// The same stack without the layers above `block`.
    pub fn up_to(&self, block: BlockNumber) -> Self {
        let layers = self.layers.iter().filter(|layer| layer.block <= block).cloned().collect();
        Self { layers }
    }

    /// The account, where a layer has it: `Some(None)` says that it does not exist.
    pub fn account(&self, address: &Address) -> Option<Option<Account>> {
        let found = self.layers.iter().rev().find_map(|layer| layer.diff.accounts.get(address));
        found.map(|change| change.account)
    }

    /// The slot's value, where a layer has it or has wiped the account's storage.
    pub fn storage(&self, address: &Address, slot: &U256) -> Option<U256> {
        for layer in self.layers.iter().rev() {
            let Some(change) = layer.diff.accounts.get(address) else { continue };
            if let Some(value) = change.storage.get(slot) {
                return Some(*value);
            }
            if change.wiped {
                return Some(U256::ZERO);
            }
        }
        None
    }

    /// The code, where a layer has it.
    pub fn code(&self, hash: &B256) -> Option<Bytes> {
        self.layers.iter().rev().find_map(|layer| layer.diff.codes.get(hash)).cloned()
    }

    /// Entries held, over all layers.
    pub fn weight(&self) -> usize {
        self.layers.iter().map(|layer| layer.diff.weight()).sum()
    }
}

fn merged(mut below: Layer, above: &Layer) -> Layer {
    Arc::make_mut(&mut below.diff).merge(&above.diff);
    Layer { rank: below.rank + above.rank, ..below }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::diff::AccountDiff;
    use proptest::prelude::*;

    fn change(balance: u64, wiped: bool, slots: &[(u64, u64)]) -> AccountDiff {
        AccountDiff {
            account: Some(Account { balance: U256::from(balance), ..Account::default() }),
            wiped,
            storage: slots.iter().map(|(k, v)| (U256::from(*k), U256::from(*v))).collect(),
        }
    }

    proptest! {
        /// However layers merge, a look-up equals one in the diffs applied one after another.
        #[test]
        fn merging_never_changes_a_look_up(
            steps in prop::collection::vec(
                (0u8..6, 0u64..100, any::<bool>(), prop::collection::vec((0u64..4, 0u64..9), 0..4)),
                1..80,
            ),
            blocks in 1u64..4,
            compacts in 0u8..2,
        ) {
            let mut overlay = Overlay::default();
            let mut flat = Diff::default();
            let per_block = steps.len() as u64 / blocks + 1;
            for (at, (who, balance, wiped, slots)) in steps.iter().enumerate() {
                let mut diff = Diff::default();
                diff.accounts.insert(Address::repeat_byte(*who), change(*balance, *wiped, slots));
                flat.merge(&diff);
                let block = at as u64 / per_block;
                overlay.push(block, Arc::new(diff));
                if compacts.is_multiple_of(2) {
                    overlay.compact();
                }
                if (at as u64 + 1).is_multiple_of(per_block) {
                    overlay.close(block);
                }
            }
            for who in 0u8..6 {
                let address = Address::repeat_byte(who);
                let expected = flat.accounts.get(&address);
                prop_assert_eq!(overlay.account(&address), expected.map(|c| c.account));
                for slot in (0u64..4).map(U256::from) {
                    let value = expected.and_then(|c| {
                        c.storage.get(&slot).copied().or(c.wiped.then_some(U256::ZERO))
                    });
                    prop_assert_eq!(overlay.storage(&address, &slot), value);
                }
            }
        }
    }
}
