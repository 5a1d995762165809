//! A vector in plain Rust, every operation spelled out lane by lane: what the registers are
//! tested against, and what runs where no registers are.

use crate::crypto::recover::lanes::{
    point::Curve,
    vector::{LANES, Lanes, MASK_52},
};

/// Eight words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Model([u64; LANES]);

impl Model {
    fn each(self, other: Self, of: impl Fn(u64, u64) -> u64) -> Self {
        Self(std::array::from_fn(|lane| of(self.0[lane], other.0[lane])))
    }

    fn product(a: u64, b: u64) -> u128 {
        u128::from(a & MASK_52) * u128::from(b & MASK_52)
    }

    fn low_part(product: u128) -> u64 {
        u64::try_from(product & u128::from(MASK_52)).unwrap_or_default()
    }
}

impl Lanes for Model {
    fn splat(word: u64) -> Self {
        Self([word; LANES])
    }
    fn of(words: [u64; LANES]) -> Self {
        Self(words)
    }
    fn words(self) -> [u64; LANES] {
        self.0
    }
    fn plus(self, other: Self) -> Self {
        self.each(other, u64::wrapping_add)
    }
    fn minus(self, other: Self) -> Self {
        self.each(other, u64::wrapping_sub)
    }
    fn and(self, other: Self) -> Self {
        self.each(other, |a, b| a & b)
    }
    fn left<const BITS: u32>(self) -> Self {
        Self(self.0.map(|word| word << BITS))
    }
    fn right<const BITS: u32>(self) -> Self {
        Self(self.0.map(|word| word >> BITS))
    }
    fn low(self, a: Self, b: Self) -> Self {
        self.plus(a.each(b, |a, b| Self::low_part(Self::product(a, b))))
    }
    fn high(self, a: Self, b: Self) -> Self {
        self.plus(a.each(b, |a, b| Self::low_part(Self::product(a, b) >> 52)))
    }
    fn choose(mask: u8, yes: Self, no: Self) -> Self {
        let one = |lane: usize| if mask >> lane & 1 == 1 { yes.0[lane] } else { no.0[lane] };
        Self(std::array::from_fn(one))
    }
    fn zeros(self) -> u8 {
        (0..LANES).map(|lane| u8::from(self.0[lane] == 0) << lane).sum()
    }
    fn turned(rows: [Self; LANES]) -> [Self; LANES] {
        std::array::from_fn(|at| Self(std::array::from_fn(|lane| rows[lane].0[at])))
    }
    fn swapped<const BY: usize>(self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane ^ BY]))
    }
}

impl Curve for Model {}
