//! A hash table of words that one thread writes while others read: no lock, no unsafe code.
//!
//! A record never moves and never goes away while the table lives, so its number is as good as
//! its key. Each has a version: even while it stands, odd while it is being written. A reader
//! takes the words between two looks at the version and tries again where they differ
//! (H.-J. Boehm, "Can Seqlocks Get Along With Programming Language Memory Models?", MSPC 2012).

use crate::execution::prefetch::{prefetch, prefetch_to_write};
use crate::types::map::Hasher;
use std::{
    array,
    hash::{BuildHasher as _, Hasher as _},
    hint,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    },
};

/// Records of the first chunk; each further one has twice as many as that before it.
const FIRST_CHUNK: usize = 256;
const CHUNKS: usize = 24;
const _: () = assert!(FIRST_CHUNK.is_power_of_two());
/// Places of the first index; each further one has twice as many.
const FIRST_INDEX: usize = 4 * FIRST_CHUNK;
const INDICES: usize = 24;
/// The upper half of a place is that of the key's hash, the lower the record's number plus one.
const HASH_BITS: u64 = !0 << 32;

/// A record's number in its table.
pub(super) type Id = u32;

/// Changes with each write of a record; begins anew after 2^31 of them, which no cut has.
pub(super) type Version = u32;

/// What one look at a record found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen<const V: usize> {
    pub(super) version: Version,
    pub(super) value: [u64; V],
}

/// Two cache lines. What changes often lies in the first, so that only that one goes from core to
/// core: version, mark, and the first six words of the value.
#[repr(C, align(128))]
struct Record<const K: usize, const V: usize> {
    version: AtomicU32,
    /// The writer's own note.
    mark: AtomicU64,
    value: [AtomicU64; V],
    key: [AtomicU64; K],
}

struct Shared<const K: usize, const V: usize> {
    chunks: [OnceLock<Box<[Record<K, V>]>>; CHUNKS],
    indices: [OnceLock<Box<[AtomicU64]>>; INDICES],
    index: AtomicUsize,
}

/// The reading end.
pub(super) struct Reader<const K: usize, const V: usize>(Arc<Shared<K, V>>);

/// The writing end: there is one of it.
pub(super) struct Table<const K: usize, const V: usize> {
    reader: Reader<K, V>,
    len: usize,
}

/// A record in the hands of the writer.
pub(super) struct Entry<'a, const K: usize, const V: usize>(&'a Record<K, V>);

impl<const K: usize, const V: usize> Clone for Reader<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<const K: usize, const V: usize> Default for Table<K, V> {
    fn default() -> Self {
        let shared = Shared {
            chunks: array::from_fn(|_| OnceLock::new()),
            indices: array::from_fn(|_| OnceLock::new()),
            index: AtomicUsize::new(0),
        };
        shared.indices[0].get_or_init(|| places(FIRST_INDEX));
        Self { reader: Reader(Arc::new(shared)), len: 0 }
    }
}

fn places(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// The chunk of a record and its place there.
const fn spot(id: Id) -> (usize, usize) {
    // Counted from `FIRST_CHUNK` on, each chunk begins at a power of two.
    let id = id as usize + FIRST_CHUNK;
    let bits = id.ilog2();
    ((bits - FIRST_CHUNK.ilog2()) as usize, id - (1 << bits))
}

/// The hash under which a key is found.
#[inline]
pub(super) fn hash<const K: usize>(key: &[u64; K]) -> u64 {
    let mut hasher = Hasher::default().build_hasher();
    key.iter().for_each(|word| hasher.write_u64(*word));
    hasher.finish()
}

#[expect(clippy::cast_possible_truncation, reason = "the lower bits are what is wanted")]
const fn home(hash: u64, mask: usize) -> usize {
    hash as usize & mask
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half of a place is the number")]
const fn id_at(place: u64) -> Id {
    (place as u32).wrapping_sub(1)
}

impl<const K: usize, const V: usize> Reader<K, V> {
    #[inline]
    fn record(&self, id: Id) -> &Record<K, V> {
        let (chunk, at) = spot(id);
        match self.0.chunks[chunk].get() {
            Some(chunk) => &chunk[at],
            None => unreachable!("numbers come from this table"),
        }
    }

    fn index(&self) -> &[AtomicU64] {
        match self.0.indices[self.0.index.load(Ordering::Acquire)].get() {
            Some(index) => index,
            None => unreachable!("an index is there before it is named"),
        }
    }

    /// The record of a key, where it has one.
    #[inline]
    pub(super) fn find(&self, key: &[u64; K]) -> Option<Id> {
        self.find_hashed(key, hash(key))
    }

    /// The record of a key whose hash is known.
    #[inline]
    pub(super) fn find_hashed(&self, key: &[u64; K], hash: u64) -> Option<Id> {
        let index = self.index();
        let mask = index.len() - 1;
        let mut at = home(hash, mask);
        loop {
            // Pairs with the store in `publish`: who sees the number sees the record.
            let place = index[at].load(Ordering::Acquire);
            if place == 0 {
                return None;
            }
            if (place ^ hash) & HASH_BITS == 0 && self.key(id_at(place)) == *key {
                return Some(id_at(place));
            }
            at = (at + 1) & mask;
        }
    }

    /// Has the place looked at first for a hash brought near.
    #[inline]
    pub(super) fn bring_place(&self, hash: u64) {
        let index = self.index();
        prefetch(&index[home(hash, index.len() - 1)]);
    }

    /// Has the record that most likely belongs to a hash brought near: its number, if there is one.
    #[inline]
    pub(super) fn bring_record(&self, hash: u64) -> Option<Id> {
        let index = self.index();
        let place = index[home(hash, index.len() - 1)].load(Ordering::Acquire);
        (place != 0).then(|| {
            let id = id_at(place);
            prefetch(self.record(id));
            id
        })
    }

    /// Has a record brought near.
    #[inline]
    pub(super) fn bring(&self, id: Id) {
        prefetch(self.record(id));
    }

    /// Has a record brought near, what changes of it as one's own.
    #[inline]
    pub(super) fn bring_to_write(&self, id: Id) {
        let record = self.record(id);
        prefetch_to_write(&record.version);
        prefetch(&record.key);
    }

    /// The key of a record.
    #[inline]
    pub(super) fn key(&self, id: Id) -> [u64; K] {
        key(self.record(id))
    }

    /// What a record holds, all of it from one moment.
    #[inline]
    pub(super) fn read(&self, id: Id) -> Seen<V> {
        let record = self.record(id);
        loop {
            let version = record.version.load(Ordering::Acquire);
            let value = words(record);
            fence(Ordering::Acquire);
            if version & 1 == 0 && record.version.load(Ordering::Relaxed) == version {
                return Seen { version, value };
            }
            hint::spin_loop();
        }
    }

    /// The version of a record: unchanged, and so is what was read.
    #[inline]
    pub(super) fn version(&self, id: Id) -> Version {
        self.record(id).version.load(Ordering::Acquire)
    }
}

impl<const K: usize, const V: usize> Table<K, V> {
    /// For other threads.
    pub(super) const fn reader(&self) -> &Reader<K, V> {
        &self.reader
    }

    /// Records.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Adds a record; its key must not be there yet.
    pub(super) fn insert(&mut self, key: &[u64; K], value: &[u64; V]) -> Id {
        let id = Id::try_from(self.len).unwrap_or(Id::MAX);
        assert!(id < Id::MAX >> 1, "a table holds at most 2^31 records");
        let (chunk, at) = spot(id);
        let shared = &self.reader.0;
        let record = &shared.chunks[chunk].get_or_init(|| records(FIRST_CHUNK << chunk))[at];
        for (word, new) in record.key.iter().zip(key) {
            word.store(*new, Ordering::Relaxed);
        }
        for (word, new) in record.value.iter().zip(value) {
            word.store(*new, Ordering::Relaxed);
        }
        self.len += 1;
        if 2 * self.len > self.reader.index().len() {
            self.grow();
        } else {
            publish(self.reader.index(), hash(key), id);
        }
        id
    }

    /// What a record holds, for the writer: nobody changes it meanwhile.
    #[inline]
    pub(super) fn own(&self, id: Id) -> [u64; V] {
        words(self.reader.record(id))
    }

    /// A record, to be written.
    #[inline]
    pub(super) fn entry(&mut self, id: Id) -> Entry<'_, K, V> {
        Entry(self.reader.record(id))
    }

    /// Names an index of twice the size. Who reads in the old one finds what was there before.
    fn grow(&self) {
        let shared = &self.reader.0;
        let next = shared.index.load(Ordering::Relaxed) + 1;
        let index = shared.indices[next].get_or_init(|| places(FIRST_INDEX << next));
        for id in 0..Id::try_from(self.len).unwrap_or(Id::MAX) {
            publish(index, hash(&self.reader.key(id)), id);
        }
        shared.index.store(next, Ordering::Release);
    }
}

impl<const K: usize, const V: usize> Entry<'_, K, V> {
    /// What it holds.
    #[inline]
    pub(super) fn words(&self) -> [u64; V] {
        words(self.0)
    }

    /// Its key.
    #[inline]
    pub(super) fn key(&self) -> [u64; K] {
        key(self.0)
    }

    /// Overwrites the words from `at` on.
    #[inline]
    pub(super) fn write<const N: usize>(&mut self, at: usize, new: &[u64; N]) {
        let version = self.0.version.load(Ordering::Relaxed);
        self.0.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, new) in self.0.value[at..at + N].iter().zip(new) {
            word.store(*new, Ordering::Relaxed);
        }
        self.0.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The writer's note; zero at first.
    #[inline]
    pub(super) fn mark(&self) -> u64 {
        self.0.mark.load(Ordering::Relaxed)
    }

    /// Leaves a note.
    #[inline]
    pub(super) fn set_mark(&mut self, mark: u64) {
        self.0.mark.store(mark, Ordering::Relaxed);
    }
}

#[inline]
fn words<const K: usize, const V: usize>(record: &Record<K, V>) -> [u64; V] {
    array::from_fn(|at| record.value[at].load(Ordering::Relaxed))
}

#[inline]
fn key<const K: usize, const V: usize>(record: &Record<K, V>) -> [u64; K] {
    array::from_fn(|at| record.key[at].load(Ordering::Relaxed))
}

fn records<const K: usize, const V: usize>(count: usize) -> Box<[Record<K, V>]> {
    let blank = |_| Record {
        version: AtomicU32::new(0),
        mark: AtomicU64::new(0),
        value: array::from_fn(|_| AtomicU64::new(0)),
        key: array::from_fn(|_| AtomicU64::new(0)),
    };
    (0..count).map(blank).collect()
}

fn publish(index: &[AtomicU64], hash: u64, id: Id) {
    let mask = index.len() - 1;
    let mut at = home(hash, mask);
    while index[at].load(Ordering::Relaxed) != 0 {
        at = (at + 1) & mask;
    }
    index[at].store((hash & HASH_BITS) | (u64::from(id) + 1), Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::map::Map;
    use proptest::prelude::*;
    use std::{sync::atomic::AtomicBool, thread};

    proptest! {
        /// It holds what a map of the standard library holds, through all its growing.
        #[test]
        fn it_equals_a_map(steps in prop::collection::vec((0u64..3_000, any::<u64>()), 1..6_000)) {
            let mut table = Table::<2, 3>::default();
            let mut map = Map::default();
            for (key, word) in steps {
                let (key, value) = ([key, key % 7], [word, !word, word / 3]);
                match table.reader().find(&key) {
                    Some(id) => {
                        prop_assert_eq!(Some(&table.reader().read(id).value), map.get(&key));
                        table.entry(id).write(0, &value);
                    }
                    None => {
                        prop_assert!(!map.contains_key(&key));
                        let id = table.insert(&key, &value);
                        prop_assert_eq!(table.reader().key(id), key);
                    }
                }
                map.insert(key, value);
            }
            prop_assert_eq!(table.len(), map.len());
            let mut all: Vec<_> = map.into_iter().collect();
            all.sort_unstable();
            for (key, value) in all {
                let id = table.reader().find(&key).unwrap();
                prop_assert_eq!(table.reader().read(id).value, value);
            }
        }
    }

    /// Readers look while records are added and rewritten: never a value of two halves, never
    /// an older one after a newer, nothing lost once it was there.
    #[test]
    fn readers_see_whole_values_in_order() {
        const KEYS: usize = 5_000;
        let mut table = Table::<1, 4>::default();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for lane in 0usize..2 {
                let (reader, done) = (table.reader().clone(), &done);
                scope.spawn(move || {
                    let mut newest = vec![None; KEYS];
                    let mut key = lane;
                    let mut rounds = 0;
                    while !done.load(Ordering::Acquire) || rounds < KEYS {
                        key = (key * 5 + 1) % KEYS;
                        rounds += 1;
                        let id = reader.find(&[key as u64]);
                        let before = &mut newest[key];
                        assert!(id.is_some() || before.is_none(), "key {key} went away");
                        let Some(id) = id else { continue };
                        let Seen { version, value } = reader.read(id);
                        let [first, rest @ ..] = value;
                        assert_eq!(rest, [first ^ 1, first ^ 2, first ^ 3], "torn");
                        assert!(before.is_none_or(|before| before <= (version, first)), "older");
                        *before = Some((version, first));
                    }
                });
            }
            let value = |word: u64| [word, word ^ 1, word ^ 2, word ^ 3];
            for word in 0..60 {
                for key in 0..KEYS {
                    let key = [key as u64];
                    match table.reader().find(&key) {
                        Some(id) => table.entry(id).write(0, &value(word << 2)),
                        None => drop(table.insert(&key, &value(word << 2))),
                    }
                }
            }
            done.store(true, Ordering::Release);
        });
    }

    #[test]
    fn every_record_has_a_spot_of_its_own() {
        let mut last = (0, 0);
        for id in 1..20_000 {
            let next = spot(id);
            let follows = next == (last.0, last.1 + 1) || next == (last.0 + 1, 0);
            assert!(follows && next.1 < FIRST_CHUNK << next.0, "{id}: {last:?}, {next:?}");
            last = next;
        }
    }
}
