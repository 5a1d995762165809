//! Seals blocks: from a closed block and its state root to a header and its hash.
//!
//! Input: `trie::RootedBlock` in block order. Output: `SealedBlock` for the checkpoint, and the
//! new header's hash for execution, which awaits it, and for proofs. Limit: one block at a time.
//! Failure: a block whose parts contradict each other, or whose parent is not the block sealed
//! before it, stops the stage. Seat: one.
//!
//! `header` and `seal` are pure functions; a header follows Osaka's rules, so any Ethereum client
//! can check it.

pub mod header;
pub mod seal;
pub mod stage;

#[cfg(test)]
mod tests;
