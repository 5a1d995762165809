//! Basalt: an Ethereum layer-2 node. Transactions in, durable mini-blocks and sealed blocks out.

pub mod types;
pub mod config;
pub mod topology;
pub mod runtime;
pub mod cli;
