//! A map that is a list of its entries, in the order in which they came.
//!
//! Diffs are filled once and mostly gone through: by the log, the digest, the trie and the tables.
//! So filling costs a push. What a look-up by key needs is made by the first of them, on the thread
//! that looks.

use crate::types::map::Hasher;
use hashbrown::HashTable;
use std::{
    hash::{BuildHasher as _, Hash},
    sync::OnceLock,
};

/// Entries that are looked through one by one.
const SCANNED_MAX: usize = 8;

/// Entries by key, each key once; none is ever removed.
#[derive(Debug, Clone)]
pub struct Listed<K, V> {
    entries: Vec<(K, V)>,
    /// Where in the list each key stands.
    index: OnceLock<HashTable<usize>>,
}

impl<K, V> Default for Listed<K, V> {
    fn default() -> Self {
        Self { entries: Vec::new(), index: OnceLock::new() }
    }
}

impl<K, V> Listed<K, V> {
    /// With room for so many.
    pub fn with_capacity(entries: usize) -> Self {
        Self { entries: Vec::with_capacity(entries), ..Self::default() }
    }

    /// Of entries whose keys differ, as the caller knows.
    pub fn of_unique(entries: Vec<(K, V)>) -> Self {
        Self { entries, ..Self::default() }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Makes room for so many more.
    pub fn reserve(&mut self, more: usize) {
        self.entries.reserve(more);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.index.take();
    }

    /// All, in the order in which they came.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&K, &V)> + Clone {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    /// Their keys.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &K> + Clone {
        self.entries.iter().map(|(key, _)| key)
    }

    /// Their values.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &V> + Clone {
        self.entries.iter().map(|(_, value)| value)
    }
}

impl<K: Hash + Eq, V> Listed<K, V> {
    /// Adds an entry whose key is not there, as the caller knows.
    #[inline]
    pub fn push(&mut self, key: K, value: V) {
        let Self { entries, index } = self;
        if let Some(index) = index.get_mut() {
            add(index, entries, (hash(&key), entries.len()));
        }
        entries.push((key, value));
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.find(key).map(|at| &self.entries[at].1)
    }

    /// Sets the value of a key; gives the one before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some(at) = self.find(&key) else {
            self.push(key, value);
            return None;
        };
        Some(std::mem::replace(&mut self.entries[at].1, value))
    }

    /// The value of a key, where it has none a default one.
    pub fn get_or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let at = self.find(&key).unwrap_or_else(|| {
            self.push(key, V::default());
            self.entries.len() - 1
        });
        &mut self.entries[at].1
    }

    fn find(&self, key: &K) -> Option<usize> {
        let Self { entries, index } = self;
        if entries.len() <= SCANNED_MAX {
            return entries.iter().position(|(known, _)| known == key);
        }
        let index = index.get_or_init(|| {
            let mut index = HashTable::with_capacity(entries.len());
            for (at, (key, _)) in entries.iter().enumerate() {
                debug_assert!(place(&index, entries, key).is_none(), "a key was pushed twice");
                add(&mut index, entries, (hash(key), at));
            }
            index
        });
        place(index, entries, key)
    }
}

fn hash(key: &impl Hash) -> u64 {
    Hasher::default().hash_one(key)
}

fn place<K: Hash + Eq, V>(index: &HashTable<usize>, entries: &[(K, V)], key: &K) -> Option<usize> {
    index.find(hash(key), |at| entries[*at].0 == *key).copied()
}

fn add<K: Hash, V>(index: &mut HashTable<usize>, entries: &[(K, V)], (hashed, at): (u64, usize)) {
    index.insert_unique(hashed, at, |at| hash(&entries[*at].0));
}

impl<K: Hash + Eq, V> Extend<(K, V)> for Listed<K, V> {
    fn extend<T: IntoIterator<Item = (K, V)>>(&mut self, entries: T) {
        entries.into_iter().for_each(|(key, value)| drop(self.insert(key, value)));
    }
}

impl<K: Hash + Eq, V> FromIterator<(K, V)> for Listed<K, V> {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(entries: T) -> Self {
        let mut all = Self::default();
        all.extend(entries);
        all
    }
}

/// Equal entries, in whatever order.
impl<K: Hash + Eq, V: PartialEq> PartialEq for Listed<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(key, value)| other.get(key) == Some(value))
    }
}

impl<K: Hash + Eq, V: Eq> Eq for Listed<K, V> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::map::Map;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Insert,
        /// Where it is not there.
        Push,
        Add,
        Get,
    }

    proptest! {
        /// It holds what a map of the standard library holds, indexed early or late or never.
        #[test]
        fn it_equals_a_map(
            steps in prop::collection::vec(
                (0u16..60, any::<u32>(), prop::sample::select(vec![
                    Step::Insert, Step::Push, Step::Push, Step::Push, Step::Add, Step::Get,
                ])),
                0..120,
            ),
        ) {
            let (mut listed, mut map) = (Listed::default(), Map::default());
            let mut order = Vec::new();
            for (key, value, step) in steps {
                if !map.contains_key(&key) && !matches!(step, Step::Get) {
                    order.push(key);
                }
                match step {
                    Step::Insert => {
                        prop_assert_eq!(listed.insert(key, value), map.insert(key, value));
                    }
                    Step::Push if map.contains_key(&key) => {}
                    Step::Push => {
                        listed.push(key, value);
                        map.insert(key, value);
                    }
                    Step::Add => {
                        let one = listed.get_or_default(key);
                        *one = one.wrapping_add(value);
                        let other = map.entry(key).or_default();
                        *other = other.wrapping_add(value);
                    }
                    Step::Get => prop_assert_eq!(listed.get(&key), map.get(&key)),
                }
            }
            prop_assert_eq!(listed.len(), map.len());
            prop_assert_eq!(listed.keys().copied().collect::<Vec<_>>(), order);
            for (key, value) in listed.iter() {
                prop_assert_eq!(map.get(key), Some(value));
                prop_assert_eq!(listed.get(key), Some(value));
            }
            prop_assert_eq!(listed.get(&1_000), None);
            let turned: Listed<_, _> = map.into_iter().collect();
            prop_assert_eq!(&turned, &listed);
            listed.insert(1_000, 1);
            prop_assert_ne!(&turned, &listed);
        }
    }
}
