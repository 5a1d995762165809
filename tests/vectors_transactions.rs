//! Suite `transactions`: our decoder, recovery and stateless admission, by Ethereum's vectors.

mod support;

use alloy_primitives::{Bytes, hex};
use basalt::ingress::{
    admit::{AdmitError, Rules, check_alone},
    decode::{Decoded, decode},
    gas::intrinsic,
};
use serde_json::Value;
use support::vectors::{Tally, suite};

/// Newest first. The suite's sources stop at Cancun or before: what such a file tests (RLP,
/// signatures, chain ids, intrinsic gas) has not changed since London, but for two rules that
/// `check_valid` knows: EIP-7623's floor (Prague) and EIP-7825's cap (Osaka).
const FORKS: [&str; 6] = ["Osaka", "Prague", "Cancun", "Shanghai", "Paris", "London"];

fn rules(fork: &str) -> Rules {
    let mut rules = Rules::new(1, u64::MAX);
    // Frontier's signatures are valid transactions still; whether a node takes them is policy.
    rules.unprotected_allowed = true;
    if fork != "Osaka" {
        rules.transaction_gas_max = u64::MAX;
    }
    rules
}

fn admit(raw: &str, rules: &Rules) -> Result<Decoded, String> {
    let raw = hex::decode(raw).map_err(|error| error.to_string())?;
    let decoded = decode(Bytes::from(raw)).map_err(|error| error.to_string())?;
    match check_alone(&decoded, rules) {
        // The vector is older than the floor; `check_valid` sees to it.
        Ok(()) | Err(AdmitError::FloorGas { .. }) => Ok(decoded),
        Err(error) => Err(error.to_string()),
    }
}

fn check_valid(decoded: Decoded, fork: &str, expected: &Value) -> Result<(), String> {
    let least = intrinsic(&decoded.envelope);
    let floor_applies = matches!(fork, "Osaka" | "Prague");
    let refused = check_alone(&decoded, &rules(fork)).is_err();
    let recovered = decoded.recover().map_err(|error| error.to_string())?;
    same("hash", &recovered.hash.to_string(), expected["hash"].as_str())?;
    let sender = recovered.sender.to_string().to_lowercase();
    same("sender", &sender, expected["sender"].as_str())?;
    let gas = expected["intrinsicGas"].as_str().unwrap_or("0x");
    let gas = u64::from_str_radix(gas.trim_start_matches("0x"), 16).map_err(|e| e.to_string())?;
    if least.gas != gas {
        return Err(format!("intrinsic gas {}, expected {gas}", least.gas));
    }
    let under_floor = recovered.gas_limit() < least.floor;
    match (refused, under_floor) {
        (true, true) if floor_applies => Err("refused for the floor".to_owned()),
        (refused, under_floor) if refused != under_floor => Err("floor not kept".to_owned()),
        _ => Ok(()),
    }
}

fn same(what: &str, ours: &str, expected: Option<&str>) -> Result<(), String> {
    if Some(ours) == expected {
        return Ok(());
    }
    Err(format!("{what} {ours}, expected {expected:?}"))
}

fn check(case: &Value, fork: &str, expected: &Value) -> Result<(), String> {
    let raw = case["txbytes"].as_str().ok_or("no `txbytes`")?;
    let admitted = admit(raw, &rules(fork));
    let Some(exception) = expected["exception"].as_str() else {
        return check_valid(admitted?, fork, expected);
    };
    let refusal = match admitted {
        Ok(decoded) => match decoded.recover() {
            Ok(tx) => return Err(format!("{} admitted, expected {exception}", tx.hash)),
            Err(error) => error.to_string(),
        },
        Err(refusal) => refusal,
    };
    // Where the vector's reason is one that we also tell apart, the text must say so.
    let word = match exception.trim_start_matches("TransactionException.") {
        "INTRINSIC_GAS_TOO_LOW" => "intrinsic gas too low",
        "NONCE_TOO_BIG" => "nonce has max value",
        _ => "",
    };
    if refusal.contains(word) { Ok(()) } else { Err(format!("{exception} refused as {refusal}")) }
}

#[test]
fn transactions() {
    let Some(files) = suite("transactions") else { return };
    let mut tally = Tally::default();
    for file in files.iter().filter(|file| file.path.ends_with(".json")) {
        let cases: Value = serde_json::from_slice(&file.bytes).unwrap();
        for (name, case) in cases.as_object().unwrap() {
            let case_name = format!("{}::{name}", file.path);
            let results = case["result"].as_object().unwrap();
            match FORKS.iter().find_map(|fork| Some((fork, results.get(*fork)?))) {
                Some((fork, expected)) => tally.ran(&case_name, check(case, fork, expected)),
                None => tally.exclude(&case_name, "only forks before London"),
            }
        }
    }
    tally.finish("transactions");
}
