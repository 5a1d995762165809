//! Who goes next, and when: the clock of the chain.
//!
//! Input: admitted transactions in each sender's nonce order, and a `Credit` for each cut. Output:
//! a `Cut` at the end of every mini-block interval that has something to execute, others ahead of
//! it where there is work enough (`early`), and one that closes each block; a heartbeat for each
//! interval without a transaction. Limit: `policy::CutLimits` per mini-block, the pool's bounds
//! for what waits, one cut in flight. Failure: late execution skips intervals,
//! it never piles them up; execution gone is an error. Seat: `ordering`.

pub mod policy;
pub mod cut;
pub mod early;
pub mod stage;

#[cfg(test)]
mod tests;
