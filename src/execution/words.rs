//! Accounts and slots as words of a table, there and back.

use crate::execution::cache::Hot;
use crate::types::diff::Account;
use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256};
use std::hash::{Hash, Hasher};

/// Of a meta word: the account exists. The bits above count its incarnations.
const EXISTS: u64 = 1;

/// Words as the key of a map, hashed as words and not as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key<const N: usize>(pub(super) [u64; N]);

impl<const N: usize> Hash for Key<N> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.iter().for_each(|word| state.write_u64(*word));
    }
}

/// The key of code: its hash.
#[inline]
pub(super) fn code_key(hash: B256) -> Key<4> {
    Key([word(&hash.0, 0), word(&hash.0, 8), word(&hash.0, 16), word(&hash.0, 24)])
}

/// An account's key: its address.
#[inline]
pub(super) fn account_key(address: Address) -> [u64; 3] {
    let bytes = &address.0.0;
    [word(bytes, 0), word(bytes, 8), u64::from(half(bytes, 16))]
}

/// The address of an account's or slot's key.
#[inline]
pub(super) fn address_of<const K: usize>(key: &[u64; K]) -> Address {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&key[0].to_le_bytes());
    bytes[8..16].copy_from_slice(&key[1].to_le_bytes());
    bytes[16..].copy_from_slice(&key[2].to_le_bytes()[..4]);
    Address::from(bytes)
}

/// A slot's key: its account's address, which incarnation of it, and the slot.
#[inline]
pub(super) fn slot_key(address: Address, incarnation: u32, slot: &U256) -> [u64; 7] {
    let [first, second, last] = account_key(address);
    let [a, b, c, d] = slot.into_limbs();
    [first, second, last | (u64::from(incarnation) << 32), a, b, c, d]
}

/// The slot of a key.
#[inline]
pub(super) const fn slot_of(key: &[u64; 7]) -> U256 {
    U256::from_limbs([key[3], key[4], key[5], key[6]])
}

/// The incarnation of its account that a slot's key names.
#[inline]
pub(super) const fn incarnation_of(key: &[u64; 7]) -> u32 {
    (key[2] >> 32) as u32
}

/// An account's words: what it is, nonce, balance, hash of its code.
#[inline]
pub(super) fn account_value(hot: &Hot) -> [u64; 10] {
    let meta = u64::from(hot.incarnation) << 1;
    let Some(account) = hot.account else { return [meta, 0, 0, 0, 0, 0, 0, 0, 0, 0] };
    let [a, b, c, d] = account.balance.into_limbs();
    let code = &account.code_hash.0;
    let code = [word(code, 0), word(code, 8), word(code, 16), word(code, 24)];
    [meta | EXISTS, account.nonce, a, b, c, d, code[0], code[1], code[2], code[3]]
}

/// The account of its words.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "an incarnation has 32 bits")]
pub(super) fn hot_of(value: &[u64; 10]) -> Hot {
    let [meta, nonce, a, b, c, d, code @ ..] = value;
    let incarnation = (meta >> 1) as u32;
    let account = (meta & EXISTS != 0).then(|| {
        let mut code_hash = B256::ZERO;
        for (bytes, word) in code_hash.0.chunks_exact_mut(8).zip(code) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Account { nonce: *nonce, balance: U256::from_limbs([*a, *b, *c, *d]), code_hash }
    });
    Hot { account, incarnation }
}

/// What a transfer looks at of an account without code whose balance has at most 128 bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Purse {
    pub(super) nonce: u64,
    pub(super) balance: u128,
}

/// The place of a purse among an account's words.
pub(super) const PURSE_AT: usize = 1;

/// An account's words as a purse: nothing where there is no account.
///
/// # Errors
/// Where the account has code, or more than a purse holds.
#[inline]
pub(super) const fn purse_of(value: &[u64; 10]) -> Result<Option<Purse>, ()> {
    let [meta, nonce, low, high, more @ ..] = value;
    if *meta & EXISTS == 0 {
        return Ok(None);
    }
    let mut differs = more[0] | more[1];
    let mut at = 0;
    while at < NO_CODE.len() {
        differs |= more[2 + at] ^ NO_CODE[at];
        at += 1;
    }
    if differs != 0 {
        return Err(());
    }
    Ok(Some(Purse { nonce: *nonce, balance: (*high as u128) << 64 | *low as u128 }))
}

/// A purse as words; those above them are zero.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the halves of a number")]
pub(super) const fn purse_words(purse: &Purse) -> [u64; 3] {
    [purse.nonce, purse.balance as u64, (purse.balance >> 64) as u64]
}

/// `KECCAK256_EMPTY` as words.
const NO_CODE: [u64; 4] = {
    let mut words = [0; 4];
    let mut at = 0;
    while at < 32 {
        words[at / 8] |= (KECCAK256_EMPTY.0[at] as u64) << (8 * (at % 8));
        at += 1;
    }
    words
};

/// The word at a place of some bytes.
#[inline]
pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[inline]
fn half(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_go_there_and_back(
            bytes in any::<[u8; 20]>(),
            limbs in any::<[u64; 4]>().prop_filter("more than a purse", |it| it[2] | it[3] > 0),
            hash in any::<[u8; 32]>(),
            nonce in any::<u64>(),
            incarnation in 0u32..u32::MAX,
            exists in any::<bool>(),
        ) {
            let (address, slot) = (Address::from(bytes), U256::from_limbs(limbs));
            prop_assert_eq!(address_of(&account_key(address)), address);
            let key = slot_key(address, incarnation, &slot);
            prop_assert_eq!(address_of(&key), address);
            prop_assert_eq!((incarnation_of(&key), slot_of(&key)), (incarnation, slot));
            let account = Account { nonce, balance: slot, code_hash: B256::from(hash) };
            let hot = Hot { account: exists.then_some(account), incarnation };
            prop_assert_eq!(hot_of(&account_value(&hot)), hot);
            let purse_of = |account| purse_of(&account_value(&Hot { account, incarnation }));
            prop_assert_eq!(purse_of(None), Ok(None));
            prop_assert_eq!(purse_of(Some(account)), Err(()));
            let account = Account { code_hash: KECCAK256_EMPTY, ..account };
            prop_assert_eq!(purse_of(Some(account)), Err(()), "too much");
            let balance = u128::from(limbs[1]) << 64 | u128::from(limbs[0]);
            let account = Account { balance: U256::from(balance), ..account };
            prop_assert_eq!(purse_of(Some(account)), Ok(Some(Purse { nonce, balance })));
            let mut words = account_value(&Hot { account: Some(account), incarnation });
            let new = purse_words(&Purse { nonce: !nonce, balance: !balance });
            words[PURSE_AT..PURSE_AT + new.len()].copy_from_slice(&new);
            let account = Account { nonce: !nonce, balance: U256::from(!balance), ..account };
            prop_assert_eq!(hot_of(&words), Hot { account: Some(account), incarnation });
        }
    }
}
