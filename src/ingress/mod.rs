//! The door: raw bytes become transactions with a known sender, or a refusal at once.
//!
//! Input: `Submission`s from the RPC. Output: admitted transactions to ordering, in the order of
//! each sender's nonces; a verdict to every caller. Limit: `pool::PoolLimits`, in count and bytes,
//! per sender and in total. Failure: a `Refusal` in Ethereum's usual words; a full pool or a full
//! ring refuses, nothing blocks. Seat: `ingress`, several share the work.
//!
//! 1. decode and check what needs no state  2. recover senders and authorities in a batch
//! 3. check against the newest durable state  4. enter into the pool, release what is next in
//!    nonce order  5. reply  6. read the recipients, which execution will need

pub mod decode;
pub mod signatures;
pub mod gas;
pub mod admit;
pub mod pool;
pub mod stage;

mod recipients;
mod sender;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
