//! How many account updates a second does the state root take in, on one core?
//!
//! `cargo bench --bench how_fast_is_the_root -- OPTIONS`, which are
//! `[--small] [--accounts N] [--updates N] [--rounds N]`
//!
//! Blocks of random account changes go through `StateTrie::apply`, with a checkpoint after each,
//! beside two others in the same run and by the same clock (CPU time of the thread): hashing
//! alone of the nodes that such a block changes, sorted by length and as many at once as the
//! processor takes, which no trie can beat; and `alloy-trie`'s root of the whole state from
//! scratch. Then the roots of lists, as blocks have them, beside those by `alloy-trie`.
#![allow(clippy::float_arithmetic, clippy::cast_precision_loss, reason = "a bench prints ratios")]
#![allow(clippy::print_stdout, reason = "a bench prints")]

#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/mode.rs"]
mod mode;
#[path = "support/spread.rs"]
mod spread;

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_trie::{
    TrieAccount,
    root::{ordered_trie_root_with_encoder, state_root_unsorted},
};
use basalt::crypto::{keccak::keccak_batch, list_root::list_root};
use basalt::{
    trie::{StateTrie, plain::MemoryRows},
    types::{
        diff::{Account, AccountDiff, Diff},
        map::Map,
        view::NodeSource,
    },
};
use spread::Spread;
use std::{hint::black_box, sync::Arc};

/// The node's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the node gives its trie unless told otherwise.
const BUDGET_BYTES: usize = 256 << 20;
/// Genesis comes in diffs of so many accounts.
const CHUNK: usize = 100_000;

/// Items and their bytes: a mini-block's and a block's transactions and receipts.
const LISTS: [(usize, usize); 4] = [(100, 115), (100, 280), (20_000, 115), (20_000, 280)];
/// Items in a measurement.
const LISTS_ITEMS: usize = 20_000;

struct Sizes {
    accounts: usize,
    updates: usize,
    rounds: usize,
}

fn main() {
    let mode = mode::mode();
    if mode == mode::Mode::Skipped {
        return;
    }
    let sizes = sizes(mode == mode::Mode::Small);
    let Sizes { accounts, updates, rounds } = sizes;
    println!("{accounts} accounts, blocks of {updates} random updates, {rounds} rounds, one core");
    let mut state = Map::<Address, Account>::default();
    let mut random = Random(1);
    let rows = Arc::new(MemoryRows::default());
    let source = Arc::clone(&rows) as Arc<dyn NodeSource>;
    let mut trie = StateTrie::new(Arc::clone(&source), BUDGET_BYTES).expect("empty");
    let addresses: Vec<Address> = (0..accounts).map(|_| random.address()).collect();
    let mut built_s = 0.0;
    for chunk in addresses.chunks(CHUNK) {
        let diff = diff_of(chunk, &mut state, &mut random);
        let start = cpu::thread_s();
        let update = trie.apply(0, &diff).expect("sound");
        built_s += cpu::thread_s() - start;
        rows.write(&update.rows);
    }
    trie.checkpointed(0, Arc::clone(&source));
    let mib = trie.held_bytes() >> 20;
    println!("built in {built_s:.2} s; {} rows, {mib} MiB in memory", rows.len());

    let mut keys: Vec<B256> = addresses.iter().map(keccak256).collect();
    keys.sort_unstable();
    let mut ours = Vec::new();
    let mut hashing = Vec::new();
    let (mut row_count, mut row_bytes) = (0, 0);
    for round in 1..=rounds {
        let touched: Vec<Address> =
            (0..updates).map(|_| addresses[random.below(addresses.len())]).collect();
        let diff = diff_of(&touched, &mut state, &mut random);
        let number = u64::try_from(round).expect("small");
        let start = cpu::thread_s();
        let update = trie.apply(number, &diff).expect("sound");
        ours.push(diff.accounts.len() as f64 / (cpu::thread_s() - start));
        rows.write(&update.rows);
        trie.checkpointed(number, Arc::clone(&source));
        row_count += update.rows.len();
        row_bytes +=
            update.rows.iter().flat_map(|(_, row)| row).map(|row| row.len()).sum::<usize>();
        let sizes = changed_node_bytes(&diff, &keys);
        let start = hash_alone(&sizes, diff.accounts.len());
        hashing.push(diff.accounts.len() as f64 / (cpu::thread_s() - start));
    }
    let leaves = leaves(&state);
    let mut scratch = Vec::new();
    let mut expected = B256::ZERO;
    for _ in 0..rounds.min(3) {
        let start = cpu::thread_s();
        expected = state_root_unsorted(leaves.iter().copied());
        scratch.push(updates as f64 / (cpu::thread_s() - start));
    }
    assert_eq!(trie.root(), expected, "the root is not that of a trie from scratch");
    println!("rows a block: {}, {} KiB", row_count / rounds, row_bytes / rounds / 1024);
    let ours = told("state root, incremental", &ours);
    let limit = told("hashing the changed nodes alone", &hashing);
    let peer = told("alloy-trie, whole state from scratch", &scratch);
    println!(
        "of the limit by hashing: {:.0} %; of the peer: {:.0} times",
        ours / limit * 100.0,
        ours / peer
    );
    for (count, bytes) in LISTS {
        list(count.min(accounts), bytes, rounds);
    }
}

/// A list's root, ours and alloy's in turns: prints ns an item.
fn list(count: usize, bytes: usize, rounds: usize) {
    let item = |at: usize| (0..bytes).map(move |byte| (at * 31 + byte * 7).to_le_bytes()[0]);
    let items: Vec<Vec<u8>> = (0..count).map(|at| item(at).collect()).collect();
    let times = (LISTS_ITEMS / count).max(1);
    let measured = |root: &dyn Fn() -> B256| {
        let start = cpu::thread_s();
        for _ in 0..times {
            black_box(root());
        }
        (cpu::thread_s() - start) * 1e9 / (times * count) as f64
    };
    let ours = || list_root(count, |at, out| out.extend_from_slice(&items[at]));
    let peer = || ordered_trie_root_with_encoder(&items, |item, out| out.extend_from_slice(item));
    assert_eq!(ours(), peer(), "the root of a list is not that of alloy-trie");
    let mut both = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        both[0].push(measured(&ours));
        both[1].push(measured(&peer));
    }
    let [ours, peer] = both.map(Spread::of);
    println!(
        "list of {count} items of {bytes} bytes: {ours:.0} ns an item, alloy-trie {peer:.0}: \
         {:.2} times as fast",
        peer.median / ours.median
    );
}

/// Prints median and range in updates a second of CPU time; returns the median.
fn told(what: &str, rates: &[f64]) -> f64 {
    let spread = Spread::of(rates.iter().copied());
    println!("{what}: {spread:.0} updates/s, {} rounds", rates.len());
    spread.median
}

fn diff_of(touched: &[Address], state: &mut Map<Address, Account>, random: &mut Random) -> Diff {
    let mut diff = Diff::default();
    for address in touched {
        let account = state.entry(*address).or_default();
        account.nonce += 1;
        account.balance = U256::from(random.next()) * U256::from(1_000);
        let change = AccountDiff { account: Some(*account), ..AccountDiff::default() };
        diff.accounts.insert(*address, change);
    }
    diff
}

/// RLP sizes of the nodes on the paths to the changed leaves: branches by how many children they
/// have, from the sorted keys of `all` alone.
fn changed_node_bytes(diff: &Diff, all: &[B256]) -> Vec<usize> {
    let mut changed: Vec<B256> = diff.accounts.keys().map(keccak256).collect();
    changed.sort_unstable();
    let mut sizes = Vec::new();
    nodes(all, &changed, 0, &mut sizes);
    sizes
}

fn nodes(all: &[B256], changed: &[B256], depth: usize, sizes: &mut Vec<usize>) {
    if changed.is_empty() {
        return;
    }
    if all.len() == 1 {
        sizes.push(3 + (64 - depth) / 2 + 2 + 80);
        return;
    }
    let nibble = |key: &B256| {
        if depth.is_multiple_of(2) { key[depth / 2] >> 4 } else { key[depth / 2] & 15 }
    };
    let mut children = 0;
    for wanted in 0..16u8 {
        let part = |keys: &[B256]| {
            let start = keys.partition_point(|key| nibble(key) < wanted);
            start..keys.partition_point(|key| nibble(key) <= wanted)
        };
        let (below, below_changed) = (&all[part(all)], &changed[part(changed)]);
        if !below.is_empty() {
            children += 1;
            nodes(below, below_changed, depth + 1, sizes);
        }
    }
    sizes.push(3 + 17 + 32 * children);
}

/// Hashes all nodes and addresses; when it began, without the preparation.
fn hash_alone(sizes: &[usize], addresses: usize) -> f64 {
    let bytes = [7u8; 1024];
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable();
    let nodes: Vec<&[u8]> = sizes.iter().map(|size| &bytes[..*size]).collect();
    let addresses = vec![&bytes[..20]; addresses];
    let mut hashes = Vec::with_capacity(nodes.len() + addresses.len());
    let start = cpu::thread_s();
    keccak_batch(&nodes, &mut hashes);
    keccak_batch(&addresses, &mut hashes);
    black_box(hashes);
    start
}

fn leaves(state: &Map<Address, Account>) -> Vec<(B256, TrieAccount)> {
    let leaf = |account: &Account| TrieAccount {
        nonce: account.nonce,
        balance: account.balance,
        ..TrieAccount::default()
    };
    state.iter().map(|(address, account)| (keccak256(address), leaf(account))).collect()
}

fn sizes(small: bool) -> Sizes {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(default, |n| n.parse().expect("a number"))
    };
    let (accounts, updates) = if small { (20_000, 1_000) } else { (1_000_000, 10_000) };
    Sizes {
        accounts: number("--accounts", accounts),
        updates: number("--updates", updates),
        rounds: number("--rounds", if small { 3 } else { 12 }),
    }
}

/// SplitMix64: the same accounts in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).expect("64 bits")).expect("64 bits")
    }

    fn address(&mut self) -> Address {
        let mut bytes = [0; 20];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        bytes.into()
    }
}
