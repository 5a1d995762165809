//! Keccak-256 of eight inputs, one in each 64-bit lane of AVX-512 registers (FIPS 202, with the
//! padding that Ethereum took before the standard was final).

#![expect(unsafe_code, reason = "vector instructions have to be known to exist, and reinterpreted")]

use crate::crypto::keccak::{LANES, RATE_BYTES};
use alloy_primitives::B256;
use std::arch::x86_64::{
    __m512i, _mm512_rol_epi64, _mm512_set_epi64, _mm512_set1_epi64, _mm512_setzero_si512,
    _mm512_ternarylogic_epi64, _mm512_xor_si512,
};

const RATE_WORDS: usize = RATE_BYTES / 8;
/// Words of a hash.
const HASH_WORDS: usize = 4;
/// a ^ b ^ c.
const XOR: i32 = 0x96;
/// a ^ (!b & c).
const CHI: i32 = 0xd2;

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

/// The hashes, or `None` where the processor lacks AVX-512.
pub(super) fn keccak256(inputs: &[&[u8]; LANES]) -> Option<[B256; LANES]> {
    if !std::arch::is_x86_feature_detected!("avx512f") {
        return None;
    }
    // SAFETY: the processor has what the function is compiled for.
    Some(unsafe { sponge(inputs) })
}

/// Absorbs the inputs block by block; a lane whose input has ended is read and then ignored.
#[target_feature(enable = "avx512f")]
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
    let mut state = [_mm512_setzero_si512(); 25];
    let mut hashes = [B256::ZERO; LANES];
    let most = blocks.into_iter().max().unwrap_or_default();
    for at in 0..most {
        let block: [&[u8; RATE_BYTES]; LANES] =
            std::array::from_fn(|lane| inputs[lane].as_chunks().0.get(at).unwrap_or(&last[lane]));
        for (word, state) in (0..RATE_WORDS).zip(&mut state) {
            *state = _mm512_xor_si512(*state, gathered(&block, word));
        }
        permute(&mut state);
        if blocks.contains(&(at + 1)) {
            squeeze(&state, &mut hashes, |lane| blocks[lane] == at + 1);
        }
    }
    hashes
}

/// The same word of each lane's block.
#[target_feature(enable = "avx512f")]
fn gathered(block: &[&[u8; RATE_BYTES]; LANES], word: usize) -> __m512i {
    let of = |lane: usize| {
        let words: &[[u8; 8]] = block[lane].as_chunks().0;
        i64::from_le_bytes(words[word])
    };
    _mm512_set_epi64(of(7), of(6), of(5), of(4), of(3), of(2), of(1), of(0))
}

/// Reads the hashes of the lanes that `ended`.
#[target_feature(enable = "avx512f")]
fn squeeze(state: &[__m512i; 25], hashes: &mut [B256; LANES], ended: impl Fn(usize) -> bool) {
    for (at, register) in state.iter().take(HASH_WORDS).enumerate() {
        // SAFETY: both are 64 bytes for which every pattern is a value.
        let words: [u64; LANES] = unsafe { std::mem::transmute(*register) };
        for (lane, word) in words.into_iter().enumerate() {
            if ended(lane) {
                hashes[lane][8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
            }
        }
    }
}

/// Theta's difference, rho's rotation and pi's place: `from column bits => to` for each word.
macro_rules! rho_pi {
    ($a:ident, $d:ident, $b:ident: $($from:literal $x:literal $bits:literal => $to:literal;)*) => {
        $($b[$to] = _mm512_rol_epi64::<$bits>(_mm512_xor_si512($a[$from], $d[$x]));)*
    };
}

/// Keccak-f\[1600\] on eight states.
#[target_feature(enable = "avx512f")]
fn permute(a: &mut [__m512i; 25]) {
    let mut b = [_mm512_setzero_si512(); 25];
    for round in ROUNDS {
        let mut c = [_mm512_setzero_si512(); 5];
        for x in 0..5 {
            let three = _mm512_ternarylogic_epi64::<XOR>(a[x], a[x + 5], a[x + 10]);
            c[x] = _mm512_ternarylogic_epi64::<XOR>(three, a[x + 15], a[x + 20]);
        }
        let mut d = [_mm512_setzero_si512(); 5];
        for x in 0..5 {
            d[x] = _mm512_xor_si512(c[(x + 4) % 5], _mm512_rol_epi64::<1>(c[(x + 1) % 5]));
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
                a[row + x] = _mm512_ternarylogic_epi64::<CHI>(b[row + x], one, two);
            }
        }
        a[0] = _mm512_xor_si512(a[0], _mm512_set1_epi64(round.cast_signed()));
    }
}
