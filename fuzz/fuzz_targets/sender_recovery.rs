//! All engines of sender recovery on any signatures: they have the same verdict on each.
#![no_main]

use alloy_primitives::{B256, U256};
use basalt::crypto::recover::{Engine, Signed};
use libfuzzer_sys::fuzz_target;

/// Hash, r, s and recovery id.
const BYTES: usize = 97;

fuzz_target!(|bytes: &[u8]| {
    let signed: Vec<Signed> = bytes
        .as_chunks::<BYTES>()
        .0
        .iter()
        .map(|one| Signed {
            hash: B256::from_slice(&one[..32]),
            r: U256::from_be_slice(&one[32..64]),
            s: U256::from_be_slice(&one[64..96]),
            id: one[96] % 5,
        })
        .collect();
    let mut found = Vec::new();
    Engine::Checked.signers(&signed, &mut found);
    let mut expected = Vec::new();
    Engine::Libsecp256k1.signers(&signed, &mut expected);
    assert_eq!(found, expected);
});
