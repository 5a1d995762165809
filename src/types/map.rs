//! Hash maps with one fixed hasher: the same run gives the same layout.
//!
//! Iteration order must still never reach a hash or a file: sort first.

/// The hasher of every map: fast, seeded alike in every run.
pub type Hasher = foldhash::fast::FixedState;
/// A hash map with the fixed hasher.
#[expect(clippy::disallowed_types, reason = "this is the replacement")]
pub type Map<K, V> = std::collections::HashMap<K, V, Hasher>;
/// A hash set with the fixed hasher.
pub type Set<K> = std::collections::HashSet<K, Hasher>;
