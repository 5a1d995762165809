//! From changed nodes to rows, once `hash` has named them: decides which branch gets a row of its
//! own.

use crate::trie::{
    rlp,
    root::RootError,
    row::{self, BODY_START, Body, Kind, PLAIN_TAIL, REFERENCE_END, SHORT, Span, VERSION},
    update::{Child, Node, NodeId, Pass},
};
use crate::types::block::NodeKey;
use alloy_primitives::{B256, Bytes};
use alloy_trie::EMPTY_ROOT_HASH;

/// A branch inside another's row moves out when its body is larger: five plain accounts.
pub(crate) const INSIDE_BYTES_MAX: usize = 320;
/// A branch with a row of its own moves in when its body is not larger. Lower than the other
/// bound, so that a branch at the border does not move at each change.
pub(crate) const OWN_ROW_BYTES_MIN: usize = 160;

const _: () = assert!(OWN_ROW_BYTES_MIN < INSIDE_BYTES_MAX);

impl Pass<'_> {
    /// The row and hash of the trie's root.
    pub(crate) fn encode_root(&mut self, top: Child) -> Result<(Option<Bytes>, B256), RootError> {
        self.arena.out.clear();
        self.arena.path.clear();
        let Child::Node(id) = top else { return Ok((None, EMPTY_ROOT_HASH)) };
        self.hash(top);
        self.arena.out.extend_from_slice(&[VERSION, 0]);
        let kind = self.encode_body(id)?;
        self.arena.out[1] = kind as u8;
        let row = Bytes::copy_from_slice(&self.arena.out);
        Ok((Some(row), self.root_hash(id)))
    }

    /// Appends a child's entry to `out`; a branch with a large body goes to a row of its own, and
    /// only its reference is appended.
    pub(crate) fn encode(&mut self, child: Child) -> Result<(), RootError> {
        let id = match child {
            Child::Nothing => return Ok(()),
            Child::Entry(span) => {
                self.arena.out.extend_from_slice(span.of(&self.arena.heap));
                return Ok(());
            }
            Child::Node(id) => id,
        };
        let start = self.arena.out.len();
        self.arena.out.resize(start + BODY_START, 0);
        let mut kind = self.encode_body(id)?;
        let listed = match self.arena[id] {
            Node::Branch { row, .. } => row,
            _ => None,
        };
        let body_bytes_max = if listed.is_some() { OWN_ROW_BYTES_MIN } else { INSIDE_BYTES_MAX };
        let out = &mut self.arena.out;
        let len = out.len() - start - BODY_START;
        if matches!(kind, Kind::Branch | Kind::ValueBranch) && len > body_bytes_max {
            // The end of the entry's head makes room for the row's.
            out[start + REFERENCE_END] = VERSION;
            out[start + REFERENCE_END + 1] = kind as u8;
            let row = Bytes::copy_from_slice(&out[start + REFERENCE_END..]);
            match listed.and_then(|at| self.changed.get_mut(at as usize)) {
                Some(listed) => listed.1 = Some(row),
                None => {
                    let key = NodeKey { owner: self.owner, path: self.arena.path.clone() };
                    self.changed.push((key, Some(row)));
                }
            }
            out.truncate(start + REFERENCE_END);
            kind = Kind::External;
        } else {
            let len = u16::try_from(len).map_err(|_| RootError::ValueTooLong(len))?;
            out[start + REFERENCE_END..start + BODY_START].copy_from_slice(&len.to_le_bytes());
        }
        let name = self.arena.names[id.place()].as_slice();
        match u8::try_from(name.len()) {
            Ok(short @ ..32) => {
                out[start] = kind as u8 | SHORT;
                out[start + 1] = short;
                out[start + 2..start + 2 + name.len()].copy_from_slice(name);
            }
            _ => {
                out[start] = kind as u8;
                out[start + 1..start + REFERENCE_END].copy_from_slice(name);
            }
        }
        Ok(())
    }

    /// Appends a node's body to `out`.
    fn encode_body(&mut self, id: NodeId) -> Result<Kind, RootError> {
        match self.arena[id] {
            Node::Leaf { path, value } => {
                let arena = &mut *self.arena;
                let value = value.of(&arena.heap);
                arena.out.push(count(path.as_slice()));
                path.pack(&mut arena.out);
                let plain = value.strip_suffix(&PLAIN_TAIL);
                arena.out.push(u8::from(plain.is_some()));
                arena.out.extend_from_slice(plain.unwrap_or(value));
                Ok(Kind::Leaf)
            }
            Node::Extension { path, child } => {
                self.arena.out.push(count(path.as_slice()));
                path.pack(&mut self.arena.out);
                let depth = self.arena.path.len();
                self.arena.path.extend_from_slice(path.as_slice());
                self.encode(child)?;
                self.arena.path.truncate(depth);
                Ok(Kind::Extension)
            }
            Node::Branch { children, value, .. } => self.encode_branch(&children, value),
        }
    }

    fn encode_branch(
        &mut self,
        children: &[Child; 16],
        value: Option<Span>,
    ) -> Result<Kind, RootError> {
        let head = self.arena.out.len();
        self.arena.out.extend_from_slice(&[0, 0]);
        if let Some(value) = value {
            let arena = &mut *self.arena;
            let value = value.of(&arena.heap);
            let len = value.len();
            let len = u16::try_from(len).map_err(|_| RootError::ValueTooLong(len))?;
            arena.out.extend_from_slice(&len.to_le_bytes());
            arena.out.extend_from_slice(value);
        }
        let mut mask = 0u16;
        for (nibble, child) in (0u8..).zip(children) {
            if !matches!(child, Child::Nothing) {
                mask |= 1 << nibble;
                self.arena.path.push(nibble);
                self.encode(*child)?;
                self.arena.path.pop();
            }
        }
        self.arena.out[head..head + 2].copy_from_slice(&mask.to_le_bytes());
        Ok(if value.is_some() { Kind::ValueBranch } else { Kind::Branch })
    }
}

/// Replaces `out` by the RLP of a node as a row has it.
pub(crate) fn body_rlp(bytes: &[u8], body: &Body, out: &mut Vec<u8>) {
    match body {
        Body::Leaf { path, value, tail: false } => rlp::leaf(out, path, value.of(bytes)),
        Body::Leaf { path, value, tail: true } => {
            rlp::leaf(out, path, &[value.of(bytes), &PLAIN_TAIL].concat());
        }
        Body::Extension { path, child } => {
            rlp::extension(out, path, reference(bytes, child.start()));
        }
        Body::Branch { children, value } => {
            let references = children.map(|child| child.map(|span| reference(bytes, span.start())));
            rlp::branch(out, &references, value.map_or(&[][..], |value| value.of(bytes)));
        }
    }
}

/// The reference of the entry at `start`.
fn reference(bytes: &[u8], start: usize) -> &[u8] {
    row::reference(bytes, Span::new(start, bytes.len())).of(bytes)
}

fn count(path: &[u8]) -> u8 {
    u8::try_from(path.len()).unwrap_or(u8::MAX)
}
