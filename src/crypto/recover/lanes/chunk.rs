//! The way of a chunk of signatures through the lanes.
//!
//! 1. lift: the points R from their x  2. three levels of affine additions, whose divisors share
//!    one inversion each: multiples of R for its table, sums of the generator's multiples
//! 3. climb: Q = u1 G + u2 R  4. one more inversion: Q's coordinates
//!
//! Affine additions here never meet equal or opposite points. Of R they add small multiples, and n
//! is prime. Of the generator, but for what all points of a sum are multiplied by, they add
//! numbers below 2^166 in size, of which the one with the lower digit is divisible by fewer twos.
//! So no divisor is zero; would one be, the whole chunk says so and nothing is taken from it.

use crate::crypto::recover::lanes::{
    digits::{Code, ENTRIES, NONE, STEPS},
    field::{Fe, numbers, packed, unpacked},
    generator::{POSITIONS, STEPS_AFTER, TABLES, Table},
    point::{Affine, Curve, Jacobian, Job, Shared},
    scalar::{Multipliers, Scalars, multipliers},
    vector::LANES,
};
use alloy_primitives::{U256, uint};

/// What the lanes need of one signature.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given {
    /// x of R, below p.
    pub(super) x: U256,
    /// y of R is odd.
    pub(super) odd: bool,
    pub(super) scalars: Scalars,
}

/// The same, with the digits of what it multiplies.
struct Task {
    x: U256,
    odd: bool,
    multipliers: Multipliers,
}

/// What the lanes found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The key's coordinates, big-endian.
    Key([u8; 64]),
    /// No point has this x.
    NoPoint,
    /// An addition met equal or opposite points: ask libsecp256k1.
    Unsure,
}

/// Signatures on their way, and what was found for each in their order.
pub(super) struct Chunk<'a> {
    pub(super) given: &'a [Given],
    pub(super) found: &'a mut Vec<Found>,
}

/// b, a cube root of one modulo p: w(x, y) = (b x, y).
const CUBE_ROOT: U256 =
    uint!(0x7ae96a2b657c07106e64479eac3434e99cf0497512f58995c1396c28719501ee_U256);
/// 1 / 2 modulo p.
const HALF: U256 = uint!(0x7fffffffffffffffffffffffffffffffffffffffffffffffffffffff7ffffe18_U256);
const GENERATOR_X: U256 =
    uint!(0x79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798_U256);
const GENERATOR_Y: U256 =
    uint!(0x483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8_U256);

/// Where the points of N vectors of signatures lie: multiples of R, of w R and its like, of the
/// generator.
const TURNED: usize = ENTRIES;
const SUMS: usize = TURNED + 4;
const POINTS: usize = SUMS + POSITIONS * TABLES;

/// After the digits: w R, w^2 R, then w^2 and w times (1 - w) R.
const W: usize = TURNED;
const W2: usize = TURNED + 1;
const THETA_W2: usize = TURNED + 2;
const THETA_W: usize = TURNED + 3;

/// Levels of additions.
const LEVELS: usize = 3;

/// `digits::DIGITS`, level by level.
const DIGIT_JOBS: [&[Job]; LEVELS] = [
    &[Job::Subtract(0, W, 1), Job::Double(0, 2)],
    &[
        Job::Subtract(2, W, 3),
        Job::Subtract(2, W2, 4),
        Job::Add(2, 0, 5),
        Job::Double(1, 6),
        Job::Add(2, 1, 7),
        Job::Subtract(2, THETA_W2, 8),
        Job::Double(2, 9),
    ],
    &[Job::Add(9, THETA_W, 10), Job::Double(9, 11)],
];

/// What is added among the points of each sum, level by level, to the first of the two.
const SUM_JOBS: [&[(usize, usize)]; LEVELS] = [&[(0, 1), (2, 3), (4, 5)], &[(0, 2)], &[(0, 4)]];

/// Additions in a level.
const fn jobs(level: usize) -> usize {
    DIGIT_JOBS[level].len() + POSITIONS * SUM_JOBS[level].len()
}

/// The most additions of a level are those of the first.
const JOBS_MAX: usize = jobs(0);
const _: () = assert!(JOBS_MAX >= jobs(1) && JOBS_MAX >= jobs(2));

/// Room for a chunk's points, used again by the next: it is too large to be had anew each time.
pub(super) struct Room<V> {
    pairs: Groups<V, 2>,
    single: Groups<V, 1>,
}

/// What becomes of each group of N vectors.
struct Groups<V, const N: usize> {
    points: Vec<Affine<V, N>>,
    /// Of one level of additions.
    shared: Vec<Shared<V, N>>,
    sums: Vec<Jacobian<V, N>>,
    no_point: Vec<[u8; N]>,
}

impl<V> Default for Room<V> {
    fn default() -> Self {
        Self { pairs: Groups::default(), single: Groups::default() }
    }
}

impl<V, const N: usize> Default for Groups<V, N> {
    fn default() -> Self {
        Self { points: Vec::new(), shared: Vec::new(), sums: Vec::new(), no_point: Vec::new() }
    }
}

/// Recovers all of a chunk: pairs of vectors in step, and one that is left over by itself.
#[inline(always)]
pub(super) fn run<V: Curve>(chunk: &mut Chunk<'_>, room: &mut Room<V>) {
    let tasks = tasks::<V>(chunk.given);
    let vectors = tasks.len().div_ceil(LANES);
    let paired = tasks.len().min(vectors / 2 * 2 * LANES);
    let (pairs, last) = tasks.split_at(paired);
    if !pairs.is_empty() {
        room.pairs.run(pairs, chunk.found);
    }
    if !last.is_empty() {
        room.single.run(last, chunk.found);
    }
}

/// What is given, with the digits of u1 and u2.
#[inline(always)]
fn tasks<V: Curve>(given: &[Given]) -> Vec<Task> {
    let mut scalars = Vec::with_capacity(given.len());
    scalars.extend(given.iter().map(|given| given.scalars));
    let mut all = Vec::with_capacity(given.len());
    multipliers::<V>(&scalars, &mut all);
    let given = given.iter().zip(all);
    given
        .map(|(Given { x, odd, .. }, multipliers)| Task { x: *x, odd: *odd, multipliers })
        .collect()
}

impl<V: Curve, const N: usize> Groups<V, N> {
    #[inline(always)]
    fn run(&mut self, tasks: &[Task], found: &mut Vec<Found>) {
        let zero = Fe::<V, N, 1>::splat(U256::ZERO);
        let groups = tasks.len().div_ceil(LANES * N);
        let Self { points, shared, sums, no_point } = self;
        points.resize(groups * POINTS, Affine { x: zero, v: zero });
        shared.resize(groups * JOBS_MAX, Shared { divisor: zero.relaxed(), before: zero });
        sums.resize(groups, Jacobian { x: zero, v: zero, z: zero });
        no_point.resize(groups, [0; N]);
        let each = points.chunks_mut(POINTS).zip(tasks.chunks(LANES * N));
        for ((points, tasks), no_point) in each.zip(&mut *no_point) {
            *no_point = lift(points, tasks);
        }
        for level in 0..LEVELS {
            if !add_affine(points, level, shared) {
                found.extend(tasks.iter().map(|_| Found::Unsure));
                return;
            }
        }
        let each = points.chunks(POINTS).zip(tasks.chunks(LANES * N));
        for ((points, tasks), sum) in each.zip(&mut *sums) {
            climb(points, tasks, sum);
        }
        finish(no_point, sums, (tasks, found));
    }
}

/// The task of a lane; lanes without one repeat the last.
#[inline(always)]
fn task<const N: usize>(tasks: &[Task], n: usize, lane: usize) -> &Task {
    &tasks[(n * LANES + lane).min(tasks.len() - 1)]
}

/// R from its x, and the generator's multiples; the lanes where no R has this x.
#[inline(always)]
fn lift<V: Curve, const N: usize>(points: &mut [Affine<V, N>], tasks: &[Task]) -> [u8; N] {
    let mut words = [[[0; LANES]; 4]; N];
    let mut odd = [0; N];
    for n in 0..N {
        for lane in 0..LANES {
            let task = task::<N>(tasks, n, lane);
            for (word, limb) in words[n].iter_mut().zip(task.x.as_limbs()) {
                word[lane] = *limb;
            }
            odd[n] |= u8::from(task.odd) << lane;
        }
    }
    let mut x = Fe::<V, N, 1>::splat(GENERATOR_X);
    let generator = Affine { x, v: Fe::splat(GENERATOR_Y).sum().twice::<2>().tight() };
    for n in 0..N {
        let [a, b, c, d] = words[n];
        x.0[n] = unpacked([V::of(a), V::of(b), V::of(c), V::of(d)]);
    }
    let square = x.sqr().mul_plus(&x, &Fe::splat(U256::from(7)).sum());
    let mut y = square;
    V::root(&mut y);
    let y = y.canonical();
    let on_curve = y.sqr().sum().minus::<1, 3>(&square.sum()).tight().zeros();
    let mut no_point = [0; N];
    let mut same = y.evens();
    for n in 0..N {
        no_point[n] = !on_curve[n];
        same[n] ^= odd[n];
    }
    let y = Fe::choose(same, &y, &y.sum().negated::<2>().tight());
    let v = y.sum().twice::<2>().tight();
    // What follows wants points of the curve, also where there is none.
    let x = Fe::choose(on_curve, &x, &generator.x);
    let v = Fe::choose(on_curve, &v, &generator.v);
    points[0] = Affine { x, v };
    points[W].v = v;
    points[W2].v = v;
    points[W].x = x.mul(&Fe::splat(CUBE_ROOT));
    points[W2].x = points[W].x.mul(&Fe::splat(CUBE_ROOT));
    let table = Table::get();
    for position in 0..POSITIONS {
        for at in 0..TABLES {
            points[SUMS + position * TABLES + at] = looked_up(table, (position, at), tasks);
        }
    }
    no_point
}

/// The generator's multiples by a digit of one sum.
#[inline(always)]
fn looked_up<V: Curve, const N: usize>(
    table: &Table,
    (position, at): (usize, usize),
    tasks: &[Task],
) -> Affine<V, N> {
    let mut rows = [[V::splat(0); LANES]; N];
    let mut negative = [0; N];
    for n in 0..N {
        for lane in 0..LANES {
            let digit = task::<N>(tasks, n, lane).multipliers.generator[position][at];
            let (entry, minus) = table.entry(at, digit);
            rows[n][lane] = V::of(entry.0);
            negative[n] |= u8::from(minus) << lane;
        }
    }
    signed(rows, negative)
}

/// Points from a row of words a lane, negative where the mask says so.
#[inline(always)]
fn signed<V: Curve, const N: usize>(rows: [[V; LANES]; N], negative: [u8; N]) -> Affine<V, N> {
    let mut x = Fe::<V, N, 1>::splat(U256::ZERO);
    let mut v = x;
    for n in 0..N {
        let [a, b, c, d, e, f, g, h] = V::turned(rows[n]);
        x.0[n] = unpacked([a, b, c, d]);
        v.0[n] = unpacked([e, f, g, h]);
    }
    Affine { x, v: Fe::choose(negative, &v.sum().negated::<2>().tight(), &v) }
}

/// One level of additions for all groups; false where a divisor was zero.
#[inline(always)]
fn add_affine<V: Curve, const N: usize>(
    points: &mut [Affine<V, N>],
    level: usize,
    shared: &mut [Shared<V, N>],
) -> bool {
    let count = jobs(level);
    let mut product = Fe::<V, N, 1>::splat(U256::ONE);
    for (points, shared) in points.chunks_mut(POINTS).zip(shared.chunks_mut(count)) {
        if level == 1 {
            let theta = points[1];
            let x = theta.x.mul(&Fe::splat(CUBE_ROOT));
            points[THETA_W] = Affine { x, v: theta.v };
            points[THETA_W2] = Affine { x: x.mul(&Fe::splat(CUBE_ROOT)), v: theta.v };
        }
        for (at, shared) in shared.iter_mut().enumerate() {
            V::begin(points, job(level, at), &mut product, shared);
        }
    }
    let Some(mut inverse) = V::inverse(&product) else { return false };
    for (points, shared) in points.chunks_mut(POINTS).zip(shared.chunks_mut(count)).rev() {
        for (at, shared) in shared.iter().enumerate().rev() {
            V::end(points, job(level, at), &mut inverse, shared);
        }
    }
    true
}

/// A level's jobs: first those for the digits, then the generator's sums.
fn job(level: usize, at: usize) -> Job {
    let (digits, sums) = (DIGIT_JOBS[level], SUM_JOBS[level]);
    digits.get(at).copied().unwrap_or_else(|| {
        let at = at - digits.len();
        let first = SUMS + at / sums.len() * TABLES;
        let (to, from) = sums[at % sums.len()];
        Job::Add(first + to, first + from, first + to)
    })
}

/// Of one signature: x, b x, b^2 x and v of each digit's multiple, as `Code` counts them.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Multiples([[u64; 4]; 4 * ENTRIES]);

/// What the lanes of one vector add at a step, and their signs: codes.
type Codes = [Code; LANES];

/// u1 G + u2 R. What is added to a positive accumulator after three doublings has to be negative:
/// the accumulator is then.
#[inline(always)]
fn climb<V: Curve, const N: usize>(
    points: &[Affine<V, N>],
    tasks: &[Task],
    sum: &mut Jacobian<V, N>,
) {
    let mut table = [[Multiples([[0; 4]; 4 * ENTRIES]); LANES]; N];
    write_table(points, &mut table);
    let mut first = [[0; LANES]; N];
    let mut present = [0; N];
    let mut below = [[[0; LANES]; N]; STEPS];
    for n in 0..N {
        for lane in 0..LANES {
            let digits = &task::<N>(tasks, n, lane).multipliers.point;
            if digits.first != NONE {
                first[n][lane] = digits.first;
                present[n] |= 1 << lane;
            }
            for (codes, code) in below.iter_mut().zip(digits.below) {
                codes[n][lane] = code;
            }
        }
    }
    let of_position = |position: usize| &points[SUMS + position * TABLES];
    let Affine { x, v } = *of_position(POSITIONS - 1);
    *sum = Jacobian { x, v, z: Fe::splat(U256::ONE) };
    V::add(sum, &multiples(&table, &first, false));
    sum.x = Fe::choose(present, &sum.x, &x);
    sum.v = Fe::choose(present, &sum.v, &v.sum().negated::<2>().tight());
    sum.z = Fe::choose(present, &sum.z, &Fe::splat(U256::ONE));
    // Three doublings and an addition change the sign four times, a sum that joins once.
    let mut positive = false;
    for (step, codes) in below.iter().enumerate().rev() {
        let next = multiples(&table, codes, positive);
        for _ in 0..3 {
            V::double(sum);
        }
        V::add(sum, &next);
        if let Some(position) = STEPS_AFTER.iter().position(|after| *after == step) {
            let Affine { x, v } = of_position(position);
            let minus = v.sum().negated::<2>().tight();
            V::add(sum, &Affine { x: *x, v: if positive { *v } else { minus } });
            positive = !positive;
        }
    }
}

/// The multiples by the digits of one step, or their negatives.
#[inline(always)]
fn multiples<V: Curve, const N: usize>(
    table: &[[Multiples; LANES]; N],
    codes: &[Codes; N],
    negated: bool,
) -> Affine<V, N> {
    let mut rows = [[V::splat(0); LANES]; N];
    let mut negative = [0; N];
    for n in 0..N {
        for lane in 0..LANES {
            let Multiples(multiples) = &table[n][lane];
            let at = usize::from(codes[n][lane] >> 1);
            let (x, v) = (&multiples[at], &multiples[at | 3]);
            rows[n][lane] = V::of([x[0], x[1], x[2], x[3], v[0], v[1], v[2], v[3]]);
        }
        negative[n] = odds(codes[n]) ^ if negated { u8::MAX } else { 0 };
    }
    signed(rows, negative)
}

/// The lanes whose code is odd. One multiplication moves the lowest bits of all bytes side by
/// side: bit 8i, times 2^(7 (8 - i)), lands at 56 + i, and nothing else above 55.
#[inline(always)]
fn odds(codes: Codes) -> u8 {
    let odd = u64::from_le_bytes(codes) & 0x0101_0101_0101_0101;
    let [.., top] = odd.wrapping_mul(0x0102_0408_1020_4080).to_le_bytes();
    top
}

/// Writes the digits' multiples so that each lane can be looked up by itself.
#[inline(always)]
fn write_table<V: Curve, const N: usize>(
    points: &[Affine<V, N>],
    table: &mut [[Multiples; LANES]; N],
) {
    for at in 0..ENTRIES {
        let Affine { x, v } = points[at];
        let once = match at {
            0 => points[W].x,
            1 => points[THETA_W].x,
            _ => x.mul(&Fe::splat(CUBE_ROOT)),
        };
        let both = x.sum().plus::<1, 2>(&once.sum());
        let twice = both.negated::<4>().tight();
        // Below 2^256 is enough here, and what is left where a number's limbs were folded twice.
        let (x, once) = (x.sum().tight(), once.sum().tight());
        let (twice, v) = (twice.sum().tight(), v.sum().tight());
        for n in 0..N {
            for (of_x, of_other, first) in [(&x, &once, 0), (&twice, &v, 2)] {
                let [a, b, c, d] = packed(of_x.0[n]);
                let [e, f, g, h] = packed(of_other.0[n]);
                let rows = V::turned([a, b, c, d, e, f, g, h]);
                for lane in 0..LANES {
                    let words = rows[lane].words();
                    let Multiples(multiples) = &mut table[n][lane];
                    multiples[4 * at + first].copy_from_slice(&words[..4]);
                    multiples[4 * at + first + 1].copy_from_slice(&words[4..]);
                }
            }
        }
    }
}

/// The coordinates of all sums by one inversion.
#[inline(always)]
fn finish<V: Curve, const N: usize>(
    no_point: &[[u8; N]],
    sums: &mut [Jacobian<V, N>],
    (tasks, found): (&[Task], &mut Vec<Found>),
) {
    let one = Fe::<V, N, 1>::splat(U256::ONE);
    let mut product = one;
    let mut before = Vec::with_capacity(sums.len());
    let mut unsure = Vec::with_capacity(sums.len());
    for sum in sums.iter_mut() {
        let zeros = sum.z.zeros();
        sum.z = Fe::choose(zeros, &one, &sum.z);
        unsure.push(zeros);
        before.push(product);
        product = product.mul(&sum.z);
    }
    let Some(mut inverse) = V::inverse(&product) else {
        found.extend(tasks.iter().map(|_| Found::Unsure));
        return;
    };
    for (sum, before) in sums.iter_mut().zip(&before).rev() {
        let own = inverse.mul(before);
        inverse = inverse.mul(&sum.z);
        let square = own.sqr();
        sum.x = sum.x.mul(&square).canonical();
        let y = sum.v.mul(&square).mul(&own).mul(&Fe::splat(HALF));
        sum.v = y.canonical();
    }
    for (at, tasks) in tasks.chunks(LANES * N).enumerate() {
        for n in 0..tasks.len().div_ceil(LANES) {
            let (xs, ys) = (numbers(sums[at].x.0[n]), numbers(sums[at].v.0[n]));
            for lane in 0..LANES.min(tasks.len() - n * LANES) {
                let is = |mask: u8| mask >> lane & 1 == 1;
                found.push(if is(no_point[at][n]) {
                    Found::NoPoint
                } else if is(unsure[at][n]) {
                    Found::Unsure
                } else {
                    Found::Key(key(xs[lane], ys[lane]))
                });
            }
        }
    }
}

fn key(x: U256, y: U256) -> [u8; 64] {
    let mut key = [0; 64];
    key[..32].copy_from_slice(&x.to_be_bytes::<32>());
    key[32..].copy_from_slice(&y.to_be_bytes::<32>());
    key
}
