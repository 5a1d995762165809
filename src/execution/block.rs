//! The open block: what it has used so far, and how it is taken up again after a restart.

use crate::execution::{
    evm::{EngineError, Rules},
    system,
};
use crate::types::{
    limits::{BLOCK_TRANSACTION_BYTES_MAX, MINI_BLOCKS_PER_BLOCK_MAX, TRANSFER_GAS},
    mini_block::{BlockEnvironment, MiniBlock},
};
use std::sync::Arc;

/// Bytes that a plain transfer takes in a block, near enough.
const TRANSFER_BYTES: usize = 128;

/// A block that mini-blocks are being added to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenBlock {
    /// Fixed when it opened.
    pub environment: BlockEnvironment,
    /// Mini-blocks so far.
    pub mini_blocks: u64,
    /// Transactions so far.
    pub transactions: u64,
    /// Logs so far.
    pub logs: u64,
    /// Gas so far.
    pub gas_used: u64,
    /// Bytes of its transactions so far.
    pub bytes: usize,
    /// EIP-6110 deposit requests so far, concatenated.
    pub deposits: Vec<u8>,
    /// Of these transactions, those in the mini-block that is not ended.
    pub begun: Begun,
}

/// A mini-block that transactions are being added to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Begun {
    /// Transactions so far.
    pub transactions: usize,
    /// Their bytes.
    pub bytes: usize,
}

impl OpenBlock {
    /// A block without transactions.
    pub fn new(environment: BlockEnvironment) -> Self {
        Self {
            environment,
            mini_blocks: 0,
            transactions: 0,
            logs: 0,
            gas_used: 0,
            bytes: 0,
            deposits: Vec::new(),
            begun: Begun::default(),
        }
    }

    /// The open block that these durable mini-blocks, all that it has, lead to; `None` without
    /// any: then no block is open.
    ///
    /// # Errors
    /// Where a deposit event among them has another layout than EIP-6110's.
    pub fn resumed(
        mini_blocks: &[Arc<MiniBlock>],
        rules: &Rules,
    ) -> Result<Option<Self>, EngineError> {
        let Some(first) = mini_blocks.first() else { return Ok(None) };
        let mut open = Self::new(first.environment);
        for mini_block in mini_blocks {
            open.mini_blocks += 1;
            open.gas_used += mini_block.gas_used;
            for (transaction, receipt) in mini_block.transactions.iter().zip(&mini_block.receipts) {
                open.transactions += 1;
                open.logs += u64::try_from(receipt.logs.len()).unwrap_or(u64::MAX);
                open.bytes += transaction.block_bytes();
                system::append_deposits(&mut open.deposits, &receipt.logs, rules)?;
            }
        }
        Ok(Some(open))
    }

    /// Gas left.
    pub fn gas_left(&self) -> u64 {
        self.environment.gas_limit.saturating_sub(self.gas_used)
    }

    /// Bytes of transactions left.
    pub fn bytes_left(&self) -> usize {
        BLOCK_TRANSACTION_BYTES_MAX.saturating_sub(self.bytes)
    }

    /// No further plain transfer fits, or no further mini-block.
    pub fn is_full(&self) -> bool {
        self.gas_left() < TRANSFER_GAS
            || self.bytes_left() < TRANSFER_BYTES
            || self.mini_blocks >= MINI_BLOCKS_PER_BLOCK_MAX
    }
}
