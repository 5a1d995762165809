//! Powers and inverses: the square root, and one inversion for many numbers.

use crate::crypto::recover::lanes::{
    field::{Fe, Field, PRIME, numbers, swapped},
    vector::LANES,
};
use alloy_primitives::U256;

/// a^((p + 1) / 4), the square root where there is one, since p is 3 modulo 4. The exponent is
/// 223 ones, a zero, 22 ones, four zeros, two ones and two zeros; runs of ones are made from
/// shorter ones: 1 2 3 6 9 11 22 44 88 176 220 223.
#[inline(always)]
pub(super) fn root<V: Field, const N: usize>(a: &mut Fe<V, N, 1>) {
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
    *a = ones_223.sqr_times(23).mul(&ones_22).sqr_times(6).mul(&ones_2).sqr_times(2);
}

/// The inverse of each lane, by one inversion of all their product (Montgomery's trick); `None`
/// where one of them is zero.
#[inline(always)]
pub(super) fn inverse<V: Field, const N: usize>(a: &Fe<V, N, 1>) -> Option<Fe<V, N, 1>> {
    let one = Fe::<V, 1, 1>::splat(U256::ONE);
    // The product of the vectors before each, then of those after it as well.
    let mut others = [one; N];
    let mut product = one;
    for n in 0..N {
        others[n] = product;
        product = product.mul::<1>(&Fe([a.0[n]]));
    }
    let mut after = one;
    for n in (0..N).rev() {
        others[n] = others[n].mul(&after);
        after = after.mul::<1>(&Fe([a.0[n]]));
    }
    let beside = across::<V, 1>(&product);
    let two = product.mul(&beside);
    let beside_two = across::<V, 2>(&two);
    let four = two.mul(&beside_two);
    let beside_four = across::<V, 4>(&four);
    let all = four.mul(&beside_four);
    let [number, ..]: [U256; LANES] = numbers(all.canonical().0[0]);
    let inverse = Fe::<V, 1, 1>::splat(number.inv_mod(PRIME)?);
    let inverse = inverse.mul(&beside).mul(&beside_two.mul(&beside_four));
    let mut out = a.0;
    for n in 0..N {
        out[n] = inverse.mul(&others[n]).0[0];
    }
    Some(Fe(out))
}

/// Each lane takes the number of the lane whose own number differs in the bits `BY`.
#[inline(always)]
fn across<V: Field, const BY: usize>(a: &Fe<V, 1, 1>) -> Fe<V, 1, 1> {
    Fe([swapped::<V, BY>(&a.0[0])])
}
