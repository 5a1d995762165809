//! Keccak-256 of several inputs side by side, one in each 64-bit lane of vector registers: eight
//! with AVX-512, four with AVX2 (FIPS 202, with the padding that Ethereum took before the standard
//! was final).

#![expect(unsafe_code, reason = "vector instructions have to be known to exist, and reinterpreted")]

use crate::crypto::keccak::RATE_BYTES;
use alloy_primitives::B256;

const RATE_WORDS: usize = RATE_BYTES / 8;
/// Words of a hash.
const HASH_WORDS: usize = 4;

/// Iota's constants, one a round.
const ROUNDS: [u64; 24] = [
    0x0000_0000_0000_0001,
    0x0000_0000_0000_8082,
    0x8000_0000_0000_808a,
    0x8000_0000_8000_8000,
    0x0000_0000_0000_808b,
    0x0000_0000_8000_0001,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8009,
    0x0000_0000_0000_008a,
    0x0000_0000_0000_0088,
    0x0000_0000_8000_8009,
    0x0000_0000_8000_000a,
    0x0000_0000_8000_808b,
    0x8000_0000_0000_008b,
    0x8000_0000_0000_8089,
    0x8000_0000_0000_8003,
    0x8000_0000_0000_8002,
    0x8000_0000_0000_0080,
    0x0000_0000_0000_800a,
    0x8000_0000_8000_000a,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8080,
    0x0000_0000_8000_0001,
    0x8000_0000_8000_8008,
];

/// What registers of eight lanes can do.
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_rol_epi64, _mm512_set_epi64, _mm512_set1_epi64, _mm512_setzero_si512,
        _mm512_ternarylogic_epi64, _mm512_xor_si512,
    };

    /// a ^ b ^ c.
    const XOR: i32 = 0x96;
    /// a ^ (!b & c).
    const CHI: i32 = 0xd2;

    pub(super) const LANES: usize = 8;
    pub(super) type Register = __m512i;

    #[target_feature(enable = "avx512f")]
    pub(super) fn zero() -> Register {
        _mm512_setzero_si512()
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn splat(word: i64) -> Register {
        _mm512_set1_epi64(word)
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn load([a, b, c, d, e, f, g, h]: [i64; LANES]) -> Register {
        _mm512_set_epi64(h, g, f, e, d, c, b, a)
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn xor(a: Register, b: Register) -> Register {
        _mm512_xor_si512(a, b)
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn xor_three(a: Register, b: Register, c: Register) -> Register {
        _mm512_ternarylogic_epi64::<XOR>(a, b, c)
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn chi(a: Register, b: Register, c: Register) -> Register {
        _mm512_ternarylogic_epi64::<CHI>(a, b, c)
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn rotated<const BITS: i32>(a: Register) -> Register {
        _mm512_rol_epi64::<BITS>(a)
    }
}

/// What registers of four lanes can do.
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm_cvtsi32_si128, _mm256_andnot_si256, _mm256_or_si256, _mm256_set_epi64x,
        _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_sll_epi64, _mm256_srl_epi64,
        _mm256_xor_si256,
    };

    pub(super) const LANES: usize = 4;
    pub(super) type Register = __m256i;

    #[target_feature(enable = "avx2")]
    pub(super) fn zero() -> Register {
        _mm256_setzero_si256()
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn splat(word: i64) -> Register {
        _mm256_set1_epi64x(word)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn load([a, b, c, d]: [i64; LANES]) -> Register {
        _mm256_set_epi64x(d, c, b, a)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn xor(a: Register, b: Register) -> Register {
        _mm256_xor_si256(a, b)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn xor_three(a: Register, b: Register, c: Register) -> Register {
        xor(xor(a, b), c)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn chi(a: Register, b: Register, c: Register) -> Register {
        xor(a, _mm256_andnot_si256(b, c))
    }

    /// Counts that are known when this is compiled become shifts by a constant.
    #[target_feature(enable = "avx2")]
    pub(super) fn rotated<const BITS: i32>(a: Register) -> Register {
        let left = _mm256_sll_epi64(a, _mm_cvtsi32_si128(BITS));
        let right = _mm256_srl_epi64(a, _mm_cvtsi32_si128(64 - BITS));
        _mm256_or_si256(left, right)
    }
}

/// Theta's difference, rho's rotation and pi's place: `from column bits => to` for each word.
macro_rules! rho_pi {
    ($a:ident, $d:ident, $b:ident: $($from:literal $x:literal $bits:literal => $to:literal;)*) => {
        $($b[$to] = rotated::<$bits>(xor($a[$from], $d[$x]));)*
    };
}

/// The engine `$name` on the registers `$registers`. All of it is compiled for `$feature`: what is
/// not would not be inlined.
macro_rules! engine {
    ($name:ident, $registers:ident, $feature:tt) => {
        pub(super) mod $name {
            use super::{B256, HASH_WORDS, RATE_BYTES, RATE_WORDS, ROUNDS, $registers::*};

            /// The hashes, or `None` where the processor lacks what it takes.
            pub(in crate::crypto::keccak) fn keccak256(
                inputs: &[&[u8]; LANES],
            ) -> Option<[B256; LANES]> {
                if !std::arch::is_x86_feature_detected!($feature) {
                    return None;
                }
                // SAFETY: the processor has what the function is compiled for.
                Some(unsafe { sponge(inputs) })
            }

            /// Absorbs the inputs block by block; a lane whose input has ended is read and then
            /// ignored.
            #[target_feature(enable = $feature)]
            fn sponge(inputs: &[&[u8]; LANES]) -> [B256; LANES] {
                let mut last = [[0; RATE_BYTES]; LANES];
                let mut blocks = [0; LANES];
                for ((last, blocks), input) in last.iter_mut().zip(&mut blocks).zip(inputs) {
                    let (_, rest) = input.as_chunks::<RATE_BYTES>();
                    last[..rest.len()].copy_from_slice(rest);
                    last[rest.len()] = 0x01;
                    last[RATE_BYTES - 1] |= 0x80;
                    *blocks = input.len() / RATE_BYTES + 1;
                }
                let mut state = [zero(); 25];
                let mut hashes = [B256::ZERO; LANES];
                let most = blocks.into_iter().max().unwrap_or_default();
                for at in 0..most {
                    let block: [&[u8; RATE_BYTES]; LANES] = std::array::from_fn(|lane| {
                        inputs[lane].as_chunks().0.get(at).unwrap_or(&last[lane])
                    });
                    for (word, state) in (0..RATE_WORDS).zip(&mut state) {
                        *state = xor(*state, gathered(&block, word));
                    }
                    permute(&mut state);
                    if blocks.contains(&(at + 1)) {
                        squeeze(&state, &mut hashes, |lane| blocks[lane] == at + 1);
                    }
                }
                hashes
            }

            /// The same word of each lane's block.
            #[target_feature(enable = $feature)]
            fn gathered(block: &[&[u8; RATE_BYTES]; LANES], word: usize) -> Register {
                load(std::array::from_fn(|lane| {
                    let words: &[[u8; 8]] = block[lane].as_chunks().0;
                    i64::from_le_bytes(words[word])
                }))
            }

            /// Reads the hashes of the lanes that `ended`.
            #[target_feature(enable = $feature)]
            fn squeeze(
                state: &[Register; 25],
                hashes: &mut [B256; LANES],
                ended: impl Fn(usize) -> bool,
            ) {
                for (at, register) in state.iter().take(HASH_WORDS).enumerate() {
                    // SAFETY: both are of one size, and every pattern is a value of both.
                    let words: [u64; LANES] = unsafe { std::mem::transmute(*register) };
                    for (lane, word) in words.into_iter().enumerate() {
                        if ended(lane) {
                            let bytes = word.to_le_bytes();
                            hashes[lane][8 * at..8 * at + 8].copy_from_slice(&bytes);
                        }
                    }
                }
            }

            /// Keccak-f\[1600\] on the states of all lanes.
            #[target_feature(enable = $feature)]
            fn permute(a: &mut [Register; 25]) {
                let mut b = [zero(); 25];
                for round in ROUNDS {
                    let mut c = [zero(); 5];
                    for x in 0..5 {
                        let three = xor_three(a[x], a[x + 5], a[x + 10]);
                        c[x] = xor_three(three, a[x + 15], a[x + 20]);
                    }
                    let mut d = [zero(); 5];
                    for x in 0..5 {
                        d[x] = xor(c[(x + 4) % 5], rotated::<1>(c[(x + 1) % 5]));
                    }
                    rho_pi! { a, d, b:
                        0 0 0 => 0; 1 1 1 => 10; 2 2 62 => 20; 3 3 28 => 5; 4 4 27 => 15;
                        5 0 36 => 16; 6 1 44 => 1; 7 2 6 => 11; 8 3 55 => 21; 9 4 20 => 6;
                        10 0 3 => 7; 11 1 10 => 17; 12 2 43 => 2; 13 3 25 => 12; 14 4 39 => 22;
                        15 0 41 => 23; 16 1 45 => 8; 17 2 15 => 18; 18 3 21 => 3; 19 4 8 => 13;
                        20 0 18 => 14; 21 1 2 => 24; 22 2 61 => 9; 23 3 56 => 19; 24 4 14 => 4;
                    }
                    for row in (0..25).step_by(5) {
                        for x in 0..5 {
                            let (one, two) = (b[row + (x + 1) % 5], b[row + (x + 2) % 5]);
                            a[row + x] = chi(b[row + x], one, two);
                        }
                    }
                    a[0] = xor(a[0], splat(round.cast_signed()));
                }
            }
        }
    };
}

engine!(eight, avx512, "avx512f");
engine!(four, avx2, "avx2");
