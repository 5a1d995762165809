//! Who signed a hash: ECDSA recovery, many signatures at once.
//!
//! Two engines with the same verdict on every input: `lanes` takes eight signatures side by side
//! where the processor can, `one` is libsecp256k1. What the lanes are not sure of, libsecp256k1
//! decides; in checked mode both decide everything, and a difference stops the node.

mod lanes;
mod one;

#[cfg(test)]
mod tests;

pub(crate) use one::address_of;

use crate::crypto::keccak::keccak_batch;
use alloy_primitives::{Address, B256, Signature, U256, uint};

/// Half of the group's order: EIP-2 refuses a larger `s`.
pub const HALF_ORDER: U256 =
    uint!(0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0_U256);
/// Order of the group.
pub const ORDER: U256 =
    uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);
/// From so many signatures on, the lanes take less time than one signature after the other; where
/// they are not compiled with optimisation they never do.
const LANES_MIN: usize = if cfg!(debug_assertions) { usize::MAX } else { 2 };

/// Why a signature has no signer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// `r` is zero or not below the group's order.
    #[error("invalid transaction v, r, s values: r {0:#x} is not in 1..n")]
    R(U256),
    /// `s` is zero or not below the group's order.
    #[error("invalid transaction v, r, s values: s {0:#x} is not in 1..n")]
    S(U256),
    /// EIP-2: the other of the two equivalent signatures must be used.
    #[error("invalid transaction v, r, s values: s {0:#x} is above n/2 (EIP-2)")]
    HighS(U256),
    /// No point of the curve has this `r`, or the key is the point at infinity.
    #[error("invalid transaction v, r, s values: r {0:#x} recovers to no key")]
    NoKey(U256),
    /// Made to cost more than others, and more than is allowed of such came: not decided.
    #[error("too many signatures that are made to be slow to recover: send it again later")]
    Unsure,
}

/// A signature and what it signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed {
    /// What was signed; counts modulo the group's order.
    pub hash: B256,
    /// x of the signature's point, less the group's order where `id` says so.
    pub r: U256,
    /// The other half.
    pub s: U256,
    /// Bit 0: y of the point is odd. Bit 1: its x is r and the group's order.
    pub id: u8,
}

/// How signers are found. All engines find the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// Eight side by side where the processor has AVX-512 IFMA; elsewhere, and for a signature
    /// alone, libsecp256k1.
    #[default]
    Lanes,
    /// libsecp256k1 for each.
    Libsecp256k1,
    /// Both for each.
    Checked,
}

impl Engine {
    /// Whether this processor has the instructions of the lanes.
    pub fn lanes_available() -> bool {
        lanes::available()
    }

    /// Appends the address whose key signed, by libsecp256k1's rules: `None` where r or s are out
    /// of range or no key signed. Returns how many signatures the lanes left to libsecp256k1:
    /// additions of equal points, which only those meet that are made for it.
    ///
    /// # Panics
    /// In checked mode, where the engines differ.
    pub fn signers(self, signed: &[Signed], out: &mut Vec<Option<Address>>) -> usize {
        let start = out.len();
        let mut unsure = Vec::new();
        self.find(signed, out, &mut unsure);
        for at in &unsure {
            out[start + at] = one::signer(&signed[*at]);
        }
        unsure.len()
    }

    /// Appends the sender by each signature of a transaction, under Ethereum's stricter rules.
    /// Those that the lanes are not sure of are decided while any are `left`, and count it down;
    /// returns how many there were.
    ///
    /// # Panics
    /// In checked mode, where the engines differ.
    pub fn senders(
        self,
        signed: &[(B256, Signature)],
        left: &mut u64,
        out: &mut Vec<Result<Address, RecoverError>>,
    ) -> u64 {
        let mut fitting = Vec::with_capacity(signed.len());
        let start = out.len();
        for (hash, signature) in signed {
            let checked = check(signature);
            if checked.is_ok() {
                let (r, s) = (signature.r(), signature.s());
                fitting.push(Signed { hash: *hash, r, s, id: u8::from(signature.v()) });
            }
            out.push(checked.map(|()| Address::ZERO));
        }
        let mut signers = Vec::with_capacity(fitting.len());
        let mut unsure = Vec::new();
        self.find(&fitting, &mut signers, &mut unsure);
        let mut found: Vec<_> = signers
            .iter()
            .zip(&fitting)
            .map(|(signer, signed)| signer.ok_or(RecoverError::NoKey(signed.r)))
            .collect();
        decide(&fitting, &unsure, left, &mut found);
        let verdicts = out[start..].iter_mut().filter(|verdict| verdict.is_ok());
        for (verdict, found) in verdicts.zip(found) {
            *verdict = found;
        }
        u64::try_from(unsure.len()).unwrap_or(u64::MAX)
    }

    /// Appends signers, and where those stand that the lanes are not sure of: `None` for now.
    fn find(self, signed: &[Signed], out: &mut Vec<Option<Address>>, unsure: &mut Vec<usize>) {
        let alone = signed.len() < LANES_MIN && self == Self::Lanes;
        if self == Self::Libsecp256k1 || alone || !lanes::available() {
            out.extend(signed.iter().map(one::signer));
            return;
        }
        let start = out.len();
        signers_by_lanes(signed, out, unsure);
        if self == Self::Checked {
            for (at, signed) in signed.iter().enumerate().filter(|(at, _)| !unsure.contains(at)) {
                let (found, expected) = (out[start + at], one::signer(signed));
                assert_eq!(found, expected, "the lanes recover another signer of {signed:?}");
            }
        }
    }
}

/// Decides by libsecp256k1 as many of those that the lanes are not sure of as are left to be.
fn decide(
    signed: &[Signed],
    unsure: &[usize],
    left: &mut u64,
    found: &mut [Result<Address, RecoverError>],
) {
    for at in unsure {
        found[*at] = if *left == 0 {
            Err(RecoverError::Unsure)
        } else {
            *left -= 1;
            one::signer(&signed[*at]).ok_or(RecoverError::NoKey(signed[*at].r))
        };
    }
}

/// The lanes' verdicts, and where they have none.
fn signers_by_lanes(signed: &[Signed], out: &mut Vec<Option<Address>>, unsure: &mut Vec<usize>) {
    let mut verdicts = Vec::with_capacity(signed.len());
    lanes::recover(signed, &mut verdicts);
    let keys: Vec<&[u8; 64]> = verdicts.iter().filter_map(lanes::Verdict::key).collect();
    let mut hashes = Vec::with_capacity(keys.len());
    keccak_batch(&keys, &mut hashes);
    let mut hashes = hashes.iter();
    for (at, verdict) in verdicts.iter().enumerate() {
        let key = verdict.key().and_then(|_| hashes.next());
        out.push(key.map(|hash| Address::from_slice(&hash[12..])));
        if *verdict == lanes::Verdict::Unsure {
            unsure.push(at);
        }
    }
}

/// Ethereum's rules for a transaction's signature: r and s in range, s not high (EIP-2).
fn check(signature: &Signature) -> Result<(), RecoverError> {
    let (r, s) = (signature.r(), signature.s());
    if r.is_zero() || r >= ORDER {
        return Err(RecoverError::R(r));
    }
    if s.is_zero() || s >= ORDER {
        return Err(RecoverError::S(s));
    }
    if s > HALF_ORDER {
        return Err(RecoverError::HighS(s));
    }
    Ok(())
}

/// The address that signed `hash`: the fastest way for one alone.
///
/// # Errors
/// Where the signature is out of range, has a high `s` (EIP-2), or recovers to no key.
pub fn recover(hash: B256, signature: &Signature) -> Result<Address, RecoverError> {
    check(signature)?;
    let (r, s) = (signature.r(), signature.s());
    let signed = Signed { hash, r, s, id: u8::from(signature.v()) };
    one::signer(&signed).ok_or(RecoverError::NoKey(r))
}

/// Makes ahead what the lanes look up, where the processor has them: it takes some
/// 20 ms once.
pub fn prepare() {
    if lanes::available() {
        lanes::prepare();
    }
}
