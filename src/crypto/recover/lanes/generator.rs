//! Multiples of the generator, looked up by the digits of a multiplier.

use crate::crypto::recover::{ORDER, lanes::field::PRIME};
use alloy_primitives::U256;
use secp256k1::{PublicKey, SECP256K1, SecretKey};
use std::sync::OnceLock;

/// Bits of a digit.
pub(super) const BITS: usize = 11;
/// Entries of a table: the odd multiples 1, 3 .. 2047.
const ENTRIES: usize = 1 << (BITS - 1);
/// Sums of the generator's multiples, each of which the ladder adds where its doublings bring the
/// sum to its place.
pub(super) const POSITIONS: usize = 4;
/// Points of a sum, each from a table of its own: three digits that follow each other, and three
/// that stand half a multiplier above them.
pub(super) const TABLES: usize = 6;
/// Steps of the ladder, of three doublings, that still follow when a sum is added. Between two
/// sums lie three digits: eleven steps.
pub(super) const STEPS_AFTER: [usize; POSITIONS] = [9, 20, 31, 42];
/// Digits of a multiplier.
const DIGITS: usize = POSITIONS * TABLES;
const _: () = assert!(DIGITS * BITS >= 257 && (STEPS_AFTER[1] - STEPS_AFTER[0]) * 3 == 3 * BITS);

/// A multiplier's digits by sum and table: d stands for 2d - 2047, which is odd, so never zero.
pub(super) type Digits = [[u16; TABLES]; POSITIONS];

/// Which digit of the multiplier, counted from the lowest, belongs to a table of a sum.
pub(super) const fn place(position: usize, table: usize) -> usize {
    table / 3 * (DIGITS / 2) + position * 3 + table % 3
}

/// The digits of a multiplier below n if it is odd, else of it less n. For an odd k, k = sum of
/// (2d - 2047) 2^(11 i), where the d are the digits of (k + 2^264 - 1) / 2.
pub(super) fn digits(multiplier: U256) -> Digits {
    let (low, top) = if multiplier.bit(0) {
        (multiplier >> 1, 1 << 7)
    } else {
        let half: U256 = (ORDER - multiplier + U256::ONE) >> 1;
        (half.wrapping_neg(), (1 << 7) - 1)
    };
    let [a, b, c, d] = *low.as_limbs();
    let words = [a, b, c, d, top, 0];
    let mut digits = [[0; TABLES]; POSITIONS];
    for (position, digits) in digits.iter_mut().enumerate() {
        for (table, digit) in digits.iter_mut().enumerate() {
            let bit = BITS * place(position, table);
            let (word, bit) = (bit / 64, bit % 64);
            let both = u128::from(words[word]) | u128::from(words[word + 1]) << 64;
            let [first, second, ..] = (both >> bit).to_le_bytes();
            *digit = u16::from_le_bytes([first, second]) & ((1 << BITS) - 1);
        }
    }
    digits
}

/// x and v = 2y of an affine point, four words each, in one line of the cache.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Entry(pub(super) [u64; 8]);

/// 384 KiB of points.
pub(super) struct Table(Vec<Entry>);

impl Table {
    /// Made at the first call, by libsecp256k1, in some 20 ms.
    pub(super) fn get() -> &'static Self {
        static TABLE: OnceLock<Table> = OnceLock::new();
        TABLE.get_or_init(Self::made)
    }

    fn made() -> Self {
        let shift = U256::from(2).pow_mod(U256::from(3 * STEPS_AFTER[0]), ORDER);
        let shift = shift.inv_mod(ORDER).expect("a power of two is not zero");
        let mut entries = Vec::with_capacity(TABLES * ENTRIES);
        for table in 0..TABLES {
            let weight = U256::from(2).pow_mod(U256::from(BITS * place(0, table)), ORDER);
            let scale = weight.mul_mod(shift, ORDER);
            // The scale times 2, 1, 3, 5 ..
            let twice = times(U256::from(2), scale);
            let mut point = times(U256::ONE, scale);
            for at in 0..ENTRIES {
                entries.push(entry(&point));
                if at + 1 < ENTRIES {
                    point = point.combine(&twice).unwrap_or(point);
                }
            }
        }
        Self(entries)
    }

    /// The entry of a digit, and whether it stands for its negative.
    pub(super) fn entry(&self, table: usize, digit: u16) -> (&Entry, bool) {
        let digit = usize::from(digit);
        let negative = digit < ENTRIES;
        let at = if negative { ENTRIES - 1 - digit } else { digit - ENTRIES };
        (&self.0[table * ENTRIES + at], negative)
    }
}

/// A multiple of the generator by a product of numbers that are not zero modulo n.
fn times(number: U256, scale: U256) -> PublicKey {
    let product = number.mul_mod(scale, ORDER);
    let secret = SecretKey::from_byte_array(product.to_be_bytes()).expect("neither is zero");
    PublicKey::from_secret_key(SECP256K1, &secret)
}

fn entry(point: &PublicKey) -> Entry {
    let bytes = point.serialize_uncompressed();
    let x = U256::from_be_slice(&bytes[1..33]);
    let y = U256::from_be_slice(&bytes[33..]);
    let v = y.add_mod(y, PRIME);
    let mut words = [0; 8];
    words[..4].copy_from_slice(x.as_limbs());
    words[4..].copy_from_slice(v.as_limbs());
    Entry(words)
}
