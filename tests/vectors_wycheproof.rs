//! Wycheproof's signatures over secp256k1: keys, hashes and numbers at every edge, and what must
//! not verify. A signature is good if one of its four recovery ids gives the signer's address.

use alloy_primitives::{Address, B256, U256, keccak256};
use basalt::crypto::recover::{Engine, Signed};
use sha2::{Digest as _, Sha256, Sha512};
use wycheproof::{
    TestResult,
    ecdsa::{TestName, TestSet},
};

/// Bytes of r and of s.
const NUMBER_BYTES: usize = 32;
const IDS: u8 = 4;

fn sha256(message: &[u8]) -> B256 {
    B256::from_slice(&Sha256::digest(message))
}

/// Of a longer hash ECDSA takes the leftmost bits, as many as the group's order has (SEC 1, 4.1.3).
fn sha512(message: &[u8]) -> B256 {
    B256::from_slice(&Sha512::digest(message)[..32])
}

/// Each signature with every id, who should have signed it, and whether they did.
struct Cases {
    signed: Vec<Signed>,
    expected: Vec<(usize, Address, TestResult)>,
}

fn cases(name: TestName, hash: fn(&[u8]) -> B256) -> Cases {
    let mut cases = Cases { signed: Vec::new(), expected: Vec::new() };
    for group in TestSet::load(name).expect("the crate's own files").test_groups {
        let key: &[u8] = group.key.key.as_ref();
        let signer = Address::from_slice(&keccak256(&key[1..])[12..]);
        for test in group.tests {
            let signature: &[u8] = test.sig.as_ref();
            // Other lengths cannot be put to recovery, whose r and s are numbers.
            if signature.len() != 2 * NUMBER_BYTES {
                assert_eq!(test.result, TestResult::Invalid, "{}", test.tc_id);
                continue;
            }
            let (r, s) = signature.split_at(NUMBER_BYTES);
            let (r, s) = (U256::from_be_slice(r), U256::from_be_slice(s));
            let hash = hash(test.msg.as_ref());
            cases.signed.extend((0..IDS).map(|id| Signed { hash, r, s, id }));
            cases.expected.push((test.tc_id, signer, test.result));
        }
    }
    cases
}

fn check(name: TestName, hash: fn(&[u8]) -> B256) {
    let Cases { signed, expected } = cases(name, hash);
    assert!(expected.len() > 100, "only {} signatures", expected.len());
    for engine in [Engine::Libsecp256k1, Engine::Lanes, Engine::Checked] {
        let mut found = Vec::new();
        engine.signers(&signed, &mut found);
        for (found, (id, signer, result)) in
            found.chunks(usize::from(IDS)).zip(expected.iter().copied())
        {
            let verifies = found.contains(&Some(signer));
            assert_eq!(verifies, result == TestResult::Valid, "{name:?} {id}, {engine:?}");
        }
    }
}

#[test]
fn signatures_of_sha256() {
    check(TestName::EcdsaSecp256k1Sha256P1363, sha256);
}

#[test]
fn signatures_of_sha512() {
    check(TestName::EcdsaSecp256k1Sha512P1363, sha512);
}
