//! Powers and inverses: the square root, and one inversion for many numbers.

use crate::crypto::recover::lanes::{
    field::{Fe, PRIME, numbers, swapped},
    point::Curve,
    vector::{LANES, Lanes},
};
use alloy_primitives::U256;

/// a^((p + 1) / 4), the square root where there is one, since p is 3 modulo 4. The exponent is
/// 223 ones, a zero, 22 ones, four zeros, two ones and two zeros; runs of ones are made from
/// shorter ones: 1 2 3 6 9 11 22 44 88 176 220 223.
#[inline(always)]
pub(super) fn root<V: Lanes, const N: usize>(a: &Fe<V, N, 1>) -> Fe<V, N, 1> {
    let ones_2 = a.sqr().mul(a);
    let ones_3 = ones_2.sqr().mul(a);
    let ones_6 = ones_3.sqr_times(3).mul(&ones_3);
    let ones_9 = ones_6.sqr_times(3).mul(&ones_3);
    let ones_11 = ones_9.sqr_times(2).mul(&ones_2);
    let ones_22 = ones_11.sqr_times(11).mul(&ones_11);
    let ones_44 = ones_22.sqr_times(22).mul(&ones_22);
    let ones_88 = ones_44.sqr_times(44).mul(&ones_44);
    let ones_176 = ones_88.sqr_times(88).mul(&ones_88);
    let ones_220 = ones_176.sqr_times(44).mul(&ones_44);
    let ones_223 = ones_220.sqr_times(3).mul(&ones_3);
    ones_223.sqr_times(23).mul(&ones_22).sqr_times(6).mul(&ones_2).sqr_times(2)
}

/// The inverse of each lane, by one inversion of all their product (Montgomery's trick); `None`
/// where one of them is zero.
#[inline(always)]
pub(super) fn inverse<V: Curve, const N: usize>(a: &Fe<V, N, 1>) -> Option<Fe<V, N, 1>> {
    let one = Fe::<V, 1, 1>::splat(U256::ONE);
    // The product of the vectors before each, then of those after it as well.
    let mut others = [one; N];
    let mut product = one;
    for n in 0..N {
        others[n] = product;
        product = V::mul_one(&product, &Fe([a.0[n]]));
    }
    let mut after = one;
    for n in (0..N).rev() {
        others[n] = V::mul_one(&others[n], &after);
        after = V::mul_one(&after, &Fe([a.0[n]]));
    }
    let beside = Fe([swapped::<V, 1>(&product.0[0])]);
    let two = V::mul_one(&product, &beside);
    let beside_two = Fe([swapped::<V, 2>(&two.0[0])]);
    let four = V::mul_one(&two, &beside_two);
    let beside_four = Fe([swapped::<V, 4>(&four.0[0])]);
    let all = V::mul_one(&four, &beside_four);
    let [number, ..]: [U256; LANES] = numbers(all.canonical().0[0]);
    let inverse = Fe::<V, 1, 1>::splat(number.inv_mod(PRIME)?);
    let inverse =
        V::mul_one(&V::mul_one(&inverse, &beside), &V::mul_one(&beside_two, &beside_four));
    let mut out = a.0;
    for n in 0..N {
        out[n] = V::mul_one(&inverse, &others[n]).0[0];
    }
    Some(Fe(out))
}
