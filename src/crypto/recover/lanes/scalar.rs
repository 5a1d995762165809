//! Numbers modulo n, the group's order: what a signature multiplies the two points by.

use crate::crypto::recover::{
    ORDER,
    lanes::digits::{Digits, digits},
};
use alloy_primitives::{U256, uint};

/// -1 / n modulo 2^64.
const MONTGOMERY: u64 = 0x4b0d_ff66_5588_b13f;
/// 2^768 modulo n.
const MONTGOMERY_CUBE: U256 =
    uint!(0x555d800c18ef116db1b31347f1d0b2da0017648444d4322c7bc0cfe0e9ff41ed_U256);

/// What the lanes multiply the generator and R by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Multipliers {
    /// Byte i is a digit at 256^i: 2 * byte - 255, odd, so never zero.
    pub(super) generator: [u8; 32],
    pub(super) point: Digits,
}

/// A signature's numbers: the hash below n, r and s in 1..n.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scalars {
    pub(super) hash: U256,
    pub(super) r: U256,
    pub(super) s: U256,
}

/// -hash / r and s / r of each signature, by one inversion of all their r (Montgomery's trick).
pub(super) fn multipliers(all: &[Scalars], out: &mut Vec<Multipliers>) {
    let mut products = Vec::with_capacity(all.len());
    let mut product = U256::ONE;
    for one in all {
        products.push(product);
        product = times(product, one.r);
    }
    let start = out.len();
    // n is prime and no r is zero.
    let inverse = product.inv_mod(ORDER).unwrap_or_default();
    let mut inverse = times(inverse, MONTGOMERY_CUBE);
    for (one, product) in all.iter().zip(products).rev() {
        let of_r = times(times(inverse, product), U256::ONE);
        inverse = times(inverse, one.r);
        let minus = if one.hash.is_zero() { one.hash } else { ORDER - one.hash };
        let generator = generator(times(minus, of_r));
        out.push(Multipliers { generator, point: digits(times(one.s, of_r)) });
    }
    out[start..].reverse();
}

/// a * b / 2^256 modulo n.
fn times(a: U256, b: U256) -> U256 {
    a.mul_redc(b, ORDER, MONTGOMERY)
}

/// The digits of the generator's multiplier: of it if it is odd, else of it less n. For an odd k,
/// k = sum of (2 * byte - 255) * 256^i, where the bytes are those of (k + 2^256 - 1) / 2.
fn generator(multiplier: U256) -> [u8; 32] {
    let half: U256 = U256::ONE << 255;
    let shifted: U256 = if multiplier.bit(0) {
        (multiplier >> 1) | half
    } else {
        half - ((ORDER - multiplier + U256::ONE) >> 1)
    };
    shifted.to_le_bytes()
}
