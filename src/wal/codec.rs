//! The payload of a record: an event with all that replay needs, so that nothing is executed or
//! recovered again.
//!
//! Integers are little-endian and of fixed width. A number of 256 bits is a length byte and that
//! many little-endian bytes without leading zeros: balances and values are small, and bytes are
//! what the disk is paid in. A list is a u32 count and its items; bytes are a u32 length and they.
//! Accounts, slots and codes stand in order, so that equal events have equal payloads.

use crate::runtime::memory::AlignedBuffer;
use crate::types::{
    block::BlockClose,
    diff::{Account, AccountDiff, Diff, Slots},
    flow::Event,
    ids::BlockNumber,
    listed::Listed,
    map::Map,
    mini_block::{BlockEnvironment, MiniBlock},
    receipt::Receipt,
    transaction::RecoveredTransaction,
};
use crate::wal::{reader::Reader, record::Kind};
use alloy_consensus::TxEnvelope;
use alloy_eips::eip2718::Decodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, Log, LogData, Signature, U256};
use std::sync::Arc;

const ACCOUNT_EXISTS: u8 = 1;
const ACCOUNT_WIPED: u8 = 2;
const ACCOUNT_HAS_CODE: u8 = 4;
/// An EVM log has at most four topics.
const TOPICS_MAX: usize = 4;
/// Entries of a map that are reserved on the word of a count alone.
const RESERVED_MAX: usize = 8_192;

/// Why a payload cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends too early.
    #[error("the payload ends at byte {at}, in the middle of {what}")]
    Short {
        /// What was being read.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// A value that no encoder writes.
    #[error("{what} before byte {at} of the payload cannot be {value}")]
    Value {
        /// What was being read.
        what: &'static str,
        /// What stands there.
        value: u64,
        /// Where.
        at: usize,
    },
    /// A transaction that does not decode.
    #[error("transaction {hash} before byte {at} of the payload does not decode: {why}")]
    Transaction {
        /// Its hash, as stored.
        hash: B256,
        /// Where.
        at: usize,
        /// What its decoder said.
        why: String,
    },
    /// Bytes behind the event.
    #[error("the payload goes on for {0} bytes behind its end")]
    Trailing(usize),
}

/// The kind of record that an event makes.
pub const fn kind(event: &Event) -> Kind {
    match event {
        Event::MiniBlock(_) => Kind::MiniBlock,
        Event::Close(_) => Kind::Close,
    }
}

/// The block that an event belongs to.
pub fn block(event: &Event) -> BlockNumber {
    match event {
        Event::MiniBlock(mini_block) => mini_block.environment.number,
        Event::Close(close) => close.environment.number,
    }
}

/// Appends an event's payload to a buffer.
pub fn encode(event: &Event, out: &mut AlignedBuffer) {
    match event {
        Event::MiniBlock(mini_block) => put_mini_block(out, mini_block),
        Event::Close(close) => put_close(out, close),
    }
}

/// Reads a payload. Never panics, and reserves no more memory than the payload's own size allows.
///
/// # Errors
/// Where the payload is not what `encode` writes.
pub fn decode(kind: Kind, payload: &[u8]) -> Result<Event, DecodeError> {
    let mut reader = Reader::new(payload);
    let event = match kind {
        Kind::MiniBlock => Event::MiniBlock(Arc::new(mini_block(&mut reader)?)),
        Kind::Close => Event::Close(Arc::new(close(&mut reader)?)),
    };
    reader.end()?;
    Ok(event)
}

fn put_mini_block(out: &mut AlignedBuffer, mini_block: &MiniBlock) {
    put_u64(out, mini_block.number);
    put_environment(out, &mini_block.environment);
    put_u64(out, mini_block.index);
    put_u64(out, mini_block.first_transaction);
    put_u64(out, mini_block.first_log);
    put_u64(out, mini_block.timestamp_us);
    put_u64(out, mini_block.gas_used);
    out.extend(mini_block.parent_hash.as_slice());
    out.extend(mini_block.transaction_root.as_slice());
    out.extend(mini_block.receipt_root.as_slice());
    out.extend(mini_block.hash.as_slice());
    out.extend(&mini_block.signature.as_rsy());
    put_count(out, mini_block.transactions.len());
    for transaction in &mini_block.transactions {
        put_transaction(out, transaction);
    }
    put_count(out, mini_block.receipts.len());
    for receipt in &mini_block.receipts {
        put_receipt(out, receipt);
    }
    put_diff(out, &mini_block.diff);
}

fn mini_block(reader: &mut Reader<'_>) -> Result<MiniBlock, DecodeError> {
    Ok(MiniBlock {
        number: reader.u64("the mini-block's number")?,
        environment: environment(reader)?,
        index: reader.u64("the index")?,
        first_transaction: reader.u64("the first transaction")?,
        first_log: reader.u64("the first log")?,
        timestamp_us: reader.u64("the timestamp")?,
        gas_used: reader.u64("the gas used")?,
        parent_hash: reader.hash("the parent's hash")?,
        transaction_root: reader.hash("the transactions' root")?,
        receipt_root: reader.hash("the receipts' root")?,
        hash: reader.hash("the hash")?,
        signature: signature(reader)?,
        transactions: reader.list("transactions", TRANSACTION_BYTES_MIN, |reader| {
            transaction(reader).map(Arc::new)
        })?,
        receipts: reader.list("receipts", RECEIPT_BYTES_MIN, receipt)?,
        diff: Arc::new(diff(reader)?),
    })
}

fn put_close(out: &mut AlignedBuffer, close: &BlockClose) {
    put_environment(out, &close.environment);
    out.extend(close.parent_hash.as_slice());
    put_u64(out, close.last_mini_block);
    put_u64(out, close.mini_block_count);
    put_u64(out, close.transaction_count);
    put_u64(out, close.gas_used);
    put_count(out, close.requests.len());
    for request in &close.requests {
        put_bytes(out, request);
    }
    put_diff(out, &close.diff);
}

fn close(reader: &mut Reader<'_>) -> Result<BlockClose, DecodeError> {
    Ok(BlockClose {
        environment: environment(reader)?,
        parent_hash: reader.hash("the parent's hash")?,
        last_mini_block: reader.u64("the last mini-block")?,
        mini_block_count: reader.u64("the count of mini-blocks")?,
        transaction_count: reader.u64("the count of transactions")?,
        gas_used: reader.u64("the gas used")?,
        requests: reader.list("requests", 4, |reader| reader.bytes("a request"))?,
        diff: Arc::new(diff(reader)?),
    })
}

fn put_environment(out: &mut AlignedBuffer, environment: &BlockEnvironment) {
    put_u64(out, environment.number);
    put_u64(out, environment.timestamp);
    put_u64(out, environment.base_fee);
    put_u64(out, environment.gas_limit);
    out.extend(environment.fee_recipient.as_slice());
    out.extend(environment.prev_randao.as_slice());
}

fn environment(reader: &mut Reader<'_>) -> Result<BlockEnvironment, DecodeError> {
    Ok(BlockEnvironment {
        number: reader.u64("the block's number")?,
        timestamp: reader.u64("the block's timestamp")?,
        base_fee: reader.u64("the base fee")?,
        gas_limit: reader.u64("the gas limit")?,
        fee_recipient: reader.address("the fee recipient")?,
        prev_randao: reader.hash("prev_randao")?,
    })
}

/// Hash, sender, count of authorities, length.
const TRANSACTION_BYTES_MIN: usize = 32 + 20 + 4 + 4;

fn put_transaction(out: &mut AlignedBuffer, transaction: &RecoveredTransaction) {
    out.extend(transaction.hash.as_slice());
    out.extend(transaction.sender.as_slice());
    put_count(out, transaction.authorities.len());
    for authority in &transaction.authorities {
        match authority {
            Some(address) => {
                out.extend(&[1]);
                out.extend(address.as_slice());
            }
            None => out.extend(&[0]),
        }
    }
    put_bytes(out, &transaction.raw);
}

fn transaction(reader: &mut Reader<'_>) -> Result<RecoveredTransaction, DecodeError> {
    let hash = reader.hash("a transaction's hash")?;
    let sender = reader.address("a sender")?;
    let authorities = reader.list("authorities", 1, |reader| {
        Ok(match reader.flag("an authority's mark")? {
            true => Some(reader.address("an authority")?),
            false => None,
        })
    })?;
    let raw = reader.bytes("a transaction")?;
    let envelope = TxEnvelope::decode_2718_exact(&raw).map_err(|error| {
        DecodeError::Transaction { hash, at: reader.at(), why: error.to_string() }
    })?;
    Ok(RecoveredTransaction::new(envelope, hash, (sender, authorities), raw))
}

fn signature(reader: &mut Reader<'_>) -> Result<Signature, DecodeError> {
    let r = B256::from(reader.array("a signature's r")?);
    let s = B256::from(reader.array("a signature's s")?);
    let parity = reader.flag("a signature's parity")?;
    Ok(Signature::from_scalars_and_parity(r, s, parity))
}

/// Type, status, two amounts of gas, count of logs.
const RECEIPT_BYTES_MIN: usize = 1 + 1 + 8 + 8 + 4;
/// Emitter, count of topics, length.
const LOG_BYTES_MIN: usize = 20 + 1 + 4;

fn put_receipt(out: &mut AlignedBuffer, receipt: &Receipt) {
    out.extend(&[u8::from(receipt.tx_type), u8::from(receipt.success)]);
    put_u64(out, receipt.gas_used);
    put_u64(out, receipt.cumulative_gas_used);
    put_count(out, receipt.logs.len());
    for log in &receipt.logs {
        let topics = &log.data.topics()[..log.data.topics().len().min(TOPICS_MAX)];
        out.extend(log.address.as_slice());
        out.extend(&[u8::try_from(topics.len()).unwrap_or_default()]);
        for topic in topics {
            out.extend(topic.as_slice());
        }
        put_bytes(out, &log.data.data);
    }
}

fn receipt(reader: &mut Reader<'_>) -> Result<Receipt, DecodeError> {
    let code = reader.u8("a receipt's type")?;
    let tx_type = code.try_into().map_err(|_| DecodeError::Value {
        what: "a receipt's type",
        value: u64::from(code),
        at: reader.at(),
    })?;
    Ok(Receipt {
        tx_type,
        success: reader.flag("a status")?,
        gas_used: reader.u64("a receipt's gas")?,
        cumulative_gas_used: reader.u64("a receipt's cumulative gas")?,
        logs: reader.list("logs", LOG_BYTES_MIN, log)?,
    })
}

fn log(reader: &mut Reader<'_>) -> Result<Log, DecodeError> {
    let address = reader.address("a log's emitter")?;
    let count = usize::from(reader.u8("a count of topics")?);
    if count > TOPICS_MAX {
        return Err(reader.refuse("a count of topics", count));
    }
    let mut topics = Vec::with_capacity(count);
    for _ in 0..count {
        topics.push(reader.hash("a topic")?);
    }
    Ok(Log { address, data: LogData::new_unchecked(topics, reader.bytes("a log's data")?) })
}

/// Address, flags, count of slots.
const ACCOUNT_BYTES_MIN: usize = 20 + 1 + 4;
/// Two numbers of no bytes.
const SLOT_BYTES_MIN: usize = 2;
/// Hash, length.
const CODE_BYTES_MIN: usize = 32 + 4;

fn put_diff(out: &mut AlignedBuffer, diff: &Diff) {
    put_count(out, diff.accounts.len());
    for (address, change) in diff.sorted_accounts() {
        out.extend(address.as_slice());
        put_account(out, change);
        put_count(out, change.storage.len());
        if change.storage.is_empty() {
            continue; // Most accounts: spare them the sorted copy.
        }
        for (slot, value) in change.sorted_storage() {
            put_u256(out, slot);
            put_u256(out, value);
        }
    }
    put_count(out, diff.codes.len());
    for (hash, code) in diff.sorted_codes() {
        out.extend(hash.as_slice());
        put_bytes(out, code);
    }
}

fn put_account(out: &mut AlignedBuffer, change: &AccountDiff) {
    let wiped = if change.wiped { ACCOUNT_WIPED } else { 0 };
    let Some(account) = change.account else { return out.extend(&[wiped]) };
    let has_code = account.code_hash != KECCAK256_EMPTY;
    out.extend(&[wiped | ACCOUNT_EXISTS | if has_code { ACCOUNT_HAS_CODE } else { 0 }]);
    put_u64(out, account.nonce);
    put_u256(out, account.balance);
    if has_code {
        out.extend(account.code_hash.as_slice());
    }
}

fn diff(reader: &mut Reader<'_>) -> Result<Diff, DecodeError> {
    let count = reader.count("accounts", ACCOUNT_BYTES_MIN)?;
    let mut accounts = Listed::with_capacity(count.min(RESERVED_MAX));
    let mut before: Option<Address> = None;
    for _ in 0..count {
        let address = reader.address("an address")?;
        if before.is_some_and(|before| before >= address) {
            return Err(reader.refuse("an account out of order", accounts.len()));
        }
        before = Some(address);
        accounts.push(address, account_diff(reader)?);
    }
    let count = reader.count("codes", CODE_BYTES_MIN)?;
    let mut codes = Map::with_capacity_and_hasher(count.min(RESERVED_MAX), Default::default());
    let mut before: Option<B256> = None;
    for _ in 0..count {
        let hash = reader.hash("a code's hash")?;
        if before.is_some_and(|before| before >= hash) {
            return Err(reader.refuse("a code out of order", codes.len()));
        }
        before = Some(hash);
        codes.insert(hash, reader.bytes("a code")?);
    }
    Ok(Diff { accounts, codes })
}

fn account_diff(reader: &mut Reader<'_>) -> Result<AccountDiff, DecodeError> {
    let flags = reader.u8("an account's flags")?;
    let known = ACCOUNT_EXISTS | ACCOUNT_WIPED | ACCOUNT_HAS_CODE;
    if flags & !known != 0 || flags & (ACCOUNT_EXISTS | ACCOUNT_HAS_CODE) == ACCOUNT_HAS_CODE {
        return Err(reader.refuse("an account's flags", usize::from(flags)));
    }
    let account = if flags & ACCOUNT_EXISTS == 0 {
        None
    } else {
        let nonce = reader.u64("a nonce")?;
        let balance = reader.u256("a balance")?;
        let code_hash = if flags & ACCOUNT_HAS_CODE == 0 {
            KECCAK256_EMPTY
        } else {
            reader.hash("an account's code hash")?
        };
        Some(Account { nonce, balance, code_hash })
    };
    let count = reader.count("slots", SLOT_BYTES_MIN)?;
    let mut storage = Slots::with_capacity(count.min(RESERVED_MAX));
    let mut before: Option<U256> = None;
    for _ in 0..count {
        let slot = reader.u256("a slot")?;
        if before.is_some_and(|before| before >= slot) {
            return Err(reader.refuse("a slot out of order", storage.len()));
        }
        before = Some(slot);
        storage.push(slot, reader.u256("a slot's value")?);
    }
    Ok(AccountDiff { account, wiped: flags & ACCOUNT_WIPED != 0, storage })
}

fn put_u64(out: &mut AlignedBuffer, value: u64) {
    out.extend(&value.to_le_bytes());
}

/// Counts and lengths fit: an event of 2^32 items cannot exist in memory here, and the log refuses
/// a payload of over a gibibyte.
fn put_count(out: &mut AlignedBuffer, count: usize) {
    out.extend(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut AlignedBuffer, bytes: &Bytes) {
    put_count(out, bytes.len());
    out.extend(bytes);
}

fn put_u256(out: &mut AlignedBuffer, value: U256) {
    let length = value.byte_len();
    let mut bytes = [0; 33];
    bytes[0] = u8::try_from(length).unwrap_or_default();
    bytes[1..].copy_from_slice(&value.to_le_bytes::<32>());
    out.extend(&bytes[..=length]);
}
