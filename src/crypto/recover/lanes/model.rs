//! A vector in plain Rust, every operation spelled out lane by lane: what the registers are
//! tested against, and what runs where no registers are. Operations are calls: inlined, eight
//! lanes a time, they would make functions of a size that takes minutes to compile.

use crate::crypto::recover::lanes::{
    chunk::{self, Chunk, Room},
    field::Field,
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
    #[inline(never)]
    fn splat(word: u64) -> Self {
        Self([word; LANES])
    }
    #[inline(never)]
    fn of(words: [u64; LANES]) -> Self {
        Self(words)
    }
    #[inline(never)]
    fn words(self) -> [u64; LANES] {
        self.0
    }
    #[inline(never)]
    fn plus(self, other: Self) -> Self {
        self.each(other, u64::wrapping_add)
    }
    #[inline(never)]
    fn minus(self, other: Self) -> Self {
        self.each(other, u64::wrapping_sub)
    }
    #[inline(never)]
    fn and(self, other: Self) -> Self {
        self.each(other, |a, b| a & b)
    }
    #[inline(never)]
    fn left<const BITS: u32>(self) -> Self {
        Self(self.0.map(|word| word << BITS))
    }
    #[inline(never)]
    fn right<const BITS: u32>(self) -> Self {
        Self(self.0.map(|word| word >> BITS))
    }
    #[inline(never)]
    fn low(self, a: Self, b: Self) -> Self {
        self.plus(a.each(b, |a, b| Self::low_part(Self::product(a, b))))
    }
    #[inline(never)]
    fn high(self, a: Self, b: Self) -> Self {
        self.plus(a.each(b, |a, b| Self::low_part(Self::product(a, b) >> 52)))
    }
    #[inline(never)]
    fn choose(mask: u8, yes: Self, no: Self) -> Self {
        let one = |lane: usize| if mask >> lane & 1 == 1 { yes.0[lane] } else { no.0[lane] };
        Self(std::array::from_fn(one))
    }
    #[inline(never)]
    fn zeros(self) -> u8 {
        (0..LANES).map(|lane| u8::from(self.0[lane] == 0) << lane).sum()
    }
    #[inline(never)]
    fn turned(rows: [Self; LANES]) -> [Self; LANES] {
        std::array::from_fn(|at| Self(std::array::from_fn(|lane| rows[lane].0[at])))
    }
    #[inline(never)]
    fn swapped<const BY: usize>(self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane ^ BY]))
    }
}

/// Recovers a chunk.
pub(super) fn run(chunk: &mut Chunk<'_>) {
    chunk::run::<Model>(chunk, &mut Room::default());
}

impl Field for Model {}

impl Curve for Model {}
