//! Real blocks of mainnet with the state that they touch: gas, receipts root and bloom, by the
//! serial and the parallel engine.

mod support;
#[path = "support/engines.rs"]
mod engines;

use alloy_consensus::{Block, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bloom, Bytes, U256, keccak256};
use alloy_rlp::Decodable as _;
use alloy_trie::root::ordered_trie_root_with_encoder;
use basalt::{
    crypto::recover::recover,
    execution::{
        evm::{Fork, Rules},
        store::CacheLimits,
    },
    types::{
        diff::Account,
        ids::BlockNumber,
        map::Map,
        mini_block::BlockEnvironment,
        transaction::{RecoveredTransaction, SharedTransaction},
        view::{StateView, ViewError},
    },
};
use engines::Setting;
use serde_json::Value;
use std::sync::Arc;
use support::vectors::{self, Tally, bytes, number, parsed};

const SUITE: &str = "mainnet-prestate";
const TOO_OLD: &str = "fork before Paris: rules of proof of work, which this chain never had";
const LANES: [usize; 3] = [1, 2, 7];

#[test]
fn mainnet_prestate() {
    let Some(files) = vectors::suite(SUITE) else { return };
    let mut tally = Tally::default();
    for file in &files {
        let case: Value = serde_json::from_slice(&file.bytes).expect("JSON");
        match fork(case["fork"].as_str().expect("a fork")) {
            Some(fork) => tally.ran(&file.path, check(&case, fork)),
            None => tally.exclude(&file.path, TOO_OLD),
        }
    }
    tally.finish(SUITE);
}

fn fork(name: &str) -> Option<Fork> {
    match name {
        "Paris" => Some(Fork::Paris),
        "Shanghai" => Some(Fork::Shanghai),
        "Cancun" => Some(Fork::Cancun),
        "Prague" => Some(Fork::Prague),
        "Osaka" => Some(Fork::Osaka),
        _ => None,
    }
}

fn check(case: &Value, fork: Fork) -> Result<(), String> {
    let raw = bytes(&case["block"]);
    let block = Block::<TxEnvelope>::decode(&mut &raw[..]).map_err(|error| error.to_string())?;
    let header = &block.header;
    let mut rules = Rules::osaka(number(&case["chainId"]).unwrap_or(1));
    rules.fork = fork;
    if fork < Fork::Prague {
        // EIP-4844's own constant.
        rules.blob_base_fee_update_fraction = 3_338_477;
    }
    let setting = Setting {
        state: Arc::new(state(case)),
        rules,
        environment: BlockEnvironment {
            number: header.number,
            timestamp: header.timestamp,
            base_fee: header.base_fee_per_gas.unwrap_or_default(),
            gas_limit: header.gas_limit,
            fee_recipient: header.beneficiary,
            prev_randao: header.mix_hash,
        },
        excess_blob_gas: header.excess_blob_gas.unwrap_or_default(),
        limits: CacheLimits::default(),
    };
    let list = block
        .body
        .transactions
        .into_iter()
        .map(recovered)
        .collect::<Result<Vec<SharedTransaction>, String>>()?;
    let expected = &case["expect"];
    for lanes in LANES {
        for cut in [list.len().max(1), 40] {
            let cuts: Vec<_> = list.chunks(cut).collect();
            let agreed = setting.compare(&cuts, lanes)?;
            let root = ordered_trie_root_with_encoder(&agreed.receipts, |receipt, out| {
                receipt.envelope().encode_2718(out);
            });
            let bloom = agreed.receipts.iter().fold(Bloom::ZERO, |all, it| all | it.bloom());
            same("gas", agreed.gas_used, number(&expected["gasUsed"]).expect("a number"))?;
            same("receipts root", root, parsed(&expected["receiptsRoot"]))?;
            same("bloom", bloom, parsed(&expected["logsBloom"]))?;
        }
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Display>(what: &str, ours: T, theirs: T) -> Result<(), String> {
    if ours == theirs { Ok(()) } else { Err(format!("{what} is {ours}, expected {theirs}")) }
}

fn recovered(envelope: TxEnvelope) -> Result<SharedTransaction, String> {
    let sender = recover(envelope.signature_hash(), envelope.signature())
        .map_err(|error| error.to_string())?;
    let raw = Bytes::from(envelope.encoded_2718());
    let hash = keccak256(&raw);
    Ok(Arc::new(RecoveredTransaction::new(envelope, hash, (sender, Vec::new()), raw)))
}

/// What is known of the state before the block; the rest is not touched.
struct Known {
    accounts: Map<Address, (Account, Map<U256, U256>)>,
    codes: Map<B256, Bytes>,
    hashes: Map<BlockNumber, B256>,
}

fn state(case: &Value) -> Known {
    let mut known =
        Known { accounts: Map::default(), codes: Map::default(), hashes: Map::default() };
    for (address, fields) in case["pre"].as_object().expect("an object") {
        let code = fields.get("code").map(bytes).unwrap_or_default();
        let code_hash = keccak256(&code);
        known.codes.insert(code_hash, code);
        let nonce = number(&fields["nonce"]).expect("a number");
        let account = Account { nonce, balance: parsed(&fields["balance"]), code_hash };
        let slots = fields.get("storage").and_then(Value::as_object).into_iter().flatten();
        let slots = slots.map(|(slot, value)| (slot.parse().expect("a slot"), parsed(value)));
        known.accounts.insert(address.parse().expect("an address"), (account, slots.collect()));
    }
    for (at, hash) in case["blockHashes"].as_object().into_iter().flatten() {
        let at = at.strip_prefix("0x").map_or_else(
            || at.parse().expect("a number"),
            |hex| u64::from_str_radix(hex, 16).expect("a number"),
        );
        known.hashes.insert(at, parsed(hash));
    }
    known
}

impl StateView for Known {
    fn account(&self, address: &Address) -> Result<Option<Account>, ViewError> {
        let found = self.accounts.get(address).map(|(account, _)| *account);
        // The vectors list accounts that do not exist yet as empty ones.
        Ok(found.filter(|account| !account.is_empty()))
    }

    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ViewError> {
        let slots = self.accounts.get(address).map(|(_, slots)| slots);
        Ok(slots.and_then(|slots| slots.get(slot)).copied().unwrap_or_default())
    }

    fn code(&self, hash: &B256) -> Result<Option<Bytes>, ViewError> {
        Ok(self.codes.get(hash).cloned())
    }

    fn block_hash(&self, number: BlockNumber) -> Result<Option<B256>, ViewError> {
        Ok(self.hashes.get(&number).copied())
    }
}
