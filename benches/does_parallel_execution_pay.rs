//! Does parallel execution pay, and what does one transaction cost?
//!
//! `cargo bench --bench does_parallel_execution_pay -- OPTIONS`, which are
//! `[--small] [--gas N] [--rounds N] [--lanes N,N…] [--only NAME] [--alone]` (without the others,
//! for a profiler)
//!
//! Blocks of the gas that is asked for (a gigagas), of one kind of transaction each, are executed
//! by plain revm with its cache database (the peer), by our serial engine, and by our parallel
//! engine with lanes beside the committing thread. All start from the same state in memory,
//! execute one block to have it at hand, and are timed on the next; the ratio is the median over
//! runs, each against a run of plain revm right before it. Ours also build the diff and
//! the receipts that the node needs; revm's cache does not. All must use the same gas.
#![allow(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "a bench prints ratios")]
#![allow(clippy::print_stdout, reason = "a bench prints")]

#[path = "support/mode.rs"]
mod mode;
#[path = "support/spread.rs"]
mod spread;
#[path = "support/workloads.rs"]
mod workloads;
#[path = "../tests/support/world.rs"]
mod world;

use alloy_primitives::{B256, U256};
use basalt::{
    execution::{
        block::OpenBlock,
        evm::{EngineError, Evm},
        parallel::{counts::Counts, engine::Parallel, pace::Pace},
        serial::{Engine, Outcome, Serial},
        store::CacheLimits,
    },
    types::{
        diff::Diff,
        limits::TXS_PER_MINI_BLOCK_MAX,
        mini_block::BlockEnvironment,
        transaction::{RecoveredTransaction, SharedTransaction},
    },
};
use revm::{
    Context, ExecuteCommitEvm as _, MainBuilder as _, MainContext as _,
    context::TxEnv,
    database::{CacheDB, EmptyDB},
    primitives::hardfork::SpecId,
    state::{AccountInfo, Bytecode},
};
use spread::Spread;
use std::{
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use workloads::{Make, Workload, mixed, swaps, tokens, transfers};
use world::{CHAIN, Memory, environment};

/// The node's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Options {
    gas: u64,
    rounds: usize,
    lanes: Vec<usize>,
    only: Option<String>,
    alone: bool,
}

fn main() {
    let mode = mode::mode();
    if mode == mode::Mode::Skipped {
        return;
    }
    basalt::runtime::memory::hold();
    let options = options(mode == mode::Mode::Small);
    println!(
        "{} Mgas a block, {} rounds; median (from least to most) of all rounds",
        options.gas / 1_000_000,
        options.rounds
    );
    for (name, make) in WORKLOADS {
        if options.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            measure(&make(name, options.gas), &options);
        }
    }
}

const WORKLOADS: [(&str, Make); 11] = [
    ("transfers, distinct", |name, gas| transfers(name, gas, |at, count| (at, count + at))),
    ("transfers, random", |name, gas| {
        transfers(name, gas, |at, count| (mixed(at, count), mixed(at + 7, count)))
    }),
    ("transfers, to self", |name, gas| transfers(name, gas, |at, _| (at, at))),
    ("transfers, all to one", |name, gas| transfers(name, gas, |at, count| (at, count))),
    ("transfers, among 16", |name, gas| {
        transfers(name, gas, |at, _| (mixed(at, 16), mixed(at + 3, 16)))
    }),
    ("ERC-20, independent", |name, gas| tokens(name, gas, |at, count| (at, count + at))),
    ("ERC-20, families of 16", |name, gas| {
        tokens(name, gas, |at, count| {
            let family = mixed(at, count / 16) * 16;
            (family + mixed(at + 1, 16), family + mixed(at + 2, 16))
        })
    }),
    ("ERC-20, all to one", |name, gas| tokens(name, gas, |at, count| (at, count))),
    ("Uniswap v3, independent", |name, gas| swaps(name, gas, usize::MAX)),
    ("Uniswap v3, 8 shared pools", |name, gas| swaps(name, gas, 8)),
    ("Uniswap v3, one pool", |name, gas| swaps(name, gas, 1)),
];
/// What one execution of a block took.
#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    cpu: Duration,
    gas: u64,
}

/// A run, and one of plain revm right before it.
#[derive(Clone, Copy)]
struct Compared {
    took: Took,
    peer: Took,
}

impl Compared {
    fn times(&self) -> f64 {
        self.peer.wall.as_secs_f64() / self.took.wall.as_secs_f64()
    }
}

fn measure(workload: &Workload, options: &Options) {
    let count = workload.blocks[1].len();
    let mut rows: Vec<(String, Vec<Compared>)> = Vec::new();
    // The machine's speed changes within seconds: each run has one of the peer right before it.
    let before = || (!options.alone).then(|| peer(workload));
    let mut add = |name: String, peer: Option<Took>, took: Took| {
        let compared = Compared { took, peer: peer.unwrap_or(took) };
        match rows.iter_mut().find(|row| row.0 == name) {
            Some(row) => row.1.push(compared),
            None => rows.push((name, vec![compared])),
        }
    };
    let mut counts = Vec::new();
    for round in 0..options.rounds {
        if !options.alone {
            add("serial".to_owned(), before(), ours(workload, None).0);
            let (peer, (took, counted)) = (before(), serial_part(workload));
            // Where there is nothing for lanes to do, all of it is the serial part.
            if counted.ahead > 0 {
                add("its serial part".to_owned(), peer, took);
                if round == 0 {
                    counts.push((LANES_OF_GATE, counted));
                }
            }
        }
        for lanes in &options.lanes {
            if *lanes > 0 && !options.alone {
                let name = format!("{} engines apart", lanes + 1);
                add(name, before(), apart(workload, lanes + 1));
            }
            let (peer, (took, counted)) = (before(), ours(workload, Some(*lanes)));
            add(format!("parallel, {} lanes", lanes + 1), peer, took);
            if round == 0 {
                counts.push((*lanes, counted));
            }
        }
    }
    let gas = rows[0].1[0].took.gas;
    println!("\n{}: {count} transactions, {} Mgas", workload.name, gas / 1_000_000);
    if !options.alone {
        let peers: Vec<_> = rows.iter().flat_map(|(_, all)| all.iter().map(|it| it.peer)).collect();
        let same = |peer: &Took| Compared { took: *peer, peer: *peer };
        rows.insert(0, ("plain revm".to_owned(), peers.iter().map(same).collect()));
    }
    for (name, all) in &rows {
        assert!(all.iter().all(|it| it.took.gas == gas), "{name} used other gas");
        print(name, all, (gas as f64, count as f64));
    }
    for (lanes, Counts { direct, ahead, in_place, aborted, abandoned }) in counts {
        println!(
            "  {} lanes: direct {direct}, ahead {ahead}, in place {in_place} (of them aborted \
             {aborted}, abandoned {abandoned})",
            lanes + 1,
        );
    }
}

fn print(name: &str, all: &[Compared], (gas, count): (f64, f64)) {
    let each = |of: fn(&Took) -> Duration| {
        Spread::of(all.iter().map(|it| of(&it.took).as_secs_f64() * 1e9 / count))
    };
    let (wall, cpu) = (each(|it| it.wall), each(|it| it.cpu));
    let times = Spread::of(all.iter().map(Compared::times));
    println!(
        "  {name:<18} {:>6.2} Ggas/s {:>8.0} tx/s {wall:.0} ns, CPU {:.0} ns, {times:.2} times the \
         peer",
        gas / count / wall.median,
        1e9 / wall.median,
        cpu.median,
    );
}

/// Runs `work` and takes its time, and that of all threads.
#[expect(clippy::disallowed_methods, reason = "a bench measures")]
fn timed(work: impl FnOnce() -> u64) -> Took {
    let stood = STOOD.load(Ordering::SeqCst);
    let (cpu, start) = (process_cpu(), Instant::now());
    let gas = work();
    let stood = Duration::from_nanos(STOOD.load(Ordering::SeqCst) - stood);
    Took { wall: start.elapsed() - stood, cpu: process_cpu().saturating_sub(cpu), gas }
}

/// CPU time of this process so far, by the scheduler's count for each thread.
fn process_cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let of = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or_default()
    };
    Duration::from_nanos(tasks.flatten().map(|task| of(task.path())).sum())
}

/// Lanes enough to do all of a cut ahead of the committing thread.
const LANES_OF_GATE: usize = 8;
/// The one that plans.
const FIRST: usize = 1;

/// Lets the committing thread begin with a cut only when the lanes are done with it: what it then
/// takes is the serial part alone, which bounds what more cores can bring.
#[derive(Default)]
struct Gate {
    /// How often each thread came to wait for work.
    waits: [AtomicUsize; LANES_OF_GATE + 1],
    /// Steps of the first lane since it last came to wait: one is the plan.
    steps: AtomicUsize,
    /// That of the lanes at the cut's begin, until the committing thread has come.
    begun: Mutex<Option<[usize; LANES_OF_GATE]>>,
}

/// Nanoseconds that a committing thread stood at its gate: they do not count.
static STOOD: AtomicU64 = AtomicU64::new(0);

impl Gate {
    fn lanes(&self) -> [usize; LANES_OF_GATE] {
        std::array::from_fn(|lane| self.waits[lane + 1].load(Ordering::SeqCst))
    }

    /// A cut begins: all lanes wait for it.
    fn close(&self) {
        while self.lanes().contains(&0) {
            thread::yield_now();
        }
        self.steps.store(0, Ordering::SeqCst);
        *self.begun.lock().expect("no panic") = Some(self.lanes());
    }
}

impl Pace for Gate {
    #[expect(clippy::disallowed_methods, reason = "a bench measures")]
    fn point(&self, who: usize) {
        if who == FIRST {
            self.steps.fetch_add(1, Ordering::SeqCst);
        }
        if who != 0 {
            return;
        }
        let Some(begun) = self.begun.lock().expect("no panic").take() else { return };
        let start = Instant::now();
        let is_back = |lane: usize| self.waits[lane].load(Ordering::SeqCst) != begun[lane - 1];
        while !is_back(FIRST) {
            thread::yield_now();
        }
        // Where the plan gives the lanes something, all of them are woken.
        let woken = if self.steps.load(Ordering::SeqCst) > 1 { LANES_OF_GATE } else { FIRST };
        while !(FIRST..=woken).all(is_back) {
            thread::yield_now();
        }
        let stood = u64::try_from(start.elapsed().as_nanos()).expect("short");
        STOOD.fetch_add(stood, Ordering::SeqCst);
    }

    fn wait(&self, who: usize, is_ready: &mut dyn FnMut() -> bool) {
        self.waits[who].fetch_add(1, Ordering::SeqCst);
        while !is_ready() {
            thread::yield_now();
        }
    }

    fn leave(&self, _who: usize) {}
}

/// An EVM on the workload's state, and the block that it is for.
fn begun(workload: &Workload) -> (Evm, BlockEnvironment) {
    let block = environment(1 << 40);
    let limits = CacheLimits { entries_max: 2_000_000, ..CacheLimits::default() };
    (world::evm(&workload.state, &block, limits), block)
}

/// The time of the committing thread alone, and what it did.
fn serial_part(workload: &Workload) -> (Took, Counts) {
    let (evm, block) = begun(workload);
    let gate = Arc::new(Gate::default());
    let pace = Arc::clone(&gate) as Arc<dyn Pace>;
    let (parallel, crew) = Parallel::paced(evm, LANES_OF_GATE, Some(pace));
    let mut engine = Gated { parallel, gate };
    thread::scope(|scope| {
        crew.into_iter().for_each(|lane| drop(scope.spawn(move || lane.run())));
        let mut took = both(&mut engine, workload, (block, &Barrier::new(1)));
        took.cpu = took.wall;
        let counts = engine.parallel.counts;
        drop(engine);
        (took, counts)
    })
}

/// Closes the gate before each cut.
struct Gated {
    parallel: Parallel,
    gate: Arc<Gate>,
}

impl Engine for Gated {
    fn evm(&mut self) -> &mut Evm {
        &mut self.parallel.evm
    }

    fn extend(
        &mut self,
        block: &mut OpenBlock,
        transactions: Vec<SharedTransaction>,
        is_late: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome, EngineError> {
        self.gate.close();
        self.parallel.extend(block, transactions, is_late)
    }
}

/// Both blocks by one of our engines; the second one's time.
fn ours(workload: &Workload, lanes: Option<usize>) -> (Took, Counts) {
    let (evm, block) = begun(workload);
    let Some(lanes) = lanes else {
        return (both(&mut Serial { evm }, workload, (block, &Barrier::new(1))), Counts::default());
    };
    let (mut engine, crew) = Parallel::new(evm, lanes);
    thread::scope(|scope| {
        crew.into_iter().for_each(|lane| drop(scope.spawn(move || lane.run())));
        let took = both(&mut engine, workload, (block, &Barrier::new(1)));
        let counts = engine.counts;
        drop(engine);
        (took, counts)
    })
}

/// What this machine can give at most: so many engines without lanes, each with a state of its
/// own and at the same time, so that nothing is shared but caches and memory. The time is that of
/// one of them, divided among all that were executed.
fn apart(workload: &Workload, engines: usize) -> Took {
    let start = Barrier::new(engines);
    let all: Vec<Took> = thread::scope(|scope| {
        let one = || {
            let (evm, block) = begun(workload);
            let mut engine = Parallel::new(evm, 0).0;
            both(&mut engine, workload, (block, &start))
        };
        let threads: Vec<_> = (0..engines).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let share = |sum: Duration| sum / u32::try_from(engines * engines).expect("few");
    let wall = share(all.iter().map(|took| took.wall).sum());
    // Each counted the CPU time of the whole process.
    Took { wall, cpu: share(all.iter().map(|took| took.cpu).sum()), gas: all[0].gas }
}

fn both(
    engine: &mut impl Engine,
    workload: &Workload,
    (environment, start): (BlockEnvironment, &Barrier),
) -> Took {
    let [first, second] = &workload.blocks;
    let mut open = OpenBlock::new(environment);
    let (_, outcomes) = execute(engine, &mut open, first.clone());
    // As after a checkpoint: the first block's changes lie in the state below, and their memory
    // is free.
    let mut state = Memory::clone(&workload.state);
    outcomes.iter().for_each(|(_, diff)| state.apply(diff));
    engine.evm().store().rebase(1, Arc::new(state));
    drop(outcomes);
    let mut open = OpenBlock::new(environment);
    let second = second.clone();
    // What comes of it is freed by others, later.
    let mut outcomes = Vec::new();
    start.wait();
    let took = timed(|| {
        let (gas, done) = execute(engine, &mut open, second);
        outcomes = done;
        gas
    });
    // CPU time is that of all threads: none may be gone before the others have looked.
    start.wait();
    drop(outcomes);
    took
}

/// In mini-blocks of as many transactions as one may have: the gas, and what came of each.
fn execute(
    engine: &mut impl Engine,
    open: &mut OpenBlock,
    mut list: Vec<SharedTransaction>,
) -> (u64, Vec<(Outcome, Arc<Diff>)>) {
    let count = list.len();
    let mut done = 0;
    let mut outcomes = Vec::new();
    while !list.is_empty() {
        let rest = list.split_off(list.len().min(TXS_PER_MINI_BLOCK_MAX));
        let mut outcome = engine.execute(open, list, &mut || false).expect("readable");
        assert!(outcome.dropped.is_empty(), "all can be executed: {:?}", outcome.dropped);
        assert!(!outcome.transactions.is_empty(), "a block has room for all");
        assert!(outcome.receipts.iter().all(|receipt| receipt.success), "all succeed");
        done += outcome.transactions.len();
        let diff = Arc::new(std::mem::take(&mut outcome.diff));
        engine.evm().store().overlay_mut().push(1, Arc::clone(&diff));
        // What has no room in one mini-block stands first in the next.
        list = std::mem::take(&mut outcome.left_over);
        list.extend(rest);
        outcomes.push((outcome, diff));
    }
    assert_eq!(done, count);
    (open.gas_used, outcomes)
}

/// Both blocks by revm as its users run it; the second one's time.
fn peer(workload: &Workload) -> Took {
    let block = environment(1 << 40);
    let mut database = CacheDB::new(EmptyDB::new());
    let mut accounts: Vec<_> = workload.state.accounts.iter().collect();
    accounts.sort_unstable_by_key(|(address, _)| **address);
    for (address, account) in accounts {
        let code = workload.state.codes.get(&account.code_hash).cloned().unwrap_or_default();
        let code = Bytecode::new_raw_checked(code).expect("code");
        let info = AccountInfo::new(account.balance, account.nonce, account.code_hash, code);
        database.insert_account_info(*address, info);
    }
    let mut slots: Vec<_> = workload.state.slots.iter().collect();
    slots.sort_unstable();
    for ((address, slot), value) in slots {
        database.insert_account_storage(*address, *slot, *value).expect("in memory");
    }
    let mut evm = Context::mainnet().with_db(database).build_mainnet();
    evm.ctx.cfg.set_spec_and_mainnet_gas_params(SpecId::OSAKA);
    evm.ctx.cfg.chain_id = CHAIN;
    evm.ctx.block.number = U256::from(block.number);
    evm.ctx.block.timestamp = U256::from(block.timestamp);
    evm.ctx.block.gas_limit = block.gas_limit;
    evm.ctx.block.basefee = block.base_fee;
    evm.ctx.block.beneficiary = block.fee_recipient;
    evm.ctx.block.prevrandao = Some(B256::ZERO);
    let [first, second] =
        workload.blocks.each_ref().map(|list| list.iter().map(|it| tx_env(it)).collect::<Vec<_>>());
    let mut run = |list: Vec<TxEnv>| {
        list.into_iter().map(|tx| evm.transact_commit(tx).expect("valid").tx_gas_used()).sum()
    };
    run(first);
    timed(|| run(second))
}

fn tx_env(tx: &RecoveredTransaction) -> TxEnv {
    use alloy_consensus::Transaction as _;
    TxEnv {
        tx_type: tx.envelope.tx_type().into(),
        caller: tx.sender,
        gas_limit: tx.envelope.gas_limit(),
        gas_price: tx.envelope.max_fee_per_gas(),
        gas_priority_fee: tx.envelope.max_priority_fee_per_gas(),
        kind: tx.envelope.kind(),
        value: tx.envelope.value(),
        data: tx.envelope.input().clone(),
        nonce: tx.envelope.nonce(),
        chain_id: tx.envelope.chain_id(),
        ..TxEnv::default()
    }
}

fn options(small: bool) -> Options {
    let mut options = Options {
        gas: if small { 4_000_000 } else { 1_000_000_000 },
        rounds: if small { 1 } else { 5 },
        lanes: vec![0, 1],
        only: None,
        alone: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} wants a value"));
        match word.as_str() {
            "--gas" => options.gas = value().parse().expect("--gas wants a number"),
            "--rounds" => options.rounds = value().parse().expect("--rounds wants a number"),
            "--lanes" => {
                let lanes = value();
                let parse = |n: &str| {
                    let lanes = n.parse::<usize>().ok().and_then(|lanes| lanes.checked_sub(1));
                    lanes.expect("--lanes wants numbers from 1 on")
                };
                options.lanes = lanes.split(',').map(parse).collect();
            }
            "--alone" => options.alone = true,
            "--only" => options.only = Some(value()),
            _ => {}
        }
    }
    options
}
