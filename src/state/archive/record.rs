//! A block as bytes: header, transactions with senders, receipts; and back.

use crate::state::tables::take;
use crate::types::{
    block::{Block, LogStarts},
    receipt::Receipt,
    transaction::{RecoveredTransaction, SharedTransaction},
    view::Archived,
};
use alloy_consensus::{Header, TxEnvelope, TxType};
use alloy_eips::eip2718::Decodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Log, keccak256};
use alloy_rlp::{Decodable as _, Encodable as _};
use std::sync::Arc;
use twox_hash::XxHash3_64;

/// Bytes before a record's payload.
pub const PREFIX_BYTES: usize = 20;
/// Payload of one record at most: a block's bytes with generous room for logs.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// A record cannot be read back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than its length says.
    #[error("record is cut off after {0} bytes")]
    Short(usize),
    /// Its bytes are not those that were written.
    #[error("record of block {0}: checksum differs")]
    Checksum(u64),
    /// Its content has not the layout.
    #[error("record of block {number}: {what} cannot be decoded")]
    Content {
        /// Block that the record says it is.
        number: u64,
        /// The part at fault.
        what: &'static str,
    },
}

/// Appends a record: `length(4) checksum(8) number(8) payload`, little-endian.
///
/// `length` counts the payload; `checksum` is XXH3-64 of the payload with the number as seed, so
/// that a torn or rotten record shows at the speed of memory. The payload: `hash(32) last
/// mini-block(8) mini-blocks(8) header(bytes) count(4) transactions…`, each transaction
/// `sender(20) authorities(4) [known(1) address(20)]… raw(bytes) type(1) success(1) gas(8)
/// cumulative gas(8) logs(4) [address(20) topics(4) topic(32)… data(bytes)]…`, where `bytes` is a
/// length(4) and so many bytes. Senders and authorities stand there so that reading recovers no
/// signature.
///
/// # Errors
/// Gives the length of a payload that is longer than `PAYLOAD_BYTES_MAX`.
pub fn encode(block: &Block, out: &mut Vec<u8>) -> Result<usize, usize> {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_BYTES]);
    out.extend_from_slice(block.hash.as_slice());
    out.extend_from_slice(&block.last_mini_block.to_le_bytes());
    out.extend_from_slice(&block.mini_block_count.to_le_bytes());
    put_count(out, block.header.length());
    block.header.encode(out);
    put_count(out, block.transactions.len());
    for (transaction, receipt) in block.transactions.iter().zip(&block.receipts) {
        put_transaction(out, transaction);
        put_receipt(out, receipt);
    }
    let payload_bytes = out.len() - start - PREFIX_BYTES;
    if payload_bytes > PAYLOAD_BYTES_MAX {
        out.truncate(start);
        return Err(payload_bytes);
    }
    let length = u32::try_from(payload_bytes).map_err(|_| payload_bytes)?;
    let number = block.header.number;
    let (prefix, payload) = out.get_mut(start..).unwrap_or_default().split_at_mut(PREFIX_BYTES);
    prefix[12..20].copy_from_slice(&number.to_le_bytes());
    prefix[..4].copy_from_slice(&length.to_le_bytes());
    let sum = checksum(number, payload);
    prefix[4..12].copy_from_slice(&sum);
    Ok(payload_bytes + PREFIX_BYTES)
}

/// Length of the whole record and the number of its block, from its first `PREFIX_BYTES`.
///
/// # Errors
/// Where fewer bytes are there or the length is impossible.
pub fn peek(record: &[u8]) -> Result<(usize, u64), RecordError> {
    let short = RecordError::Short(record.len());
    let mut rest = record;
    let length = u32::from_le_bytes(take(&mut rest).ok_or_else(|| short.clone())?);
    let _sum: [u8; 8] = take(&mut rest).ok_or_else(|| short.clone())?;
    let number = u64::from_le_bytes(take(&mut rest).ok_or_else(|| short.clone())?);
    let length = usize::try_from(length).map_err(|_| short.clone())?;
    if length > PAYLOAD_BYTES_MAX {
        return Err(short);
    }
    Ok((length + PREFIX_BYTES, number))
}

/// Reads one record that fills `record`. Transactions keep slices of it.
///
/// # Errors
/// Where it is cut off, changed or of another layout.
pub fn decode(record: &Bytes) -> Result<Block, RecordError> {
    let (length, number) = peek(record)?;
    let payload = checked(record, length, number)?;
    let mut reader = Reader { bytes: &payload, at: 0 };
    let block = reader.block().map_err(|what| RecordError::Content { number, what })?;
    if block.header.number != number || reader.at != payload.len() {
        return Err(RecordError::Content { number, what: "end" });
    }
    Ok(block)
}

/// Reads the transaction at `index` alone, passing over those before it; `None` where the block
/// has no so many.
///
/// # Errors
/// As [`decode`].
pub fn decode_one(record: &Bytes, index: usize) -> Result<Option<Archived>, RecordError> {
    let (length, number) = peek(record)?;
    let payload = checked(record, length, number)?;
    let mut reader = Reader { bytes: &payload, at: 0 };
    reader.one(index).map_err(|what| RecordError::Content { number, what })
}

/// The payload of a whole and unchanged record.
fn checked(record: &Bytes, length: usize, number: u64) -> Result<Bytes, RecordError> {
    if record.len() != length {
        return Err(RecordError::Short(record.len()));
    }
    let payload = record.slice(PREFIX_BYTES..);
    if record.get(4..12) != Some(checksum(number, &payload).as_slice()) {
        return Err(RecordError::Checksum(number));
    }
    Ok(payload)
}

fn checksum(number: u64, payload: &[u8]) -> [u8; 8] {
    XxHash3_64::oneshot_with_seed(number, payload).to_le_bytes()
}

/// Counts fit: the payload's length is checked as a whole.
fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_transaction(out: &mut Vec<u8>, transaction: &RecoveredTransaction) {
    out.extend_from_slice(transaction.sender.as_slice());
    put_count(out, transaction.authorities.len());
    for authority in &transaction.authorities {
        out.push(u8::from(authority.is_some()));
        out.extend_from_slice(authority.unwrap_or_default().as_slice());
    }
    put_bytes(out, &transaction.raw);
}

fn put_receipt(out: &mut Vec<u8>, receipt: &Receipt) {
    out.push(u8::from(receipt.tx_type));
    out.push(u8::from(receipt.success));
    out.extend_from_slice(&receipt.gas_used.to_le_bytes());
    out.extend_from_slice(&receipt.cumulative_gas_used.to_le_bytes());
    put_count(out, receipt.logs.len());
    for log in &receipt.logs {
        out.extend_from_slice(log.address.as_slice());
        put_count(out, log.data.topics().len());
        for topic in log.data.topics() {
            out.extend_from_slice(topic.as_slice());
        }
        put_bytes(out, &log.data.data);
    }
}

struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

/// What could not be read.
type What = &'static str;

impl Reader<'_> {
    fn array<const N: usize>(&mut self, what: What) -> Result<[u8; N], What> {
        let mut rest = self.bytes.get(self.at..).ok_or(what)?;
        self.at += N;
        take(&mut rest).ok_or(what)
    }

    fn number(&mut self, what: What) -> Result<u64, What> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of things that take at least a byte each: never more than bytes are left.
    fn count(&mut self, what: What) -> Result<usize, What> {
        let count = u32::from_le_bytes(self.array(what)?);
        let count = usize::try_from(count).map_err(|_| what)?;
        (count <= self.bytes.len() - self.at).then_some(count).ok_or(what)
    }

    fn bytes(&mut self, what: What) -> Result<Bytes, What> {
        let length = self.count(what)?;
        let bytes = self.bytes.slice(self.at..self.at + length);
        self.at += length;
        Ok(bytes)
    }

    fn header(&mut self) -> Result<Header, What> {
        let header = self.bytes("header")?;
        Header::decode(&mut header.as_ref()).map_err(|_| "header")
    }

    fn one(&mut self, index: usize) -> Result<Option<Archived>, What> {
        let block_hash = B256::from(self.array::<32>("hash")?);
        self.skip(16, "mini-blocks")?;
        let header = self.header()?;
        if index >= self.count("transaction count")? {
            return Ok(None);
        }
        let mut first_log = 0;
        for _ in 0..index {
            self.skip_transaction()?;
            first_log += self.skip_receipt()?;
        }
        let (transaction, receipt) = (self.transaction()?, self.receipt()?);
        let index = u64::try_from(index).map_err(|_| "index")?;
        Ok(Some(Archived { header, block_hash, index, first_log, transaction, receipt }))
    }

    fn skip(&mut self, bytes: usize, what: What) -> Result<(), What> {
        self.at = self.at.checked_add(bytes).filter(|at| *at <= self.bytes.len()).ok_or(what)?;
        Ok(())
    }

    fn skip_transaction(&mut self) -> Result<(), What> {
        self.skip(20, "sender")?;
        let authorities = self.count("authorities")?;
        self.skip(21 * authorities, "authorities")?;
        let raw = self.count("transaction")?;
        self.skip(raw, "transaction")
    }

    /// Gives its number of logs.
    fn skip_receipt(&mut self) -> Result<u64, What> {
        self.skip(18, "receipt")?;
        let logs = self.count("logs")?;
        for _ in 0..logs {
            self.skip(20, "log")?;
            let topics = self.count("topics")?;
            self.skip(32 * topics, "topics")?;
            let data = self.count("log data")?;
            self.skip(data, "log data")?;
        }
        u64::try_from(logs).map_err(|_| "logs")
    }

    fn block(&mut self) -> Result<Block, What> {
        let hash = B256::from(self.array::<32>("hash")?);
        let last_mini_block = self.number("last mini-block")?;
        let mini_block_count = self.number("mini-block count")?;
        let header = self.header()?;
        let count = self.count("transaction count")?;
        let mut transactions = Vec::with_capacity(count);
        let mut receipts = Vec::with_capacity(count);
        for _ in 0..count {
            transactions.push(self.transaction()?);
            receipts.push(self.receipt()?);
        }
        Ok(Block {
            header,
            hash,
            transactions,
            receipts,
            last_mini_block,
            mini_block_count,
            log_starts: LogStarts::default(),
        })
    }

    fn transaction(&mut self) -> Result<SharedTransaction, What> {
        let sender = Address::from(self.array::<20>("sender")?);
        let count = self.count("authorities")?;
        let mut authorities = Vec::with_capacity(count);
        for _ in 0..count {
            let [known] = self.array("authority")?;
            let address = Address::from(self.array::<20>("authority")?);
            authorities.push((known == 1).then_some(address));
        }
        let raw = self.bytes("transaction")?;
        let envelope = TxEnvelope::decode_2718_exact(&raw).map_err(|_| "transaction")?;
        let hash = keccak256(&raw);
        Ok(Arc::new(RecoveredTransaction::new(envelope, hash, (sender, authorities), raw)))
    }

    fn receipt(&mut self) -> Result<Receipt, What> {
        let [tx_type] = self.array("receipt type")?;
        let tx_type = TxType::try_from(tx_type).map_err(|_| "receipt type")?;
        let [success] = self.array("receipt status")?;
        let gas_used = self.number("receipt gas")?;
        let cumulative_gas_used = self.number("receipt gas")?;
        let count = self.count("logs")?;
        let mut logs = Vec::with_capacity(count);
        for _ in 0..count {
            let address = Address::from(self.array::<20>("log")?);
            let topic_count = self.count("topics")?;
            let mut topics = Vec::with_capacity(topic_count.min(4));
            for _ in 0..topic_count {
                topics.push(B256::from(self.array::<32>("topic")?));
            }
            // A copy: logs are cached apart from their block's record.
            let data = Bytes::copy_from_slice(&self.bytes("log data")?);
            logs.push(Log::new(address, topics, data).ok_or("topics")?);
        }
        Ok(Receipt { tx_type, success: success == 1, gas_used, cumulative_gas_used, logs })
    }
}
