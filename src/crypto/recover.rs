//! Who signed a hash: ECDSA recovery by libsecp256k1, under Ethereum's stricter rules.

use alloy_primitives::{Address, B256, Signature, U256, keccak256, uint};
use secp256k1::{
    Message, SECP256K1,
    ecdsa::{RecoverableSignature, RecoveryId},
};

/// Half of the group's order: EIP-2 refuses a larger `s`.
pub const HALF_ORDER: U256 =
    uint!(0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0_U256);
/// Order of the group.
pub const ORDER: U256 =
    uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);

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
}

/// The address that signed `hash`.
///
/// # Errors
/// Where the signature is out of range, has a high `s` (EIP-2), or recovers to no key.
pub fn recover(hash: B256, signature: &Signature) -> Result<Address, RecoverError> {
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
    let mut compact = [0; 64];
    compact[..32].copy_from_slice(&r.to_be_bytes::<32>());
    compact[32..].copy_from_slice(&s.to_be_bytes::<32>());
    let id = if signature.v() { RecoveryId::One } else { RecoveryId::Zero };
    let no_key = |_| RecoverError::NoKey(r);
    let signature = RecoverableSignature::from_compact(&compact, id).map_err(no_key)?;
    let key = SECP256K1.recover_ecdsa(Message::from_digest(hash.0), &signature).map_err(no_key)?;
    Ok(address_of(&key))
}

/// Appends the signer of each hash to `out`, in order.
pub fn recover_senders(signed: &[(B256, Signature)], out: &mut Vec<Result<Address, RecoverError>>) {
    out.extend(signed.iter().map(|(hash, signature)| recover(*hash, signature)));
}

/// Ethereum's address of a public key: the last 20 bytes of the keccak of its coordinates.
pub(crate) fn address_of(key: &secp256k1::PublicKey) -> Address {
    let hash = keccak256(&key.serialize_uncompressed()[1..]);
    Address::from_slice(&hash[12..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::sign::Signer;
    use alloy_primitives::{address, b256};
    use proptest::prelude::*;

    /// Signature of the text "Some data" by web3's well-known example key (EIP-191 hash).
    fn known() -> (B256, Signature, Address) {
        let hash = b256!("1da44b586eb0729ff70a73c326926f6ed5a25f5b056e7f47fbc6e58d86871655");
        let signature = Signature::new(
            uint!(0xb91467e570a6466aa9e9876cbcd013baba02900b8979d43fe208a4a4f339f5fd_U256),
            uint!(0x6007e74cd82e037b800186422fc2da167c747ef045e5d18a5f5d4300f8e1a029_U256),
            true,
        );
        (hash, signature, address!("2c7536e3605d9c16a7a3d7b1898e529396a65c23"))
    }

    #[test]
    fn a_known_signature_gives_its_known_signer() {
        let (hash, signature, signer) = known();
        assert_eq!(recover(hash, &signature), Ok(signer));
    }

    #[test]
    fn values_out_of_range_are_named() {
        let (hash, good, _) = known();
        let with = |r, s| recover(hash, &Signature::new(r, s, false)).unwrap_err();
        assert_eq!(with(U256::ZERO, good.s()), RecoverError::R(U256::ZERO));
        assert_eq!(with(ORDER, good.s()), RecoverError::R(ORDER));
        assert_eq!(with(U256::MAX, good.s()), RecoverError::R(U256::MAX));
        assert_eq!(with(good.r(), U256::ZERO), RecoverError::S(U256::ZERO));
        assert_eq!(with(good.r(), ORDER), RecoverError::S(ORDER));
        let high = ORDER - good.s();
        assert_eq!(with(good.r(), high), RecoverError::HighS(high));
        let edge = HALF_ORDER + U256::ONE;
        assert_eq!(with(good.r(), edge), RecoverError::HighS(edge));
        // 5 is no x coordinate of the curve.
        let five = U256::from(5);
        assert_eq!(with(five, good.s()), RecoverError::NoKey(five));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_was_signed_is_recovered(secret in any::<[u8; 32]>(), hash in any::<[u8; 32]>()) {
            let Ok(signer) = Signer::from_secret(&B256::from(secret)) else { return Ok(()) };
            let signature = signer.sign(B256::from(hash));
            prop_assert!(signature.s() <= HALF_ORDER);
            let mut out = Vec::new();
            recover_senders(&[(B256::from(hash), signature)], &mut out);
            prop_assert_eq!(out, [Ok(signer.address())]);
        }
    }
}
