//! The shapes in which clients get blocks, transactions, receipts and logs.

use crate::types::{
    block::Block,
    mini_block::{BlockEnvironment, MiniBlock},
    receipt::Receipt,
    transaction::{RecoveredTransaction, SharedTransaction},
};
use alloy_consensus::{
    EMPTY_OMMER_ROOT_HASH, Eip658Value, Header, ReceiptEnvelope, Transaction as _, TxEnvelope,
    transaction::Recovered,
};
use alloy_primitives::{B64, B256, Bloom, Bytes, TxKind, U256};
use alloy_rpc_types_eth::{Log, Transaction, TransactionReceipt};
use serde::Serialize;

/// In place of the hash of a block that is not sealed yet: all `ff`.
pub const UNSEALED_HASH: B256 = B256::repeat_byte(0xff);

/// Where a transaction or log stands.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// Hash of the block, or `UNSEALED_HASH`.
    pub block_hash: B256,
    /// Height of the block.
    pub number: u64,
    /// Seconds since the epoch.
    pub timestamp: u64,
    /// Wei per gas.
    pub base_fee: u64,
}

impl At {
    /// In a sealed block.
    pub fn sealed(block: &Block) -> Self {
        Self::under(&block.header, block.hash)
    }

    /// In the sealed block with this header and hash.
    pub fn under(header: &Header, block_hash: B256) -> Self {
        Self {
            block_hash,
            number: header.number,
            timestamp: header.timestamp,
            base_fee: header.base_fee_per_gas.unwrap_or_default(),
        }
    }

    /// In a block that is not sealed yet.
    pub fn open(environment: &BlockEnvironment) -> Self {
        Self {
            block_hash: UNSEALED_HASH,
            number: environment.number,
            timestamp: environment.timestamp,
            base_fee: environment.base_fee,
        }
    }
}

/// A transaction at an index of a block.
pub fn transaction(tx: &RecoveredTransaction, at: At, index: u64) -> Transaction<TxEnvelope> {
    Transaction {
        inner: Recovered::new_unchecked(tx.envelope.clone(), tx.sender),
        block_hash: Some(at.block_hash),
        block_number: Some(at.number),
        transaction_index: Some(index),
        effective_gas_price: Some(tx.effective_gas_price(at.base_fee)),
        block_timestamp: Some(at.timestamp),
    }
}

/// A transaction that waits in the pool.
pub fn waiting(tx: &RecoveredTransaction) -> Transaction<TxEnvelope> {
    Transaction {
        inner: Recovered::new_unchecked(tx.envelope.clone(), tx.sender),
        block_hash: None,
        block_number: None,
        transaction_index: None,
        effective_gas_price: Some(tx.envelope.max_fee_per_gas()),
        block_timestamp: None,
    }
}

/// The logs of one transaction; `first_log` counts those of the block before it.
pub fn logs<'a>(
    tx_hash: B256,
    receipt: &'a Receipt,
    at: At,
    index: u64,
    first_log: u64,
) -> impl Iterator<Item = Log> + 'a {
    (first_log..).zip(&receipt.logs).map(move |(log_index, log)| Log {
        inner: log.clone(),
        block_hash: Some(at.block_hash),
        block_number: Some(at.number),
        block_timestamp: Some(at.timestamp),
        transaction_hash: Some(tx_hash),
        transaction_index: Some(index),
        log_index: Some(log_index),
        removed: false,
    })
}

/// The receipt of one transaction; `first_log` counts the logs of the block before it.
pub fn receipt(
    tx: &RecoveredTransaction,
    receipt: &Receipt,
    at: At,
    index: u64,
    first_log: u64,
) -> TransactionReceipt<ReceiptEnvelope<Log>> {
    let to = tx.envelope.kind();
    let body = alloy_consensus::Receipt {
        status: Eip658Value::Eip658(receipt.success),
        cumulative_gas_used: receipt.cumulative_gas_used,
        logs: logs(tx.hash, receipt, at, index, first_log).collect(),
    };
    let with_bloom = alloy_consensus::ReceiptWithBloom::new(body, receipt.bloom());
    TransactionReceipt {
        inner: ReceiptEnvelope::from_typed(receipt.tx_type, with_bloom),
        transaction_hash: tx.hash,
        transaction_index: Some(index),
        block_hash: Some(at.block_hash),
        block_number: Some(at.number),
        gas_used: receipt.gas_used,
        effective_gas_price: tx.effective_gas_price(at.base_fee),
        blob_gas_used: None,
        blob_gas_price: None,
        from: tx.sender,
        to: to.to().copied(),
        contract_address: (to == TxKind::Create).then(|| tx.sender.create(tx.nonce())),
    }
}

/// Consecutive transactions with their receipts.
#[derive(Debug, Clone, Copy)]
pub struct Receipts<'a> {
    /// The transactions.
    pub transactions: &'a [SharedTransaction],
    /// A receipt to each.
    pub receipts: &'a [Receipt],
    /// Their block.
    pub at: At,
    /// The first one's index in the block.
    pub first_index: u64,
    /// Logs of the block before them.
    pub first_log: u64,
}

impl<'a> Receipts<'a> {
    /// All of a sealed block.
    pub fn sealed(block: &'a Block) -> Self {
        Self {
            transactions: &block.transactions,
            receipts: &block.receipts,
            at: At::sealed(block),
            first_index: 0,
            first_log: 0,
        }
    }

    /// All of a mini-block whose block is open.
    pub fn open(mini: &'a MiniBlock) -> Self {
        Self {
            transactions: &mini.transactions,
            receipts: &mini.receipts,
            at: At::open(&mini.environment),
            first_index: mini.first_transaction,
            first_log: mini.first_log,
        }
    }

    /// The receipts as clients see them, made one at a time.
    fn shown(self) -> impl Iterator<Item = TransactionReceipt<ReceiptEnvelope<Log>>> + 'a {
        let mut log_index = self.first_log;
        let all = self.transactions.iter().zip(self.receipts);
        (self.first_index..).zip(all).map(move |(index, (tx, outcome))| {
            let shown = receipt(tx, outcome, self.at, index, log_index);
            log_index += count(&outcome.logs);
            shown
        })
    }
}

/// Receipts as one list in JSON. A block's are too many to be held at once beside their text.
#[derive(Debug)]
pub struct ShownReceipts<'a>(pub Vec<Receipts<'a>>);

impl Serialize for ShownReceipts<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().flat_map(|part| part.shown()))
    }
}

/// Transactions as one list in JSON, each with its block and its index there.
#[derive(Debug)]
pub struct ShownFull<'a> {
    parts: Vec<&'a [SharedTransaction]>,
    at: At,
}

impl Serialize for ShownFull<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = self.parts.iter().copied().flatten();
        serializer.collect_seq((0..).zip(all).map(|(index, tx)| transaction(tx, self.at, index)))
    }
}

/// Length as a number of 64 bits.
pub fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

/// Logs that these receipts hold.
pub fn log_count(receipts: &[Receipt]) -> u64 {
    receipts.iter().map(|receipt| count(&receipt.logs)).sum()
}

/// A header as `newHeads` and blocks show it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownHeader<'a> {
    hash: Option<B256>,
    #[serde(flatten)]
    header: &'a Header,
    size: U256,
    /// MegaETH's extension: mini-blocks of the block.
    mini_block_count: U256,
}

/// A block as `eth_getBlockBy…` shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownBlock<'a> {
    #[serde(flatten)]
    header: ShownHeader<'a>,
    transactions: ShownTransactions<'a>,
    uncles: [B256; 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    withdrawals: Option<[B256; 0]>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ShownTransactions<'a> {
    Hashes(Vec<B256>),
    Full(ShownFull<'a>),
}

impl<'a> ShownTransactions<'a> {
    fn new(parts: Vec<&'a [SharedTransaction]>, at: At, full: bool) -> Self {
        if full {
            return Self::Full(ShownFull { parts, at });
        }
        Self::Hashes(parts.into_iter().flatten().map(|tx| tx.hash).collect())
    }
}

/// A sealed block's header.
pub fn header(block: &Block) -> ShownHeader<'_> {
    ShownHeader {
        hash: Some(block.hash),
        header: &block.header,
        size: U256::from(block_size(&block.header, block.transactions.iter())),
        mini_block_count: U256::from(block.mini_block_count),
    }
}

/// A sealed block with hashes or whole transactions.
pub fn block(block: &Block, full: bool) -> ShownBlock<'_> {
    let parts = vec![block.transactions.as_slice()];
    ShownBlock {
        header: header(block),
        transactions: ShownTransactions::new(parts, At::sealed(block), full),
        uncles: [],
        withdrawals: block.header.withdrawals_root.map(|_| []),
    }
}

/// The header of the block that is being built, as far as it is known.
pub fn pending_header(
    environment: &BlockEnvironment,
    parent_hash: B256,
    mini_blocks: &[std::sync::Arc<MiniBlock>],
) -> Header {
    let bloom = mini_blocks
        .iter()
        .flat_map(|mini| &mini.receipts)
        .fold(Bloom::ZERO, |bloom, receipt| bloom | receipt.bloom());
    Header {
        parent_hash,
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        beneficiary: environment.fee_recipient,
        number: environment.number,
        gas_limit: environment.gas_limit,
        gas_used: mini_blocks.iter().map(|mini| mini.gas_used).sum(),
        timestamp: environment.timestamp,
        base_fee_per_gas: Some(environment.base_fee),
        mix_hash: environment.prev_randao,
        logs_bloom: bloom,
        nonce: B64::ZERO,
        ..Header::default()
    }
}

/// The block that is being built, as `eth_getBlockByNumber` shows it.
#[derive(Serialize)]
pub struct ShownPending<'a> {
    /// Few fields; as a map, because one of them is replaced.
    #[serde(flatten)]
    header: serde_json::Map<String, serde_json::Value>,
    transactions: ShownTransactions<'a>,
    uncles: [B256; 0],
    withdrawals: [B256; 0],
}

/// The block that is being built: its hash and nonce are null, as geth shows them.
///
/// # Errors
/// Where its header cannot be put into JSON.
pub fn pending_block<'a>(
    header: &Header,
    mini_blocks: &'a [std::sync::Arc<MiniBlock>],
    environment: &BlockEnvironment,
    full: bool,
) -> Result<ShownPending<'a>, serde_json::Error> {
    let all = mini_blocks.iter().flat_map(|mini| &mini.transactions);
    let shown = ShownHeader {
        hash: None,
        header,
        size: U256::from(block_size(header, all)),
        mini_block_count: U256::from(mini_blocks.len()),
    };
    let mut shown = match serde_json::to_value(shown)? {
        serde_json::Value::Object(fields) => fields,
        _ => serde_json::Map::new(),
    };
    shown.insert("nonce".to_owned(), serde_json::Value::Null);
    let parts = mini_blocks.iter().map(|mini| mini.transactions.as_slice()).collect();
    Ok(ShownPending {
        header: shown,
        transactions: ShownTransactions::new(parts, At::open(environment), full),
        uncles: [],
        withdrawals: [],
    })
}

/// Bytes of the block's RLP.
fn block_size<'a>(
    header: &Header,
    transactions: impl Iterator<Item = &'a SharedTransaction>,
) -> usize {
    let body: usize = transactions.map(|tx| transaction_item_bytes(&tx.raw)).sum();
    let list = |payload: usize| payload + alloy_rlp::length_of_length(payload);
    let withdrawals = usize::from(header.withdrawals_root.is_some());
    list(alloy_rlp::Encodable::length(header) + list(body) + 1 + withdrawals)
}

/// Bytes of a transaction in a block's list: a typed one is wrapped in a string.
fn transaction_item_bytes(raw: &Bytes) -> usize {
    let legacy = raw.first().is_some_and(|first| *first >= 0xc0);
    if legacy { raw.len() } else { raw.len() + alloy_rlp::length_of_length(raw.len()) }
}
