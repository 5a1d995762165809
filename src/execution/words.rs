//! Accounts and slots as words of a table, there and back.

use crate::execution::{
    cache::Hot,
    table::{Table, Value},
};
use crate::types::diff::Account;
use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256};
use std::hash::{Hash, Hasher};

/// Of a meta word: the account exists.
const EXISTS: u64 = 1;
/// It has no code, and its balance no more than 128 bits; so has an account that does not exist.
const PLAIN: u64 = 2;
/// The bits above count its incarnations.
const INCARNATION_AT: u32 = 2;

/// An account as it is kept: what it is, nonce, lower half of the balance; upper half, hash of the
/// code, which are zero and not looked at where the account is plain.
pub(super) type AccountValue = Value<4, 6>;
/// A slot as it is kept.
pub(super) type SlotValue = Value<4, 0>;
pub(super) type Accounts = Table<3, 4, 6>;
pub(super) type Slots = Table<7, 4, 0>;

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

/// Whether the cold words of an account matter.
#[inline]
pub(super) const fn is_cold(hot: &[u64; 4]) -> bool {
    hot[0] & PLAIN == 0
}

/// A slot to be kept.
#[inline]
pub(super) const fn slot_value(value: &U256) -> SlotValue {
    SlotValue { hot: *value.as_limbs(), cold: [] }
}

/// An account to be kept.
#[inline]
pub(super) fn account_value(hot: &Hot) -> AccountValue {
    let meta = u64::from(hot.incarnation) << INCARNATION_AT;
    let Some(account) = hot.account else {
        return AccountValue { hot: [meta | PLAIN, 0, 0, 0], cold: [0; 6] };
    };
    let [low, high, more @ ..] = account.balance.into_limbs();
    let words = |meta| [meta | EXISTS, account.nonce, low, high];
    if more == [0; 2] && account.code_hash == KECCAK256_EMPTY {
        return AccountValue { hot: words(meta | PLAIN), cold: [0; 6] };
    }
    let Key([a, b, c, d]) = code_key(account.code_hash);
    AccountValue { hot: words(meta), cold: [more[0], more[1], a, b, c, d] }
}

/// An account as it was kept.
#[inline]
pub(super) fn hot_of(value: &AccountValue) -> Hot {
    let AccountValue { hot: [meta, nonce, low, high], cold: [a, b, code @ ..] } = *value;
    let account = (meta & EXISTS != 0).then(|| {
        if meta & PLAIN != 0 {
            let balance = U256::from_limbs([low, high, 0, 0]);
            return Account { nonce, balance, code_hash: KECCAK256_EMPTY };
        }
        let mut code_hash = B256::ZERO;
        for (bytes, word) in code_hash.0.chunks_exact_mut(8).zip(code) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Account { nonce, balance: U256::from_limbs([low, high, a, b]), code_hash }
    });
    Hot { account, incarnation: incarnation_in(meta) }
}

#[expect(clippy::cast_possible_truncation, reason = "an incarnation has 32 bits")]
const fn incarnation_in(meta: u64) -> u32 {
    (meta >> INCARNATION_AT) as u32
}

/// What a transfer looks at of a plain account.
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
/// Where the account is more than that.
#[inline]
pub(super) const fn purse_of(hot: &[u64; 4]) -> Result<Option<Purse>, ()> {
    let [meta, nonce, low, high] = *hot;
    if meta & EXISTS == 0 {
        return Ok(None);
    }
    if meta & PLAIN == 0 {
        return Err(());
    }
    Ok(Some(Purse { nonce, balance: (high as u128) << 64 | low as u128 }))
}

/// A purse as words.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the halves of a number")]
pub(super) const fn purse_words(purse: &Purse) -> [u64; 3] {
    [purse.nonce, purse.balance as u64, (purse.balance >> 64) as u64]
}

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
            let words = |account| account_value(&Hot { account, incarnation });
            let purse_of = |account| purse_of(&words(account).hot);
            prop_assert_eq!(purse_of(None), Ok(None));
            prop_assert_eq!(purse_of(Some(account)), Err(()));
            let account = Account { code_hash: KECCAK256_EMPTY, ..account };
            prop_assert_eq!(purse_of(Some(account)), Err(()), "too much");
            let balance = u128::from(limbs[1]) << 64 | u128::from(limbs[0]);
            let account = Account { balance: U256::from(balance), ..account };
            prop_assert_eq!(purse_of(Some(account)), Ok(Some(Purse { nonce, balance })));
            let mut words = words(Some(account));
            prop_assert!(!is_cold(&words.hot));
            words.cold = [7; 6];
            prop_assert_eq!(hot_of(&words), Hot { account: Some(account), incarnation });
            let new = purse_words(&Purse { nonce: !nonce, balance: !balance });
            words.hot[PURSE_AT..PURSE_AT + new.len()].copy_from_slice(&new);
            let account = Account { nonce: !nonce, balance: U256::from(!balance), ..account };
            prop_assert_eq!(hot_of(&words), Hot { account: Some(account), incarnation });
        }
    }
}
