//! Numbers modulo n, the group's order: what a signature multiplies the two points by.
//!
//! They stand eight to a vector, in five limbs of 52 bits, and are multiplied by Montgomery's way
//! with 2^260. A number here is below 2^257, with limbs 0 to 3 below 2^52: the product of two,
//! with as many n added as make it divisible by 2^260, is below 2^514 + 2^260 n, and divided by
//! 2^260 below 2^254 + n again.

use crate::crypto::recover::{
    ORDER,
    lanes::{
        digits::{Digits, digits},
        field::{
            Field, LIMBS, Limbs, less_if_not_below, limbs_of, numbers, packed, product, rippled,
            splat, swapped, unpacked,
        },
        generator,
        vector::{LANES, Lanes, MASK_52},
    },
};
use alloy_primitives::{U256, uint};

const N: [u64; LIMBS] = limbs_of(ORDER);
/// -1 / n modulo 2^52.
const FACTOR: u64 = 0xd_ff66_5588_b13f;
/// 2^520 modulo n.
const SQUARE: U256 = uint!(0x671cd581c69bc5e697f5e45bcd07c73b97594894fd6e33e4c8ee180c268b3b23_U256);
/// 2^256 - n.
const COMPLEMENT: [u64; LIMBS] = limbs_of(uint!(0x14551231950b75fc4402da1732fc9bebf_U256));

/// What the lanes multiply the generator and R by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Multipliers {
    pub(super) generator: generator::Digits,
    pub(super) point: Digits,
}

/// A signature's numbers: any hash, r and s in 1..n.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scalars {
    pub(super) hash: U256,
    pub(super) r: U256,
    pub(super) s: U256,
}

/// Appends the digits of -hash / r and s / r of each signature, by one inversion of all their r
/// (Montgomery's trick).
#[inline(always)]
pub(super) fn multipliers<V: Field>(all: &[Scalars], out: &mut Vec<Multipliers>) {
    let mut vectors = Vec::with_capacity(all.len().div_ceil(LANES));
    let mut product = splat::<V>(U256::ONE);
    for eight in all.chunks(LANES) {
        let numbers = read::<V>(eight);
        let before = product;
        product = V::times(&product, &numbers.r);
        vectors.push((numbers, before));
    }
    let mut inverse = inverse(&product);
    // From the last, whose multipliers come last: each vector's are put in order at the end.
    let start = out.len();
    for (eight, (Vectors { hash, r, s }, before)) in all.chunks(LANES).zip(&vectors).rev() {
        // 2^260 / r: what it multiplies loses the 2^260 again.
        let over = V::times(&inverse, before);
        inverse = V::times(&inverse, r);
        let [a, b, c, d] = packed(canonical(&V::times(hash, &over)));
        let [e, f, g, h] = packed(canonical(&V::times(s, &over)));
        let rows = V::turned([a, b, c, d, e, f, g, h]);
        let mut pairs = [(U256::ZERO, U256::ZERO); LANES];
        for lane in 0..LANES {
            let [a, b, c, d, e, f, g, h] = rows[lane].words();
            pairs[lane] = (U256::from_limbs([a, b, c, d]), U256::from_limbs([e, f, g, h]));
        }
        append(&pairs[..eight.len()], out);
    }
    out[start..].reverse();
}

/// Appends what the hash over r, and s over r, are as multipliers, the last first.
fn append(pairs: &[(U256, U256)], out: &mut Vec<Multipliers>) {
    for two in pairs.rchunks(2) {
        let [.., (_, last)] = two else { continue };
        let points = digits([two[0].1, *last]);
        for ((of_hash, _), point) in two.iter().zip(points).rev() {
            let minus = if of_hash.is_zero() { *of_hash } else { ORDER - *of_hash };
            out.push(Multipliers { generator: generator::digits(minus), point });
        }
    }
}

/// Eight signatures' numbers.
struct Vectors<V> {
    hash: Limbs<V>,
    r: Limbs<V>,
    s: Limbs<V>,
}

/// Lanes without a signature repeat the last.
#[inline(always)]
fn read<V: Lanes>(eight: &[Scalars]) -> Vectors<V> {
    let (mut first, mut second) = ([V::splat(0); LANES], [V::splat(0); LANES]);
    for lane in 0..LANES {
        let Scalars { hash, r, s } = &eight[lane.min(eight.len() - 1)];
        let ([a, b, c, d], [e, f, g, h]) = (*hash.as_limbs(), *r.as_limbs());
        first[lane] = V::of([a, b, c, d, e, f, g, h]);
        let [a, b, c, d] = *s.as_limbs();
        second[lane] = V::of([a, b, c, d, 0, 0, 0, 0]);
    }
    let [a, b, c, d, e, f, g, h] = V::turned(first);
    let (hash, r) = (unpacked([a, b, c, d]), unpacked([e, f, g, h]));
    let [a, b, c, d, ..] = V::turned(second);
    Vectors { hash, r, s: unpacked([a, b, c, d]) }
}

/// a * b / 2^260 modulo n.
#[inline(always)]
pub(super) fn times<V: Lanes>(a: &Limbs<V>, b: &Limbs<V>) -> Limbs<V> {
    let mut c = product(a, b);
    for i in 0..LIMBS {
        let digit = V::splat(0).low(c[i], V::splat(FACTOR));
        for j in 0..LIMBS {
            c[i + j] = c[i + j].low(digit, V::splat(N[j]));
            c[i + j + 1] = c[i + j + 1].high(digit, V::splat(N[j]));
        }
        debug_assert!(c[i].and(V::splat(MASK_52)).zeros() == u8::MAX, "n was not added rightly");
        c[i + 1] = c[i + 1].plus(c[i].right::<52>());
    }
    rippled([c[5], c[6], c[7], c[8], c[9]])
}

/// Below n, for a number below 2 n.
#[inline(always)]
fn canonical<V: Lanes>(a: &Limbs<V>) -> Limbs<V> {
    less_if_not_below(a, COMPLEMENT)
}

/// 2^260 over the number in each lane, by one inversion of all their product. None is zero.
#[inline(always)]
fn inverse<V: Field>(a: &Limbs<V>) -> Limbs<V> {
    let beside = swapped::<V, 1>(a);
    let two = V::times(a, &beside);
    let beside_two = swapped::<V, 2>(&two);
    let four = V::times(&two, &beside_two);
    let beside_four = swapped::<V, 4>(&four);
    // The product of all over 2^(7 * 260).
    let all = V::times(&four, &beside_four);
    let [number, ..]: [U256; LANES] = numbers(canonical(&all));
    let inverse = splat(number.inv_mod(ORDER).unwrap_or_default());
    let others = V::times(&beside_two, &beside_four);
    let inverse = V::times(&V::times(&inverse, &beside), &others);
    V::times(&inverse, &splat(SQUARE))
}
