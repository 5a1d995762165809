//! Transactions of one kind, as many as use so much gas, and the state that they start from.

#![allow(dead_code, reason = "each bench uses its part")]

use crate::world::{Memory, Pool, World, pay_tokens, transfer, who};
use basalt::types::transaction::SharedTransaction;
use std::sync::Arc;

/// A state, and two blocks of one kind on it.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) state: Arc<Memory>,
    pub(crate) blocks: [Vec<SharedTransaction>; 2],
}

/// Makes one of a name, whose blocks use so much gas.
pub(crate) type Make = fn(&'static str, u64) -> Workload;

/// Pools of the independent swaps: a swap meets its pool's last one long after it.
const POOLS_MAX: usize = 512;
const TOKEN_GAS: u64 = 35_000;
const SWAP_GAS: u64 = 110_000;

/// A number below `below` that looks drawn (splitmix64).
pub(crate) fn mixed(at: usize, below: usize) -> usize {
    let mut z = (at as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    usize::try_from((z ^ (z >> 31)) >> 11).expect("64 bits") % below
}

/// Two blocks of `count` transactions each; `make` is given the sender's number, its nonce and
/// the transaction's number.
fn blocks(
    count: usize,
    sender: impl Fn(usize) -> usize,
    make: impl Fn(usize, u64, usize) -> SharedTransaction,
) -> [Vec<SharedTransaction>; 2] {
    let mut nonces = vec![0u64; 2 * count + 1];
    [0, 1].map(|_| {
        (0..count)
            .map(|at| {
                let from = sender(at);
                nonces[from] += 1;
                make(from, nonces[from] - 1, at)
            })
            .collect()
    })
}

pub(crate) fn transfers(
    name: &'static str,
    gas: u64,
    pair: fn(usize, usize) -> (usize, usize),
) -> Workload {
    let count = usize::try_from(gas / 21_000).expect("small").max(32);
    let world = World::new(2 * count + 1);
    let make = |from, nonce, at| transfer(who(from), nonce, who(pair(at, count).1), 1);
    let blocks = blocks(count, |at| pair(at, count).0, make);
    Workload { name, state: Arc::new(world.state), blocks }
}

pub(crate) fn tokens(
    name: &'static str,
    gas: u64,
    pair: fn(usize, usize) -> (usize, usize),
) -> Workload {
    let count = usize::try_from(gas / TOKEN_GAS).expect("small").max(32);
    let mut world = World::new(2 * count + 1);
    let token = world.token(0..2 * count + 1);
    let make = |from, nonce, at| pay_tokens(who(from), nonce, token, who(pair(at, count).1));
    let blocks = blocks(count, |at| pair(at, count).0, make);
    Workload { name, state: Arc::new(world.state), blocks }
}

pub(crate) fn swaps(name: &'static str, gas: u64, pools: usize) -> Workload {
    let count = usize::try_from(gas / SWAP_GAS).expect("small").max(8);
    let pools = pools.min(POOLS_MAX).min(count);
    let mut world = World::new(count + 1);
    let all: Vec<Pool> = (0..pools)
        .map(|pool| {
            let mut here = world.v3_pool(0..0);
            here.tokens.sort_unstable();
            for at in (pool..count).step_by(pools) {
                for token in here.tokens {
                    world.give(token, who(at));
                    world.allow(token, who(at), here.router);
                }
            }
            here
        })
        .collect();
    let make = |from, nonce, at: usize| all[at % pools].swap(who(from), nonce, nonce % 2 == 0);
    let blocks = blocks(count, |at| at, make);
    Workload { name, state: Arc::new(world.state), blocks }
}
