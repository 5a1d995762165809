//! The digits of u2: what the ladder adds, step by step, so that all lanes add at every step.
//!
//! The curve has an endomorphism w(x, y) = (b x, y) with w^2 + w + 1 = 0 (Gallant, Lambert and
//! Vanstone, CRYPTO 2001), so its points may be multiplied by Eisenstein integers a + b w. The
//! integers modulo n are those modulo pi, a prime of norm n; u2 is replaced by its shortest
//! representative, of half the length. That one is written in base 8 with digits that are never
//! zero: twelve, each times one of the six units 1, w, w^2 and their negatives, meet each of the
//! 64 classes modulo 8. What times a unit costs is nothing: b x and b^2 x are in the table.

use alloy_primitives::{U256, U512, Uint, uint};

/// Digits below the first.
pub(super) const STEPS: usize = 42;
/// Entries of a table: the digits' multiples of a point.
pub(super) const ENTRIES: usize = 12;
/// The first digit may be zero: then there is none.
pub(super) const NONE: u8 = u8::MAX;

/// Shape of the digits, a + b w: the shortest of their classes, and 8 for the class of zero.
pub(super) const DIGITS: [(i8, i8); ENTRIES] = [
    (1, 0),
    (1, -1),
    (2, 0),
    (2, -1),
    (3, 1),
    (3, 0),
    (2, -2),
    (3, -1),
    (4, 1),
    (4, 0),
    (5, 2),
    (8, 0),
];

type U192 = Uint<192, 3>;

/// pi = A1 - B1 w, and A2 = A1 + B1.
const A1: U192 = uint!(0x3086d221a7d46bcde86c90e49284eb15_U192);
const B1: U192 = uint!(0xe4437ed6010e88286f547fa90abfe4c3_U192);
const A2: U192 = uint!(0x114ca50f7a8e2f3f657c1108d9d44cfd8_U192);
/// A2 * 2^320 / n and B1 * 2^320 / n, rounded.
const A2_OVER_N: U256 = uint!(0x114ca50f7a8e2f3f657c1108d9d44cfd95fbc92c10fddd146_U256);
const B1_OVER_N: U256 = uint!(0xe4437ed6010e88286f547fa90abfe4c4221208ac9df506c6_U256);

/// A digit's entry, unit and sign in one byte: entry * 8 + power of w * 2 + negative.
pub(super) type Code = u8;

/// The digits of one multiplier: `below[i]` counts 8^i, `first` counts 8^42.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digits {
    pub(super) first: Code,
    pub(super) below: [Code; STEPS],
}

/// The digit of each class, by (a mod 8) + 8 * (b mod 8): its code, a and b.
const CLASSES: [(Code, i8, i8); 64] = classes();

#[expect(
    clippy::cast_sign_loss,
    reason = "constant functions have no conversions; all numbers are below 64"
)]
const fn classes() -> [(Code, i8, i8); 64] {
    let mut classes = [(NONE, 0, 0); 64];
    let mut entry: u8 = 0;
    while (entry as usize) < ENTRIES {
        let (mut a, mut b) = DIGITS[entry as usize];
        let mut power = 0;
        while power < 3 {
            let signs = [(a, b), (-a, -b)];
            let mut negative: u8 = 0;
            while negative < 2 {
                let (a, b) = signs[negative as usize];
                let class = (a.rem_euclid(8) + 8 * b.rem_euclid(8)) as usize;
                if classes[class].0 == NONE {
                    classes[class] = (entry * 8 + power * 2 + negative, a, b);
                }
                negative += 1;
            }
            (a, b) = (-b, a - b); // times w
            power += 1;
        }
        entry += 1;
    }
    classes
}

/// What is carried from one digit to the next: a in -1..=1, b in 0..=1.
const CARRIES: usize = 6;

#[expect(
    clippy::cast_possible_truncation,
    reason = "constant functions have no conversions; all numbers are below 64"
)]
const fn carry_of(state: usize) -> (i8, i8) {
    ((state / 2) as i8 - 1, (state % 2) as i8)
}

/// By carry and three bits of a and of b: the digit's code, the next carry.
const NEXT: [[(Code, u8); 64]; CARRIES] = next();

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "constant functions have no conversions; all numbers are below 64"
)]
const fn next() -> [[(Code, u8); 64]; CARRIES] {
    let mut next = [[(NONE, 0); 64]; CARRIES];
    let mut state = 0;
    while state < CARRIES {
        let (carry_a, carry_b) = carry_of(state);
        let mut bits = 0;
        while bits < 64 {
            let (a, b) = ((bits % 8) as i8 + carry_a, (bits / 8) as i8 + carry_b);
            let class = (a.rem_euclid(8) + 8 * b.rem_euclid(8)) as usize;
            let (code, digit_a, digit_b) = CLASSES[class];
            let (carry_a, carry_b) = ((a - digit_a) / 8, (b - digit_b) / 8);
            assert!(carry_a >= -1 && carry_a <= 1 && carry_b >= 0 && carry_b <= 1);
            next[state][bits] = (code, ((carry_a + 1) * 2 + carry_b) as u8);
            bits += 1;
        }
        state += 1;
    }
    next
}

/// No carry.
const START: u8 = 2;
const _: () = assert!(carry_of(START as usize).0 == 0 && carry_of(START as usize).1 == 0);

/// Digits in one word of 63 bits.
const PART: usize = STEPS / 2;
/// Bits of a word that are digits.
const MASK_63: u64 = u64::MAX >> 1;

/// The digits of multipliers below n: side by side, because each waits for the one before it.
pub(super) fn digits<const K: usize>(multipliers: [U256; K]) -> [Digits; K] {
    let shortest = multipliers.map(shortest);
    let mut digits = [Digits { first: NONE, below: [0; STEPS] }; K];
    let mut states = [START; K];
    for part in 0..STEPS / PART {
        let mut words = shortest.map(|(a, b)| (parts(a)[part], parts(b)[part]));
        for step in part * PART..(part + 1) * PART {
            for (((a, b), state), digits) in words.iter_mut().zip(&mut states).zip(&mut digits) {
                let bits = low_byte(*a & 7 | (*b & 7) << 3);
                (digits.below[step], *state) = NEXT[usize::from(*state)][usize::from(bits)];
                *a >>= 3;
                *b >>= 3;
            }
        }
    }
    for (((a, b), state), digits) in shortest.iter().zip(states).zip(&mut digits) {
        let (carry_a, carry_b) = carry_of(usize::from(state));
        digits.first = first(high(*a).wrapping_add(carry_a), high(*b).wrapping_add(carry_b));
    }
    digits
}

/// What stands below 2^126, in words of 63 bits.
fn parts(number: U192) -> [u64; STEPS / PART] {
    let [low, middle, _] = *number.as_limbs();
    [low & MASK_63, (low >> 63 | middle << 1) & MASK_63]
}

/// The code of what is left at 8^42: at most 3.5 long, so it is the digit of its class.
fn first(a: i8, b: i8) -> Code {
    if (a, b) == (0, 0) {
        return NONE;
    }
    let class = usize::from((a.rem_euclid(8) + 8 * b.rem_euclid(8)).unsigned_abs());
    let (code, digit_a, digit_b) = CLASSES[class];
    debug_assert!((digit_a, digit_b) == (a, b), "a multiplier is not reduced");
    code
}

fn low_byte(number: u64) -> u8 {
    number.to_le_bytes()[0]
}

/// What stands at 2^126 and above, in two's complement.
fn high(number: U192) -> i8 {
    let [_, middle, high] = *number.as_limbs();
    let [low, ..] = (middle >> 62 | high << 2).to_le_bytes();
    low.cast_signed()
}

/// The shortest a + b w that is congruent to the multiplier modulo pi, in two's complement:
/// multiplier - c pi, where c is the integer nearest to multiplier / pi.
fn shortest(multiplier: U256) -> (U192, U192) {
    let (x, x_rest) = rounded(multiplier, A2_OVER_N);
    let (y, y_rest) = rounded(multiplier, B1_OVER_N);
    let (x, y) = nearest((x, x_rest), (y, y_rest));
    let [low, middle, high, _] = *multiplier.as_limbs();
    let multiplier = U192::from_limbs([low, middle, high]);
    let a = multiplier.wrapping_sub(x.wrapping_mul(A1)).wrapping_sub(y.wrapping_mul(B1));
    let b = x.wrapping_mul(B1).wrapping_sub(y.wrapping_mul(A2));
    (a, b)
}

/// number * factor / 2^320 as the nearest integer, and what is left of it in units of 2^-62.
fn rounded(number: U256, factor: U256) -> (U192, i64) {
    let product: U512 = number.widening_mul(factor);
    let [_, _, _, _, rest, a, b, c] = *product.as_limbs();
    let up = U192::from(rest >> 63);
    (U192::from_limbs([a, b, c]).wrapping_add(up), rest.cast_signed() >> 2)
}

/// Rounding each coordinate leaves the corners of a rhombus; those are nearer to a neighbour.
fn nearest((x, x_rest): (U192, i64), (y, y_rest): (U192, i64)) -> (U192, U192) {
    const ONE: i64 = 1 << 62;
    let moved = |at: U192, by: i64| match by {
        by if by > ONE => at.wrapping_add(U192::ONE),
        by if by < -ONE => at.wrapping_sub(U192::ONE),
        _ => at,
    };
    if x_rest.abs() > y_rest.abs() {
        (moved(x, 2 * x_rest - y_rest), y)
    } else {
        (x, moved(y, 2 * y_rest - x_rest))
    }
}
