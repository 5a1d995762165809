//! Points of y^2 = x^3 + 7, eight to a vector. In place of y stands v = 2y throughout, which
//! spares the halvings of the formulas.
//!
//! Doubling and addition give the negative of what they are named after, because the products of
//! -v then add up under one reduction. An addition of equal or opposite points gives Z = 0, and
//! all that follows keeps it: those lanes are wrong and known to be.

use crate::crypto::recover::lanes::{
    field::{Fe, Field, Sum},
    power,
};

/// Steps that a processor may want as functions of their own, with all their multiplications
/// inlined; an engine of real vectors overrides them by functions that are compiled for its
/// instructions, where its multiplications are not.
pub(super) trait Curve: Field {
    /// `power::root`
    #[inline(always)]
    fn root<const N: usize>(a: &mut Fe<Self, N, 1>) {
        power::root(a);
    }
    /// `power::inverse`
    #[inline(always)]
    fn inverse<const N: usize>(a: &Fe<Self, N, 1>) -> Option<Fe<Self, N, 1>> {
        power::inverse(a)
    }
    /// `double`
    #[inline(always)]
    fn double<const N: usize>(p: &mut Jacobian<Self, N>) {
        double(p);
    }
    /// `add`
    #[inline(always)]
    fn add<const N: usize>(p: &mut Jacobian<Self, N>, q: &Affine<Self, N>) {
        add(p, q);
    }
    /// `begin`
    #[inline(always)]
    fn begin<const N: usize>(
        points: &[Affine<Self, N>],
        job: Job,
        product: &mut Fe<Self, N, 1>,
        shared: &mut Shared<Self, N>,
    ) {
        begin(points, job, product, shared);
    }
    /// `end`
    #[inline(always)]
    fn end<const N: usize>(
        points: &mut [Affine<Self, N>],
        job: Job,
        inverse: &mut Fe<Self, N, 1>,
        shared: &Shared<Self, N>,
    ) {
        end(points, job, inverse, shared);
    }
}

/// An affine addition among some points: which, and where the sum goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Job {
    /// P + Q
    Add(usize, usize, usize),
    /// P - Q
    Subtract(usize, usize, usize),
    /// 2P
    Double(usize, usize),
}

/// What a job divides by, and the product of what those before it divide by.
#[derive(Clone, Copy)]
pub(super) struct Shared<V, const N: usize> {
    pub(super) divisor: Fe<V, N, 6>,
    pub(super) before: Fe<V, N, 1>,
}

/// Takes a job's divisor into the product.
#[inline(always)]
pub(super) fn begin<V: Field, const N: usize>(
    points: &[Affine<V, N>],
    job: Job,
    product: &mut Fe<V, N, 1>,
    shared: &mut Shared<V, N>,
) {
    let divisor = match job {
        Job::Add(p, q, _) => points[p].divisor(&points[q]),
        Job::Subtract(p, q, _) => points[q].divisor(&points[p]),
        Job::Double(p, _) => points[p].v.relaxed(),
    };
    *shared = Shared { divisor, before: *product };
    *product = product.mul(&divisor);
}

/// Does a job, given the inverse of the product, and takes its divisor out of that again.
#[inline(always)]
pub(super) fn end<V: Field, const N: usize>(
    points: &mut [Affine<V, N>],
    job: Job,
    inverse: &mut Fe<V, N, 1>,
    shared: &Shared<V, N>,
) {
    let own = inverse.mul(&shared.before);
    *inverse = inverse.mul(&shared.divisor);
    match job {
        Job::Add(p, q, to) => points[to] = points[p].add(&points[q], &own),
        Job::Subtract(p, q, to) => points[to] = points[p].subtract(&points[q], &own),
        Job::Double(p, to) => points[to] = points[p].double(&own),
    }
}

/// An affine point.
#[derive(Clone, Copy)]
pub(super) struct Affine<V, const N: usize> {
    pub(super) x: Fe<V, N, 1>,
    pub(super) v: Fe<V, N, 1>,
}

/// The point (x / z^2, v / z^3).
#[derive(Clone, Copy)]
pub(super) struct Jacobian<V, const N: usize> {
    pub(super) x: Fe<V, N, 1>,
    pub(super) v: Fe<V, N, 1>,
    pub(super) z: Fe<V, N, 1>,
}

impl<V: Field, const N: usize> Affine<V, N> {
    /// 2 * (x2 - x1), by which an addition divides.
    #[inline(always)]
    pub(super) fn divisor(&self, other: &Self) -> Fe<V, N, 6> {
        other.x.sum().minus::<1, 3>(&self.x.sum()).twice::<6>().carried()
    }

    /// P + Q, where `inverse` is that of the divisor.
    #[inline(always)]
    pub(super) fn add(&self, other: &Self, inverse: &Fe<V, N, 1>) -> Self {
        let rise: Fe<V, N, 3> = other.v.sum().minus::<1, 3>(&self.v.sum()).carried();
        self.along(&other.x, &rise.mul(inverse))
    }

    /// P - Q, where `inverse` is that of the divisor of Q and P.
    #[inline(always)]
    pub(super) fn subtract(&self, other: &Self, inverse: &Fe<V, N, 1>) -> Self {
        let rise: Fe<V, N, 2> = other.v.sum().plus::<1, 2>(&self.v.sum()).carried();
        self.along(&other.x, &rise.mul(inverse))
    }

    /// 2P, where `inverse` is that of v.
    #[inline(always)]
    pub(super) fn double(&self, inverse: &Fe<V, N, 1>) -> Self {
        let square = self.x.sqr();
        let rise: Fe<V, N, 3> = square.sum().twice::<2>().plus(&square.sum()).carried();
        self.along(&self.x, &rise.mul(inverse))
    }

    /// The third point of the line with this slope through this point and that with the other x,
    /// mirrored.
    #[inline(always)]
    fn along(&self, other: &Fe<V, N, 1>, slope: &Fe<V, N, 1>) -> Self {
        let both: Sum<V, N, 2> = self.x.sum().plus(&other.sum());
        let x = slope.sqr_plus(&both.negated::<4>());
        let run: Fe<V, N, 6> = self.x.sum().minus::<1, 3>(&x.sum()).twice::<6>().carried();
        let v = slope.mul_plus(&run, &self.v.sum().negated::<2>());
        Self { x, v }
    }
}

/// P becomes -2P.
#[inline(always)]
pub(super) fn double<V: Field, const N: usize>(p: &mut Jacobian<V, N>) {
    *p = p.double();
}

/// P becomes -(P + Q).
#[inline(always)]
pub(super) fn add<V: Field, const N: usize>(p: &mut Jacobian<V, N>, q: &Affine<V, N>) {
    *p = p.add(q);
}

impl<V: Field, const N: usize> Jacobian<V, N> {
    /// -2P: with y = v / 2 the formulas of every textbook for a curve without a linear term.
    #[inline(always)]
    pub(super) fn double(&self) -> Self {
        let Self { x, v, z } = self;
        let square = x.sqr();
        let v_square = v.sqr();
        let z_out = v.mul(z);
        let slope: Fe<V, N, 3> = square.sum().twice::<2>().plus(&square.sum()).carried();
        let t = x.mul(&v_square);
        let minus_2t = t.sum().twice::<2>().negated::<4>();
        let x_out = slope.sqr_plus(&minus_2t);
        let w: Fe<V, N, 6> = x_out.sum().twice::<2>().plus(&minus_2t).carried();
        Self { x: x_out, v: slope.mul_sqr(&w, &v_square), z: z_out }
    }

    /// -(P + Q): the mixed addition "madd-2007-bl" of the Explicit-Formulas Database, with v.
    #[inline(always)]
    pub(super) fn add(&self, other: &Affine<V, N>) -> Self {
        let z_square = self.z.sqr();
        let h = other.x.mul_plus(&z_square, &self.x.sum().negated::<2>());
        let z_cube = z_square.mul(&self.z);
        let r = other.v.mul_plus(&z_cube, &self.v.sum().negated::<2>());
        let h_twice: Fe<V, N, 2> = h.sum().twice::<2>().carried();
        let i = h_twice.sqr();
        let j = h.mul(&i);
        let t = self.x.mul(&i);
        let j_and_2t: Sum<V, N, 3> = t.sum().twice::<2>().plus(&j.sum());
        let x = r.sqr_plus(&j_and_2t.negated::<6>());
        let w: Fe<V, N, 6> = x.sum().minus::<1, 3>(&t.sum()).twice::<6>().carried();
        let j_twice: Fe<V, N, 2> = j.sum().twice::<2>().carried();
        Self { x, v: r.mul_mul(&w, &self.v, &j_twice), z: self.z.mul(&h_twice) }
    }
}
