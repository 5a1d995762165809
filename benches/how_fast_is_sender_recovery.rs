//! How fast are senders recovered, by each engine and in batches of each size?
//!
//! `cargo bench --bench how_fast_is_sender_recovery -- OPTIONS`, which are `[--small] [--rounds N]`
//!
//! Every engine recovers the same signatures, addresses included, in turns with libsecp256k1 in
//! the same run, by CPU time of the thread; then on all cores at once. A turn takes each engine
//! some milliseconds, and a ratio is the median of those of all turns: the speed of a machine that
//! others use too changes within seconds.
#![allow(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "a bench prints ratios")]
#![allow(clippy::print_stdout, reason = "a bench prints")]

#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/mode.rs"]
mod mode;
#[path = "support/spread.rs"]
mod spread;

use alloy_primitives::{B256, keccak256};
use basalt::crypto::{
    keccak::keccak_batch,
    recover::{Engine, Signed, prepare},
    sign::Signer,
};
use spread::Spread;
use std::{hint::black_box, thread};

/// The node's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCHES: [usize; 6] = [1, 8, 16, 64, 512, 4_096];
const ENGINES: [Engine; 3] = [Engine::Libsecp256k1, Engine::Lanes, Engine::Checked];

fn main() {
    let mode = mode::mode();
    if mode == mode::Mode::Skipped {
        return;
    }
    let small = mode == mode::Mode::Small;
    let rounds = rounds(if small { 2 } else { 101 });
    let signed = signed(if small { 64 } else { 4_096 });
    prepare();
    println!("the lanes are available: {}", Engine::lanes_available());
    let [batches, alone] = hashing(rounds);
    println!("keccak of 64 bytes, ns: {batches:.0} in batches, {alone:.0} one by one");
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for threads in [1, cores] {
        println!(
            "{threads} threads, µs of CPU a signature: median (least to most); times as fast as \
             libsecp256k1: median (least to most)"
        );
        for batch in BATCHES.into_iter().filter(|batch| *batch <= signed.len()) {
            let mut times = vec![Vec::new(); ENGINES.len()];
            let mut ratios = vec![Vec::new(); ENGINES.len()];
            for _ in 0..rounds {
                let turn = ENGINES.map(|engine| {
                    let each = together(threads, &|| measured(engine, &signed, batch));
                    each.iter().sum::<f64>() / each.len() as f64
                });
                for (at, time) in turn.into_iter().enumerate() {
                    times[at].push(time);
                    ratios[at].push(turn[0] / time);
                }
            }
            for ((engine, times), ratios) in ENGINES.into_iter().zip(times).zip(ratios) {
                let (time, ratio) = (Spread::of(times), Spread::of(ratios));
                println!("batch {batch}, {engine:?}: {time:.2}, {ratio:.1} times");
            }
        }
    }
}

/// ns of CPU time for a hash of 64 bytes, as each recovery makes one: in batches, and one by one.
fn hashing(rounds: usize) -> [Spread; 2] {
    let keys: Vec<[u8; 64]> = (0..=u8::MAX).map(|at| [at; 64]).collect();
    let mut out = Vec::with_capacity(keys.len());
    let (mut batches, mut alone) = (Vec::new(), Vec::new());
    let each = |start: f64| (cpu::thread_s() - start) * 1e9 / keys.len() as f64;
    for _ in 0..rounds.max(1) {
        out.clear();
        let start = cpu::thread_s();
        keccak_batch(black_box(&keys), &mut out);
        batches.push(each(start));
        let start = cpu::thread_s();
        for key in &keys {
            black_box(keccak256(black_box(key)));
        }
        alone.push(each(start));
    }
    [batches, alone].map(Spread::of)
}

/// The same on so many threads at once.
fn together(threads: usize, work: &(dyn Fn() -> f64 + Sync)) -> Vec<f64> {
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// µs of CPU time a signature, in batches, for some milliseconds. What decides one by one gets a
/// part of a large batch.
fn measured(engine: Engine, signed: &[Signed], batch: usize) -> f64 {
    let count = if engine == Engine::Lanes { 1_024 } else { 128 };
    let batch = if engine == Engine::Lanes { batch } else { batch.min(count) };
    let times = count.div_ceil(batch).min(signed.len() / batch);
    let mut out = Vec::with_capacity(batch);
    let start = cpu::thread_s();
    for part in signed.chunks(batch).take(times) {
        out.clear();
        black_box(engine.signers(black_box(part), &mut out));
        black_box(&out);
    }
    (cpu::thread_s() - start) * 1e6 / (times * batch) as f64
}

fn signed(count: usize) -> Vec<Signed> {
    let mut seed = B256::ZERO;
    let mut next = || {
        seed = keccak256(seed);
        seed
    };
    (0..count)
        .map(|_| {
            let signer = Signer::from_secret(&next()).expect("a hash is a secret");
            let hash = next();
            let signature = signer.sign(hash);
            let (r, s) = (signature.r(), signature.s());
            Signed { hash, r, s, id: u8::from(signature.v()) }
        })
        .collect()
}

fn rounds(default: usize) -> usize {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == "--rounds");
    at.and_then(|at| arguments.get(at + 1)).map_or(default, |n| n.parse().expect("a number"))
}
