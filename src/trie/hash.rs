//! Names touched nodes bottom-up: all leaves of a subtree, then all nodes right above leaves, and
//! so on, so that the nodes of a level can be hashed side by side. Nothing is written here.

use crate::crypto::keccak::{self, LANES};
use crate::trie::{
    rlp::{self, Reference},
    row,
    update::{Arena, Child, Node, NodeId, Pass},
};
use alloy_primitives::{B256, keccak256};

/// How a parent names a node: its hash, or its RLP where that has fewer than 32 bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Name {
    bytes: [u8; 32],
    len: u8,
}

/// Memory for hashing, kept from one subtree to the next.
#[derive(Debug, Default)]
pub(crate) struct Hashing {
    /// Touched nodes by their height over the lowest touched ones below.
    levels: Vec<Vec<NodeId>>,
    /// RLP of those hashed side by side.
    rlps: [Vec<u8>; LANES],
    hashes: Vec<B256>,
}

impl Name {
    fn short(rlp: &[u8]) -> Option<Self> {
        let len = u8::try_from(rlp.len()).ok().filter(|len| *len < 32)?;
        let mut bytes = [0; 32];
        bytes[..rlp.len()].copy_from_slice(rlp);
        Some(Self { bytes, len })
    }

    fn hash(hash: B256) -> Self {
        Self { bytes: hash.0, len: 32 }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl Pass<'_> {
    /// Names every touched node under `top`, and `top` itself.
    pub(crate) fn hash(&mut self, top: Child) {
        let arena = &mut *self.arena;
        let mut hashing = std::mem::take(&mut arena.hashing);
        hashing.levels.iter_mut().for_each(Vec::clear);
        collect(arena, top, &mut hashing.levels);
        arena.names.resize(arena.nodes.len(), Name::default());
        let Hashing { levels, rlps, hashes } = &mut hashing;
        for level in levels {
            if level.len() > LANES {
                // Nodes of like length side by side: the longest keeps the others waiting.
                level.sort_unstable_by_key(|id| width(&arena[*id]));
            }
            name_level(arena, level, (rlps, hashes));
        }
        arena.hashing = hashing;
    }

    /// The hash of the topmost node, which has one however short it is.
    pub(crate) fn root_hash(&mut self, id: NodeId) -> B256 {
        let mut rlp = std::mem::take(&mut self.arena.rlp);
        node_rlp(self.arena, id, &mut rlp);
        self.arena.rlp = rlp;
        keccak256(&self.arena.rlp)
    }
}

/// Sorts touched nodes into levels; gives the level above the child's own.
fn collect(arena: &Arena, child: Child, levels: &mut Vec<Vec<NodeId>>) -> usize {
    let Child::Node(id) = child else { return 0 };
    let level = match &arena[id] {
        Node::Leaf { .. } => 0,
        Node::Extension { child, .. } => collect(arena, *child, levels),
        Node::Branch { children, .. } => {
            let below = children.iter().map(|child| collect(arena, *child, levels));
            below.max().unwrap_or_default()
        }
    };
    if levels.len() <= level {
        levels.resize_with(level + 1, Vec::new);
    }
    levels[level].push(id);
    level + 1
}

/// Children, which is how long the RLP is, near enough.
fn width(node: &Node) -> usize {
    match node {
        Node::Branch { children, .. } => {
            children.iter().filter(|child| !matches!(child, Child::Nothing)).count()
        }
        Node::Leaf { .. } | Node::Extension { .. } => 1,
    }
}

fn name_level(
    arena: &mut Arena,
    level: &[NodeId],
    (rlps, hashes): (&mut [Vec<u8>; LANES], &mut Vec<B256>),
) {
    let mut left = level;
    while !left.is_empty() {
        let mut lanes = [None; LANES];
        let mut filled = 0;
        while let Some((id, after)) = left.split_first()
            && filled < LANES
        {
            node_rlp(arena, *id, &mut rlps[filled]);
            match Name::short(&rlps[filled]) {
                Some(name) => arena.names[id.place()] = name,
                None => {
                    lanes[filled] = Some(*id);
                    filled += 1;
                }
            }
            left = after;
        }
        hashes.clear();
        keccak::keccak_batch(&rlps[..filled], hashes);
        for (id, hash) in lanes.iter().flatten().zip(hashes.iter()) {
            arena.names[id.place()] = Name::hash(*hash);
        }
    }
}

/// Replaces `out` by a node's RLP; the touched nodes below it have their names.
fn node_rlp(arena: &Arena, id: NodeId, out: &mut Vec<u8>) {
    match &arena[id] {
        Node::Leaf { path, value } => rlp::leaf(out, path, value.of(&arena.heap)),
        Node::Extension { path, child } => {
            rlp::extension(out, path, reference(arena, child).unwrap_or_default());
        }
        Node::Branch { children, value, .. } => {
            let references = children.each_ref().map(|child| reference(arena, child));
            rlp::branch(out, &references, value.map_or(&[][..], |value| value.of(&arena.heap)));
        }
    }
}

fn reference<'a>(arena: &'a Arena, child: &Child) -> Option<Reference<'a>> {
    match child {
        Child::Nothing => None,
        Child::Entry(span) => Some(row::reference(&arena.heap, *span).of(&arena.heap)),
        Child::Node(id) => arena.names.get(id.place()).map(Name::as_slice),
    }
}
