//! Eight lanes in one register: AVX-512 with its multiplications of 52 bits (IFMA).
//!
//! Everything here may run only where `available` said so; `lanes::recover` asks it. A function
//! that is neither compiled for these instructions nor inlined into one that is costs three-fold.

#![expect(unsafe_code, reason = "vector instructions have to be known to exist, and reinterpreted")]

use crate::crypto::recover::lanes::{
    chunk::{self, Chunk, Room},
    field::{self, Fe, Field, Limbs, Vectors},
    point::{self, Affine, Curve, Jacobian, Job, Shared},
    power, scalar,
    vector::{LANES, Lanes},
};
use std::{
    arch::x86_64::{
        __cpuid, __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_madd52hi_epu64,
        _mm512_madd52lo_epu64, _mm512_mask_blend_epi64, _mm512_permutex2var_epi64,
        _mm512_permutexvar_epi64, _mm512_set1_epi64, _mm512_setr_epi64, _mm512_slli_epi64,
        _mm512_srli_epi64, _mm512_sub_epi64, _mm512_testn_epi64_mask, _mm512_unpackhi_epi64,
        _mm512_unpacklo_epi64,
    },
    cell::RefCell,
    mem::transmute,
    sync::OnceLock,
};

/// Whether this processor has what the lanes need.
pub(super) fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512ifma")
}

/// Recovers a chunk in the way that suits the processor.
pub(super) fn run(chunk: &mut Chunk<'_>) {
    static STEPWISE: OnceLock<bool> = OnceLock::new();
    if *STEPWISE.get_or_init(wants_steps) { by_steps(chunk) } else { by_multiplications(chunk) }
}

/// Recovers a chunk by a function for each step of the ladder.
pub(super) fn by_steps(chunk: &mut Chunk<'_>) {
    thread_local!(static ROOM: RefCell<Room<Avx512<true>>> = RefCell::default());
    ROOM.with_borrow_mut(|room| run_in(chunk, room));
}

/// Recovers a chunk by a function for each multiplication.
pub(super) fn by_multiplications(chunk: &mut Chunk<'_>) {
    thread_local!(static ROOM: RefCell<Room<Avx512<false>>> = RefCell::default());
    ROOM.with_borrow_mut(|room| run_in(chunk, room));
}

fn run_in<const STEPWISE: bool>(chunk: &mut Chunk<'_>, room: &mut Room<Avx512<STEPWISE>>)
where
    Avx512<STEPWISE>: Curve,
{
    assert!(available(), "the lanes were chosen on a processor that has none");
    // SAFETY: the processor has what the function is compiled for.
    unsafe { compiled(chunk, room) }
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn compiled<const STEPWISE: bool>(chunk: &mut Chunk<'_>, room: &mut Room<Avx512<STEPWISE>>)
where
    Avx512<STEPWISE>: Curve,
{
    chunk::run(chunk, room);
}

/// Zen 4 (AMD's family 19h), which takes two cycles for each instruction of 512 bits: decoding
/// keeps up with it, and what functions hand over through memory costs it more. Where they take
/// one cycle, decoding seems to be the bound: the other way was a tenth faster on Zen 5.
fn wants_steps() -> bool {
    let leaf = __cpuid(0);
    let vendor = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
    let version = __cpuid(1).eax;
    let family = (version >> 8 & 0xf) + (version >> 20 & 0xff);
    vendor.as_flattened() == b"AuthenticAMD" && family == 0x19
}

/// A register. Values of it exist only under `run_in`, which has seen that the processor has them.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Avx512<const STEPWISE: bool>(__m512i);

/// One operation of the processor on registers.
macro_rules! operation {
    ($call:expr) => {{
        // SAFETY: a value of `Avx512` exists only where the processor has the instruction.
        Self(unsafe { $call })
    }};
}

impl<const STEPWISE: bool> Lanes for Avx512<STEPWISE> {
    #[inline(always)]
    fn splat(word: u64) -> Self {
        operation!(_mm512_set1_epi64(word.cast_signed()))
    }
    #[inline(always)]
    fn of(words: [u64; LANES]) -> Self {
        // SAFETY: both are 64 bytes for which every pattern is a value.
        Self(unsafe { transmute::<[u64; LANES], __m512i>(words) })
    }
    #[inline(always)]
    fn words(self) -> [u64; LANES] {
        // SAFETY: both are 64 bytes for which every pattern is a value.
        unsafe { transmute::<__m512i, [u64; LANES]>(self.0) }
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        operation!(_mm512_add_epi64(self.0, other.0))
    }
    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        operation!(_mm512_sub_epi64(self.0, other.0))
    }
    #[inline(always)]
    fn and(self, other: Self) -> Self {
        operation!(_mm512_and_si512(self.0, other.0))
    }
    #[inline(always)]
    fn left<const BITS: u32>(self) -> Self {
        operation!(_mm512_slli_epi64::<BITS>(self.0))
    }
    #[inline(always)]
    fn right<const BITS: u32>(self) -> Self {
        operation!(_mm512_srli_epi64::<BITS>(self.0))
    }
    #[inline(always)]
    fn low(self, a: Self, b: Self) -> Self {
        operation!(_mm512_madd52lo_epu64(self.0, a.0, b.0))
    }
    #[inline(always)]
    fn high(self, a: Self, b: Self) -> Self {
        operation!(_mm512_madd52hi_epu64(self.0, a.0, b.0))
    }
    #[inline(always)]
    fn choose(mask: u8, yes: Self, no: Self) -> Self {
        operation!(_mm512_mask_blend_epi64(mask, no.0, yes.0))
    }
    #[inline(always)]
    fn zeros(self) -> u8 {
        // SAFETY: a value of `Avx512` exists only where the processor has the instruction.
        unsafe { _mm512_testn_epi64_mask(self.0, self.0) }
    }
    #[inline(always)]
    fn turned(rows: [Self; LANES]) -> [Self; LANES] {
        // SAFETY: a value of `Avx512` exists only where the processor has the instructions.
        unsafe { turned(rows) }
    }
    #[inline(always)]
    fn swapped<const BY: usize>(self) -> Self {
        let from = Self::of(const { swaps(BY) });
        operation!(_mm512_permutexvar_epi64(from.0, self.0))
    }
}

/// The lane from which each takes its word.
const fn swaps(by: usize) -> [u64; LANES] {
    let mut from = [0, 1, 2, 3, 4, 5, 6, 7];
    let all: [u64; LANES] = from;
    let mut lane = 0;
    while lane < LANES {
        from[lane] = all[lane ^ by];
        lane += 1;
    }
    from
}

/// Pairs of words first, then pairs of those, then halves.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn turned<const STEPWISE: bool>(r: [Avx512<STEPWISE>; LANES]) -> [Avx512<STEPWISE>; LANES] {
    let low = |a: Avx512<STEPWISE>, b: Avx512<STEPWISE>| _mm512_unpacklo_epi64(a.0, b.0);
    let high = |a: Avx512<STEPWISE>, b: Avx512<STEPWISE>| _mm512_unpackhi_epi64(a.0, b.0);
    let pairs = [
        [low(r[0], r[1]), low(r[2], r[3]), low(r[4], r[5]), low(r[6], r[7])],
        [high(r[0], r[1]), high(r[2], r[3]), high(r[4], r[5]), high(r[6], r[7])],
    ];
    let even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    let odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    let first = _mm512_setr_epi64(0, 1, 2, 3, 8, 9, 10, 11);
    let last = _mm512_setr_epi64(4, 5, 6, 7, 12, 13, 14, 15);
    let mut out = r;
    for at in 0..2 {
        let [a, b, c, d] = pairs[at];
        let fours = [
            _mm512_permutex2var_epi64(a, even, b),
            _mm512_permutex2var_epi64(c, even, d),
            _mm512_permutex2var_epi64(a, odd, b),
            _mm512_permutex2var_epi64(c, odd, d),
        ];
        out[at] = Avx512(_mm512_permutex2var_epi64(fours[0], first, fours[1]));
        out[at + 2] = Avx512(_mm512_permutex2var_epi64(fours[2], first, fours[3]));
        out[at + 4] = Avx512(_mm512_permutex2var_epi64(fours[0], last, fours[1]));
        out[at + 6] = Avx512(_mm512_permutex2var_epi64(fours[2], last, fours[3]));
    }
    out
}

/// Implements a trait's methods by functions that are each compiled for the registers.
macro_rules! outlined {
    ($trait:ident for $register:ty {
        $($module:ident::$name:ident [$($n:ident)?] ($($arg:ident: $type:ty),*) $(-> $out:ty)?;)*
    }) => {
        impl $trait for $register {
            $(#[inline(always)]
            fn $name$(<const $n: usize>)?($($arg: $type),*) $(-> $out)? {
                #[inline(never)]
                #[target_feature(enable = "avx512f,avx512ifma")]
                fn compiled$(<const $n: usize>)?($($arg: $type),*) $(-> $out)? {
                    $module::$name($($arg),*)
                }
                // SAFETY: a value of `Avx512` exists only where the processor has what the
                // function is compiled for.
                unsafe { compiled($($arg),*) }
            })*
        }
    };
}

type Numbers<const N: usize> = Vectors<Avx512<false>, N>;
type One<const STEPWISE: bool> = Limbs<Avx512<STEPWISE>>;

outlined! {
    Field for Avx512<false> {
        field::mul [N] (a: &Numbers<N>, b: &Numbers<N>) -> Numbers<N>;
        field::mul_plus [N] (a: &Numbers<N>, b: &Numbers<N>, c: &Numbers<N>) -> Numbers<N>;
        field::mul_mul [N] (a: &Numbers<N>, b: &Numbers<N>, c: &Numbers<N>, d: &Numbers<N>)
            -> Numbers<N>;
        field::mul_sqr [N] (a: &Numbers<N>, b: &Numbers<N>, c: &Numbers<N>) -> Numbers<N>;
        field::sqr [N] (a: &Numbers<N>) -> Numbers<N>;
        field::sqr_plus [N] (a: &Numbers<N>, c: &Numbers<N>) -> Numbers<N>;
        field::sqr_times [N] (a: &Numbers<N>, times: usize) -> Numbers<N>;
        scalar::times [] (a: &One<false>, b: &One<false>) -> One<false>;
    }
}

impl Curve for Avx512<false> {}

outlined! {
    Field for Avx512<true> {
        scalar::times [] (a: &One<true>, b: &One<true>) -> One<true>;
    }
}

type Element<const N: usize> = Fe<Avx512<true>, N, 1>;
type Flat<const N: usize> = Affine<Avx512<true>, N>;
type Point<const N: usize> = Jacobian<Avx512<true>, N>;
type Share<const N: usize> = Shared<Avx512<true>, N>;

outlined! {
    Curve for Avx512<true> {
        power::root [N] (a: &mut Element<N>);
        power::inverse [N] (a: &Element<N>) -> Option<Element<N>>;
        point::double [N] (p: &mut Point<N>);
        point::add [N] (p: &mut Point<N>, q: &Flat<N>);
        point::begin [N] (
            points: &[Flat<N>],
            job: Job,
            product: &mut Element<N>,
            shared: &mut Share<N>
        );
        point::end [N] (
            points: &mut [Flat<N>],
            job: Job,
            inverse: &mut Element<N>,
            shared: &Share<N>
        );
    }
}
