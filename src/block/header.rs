//! The Ethereum header of a closed block, under Osaka's rules. Roots come from the caller.

use crate::types::block::BlockClose;
use alloy_consensus::{EMPTY_OMMER_ROOT_HASH, Header};
use alloy_primitives::{B64, B256, Bloom, Bytes, U256};
use alloy_trie::EMPTY_ROOT_HASH;
use sha2::{Digest as _, Sha256};

/// Bytes of extra data at most (Yellow Paper, 4.3.4).
pub const EXTRA_DATA_BYTES_MAX: usize = 32;

/// What a header holds beside the block's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roots {
    /// State after the block.
    pub state: B256,
    /// Ordered trie of EIP-2718 transactions.
    pub transactions: B256,
    /// Ordered trie of EIP-2718 receipts.
    pub receipts: B256,
    /// All logs.
    pub logs_bloom: Bloom,
}

/// Builds the header. A layer 2 has no ommers, blobs or withdrawals, and no beacon block; no rule
/// of a later fork is in force.
pub fn header(close: &BlockClose, roots: &Roots, extra_data: &Bytes) -> Header {
    let environment = &close.environment;
    Header {
        parent_hash: close.parent_hash,
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        beneficiary: environment.fee_recipient,
        state_root: roots.state,
        transactions_root: roots.transactions,
        receipts_root: roots.receipts,
        logs_bloom: roots.logs_bloom,
        difficulty: U256::ZERO,
        number: environment.number,
        gas_limit: environment.gas_limit,
        gas_used: close.gas_used,
        timestamp: environment.timestamp,
        extra_data: extra_data.clone(),
        mix_hash: environment.prev_randao,
        nonce: B64::ZERO,
        base_fee_per_gas: Some(environment.base_fee),
        withdrawals_root: Some(EMPTY_ROOT_HASH),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::ZERO),
        requests_hash: Some(requests_hash(&close.requests)),
        ..Header::default()
    }
}

/// EIP-7685: SHA-256 over the SHA-256 of each request with its type byte, those without data left
/// out.
pub fn requests_hash(requests: &[Bytes]) -> B256 {
    let mut all = Sha256::new();
    for request in requests.iter().filter(|request| request.len() > 1) {
        all.update(Sha256::digest(request));
    }
    B256::from_slice(&all.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_eips::eip7685::{EMPTY_REQUESTS_HASH, Requests};

    #[test]
    fn requests_hash_as_alloy_has_it() {
        let one = Bytes::from_static(&[0, 1, 2, 3]);
        let two = Bytes::from_static(&[1, 9]);
        let empty = Bytes::from_static(&[2]);
        assert_eq!(requests_hash(&[]), EMPTY_REQUESTS_HASH);
        assert_eq!(requests_hash(&[empty]), EMPTY_REQUESTS_HASH);
        let requests = Requests::new(vec![one.clone(), two.clone()]);
        assert_eq!(requests_hash(&[one, two]), requests.requests_hash());
    }
}
