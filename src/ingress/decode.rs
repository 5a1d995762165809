//! Raw bytes to a transaction: EIP-2718, strict RLP, one encoding for one transaction.

use crate::crypto::recover::{Engine, RecoverError};
use crate::ingress::signatures::Signatures;
use crate::types::{limits::TRANSACTION_BYTES_MAX, transaction::RecoveredTransaction};
use alloy_consensus::{
    Signed, TxEip1559, TxEip2930, TxEip7702, TxEnvelope, TxLegacy, transaction::RlpEcdsaDecodableTx,
};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{B256, Bytes, keccak256};
use prometheus_client::metrics::counter::Counter;

/// Why bytes are no transaction of this chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No byte at all.
    #[error("typed transaction too short")]
    Empty,
    /// More than `TRANSACTION_BYTES_MAX`.
    #[error("oversized data: transaction size {size}, limit {limit}")]
    TooLarge {
        /// Bytes of the transaction.
        size: usize,
        /// Bytes at most.
        limit: usize,
    },
    /// EIP-4844.
    #[error(
        "blob transactions are not supported on this chain: it has no blob space; \
         send the data as calldata in a type 2 transaction"
    )]
    Blob,
    /// A type that Ethereum does not have today.
    #[error("transaction type not supported: type {0:#04x}; types 0, 1, 2 and 4 are")]
    UnknownType(u8),
    /// The RLP is broken or a field is out of range.
    #[error("rlp: {0}")]
    Rlp(alloy_rlp::Error),
    /// Bytes after the transaction.
    #[error("rlp: {0} bytes after the end of the transaction")]
    Trailing(usize),
    /// Decodes, but a shorter or other encoding means the same.
    #[error("rlp: not the canonical encoding of the transaction")]
    NotCanonical,
}

/// A decoded transaction whose sender is not yet known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The transaction.
    pub envelope: TxEnvelope,
    /// Keccak of the encoding.
    pub hash: B256,
    /// The encoding.
    pub raw: Bytes,
}

/// Decodes one EIP-2718 transaction that fills `raw` exactly.
///
/// # Errors
/// Where `raw` is too large, of a type that this chain does not take, or not canonical.
pub fn decode(raw: Bytes) -> Result<Decoded, DecodeError> {
    let hash = keccak256(hashed(&raw));
    decode_hashed(raw, hash)
}

/// What `decode_hashed` wants the keccak of: all, or of too much no more than shows it.
pub fn hashed(raw: &[u8]) -> &[u8] {
    &raw[..raw.len().min(TRANSACTION_BYTES_MAX + 1)]
}

/// As `decode`, where the keccak of `hashed(&raw)` is known.
///
/// # Errors
/// As those of `decode`.
pub fn decode_hashed(raw: Bytes, hash: B256) -> Result<Decoded, DecodeError> {
    let size = raw.len();
    if size > TRANSACTION_BYTES_MAX {
        return Err(DecodeError::TooLarge { size, limit: TRANSACTION_BYTES_MAX });
    }
    let first = *raw.first().ok_or(DecodeError::Empty)?;
    let buf = &mut raw.as_ref();
    let envelope = match first {
        0xc0..=0xff => TxEnvelope::Legacy(fields::<TxLegacy>(buf, hash)?),
        0x01 => TxEnvelope::Eip2930(typed::<TxEip2930>(buf, hash)?),
        0x02 => TxEnvelope::Eip1559(typed::<TxEip1559>(buf, hash)?),
        0x03 => return Err(DecodeError::Blob),
        0x04 => TxEnvelope::Eip7702(typed::<TxEip7702>(buf, hash)?),
        other => return Err(DecodeError::UnknownType(other)),
    };
    if !buf.is_empty() {
        return Err(DecodeError::Trailing(buf.len()));
    }
    // The hash is of the bytes as they came: two encodings of one transaction would be two hashes.
    let mut encoded = Vec::with_capacity(size);
    envelope.encode_2718(&mut encoded);
    if encoded.as_slice() != raw.as_ref() {
        return Err(DecodeError::NotCanonical);
    }
    Ok(Decoded { envelope, hash, raw })
}

fn typed<T: RlpEcdsaDecodableTx>(buf: &mut &[u8], hash: B256) -> Result<Signed<T>, DecodeError> {
    *buf = &buf[1..];
    fields(buf, hash)
}

fn fields<T: RlpEcdsaDecodableTx>(buf: &mut &[u8], hash: B256) -> Result<Signed<T>, DecodeError> {
    let (tx, signature) = T::rlp_decode_with_signature(buf).map_err(DecodeError::Rlp)?;
    Ok(Signed::new_unchecked(tx, signature, hash))
}

impl Decoded {
    /// Recovers sender and authorities of this one alone.
    ///
    /// # Errors
    /// Where the signature recovers to no sender.
    pub fn recover(self) -> Result<RecoveredTransaction, RecoverError> {
        let mut signatures = Signatures::new(Engine::Libsecp256k1, Counter::default());
        let mut recovered = signatures.recover(vec![(self, ())], 0);
        recovered.next().map_or(Err(RecoverError::Unsure), |(verdict, ())| verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::fixture::{every_type, signer};

    #[test]
    fn every_type_round_trips_with_sender_and_authorities() {
        for unsigned in every_type() {
            let signed = signer(1).sign_transaction(unsigned);
            let raw = Bytes::from(signed.encoded_2718());
            let decoded = decode(raw.clone()).unwrap().recover().unwrap();
            assert_eq!(decoded.sender, signer(1).address());
            assert_eq!(decoded.hash, *signed.hash());
            assert_eq!(decoded.encoded(), raw);
            if signed.is_eip7702() {
                assert_eq!(decoded.authorities, [Some(signer(2).address()), None]);
            }
        }
    }

    #[test]
    fn what_is_not_one_whole_transaction_is_refused() {
        let blob = decode(Bytes::from_static(&[3, 0xc0])).unwrap_err();
        assert!(blob.to_string().starts_with("blob transactions are not supported on this chain"));
        assert_eq!(decode(Bytes::new()), Err(DecodeError::Empty));
        assert_eq!(decode(Bytes::from_static(&[0])), Err(DecodeError::UnknownType(0)));
        assert_eq!(decode(Bytes::from_static(&[5, 1])), Err(DecodeError::UnknownType(5)));
        let large = decode(vec![0xff; TRANSACTION_BYTES_MAX + 1].into()).unwrap_err();
        assert_eq!(large.to_string(), "oversized data: transaction size 131073, limit 131072");
        for unsigned in every_type() {
            let mut raw = signer(1).sign_transaction(unsigned).encoded_2718();
            for cut in 0..raw.len() {
                assert!(decode(raw[..cut].to_vec().into()).is_err());
            }
            raw.push(0);
            assert_eq!(decode(raw.into()), Err(DecodeError::Trailing(1)));
        }
    }
}
