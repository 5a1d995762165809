//! Does it pay to begin with a mini-block before its interval ends?
//!
//! `cargo bench --bench does_an_early_start_pay -- [--small] [--rounds N] [--only NAME]`
//!
//! Ordering and execution run as in the node, with one lane, on calls that come at a steady rate:
//! a part of what an engine executes a second, which is measured first. Told is how long after the
//! end of its interval a mini-block is executed, where execution waits for that end and where it
//! does not; then how many calls a second are executed where more come than can be. Both ways take
//! turns; the ratio is the median over rounds.
#![allow(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "a bench prints ratios")]
#![allow(clippy::print_stdout, reason = "a bench prints")]
#![allow(clippy::disallowed_methods, reason = "a bench measures")]

#[path = "support/mode.rs"]
mod mode;
#[path = "support/spread.rs"]
mod spread;
#[path = "support/workloads.rs"]
mod workloads;
#[path = "../tests/support/world.rs"]
mod world;

use alloy_primitives::B256;
use basalt::{
    execution::{
        evm::Rules,
        fees::{FeeRules, ParentBlock},
        stage::{ExecutionMetrics, FreshBase, Lanes, Rings},
        store::CacheLimits,
        worker::{ExecutionConfig, ExecutionStart},
    },
    ordering::{
        cut::{Intervals, Standing},
        policy::CutLimits,
        stage::{Ordering, OrderingConfig, OrderingMetrics},
    },
    runtime::{
        clock::Clock,
        metrics::{Metrics, StageMetrics},
        ring::{Consumer, Producer, ring},
    },
    types::{
        flow::{Event, Step},
        ids::BlockNumber,
        overlay::Overlay,
        receipt::Receipt,
        transaction::SharedTransaction,
        view::{Settlement, StateView},
    },
};
use spread::Spread;
use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use workloads::{Make, Workload, swaps, tokens};
use world::{CHAIN, environment};

/// The node's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Of a block.
const GAS_LIMIT: u64 = 1 << 40;
const INTERVAL_US: u64 = 10_000;
/// So short that no block is full before it ends.
const BLOCK_US: u64 = 100_000;
/// The node's defaults.
const MINI_BLOCK_GAS: u64 = 200_000_000;
const EARLY_GAS: u64 = 2_000_000;
/// Loads, in parts of what can be executed.
const LOADS: [f64; 3] = [0.125, 0.25, 0.5];
/// What comes is handed over this often.
const FEED: Duration = Duration::from_micros(250);

fn main() {
    let mode = mode::mode();
    if mode == mode::Mode::Skipped {
        return;
    }
    basalt::runtime::memory::hold();
    let small = mode == mode::Mode::Small;
    let option = |name: &str| std::env::args().skip_while(|it| it != name).nth(1);
    let rounds = option("--rounds").map_or(5, |it| it.parse().expect("--rounds wants a number"));
    let (only, rounds) = (option("--only"), if small { 1 } else { rounds });
    let gas = if small { 4_000_000 } else { 3_000_000_000 };
    println!("{rounds} rounds; median (from least to most) of all rounds");
    let all: [(&str, Make); 2] = [
        ("ERC-20, independent", |name, gas| tokens(name, gas, |at, count| (at, count + at))),
        ("Uniswap v3, independent", |name, gas| swaps(name, gas, usize::MAX)),
    ];
    for (name, make) in all {
        if only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            measure(&make(name, gas), rounds);
        }
    }
}

/// Both ways in turns, at each load and with more than can be executed.
fn measure(workload: &Workload, rounds: usize) {
    let all: Vec<SharedTransaction> = workload.blocks.concat();
    let flood = |early| run(workload, all.clone(), None, early);
    // Code and caches come to be known.
    let most = flood(EARLY_GAS).rate;
    println!("\n{}: {most:.0} a second can be executed", workload.name);
    for load in LOADS {
        let rate = most * load;
        // A second's worth of them, if there are as many.
        let count = (0..all.len()).take_while(|at| *at as f64 / rate < 1.0).count();
        let [mut waits, mut early, mut times] = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            let one = |early| run(workload, all[..count].to_vec(), Some(rate), early).late_us;
            let [first, second] = [one(0), one(EARLY_GAS)].map(|late| Spread::of(late).median);
            times.push(first / second);
            waits.push(first);
            early.push(second);
        }
        println!(
            "  {rate:>7.0} a second: executed {:.0} us after the interval where that is waited \
             for, {:.0} us where not, {:.2} times sooner",
            Spread::of(waits),
            Spread::of(early),
            Spread::of(times)
        );
    }
    let floods: Vec<[f64; 2]> =
        (0..rounds).map(|_| [0, EARLY_GAS].map(|early| flood(early).rate)).collect();
    println!(
        "  more than can be: {:.0} a second and {:.0}, {:.2} times as many",
        Spread::of(floods.iter().map(|it| it[0])),
        Spread::of(floods.iter().map(|it| it[1])),
        Spread::of(floods.iter().map(|it| it[1] / it[0]))
    );
}

/// What one run came to.
struct Took {
    /// Of each mini-block, how long after its interval's end it was executed.
    late_us: Vec<f64>,
    /// Transactions a second.
    rate: f64,
}

/// Executes `list` as it comes at `rate` a second, or all at once.
fn run(workload: &Workload, list: Vec<SharedTransaction>, rate: Option<f64>, early: u64) -> Took {
    let clock = Clock::system();
    let (admitted, admitted_out) = ring(list.len() + 1);
    let (cuts, cuts_out) = ring(2);
    let (credits, credits_out) = ring(2);
    let (steps, steps_out) = ring(64);
    let (hashes, hashes_out) = ring(64);
    let start = start(workload, clock.now_us());
    let ordering = Ordering {
        admitted: admitted_out,
        to_execution: cuts,
        credits: credits_out,
        settlement: Arc::new(Nobody),
        announce: Arc::new(|_| ()),
        config: order(&start.parent, early),
        clock: clock.clone(),
        metrics: OrderingMetrics::new(&Metrics::default(), StageMetrics::unregistered()),
    };
    let rings = Rings {
        cuts: cuts_out,
        credits,
        steps,
        hashes: hashes_out,
        fresh_base: Arc::new(FreshBase::default()),
    };
    let metrics = ExecutionMetrics::new(&Metrics::default(), StageMetrics::unregistered());
    let count = list.len();
    thread::scope(|scope| {
        scope.spawn(|| basalt::ordering::stage::run(ordering).expect("execution stays"));
        scope.spawn(|| {
            let mut lane = |_, lane| drop(thread::spawn(lane));
            let lanes = Lanes { count: 1, start: &mut lane };
            basalt::execution::stage::run(rings, &clock, &metrics, (&rules(), lanes), start)
                .expect("readable");
        });
        let began = Instant::now();
        let collect = scope.spawn(|| collect(&steps_out, &hashes, &clock, count));
        feed(&admitted, list, rate);
        let late_us = collect.join().expect("no panic");
        let rate = count as f64 / began.elapsed().as_secs_f64();
        drop(admitted);
        Took { late_us, rate }
    })
}

/// The node's rules, in blocks that have room for everything.
fn rules() -> ExecutionConfig {
    let environment = environment(GAS_LIMIT);
    let fees = FeeRules {
        chain_id: CHAIN,
        base_fee_floor: environment.base_fee,
        gas_limit: environment.gas_limit,
        fee_recipient: environment.fee_recipient,
    };
    let cache = CacheLimits { entries_max: 2_000_000, ..CacheLimits::default() };
    ExecutionConfig { rules: Rules::osaka(CHAIN), fees, cache }
}

fn start(workload: &Workload, now_us: u64) -> ExecutionStart {
    let parent = ParentBlock {
        number: 0,
        hash: Some(B256::ZERO),
        timestamp: now_us / 1_000_000 - 1,
        gas_used: 0,
        base_fee: environment(GAS_LIMIT).base_fee,
        gas_limit: GAS_LIMIT,
    };
    ExecutionStart {
        overlay: Overlay::default(),
        base: Arc::clone(&workload.state) as Arc<dyn StateView>,
        parent,
        hashes: Vec::new(),
        open: None,
        last_mini_block: 0,
    }
}

fn order(parent: &ParentBlock, early_gas: u64) -> OrderingConfig {
    OrderingConfig {
        intervals: Intervals {
            mini_block_us: INTERVAL_US,
            block_us: BLOCK_US,
            deadline_percent: 80,
        },
        limits: CutLimits::new(MINI_BLOCK_GAS),
        early_gas,
        standing: Standing { parent_timestamp: parent.timestamp, open_timestamp: None },
        base_fee: parent.base_fee,
    }
}

/// Hands the transactions over as they come.
fn feed(to: &Producer<SharedTransaction>, list: Vec<SharedTransaction>, rate: Option<f64>) {
    let began = Instant::now();
    for (at, tx) in list.into_iter().enumerate() {
        let due = rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(at as f64 / rate));
        while began.elapsed() < due {
            thread::sleep(FEED);
        }
        to.push(tx).unwrap_or_else(|_| panic!("there is room for all"));
    }
}

/// Takes the mini-blocks until all is executed, and seals the blocks; how late each was.
fn collect(
    steps: &Consumer<Step>,
    hashes: &Producer<(BlockNumber, B256)>,
    clock: &Clock,
    count: usize,
) -> Vec<f64> {
    let (mut late_us, mut done) = (Vec::new(), 0);
    while done < count {
        let step = steps.pop_wait().expect("execution stays until it is told to end");
        match step.event {
            Event::MiniBlock(mini_block) => {
                let ended_us = mini_block.timestamp_us / INTERVAL_US * INTERVAL_US;
                late_us.push(clock.now_us().saturating_sub(ended_us) as f64);
                assert!(mini_block.receipts.iter().all(|receipt| receipt.success));
                done += mini_block.transactions.len();
            }
            Event::Close(close) => {
                hashes.push((close.environment.number, B256::ZERO)).expect("execution stays");
            }
        }
    }
    late_us
}

/// Is told of what is not included: nothing here.
struct Nobody;

impl Settlement for Nobody {
    fn included(&self, _: &[SharedTransaction], _: &[Receipt]) {}

    fn dropped(&self, tx: &SharedTransaction, reason: &str) {
        panic!("{}: {reason}", tx.hash);
    }
}
