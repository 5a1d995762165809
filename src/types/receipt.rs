//! What a transaction did: the consensus fields of its receipt and nothing derivable.

use alloy_consensus::{Eip658Value, ReceiptEnvelope, TxType};
use alloy_primitives::{Bloom, Log, logs_bloom};

/// Outcome of one transaction in its block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// EIP-2718 type of the transaction.
    pub tx_type: TxType,
    /// EIP-658 status.
    pub success: bool,
    /// Gas that this transaction used, refunds deducted.
    pub gas_used: u64,
    /// Gas that the block used up to and with this transaction.
    pub cumulative_gas_used: u64,
    /// Events in order.
    pub logs: Vec<Log>,
}

impl Receipt {
    /// EIP-2718 receipt with its bloom, as it enters the receipts root.
    pub fn envelope(&self) -> ReceiptEnvelope {
        let receipt = alloy_consensus::Receipt {
            status: Eip658Value::Eip658(self.success),
            cumulative_gas_used: self.cumulative_gas_used,
            logs: self.logs.clone(),
        };
        ReceiptEnvelope::from_typed(self.tx_type, receipt.with_bloom())
    }

    /// Memory that it takes, bytes, near enough for limits.
    pub fn memory_bytes(&self) -> usize {
        let log = |log: &Log| size_of::<Log>() + 32 * log.topics().len() + log.data.data.len();
        size_of::<Self>() + self.logs.iter().map(log).sum::<usize>()
    }

    /// The bloom filter of its logs.
    pub fn bloom(&self) -> Bloom {
        logs_bloom(self.logs.iter())
    }
}
