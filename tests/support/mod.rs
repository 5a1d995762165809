//! What several test files share.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    reason = "each test file uses a part of it"
)]

pub mod vectors;
