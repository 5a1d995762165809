//! Every engine equals `serial`: the same outcome, diff and block for whatever is thrown at both.

use crate::execution::{
    block::OpenBlock,
    evm::{Evm, Rules, set_tx_env},
    hashes::BlockHashes,
    parallel::engine::Parallel,
    serial::{Engine, Serial},
    store::{CacheLimits, Store},
    testing::{MemoryView, shown},
};
use crate::types::{
    limits::TRANSACTION_GAS_MAX,
    mini_block::BlockEnvironment,
    overlay::Overlay,
    transaction::{RecoveredTransaction, SharedTransaction},
};
use alloy_consensus::{
    SignableTransaction, Transaction as _, TxEip1559, TxEip2930, TxEnvelope, TxLegacy,
};
use alloy_eips::{
    eip2718::Encodable2718 as _,
    eip2930::{AccessList, AccessListItem},
};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, hex, keccak256};
use proptest::prelude::*;
use revm::context::TxEnv;
use std::sync::Arc;

const CHAIN: u64 = 31_337;
const BASE_FEE: u64 = 1_000;
const FUNDS: u64 = 60_000_000_000;

/// Accounts of every kind that a transfer can meet.
const SENDERS: usize = 4;
const FEE_RECIPIENT: usize = 4;
const CONTRACT: usize = 5;
const DELEGATED: usize = 6;
const EMPTY: usize = 7;
const RICHEST: usize = 8;
const PRECOMPILE: usize = 9;
const NOBODY: usize = 10;
const KINDS: usize = 12;

fn who(at: usize) -> Address {
    match at {
        PRECOMPILE => Address::with_last_byte(2),
        _ => Address::repeat_byte(u8::try_from(at + 1).unwrap()),
    }
}

fn state() -> MemoryView {
    let mut view = MemoryView::with_contracts();
    for at in 0..SENDERS {
        view.put(who(at), 0, U256::from(FUNDS), Bytes::new());
    }
    // Adds one to slot 0, then gives back what BALANCE says of the fee recipient.
    let code = format!("5f546001015f55 73{} 31 5f52 60205ff3", hex::encode(who(FEE_RECIPIENT)));
    let code = Bytes::from(hex::decode(code.replace(' ', "")).unwrap());
    view.put(who(CONTRACT), 1, U256::from(5), code);
    let delegation = [&[0xef, 0x01, 0x00], who(CONTRACT).as_slice()].concat();
    view.put(who(DELEGATED), 0, U256::from(FUNDS), delegation.into());
    view.put(who(EMPTY), 0, U256::ZERO, Bytes::new());
    view.put(who(RICHEST), 0, U256::MAX - U256::from(FUNDS), Bytes::new());
    view
}

/// What a generated transaction is made of.
#[derive(Debug, Clone)]
struct Sketch {
    from: usize,
    to: usize,
    slip: i64,
    wei: U256,
    gas_limit: u64,
    fee_cap: u128,
    tip: u128,
    form: u8,
    input: Vec<u8>,
    chain_id: u64,
}

fn sketch() -> impl Strategy<Value = Sketch> {
    let from = prop_oneof![20 => 0..SENDERS, 1 => Just(DELEGATED), 1 => Just(NOBODY),
        1 => Just(RICHEST)];
    let slip = prop_oneof![20 => Just(0i64), 1 => Just(1), 1 => Just(-1)];
    let wei = prop_oneof![8 => (0..FUNDS / 8).prop_map(U256::from), 2 => Just(U256::ZERO),
        1 => Just(U256::from(FUNDS)), 1 => Just(U256::MAX)];
    let gas = prop_oneof![12 => Just(21_000u64), 4 => Just(100_000), 1 => Just(20_999),
        1 => Just(TRANSACTION_GAS_MAX), 1 => Just(TRANSACTION_GAS_MAX + 1)];
    let fee_cap = prop_oneof![8 => Just(1_010u128), 3 => Just(1_000), 1 => Just(999),
        1 => Just(u128::MAX)];
    let tip = prop_oneof![4 => Just(7u128), 3 => Just(0), 2 => Just(1_000), 1 => Just(2_000)];
    let input = prop_oneof![6 => Just(Vec::new()), 1 => Just(vec![0, 1, 2])];
    let chain_id = prop_oneof![20 => Just(CHAIN), 1 => Just(1)];
    (from, 0..KINDS, slip, wei, gas, fee_cap, tip, 0u8..8, input, chain_id).prop_map(
        |(from, to, slip, wei, gas_limit, fee_cap, tip, form, input, chain_id)| Sketch {
            from,
            to,
            slip,
            wei,
            gas_limit,
            fee_cap,
            tip,
            form,
            input,
            chain_id,
        },
    )
}

impl Sketch {
    fn envelope(&self, nonce: u64) -> TxEnvelope {
        let signature = Signature::new(U256::from(1), U256::from(1), false);
        let (to, value, input) = (TxKind::Call(who(self.to)), self.wei, self.input.clone().into());
        let (gas_limit, chain_id, gas_price) = (self.gas_limit, self.chain_id, self.fee_cap);
        match self.form {
            0 => {
                let chain_id = (self.tip != 0).then_some(chain_id);
                let tx = TxLegacy { chain_id, nonce, gas_price, gas_limit, to, value, input };
                tx.into_signed(signature).into()
            }
            1 => {
                let item = AccessListItem { address: who(self.to), storage_keys: vec![B256::ZERO] };
                let list = if self.tip == 0 { Vec::new() } else { vec![item] };
                let access_list = AccessList(list);
                let tx = TxEip2930 {
                    chain_id,
                    nonce,
                    gas_price,
                    gas_limit,
                    to,
                    value,
                    access_list,
                    input,
                };
                tx.into_signed(signature).into()
            }
            form => {
                let tx = TxEip1559 {
                    chain_id,
                    nonce,
                    gas_limit,
                    max_fee_per_gas: self.fee_cap,
                    max_priority_fee_per_gas: self.tip,
                    to: if form == 2 { TxKind::Create } else { to },
                    value,
                    access_list: AccessList::default(),
                    input,
                };
                tx.into_signed(signature).into()
            }
        }
    }
}

/// Transactions with nonces that mostly follow each other.
fn transactions(sketches: &[Sketch]) -> Vec<SharedTransaction> {
    let mut nonces = [0i64; KINDS];
    let make = |sketch: &Sketch| {
        let next = &mut nonces[sketch.from];
        let nonce = (*next + sketch.slip).max(0).unsigned_abs();
        *next += i64::from(sketch.slip == 0);
        let envelope = sketch.envelope(nonce);
        let raw = Bytes::from(envelope.encoded_2718());
        let sender = who(sketch.from);
        let hash = keccak256([sender.as_slice(), &raw[..]].concat());
        Arc::new(RecoveredTransaction::new(envelope, hash, (sender, Vec::new()), raw))
    };
    sketches.iter().map(make).collect()
}

fn evm(environment: &BlockEnvironment) -> Evm {
    let limits = CacheLimits { entries_max: 6, code_bytes_max: 64 };
    let hashes = BlockHashes::new(Box::new(|| None));
    let store = Store::new(Arc::new(state()), Overlay::default(), hashes, limits);
    let mut evm = Evm::new(Rules::osaka(CHAIN), store);
    evm.set_block(environment, 0);
    evm
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn transfers_in_the_ledger_equal_transfers_in_the_evm(
        sketches in prop::collection::vec(sketch(), 1..80),
        cut in 1usize..40,
        pays_fees in prop_oneof![3 => Just(FEE_RECIPIENT), 1 => Just(0), 1 => Just(EMPTY),
            1 => Just(CONTRACT), 1 => Just(RICHEST)],
    ) {
        let environment = BlockEnvironment {
            number: 1,
            timestamp: 1,
            base_fee: BASE_FEE,
            gas_limit: 2 * TRANSACTION_GAS_MAX,
            fee_recipient: who(pays_fees),
            prev_randao: B256::ZERO,
        };
        let mut serial = Serial { evm: evm(&environment) };
        let mut direct = Parallel::new(evm(&environment), 0).0;
        let (mut block, mut same) = (OpenBlock::new(environment), OpenBlock::new(environment));
        let mut found = TxEnv::default();
        for part in transactions(&sketches).chunks(cut) {
            for transaction in part {
                let envelope = &transaction.envelope;
                let expected = TxEnv {
                    tx_type: envelope.tx_type().into(),
                    caller: transaction.sender,
                    gas_limit: envelope.gas_limit(),
                    gas_price: envelope.max_fee_per_gas(),
                    kind: envelope.kind(),
                    value: envelope.value(),
                    data: envelope.input().clone(),
                    nonce: envelope.nonce(),
                    chain_id: envelope.chain_id(),
                    access_list: envelope.access_list().cloned().unwrap_or_default(),
                    gas_priority_fee: envelope.max_priority_fee_per_gas(),
                    ..TxEnv::default()
                };
                // What the one before left there is gone.
                set_tx_env(&mut found, transaction, transaction.input.clone());
                prop_assert_eq!(&found, &expected);
            }
            let expected = serial.execute(&mut block, part.to_vec(), &mut || false).unwrap();
            let found = direct.execute(&mut same, part.to_vec(), &mut || false).unwrap();
            prop_assert_eq!(shown(&expected), shown(&found));
            prop_assert_eq!(&block, &same);
            // As the worker does: what the cache forgets is found in the overlay.
            for (evm, diff) in [(&mut serial.evm, expected.diff), (&mut direct.evm, found.diff)] {
                evm.store().overlay_mut().push(1, Arc::new(diff));
            }
        }
    }
}

/// Otherwise the property above could hold for an engine that never takes one.
#[test]
fn plain_transfers_are_taken_and_nothing_else_is() {
    let plain = Sketch {
        from: 0,
        to: 1,
        slip: 0,
        wei: U256::from(1),
        gas_limit: 21_000,
        fee_cap: 1_010,
        tip: 7,
        form: 7,
        input: Vec::new(),
        chain_id: CHAIN,
    };
    let cases = [
        (plain.clone(), 1),
        (Sketch { form: 0, ..plain.clone() }, 1),
        (Sketch { to: 0, ..plain.clone() }, 1),
        (Sketch { to: NOBODY, wei: U256::ZERO, ..plain.clone() }, 1),
        (Sketch { to: FEE_RECIPIENT, ..plain.clone() }, 1),
        (Sketch { to: CONTRACT, gas_limit: 100_000, ..plain.clone() }, 0),
        (Sketch { to: DELEGATED, gas_limit: 100_000, ..plain.clone() }, 0),
        (Sketch { to: PRECOMPILE, gas_limit: 100_000, ..plain.clone() }, 0),
        (Sketch { from: DELEGATED, ..plain.clone() }, 0),
        (Sketch { input: vec![1], gas_limit: 100_000, ..plain.clone() }, 0),
        (Sketch { form: 1, gas_limit: 100_000, ..plain.clone() }, 0),
        (Sketch { wei: U256::MAX, ..plain.clone() }, 0),
        (Sketch { slip: 1, ..plain }, 0),
    ];
    for (sketch, taken) in cases {
        let environment = BlockEnvironment {
            number: 1,
            timestamp: 1,
            base_fee: BASE_FEE,
            gas_limit: 2 * TRANSACTION_GAS_MAX,
            fee_recipient: who(FEE_RECIPIENT),
            prev_randao: B256::ZERO,
        };
        let mut direct = Parallel::new(evm(&environment), 0).0;
        let list = transactions(std::slice::from_ref(&sketch));
        direct.execute(&mut OpenBlock::new(environment), list, &mut || false).unwrap();
        assert_eq!(direct.counts.direct, taken, "{sketch:?}");
    }
}
