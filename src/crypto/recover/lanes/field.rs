//! Numbers modulo p = 2^256 - 2^32 - 977, eight to a vector, in five limbs of 52 bits.
//!
//! Multiplications read 52 bits of a limb, so what they take has to be carried; sums are not. The
//! types tell how far a number may be from reduced, and what does not fit does not compile:
//!
//! - `Fe<V, N, M>` may be multiplied: limbs 0 to 3 are below 2^52, limb 4 at most M * `TOP`.
//! - `Sum<V, N, M>` may not: limbs 0 to 3 are at most M * (2^52 - 1), limb 4 at most M * `TOP`.
//!
//! N vectors go in step: while one waits for its carries, the other multiplies.

use crate::crypto::recover::lanes::{
    scalar,
    vector::{LANES, Lanes, MASK_52},
};
use alloy_primitives::{U256, uint};
use std::ops::Range;

/// The field's prime.
pub(super) const PRIME: U256 =
    uint!(0xfffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f_U256);
/// Limbs of a number.
pub(super) const LIMBS: usize = 5;
/// Limb 4 of what a multiplication leaves is at most 2^48 - 1 + 2^6, the last being a carry.
const TIGHT_TOP: u64 = (1 << 48) + (1 << 6);
/// With room for the carry of a sum of 32 such.
const TOP: u64 = (1 << 48) + (1 << 7);
const MASK_48: u64 = (1 << 48) - 1;
/// 2^256 mod p.
const FOLD_256: u64 = 0x1_0000_03d1;
/// 2^260 mod p.
const FOLD_260: u64 = FOLD_256 << 4;
/// 2 * p with limbs that no limb of an `Fe<1>` exceeds, so that a difference has no borrow.
const TWICE_PRIME: [u64; LIMBS] =
    [2 * (1 << 52) - 2 * FOLD_256, 2 * MASK_52, 2 * MASK_52, 2 * MASK_52, 2 * MASK_48];
const _: () = assert!(TWICE_PRIME[0] >= MASK_52 && TWICE_PRIME[4] >= TIGHT_TOP);
const _: () = assert!(TWICE_PRIME[0] <= 2 * MASK_52 && TWICE_PRIME[4] <= 2 * TIGHT_TOP);

/// One vector of numbers.
pub(super) type Limbs<V> = [V; LIMBS];
/// N vectors of numbers.
pub(super) type Vectors<V, const N: usize> = [Limbs<V>; N];

/// Multiplications, which may each be a function of its own. All that a step of the ladder executes
/// is then a few kilobytes of code, where functions for a whole doubling and addition are some
/// twenty-five. An engine of real vectors overrides these by functions that are compiled for its
/// instructions.
pub(super) trait Field: Lanes {
    /// a * b
    #[inline(always)]
    fn mul<const N: usize>(a: &Vectors<Self, N>, b: &Vectors<Self, N>) -> Vectors<Self, N> {
        mul(a, b)
    }
    /// a * b + c
    #[inline(always)]
    fn mul_plus<const N: usize>(
        a: &Vectors<Self, N>,
        b: &Vectors<Self, N>,
        c: &Vectors<Self, N>,
    ) -> Vectors<Self, N> {
        mul_plus(a, b, c)
    }
    /// a * b + c * d
    #[inline(always)]
    fn mul_mul<const N: usize>(
        a: &Vectors<Self, N>,
        b: &Vectors<Self, N>,
        c: &Vectors<Self, N>,
        d: &Vectors<Self, N>,
    ) -> Vectors<Self, N> {
        mul_mul(a, b, c, d)
    }
    /// a * b + c^2
    #[inline(always)]
    fn mul_sqr<const N: usize>(
        a: &Vectors<Self, N>,
        b: &Vectors<Self, N>,
        c: &Vectors<Self, N>,
    ) -> Vectors<Self, N> {
        mul_sqr(a, b, c)
    }
    /// a^2
    #[inline(always)]
    fn sqr<const N: usize>(a: &Vectors<Self, N>) -> Vectors<Self, N> {
        sqr(a)
    }
    /// a^2 + c
    #[inline(always)]
    fn sqr_plus<const N: usize>(a: &Vectors<Self, N>, c: &Vectors<Self, N>) -> Vectors<Self, N> {
        sqr_plus(a, c)
    }
    /// a^(2^times)
    #[inline(always)]
    fn sqr_times<const N: usize>(a: &Vectors<Self, N>, times: usize) -> Vectors<Self, N> {
        sqr_times(a, times)
    }
    /// `scalar::times`
    #[inline(always)]
    fn times(a: &Limbs<Self>, b: &Limbs<Self>) -> Limbs<Self> {
        scalar::times(a, b)
    }
}

/// N vectors of numbers that may be multiplied.
#[derive(Clone, Copy)]
pub(super) struct Fe<V, const N: usize, const M: u64>(pub(super) [Limbs<V>; N]);

/// N vectors of numbers that have to be carried first.
#[derive(Clone, Copy)]
pub(super) struct Sum<V, const N: usize, const M: u64>(pub(super) [Limbs<V>; N]);

/// Ten columns of 52 bits, not carried.
type Columns<V> = [V; 2 * LIMBS];

/// What an expression gives for each vector. The first is not left to a loop: a loop over two
/// stays one, and then all that it writes goes through memory.
macro_rules! each {
    ($n:ident of $vectors:ident: $of_one:expr) => {{
        let $n = 0;
        let mut out = [$of_one; $vectors];
        for $n in 1..$vectors {
            out[$n] = $of_one;
        }
        out
    }};
}

/// Columns with a number added.
#[inline(always)]
fn with<V: Lanes>(mut columns: Columns<V>, c: &Limbs<V>) -> Columns<V> {
    for limb in 0..LIMBS {
        columns[limb] = columns[limb].plus(c[limb]);
    }
    columns
}

/// a * b
#[inline(always)]
pub(super) fn mul<V: Lanes, const N: usize>(a: &Vectors<V, N>, b: &Vectors<V, N>) -> Vectors<V, N> {
    each!(n of N: reduced(product(&a[n], &b[n])))
}

/// a * b + c
#[inline(always)]
pub(super) fn mul_plus<V: Lanes, const N: usize>(
    a: &Vectors<V, N>,
    b: &Vectors<V, N>,
    c: &Vectors<V, N>,
) -> Vectors<V, N> {
    each!(n of N: reduced(with(product(&a[n], &b[n]), &c[n])))
}

/// a * b + c * d
#[inline(always)]
pub(super) fn mul_mul<V: Lanes, const N: usize>(
    a: &Vectors<V, N>,
    b: &Vectors<V, N>,
    c: &Vectors<V, N>,
    d: &Vectors<V, N>,
) -> Vectors<V, N> {
    each!(n of N: reduced(product_on(product(&a[n], &b[n]), &c[n], &d[n])))
}

/// a * b + c^2
#[inline(always)]
pub(super) fn mul_sqr<V: Lanes, const N: usize>(
    a: &Vectors<V, N>,
    b: &Vectors<V, N>,
    c: &Vectors<V, N>,
) -> Vectors<V, N> {
    each!(n of N: reduced(product_on(square(&c[n]), &a[n], &b[n])))
}

/// a^2
#[inline(always)]
pub(super) fn sqr<V: Lanes, const N: usize>(a: &Vectors<V, N>) -> Vectors<V, N> {
    each!(n of N: reduced(square(&a[n])))
}

/// a^2 + c
#[inline(always)]
pub(super) fn sqr_plus<V: Lanes, const N: usize>(
    a: &Vectors<V, N>,
    c: &Vectors<V, N>,
) -> Vectors<V, N> {
    each!(n of N: reduced(with(square(&a[n]), &c[n])))
}

/// a^(2^times)
#[inline(always)]
pub(super) fn sqr_times<V: Lanes, const N: usize>(
    a: &Vectors<V, N>,
    times: usize,
) -> Vectors<V, N> {
    let mut out = *a;
    for _ in 0..times {
        out = sqr(&out);
    }
    out
}

/// a * b, as integers.
#[inline(always)]
pub(super) fn product<V: Lanes>(a: &Limbs<V>, b: &Limbs<V>) -> Columns<V> {
    product_on([V::splat(0); 2 * LIMBS], a, b)
}

/// Columns to which most is added: their high halves are added up apart, because each addition
/// waits for the one before.
const LONG: Range<usize> = 3..7;

/// a * b added to columns: 25 products, of which each has a low and a high half.
#[inline(always)]
fn product_on<V: Lanes>(mut columns: Columns<V>, a: &Limbs<V>, b: &Limbs<V>) -> Columns<V> {
    debug_assert!(multiplicable(a) && multiplicable(b), "a limb has more than 52 bits");
    let mut apart = [V::splat(0); LONG.end - LONG.start];
    for i in 0..LIMBS {
        for j in 0..LIMBS {
            columns[i + j] = columns[i + j].low(a[i], b[j]);
            let column = i + j + 1;
            let sum = if LONG.contains(&column) {
                &mut apart[column - LONG.start]
            } else {
                &mut columns[column]
            };
            *sum = sum.high(a[i], b[j]);
        }
    }
    for (column, high) in LONG.zip(apart) {
        columns[column] = columns[column].plus(high);
    }
    columns
}

/// a^2: products of unlike limbs count twice.
#[inline(always)]
fn square<V: Lanes>(a: &Limbs<V>) -> Columns<V> {
    debug_assert!(multiplicable(a), "a limb has more than 52 bits");
    let mut columns = [V::splat(0); 2 * LIMBS];
    for i in 0..LIMBS {
        for j in i + 1..LIMBS {
            columns[i + j] = columns[i + j].low(a[i], a[j]);
            columns[i + j + 1] = columns[i + j + 1].high(a[i], a[j]);
        }
    }
    for column in &mut columns[1..2 * LIMBS - 1] {
        *column = column.plus(*column);
    }
    for i in 0..LIMBS {
        columns[2 * i] = columns[2 * i].low(a[i], a[i]);
        columns[2 * i + 1] = columns[2 * i + 1].high(a[i], a[i]);
    }
    columns
}

/// Folds the upper half into the lower: 2^260 and 2^256 are small modulo p.
#[inline(always)]
fn reduced<V: Lanes>(mut c: Columns<V>) -> Limbs<V> {
    let fold = V::splat(FOLD_260);
    for i in LIMBS..2 * LIMBS - 1 {
        c[i + 1] = c[i + 1].plus(c[i].right::<52>());
    }
    debug_assert!(c[9].right::<52>().zeros() == u8::MAX, "the product has more than 520 bits");
    for i in 0..LIMBS - 1 {
        c[i] = c[i].low(c[i + LIMBS], fold);
        c[i + 1] = c[i + 1].high(c[i + LIMBS], fold);
    }
    c[4] = c[4].low(c[9], fold);
    // At 2^256: what is at 2^260, and what is too much in limb 4.
    let beyond = V::splat(0).high(c[9], fold).left::<4>();
    let over = beyond.plus(c[4].right::<48>());
    debug_assert!(over.right::<52>().zeros() == u8::MAX, "the second fold would lose bits");
    let fold = V::splat(FOLD_256);
    let limbs =
        [c[0].low(over, fold), c[1].high(over, fold), c[2], c[3], c[4].and(V::splat(MASK_48))];
    rippled(limbs)
}

/// Carries limb by limb; limb 4 takes what is left.
#[inline(always)]
pub(super) fn rippled<V: Lanes>(mut a: Limbs<V>) -> Limbs<V> {
    let mask = V::splat(MASK_52);
    for i in 0..LIMBS - 1 {
        a[i + 1] = a[i + 1].plus(a[i].right::<52>());
        a[i] = a[i].and(mask);
    }
    a
}

/// The same number in each lane.
#[inline(always)]
pub(super) fn splat<V: Lanes>(number: U256) -> Limbs<V> {
    let limbs = limbs_of(number);
    let mut out = [V::splat(0); LIMBS];
    for i in 0..LIMBS {
        out[i] = V::splat(limbs[i]);
    }
    out
}

/// For assertions: no bit is lost in a multiplication.
fn multiplicable<V: Lanes>(a: &Limbs<V>) -> bool {
    a.iter().all(|limb| limb.words().iter().all(|word| *word <= MASK_52))
}

impl<V: Field, const N: usize, const A: u64> Fe<V, N, A> {
    /// The same with less said about it.
    #[inline(always)]
    pub(super) fn relaxed<const B: u64>(self) -> Fe<V, N, B> {
        const { assert!(A <= B) };
        Fe(self.0)
    }

    /// a * b
    #[inline(always)]
    pub(super) fn mul<const B: u64>(&self, b: &Fe<V, N, B>) -> Fe<V, N, 1> {
        const { assert!(A * B <= PRODUCTS_MAX) };
        Fe(V::mul(&self.0, &b.0))
    }

    /// a * b + c
    #[inline(always)]
    pub(super) fn mul_plus<const B: u64, const C: u64>(
        &self,
        b: &Fe<V, N, B>,
        c: &Sum<V, N, C>,
    ) -> Fe<V, N, 1> {
        const { assert!(A * B < PRODUCTS_MAX && C <= ADDED_MAX) };
        Fe(V::mul_plus(&self.0, &b.0, &c.0))
    }

    /// a^2
    #[inline(always)]
    pub(super) fn sqr(&self) -> Fe<V, N, 1> {
        const { assert!(A * A <= PRODUCTS_MAX) };
        Fe(V::sqr(&self.0))
    }

    /// a^2 + c
    #[inline(always)]
    pub(super) fn sqr_plus<const C: u64>(&self, c: &Sum<V, N, C>) -> Fe<V, N, 1> {
        const { assert!(A * A < PRODUCTS_MAX && C <= ADDED_MAX) };
        Fe(V::sqr_plus(&self.0, &c.0))
    }

    /// a * b + c * d
    #[inline(always)]
    pub(super) fn mul_mul<const B: u64, const C: u64, const D: u64>(
        &self,
        b: &Fe<V, N, B>,
        c: &Fe<V, N, C>,
        d: &Fe<V, N, D>,
    ) -> Fe<V, N, 1> {
        const { assert!(A * B + C * D <= PRODUCTS_MAX) };
        Fe(V::mul_mul(&self.0, &b.0, &c.0, &d.0))
    }

    /// a * b + c^2
    #[inline(always)]
    pub(super) fn mul_sqr<const B: u64, const C: u64>(
        &self,
        b: &Fe<V, N, B>,
        c: &Fe<V, N, C>,
    ) -> Fe<V, N, 1> {
        const { assert!(A * B + C * C <= PRODUCTS_MAX) };
        Fe(V::mul_sqr(&self.0, &b.0, &c.0))
    }
}

impl<V: Field, const N: usize> Fe<V, N, 1> {
    /// The same as a sum of one.
    #[inline(always)]
    pub(super) fn sum(&self) -> Sum<V, N, 1> {
        Sum(self.0)
    }

    /// a^(2^times)
    #[inline(always)]
    pub(super) fn sqr_times(&self, times: usize) -> Self {
        Self(V::sqr_times(&self.0, times))
    }

    /// The same number in each lane.
    #[inline(always)]
    pub(super) fn splat(number: U256) -> Self {
        Self([splat(number); N])
    }

    /// `yes` where the mask of its vector is set.
    #[inline(always)]
    pub(super) fn choose(masks: [u8; N], yes: &Self, no: &Self) -> Self {
        let mut out = yes.0;
        for n in 0..N {
            for i in 0..LIMBS {
                out[n][i] = V::choose(masks[n], yes.0[n][i], no.0[n][i]);
            }
        }
        Self(out)
    }

    /// The lanes that are zero modulo p.
    #[inline(always)]
    pub(super) fn zeros(&self) -> [u8; N] {
        let mut out = [0; N];
        for n in 0..N {
            let [a, b, c, d, e] = canonical(&self.0[n]);
            out[n] = a.plus(b).plus(c).plus(d).plus(e).zeros();
        }
        out
    }

    /// The lanes that are even, of canonical numbers.
    #[inline(always)]
    pub(super) fn evens(&self) -> [u8; N] {
        let mut out = [0; N];
        for n in 0..N {
            out[n] = self.0[n][0].and(V::splat(1)).zeros();
        }
        out
    }

    /// Below p.
    #[inline(always)]
    pub(super) fn canonical(&self) -> Self {
        let mut out = self.0;
        for limbs in &mut out {
            *limbs = canonical(limbs);
        }
        Self(out)
    }
}

impl<V: Lanes, const N: usize, const A: u64> Sum<V, N, A> {
    /// a + b
    #[inline(always)]
    pub(super) fn plus<const B: u64, const C: u64>(mut self, b: &Sum<V, N, B>) -> Sum<V, N, C> {
        const { assert!(A + B <= C && C <= ADDED_MAX) };
        for n in 0..N {
            for i in 0..LIMBS {
                self.0[n][i] = self.0[n][i].plus(b.0[n][i]);
            }
        }
        Sum(self.0)
    }

    /// a - b, with as many p added as keep every limb from falling below zero.
    #[inline(always)]
    pub(super) fn minus<const B: u64, const C: u64>(mut self, b: &Sum<V, N, B>) -> Sum<V, N, C> {
        const { assert!(A + 2 * B <= C && C <= ADDED_MAX) };
        for n in 0..N {
            for i in 0..LIMBS {
                let biased = self.0[n][i].plus(V::splat(B * TWICE_PRIME[i]));
                self.0[n][i] = biased.minus(b.0[n][i]);
            }
        }
        Sum(self.0)
    }

    /// -a
    #[inline(always)]
    pub(super) fn negated<const C: u64>(mut self) -> Sum<V, N, C> {
        const { assert!(2 * A <= C && C <= ADDED_MAX) };
        for n in 0..N {
            for i in 0..LIMBS {
                self.0[n][i] = V::splat(A * TWICE_PRIME[i]).minus(self.0[n][i]);
            }
        }
        Sum(self.0)
    }

    /// 2a
    #[inline(always)]
    pub(super) fn twice<const C: u64>(self) -> Sum<V, N, C> {
        self.plus(&self)
    }

    /// Carried and folded at 2^256.
    #[inline(always)]
    pub(super) fn tight(mut self) -> Fe<V, N, 1> {
        const { assert!(A <= ADDED_MAX) };
        for limbs in &mut self.0 {
            limbs[0] = limbs[0].low(limbs[4].right::<48>(), V::splat(FOLD_256));
            limbs[4] = limbs[4].and(V::splat(MASK_48));
            *limbs = rippled(*limbs);
        }
        Fe(self.0)
    }

    /// Carried, so that it may be multiplied.
    #[inline(always)]
    pub(super) fn carried(mut self) -> Fe<V, N, A> {
        const { assert!(A <= CARRIED_MAX && A > 1) };
        for limbs in &mut self.0 {
            *limbs = rippled(*limbs);
        }
        Fe(self.0)
    }
}

/// Sum of the products of two magnitudes that one reduction takes: limb 9 stays below 2^52.
const PRODUCTS_MAX: u64 = 128;
/// Magnitude of what is added before a reduction: limb 3 carries at most 6 bits.
const ADDED_MAX: u64 = 16;
/// Magnitude of what is carried: limb 4 stays below 2^52, and its carry within `TOP`.
const CARRIED_MAX: u64 = 15;
const _: () = assert!(CARRIED_MAX * TOP < MASK_52 && TOP - TIGHT_TOP >= 1);
const _: () = assert!(PRODUCTS_MAX * (TOP >> 24) * (TOP >> 24) < 1 << 56);

/// A number in limbs.
pub(super) const fn limbs_of(number: U256) -> [u64; LIMBS] {
    let [a, b, c, d] = *number.as_limbs();
    [
        a & MASK_52,
        (a >> 52 | b << 12) & MASK_52,
        (b >> 40 | c << 24) & MASK_52,
        (c >> 28 | d << 36) & MASK_52,
        d >> 16,
    ]
}

/// Below p, for a number below 2^256 + 2^216.
#[inline(always)]
fn canonical<V: Lanes>(a: &Limbs<V>) -> Limbs<V> {
    let fold = V::splat(FOLD_256);
    let top = V::splat(MASK_48);
    let mut once = *a;
    once[0] = once[0].low(a[4].right::<48>(), fold);
    once[4] = once[4].and(top);
    less_if_not_below(&rippled(once), [FOLD_256, 0, 0, 0, 0])
}

/// A number less 2^256 - `complement` where it is not below that, for one below twice that.
#[inline(always)]
pub(super) fn less_if_not_below<V: Lanes>(a: &Limbs<V>, complement: [u64; LIMBS]) -> Limbs<V> {
    let mut less = *a;
    for i in 0..LIMBS {
        less[i] = less[i].plus(V::splat(complement[i]));
    }
    let mut less = rippled(less);
    let below = less[4].right::<48>().zeros();
    less[4] = less[4].and(V::splat(MASK_48));
    for i in 0..LIMBS {
        less[i] = V::choose(below, a[i], less[i]);
    }
    less
}

/// Four words of 64 bits a lane to limbs.
#[inline(always)]
pub(super) fn unpacked<V: Lanes>([a, b, c, d]: [V; 4]) -> Limbs<V> {
    let mask = V::splat(MASK_52);
    [
        a.and(mask),
        a.right::<52>().plus(b.left::<12>()).and(mask),
        b.right::<40>().plus(c.left::<24>()).and(mask),
        c.right::<28>().plus(d.left::<36>()).and(mask),
        d.right::<16>(),
    ]
}

/// Limbs of a canonical number to four words of 64 bits a lane.
#[inline(always)]
pub(super) fn packed<V: Lanes>([a, b, c, d, e]: Limbs<V>) -> [V; 4] {
    [
        a.plus(b.left::<52>()),
        b.right::<12>().plus(c.left::<40>()),
        c.right::<24>().plus(d.left::<28>()),
        d.right::<36>().plus(e.left::<16>()),
    ]
}

/// Each lane takes the number of the lane whose own number differs in the bits `BY`.
#[inline(always)]
pub(super) fn swapped<V: Lanes, const BY: usize>(a: &Limbs<V>) -> Limbs<V> {
    let mut out = *a;
    for limb in &mut out {
        *limb = limb.swapped::<BY>();
    }
    out
}

/// One vector of canonical numbers as numbers.
#[inline(always)]
pub(super) fn numbers<V: Lanes>(limbs: Limbs<V>) -> [U256; LANES] {
    let words = packed(limbs).map(V::words);
    std::array::from_fn(|lane| U256::from_limbs(words.map(|word| word[lane])))
}
