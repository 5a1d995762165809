//! State that lasts: flat tables and trie rows in mdbx, bodies in the archive, and the chain as
//! clients see it.
//!
//! Input: durable steps from `wal`, sealed blocks from `block`. Output: closed blocks for `trie`,
//! events for clients, snapshots for whoever reads. Limit: undo layers and recent blocks in
//! memory (`published`, `recent`), blocks between checkpoints (`policy`). Failure: a checkpoint
//! that cannot be written stops the node; the log replays it. Seats: `State` publishes,
//! `Checkpoint` writes, `Archive` reads segments.
//!
//! A state is an overlay over a snapshot, both swapped as one:
//!
//! ```text
//!   undo layers      checkpoint      sealed        closed, open
//!   ◀── 128 blocks ──┤ snapshot ├──── overlay ──────────────▶
//!                    steady          latest         pending
//! ```
//!
//! A start: `Environment::open` → `opened` (else `genesis::initialise`) → `Archive::open` cut at
//! the checkpoint's position → `Snapshot::open` → `Published::new` → replay the log through
//! `Published::push`, `close`, `seal` → the stage's loops.

pub mod tables;
pub mod environment;
mod flat;
pub mod snapshot;
pub mod genesis;
pub mod undo;
pub mod recent;
pub mod published;
pub mod archive;
pub mod policy;
pub mod checkpoint;
pub mod stage;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
