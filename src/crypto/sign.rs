//! Signing with a 32-byte secret: the sequencer's key, and senders in tests and benches.

use crate::crypto::recover::address_of;
use alloy_consensus::{SignableTransaction as _, TxEnvelope, TypedTransaction};
use alloy_primitives::{Address, B256, Signature};
use secp256k1::{Message, PublicKey, SECP256K1, SecretKey};
use std::fmt;

/// A secret key with the address that it signs for.
#[derive(Clone, PartialEq, Eq)]
pub struct Signer {
    secret: SecretKey,
    address: Address,
}

/// The secret is not a secp256k1 key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the secret is zero or not below the order of secp256k1; make a new 32-byte key")]
pub struct SecretError;

impl Signer {
    /// The signer of a 32-byte secret.
    ///
    /// # Errors
    /// Where the secret is zero or not below the group's order.
    pub fn from_secret(secret: &B256) -> Result<Self, SecretError> {
        SecretKey::from_byte_array(secret.0).map(Self::of).map_err(|_| SecretError)
    }

    /// A new key from the system's randomness.
    pub fn random() -> Self {
        Self::of(SecretKey::new(&mut secp256k1::rand::rng()))
    }

    pub(crate) fn of(secret: SecretKey) -> Self {
        let address = address_of(&PublicKey::from_secret_key(SECP256K1, &secret));
        Self { secret, address }
    }

    /// The address that signatures recover to.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The secret itself, to be kept in a file of mode 0600.
    pub fn secret(&self) -> B256 {
        B256::from(self.secret.secret_bytes())
    }

    /// Signs a hash: deterministic (RFC 6979), low `s`, with the parity that recovery needs.
    pub fn sign(&self, hash: B256) -> Signature {
        let message = Message::from_digest(hash.0);
        let signed = SECP256K1.sign_ecdsa_recoverable(message, &self.secret);
        let (id, compact) = signed.serialize_compact();
        Signature::from_bytes_and_parity(&compact, i32::from(id) & 1 == 1)
    }

    /// Signs a transaction.
    pub fn sign_transaction(&self, transaction: TypedTransaction) -> TxEnvelope {
        let signature = self.sign(transaction.signature_hash());
        TxEnvelope::new_unhashed(transaction, signature)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{address, b256};

    #[test]
    fn a_secret_has_its_known_address_and_stays_hidden() {
        let secret = b256!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80");
        let signer = Signer::from_secret(&secret).unwrap();
        assert_eq!(signer.address(), address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266"));
        assert_eq!(signer.secret(), secret);
        assert!(!format!("{signer:?}").contains("ac0974"));
        assert_eq!(Signer::from_secret(&B256::ZERO), Err(SecretError));
        assert_eq!(Signer::from_secret(&B256::repeat_byte(0xff)), Err(SecretError));
        assert_ne!(Signer::random(), Signer::random());
    }
}
