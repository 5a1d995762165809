//! Seals one block: joins its mini-blocks, checks that they agree with its end, makes the header.

use crate::block::header::{self, Roots};
use crate::crypto::list_root::list_root;
use crate::trie::root::RootedBlock;
use crate::types::{
    block::{Block, LogStarts, SealedBlock},
    flow::ClosedBlock,
    ids::BlockNumber,
};
use alloy_consensus::{BlockBody, Header, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{B256, Bloom, Bytes};
use std::sync::Arc;

/// Why a block cannot be sealed: stages before this one broke an invariant, so the node stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not a child of the block sealed before.
    #[error(
        "block {number} has parent {parent}, but block {sealed_number} was sealed as {sealed}; \
         the node must stop: report it with its log"
    )]
    NotChild {
        /// The block.
        number: BlockNumber,
        /// Its parent's hash as execution had it.
        parent: B256,
        /// The block sealed before.
        sealed_number: BlockNumber,
        /// Its hash.
        sealed: B256,
    },
    /// Mini-blocks and the block's end contradict each other.
    #[error(
        "block {number}: {what} is {closed} at its end, but {summed} in its mini-blocks; \
         the node must stop: report it with its log"
    )]
    Contradiction {
        /// The block.
        number: BlockNumber,
        /// Which number.
        what: &'static str,
        /// As `BlockClose` has it.
        closed: u64,
        /// As the mini-blocks sum up.
        summed: u64,
    },
}

/// The newest sealed block: what the next one must name as its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its height.
    pub number: BlockNumber,
    /// Its hash.
    pub hash: B256,
}

/// Seals the child of `parent`.
///
/// # Errors
/// Where the block is not the parent's child, or its parts contradict each other.
pub fn seal(
    parent: Head,
    rooted: RootedBlock,
    extra_data: &Bytes,
) -> Result<SealedBlock, SealError> {
    let RootedBlock { closed, update } = rooted;
    let ClosedBlock { close, mini_blocks, diff } = closed;
    let number = close.environment.number;
    if close.parent_hash != parent.hash || parent.number.checked_add(1) != Some(number) {
        return Err(SealError::NotChild {
            number,
            parent: close.parent_hash,
            sealed_number: parent.number,
            sealed: parent.hash,
        });
    }
    let mut transactions = Vec::new();
    let mut receipts = Vec::new();
    let mut logs = 0;
    for (place, mini_block) in (0u64..).zip(&mini_blocks) {
        agree(number, "height", number, mini_block.environment.number)?;
        agree(number, "place of a mini-block", place, mini_block.index)?;
        let first = count(transactions.len());
        agree(number, "place of a transaction", first, mini_block.first_transaction)?;
        agree(number, "place of a log", logs, mini_block.first_log)?;
        logs += mini_block.receipts.iter().map(|receipt| count(receipt.logs.len())).sum::<u64>();
        transactions.extend(mini_block.transactions.iter().cloned());
        receipts.extend(mini_block.receipts.iter().cloned());
        agree(number, "count of receipts", count(transactions.len()), count(receipts.len()))?;
    }
    let gas_used = mini_blocks.iter().map(|mini_block| mini_block.gas_used).sum();
    let cumulative = receipts.last().map_or(0, |receipt| receipt.cumulative_gas_used);
    agree(number, "count of mini-blocks", close.mini_block_count, count(mini_blocks.len()))?;
    agree(number, "count of transactions", close.transaction_count, count(transactions.len()))?;
    agree(number, "gas", close.gas_used, gas_used)?;
    agree(number, "cumulative gas", close.gas_used, cumulative)?;
    if let Some(newest) = mini_blocks.last() {
        agree(number, "newest mini-block", close.last_mini_block, newest.number)?;
    }
    let envelopes: Vec<_> = receipts.iter().map(|receipt| receipt.envelope()).collect();
    let mut logs_bloom = Bloom::ZERO;
    for envelope in &envelopes {
        logs_bloom |= *envelope.logs_bloom();
    }
    let roots = Roots {
        state: update.root,
        transactions: list_root(transactions.len(), |at, out| {
            out.extend_from_slice(&transactions[at].raw);
        }),
        receipts: list_root(envelopes.len(), |at, out| envelopes[at].encode_2718(out)),
        logs_bloom,
    };
    let header = header::header(&close, &roots, extra_data);
    let hash = header.hash_slow();
    let (last_mini_block, mini_block_count) = (close.last_mini_block, close.mini_block_count);
    let block = Block {
        header,
        hash,
        transactions,
        receipts,
        last_mini_block,
        mini_block_count,
        log_starts: LogStarts::default(),
    };
    Ok(SealedBlock { block: Arc::new(block), diff, trie: update })
}

/// The block as other clients know it: its RLP is what Ethereum's networks exchange.
pub fn ethereum_block(block: &Block) -> alloy_consensus::Block<TxEnvelope, Header> {
    let transactions = block.transactions.iter().map(|each| each.envelope.clone()).collect();
    let withdrawals = Some(alloy_eips::eip4895::Withdrawals::default());
    let body = BlockBody { transactions, ommers: Vec::new(), withdrawals };
    alloy_consensus::Block { header: block.header.clone(), body }
}

fn agree(
    number: BlockNumber,
    what: &'static str,
    closed: u64,
    summed: u64,
) -> Result<(), SealError> {
    if closed == summed {
        Ok(())
    } else {
        Err(SealError::Contradiction { number, what, closed, summed })
    }
}

fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}
