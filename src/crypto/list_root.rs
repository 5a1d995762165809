//! The root of a list: of the Merkle-Patricia trie that has the RLP of each index as key (Yellow
//! Paper, section 4.3.2), as blocks commit to their transactions and receipts.
//!
//! The keys are known beforehand, so nothing is inserted or searched: the nodes of one depth are
//! encoded together, deepest first, and hashed side by side.

use crate::crypto::keccak::{Inputs, keccak_batch};
use alloy_primitives::{B256, keccak256};
use alloy_rlp::{BufMut as _, EMPTY_STRING_CODE, Encodable as _, Header};
use alloy_trie::EMPTY_ROOT_HASH;

/// Nibbles of a key at most: RLP of a number of 56 bits.
const NIBBLES_MAX: usize = 16;
/// Nodes that are encoded and hashed together at most.
const TOGETHER: usize = 64;
/// A node of so many bytes or more stands in its parent as its hash.
const HASHED_MIN: usize = 32;
/// Indices below are keys of one byte.
const ONE_BYTE: usize = 0x80;

/// A key: its nibbles from the highest bits on, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    word: u64,
    len: usize,
}

/// What stands for a node in its parent: itself where it is short, else its hash as a string.
#[derive(Debug, Clone, Copy)]
struct Reference {
    bytes: [u8; HASHED_MIN + 1],
    len: usize,
}

/// A node without a parent so far.
#[derive(Debug, Clone, Copy)]
struct Orphan {
    /// The key of a leaf below it.
    key: Key,
    /// Nibbles that lead to it; of a leaf all are within it.
    depth: usize,
    reference: Reference,
}

/// Nibbles in hex prefix.
struct Path {
    bytes: [u8; NIBBLES_MAX / 2 + 1],
    len: usize,
}

/// Encoded nodes, and what they are hashed to.
#[derive(Default)]
struct Nodes {
    encoded: Inputs,
    hashes: Vec<B256>,
}

/// The root of a list of so many items, each written by `encode`.
pub fn list_root(count: usize, mut encode: impl FnMut(usize, &mut Vec<u8>)) -> B256 {
    if count == 0 {
        return EMPTY_ROOT_HASH;
    }
    let mut nodes = Nodes::default();
    let mut orphans = leaves(count, &mut encode, &mut nodes);
    // Where neighbours part, there is a branch: the deepest first, so that all that stands below
    // a branch has been put together before.
    let depth_max = orphans.iter().map(|orphan| orphan.key.len).max().unwrap_or_default();
    for depth in (0..depth_max).rev() {
        let families = families(&orphans, depth);
        if !families.is_empty() {
            extend(&mut orphans, &families, &mut nodes);
            branch(&mut orphans, &families, &mut nodes);
        }
    }
    // The keys of two items or more part at the first nibble, so the last is the root.
    let Reference { bytes, len } = orphans[0].reference;
    if len > HASHED_MIN { B256::from_slice(&bytes[1..]) } else { keccak256(&bytes[..len]) }
}

impl Key {
    fn new(index: usize) -> Self {
        let mut bytes = [0; NIBBLES_MAX / 2];
        let mut rest = &mut bytes[..];
        index.encode(&mut rest);
        let len = 2 * (NIBBLES_MAX / 2 - rest.len());
        Self { word: u64::from_be_bytes(bytes), len }
    }

    fn nibble(&self, at: usize) -> u64 {
        self.word >> (4 * (NIBBLES_MAX - 1 - at)) & 0xf
    }

    /// Nibbles at which the two begin alike.
    fn common(&self, other: &Self) -> usize {
        let same = (self.word ^ other.word).leading_zeros() / 4;
        usize::try_from(same).unwrap_or(0).min(self.len).min(other.len)
    }

    /// Part of a key, with the flags of an extension or a leaf (hex prefix).
    fn path(&self, range: std::ops::Range<usize>, flags: u8) -> Path {
        let mut rest = self.word << (4 * range.start);
        let is_odd = range.len() % 2 == 1;
        let mut bytes = [0; NIBBLES_MAX / 2 + 1];
        bytes[0] = flags;
        if is_odd {
            let [first, ..] = rest.to_be_bytes();
            bytes[0] |= 0x10 | first >> 4;
            rest <<= 4;
        }
        bytes[1..].copy_from_slice(&rest.to_be_bytes());
        Path { bytes, len: 1 + range.len() / 2 }
    }
}

impl Nodes {
    /// Appends a list node with a path and what the path leads to.
    fn two(&mut self, path: &Path, rest: Rest<'_>) {
        let path = &path.bytes[..path.len];
        let rest_len = match rest {
            Rest::Value(value) => value.length(),
            Rest::Node(node) => node.len,
        };
        let out = self.encoded.open();
        Header { list: true, payload_length: path.length() + rest_len }.encode(out);
        path.encode(out);
        match rest {
            Rest::Value(value) => value.encode(out),
            Rest::Node(node) => out.extend_from_slice(&node.bytes[..node.len]),
        }
        self.encoded.end();
    }

    /// Appends a branch without a value.
    fn branch(&mut self, depth: usize, children: &[Orphan]) {
        let nibbles = 16 + 1 - children.len();
        let payload_length = nibbles + children.iter().map(|it| it.reference.len).sum::<usize>();
        let out = self.encoded.open();
        Header { list: true, payload_length }.encode(out);
        let mut children = children.iter().peekable();
        for nibble in 0..16 {
            match children.next_if(|child| child.key.nibble(depth) == nibble) {
                Some(Orphan { reference: Reference { bytes, len }, .. }) => {
                    out.extend_from_slice(&bytes[..*len]);
                }
                None => out.put_u8(EMPTY_STRING_CODE),
            }
        }
        out.put_u8(EMPTY_STRING_CODE);
        self.encoded.end();
    }

    /// Hashes all that are there, side by side, and gives what stands for each.
    fn references(&mut self) -> impl Iterator<Item = Reference> {
        let encoded = self.encoded.all();
        self.hashes.clear();
        keccak_batch(&encoded, &mut self.hashes);
        encoded.into_iter().zip(&self.hashes).map(|(encoded, hash)| {
            let mut bytes = [0; HASHED_MIN + 1];
            if encoded.len() < HASHED_MIN {
                bytes[..encoded.len()].copy_from_slice(encoded);
                return Reference { bytes, len: encoded.len() };
            }
            bytes[0] = EMPTY_STRING_CODE + 32;
            bytes[1..].copy_from_slice(hash.as_slice());
            Reference { bytes, len: bytes.len() }
        })
    }
}

/// What a path leads to.
#[derive(Clone, Copy)]
enum Rest<'a> {
    Value(&'a [u8]),
    Node(&'a Reference),
}

/// All leaves in the order of their keys. A leaf has what is left of its key below the branch at
/// which it parts from its nearer neighbour.
fn leaves(
    count: usize,
    encode: &mut impl FnMut(usize, &mut Vec<u8>),
    nodes: &mut Nodes,
) -> Vec<Orphan> {
    let mut orphans = Vec::with_capacity(count);
    let mut value = Vec::new();
    let mut keys = Vec::with_capacity(TOGETHER);
    let (mut before, mut key) = (None::<Key>, Key::new(index_at(0, count)));
    for start in (0..count).step_by(TOGETHER) {
        nodes.encoded.clear();
        for at in start..count.min(start + TOGETHER) {
            let after = (at + 1 < count).then(|| Key::new(index_at(at + 1, count)));
            let parts = [before, after].into_iter().flatten().map(|other| key.common(&other) + 1);
            let from = parts.max().unwrap_or(0);
            value.clear();
            encode(index_at(at, count), &mut value);
            nodes.two(&key.path(from..key.len, 0x20), Rest::Value(&value));
            keys.push(key);
            before = Some(key);
            key = after.unwrap_or(key);
        }
        let made = keys.drain(..).zip(nodes.references());
        orphans.extend(made.map(|(key, reference)| Orphan { key, depth: key.len, reference }));
    }
    orphans
}

/// The item at a place in the order of keys: RLP writes 0 as 0x80, behind the other numbers of one
/// byte; longer ones follow in order.
fn index_at(place: usize, count: usize) -> usize {
    let zero = count.min(ONE_BYTE) - 1;
    match place {
        place if place < zero => place + 1,
        place if place == zero => 0,
        place => place,
    }
}

/// A branch to be: its children, by their place among the orphans, and how deep it stands.
struct Family {
    children: std::ops::Range<usize>,
    depth: usize,
}

/// Neighbours that part at this depth.
fn families(orphans: &[Orphan], depth: usize) -> Vec<Family> {
    let mut families = Vec::new();
    let mut start = 0;
    for group in orphans.chunk_by(|one, other| one.key.common(&other.key) >= depth) {
        let children = start..start + group.len();
        start = children.end;
        if group.len() > 1 {
            families.push(Family { children, depth });
        }
    }
    families
}

/// Puts an extension before each branch that does not stand right below its parent.
fn extend(orphans: &mut [Orphan], families: &[Family], nodes: &mut Nodes) {
    nodes.encoded.clear();
    let mut extended = Vec::new();
    for Family { children, depth } in families {
        for at in children.clone() {
            let orphan = &orphans[at];
            let from = depth + 1;
            if orphan.depth < orphan.key.len && from < orphan.depth {
                let path = orphan.key.path(from..orphan.depth, 0);
                nodes.two(&path, Rest::Node(&orphan.reference));
                extended.push(at);
            }
        }
    }
    for (at, reference) in extended.into_iter().zip(nodes.references()) {
        orphans[at].reference = reference;
    }
}

/// Puts a branch in the place of each family.
fn branch(orphans: &mut Vec<Orphan>, families: &[Family], nodes: &mut Nodes) {
    let mut made = Vec::with_capacity(families.len());
    for families in families.chunks(TOGETHER) {
        nodes.encoded.clear();
        for Family { children, depth } in families {
            nodes.branch(*depth, &orphans[children.clone()]);
        }
        made.extend(nodes.references());
    }
    let mut families = families.iter().zip(made).peekable();
    let (mut from, mut to) = (0, 0);
    while from < orphans.len() {
        let first = orphans[from];
        match families.next_if(|(family, _)| family.children.start == from) {
            Some((Family { children, depth }, reference)) => {
                orphans[to] = Orphan { key: first.key, depth: *depth, reference };
                from = children.end;
            }
            None => {
                orphans[to] = first;
                from += 1;
            }
        }
        to += 1;
    }
    orphans.truncate(to);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_trie::root::ordered_trie_root_encoded;
    use proptest::{collection::vec, prelude::*};

    fn check(values: &[Vec<u8>]) {
        let found = list_root(values.len(), |at, out| out.extend_from_slice(&values[at]));
        assert_eq!(found, ordered_trie_root_encoded(values), "{} items", values.len());
    }

    /// Values of many lengths, the shortest of which stand in their parents themselves.
    fn value(at: usize) -> Vec<u8> {
        let len = [1, 2, 25, 26, 31, 32, 56, 110, 300][at % 9];
        keccak256(at.to_be_bytes()).iter().copied().cycle().take(len).collect()
    }

    #[test]
    fn lists_of_every_length_have_the_root_that_alloys_trie_gives() {
        let values: Vec<_> = (0..700).map(value).collect();
        for count in 0..values.len() {
            check(&values[..count]);
        }
    }

    #[test]
    fn long_lists_have_keys_of_three_and_four_bytes() {
        let values: Vec<_> = (0..70_000).map(value).collect();
        for count in [4_096, 65_535, 65_536, 65_537, 70_000] {
            check(&values[..count]);
        }
    }

    #[test]
    fn short_values_stand_in_their_parents() {
        for len in 0..40 {
            check(&vec![vec![7; len]; 20]);
            check(&vec![vec![7; len]; 1]);
        }
    }

    proptest! {
        #[test]
        fn any_values_have_the_root_that_alloys_trie_gives(
            values in vec(vec(any::<u8>(), 0..400), 0..300)
        ) {
            check(&values);
        }
    }
}
