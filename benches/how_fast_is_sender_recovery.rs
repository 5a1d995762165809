//! How fast are senders recovered, by each engine and in batches of each size?
//!
//! `cargo bench --bench how_fast_is_sender_recovery -- OPTIONS`, which are `[--small] [--rounds N]`
//!
//! Every engine recovers the same signatures, addresses included, in turns with libsecp256k1 in
//! the same run, by CPU time of the thread; then on all cores at once. Ratios are of medians.
#![allow(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "a bench prints ratios")]
#![allow(clippy::print_stdout, reason = "a bench prints")]

#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/mode.rs"]
mod mode;

use alloy_primitives::{B256, keccak256};
use basalt::crypto::{
    recover::{Engine, Signed, prepare},
    sign::Signer,
};
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
    let rounds = rounds(if small { 2 } else { 15 });
    let signed = signed(if small { 64 } else { 4_096 });
    prepare();
    println!("the lanes are available: {}", Engine::lanes_available());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for threads in [1, cores] {
        println!("{threads} threads, µs of CPU a signature: median (from, to), and the ratio");
        for batch in BATCHES.into_iter().filter(|batch| *batch <= signed.len()) {
            let mut times = vec![Vec::new(); ENGINES.len()];
            for _ in 0..rounds {
                for (engine, times) in ENGINES.into_iter().zip(&mut times) {
                    times.extend(together(threads, &|| measured(engine, &signed, batch)));
                }
            }
            let mut base = 0.0;
            for (engine, times) in ENGINES.into_iter().zip(&mut times) {
                times.sort_unstable_by(f64::total_cmp);
                let (from, to) = (times[0], times[times.len() - 1]);
                let median = times[times.len() / 2];
                if engine == Engine::Libsecp256k1 {
                    base = median;
                }
                let ratio = base / median;
                println!(
                    "batch {batch}, {engine:?}: {median:.2} ({from:.2}, {to:.2}), {ratio:.1} times"
                );
            }
        }
    }
}

/// The same on so many threads at once.
fn together(threads: usize, work: &(dyn Fn() -> f64 + Sync)) -> Vec<f64> {
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// µs of CPU time a signature, of at least 512 signatures.
fn measured(engine: Engine, signed: &[Signed], batch: usize) -> f64 {
    let times = 512usize.div_ceil(batch).min(signed.len() / batch).max(1);
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
