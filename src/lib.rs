//! Basalt: an Ethereum layer-2 node. Transactions in, durable mini-blocks and sealed blocks out.

pub mod types;
pub mod crypto;
pub mod config;
pub mod topology;
pub mod runtime;

pub mod rpc;
pub mod ingress;
pub mod ordering;
pub mod execution;
pub mod mini_block;
pub mod wal;
pub mod state;
pub mod trie;
pub mod block;

pub mod node;
pub mod cli;
