//! Recovery of eight signatures side by side, each in one 64-bit lane of wide registers.
//!
//! 1. `scalar`: u1 = -hash / r and u2 = s / r, and their digits  2. `chunk`: the point R from r,
//!    then Q = u1 G + u2 R, for all signatures in the same steps  3. what met an exception is told,
//!    so that libsecp256k1 decides
//!
//! Nothing here is secret, so nothing has to take constant time. The arithmetic is written once
//! for any vector of eight words (`vector::Lanes`): AVX-512 registers, or a model in plain Rust
//! that tests and other processors run.

#![expect(clippy::needless_range_loop, reason = "vectors, lanes and limbs are counted together")]

mod chunk;
mod digits;
mod field;
mod generator;
#[cfg(any(test, not(target_arch = "x86_64")))]
mod model;
mod point;
mod power;
mod scalar;
mod vector;

#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(test)]
mod tests;

use crate::crypto::recover::{
    ORDER, Signed,
    lanes::{
        chunk::{Chunk, Found, Given},
        field::PRIME,
        scalar::Scalars,
    },
};
use alloy_primitives::U256;

/// Signatures that share their inversions.
const CHUNK: usize = 128;

/// Whether this processor has the lanes.
pub(super) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    let available = avx512::available();
    #[cfg(not(target_arch = "x86_64"))]
    let available = false;
    available
}

/// What the lanes say of one signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The key's coordinates, big-endian.
    Key([u8; 64]),
    /// There is no key.
    NoKey,
    /// An addition met equal or opposite points: ask libsecp256k1.
    Unsure,
}

impl Verdict {
    /// The key, where there is one.
    pub(super) fn key(&self) -> Option<&[u8; 64]> {
        if let Self::Key(key) = self { Some(key) } else { None }
    }
}

/// Makes ahead what is looked up.
pub(super) fn prepare() {
    generator::Table::get();
}

/// Appends a verdict on each signature.
pub(super) fn recover(signed: &[Signed], out: &mut Vec<Verdict>) {
    for signed in signed.chunks(CHUNK) {
        recover_chunk(signed, out, run);
    }
}

fn recover_chunk(signed: &[Signed], out: &mut Vec<Verdict>, run: fn(&mut Chunk<'_>)) {
    let mut found = Vec::with_capacity(signed.len());
    let mut points = Vec::with_capacity(signed.len());
    let mut given = Vec::with_capacity(signed.len());
    for one in signed {
        let point = point_of(one);
        points.push(point.is_some());
        if let Some((x, odd)) = point {
            let scalars = Scalars { hash: U256::from_be_bytes(one.hash.0), r: one.r, s: one.s };
            given.push(Given { x, odd, scalars });
        }
    }
    if !given.is_empty() {
        run(&mut Chunk { given: &given, found: &mut found });
    }
    let mut found = found.into_iter();
    for is_point in points {
        out.push(match is_point.then(|| found.next()).flatten() {
            None | Some(Found::NoPoint) => Verdict::NoKey,
            Some(Found::Unsure) => Verdict::Unsure,
            Some(Found::Key(key)) => Verdict::Key(key),
        });
    }
}

/// Verdicts by the model.
#[cfg(test)]
pub(super) fn recover_by_model(signed: &[Signed]) -> Vec<Verdict> {
    let mut out = Vec::with_capacity(signed.len());
    recover_chunk(signed, &mut out, |chunk| on_a_large_stack(|| model::run(chunk)));
    out
}

/// Without optimisation every vector of a whole recovery stands on the stack.
fn on_a_large_stack(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(scope, work);
        thread.expect("a thread can be started").join().expect("it failed as said above");
    });
}

/// x of R and whether its y is odd; `None` where r, s or the id are out of range.
fn point_of(signed: &Signed) -> Option<(U256, bool)> {
    let Signed { r, s, id, .. } = *signed;
    let in_range = |number: U256| !number.is_zero() && number < ORDER;
    if !in_range(r) || !in_range(s) || id > 3 {
        return None;
    }
    let x = if id & 2 == 0 { r } else { r.checked_add(ORDER).filter(|x| *x < PRIME)? };
    Some((x, id & 1 == 1))
}

fn run(chunk: &mut Chunk<'_>) {
    #[cfg(target_arch = "x86_64")]
    use avx512::run;
    #[cfg(not(target_arch = "x86_64"))]
    use model::run;
    if cfg!(debug_assertions) {
        on_a_large_stack(|| run(chunk));
    } else {
        run(chunk);
    }
}
