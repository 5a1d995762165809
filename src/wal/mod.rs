//! The write-ahead log: nobody learns of anything that a power cut can take back.
//!
//! Input: `Step`s from `mini_block`, in order. Output: the same to `state`, each only when its
//! record is durable. Limits: eight steps or a mebibyte a durable write, a gibibyte a record;
//! disk use ends where checkpoints keep up, as segments behind them are used again. Failure: a
//! write or flush that fails ends the stage with an error, and the node with it. Seat: its own;
//! a second thread off the hot path makes segments ready (`segment::Preparer`).
//!
//! 1. encode  2. write  3. flush  4. hand on. After a crash:
//! 1. `replay::open` locks the directory  2. `replay` hands out what the checkpoint does not cover
//! 3. `finish` cuts a torn end off and gives the `Log`, which alone can be written.

pub mod record;
pub mod codec;
mod reader;
pub mod segment;
pub mod log;
pub mod replay;
pub mod stage;
