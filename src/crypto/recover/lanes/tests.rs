//! The arithmetic against big integers, limbs at their limits, the model against the registers.

use crate::crypto::recover::{
    ORDER, Signed,
    lanes::{
        self, Verdict,
        chunk::{Chunk, Found, Given},
        digits::{DIGITS, NONE, STEPS, digits},
        field::{Fe, PRIME, Sum, limbs_of, numbers},
        generator::{self, BITS, POSITIONS, STEPS_AFTER, TABLES, place},
        model::{self, Model},
        point::{Affine, Jacobian},
        power,
        scalar::{self, Scalars, multipliers},
        vector::{LANES, Lanes, MASK_52},
    },
    one,
    tests::crafted,
};
use alloy_primitives::{Address, U256, keccak256, uint};
use proptest::{array::uniform8, prelude::*};
use secp256k1::{Message, SECP256K1, SecretKey};

type Number = Fe<Model, 1, 1>;

fn number() -> impl Strategy<Value = U256> {
    let random = any::<[u64; 4]>().prop_map(|limbs| U256::from_limbs(limbs) % PRIME);
    let small = any::<u8>().prop_map(U256::from);
    let large = any::<u8>().prop_map(|below| PRIME - U256::from(1 + u64::from(below)));
    // Long runs of ones make carries go far.
    let ones = (0..256usize).prop_map(|bits| (U256::MAX >> bits) % PRIME);
    let shifted = (0..256usize).prop_map(|bits| (U256::MAX << bits) % PRIME);
    prop_oneof![4 => random, 1 => small, 1 => large, 1 => ones, 1 => shifted]
}

fn vector(numbers: [U256; LANES]) -> Number {
    let limbs = numbers.map(limbs_of);
    Fe([std::array::from_fn(|limb| Model::of(limbs.map(|limbs| limbs[limb])))])
}

fn read(fe: &Number) -> [U256; LANES] {
    numbers(fe.canonical().0[0])
}

/// What limbs are worth modulo p, whether or not they are carried.
fn worth(limbs: &[Model; 5]) -> [U256; LANES] {
    let words = limbs.map(Model::words);
    std::array::from_fn(|lane| {
        words.iter().rev().fold(U256::ZERO, |sum, word| {
            let shifted = sum.mul_mod(U256::ONE << 52, PRIME);
            shifted.add_mod(U256::from(word[lane]), PRIME)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_field_agrees_with_big_integers(
        a in uniform8(number()),
        b in uniform8(number()),
        c in uniform8(number()),
    ) {
        let (x, y, z) = (vector(a), vector(b), vector(c));
        let each = |of: &dyn Fn(U256, U256, U256) -> U256| -> [U256; LANES] {
            std::array::from_fn(|lane| of(a[lane], b[lane], c[lane]))
        };
        let mul = |a: U256, b: U256| a.mul_mod(b, PRIME);
        let add = |a: U256, b: U256| a.add_mod(b, PRIME);
        let neg = |a: U256| (PRIME - a) % PRIME;
        prop_assert_eq!(read(&x), a);
        prop_assert_eq!(read(&x.mul(&y)), each(&|a, b, _| mul(a, b)));
        prop_assert_eq!(read(&x.sqr()), each(&|a, _, _| mul(a, a)));
        prop_assert_eq!(read(&x.mul_plus(&y, &z.sum())), each(&|a, b, c| add(mul(a, b), c)));
        prop_assert_eq!(read(&x.sqr_plus(&z.sum())), each(&|a, _, c| add(mul(a, a), c)));
        prop_assert_eq!(
            read(&x.mul_mul(&y, &z, &x)),
            each(&|a, b, c| add(mul(a, b), mul(c, a)))
        );
        prop_assert_eq!(read(&x.mul_sqr(&y, &z)), each(&|a, b, c| add(mul(a, b), mul(c, c))));
        prop_assert_eq!(read(&x.sum().plus::<1, 2>(&y.sum()).tight()), each(&|a, b, _| add(a, b)));
        prop_assert_eq!(
            read(&x.sum().minus::<1, 3>(&y.sum()).tight()),
            each(&|a, b, _| add(a, neg(b)))
        );
        prop_assert_eq!(read(&x.sum().negated::<2>().tight()), each(&|a, _, _| neg(a)));
        let carried: Fe<Model, 1, 6> = x.sum().minus::<1, 3>(&y.sum()).twice::<6>().carried();
        prop_assert_eq!(worth(&carried.0[0]), each(&|a, b, _| mul(U256::from(2), add(a, neg(b)))));
        prop_assert_eq!(x.zeros(), [mask(a.map(|a| a.is_zero()))]);
        prop_assert_eq!(x.evens(), [mask(a.map(|a| !a.bit(0)))]);
    }

    #[test]
    fn roots_and_inverses_agree_with_big_integers(a in uniform8(number())) {
        let fourth = (PRIME + U256::ONE) >> 2;
        let mut root = vector(a);
        power::root(&mut root);
        prop_assert_eq!(read(&root), a.map(|a| a.pow_mod(fourth, PRIME)));
        let inverse = power::inverse(&Fe::<Model, 2, 1>([vector(a).0[0]; 2]));
        let expected = a.map(|a| a.inv_mod(PRIME));
        match inverse {
            Some(inverse) => {
                prop_assert_eq!(numbers(inverse.canonical().0[1]).map(Some), expected);
            }
            None => prop_assert!(expected.contains(&None)),
        }
    }

    #[test]
    fn multipliers_agree_with_big_integers(
        all in prop::collection::vec((number(), number(), number()), 1..20)
    ) {
        let fit = |number: U256| (number % (ORDER - U256::ONE)) + U256::ONE;
        let scalars: Vec<Scalars> = all
            .iter()
            .map(|(hash, r, s)| Scalars { hash: *hash, r: fit(*r), s: fit(*s) })
            .collect();
        let mut found = Vec::new();
        multipliers::<Model>(&scalars, &mut found);
        prop_assert_eq!(found.len(), scalars.len());
        for (scalars, found) in scalars.iter().zip(&found) {
            let inverse = scalars.r.inv_mod(ORDER).unwrap();
            let u1 = inverse.mul_mod(ORDER - scalars.hash % ORDER, ORDER);
            prop_assert_eq!(worth_of_digits(&found.generator), u1);
            let u2 = inverse.mul_mod(scalars.s, ORDER);
            let mut codes = found.point.below.to_vec();
            codes.push(found.point.first);
            let sum = codes.iter().rev().fold(U256::ZERO, |sum, code| {
                sum.mul_mod(U256::from(8), ORDER).add_mod(worth_of(*code), ORDER)
            });
            prop_assert_eq!(sum, u2);
        }
    }
}

/// x and y.
type Point = (U256, U256);

fn product(a: U256, b: U256) -> U256 {
    a.mul_mod(b, PRIME)
}

fn difference(a: U256, b: U256) -> U256 {
    a.add_mod(PRIME - b, PRIME)
}

/// P + Q as every textbook has it, `None` for infinity.
fn sum((x, y): Point, (other_x, other_y): Point) -> Option<Point> {
    let (rise, run) = if (x, y) == (other_x, other_y) {
        (product(U256::from(3), product(x, x)), y.add_mod(y, PRIME))
    } else {
        (difference(other_y, y), difference(other_x, x))
    };
    let slope = product(rise, run.inv_mod(PRIME)?);
    let sum_x = difference(difference(product(slope, slope), x), other_x);
    Some((sum_x, difference(product(slope, difference(x, sum_x)), y)))
}

fn negative((x, y): Point) -> Point {
    (x, PRIME - y)
}

fn point() -> impl Strategy<Value = Point> {
    (number(), any::<bool>()).prop_filter_map("no point has this x", |(x, odd)| {
        let square = product(product(x, x), x).add_mod(U256::from(7), PRIME);
        let y = square.pow_mod((PRIME + U256::ONE) >> 2, PRIME);
        let y = if y.bit(0) == odd { y } else { PRIME - y };
        (product(y, y) == square).then_some((x, y))
    })
}

fn flat(points: [Point; LANES]) -> Affine<Model, 1> {
    Affine { x: vector(points.map(|p| p.0)), v: vector(points.map(|p| p.1.add_mod(p.1, PRIME))) }
}

/// x and v = 2y as a point.
fn halved(x: U256, v: U256) -> Point {
    (x, product(v, U256::from(2).inv_mod(PRIME).unwrap()))
}

fn read_flat(points: &Affine<Model, 1>) -> [Point; LANES] {
    let (x, v) = (read(&points.x), read(&points.v));
    std::array::from_fn(|lane| halved(x[lane], v[lane]))
}

fn read_point(points: &Jacobian<Model, 1>) -> [Option<Point>; LANES] {
    let (x, v, z) = (read(&points.x), read(&points.v), read(&points.z));
    std::array::from_fn(|lane| {
        let inverse = z[lane].inv_mod(PRIME)?;
        let square = product(inverse, inverse);
        Some(halved(product(x[lane], square), product(v[lane], product(square, inverse))))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_ladders_points_agree_with_big_integers(
        p in uniform8(point()),
        mut q in uniform8(point()),
        z in uniform8(number().prop_filter("not zero", |z| !z.is_zero())),
    ) {
        // Equal and opposite points are those that the formula cannot add.
        q[5] = p[5];
        q[6] = negative(p[6]);
        let square = z.map(|z| product(z, z));
        let points = flat(p);
        let at = Jacobian {
            x: points.x.mul(&vector(square)),
            v: points.v.mul(&vector(std::array::from_fn(|lane| product(square[lane], z[lane])))),
            z: vector(z),
        };
        prop_assert_eq!(read_point(&at), p.map(Some));
        let doubled = std::array::from_fn(|lane| sum(p[lane], p[lane]).map(negative));
        prop_assert_eq!(read_point(&at.double()), doubled);
        let added = at.add(&flat(q));
        let expected: [Option<Point>; LANES] = std::array::from_fn(|lane| {
            sum(p[lane], q[lane]).map(negative).filter(|_| p[lane] != q[lane])
        });
        prop_assert_eq!(read_point(&added), expected);
        // What went wrong once stays known.
        for later in [added.double(), added.double().add(&flat(p)), added.add(&flat(q))] {
            let later = read_point(&later);
            prop_assert!(later[5].is_none() && later[6].is_none());
        }
    }

    #[test]
    fn the_tables_points_agree_with_big_integers(
        p in uniform8(point()),
        q in uniform8(point()),
    ) {
        prop_assume!((0..LANES).all(|lane| p[lane].0 != q[lane].0));
        let (a, b) = (flat(p), flat(q));
        let inverse = |numbers: [U256; LANES]| vector(numbers.map(|n| n.inv_mod(PRIME).unwrap()));
        let each = |of: &dyn Fn(Point, Point) -> Option<Point>| -> [Point; LANES] {
            std::array::from_fn(|lane| of(p[lane], q[lane]).unwrap())
        };
        let over = inverse(worth(&a.divisor(&b).0[0]));
        prop_assert_eq!(read_flat(&a.add(&b, &over)), each(&sum));
        prop_assert_eq!(read_flat(&b.subtract(&a, &over)), each(&|p, q| sum(q, negative(p))));
        let over = inverse(read(&a.v));
        prop_assert_eq!(read_flat(&a.double(&over)), each(&|p, _| sum(p, p)));
    }
}

fn mask(lanes: [bool; LANES]) -> u8 {
    lanes.iter().enumerate().map(|(lane, set)| u8::from(*set) << lane).sum()
}

/// A signed number modulo n.
fn signed(number: i64) -> U256 {
    let size = U256::from(number.unsigned_abs());
    if number < 0 { ORDER - size } else { size }
}

/// The number whose digits these are, modulo n.
fn worth_of_digits(digits: &generator::Digits) -> U256 {
    let each = digits.iter().enumerate().map(|(position, sum)| worth_of_sum(position, sum));
    each.fold(U256::ZERO, |sum, one| sum.add_mod(one, ORDER))
}

fn worth_of_sum(position: usize, digits: &[u16; TABLES]) -> U256 {
    let each = digits.iter().enumerate().map(|(table, digit)| {
        let weight = U256::from(2).pow_mod(U256::from(BITS * place(position, table)), ORDER);
        signed(2 * i64::from(*digit) - 2047).mul_mod(weight, ORDER)
    });
    each.fold(U256::ZERO, |sum, one| sum.add_mod(one, ORDER))
}

/// A digit modulo n: w is a cube root of one.
fn worth_of(code: u8) -> U256 {
    if code == NONE {
        return U256::ZERO;
    }
    let w = uint!(0x5363ad4cc05c30e0a5261c028812645a122e22ea20816678df02967c1b23bd72_U256);
    let (a, b) = DIGITS[usize::from(code >> 3)];
    let mut digit = signed(a.into()).add_mod(w.mul_mod(signed(b.into()), ORDER), ORDER);
    for _ in 0..code >> 1 & 3 {
        digit = digit.mul_mod(w, ORDER);
    }
    if code & 1 == 1 { ORDER - digit } else { digit }
}

#[test]
fn multipliers_at_the_edges_have_digits() {
    let edges = (0..300).flat_map(|at| {
        let part = ORDER / U256::from(at + 1);
        [U256::from(at), ORDER - U256::from(at + 1), part, part + U256::ONE, part * U256::from(2)]
    });
    for multiplier in edges.map(|edge| edge % ORDER) {
        assert_eq!(worth_of_digits(&generator::digits(multiplier)), multiplier);
        let [found, other] = digits([multiplier, ORDER - U256::ONE]);
        assert_eq!(other, digits([ORDER - U256::ONE])[0]);
        let codes = std::iter::once(&found.first).chain(found.below.iter().rev());
        let sum = codes.fold(U256::ZERO, |sum, code| {
            sum.mul_mod(U256::from(8), ORDER).add_mod(worth_of(*code), ORDER)
        });
        assert_eq!(sum, multiplier);
    }
}

/// Limbs as large as the types allow, in every combination of large and zero.
fn extremes(top: u64) -> Vec<[u64; 5]> {
    let limb = |at: usize, set: bool| match (set, at) {
        (false, _) => 0,
        (true, 4) => top,
        (true, _) => MASK_52,
    };
    (0..32).map(|mask: usize| std::array::from_fn(|at| limb(at, mask >> at & 1 == 1))).collect()
}

fn splat(limbs: [u64; 5]) -> [[Model; 5]; 1] {
    [limbs.map(Model::splat)]
}

/// The debug assertions inside see what overflows on the way.
#[test]
fn limbs_at_their_limits_lose_no_bit() {
    const TOP: u64 = (1 << 48) + (1 << 6);
    let worth = |limbs: &[[Model; 5]; 1]| worth(&limbs[0])[0];
    for a in extremes(TOP) {
        for b in extremes(TOP * 6) {
            // Magnitudes 1 and 6, added to what 16 sums of the largest leave.
            let (x, y) = (Fe::<Model, 1, 1>(splat(a)), Fe::<Model, 1, 6>(splat(b)));
            let large = 16 * MASK_52;
            let large = Sum::<Model, 1, 16>(splat([large, large, large, large, 16 << 48]));
            let product = x.mul_plus(&y, &large);
            let expected = worth(&x.0).mul_mod(worth(&y.0), PRIME);
            let expected = expected.add_mod(worth(&large.0), PRIME);
            assert_eq!(worth(&product.0), expected, "{a:x?} {b:x?}");
            assert!(product.0[0][4].words()[0] <= TOP, "{a:x?} {b:x?}");
            let slope = Fe::<Model, 1, 3>(splat([a[0], a[1], a[2], a[3], 3 * a[4]]));
            let both = slope.mul_sqr(&y, &x);
            let expected = worth(&slope.0).mul_mod(worth(&y.0), PRIME);
            let square = worth(&x.0).mul_mod(worth(&x.0), PRIME);
            assert_eq!(worth(&both.0), expected.add_mod(square, PRIME), "{a:x?} {b:x?}");
            assert!(both.0[0][4].words()[0] <= TOP, "{a:x?} {b:x?}");
        }
        let x = Fe::<Model, 1, 1>(splat(a));
        let expected = worth(&x.0);
        assert_eq!(numbers(x.canonical().0[0])[0], expected, "{a:x?}");
        let zero = Fe::<Model, 1, 1>(splat([0; 5]));
        let difference = zero.sum().minus::<1, 3>(&x.sum());
        assert!(difference.0[0].iter().all(|limb| limb.words()[0] < 1 << 55), "{a:x?} borrows");
        assert_eq!(worth(&difference.0), (PRIME - expected) % PRIME, "{a:x?}");
        assert_eq!(x.zeros()[0] == u8::MAX, expected.is_zero(), "{a:x?}");
    }
}

fn given(count: u64) -> Vec<Given> {
    let number = |what: &str, at: u64| -> U256 {
        U256::from_be_bytes(keccak256(format!("{what} {at}")).0) % ORDER
    };
    let one = |at| {
        let scalars = Scalars { hash: number("hash", at), r: number("r", at), s: number("s", at) };
        Given { x: scalars.r, odd: at % 2 == 0, scalars }
    };
    (0..count).map(one).collect()
}

#[test]
fn scalars_at_their_limits_lose_no_bit() {
    let number = |limbs: [u64; 5]| {
        limbs.iter().rev().fold(U256::ZERO, |sum, limb| {
            sum.mul_mod(U256::ONE << 52, ORDER).add_mod(U256::from(*limb), ORDER)
        })
    };
    let over = U256::from(2).pow_mod(U256::from(260), ORDER).inv_mod(ORDER).unwrap();
    let all = extremes((1 << 49) - 1);
    for a in &all {
        for b in &all {
            let found = scalar::times(&splat(*a)[0], &splat(*b)[0]).map(|limb| limb.words()[0]);
            let expected = number(*a).mul_mod(number(*b), ORDER).mul_mod(over, ORDER);
            assert_eq!(number(found), expected, "{a:x?} {b:x?}");
            let fits = found[..4].iter().all(|limb| *limb <= MASK_52) && found[4] < 1 << 49;
            assert!(fits, "{a:x?} {b:x?}: {found:x?}");
        }
    }
}

/// Without optimisation the model keeps every vector of a whole recovery on the stack.
fn by_model(given: &[Given]) -> Vec<Found> {
    let mut found = Vec::with_capacity(given.len());
    lanes::on_a_large_stack(|| model::run(&mut Chunk { given, found: &mut found }));
    found
}

/// Of every second x there is a point, so the two differ in more than keys.
#[test]
fn the_model_finds_what_the_registers_find() {
    for count in [1, 8, 25] {
        let given = given(count);
        let found = by_model(&given);
        assert_eq!(found.len(), given.len());
        #[cfg(target_arch = "x86_64")]
        if lanes::available() {
            for run in [lanes::avx512::by_multiplications, lanes::avx512::by_steps] {
                let mut other = Vec::new();
                let mut chunk = Chunk { given: &given, found: &mut other };
                lanes::on_a_large_stack(|| run(&mut chunk));
                assert_eq!(found, other);
            }
        }
    }
}

/// Signatures of keys, and such as nobody made: with every id, of which few have a key.
#[test]
fn the_model_finds_what_libsecp256k1_finds() {
    let random = |what: &str, at: u64| keccak256(format!("{what} {at}"));
    let by_key = (0..15).map(|at| {
        let key = SecretKey::from_byte_array(random("key", at).0).unwrap();
        let hash = random("hash", at);
        let signature = SECP256K1.sign_ecdsa_recoverable(Message::from_digest(hash.0), &key);
        let (id, bytes) = signature.serialize_compact();
        let r = U256::from_be_slice(&bytes[..32]);
        let s = U256::from_be_slice(&bytes[32..]);
        Signed { hash, r, s, id: u8::try_from(i32::from(id)).unwrap() }
    });
    let by_chance = (0..16).map(|at| {
        // Only an r of few bits leaves room for the group's order.
        let r = U256::from_be_bytes(random("r", at).0) >> if at % 4 < 2 { 0 } else { 132 };
        let s = U256::from_be_bytes(random("s", at).0);
        Signed { hash: random("hash", at), r, s, id: u8::try_from(at % 4).unwrap() }
    });
    let signed: Vec<Signed> = by_key.chain(by_chance).collect();
    let verdicts = lanes::recover_by_model(&signed);
    for (signed, verdict) in signed.iter().zip(&verdicts) {
        assert_ne!(*verdict, Verdict::Unsure);
        let address = verdict.key().map(|key| Address::from_slice(&keccak256(key)[12..]));
        assert_eq!(address, one::signer(signed), "{signed:?}");
    }
    assert!(verdicts.contains(&Verdict::NoKey));
}

/// Where a sum of the generator's multiples joins the ladder, or the first digit the first sum,
/// R can be chosen so that both are the same point, or opposite ones.
#[test]
fn sums_that_meet_themselves_are_left_to_libsecp256k1() {
    let number = |what: &str| U256::from_be_bytes(keccak256(what).0) % ORDER;
    let (u1, u2) = (number("u1"), number("u2"));
    let [of_point] = digits([u2]);
    assert_ne!(of_point.first, NONE);
    let codes = of_point.below.iter().chain([&of_point.first]);
    let codes: Vec<U256> = codes.map(|code| worth_of(*code)).collect();
    // A sum is made as if it were the lowest, and doubled to its place.
    let scale = U256::from(8).pow_mod(U256::from(STEPS_AFTER[0]), ORDER).inv_mod(ORDER).unwrap();
    let sums = generator::digits(u1).map(|sum| worth_of_sum(0, &sum).mul_mod(scale, ORDER));
    let mut signed = Vec::new();
    for position in 0..POSITIONS {
        let after = STEPS_AFTER[position];
        let eights = |steps: usize| U256::from(8).pow_mod(U256::from(steps), ORDER);
        let each = (position + 1..POSITIONS)
            .map(|above| sums[above].mul_mod(eights(STEPS_AFTER[above] - after), ORDER));
        let held = each.fold(U256::ZERO, |held, one| held.add_mod(one, ORDER));
        let each = (after..=STEPS).map(|step| codes[step].mul_mod(eights(step - after), ORDER));
        let times = each.fold(U256::ZERO, |times, one| times.add_mod(one, ORDER));
        for joins in [sums[position], ORDER - sums[position]] {
            let of_point = joins.add_mod(ORDER - held, ORDER);
            let secret = of_point.mul_mod(times.inv_mod(ORDER).unwrap(), ORDER);
            signed.push(crafted(secret, u1, u2));
        }
    }
    let verdicts = lanes::recover_by_model(&signed);
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Unsure), "{verdicts:?}");
}

/// A carry that is lost in one lane of one number is seen in that lane and in no other.
#[test]
fn a_planted_wrong_carry_is_found() {
    let good = vector([PRIME - U256::from(2); LANES]);
    let mut planted = good;
    let mut words = planted.0[0][1].words();
    words[5] ^= 1 << 51;
    planted.0[0][1] = Model::of(words);
    let (mut good, mut planted) = (good.sqr(), planted.sqr());
    power::root(&mut good);
    power::root(&mut planted);
    for (lane, (good, planted)) in read(&good).iter().zip(read(&planted)).enumerate() {
        assert_eq!(*good != planted, lane == 5);
    }
    let given = given(9);
    let mut wrong = given.clone();
    wrong[3].scalars.hash ^= U256::ONE << 77;
    for (at, (one, other)) in by_model(&given).iter().zip(by_model(&wrong)).enumerate() {
        assert_eq!(*one != other, at == 3 && *one != Found::NoPoint);
    }
}
