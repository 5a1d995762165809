//! The transaction decoder on any bytes: it never panics, and what it takes is canonical.
#![no_main]

use alloy_consensus::Transaction as _;
use basalt::ingress::{
    admit::{Rules, check_alone},
    decode::decode,
    gas::intrinsic,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(decoded) = decode(bytes.to_vec().into()) else { return };
    let least = intrinsic(&decoded.envelope);
    assert!(least.gas >= 21_000 && least.floor >= 21_000);
    let mut rules = Rules::new(decoded.envelope.chain_id().unwrap_or(1), u64::MAX);
    rules.unprotected_allowed = true;
    drop(check_alone(&decoded, &rules));
    let raw = decoded.raw.clone();
    if let Ok(recovered) = decoded.recover() {
        assert_eq!(recovered.encoded().as_slice(), raw.as_ref());
        assert_eq!(recovered.hash, alloy_primitives::keccak256(&raw));
    }
});
