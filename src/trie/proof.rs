//! EIP-1186 proofs from rows: of presence, and of absence by the path that ends elsewhere.

use crate::trie::{
    encode,
    nibbles::Key,
    root::name,
    row::{self, Body, Kind},
};
use crate::types::{
    block::NodeKey,
    diff::Account,
    view::{AccountProof, NodeSource, ViewError},
};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_rlp::Decodable as _;
use alloy_trie::{EMPTY_ROOT_HASH, TrieAccount};

/// Proves an account and slots against the root of the trie that `rows` hold. An empty trie is
/// proved by no node at all; a node of fewer than 32 bytes stands in its parent only.
///
/// # Errors
/// Where a row cannot be read or is not sound.
pub fn account_proof(
    rows: &dyn NodeSource,
    address: Address,
    slots: &[U256],
) -> Result<AccountProof, ViewError> {
    let owner = keccak256(address);
    let (nodes, value) = path(rows, None, owner)?;
    let leaf = value.map(|value| TrieAccount::decode(&mut &value[..])).transpose();
    let leaf = leaf.map_err(|error| {
        ViewError::Database(format!("leaf of account {address} does not decode: {error}"))
    })?;
    let mut proved = Vec::with_capacity(slots.len());
    for slot in slots {
        let (nodes, value) = path(rows, Some(owner), keccak256(slot.to_be_bytes::<32>()))?;
        let value = value.map(|value| U256::decode(&mut &value[..])).transpose();
        let value = value.map_err(|error| {
            ViewError::Database(format!("slot {slot} of {address} does not decode: {error}"))
        })?;
        proved.push((*slot, value.unwrap_or_default(), nodes));
    }
    Ok(AccountProof {
        account: leaf.map(|leaf| Account {
            nonce: leaf.nonce,
            balance: leaf.balance,
            code_hash: leaf.code_hash,
        }),
        storage_root: leaf.map_or(EMPTY_ROOT_HASH, |leaf| leaf.storage_root),
        nodes,
        slots: proved,
    })
}

/// The nodes from a trie's root towards a key, and the key's value.
fn path(
    rows: &dyn NodeSource,
    owner: Option<B256>,
    key: B256,
) -> Result<(Vec<Bytes>, Option<Vec<u8>>), ViewError> {
    let whole = Key::new(key.as_slice()).ok_or_else(|| ViewError::Database("key".to_owned()))?;
    let mut at = NodeKey { owner, path: Vec::new() };
    let mut nodes = Vec::new();
    let Some(mut row) = rows.row(&at)? else { return Ok((nodes, None)) };
    let bad = |at: &NodeKey, why| ViewError::Database(format!("trie row {}: {why}", name(at)));
    let (mut kind, mut span) = row::top(&row).map_err(|why| bad(&at, why))?;
    let (mut depth, mut rlp) = (0, Vec::new());
    loop {
        let body = row::body(&row, kind, span).map_err(|why| bad(&at, why))?;
        encode::body_rlp(&row, &body, &mut rlp);
        if rlp.len() >= 32 || nodes.is_empty() {
            nodes.push(Bytes::copy_from_slice(&rlp));
        }
        let child = match body {
            Body::Leaf { path, value, tail } => {
                let len = path.as_slice().len();
                let is_it = whole.len() == depth + len && whole.common(depth, &path) == len;
                let tail = if tail { &row::PLAIN_TAIL[..] } else { &[] };
                return Ok((nodes, is_it.then(|| [value.of(&row), tail].concat())));
            }
            Body::Extension { path, child } => {
                let len = path.as_slice().len();
                depth += len;
                (depth < whole.len() && whole.common(depth - len, &path) == len).then_some(child)
            }
            Body::Branch { children, .. } if depth < whole.len() => {
                let nibble = usize::from(whole.nibble(depth));
                depth += 1;
                children[nibble]
            }
            Body::Branch { .. } => None,
        };
        let Some(child) = child else { return Ok((nodes, None)) };
        let (entry, _) = row::entry(&row, child).map_err(|why| bad(&at, why))?;
        (kind, span) = (entry.kind, entry.body);
        if kind == Kind::External {
            at.path = (0..depth).map(|at| whole.nibble(at)).collect();
            row = rows.row(&at)?.ok_or_else(|| bad(&at, "it is missing"))?;
            (kind, span) = row::top(&row).map_err(|why| bad(&at, why))?;
        }
    }
}
