//! One pass over sorted changes: down to the leaves, and up again with new nodes.
//!
//! Nothing is hashed here but rows fresh from the source. A subtree with enough changes is
//! *settled* on the way up: `hash` names its touched nodes, level by level, and `encode` writes
//! their rows. Nodes live in an arena that shrinks back then, so a pass needs memory for a few
//! hundred changes, not for all that it is given.

use crate::trie::{
    encode,
    hash::{Hashing, Name},
    nibbles::{Key, Nibbles},
    rlp,
    root::RootError,
    row::{self, Body, Kind, PLAIN_TAIL, Span},
    rows::Rows,
};
use crate::types::{block::NodeKey, diff::Account};
use alloy_primitives::{B256, Bytes, keccak256};
use alloy_trie::EMPTY_ROOT_HASH;
use std::ops::{Index, IndexMut};

/// A subtree with at least so many changes is hashed and written at once: enough that each level
/// fills the lanes of the hash, few enough that all of it is still in a core's cache.
const SETTLED_OPS_MIN: usize = 32;
/// A row with at most so many changes has the rows below asked for ahead: what they take fits
/// the cache of a core.
const WARMED_OPS_MAX: usize = 64;

/// A row per key, in the order of a walk; the last one of a key counts.
pub(crate) type RowList = Vec<(NodeKey, Option<Bytes>)>;

/// One change of a trie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Op {
    pub(crate) key: Key,
    pub(crate) value: NewValue,
}

/// What a key holds afterwards.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NewValue {
    Nothing,
    /// A part of `Changes::values`.
    Bytes(Span),
    /// A place in `Changes::accounts`.
    Account(usize),
}

/// Changes of one trie, sorted by key, no key twice.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) ops: Vec<Op>,
    pub(crate) values: Vec<u8>,
    pub(crate) accounts: Vec<AccountLeaf>,
}

/// What an account's leaf will hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AccountLeaf {
    pub(crate) account: Account,
    /// `None`: its storage is as it was.
    pub(crate) storage: Option<Roots>,
}

/// A node's child.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Child {
    Nothing,
    /// Untouched, as its parent's row has it, in `Arena::heap`.
    Entry(Span),
    /// Touched, in `Arena::nodes`.
    Node(NodeId),
}

/// A place in `Arena::nodes`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeId(u32);

impl NodeId {
    /// Where it stands.
    pub(crate) fn place(self) -> usize {
        self.0 as usize
    }
}

/// A touched node.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Node {
    Leaf {
        path: Nibbles,
        value: Span,
    },
    Extension {
        path: Nibbles,
        child: Child,
    },
    Branch {
        children: [Child; 16],
        value: Option<Span>,
        /// It has a row of its own: the place in the list of changed rows.
        row: Option<u32>,
    },
}

/// Memory of a pass, kept from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    pub(crate) nodes: Vec<Node>,
    pub(crate) heap: Vec<u8>,
    /// Names of nodes by `NodeId`, once they are hashed.
    pub(crate) names: Vec<Name>,
    /// Where `hash` works.
    pub(crate) hashing: Hashing,
    /// Where `encode` writes.
    pub(crate) out: Vec<u8>,
    /// RLP of a node that is hashed alone.
    pub(crate) rlp: Vec<u8>,
    /// Path of the node that is being encoded.
    pub(crate) path: Vec<u8>,
}

impl Arena {
    fn push(&mut self, node: Node) -> NodeId {
        // A pass that has 4 billion nodes at once ran out of memory long before.
        let id = u32::try_from(self.nodes.len()).expect("a pass has too many nodes at once");
        self.nodes.push(node);
        NodeId(id)
    }
}

impl Index<NodeId> for Arena {
    type Output = Node;

    fn index(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }
}

impl IndexMut<NodeId> for Arena {
    fn index_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }
}

/// A pass over one trie.
pub(crate) struct Pass<'a> {
    pub(crate) owner: Option<B256>,
    pub(crate) rows: &'a mut Rows,
    pub(crate) arena: &'a mut Arena,
    pub(crate) changes: &'a Changes,
    pub(crate) changed: &'a mut RowList,
    /// The rows below were asked for ahead.
    pub(crate) warm: bool,
}

/// Roots before and after a pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Roots {
    /// As the rows had it; `None` where they were not asked.
    pub(crate) before: Option<B256>,
    pub(crate) after: B256,
}

impl<'a> Pass<'a> {
    /// Applies all changes. `fresh`: the trie is empty, whatever rows there are.
    pub(crate) fn run(mut self, fresh: bool) -> Result<Roots, RootError> {
        let key = NodeKey { owner: self.owner, path: Vec::new() };
        self.apply_root(&key, fresh).map_err(|error| error.at(&key))
    }

    fn apply_root(&mut self, key: &NodeKey, fresh: bool) -> Result<Roots, RootError> {
        self.arena.nodes.clear();
        self.arena.heap.clear();
        let found = if fresh { None } else { self.rows.copy_to(key, &mut self.arena.heap)? };
        let at = self.changed.len();
        self.changed.push((key.clone(), None));
        let mut before = EMPTY_ROOT_HASH;
        let mut top = Child::Nothing;
        if found.is_some() {
            let (id, body) = self.open(0)?;
            encode::body_rlp(&self.arena.heap, &body, &mut self.arena.rlp);
            before = keccak256(&self.arena.rlp);
            top = Child::Node(id);
        }
        let changes = self.changes;
        let top = self.apply(top, 0, &changes.ops)?;
        let (new, after) = self.encode_root(top)?;
        if found.is_none() && new.is_none() {
            self.changed.remove(at);
        } else {
            self.changed[at].1 = new;
        }
        Ok(Roots { before: (!fresh).then_some(before), after })
    }

    fn apply(&mut self, child: Child, depth: usize, ops: &'a [Op]) -> Result<Child, RootError> {
        let span = match child {
            _ if ops.is_empty() => return Ok(child),
            Child::Nothing => return self.build(depth, ops),
            Child::Node(id) => return self.apply_node(id, depth, ops),
            Child::Entry(span) => span,
        };
        let (entry, _) = row::entry(&self.arena.heap, span).map_err(RootError::Fault)?;
        if entry.kind == Kind::External {
            let at = self.changed.len();
            let path = (0..depth).map(|at| ops[0].key.nibble(at)).collect();
            self.changed.push((NodeKey { owner: self.owner, path }, None));
            let done = self.apply_row(at, entry.reference, ops);
            return done.map_err(|error| error.at(&self.changed[at].0));
        }
        let (id, _) = self.node(entry.kind, entry.body)?;
        self.apply_node(id, depth, ops)
    }

    fn apply_node(&mut self, id: NodeId, depth: usize, ops: &'a [Op]) -> Result<Child, RootError> {
        match self.arena[id] {
            Node::Leaf { path, value } => self.apply_leaf(id, (path, value), depth, ops),
            Node::Extension { path, child } => {
                let agreed = agreed(&path, depth, ops);
                if agreed < path.as_slice().len() {
                    return self.split(&path, agreed, Rest::Child(child), (depth, ops));
                }
                // A key to delete may leave the path early: it is not there.
                let inside = within(&path, depth, ops);
                if inside.is_empty() {
                    return Ok(Child::Node(id));
                }
                let child = self.apply(child, depth + agreed, inside)?;
                self.prefixed(path.as_slice(), child)
            }
            Node::Branch { .. } => self.apply_branch(id, depth, ops),
        }
    }

    /// A large branch: the row listed at `at` is read, changed and written.
    fn apply_row(&mut self, at: usize, reference: Span, ops: &'a [Op]) -> Result<Child, RootError> {
        let mark = self.mark();
        let unchecked = self.rows.copy_to(&self.changed[at].0, &mut self.arena.heap)?;
        let unchecked = unchecked.ok_or(RootError::Fault("it is missing"))?;
        let (id, body) = self.open(mark.0)?;
        let Node::Branch { row, .. } = &mut self.arena[id] else {
            return Err(RootError::Fault("an inner row must begin with a branch"));
        };
        // A pass that changes 4 billion rows ran out of memory long before.
        *row = Some(u32::try_from(at).expect("a pass changes too many rows"));
        if unchecked {
            encode::body_rlp(&self.arena.heap, &body, &mut self.arena.rlp);
            if reference.of(&self.arena.heap) != keccak256(&self.arena.rlp).as_slice() {
                return Err(RootError::Fault("its hash is not what its parent says"));
            }
        }
        let depth = self.changed[at].0.path.len();
        let warms = self.owner.is_none() && !self.warm && (2..=WARMED_OPS_MAX).contains(&ops.len());
        if warms {
            self.warm = true;
            self.rows.warm(ops.iter().map(|op| &op.key), depth);
        }
        let node = self.apply_node(id, depth, ops)?;
        self.warm &= !warms;
        if ops.len() < SETTLED_OPS_MIN {
            return Ok(node);
        }
        self.settle(node, (&ops[0].key, depth), mark)
    }

    /// Hashes and writes a subtree that is done and gives back the memory that it took.
    fn settle(
        &mut self,
        node: Child,
        (key, depth): (&Key, usize),
        (heap_mark, node_mark): (usize, usize),
    ) -> Result<Child, RootError> {
        self.arena.out.clear();
        self.arena.path.clear();
        self.arena.path.extend((0..depth).map(|at| key.nibble(at)));
        self.hash(node);
        self.encode(node)?;
        let Arena { nodes, heap, out, .. } = &mut *self.arena;
        nodes.truncate(node_mark);
        heap.truncate(heap_mark);
        if out.is_empty() {
            return Ok(Child::Nothing);
        }
        heap.extend_from_slice(out);
        Ok(Child::Entry(Span::new(heap_mark, heap.len())))
    }

    fn mark(&self) -> (usize, usize) {
        (self.arena.heap.len(), self.arena.nodes.len())
    }

    fn apply_leaf(
        &mut self,
        id: NodeId,
        (path, value): (Nibbles, Span),
        depth: usize,
        ops: &'a [Op],
    ) -> Result<Child, RootError> {
        let whole = path.as_slice().len();
        let agreed = agreed(&path, depth, ops);
        let is_it =
            |op: &&Op| op.key.len() == depth + whole && op.key.common(depth, &path) == whole;
        let others_stay_out = agreed == whole
            && ops
                .iter()
                .all(|op| matches!(op.value, NewValue::Nothing) || op.key.len() == depth + whole);
        if !others_stay_out {
            return self.split(&path, agreed, Rest::Value(value), (depth, ops));
        }
        let Some(op) = ops.iter().find(is_it) else { return Ok(Child::Node(id)) };
        let Some(value) = self.new_value(op, Some(value))? else { return Ok(Child::Nothing) };
        self.arena[id] = Node::Leaf { path, value };
        Ok(Child::Node(id))
    }

    /// Puts a branch after the first `agreed` nibbles of a path, and the rest under it.
    fn split(
        &mut self,
        path: &Nibbles,
        agreed: usize,
        rest: Rest,
        (depth, ops): (usize, &'a [Op]),
    ) -> Result<Child, RootError> {
        let (shared, tail) = path.as_slice().split_at(agreed);
        let mut children = [Child::Nothing; 16];
        let mut value = None;
        match (tail.split_first(), rest) {
            (None, Rest::Value(own)) => value = Some(own),
            (None, Rest::Child(_)) => unreachable!("an extension is split before its end"),
            (Some((nibble, tail)), Rest::Value(value)) => {
                let path = Nibbles::joined(&[], tail);
                children[usize::from(*nibble)] = self.push(Node::Leaf { path, value });
            }
            (Some((nibble, [])), Rest::Child(child)) => children[usize::from(*nibble)] = child,
            (Some((nibble, tail)), Rest::Child(child)) => {
                let path = Nibbles::joined(&[], tail);
                children[usize::from(*nibble)] = self.push(Node::Extension { path, child });
            }
        }
        let branch = self.push(Node::Branch { children, value, row: None });
        let inside = within(&Nibbles::joined(&[], shared), depth, ops);
        let branch = self.apply(branch, depth + agreed, inside)?;
        self.prefixed(shared, branch)
    }

    fn apply_branch(
        &mut self,
        id: NodeId,
        depth: usize,
        mut ops: &'a [Op],
    ) -> Result<Child, RootError> {
        if let Some((op, after)) = ops.split_first()
            && op.key.len() == depth
        {
            let Node::Branch { value, .. } = self.arena[id] else {
                return Ok(Child::Node(id));
            };
            let changed = self.new_value(op, value)?;
            if let Node::Branch { value, .. } = &mut self.arena[id] {
                *value = changed;
            }
            ops = after;
        }
        while let Some(op) = ops.first() {
            let nibble = op.key.nibble(depth);
            let count = ops.partition_point(|op| op.key.nibble(depth) == nibble);
            let (group, after) = ops.split_at(count);
            let nibble = usize::from(nibble);
            let Node::Branch { children, .. } = &self.arena[id] else { break };
            let child = children[nibble];
            let child = self.apply(child, depth + 1, group)?;
            if let Node::Branch { children, .. } = &mut self.arena[id] {
                children[nibble] = child;
            }
            ops = after;
        }
        self.normalised(id)
    }

    /// A branch with less than two entries becomes what is left of it.
    fn normalised(&mut self, id: NodeId) -> Result<Child, RootError> {
        let Node::Branch { children, value, .. } = &self.arena[id] else {
            return Ok(Child::Node(id));
        };
        let mut left = (0u8..).zip(children).filter(|(_, child)| !matches!(child, Child::Nothing));
        match (left.next(), left.next(), *value) {
            (None, _, None) => Ok(Child::Nothing),
            (None, _, Some(value)) => {
                self.arena[id] = Node::Leaf { path: Nibbles::joined(&[], &[]), value };
                Ok(Child::Node(id))
            }
            (Some((nibble, child)), None, None) => {
                let child = *child;
                self.prefixed(&[nibble], child)
            }
            _ => Ok(Child::Node(id)),
        }
    }

    /// The child under a longer path: leaves and extensions grow, a branch gets an extension.
    fn prefixed(&mut self, prefix: &[u8], child: Child) -> Result<Child, RootError> {
        if prefix.is_empty() {
            return Ok(child);
        }
        let mut child = child;
        if let Child::Entry(span) = child {
            let entry = row::entry(&self.arena.heap, span);
            let (entry, _) = entry.map_err(RootError::Fault)?;
            if matches!(entry.kind, Kind::Leaf | Kind::Extension) {
                child = Child::Node(self.node(entry.kind, entry.body)?.0);
            }
        }
        if let Child::Node(id) = child {
            match &mut self.arena[id] {
                Node::Leaf { path, .. } | Node::Extension { path, .. } => {
                    *path = Nibbles::joined(prefix, path.as_slice());
                    return Ok(child);
                }
                Node::Branch { .. } => {}
            }
        }
        if matches!(child, Child::Nothing) {
            return Ok(child);
        }
        Ok(self.push(Node::Extension { path: Nibbles::joined(prefix, &[]), child }))
    }

    /// The subtree of new keys alone.
    fn build(&mut self, depth: usize, ops: &'a [Op]) -> Result<Child, RootError> {
        let stays = |op: &Op| !matches!(op.value, NewValue::Nothing);
        let Some(first) = ops.iter().position(stays) else { return Ok(Child::Nothing) };
        let last = ops.iter().rposition(stays).unwrap_or(first);
        let ops = &ops[first..=last];
        let (first, last) = (&ops[0], &ops[ops.len() - 1]);
        let path = first.key.path_from(depth);
        let mark = self.mark();
        if ops.len() == 1 {
            let value = self.new_value(first, None)?;
            return Ok(value.map_or(Child::Nothing, |value| self.push(Node::Leaf { path, value })));
        }
        let shared = first.key.common_with(depth, &last.key);
        let branch =
            self.push(Node::Branch { children: [Child::Nothing; 16], value: None, row: None });
        let branch = self.apply(branch, depth + shared, ops)?;
        let built = self.prefixed(&path.as_slice()[..shared], branch)?;
        if depth == 0 || ops.len() < SETTLED_OPS_MIN {
            return Ok(built);
        }
        self.settle(built, (&first.key, depth), mark)
    }

    /// Copies an op's value to the heap; an account without a new storage root keeps the old one.
    fn new_value(&mut self, op: &Op, old: Option<Span>) -> Result<Option<Span>, RootError> {
        let heap = &mut self.arena.heap;
        let start = match op.value {
            NewValue::Nothing => return Ok(None),
            NewValue::Bytes(span) => {
                let start = heap.len();
                heap.extend_from_slice(span.of(&self.changes.values));
                start
            }
            NewValue::Account(at) => {
                let AccountLeaf { account, storage } = &self.changes.accounts[at];
                let old = old.and_then(|old| storage_root_of(old.of(heap)));
                let old = old.unwrap_or(EMPTY_ROOT_HASH);
                let root = match storage {
                    Some(Roots { before: Some(before), .. }) if *before != old => {
                        return Err(RootError::StorageDiffers { leaf: old, rows: *before });
                    }
                    Some(roots) => roots.after,
                    None => old,
                };
                let start = heap.len();
                account_rlp(account, root, heap);
                start
            }
        };
        Ok(Some(Span::new(start, self.arena.heap.len())))
    }

    fn push(&mut self, node: Node) -> Child {
        Child::Node(self.arena.push(node))
    }

    /// Decodes the topmost node of the row that takes the heap from `start` on.
    fn open(&mut self, start: usize) -> Result<(NodeId, Body), RootError> {
        let row = self.arena.heap.get(start..).unwrap_or_default();
        let (kind, at) = row::top(row).map_err(RootError::Fault)?;
        self.node(kind, Span::new(start + at.start(), start + at.end()))
    }

    fn node(&mut self, kind: Kind, at: Span) -> Result<(NodeId, Body), RootError> {
        let body = row::body(&self.arena.heap, kind, at).map_err(RootError::Fault)?;
        let node = match &body {
            Body::Leaf { path, value, tail } => {
                let mut value = *value;
                if *tail {
                    let heap = &mut self.arena.heap;
                    let start = heap.len();
                    heap.extend_from_within(value.start()..value.end());
                    heap.extend_from_slice(&PLAIN_TAIL);
                    value = Span::new(start, heap.len());
                }
                Node::Leaf { path: *path, value }
            }
            Body::Extension { path, child } => {
                Node::Extension { path: *path, child: Child::Entry(*child) }
            }
            Body::Branch { children: spans, value } => {
                let mut children = [Child::Nothing; 16];
                for (child, span) in children.iter_mut().zip(spans) {
                    *child = span.map_or(Child::Nothing, Child::Entry);
                }
                Node::Branch { children, value: *value, row: None }
            }
        };
        Ok((self.arena.push(node), body))
    }
}

/// What hangs under a path that is split.
enum Rest {
    Value(Span),
    Child(Child),
}

/// How many nibbles of `path` all keys that stay agree on.
fn agreed(path: &Nibbles, depth: usize, ops: &[Op]) -> usize {
    let stays = ops.iter().filter(|op| !matches!(op.value, NewValue::Nothing));
    let common = stays.map(|op| op.key.common(depth, path));
    common.min().unwrap_or(path.as_slice().len())
}

/// The ops whose keys go through `path`: they stand side by side.
fn within<'o>(path: &Nibbles, depth: usize, ops: &'o [Op]) -> &'o [Op] {
    let inside = |op: &Op| op.key.common(depth, path) == path.as_slice().len();
    let Some(first) = ops.iter().position(inside) else { return &[] };
    let last = ops.iter().rposition(inside).unwrap_or(first);
    &ops[first..=last]
}

/// Appends an account as its leaf holds it: nonce, balance, storage root, code hash.
pub(crate) fn account_rlp(account: &Account, storage_root: B256, out: &mut Vec<u8>) {
    let mut numbers = [0; 48];
    let mut len = 0;
    for integer in [&account.nonce.to_be_bytes()[..], &account.balance.to_be_bytes::<32>()] {
        let significant = integer.iter().position(|byte| *byte != 0).unwrap_or(integer.len());
        let digits = &integer[significant..];
        if let [byte @ ..0x80] = digits {
            numbers[len] = *byte;
        } else {
            numbers[len] = 0x80 + u8::try_from(digits.len()).unwrap_or(32);
            numbers[len + 1..len + 1 + digits.len()].copy_from_slice(digits);
            len += digits.len();
        }
        len += 1;
    }
    rlp::header(out, 0xc0, len + PLAIN_TAIL.len());
    out.extend_from_slice(&numbers[..len]);
    rlp::string(out, storage_root.as_slice());
    rlp::string(out, account.code_hash.as_slice());
}

/// The storage root in an account's leaf: before the last string, each of 33 bytes.
fn storage_root_of(value: &[u8]) -> Option<B256> {
    let at = value.len().checked_sub(PLAIN_TAIL.len() - 1)?;
    value.get(at..at + 32).map(B256::from_slice)
}
