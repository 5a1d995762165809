//! One signature after another, by libsecp256k1: the measure of what the lanes find.

use crate::crypto::recover::Signed;
use alloy_primitives::{Address, keccak256};
use secp256k1::{
    Message, PublicKey, SECP256K1,
    ecdsa::{RecoverableSignature, RecoveryId},
};

/// The address whose key signed, or `None` where no key did.
pub(super) fn signer(signed: &Signed) -> Option<Address> {
    let mut compact = [0; 64];
    compact[..32].copy_from_slice(&signed.r.to_be_bytes::<32>());
    compact[32..].copy_from_slice(&signed.s.to_be_bytes::<32>());
    let id = RecoveryId::try_from(i32::from(signed.id)).ok()?;
    let signature = RecoverableSignature::from_compact(&compact, id).ok()?;
    let key = SECP256K1.recover_ecdsa(Message::from_digest(signed.hash.0), &signature).ok()?;
    Some(address_of(&key))
}

/// Ethereum's address of a public key: the last 20 bytes of the keccak of its coordinates.
pub(crate) fn address_of(key: &PublicKey) -> Address {
    let hash = keccak256(&key.serialize_uncompressed()[1..]);
    Address::from_slice(&hash[12..])
}
