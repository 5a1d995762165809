//! What a transaction costs before its first instruction: Osaka's intrinsic gas and floor.

use alloy_consensus::{Transaction as _, TxEnvelope};

/// Every transaction.
const BASE: u64 = 21_000;
/// EIP-2: a creation on top of `BASE`.
const CREATE: u64 = 32_000;
/// EIP-2028: a token is a zero byte or a quarter of another byte.
const TOKEN: u64 = 4;
const TOKENS_PER_NONZERO_BYTE: u64 = 4;
/// EIP-7623: the floor's price of a token.
const FLOOR_TOKEN: u64 = 10;
/// EIP-3860: a word of init code.
const INITCODE_WORD: u64 = 2;
/// EIP-2930.
const ACCESS_LIST_ADDRESS: u64 = 2_400;
/// EIP-2930.
const ACCESS_LIST_SLOT: u64 = 1_900;
/// EIP-7702: `PER_EMPTY_ACCOUNT_COST`, of which a part is refunded where the account exists.
const AUTHORIZATION: u64 = 25_000;

/// Gas that a transaction must bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intrinsic {
    /// Charged before execution.
    pub gas: u64,
    /// EIP-7623: charged at least.
    pub floor: u64,
}

/// Intrinsic gas and floor of a transaction; cannot overflow for one that fits the size limit.
pub fn intrinsic(transaction: &TxEnvelope) -> Intrinsic {
    let input = transaction.input();
    let zeros = count(input.iter().filter(|byte| **byte == 0).count());
    let length = count(input.len());
    let tokens = zeros + (length - zeros) * TOKENS_PER_NONZERO_BYTE;
    let mut gas = BASE + tokens * TOKEN;
    if transaction.is_create() {
        gas += CREATE + length.div_ceil(32) * INITCODE_WORD;
    }
    if let Some(list) = transaction.access_list() {
        let slots = list.0.iter().map(|item| item.storage_keys.len()).sum();
        gas += count(list.0.len()) * ACCESS_LIST_ADDRESS + count(slots) * ACCESS_LIST_SLOT;
    }
    if let Some(list) = transaction.authorization_list() {
        gas += count(list.len()) * AUTHORIZATION;
    }
    Intrinsic { gas, floor: BASE + tokens * FLOOR_TOKEN }
}

fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}
