//! A hash table of words that one thread writes while others read: no lock, no unsafe code.
//!
//! A record never moves and never goes away while the table lives, so its number is as good as
//! its key. Each has a version: even while it stands, odd while it is being written. A reader
//! takes the words between two looks at the version and tries again where they differ
//! (H.-J. Boehm, "Can Seqlocks Get Along With Programming Language Memory Models?", MSPC 2012).

use crate::execution::prefetch::{LINE, prefetch, prefetch_to_write};
use crate::types::map::Hasher;
use std::{
    array,
    hash::{BuildHasher as _, Hasher as _},
    hint,
    mem::offset_of,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    },
};

/// Records of the first chunk; each further one has twice as many as that before it.
const FIRST_CHUNK: usize = 256;
const CHUNKS: usize = 20;
const _: () = assert!(FIRST_CHUNK.is_power_of_two());
/// Places of the first index; each further one has twice as many.
const FIRST_INDEX: usize = 4 * FIRST_CHUNK;
const INDICES: usize = 24;
/// The upper half of a place is that of the key's hash, the lower the record's number plus one.
const HASH_BITS: u64 = !0 << 32;

/// A record's number in its table: its chunk, and below that its place there.
pub(super) type Id = u32;
/// Bits of a place in a chunk.
const PLACE_BITS: u32 = 27;
const _: () = assert!(CHUNKS < 1 << (Id::BITS - PLACE_BITS));
const _: () = assert!(FIRST_CHUNK << (CHUNKS - 1) <= 1 << PLACE_BITS);

/// Changes with each write of a record; begins anew after 2^31 of them, which no cut has.
pub(super) type Version = u32;

/// What a record holds: what changes often, and what seldom matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value<const H: usize, const C: usize> {
    pub(super) hot: [u64; H],
    pub(super) cold: [u64; C],
}

/// What one look at a record found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen<const H: usize, const C: usize> {
    pub(super) version: Version,
    pub(super) value: Value<H, C>,
}

/// Two cache lines. What changes often lies in the first, so that only that one goes from core to
/// core; with a key of three words the first is all that is looked at where nothing cold is.
#[repr(C, align(128))]
struct Record<const K: usize, const H: usize, const C: usize> {
    version: AtomicU32,
    /// The writer's own note.
    mark: AtomicU32,
    hot: [AtomicU64; H],
    key: [AtomicU64; K],
    cold: [AtomicU64; C],
}

impl<const K: usize, const H: usize, const C: usize> Record<K, H, C> {
    /// The key's end lies in the second line.
    const IS_KEY_APART: bool = offset_of!(Self, cold) > LINE;
}

struct Shared<const K: usize, const H: usize, const C: usize> {
    chunks: [OnceLock<Box<[Record<K, H, C>]>>; CHUNKS],
    indices: [OnceLock<Box<[AtomicU64]>>; INDICES],
    index: AtomicUsize,
}

/// The reading end.
pub(super) struct Reader<const K: usize, const H: usize, const C: usize>(Arc<Shared<K, H, C>>);

/// The writing end: there is one of it.
pub(super) struct Table<const K: usize, const H: usize, const C: usize> {
    reader: Reader<K, H, C>,
    len: usize,
}

/// A record in the hands of the writer.
pub(super) struct Entry<'a, const K: usize, const H: usize, const C: usize>(&'a Record<K, H, C>);

impl<const K: usize, const H: usize, const C: usize> Clone for Reader<K, H, C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<const K: usize, const H: usize, const C: usize> Default for Table<K, H, C> {
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

/// The number of the record that came as the `nth`.
fn id_of(nth: usize) -> Id {
    // Counted from `FIRST_CHUNK` on, each chunk begins at a power of two.
    let nth = nth + FIRST_CHUNK;
    let bits = nth.ilog2();
    let chunk = bits - FIRST_CHUNK.ilog2();
    assert!((chunk as usize) < CHUNKS, "a table holds at most 2^28 records");
    let place = Id::try_from(nth - (1 << bits)).unwrap_or(Id::MAX);
    chunk << PLACE_BITS | place
}

/// The chunk of a record and its place there.
const fn spot(id: Id) -> (usize, usize) {
    ((id >> PLACE_BITS) as usize, id as usize % (1 << PLACE_BITS))
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

impl<const K: usize, const H: usize, const C: usize> Reader<K, H, C> {
    #[inline]
    fn record(&self, id: Id) -> &Record<K, H, C> {
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
            if (place ^ hash) & HASH_BITS == 0 && self.is_key(id_at(place), key) {
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
            self.bring(id);
            id
        })
    }

    /// Has a record brought near, but for what is cold.
    #[inline]
    pub(super) fn bring(&self, id: Id) {
        let record = self.record(id);
        prefetch(&record.version);
        if Record::<K, H, C>::IS_KEY_APART {
            prefetch(&record.key[K - 1]);
        }
    }

    /// As `bring`, what changes as one's own.
    #[inline]
    pub(super) fn bring_to_write(&self, id: Id) {
        let record = self.record(id);
        prefetch_to_write(&record.version);
        if Record::<K, H, C>::IS_KEY_APART {
            prefetch(&record.key[K - 1]);
        }
    }

    /// The key of a record.
    #[inline]
    pub(super) fn key(&self, id: Id) -> [u64; K] {
        key(self.record(id))
    }

    /// The record has this key. Whoever asks has just put the key together, word by word: it is
    /// compared so too, as wider loads would wait for those writes.
    #[inline]
    fn is_key(&self, id: Id, key: &[u64; K]) -> bool {
        let words = self.record(id).key.iter().zip(key);
        words.fold(0, |differs, (word, other)| differs | word.load(Ordering::Relaxed) ^ other) == 0
    }

    /// What a record holds, all of it from one moment; what is cold only where `is_cold`, asked
    /// with what is hot, says that it matters.
    #[inline]
    pub(super) fn read(&self, id: Id, is_cold: impl Fn(&[u64; H]) -> bool) -> Seen<H, C> {
        let record = self.record(id);
        loop {
            let version = record.version.load(Ordering::Acquire);
            let value = value(record, &is_cold);
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

impl<const K: usize, const H: usize, const C: usize> Table<K, H, C> {
    /// For other threads.
    pub(super) const fn reader(&self) -> &Reader<K, H, C> {
        &self.reader
    }

    /// Records.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Adds a record; its key must not be there yet.
    pub(super) fn insert(&mut self, key: &[u64; K], value: &Value<H, C>) -> Id {
        let id = id_of(self.len);
        let (chunk, at) = spot(id);
        let shared = &self.reader.0;
        let record = &shared.chunks[chunk].get_or_init(|| records(FIRST_CHUNK << chunk))[at];
        store(&record.key, key);
        store(&record.hot, &value.hot);
        store(&record.cold, &value.cold);
        self.len += 1;
        if 2 * self.len > self.reader.index().len() {
            self.grow();
        } else {
            publish(self.reader.index(), hash(key), id);
        }
        id
    }

    /// What a record holds that changes often, for the writer: nobody changes it meanwhile.
    #[inline]
    pub(super) fn hot(&self, id: Id) -> [u64; H] {
        load(&self.reader.record(id).hot)
    }

    /// As `Reader::read`, for the writer.
    #[inline]
    pub(super) fn own(&self, id: Id, is_cold: impl Fn(&[u64; H]) -> bool) -> Value<H, C> {
        value(self.reader.record(id), is_cold)
    }

    /// A record, to be written.
    #[inline]
    pub(super) fn entry(&mut self, id: Id) -> Entry<'_, K, H, C> {
        Entry(self.reader.record(id))
    }

    /// Names an index of twice the size. Who reads in the old one finds what was there before.
    fn grow(&self) {
        let shared = &self.reader.0;
        let next = shared.index.load(Ordering::Relaxed) + 1;
        let index = shared.indices[next].get_or_init(|| places(FIRST_INDEX << next));
        for id in (0..self.len).map(id_of) {
            publish(index, hash(&self.reader.key(id)), id);
        }
        shared.index.store(next, Ordering::Release);
    }
}

impl<const K: usize, const H: usize, const C: usize> Entry<'_, K, H, C> {
    /// What it holds that changes often.
    #[inline]
    pub(super) fn hot(&self) -> [u64; H] {
        load(&self.0.hot)
    }

    /// As `Reader::read`.
    #[inline]
    pub(super) fn value(&self, is_cold: impl Fn(&[u64; H]) -> bool) -> Value<H, C> {
        value(self.0, is_cold)
    }

    /// Its key.
    #[inline]
    pub(super) fn key(&self) -> [u64; K] {
        key(self.0)
    }

    /// Overwrites all of it.
    #[inline]
    pub(super) fn write(&mut self, new: &Value<H, C>) {
        self.change(|record| {
            store(&record.hot, &new.hot);
            store(&record.cold, &new.cold);
        });
    }

    /// Overwrites what changes often, from a word on.
    #[inline]
    pub(super) fn write_hot<const N: usize>(&mut self, at: usize, new: &[u64; N]) {
        self.change(|record| store(&record.hot[at..at + N], new));
    }

    #[inline]
    fn change(&mut self, write: impl FnOnce(&Record<K, H, C>)) {
        let version = self.0.version.load(Ordering::Relaxed);
        self.0.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        write(self.0);
        self.0.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The writer's note; zero at first.
    #[inline]
    pub(super) fn mark(&self) -> u32 {
        self.0.mark.load(Ordering::Relaxed)
    }

    /// Leaves a note.
    #[inline]
    pub(super) fn set_mark(&mut self, mark: u32) {
        self.0.mark.store(mark, Ordering::Relaxed);
    }
}

#[inline]
fn value<const K: usize, const H: usize, const C: usize>(
    record: &Record<K, H, C>,
    is_cold: impl Fn(&[u64; H]) -> bool,
) -> Value<H, C> {
    let hot = load(&record.hot);
    let cold = if is_cold(&hot) { load(&record.cold) } else { [0; C] };
    Value { hot, cold }
}

#[inline]
fn key<const K: usize, const H: usize, const C: usize>(record: &Record<K, H, C>) -> [u64; K] {
    load(&record.key)
}

#[inline]
fn load<const N: usize>(words: &[AtomicU64; N]) -> [u64; N] {
    array::from_fn(|at| words[at].load(Ordering::Relaxed))
}

#[inline]
fn store(words: &[AtomicU64], new: &[u64]) {
    for (word, new) in words.iter().zip(new) {
        word.store(*new, Ordering::Relaxed);
    }
}

fn records<const K: usize, const H: usize, const C: usize>(count: usize) -> Box<[Record<K, H, C>]> {
    let blank = |_| Record {
        version: AtomicU32::new(0),
        mark: AtomicU32::new(0),
        hot: array::from_fn(|_| AtomicU64::new(0)),
        key: array::from_fn(|_| AtomicU64::new(0)),
        cold: array::from_fn(|_| AtomicU64::new(0)),
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
            let mut table = Table::<2, 3, 1>::default();
            let mut map = Map::default();
            for (key, word) in steps {
                let (key, hot) = ([key, key % 7], [word, !word, word / 3]);
                let value = Value { hot, cold: [word / 5] };
                match table.reader().find(&key) {
                    Some(id) => {
                        let seen = table.reader().read(id, |_| true).value;
                        prop_assert_eq!(Some(&seen), map.get(&key));
                        let part = table.reader().read(id, |hot| *hot != seen.hot).value;
                        prop_assert_eq!(part, Value { cold: [0], ..seen });
                        prop_assert_eq!(table.own(id, |_| true), seen);
                        table.entry(id).write(&value);
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
            all.sort_unstable_by_key(|(key, _)| *key);
            for (key, value) in all {
                let id = table.reader().find(&key).unwrap();
                prop_assert_eq!(table.reader().read(id, |_| true).value, value);
            }
        }
    }

    /// Readers look while records are added and rewritten: never a value of two halves, never
    /// an older one after a newer, nothing lost once it was there.
    #[test]
    fn readers_see_whole_values_in_order() {
        const KEYS: usize = 5_000;
        let mut table = Table::<1, 3, 1>::default();
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
                        let Seen { version, value } = reader.read(id, |_| true);
                        let ([first, rest @ ..], [cold]) = (value.hot, value.cold);
                        assert_eq!((rest, cold), ([first ^ 1, first ^ 2], first ^ 3), "torn");
                        assert!(before.is_none_or(|before| before <= (version, first)), "older");
                        *before = Some((version, first));
                    }
                });
            }
            let value = |word: u64| Value { hot: [word, word ^ 1, word ^ 2], cold: [word ^ 3] };
            for word in 0..60 {
                for key in 0..KEYS {
                    let key = [key as u64];
                    match table.reader().find(&key) {
                        Some(id) => table.entry(id).write(&value(word << 2)),
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
        for nth in 1..20_000 {
            let next = spot(id_of(nth));
            let follows = next == (last.0, last.1 + 1) || next == (last.0 + 1, 0);
            assert!(follows && next.1 < FIRST_CHUNK << next.0, "{nth}: {last:?}, {next:?}");
            last = next;
        }
    }
}
