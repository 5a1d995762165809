//! Byte layouts of keys and rows; pure. What writes and reads them is `flat` and `snapshot`.

use crate::types::{
    diff::Account,
    ids::{BlockNumber, MiniBlockNumber},
};
use alloy_consensus::Header;
use alloy_primitives::{B256, KECCAK256_EMPTY, U256};
use alloy_rlp::{Decodable as _, Encodable as _};

/// Version of every layout in this file and in `archive`; another one is refused at open.
pub const FORMAT_VERSION: u32 = 2;

/// A row does not have the layout of its table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "row of table {table} is damaged ({bytes} bytes do not fit its layout): restore the data folder"
)]
pub struct RowError {
    /// The table's name.
    pub table: &'static str,
    /// Length of the row.
    pub bytes: usize,
}

/// `Accounts`: keccak(address) → row. Hashed, so that table order is trie order.
pub const ACCOUNTS: &str = "Accounts";
/// `Storage`: keccak(address) → keccak(slot) ‖ value, sorted duplicates of one key.
pub const STORAGE: &str = "Storage";
/// `Code`: keccak(code) → code.
pub const CODE: &str = "Code";
/// `AccountTrie`: packed path → opaque row.
pub const ACCOUNT_TRIE: &str = "AccountTrie";
/// `StorageTrie`: keccak(address) ‖ packed path → opaque row.
pub const STORAGE_TRIE: &str = "StorageTrie";
/// `Blocks`: number (8, big-endian) → [`BlockRow`].
pub const BLOCKS: &str = "Blocks";
/// `BlockNumbers`: header hash → number (8, big-endian).
pub const BLOCK_NUMBERS: &str = "BlockNumbers";
/// `Meta`: name → value; see [`IDENTITY_KEY`] and [`CHECKPOINT_KEY`].
pub const META: &str = "Meta";
/// Row of `Meta` that says whose data this is: version(4) chain id(8) genesis(32).
pub const IDENTITY_KEY: &[u8] = b"identity";
/// Row of `Meta` with the [`Checkpoint`]; absent until genesis is complete.
pub const CHECKPOINT_KEY: &[u8] = b"checkpoint";

const CODE_FLAG: u8 = 0x80;

/// Writes an account's row: `head(1) nonce(0..8) [code hash(32)] balance(0..32)`.
///
/// `head` holds the nonce's length and, in its top bit, whether a code hash follows. Numbers are
/// big-endian without leading zeros: a plain account takes about 10 bytes instead of 72, and so
/// fewer pages get dirty.
pub fn encode_account(account: &Account, row: &mut Vec<u8>) {
    row.clear();
    let nonce = account.nonce.to_be_bytes();
    let nonce = trimmed(&nonce);
    let has_code = account.code_hash != KECCAK256_EMPTY;
    let length = u8::try_from(nonce.len()).unwrap_or(8);
    row.push(length | if has_code { CODE_FLAG } else { 0 });
    row.extend_from_slice(nonce);
    if has_code {
        row.extend_from_slice(account.code_hash.as_slice());
    }
    row.extend_from_slice(trimmed(&account.balance.to_be_bytes::<32>()));
}

/// Reads what [`encode_account`] wrote.
///
/// # Errors
/// Where the row has another layout.
pub fn decode_account(row: &[u8]) -> Result<Account, RowError> {
    let damaged = || RowError { table: ACCOUNTS, bytes: row.len() };
    let (head, rest) = row.split_first().ok_or_else(damaged)?;
    let (nonce, rest) =
        rest.split_at_checked(usize::from(head & !CODE_FLAG)).ok_or_else(damaged)?;
    let nonce = u64::try_from(number(nonce).ok_or_else(damaged)?).map_err(|_| damaged())?;
    let (code_hash, balance) = if head & CODE_FLAG == 0 {
        (KECCAK256_EMPTY, rest)
    } else {
        let (hash, balance) = rest.split_at_checked(32).ok_or_else(damaged)?;
        (B256::from_slice(hash), balance)
    };
    Ok(Account { nonce, balance: number(balance).ok_or_else(damaged)?, code_hash })
}

/// Writes a slot's row: `keccak(slot)(32) value(1..32)`, the value without leading zeros.
pub fn encode_slot(hashed_slot: &B256, value: &U256, row: &mut Vec<u8>) {
    row.clear();
    row.extend_from_slice(hashed_slot.as_slice());
    row.extend_from_slice(trimmed(&value.to_be_bytes::<32>()));
}

/// Reads what [`encode_slot`] wrote.
///
/// # Errors
/// Where the row has another layout.
pub fn decode_slot(row: &[u8]) -> Result<(B256, U256), RowError> {
    let damaged = || RowError { table: STORAGE, bytes: row.len() };
    let (slot, value) = row.split_at_checked(32).ok_or_else(damaged)?;
    Ok((B256::from_slice(slot), number(value).ok_or_else(damaged)?))
}

/// Appends a packed path: five bits a nibble, each nibble plus one, padded with zero bits.
///
/// The zero group that ends a path sorts before every nibble, so byte order is path order with a
/// prefix first, and the short paths of upper nodes stay short. The root is one zero byte.
pub fn encode_path(path: &[u8], key: &mut Vec<u8>) {
    if path.is_empty() {
        key.push(0);
    }
    let (mut bits, mut held) = (0u32, 0u32);
    for nibble in path {
        bits = (bits << 5) | (u32::from(nibble & 0xf) + 1);
        held += 5;
        if held >= 8 {
            held -= 8;
            key.push((bits >> held).to_be_bytes()[3]);
            bits &= (1 << held) - 1;
        }
    }
    if held > 0 {
        key.push((bits << (8 - held)).to_be_bytes()[3]);
    }
}

/// Where a block lies in the archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the segment.
    pub segment: u32,
    /// Byte in the segment at which the record starts.
    pub offset: u64,
    /// Length of the record with its prefix.
    pub bytes: u32,
}

/// One row a block: `hash(32) last mini-block(8) mini-blocks(8) transactions(8) segment(4)
/// offset(8) bytes(4) header RLP`, numbers big-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRow {
    /// Keccak of the header's RLP.
    pub hash: B256,
    /// Number of the newest mini-block when the block closed.
    pub last_mini_block: MiniBlockNumber,
    /// Mini-blocks of the block.
    pub mini_block_count: u64,
    /// Transactions of the block.
    pub transaction_count: u64,
    /// Its body and receipts in the archive.
    pub position: Position,
    /// The header.
    pub header: Header,
}

impl BlockRow {
    /// The row's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(72 + self.header.length());
        row.extend_from_slice(self.hash.as_slice());
        row.extend_from_slice(&self.last_mini_block.to_be_bytes());
        row.extend_from_slice(&self.mini_block_count.to_be_bytes());
        row.extend_from_slice(&self.transaction_count.to_be_bytes());
        row.extend_from_slice(&self.position.segment.to_be_bytes());
        row.extend_from_slice(&self.position.offset.to_be_bytes());
        row.extend_from_slice(&self.position.bytes.to_be_bytes());
        self.header.encode(&mut row);
        row
    }

    /// Reads what [`BlockRow::encode`] wrote.
    ///
    /// # Errors
    /// Where the row has another layout.
    pub fn decode(row: &[u8]) -> Result<Self, RowError> {
        let damaged = || RowError { table: BLOCKS, bytes: row.len() };
        let mut rest = row;
        let found = (|| {
            Some(Self {
                hash: B256::from(take::<32>(&mut rest)?),
                last_mini_block: u64::from_be_bytes(take(&mut rest)?),
                mini_block_count: u64::from_be_bytes(take(&mut rest)?),
                transaction_count: u64::from_be_bytes(take(&mut rest)?),
                position: Position {
                    segment: u32::from_be_bytes(take(&mut rest)?),
                    offset: u64::from_be_bytes(take(&mut rest)?),
                    bytes: u32::from_be_bytes(take(&mut rest)?),
                },
                header: Header::decode(&mut rest).ok()?,
            })
        })();
        found.ok_or_else(damaged)
    }
}

/// How far the database has come: `block(8) hash(32) mini-block(8) mini-block hash(32)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Newest block in it.
    pub block: BlockNumber,
    /// That block's header hash.
    pub hash: B256,
    /// Newest mini-block in it; 0 before the first.
    pub mini_block: MiniBlockNumber,
    /// That mini-block's hash; zero before the first.
    pub mini_block_hash: B256,
}

impl Checkpoint {
    /// The row's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(80);
        row.extend_from_slice(&self.block.to_be_bytes());
        row.extend_from_slice(self.hash.as_slice());
        row.extend_from_slice(&self.mini_block.to_be_bytes());
        row.extend_from_slice(self.mini_block_hash.as_slice());
        row
    }

    /// Reads what [`Checkpoint::encode`] wrote.
    ///
    /// # Errors
    /// Where the row has another layout.
    pub fn decode(row: &[u8]) -> Result<Self, RowError> {
        let mut rest = row;
        let found = (|| {
            Some(Self {
                block: u64::from_be_bytes(take(&mut rest)?),
                hash: B256::from(take::<32>(&mut rest)?),
                mini_block: u64::from_be_bytes(take(&mut rest)?),
                mini_block_hash: B256::from(take::<32>(&mut rest)?),
            })
        })();
        found.filter(|_| rest.is_empty()).ok_or(RowError { table: META, bytes: row.len() })
    }
}

/// Takes `N` bytes from the front, `None` where fewer are left.
pub fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (front, back) = rest.split_first_chunk::<N>()?;
    *rest = back;
    Some(*front)
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

fn number(bytes: &[u8]) -> Option<U256> {
    (bytes.len() <= 32).then(|| U256::from_be_slice(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn accounts_come_back(
            nonce: u64,
            balance: [u8; 32],
            code: Option<[u8; 32]>,
            shift in 0usize..256,
        ) {
            let account = Account {
                nonce: nonce >> (shift % 64),
                balance: U256::from_be_bytes(balance) >> shift,
                code_hash: code.map_or(KECCAK256_EMPTY, B256::from),
            };
            let mut row = Vec::new();
            encode_account(&account, &mut row);
            prop_assert_eq!(decode_account(&row), Ok(account));
        }

        #[test]
        fn slots_come_back(slot: [u8; 32], value: [u8; 32], shift in 0usize..256) {
            let value = U256::from_be_bytes(value) >> shift;
            let mut row = Vec::new();
            encode_slot(&B256::from(slot), &value, &mut row);
            prop_assert_eq!(decode_slot(&row), Ok((B256::from(slot), value)));
        }

        /// Byte order of packed paths is the order of the paths themselves.
        #[test]
        fn packed_paths_keep_their_order(
            a in prop::collection::vec(0u8..16, 0..66),
            b in prop::collection::vec(0u8..16, 0..66),
            shared in 0usize..66,
        ) {
            let mut b = b;
            let shared = shared.min(a.len()).min(b.len());
            b[..shared].copy_from_slice(&a[..shared]);
            let (mut packed_a, mut packed_b) = (Vec::new(), Vec::new());
            encode_path(&a, &mut packed_a);
            encode_path(&b, &mut packed_b);
            prop_assert_eq!(a.cmp(&b), packed_a.cmp(&packed_b));
        }
    }

    #[test]
    fn damaged_rows_are_refused() {
        assert!(decode_account(&[]).is_err());
        assert!(decode_account(&[8, 1]).is_err());
        assert!(decode_slot(&[0; 31]).is_err());
        assert!(BlockRow::decode(&[0; 71]).is_err());
        assert!(Checkpoint::decode(&[0; 81]).is_err());
    }
}
