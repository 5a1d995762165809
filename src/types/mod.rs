//! The values that stages hand to each other, and the read interfaces between folders.
//!
//! Nothing here computes more than a look-up or a merge, opens a file or knows a thread. Every
//! folder may import `types`; `types` imports none.

pub mod ids;
pub mod limits;
pub mod map;
pub mod listed;

pub mod transaction;
pub mod receipt;
pub mod diff;
pub mod overlay;
pub mod mini_block;
pub mod block;
pub mod flow;
pub mod view;
