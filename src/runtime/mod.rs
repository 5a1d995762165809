//! What stages stand on: rings, pinned threads, clocks, metrics, io_uring.
//!
//! Only files named `stage.rs`, and `rpc` and `wal`, may use it: logic takes time, threads and
//! randomness as arguments.

pub mod ring;
pub mod pin;
pub mod clock;
pub mod metrics;
pub mod memory;
pub mod uring;
