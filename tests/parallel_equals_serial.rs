//! The parallel engine equals the serial one: on generated blocks of real contracts, and on the
//! state vectors, those of one file taken as one block.
//!
//! `BASALT_PARALLEL_SEEDS` says how many generated blocks (a few hundred unless told; thousands
//! by night).

mod support;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/world.rs"]
mod world;

use alloy_consensus::{SignableTransaction as _, TxEip7702, TxEnvelope};
use alloy_eips::{
    eip2718::{Decodable2718 as _, Encodable2718 as _},
    eip7702::Authorization,
};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, hex, keccak256};
use basalt::{
    execution::{
        evm::{Fork, Rules},
        parallel::counts::Counts,
        store::CacheLimits,
    },
    types::{
        limits::TXS_PER_MINI_BLOCK_MAX,
        mini_block::BlockEnvironment,
        transaction::{RecoveredTransaction, SharedTransaction},
    },
};
use engines::{Agreed, Setting};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use support::vectors::{self, Vector, bytes, number, parsed};
use world::{CHAIN, Memory, Pool, World, call, environment, pay_tokens, terms, transfer, who};

const SEEDS: usize = 240;
const ACCOUNTS: usize = 400;
const STATE_SUITE: &str = "eest-state";

/// Splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 11).expect("64 bits") % below
    }
}

/// Contracts that everybody here uses.
struct Town {
    state: Arc<Memory>,
    tokens: Vec<Address>,
    v2: Vec<Pool>,
    v3: Vec<Pool>,
    /// Makes, by CREATE2 and a salt, a contract that destroys itself at once; and one that stays.
    factories: [Address; 2],
    /// Pays the caller's wei on to the fee recipient, and notes the balance of that.
    collector: Address,
}

fn town() -> Town {
    let mut world = World::new(ACCOUNTS);
    let tokens = (0..3).map(|_| world.token(0..ACCOUNTS)).collect();
    let v2 = (0..2).map(|_| world.v2_pair(0..ACCOUNTS)).collect();
    let v3 = (0..3).map(|_| world.v3_pool(0..ACCOUNTS)).collect();
    let mut put = |at: u8, code: &str| {
        let address = Address::repeat_byte(at);
        world.state.put(address, 1, U256::ZERO, hex::decode(code).expect("hex").into());
        address
    };
    let factories = [
        put(0xf0, "6560015f5533ff5f526004356006601a34f5335500"),
        put(0xf1, "6760015f5560015ff35f526004356008601834f5335500"),
    ];
    let fees = "fe".repeat(20);
    let collector = put(0xf2, &format!("5f5f5f5f3473{fees}5af173{fees}31335500"));
    Town { state: Arc::new(world.state), tokens, v2, v3, factories, collector }
}

/// How a block is mixed.
struct Mix {
    senders: usize,
    /// Of each thousand: how many are plain transfers.
    plain: usize,
    hot: bool,
}

/// A block of `count` transactions.
fn block(town: &Town, random: &mut Random, count: usize, mix: &Mix) -> Vec<SharedTransaction> {
    let mut nonces = vec![0u64; ACCOUNTS];
    (0..count)
        .map(|_| {
            let from = random.below(mix.senders);
            // Once in a while a nonce that does not fit.
            let slips = random.below(200) == 0;
            let nonce = nonces[from] + u64::from(slips);
            let to = if mix.hot { random.below(3) } else { random.below(ACCOUNTS) };
            let kind = if random.below(1_000) < mix.plain { 0 } else { 1 + random.below(12) };
            let (made, authority) = one(town, random, (kind, from, nonce, to));
            nonces[from] += u64::from(!slips);
            if let Some(authority) = authority {
                nonces[authority] += 1;
            }
            made
        })
        .collect()
}

/// A transaction of a kind; and whose nonce it uses beside the sender's.
fn one(
    town: &Town,
    random: &mut Random,
    (kind, from, nonce, to): (usize, usize, u64, usize),
) -> (SharedTransaction, Option<usize>) {
    let sender = who(from);
    let salt = U256::from(random.below(6));
    let made = match kind {
        0 => transfer(sender, nonce, who(to), 1 + random.below(1_000) as u64),
        1..=4 => {
            let token = town.tokens[random.below(town.tokens.len())];
            pay_tokens(sender, nonce, token, who(to))
        }
        5 => town.v2[random.below(town.v2.len())].swap_v2(sender, nonce, to % 2 == 0),
        6..=7 => town.v3[random.below(town.v3.len())].swap(sender, nonce, to % 2 == 0),
        8..=9 => {
            let input = world::abi("", &[salt]);
            call(sender, nonce, town.factories[kind - 8], input, 120_000)
        }
        10 => {
            let tx =
                terms(nonce, TxKind::Call(town.collector), U256::from(5), Bytes::new(), 90_000);
            world::transaction(sender, tx)
        }
        11 => world::transaction(
            sender,
            terms(nonce, TxKind::Create, U256::from(3), hex!("60015f5560015ff3").into(), 150_000),
        ),
        _ => return (delegation(town, (from, nonce), to), Some(to)),
    };
    (made, None)
}

/// EIP-7702: an account takes a token's code; its nonce may or may not be the next one.
fn delegation(town: &Town, (from, nonce): (usize, u64), authority: usize) -> SharedTransaction {
    let signature = Signature::new(U256::from(1), U256::from(1), false);
    let given = Authorization {
        chain_id: U256::from(CHAIN),
        address: if authority.is_multiple_of(3) { Address::ZERO } else { town.tokens[0] },
        nonce: u64::try_from(authority % 2).expect("small"),
    };
    let tx = TxEip7702 {
        chain_id: CHAIN,
        nonce,
        gas_limit: 120_000,
        max_fee_per_gas: 10_000,
        max_priority_fee_per_gas: 3,
        to: who(authority),
        authorization_list: vec![given.into_signed(signature)],
        ..TxEip7702::default()
    };
    let envelope = TxEnvelope::from(tx.into_signed(signature));
    let raw = Bytes::from(envelope.encoded_2718());
    let sender = who(from);
    let hash = keccak256([sender.as_slice(), &raw[..]].concat());
    let authorities = vec![Some(who(authority))];
    Arc::new(RecoveredTransaction::new(envelope, hash, (sender, authorities), raw))
}

fn add(all: &mut Counts, one: &Counts) {
    all.direct += one.direct;
    all.ahead += one.ahead;
    all.in_place += one.in_place;
    all.aborted += one.aborted;
    all.abandoned += one.abandoned;
}

/// Both engines' changes lead from the state to one root.
fn same_roots(state: &Memory, agreed: &Agreed) {
    let after = |side: usize| {
        let mut state = state.clone();
        agreed.diffs.iter().for_each(|both| state.apply(&both[side]));
        state.root()
    };
    assert_eq!(after(0), after(1), "state roots differ");
}

#[test]
fn generated_blocks() {
    let seeds =
        std::env::var("BASALT_PARALLEL_SEEDS").map_or(SEEDS, |n| n.parse().expect("a number"));
    let town = town();
    let mut all = Counts::default();
    for seed in 0..seeds {
        let mut random = Random(seed as u64);
        // Most are small; one in fifty is as large as blocks get.
        let count = if seed % 50 == 49 { 10_000 } else { 1 + random.below(400) };
        let mix = Mix {
            senders: [3, 20, ACCOUNTS][random.below(3)],
            plain: [0, 300, 900][random.below(3)],
            hot: random.below(3) == 0,
        };
        let list = block(&town, &mut random, count, &mix);
        let cut = [count, 1 + random.below(count)][random.below(2)].min(TXS_PER_MINI_BLOCK_MAX);
        let entries_max = [64, 100_000][random.below(2)];
        // Some blocks have no room for all.
        let gas_limit = [1 << 40, 20_000_000][usize::from(random.below(4) == 0)];
        let setting = Setting {
            state: Arc::clone(&town.state) as _,
            rules: Rules::osaka(CHAIN),
            environment: environment(gas_limit),
            excess_blob_gas: 0,
            limits: CacheLimits { entries_max, ..CacheLimits::default() },
        };
        let cuts: Vec<_> = list.chunks(cut).collect();
        let lanes = 1 + random.below(8);
        match setting.compare(&cuts, lanes) {
            Ok(agreed) => {
                same_roots(&town.state, &agreed);
                add(&mut all, &agreed.counts);
            }
            Err(why) => panic!("seed {seed}, {lanes} lanes, cuts of {cut}: {why}"),
        }
    }
    println!("{seeds} blocks: {all:?}");
    assert!(all.direct > 0 && all.ahead > 0 && all.in_place > 0, "{all:?}");
}

/// The vectors of a file as one block: their states put together, their transactions one after
/// another with nonces that fit. What comes of it no vector says; both engines must agree.
#[test]
fn state_vectors_as_blocks() {
    let Some(files) = vectors::suite(STATE_SUITE) else { return };
    let next = AtomicUsize::new(0);
    let mut all = Counts::default();
    let parts = std::thread::scope(|scope| {
        let work = || {
            let mut all = (0usize, Counts::default());
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                for (name, state, setting, list) in joined(file) {
                    let cuts: Vec<_> = list.chunks(48).collect();
                    match setting.compare(&cuts, 2) {
                        Ok(agreed) => {
                            same_roots(&state, &agreed);
                            add(&mut all.1, &agreed.counts);
                        }
                        Err(why) => panic!("{} {name}: {why}", file.path),
                    }
                    all.0 += 1;
                }
            }
            all
        };
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("no block differs"))
            .collect::<Vec<_>>()
    });
    let blocks: usize = parts.iter().map(|part| part.0).sum();
    parts.iter().for_each(|part| add(&mut all, &part.1));
    println!("{blocks} blocks of state vectors: {all:?}");
    assert!(blocks > 0 && all.ahead > 0, "{all:?}");
}

/// One block for each fork in a file.
fn joined(file: &Vector) -> Vec<(String, Arc<Memory>, Setting, Vec<SharedTransaction>)> {
    let tests: BTreeMap<String, Value> = serde_json::from_slice(&file.bytes).expect("JSON");
    let forks = [("Cancun", Fork::Cancun), ("Prague", Fork::Prague), ("Osaka", Fork::Osaka)];
    let mut blocks = Vec::new();
    for (name, fork) in forks {
        let (mut state, mut list) = (Memory::default(), Vec::new());
        let mut first: Option<&Value> = None;
        let mut nonces = BTreeMap::new();
        for test in tests.values() {
            let Some(cases) = test["post"][name].as_array() else { continue };
            first = first.or(Some(test));
            put_state(&mut state, &test["pre"], &mut nonces);
            for case in cases {
                let sender = parsed(&test["transaction"]["sender"]);
                if let Some(made) = with_next_nonce(&bytes(&case["txbytes"]), sender, &mut nonces) {
                    list.push(made);
                }
            }
        }
        let Some(test) = first.filter(|_| !list.is_empty()) else { continue };
        let mut rules = Rules::osaka(number(&test["config"]["chainid"]).unwrap_or(1));
        rules.fork = fork;
        let env = &test["env"];
        let environment = BlockEnvironment {
            number: number(&env["currentNumber"]).expect("a number"),
            timestamp: number(&env["currentTimestamp"]).expect("a number"),
            base_fee: number(&env["currentBaseFee"]).expect("a number"),
            gas_limit: 1 << 50,
            fee_recipient: parsed(&env["currentCoinbase"]),
            prev_randao: B256::ZERO,
        };
        let state = Arc::new(state);
        let setting = Setting {
            state: Arc::clone(&state) as _,
            rules,
            environment,
            excess_blob_gas: 0,
            limits: CacheLimits::default(),
        };
        blocks.push((name.to_owned(), state, setting, list));
    }
    blocks
}

fn put_state(state: &mut Memory, pre: &Value, nonces: &mut BTreeMap<Address, u64>) {
    for (address, fields) in pre.as_object().expect("an object") {
        let address: Address = address.parse().expect("an address");
        // The first one stays: an account is not two.
        if state.accounts.contains_key(&address) {
            continue;
        }
        let nonce = number(&fields["nonce"]).expect("a number");
        nonces.insert(address, nonce);
        state.put(address, nonce, parsed(&fields["balance"]), bytes(&fields["code"]));
        for (slot, value) in fields["storage"].as_object().expect("an object") {
            state.slots.insert((address, slot.parse().expect("a slot")), parsed(value));
        }
    }
}

/// The transaction with the sender's next nonce; nobody looks at the signature any more.
fn with_next_nonce(
    raw: &[u8],
    sender: Address,
    nonces: &mut BTreeMap<Address, u64>,
) -> Option<SharedTransaction> {
    let signature = Signature::new(U256::from(1), U256::from(1), false);
    let next = nonces.entry(sender).or_default();
    macro_rules! renumbered {
        ($signed:expr) => {{
            let mut tx = $signed.tx().clone();
            tx.nonce = *next;
            TxEnvelope::from(tx.into_signed(signature))
        }};
    }
    let mut authorities = Vec::new();
    let envelope = match TxEnvelope::decode_2718_exact(raw).ok()? {
        TxEnvelope::Legacy(it) => renumbered!(it),
        TxEnvelope::Eip2930(it) => renumbered!(it),
        TxEnvelope::Eip1559(it) => renumbered!(it),
        TxEnvelope::Eip7702(it) => {
            let list = &it.tx().authorization_list;
            authorities = list.iter().map(|it| it.recover_authority().ok()).collect();
            renumbered!(it)
        }
        TxEnvelope::Eip4844(_) => return None,
    };
    *next = next.saturating_add(1);
    let raw = Bytes::from(envelope.encoded_2718());
    let hash = keccak256([sender.as_slice(), &raw[..]].concat());
    Some(Arc::new(RecoveredTransaction::new(envelope, hash, (sender, authorities), raw)))
}
