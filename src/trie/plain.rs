//! A trie of byte keys in memory: for keys that are not hashed, and for checks by other means.

use crate::trie::{
    nibbles::Key,
    root::{RootError, in_order},
    row::Span,
    rows::Rows,
    update::{Arena, Changes, NewValue, Op, Pass, RowList},
    walk,
};
use crate::types::{
    block::NodeKey,
    map::Map,
    view::{NodeSource, ViewError},
};
use alloy_primitives::{B256, Bytes};
use alloy_trie::EMPTY_ROOT_HASH;
use std::sync::{Arc, PoisonError, RwLock};

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Rows in a map.
#[derive(Debug, Default)]
pub struct MemoryRows {
    rows: RwLock<Map<NodeKey, Bytes>>,
}

impl MemoryRows {
    /// Writes changed rows, as a checkpoint would.
    pub fn write(&self, changed: &[(NodeKey, Option<Bytes>)]) {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        for (key, row) in changed {
            match row {
                Some(row) => rows.insert(key.clone(), row.clone()),
                None => rows.remove(key),
            };
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl NodeSource for MemoryRows {
    fn row(&self, key: &NodeKey) -> Result<Option<Bytes>, ViewError> {
        Ok(self.rows.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }
}

/// A Merkle-Patricia trie of keys of up to 32 bytes, some of which may begin others.
pub struct PlainTrie {
    memory: Arc<MemoryRows>,
    rows: Rows,
    arena: Arena,
    root: B256,
}

impl Default for PlainTrie {
    fn default() -> Self {
        let memory = Arc::new(MemoryRows::default());
        let source: Arc<dyn NodeSource> = Arc::clone(&memory) as Arc<dyn NodeSource>;
        // No budget: each pass reads rows anew and so checks their hashes.
        let rows = Rows::new(source, 0);
        Self { memory, rows, arena: Arena::default(), root: EMPTY_ROOT_HASH }
    }
}

impl PlainTrie {
    /// Applies changes in any order, the last of a key counts; `None` deletes. An empty value is
    /// a deletion too.
    ///
    /// # Errors
    /// Where a key or value is too long; the trie is then as it was before.
    pub fn apply(&mut self, changes: &[(&[u8], Option<&[u8]>)]) -> Result<B256, RootError> {
        let (mut ops, mut values) = (Vec::new(), Vec::new());
        for (key, value) in changes {
            let key = Key::new(key).ok_or(RootError::KeyTooLong(key.len()))?;
            let start = values.len();
            let value = match value {
                None | Some([]) => NewValue::Nothing,
                Some(value) => {
                    values.extend_from_slice(value);
                    NewValue::Bytes(Span::new(start, values.len()))
                }
            };
            ops.push(Op { key, value });
        }
        ops.sort_by_key(|op| op.key);
        ops.dedup_by(|later, earlier| {
            let same = later.key == earlier.key;
            if same {
                *earlier = *later;
            }
            same
        });
        let changes = Changes { ops, values, accounts: Vec::new() };
        let mut changed = RowList::new();
        let (rows, arena) = (&mut self.rows, &mut self.arena);
        let pass = Pass {
            owner: None,
            rows,
            arena,
            changes: &changes,
            changed: &mut changed,
            warm: false,
        };
        self.root = pass.run(false)?.after;
        self.memory.write(&in_order(changed));
        self.rows = Rows::new(Arc::clone(&self.memory) as Arc<dyn NodeSource>, 0);
        Ok(self.root)
    }

    /// The root hash.
    pub fn root(&self) -> B256 {
        self.root
    }

    /// All keys and values in key order.
    ///
    /// # Errors
    /// Where a row is not sound, which is a defect.
    pub fn entries(&self) -> Result<Vec<Pair>, RootError> {
        let mut entries = Vec::new();
        walk::leaves(self.memory.as_ref(), None, &mut |nibbles, value| {
            let key = nibbles.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
            entries.push((key, value.to_vec()));
        })?;
        Ok(entries)
    }
}
