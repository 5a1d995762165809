//! Ethereum's Merkle-Patricia trie of accounts and storages, kept up to date block by block.
//!
//! Input: `flow::ClosedBlock` in block order. Output: the block with its `TrieUpdate`: the state
//! root and the rows that changed. Limit: rows in memory keep to a budget in bytes, except that
//! rows newer than the last checkpoint stay until a checkpoint covers them. Failure: a row that
//! is missing, unreadable or does not hash to what its parent says stops the stage; nothing is
//! applied in part. Seat: one, while the next block executes.
//!
//! A row is a subtree, not a node: a branch with its leaves, extensions and small branches
//! inside it, and the hash of each. A large branch below has its own row under its own path. So
//! a changed account costs one row of about a kilobyte and its few ancestors, an untouched
//! sibling is copied and never parsed or hashed, and a small storage is one row.
//!
//! 1. Sort the changes by hashed key.
//! 2. Walk down once, replacing leaves.
//! 3. On the way up, hash what was touched, level by level and eight nodes at a time, and encode
//!    each touched row.
//! 4. Hand out the rows, and keep them until a checkpoint has them.

mod nibbles;
mod rlp;
mod row;
mod rows;
mod update;
mod hash;
mod encode;
pub mod walk;
pub mod root;
pub mod plain;
pub mod proof;
pub mod service;
pub mod stage;

pub use plain::PlainTrie;
pub use root::{RootError, StateTrie};
pub use service::ProofService;

#[cfg(test)]
mod tests;
