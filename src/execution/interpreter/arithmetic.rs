//! What instructions make of words and bytes.

use crate::execution::interpreter::stack::WORD;
use alloy_primitives::U256;

/// A word as a place, where it can be one.
pub(super) fn place(word: &U256) -> Option<usize> {
    let [low, a, b, c] = *word.as_limbs();
    (a | b | c == 0).then(|| usize::try_from(low).ok()).flatten()
}

/// By limbs: each of them lies in one of the halves that words are written by.
pub(super) fn is_zero(word: &U256) -> bool {
    let [a, b, c, d] = *word.as_limbs();
    a | b | c | d == 0
}

pub(super) fn small(value: usize) -> U256 {
    U256::from_limbs([u64::try_from(value).unwrap_or(u64::MAX), 0, 0, 0])
}

pub(super) fn truth(it: bool) -> U256 {
    U256::from_limbs([u64::from(it), 0, 0, 0])
}

/// Keeps the order of signed words when they are compared as unsigned ones.
pub(super) fn unsigned(word: U256) -> U256 {
    let [a, b, c, d] = word.into_limbs();
    U256::from_limbs([a, b, c, d ^ (1 << 63)])
}

/// A constant.
pub(super) fn short<const LENGTH: usize>(bytes: &[u8; LENGTH]) -> usize {
    let mut value = [0; size_of::<usize>()];
    value[size_of::<usize>() - LENGTH..].copy_from_slice(bytes);
    usize::from_be_bytes(value)
}

/// The constant of so many bytes that ends here.
pub(super) fn constant(code: &[u8], end: usize, length: usize) -> Option<U256> {
    let bytes = match code.get(..end)?.last_chunk::<WORD>() {
        Some(bytes) => *bytes,
        None => {
            let mut bytes = [0; WORD];
            bytes[WORD - end..].copy_from_slice(&code[..end]);
            bytes
        }
    };
    let [a, b, c, d] = U256::from_be_bytes(bytes).into_limbs();
    let [e, f, g, h] = KEPT.get(length)?;
    Some(U256::from_limbs([a & e, b & f, c & g, d & h]))
}

/// What is kept of a word, by how many bytes are.
const KEPT: [[u64; 4]; WORD + 1] = {
    let mut masks = [[0; 4]; WORD + 1];
    let mut length = 1;
    while length <= WORD {
        masks[length] = masks[length - 1];
        masks[length][(length - 1) / 8] |= 0xff << ((length - 1) % 8 * 8);
        length += 1;
    }
    masks
};

/// Call data from a place on; zeros after its end.
pub(super) fn loaded(data: &[u8], from: U256) -> U256 {
    let rest = place(&from).and_then(|from| data.get(from..)).unwrap_or_default();
    if let Some(bytes) = rest.first_chunk::<WORD>() {
        return U256::from_be_bytes(*bytes);
    }
    let mut word = [0; WORD];
    word[..rest.len()].copy_from_slice(rest);
    U256::from_be_bytes(word)
}

#[inline(never)]
pub(super) fn div(dividend: U256, divisor: U256) -> U256 {
    dividend.checked_div(divisor).unwrap_or_default()
}

#[inline(never)]
pub(super) fn rem(dividend: U256, divisor: U256) -> U256 {
    dividend.checked_rem(divisor).unwrap_or_default()
}

#[inline(never)]
pub(super) fn mul_rem(one: U256, other: U256, modulus: U256) -> U256 {
    one.mul_mod(other, modulus)
}

/// A number of so many bytes and one, with its sign carried on to the left.
pub(super) fn extended(bytes: U256, word: U256) -> U256 {
    match place(&bytes) {
        Some(bytes @ 0..31) => {
            let by = small(8 * (31 - bytes));
            arithmetic_shift_right(by, shift_left(by, word))
        }
        _ => word,
    }
}

pub(super) fn byte(at: U256, word: U256) -> U256 {
    match place(&at) {
        Some(at @ 0..32) => small(usize::from(word.byte(31 - at))),
        _ => U256::ZERO,
    }
}

/// A shift by less than the word's width, as whole limbs and bits.
fn distance(by: U256) -> Option<(usize, u32)> {
    let by = place(&by).filter(|by| *by < 256)?;
    Some((by / 64, u32::try_from(by % 64).ok()?))
}

pub(super) fn shift_left(by: U256, word: U256) -> U256 {
    let Some((limbs, bits)) = distance(by) else { return U256::ZERO };
    let mut wide = [0; 8];
    wide[4..].copy_from_slice(word.as_limbs());
    let limb = |at: usize| {
        let (high, low) = (wide[4 + at - limbs], wide[3 + at - limbs]);
        high << bits | low >> 1 >> (63 - bits)
    };
    U256::from_limbs([limb(0), limb(1), limb(2), limb(3)])
}

pub(super) fn shift_right(by: U256, word: U256) -> U256 {
    let Some((limbs, bits)) = distance(by) else { return U256::ZERO };
    let mut wide = [0; 8];
    wide[..4].copy_from_slice(word.as_limbs());
    let limb = |at: usize| {
        let (low, high) = (wide[at + limbs], wide[at + limbs + 1]);
        low >> bits | high << 1 << (63 - bits)
    };
    U256::from_limbs([limb(0), limb(1), limb(2), limb(3)])
}

pub(super) fn arithmetic_shift_right(by: U256, word: U256) -> U256 {
    place(&by).filter(|by| *by < 256).map_or_else(
        || if word.bit(255) { U256::MAX } else { U256::ZERO },
        |by| word.arithmetic_shr(by),
    )
}
