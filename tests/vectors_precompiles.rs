//! go-ethereum's vectors for each precompiled contract, as calls through our simulator: what it
//! returns, what it costs, and what it refuses.

mod support;

use alloy_primitives::{Address, B256, Bytes, U256, hex};
use basalt::{
    execution::{evm::Rules, simulate::CallSimulator},
    types::{
        diff::Account,
        ids::BlockNumber,
        mini_block::BlockEnvironment,
        view::{CallOutcome, CallRequest, Simulator as _, StateView, ViewError},
    },
};
use serde_json::Value;
use support::vectors::{self, Tally};

const SUITE: &str = "precompiles";
/// Gas of a transaction before its call begins (EIP-2028), and at least (EIP-7623).
const TRANSACTION_GAS: u64 = 21_000;
const TOKEN_GAS: u64 = 4;
const TOKEN_FLOOR_GAS: u64 = 10;
const TOKENS_A_BYTE: u64 = 4;
/// More than the dearest case takes with its call data.
const GAS_MAX: u64 = 1 << 26;

#[test]
fn precompiles() {
    let Some(files) = vectors::suite(SUITE) else { return };
    let mut tally = Tally::default();
    for file in &files {
        let name = file.path.trim_end_matches(".json");
        let (number, gas_is_todays) = contract(name).expect("a contract of Osaka");
        let cases: Vec<Value> = serde_json::from_slice(&file.bytes).expect("JSON");
        for case in &cases {
            let title = format!("{name} {}", case["Name"].as_str().expect("a name"));
            tally.ran(&title, check(number, case, gas_is_todays));
        }
    }
    tally.finish(SUITE);
}

/// The contract that a file speaks of, and whether its prices are Osaka's.
fn contract(file: &str) -> Option<(u64, bool)> {
    let number = match file.trim_start_matches("fail-").to_ascii_lowercase().as_str() {
        "ecrecover" => 0x01,
        // Prices of EIP-198 and EIP-2565: EIP-7883 has raised them, the results stay.
        "modexp" | "modexp_eip2565" => return Some((0x05, false)),
        "modexp_eip7883" => 0x05,
        "bn256add" => 0x06,
        "bn256scalarmul" => 0x07,
        "bn256pairing" => 0x08,
        "blake2f" => 0x09,
        "pointevaluation" => 0x0a,
        "blsg1add" => 0x0b,
        // EIP-2537 ended without a multiplication of its own: it is a sum of one.
        "blsg1mul" | "blsg1multiexp" => 0x0c,
        "blsg2add" => 0x0d,
        "blsg2mul" | "blsg2multiexp" => 0x0e,
        "blspairing" => 0x0f,
        "blsmapg1" => 0x10,
        "blsmapg2" => 0x11,
        "p256verify" => 0x100,
        _ => return None,
    };
    Some((number, true))
}

fn check(number: u64, case: &Value, gas_is_todays: bool) -> Result<(), String> {
    let input = hex::decode(case["Input"].as_str().expect("hex")).expect("hex");
    let rules = Rules::osaka(1);
    let simulator = CallSimulator { rules, gas_max: GAS_MAX, transaction_gas_max: GAS_MAX };
    let to = U256::from(number).to_be_bytes::<32>();
    let call = CallRequest {
        to: Some(Address::from_slice(&to[12..])),
        input: Bytes::from(input.clone()),
        ..CallRequest::default()
    };
    let outcome = simulator.call(&Empty, &block(), &call).map_err(|error| error.to_string())?;
    let expected = case["Expected"].as_str();
    let (output, gas_used) = match (outcome, expected) {
        (CallOutcome::Success { output, gas_used }, Some(_)) => (output, gas_used),
        (CallOutcome::Halt { .. }, None) => return Ok(()),
        (CallOutcome::Success { .. }, None) => {
            return Err(format!("was not refused: {}", case["ExpectedError"]));
        }
        (other, Some(_)) => return Err(format!("ended in {other:?}")),
        (other, None) => return Err(format!("was refused as {other:?}")),
    };
    if Some(hex::encode(&output).as_str()) != expected {
        return Err(format!("returned {output}, expected {expected:?}"));
    }
    let gas = transaction_gas(&input, case["Gas"].as_u64().expect("gas"));
    if gas_is_todays && gas_used != gas {
        return Err(format!("took {gas_used} gas, expected {gas}"));
    }
    Ok(())
}

fn transaction_gas(input: &[u8], call_gas: u64) -> u64 {
    let tokens: u64 = input.iter().map(|byte| if *byte == 0 { 1 } else { TOKENS_A_BYTE }).sum();
    let floor = TRANSACTION_GAS + tokens * TOKEN_FLOOR_GAS;
    floor.max(TRANSACTION_GAS + tokens * TOKEN_GAS + call_gas)
}

fn block() -> BlockEnvironment {
    BlockEnvironment {
        number: 1,
        timestamp: 1,
        base_fee: 0,
        gas_limit: GAS_MAX,
        fee_recipient: Address::ZERO,
        prev_randao: B256::ZERO,
    }
}

/// A chain on which nobody is.
struct Empty;

impl StateView for Empty {
    fn account(&self, _: &Address) -> Result<Option<Account>, ViewError> {
        Ok(None)
    }

    fn storage(&self, _: &Address, _: &U256) -> Result<U256, ViewError> {
        Ok(U256::ZERO)
    }

    fn code(&self, _: &B256) -> Result<Option<Bytes>, ViewError> {
        Ok(None)
    }

    fn block_hash(&self, _: BlockNumber) -> Result<Option<B256>, ViewError> {
        Ok(None)
    }
}
