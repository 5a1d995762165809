//! The parallel engine equals the serial one, whatever the transactions, the lanes and the
//! schedule; and it would be noticed if it did not.

use crate::execution::{
    block::OpenBlock,
    evm::{Evm, Rules},
    hashes::BlockHashes,
    parallel::{
        baton::Baton,
        counts::Counts,
        engine::Parallel,
        pace::Pace,
        planted::{Fault, PLANTED},
    },
    serial::{Engine, Serial},
    store::{CacheLimits, Store},
    testing::{MemoryView, shown},
};
use crate::types::{
    mini_block::BlockEnvironment,
    overlay::Overlay,
    transaction::{RecoveredTransaction, SharedTransaction},
};
use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEip7702, TxEnvelope};
use alloy_eips::{eip2718::Encodable2718 as _, eip2930::AccessList, eip7702::Authorization};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, hex, keccak256};
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use std::{sync::Arc, thread};

const CHAIN: u64 = 31_337;
const BASE_FEE: u64 = 1_000;
const FUNDS: u64 = 60_000_000_000;
const SENDERS: usize = 6;

/// Moves an amount (second argument) from the caller's slot to that of the first; logs it;
/// reverts where the caller has too little.
const TOKEN: &str = "335460243580821060205780910333556004358054820190555f5260205fa000 5b5f5ffd";
/// Adds one and the call's wei to slot 0, and logs the sum.
const POOL: &str = "5f546001013401805f555f5260205fa000";
/// Notes the balance of the argument.
const BALANCES: &str = "60043531335500";
/// Notes the argument's code hash and size.
const CODES: &str = "6004353f6004353b01335500";
/// Pays the call's wei on to the argument and notes whether that went well.
const PAYS: &str = "5f5f5f5f346004355af1335500";
/// Makes a contract with storage at an address by the argument, gone at the end of it.
const BRIEF: &str = "6560015f5533ff5f526004356006601a34f5335500";
/// The same, but it stays.
const STAYS: &str = "6760015f5560015ff35f526004356008601834f5335500";
/// Keeps count in transient storage.
const TRANSIENT: &str = "60015f5d5f5c5f54015f5500";
/// Notes the parent's hash.
const HASHES: &str = "60014303403355 00";
/// Empties slot 0, for a refund, and uses all gas where there was nothing.
const EMPTIES: &str = "5f548015600b575f5f5500 5bfe";
/// Calls the token for the caller's own account in it: a call within a call.
const CALLS: &str = "366000600037 5f5f366000 5f 73TOKEN 5af1335500";

const CONTRACTS: [&str; 11] =
    [TOKEN, POOL, BALANCES, CODES, PAYS, BRIEF, STAYS, TRANSIENT, HASHES, EMPTIES, CALLS];
/// After the contracts: fee recipient, an account that delegates to the pool, nobody's address.
const FEE_RECIPIENT: usize = SENDERS + CONTRACTS.len();
const DELEGATED: usize = FEE_RECIPIENT + 1;
const NOBODY: usize = DELEGATED + 1;
/// Addresses of contracts that may come to be; there is wei already.
const CHILD: usize = NOBODY + 1;
const BRIEF_CHILD: usize = CHILD + 1;
const PARTIES: usize = BRIEF_CHILD + 1;

fn who(at: usize) -> Address {
    match at {
        CHILD => child(SENDERS + 6, &hex!("60015f5560015ff3")),
        BRIEF_CHILD => child(SENDERS + 5, &hex!("60015f5533ff")),
        _ => Address::repeat_byte(u8::try_from(at + 1).unwrap()),
    }
}

/// What a factory makes for the first sender.
fn child(factory: usize, code: &[u8]) -> Address {
    who(factory).create2_from_code(B256::left_padding_from(who(0).as_slice()), code)
}

fn state() -> MemoryView {
    let mut view = MemoryView::with_contracts();
    for at in 0..SENDERS {
        view.put(who(at), 0, U256::from(FUNDS), Bytes::new());
    }
    for (at, code) in CONTRACTS.iter().enumerate() {
        let address = who(SENDERS + at);
        let code = code.replace("TOKEN", &hex::encode(who(SENDERS))).replace(' ', "");
        view.put(address, 1, U256::from(9), hex::decode(code).unwrap().into());
        let slots = view.slots.entry(address).or_default();
        for sender in 0..SENDERS {
            slots.insert(U256::from_be_slice(who(sender).as_slice()), U256::from(1_000));
        }
        slots.insert(U256::ZERO, U256::from(1));
    }
    for at in [CHILD, BRIEF_CHILD] {
        view.put(who(at), 0, U256::from(7), Bytes::new());
    }
    let delegation = [&[0xef, 0x01, 0x00], who(SENDERS + 1).as_slice()].concat();
    view.put(who(DELEGATED), 0, U256::from(FUNDS), delegation.into());
    view
}

/// What a generated transaction is made of.
#[derive(Debug, Clone)]
struct Sketch {
    from: usize,
    slip: bool,
    kind: u8,
    to: usize,
    argument: usize,
    amount: u64,
    wei: u64,
    gas_limit: u64,
}

fn sketch(parties: usize) -> impl Strategy<Value = Sketch> {
    let from = prop_oneof![20 => 0..SENDERS, 1 => Just(DELEGATED), 1 => Just(FEE_RECIPIENT)];
    let to = 0..parties;
    let argument = prop_oneof![6 => 0..parties, 1 => Just(0)];
    let slip = prop_oneof![30 => Just(false), 1 => Just(true)];
    let wei = prop_oneof![4 => Just(0u64), 2 => 1u64..1_000_000, 1 => Just(FUNDS / 3)];
    let gas = prop_oneof![12 => Just(200_000u64), 1 => Just(30_000), 1 => Just(22_000)];
    (from, slip, 0u8..12, to, argument, 0u64..400, wei, gas).prop_map(
        |(from, slip, kind, to, argument, amount, wei, gas_limit)| Sketch {
            from,
            slip,
            kind,
            to,
            argument,
            amount,
            wei,
            gas_limit,
        },
    )
}

impl Sketch {
    fn signed(&self, nonce: u64, authority_nonce: u64) -> SharedTransaction {
        let signature = Signature::new(U256::from(1), U256::from(1), false);
        let argument = B256::left_padding_from(who(self.argument).as_slice());
        let amount = B256::from(U256::from(self.amount));
        let input = [&[1, 2, 3, 4], argument.as_slice(), amount.as_slice()].concat();
        let input = if self.kind == 0 { Bytes::new() } else { Bytes::from(input) };
        let (to, value, gas_limit) = (who(self.to), U256::from(self.wei), self.gas_limit);
        let fees = (1_010, u128::from(self.amount % 3) * 5);
        let sender = who(self.from);
        let mut authorities = Vec::new();
        let envelope = if self.kind == 1 {
            let given = Authorization {
                chain_id: U256::from(CHAIN),
                address: if self.amount.is_multiple_of(4) { Address::ZERO } else { to },
                nonce: authority_nonce,
            };
            authorities.push(Some(who(self.argument)));
            let tx = TxEip7702 {
                chain_id: CHAIN,
                nonce,
                gas_limit,
                max_fee_per_gas: fees.0,
                max_priority_fee_per_gas: fees.1,
                to: who(self.argument),
                value,
                access_list: AccessList::default(),
                authorization_list: vec![given.into_signed(signature)],
                input,
            };
            TxEnvelope::from(tx.into_signed(signature))
        } else {
            let creates = self.kind == 2;
            let tx = TxEip1559 {
                chain_id: CHAIN,
                nonce,
                gas_limit,
                max_fee_per_gas: fees.0,
                max_priority_fee_per_gas: fees.1,
                to: if creates { TxKind::Create } else { TxKind::Call(to) },
                value,
                access_list: AccessList::default(),
                input: if creates { hex!("60015f5560015ff3").into() } else { input },
            };
            TxEnvelope::from(tx.into_signed(signature))
        };
        let raw = Bytes::from(envelope.encoded_2718());
        let hash = keccak256([sender.as_slice(), &raw[..]].concat());
        Arc::new(RecoveredTransaction::new(envelope, hash, (sender, authorities), raw))
    }
}

/// Transactions with nonces that mostly follow each other.
fn transactions(sketches: &[Sketch]) -> Vec<SharedTransaction> {
    let mut nonces = [0u64; PARTIES];
    let make = |sketch: &Sketch| {
        let nonce = nonces[sketch.from] + u64::from(sketch.slip);
        nonces[sketch.from] += u64::from(!sketch.slip);
        let authority_nonce = nonces.get(sketch.argument).copied().unwrap_or_default();
        if sketch.kind == 1 && sketch.argument < PARTIES {
            nonces[sketch.argument] += 1;
        }
        sketch.signed(nonce, authority_nonce)
    };
    sketches.iter().map(make).collect()
}

fn environment() -> BlockEnvironment {
    BlockEnvironment {
        number: 9,
        timestamp: 1,
        base_fee: BASE_FEE,
        gas_limit: 12_000_000,
        fee_recipient: who(FEE_RECIPIENT),
        prev_randao: B256::ZERO,
    }
}

fn evm(cache: usize) -> Evm {
    let limits = CacheLimits { entries_max: cache, code_bytes_max: 1_024 };
    let mut hashes = BlockHashes::new(Box::new(|| None));
    hashes.learn(8, B256::repeat_byte(8));
    let store = Store::new(Arc::new(state()), Overlay::default(), hashes, limits);
    let mut evm = Evm::new(Rules::osaka(CHAIN), store);
    evm.set_block(&environment(), 0);
    evm
}

/// Serial and parallel side by side; what the parallel engine counted, or the first difference.
fn compare(
    cuts: &[&[SharedTransaction]],
    lanes: usize,
    cache: usize,
    pace: Option<Arc<dyn Pace>>,
) -> Result<Counts, TestCaseError> {
    let mut serial = Serial { evm: evm(cache) };
    let (mut parallel, crew) = Parallel::paced(evm(cache), lanes, pace.clone());
    let (mut block, mut same) = (OpenBlock::new(environment()), OpenBlock::new(environment()));
    thread::scope(|scope| {
        crew.into_iter().for_each(|lane| drop(scope.spawn(move || lane.run())));
        let result = cuts.iter().enumerate().try_for_each(|(at, cut)| {
            let expected = serial.execute(&mut block, cut.to_vec(), &mut || false).unwrap();
            // Every second one in two parts.
            let (early, late) = cut.split_at(cut.len() / 2 * (at % 2));
            let mut found = parallel.extend(&mut same, early.to_vec(), &mut || false).unwrap();
            found.append(parallel.extend(&mut same, late.to_vec(), &mut || false).unwrap());
            parallel.end(&mut same, &mut found);
            prop_assert_eq!(shown(&expected), shown(&found));
            prop_assert_eq!(&block, &same);
            for (evm, diff) in [(&mut serial.evm, expected.diff), (&mut parallel.evm, found.diff)] {
                evm.store().overlay_mut().push(1, Arc::new(diff));
            }
            Ok(())
        });
        let counts = parallel.counts;
        drop(parallel);
        if let Some(pace) = pace {
            pace.leave(0);
        }
        result.map(|()| counts)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// One thread at a time, in an order from a seed.
    #[test]
    fn it_equals_serial_under_any_schedule(
        sketches in prop::collection::vec(sketch(PARTIES), 2..60),
        cut in 2usize..40,
        lanes in 1usize..4,
        cache in prop_oneof![Just(6usize), Just(100_000)],
        seed in any::<u64>(),
    ) {
        let list = transactions(&sketches);
        let cuts: Vec<_> = list.chunks(cut).collect();
        let baton = Arc::new(Baton::new(seed, lanes + 1));
        compare(&cuts, lanes, cache, Some(baton))?;
    }

    /// As fast as the machine goes.
    #[test]
    fn it_equals_serial_at_full_speed(
        sketches in prop::collection::vec(sketch(PARTIES), 2..300),
        cut in 2usize..200,
        lanes in 1usize..5,
        cache in prop_oneof![Just(6usize), Just(100_000)],
    ) {
        let list = transactions(&sketches);
        let cuts: Vec<_> = list.chunks(cut).collect();
        compare(&cuts, lanes, cache, None)?;
    }
}

/// A list of blocks from a seed, the same in every run.
fn drawn(count: usize, parties: usize) -> impl Iterator<Item = (Vec<SharedTransaction>, u64)> {
    let mut runner = TestRunner::deterministic();
    let blocks = (prop::collection::vec(sketch(parties), 20..80), any::<u64>());
    (0..count).map(move |_| {
        let (sketches, seed) = blocks.new_tree(&mut runner).unwrap().current();
        (transactions(&sketches), seed)
    })
}

/// Otherwise the laws could hold for an engine whose lanes do nothing.
#[test]
fn lanes_execute_most_and_everything_else_happens_too() {
    let mut all = Counts::default();
    for (list, seed) in drawn(60, PARTIES) {
        let baton = Arc::new(Baton::new(seed, 3));
        let counts = compare(&[&list], 2, 100_000, Some(baton)).unwrap();
        all.direct += counts.direct;
        all.ahead += counts.ahead;
        all.in_place += counts.in_place;
        all.aborted += counts.aborted;
        all.abandoned += counts.abandoned;
    }
    println!("{all:?}");
    assert!(all.ahead > 400 && all.direct > 40, "{all:?}");
    assert!(all.in_place > all.aborted + all.abandoned, "{all:?}");
    assert!(all.aborted > 40 && all.abandoned > 20, "{all:?}");
}

/// The call of a contract with that number, by few senders in turn.
fn call(at: usize) -> SharedTransaction {
    let (from, to, argument) = (at % SENDERS, SENDERS + 2, NOBODY);
    let gas_limit = 60_000;
    let it = Sketch { from, slip: false, kind: 3, to, argument, amount: 0, wei: 0, gas_limit };
    it.signed(u64::try_from(at / SENDERS).unwrap(), 0)
}

/// The chains of few senders in turn: lanes must not leave the first of each to the committing
/// thread, or they could begin none of what follows it.
#[test]
fn lanes_run_along_chains_from_their_first() {
    let list: Vec<_> = (0..180).map(call).collect();
    let mut all = Counts::default();
    for seed in 0..8 {
        let baton = Arc::new(Baton::new(seed, 3));
        let counts = compare(&[&list], 2, 100_000, Some(baton)).unwrap();
        all.ahead += counts.ahead;
        all.in_place += counts.in_place;
    }
    println!("{all:?}");
    assert!(all.ahead > all.in_place / 4, "{all:?}");
}

/// Where the committing thread is through with a cut before its plan is there, the planner comes
/// back for one of the next cuts.
#[test]
fn a_plan_that_comes_too_late_is_not_the_last() {
    let list: Vec<_> = (0..240).map(call).collect();
    let (early, late) = list.split_at(80);
    let cuts: Vec<_> = early.chunks(4).chain([late]).collect();
    let ahead = |seed| {
        let baton = Arc::new(Baton::new(seed, 3));
        compare(&cuts, 2, 100_000, Some(baton)).unwrap().ahead
    };
    let ahead: Vec<u64> = (0..8).map(ahead).collect();
    println!("{ahead:?}");
    assert!(ahead.iter().all(|ahead| *ahead > 20), "{ahead:?}");
}

/// Each fault shows as a difference (or as a state that cannot be) under some seed.
#[test]
fn a_planted_fault_is_noticed() {
    for fault in [
        Fault::NoCheck,
        Fault::NoAccountCheck,
        Fault::NoSlotCheck,
        Fault::ExpectationTrusted,
        Fault::LookedAtBalanceIsFree,
        Fault::DifferenceDropped,
        Fault::TipDropped,
        Fault::TipsLateForCheck,
        Fault::TipsLateInPlace,
        Fault::TipsOutdated,
        Fault::VoidDropped,
        Fault::CodeDropped,
    ] {
        PLANTED.set(Some(fault));
        let at = drawn(600, PARTIES).position(|(list, seed)| {
            let baton = Arc::new(Baton::new(seed, 3));
            compare(&[&list], 2, 100_000, Some(baton)).is_err()
        });
        PLANTED.set(None);
        println!("{fault:?}: block {at:?}");
        assert!(at.is_some(), "{fault:?} went unnoticed");
    }
}
