//! What the arithmetic asks of a vector of eight 64-bit words.

/// Signatures side by side in one vector.
pub(super) const LANES: usize = 8;
/// The bits of a word that a multiplication reads.
pub(super) const MASK_52: u64 = (1 << 52) - 1;

/// Eight words of 64 bits; each operation works on all of them alike.
pub(super) trait Lanes: Copy {
    /// The same word in each lane.
    fn splat(word: u64) -> Self;
    /// One word a lane.
    fn of(words: [u64; LANES]) -> Self;
    /// The word of each lane.
    fn words(self) -> [u64; LANES];
    /// a + b mod 2^64.
    fn plus(self, other: Self) -> Self;
    /// a - b mod 2^64.
    fn minus(self, other: Self) -> Self;
    /// The bits that both have.
    fn and(self, other: Self) -> Self;
    /// a << BITS.
    fn left<const BITS: u32>(self) -> Self;
    /// a >> BITS.
    fn right<const BITS: u32>(self) -> Self;
    /// `self` and the low 52 bits of the product of the low 52 bits of `a` and `b`.
    fn low(self, a: Self, b: Self) -> Self;
    /// `self` and the high 52 bits of that product.
    fn high(self, a: Self, b: Self) -> Self;
    /// `yes` where the lane's bit of the mask is set, else `no`.
    fn choose(mask: u8, yes: Self, no: Self) -> Self;
    /// The lanes that are zero.
    fn zeros(self) -> u8;
    /// Rows become columns.
    fn turned(rows: [Self; LANES]) -> [Self; LANES];
    /// Each lane takes the word of the lane whose number differs from its own in the bits `BY`.
    fn swapped<const BY: usize>(self) -> Self;
}
