//! Numbers modulo n, the group's order: what a signature multiplies the two points by.

use crate::crypto::recover::{
    ORDER,
    lanes::{
        digits::{Digits, digits},
        generator,
    },
};
use alloy_primitives::{U256, uint};

/// -1 / n modulo 2^64.
const MONTGOMERY: u64 = 0x4b0d_ff66_5588_b13f;
/// 2^512 modulo n.
const MONTGOMERY_SQUARE: U256 =
    uint!(0x9d671cd581c69bc5e697f5e45bcd07c6741496c20e7cf878896cf21467d7d140_U256);

/// What the lanes multiply the generator and R by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Multipliers {
    pub(super) generator: generator::Digits,
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
    // n is prime and no r is zero.
    let inverse = product.inv_mod(ORDER).unwrap_or_default();
    let mut inverse = times(inverse, MONTGOMERY_SQUARE);
    for (one, product) in all.iter().zip(&mut products).rev() {
        // 2^256 / r: what it multiplies loses the 2^256 again.
        *product = times(inverse, *product);
        inverse = times(inverse, one.r);
    }
    for (two, over) in all.chunks(2).zip(products.chunks(2)) {
        let at = |n: usize| (&two[n % two.len()], over[n % over.len()]);
        let points = digits([0, 1].map(|n| times(at(n).0.s, at(n).1)));
        for (n, point) in points.into_iter().enumerate().take(two.len()) {
            let (Scalars { hash, .. }, over) = at(n);
            let minus = if hash.is_zero() { *hash } else { ORDER - *hash };
            out.push(Multipliers { generator: generator::digits(times(minus, over)), point });
        }
    }
}

/// a * b / 2^256 modulo n.
fn times(a: U256, b: U256) -> U256 {
    a.mul_redc(b, ORDER, MONTGOMERY)
}
