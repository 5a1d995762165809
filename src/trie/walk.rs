//! Reading whole tries: their root, their leaves in order, their rows.

use crate::trie::{
    encode,
    root::RootError,
    row::{self, Body, Kind, PLAIN_TAIL, Span},
    rows::Rows,
    update::RowList,
};
use crate::types::{block::NodeKey, view::NodeSource};
use alloy_primitives::{B256, Bytes, keccak256};
use alloy_trie::EMPTY_ROOT_HASH;

/// The root hash of a trie, from its topmost row.
pub(crate) fn root(source: &dyn NodeSource, owner: Option<B256>) -> Result<B256, RootError> {
    let key = NodeKey { owner, path: Vec::new() };
    let Some(row) = source.row(&key)? else { return Ok(EMPTY_ROOT_HASH) };
    let body = row::top(&row).and_then(|(kind, at)| row::body(&row, kind, at));
    let body = body.map_err(|why| RootError::Fault(why).at(&key))?;
    let mut rlp = Vec::new();
    encode::body_rlp(&row, &body, &mut rlp);
    Ok(keccak256(&rlp))
}

/// Lists every row of a storage as deleted.
pub(crate) fn list_rows(
    rows: &mut Rows,
    owner: B256,
    listed: &mut RowList,
) -> Result<(), RootError> {
    let mut left = vec![NodeKey { owner: Some(owner), path: Vec::new() }];
    while let Some(key) = left.pop() {
        let Some(row) = rows.get(&key)? else { continue };
        let top = row::top(&row).map_err(|why| RootError::Fault(why).at(&key))?;
        let mut found = |path: &[u8]| {
            left.push(NodeKey { owner: key.owner, path: [&key.path, path].concat() });
        };
        externals(&row, top, &mut Vec::new(), &mut found)
            .map_err(|why| RootError::Fault(why).at(&key))?;
        listed.push((key, None));
    }
    Ok(())
}

/// Calls `found` with the path, from the row's top, of each row under this one.
fn externals(
    row: &Bytes,
    (kind, at): (Kind, Span),
    path: &mut Vec<u8>,
    found: &mut dyn FnMut(&[u8]),
) -> Result<(), row::Fault> {
    if kind == Kind::External {
        found(path);
        return Ok(());
    }
    let depth = path.len();
    match row::body(row, kind, at)? {
        Body::Leaf { .. } => {}
        Body::Extension { path: own, child } => {
            path.extend_from_slice(own.as_slice());
            let (entry, _) = row::entry(row, child)?;
            externals(row, (entry.kind, entry.body), path, found)?;
        }
        Body::Branch { children, .. } => {
            for (nibble, child) in (0u8..).zip(children) {
                let Some(child) = child else { continue };
                path.push(nibble);
                let (entry, _) = row::entry(row, child)?;
                externals(row, (entry.kind, entry.body), path, found)?;
                path.truncate(depth);
            }
        }
    }
    path.truncate(depth);
    Ok(())
}

/// Calls `leaf` with the nibbles of each key and its value, in key order.
///
/// # Errors
/// Where a row cannot be read or is not sound.
pub fn leaves(
    source: &dyn NodeSource,
    owner: Option<B256>,
    leaf: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<(), RootError> {
    let key = NodeKey { owner, path: Vec::new() };
    match source.row(&key)? {
        Some(row) => leaves_of_row(source, key, &row, leaf),
        None => Ok(()),
    }
}

fn leaves_of_row(
    source: &dyn NodeSource,
    mut key: NodeKey,
    row: &Bytes,
    leaf: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<(), RootError> {
    let (kind, at) = row::top(row).map_err(|why| RootError::Fault(why).at(&key))?;
    leaves_under(source, &mut key, (row, kind, at), leaf).map_err(|error| error.at(&key))
}

fn leaves_under(
    source: &dyn NodeSource,
    key: &mut NodeKey,
    (row, kind, at): (&Bytes, Kind, Span),
    leaf: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<(), RootError> {
    if kind == Kind::External {
        let below = source.row(key)?.ok_or(RootError::Fault("it is missing"))?;
        return leaves_of_row(source, key.clone(), &below, leaf);
    }
    let depth = key.path.len();
    match row::body(row, kind, at).map_err(RootError::Fault)? {
        Body::Leaf { path, value, tail } => {
            key.path.extend_from_slice(path.as_slice());
            let tail = if tail { &PLAIN_TAIL[..] } else { &[] };
            leaf(&key.path, &[value.of(row), tail].concat());
        }
        Body::Extension { path, child } => {
            key.path.extend_from_slice(path.as_slice());
            let (entry, _) = row::entry(row, child).map_err(RootError::Fault)?;
            leaves_under(source, key, (row, entry.kind, entry.body), leaf)?;
        }
        Body::Branch { children, value } => {
            if let Some(value) = value {
                leaf(&key.path, value.of(row));
            }
            for (nibble, child) in (0u8..).zip(children) {
                let Some(child) = child else { continue };
                key.path.push(nibble);
                let (entry, _) = row::entry(row, child).map_err(RootError::Fault)?;
                leaves_under(source, key, (row, entry.kind, entry.body), leaf)?;
                key.path.truncate(depth);
            }
        }
    }
    key.path.truncate(depth);
    Ok(())
}
