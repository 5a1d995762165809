//! Executes transactions in order and says exactly what they changed.
//!
//! - Input: cuts from `ordering`, hashes of sealed blocks from `block`, snapshots from `state`.
//! - Output: a step for each mini-block and each block end, and a credit for each cut.
//! - Limit: gas and bytes of a block, transactions and bytes of a mini-block, the cut's deadline;
//!   cached state is bounded by [`store::CacheLimits`].
//! - Failure: an invalid transaction goes back with a reason; a state that cannot be read, a
//!   system call that fails or a parent hash that never comes stops the stage with an error.
//! - Seat: one thread, `Execution`, that commits; `Lane` for those that run ahead of it.
//!
//! Law: sequential equivalence. Whatever implements [`serial::Engine`] gives, for the same
//! transactions on the same state, bit for bit the receipts, gas, logs, diff and fee totals of
//! [`serial::Serial`], and takes, leaves and drops the same transactions wherever the deadline
//! does not decide.
//!
//! The parent's hash is late: a block executes while its parent's root is still being computed.
//! 1. The block opens without it; EIP-4788's write is done at once.
//! 2. A transaction that reads it (BLOCKHASH, or the history contract's newest slot) waits for it.
//! 3. When the block closes, it is waited for, and EIP-2935's write goes into the close's diff.
//!
//! No transaction can tell this from a write at the block's start.

pub mod hashes;
mod prefetch;
mod table;
mod cache;
mod words;
mod call;
mod preimages;
mod changes;
pub mod store;
mod interpreter;
pub mod evm;
mod handler;
pub mod refusal;
pub mod fees;
pub mod system;
pub mod block;
pub mod serial;
mod tips;
pub mod transfer;
pub mod parallel;
pub mod worker;
pub mod simulate;
pub mod stage;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod equal;
