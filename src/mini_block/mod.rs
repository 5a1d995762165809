//! Gives each mini-block its number, its place in the chain, its hash and its signature.
//!
//! Input: `Step`s from `execution` whose mini-blocks have those fields blank. Output: the same to
//! `wal`, filled in; block closes pass unchanged. Limit: one pass over the mini-block, most of its
//! cost the two ordered tries. Failure: none but a count of receipts that differs from the
//! transactions', which stops the node. Seat: `MiniBlock`.

pub mod seal;
pub mod stage;
