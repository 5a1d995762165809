//! What a checkpoint and a read cost, and that a data folder has one user. Small by default:
//! `BASALT_COST_ACCOUNTS=1000000 cargo test --release --test checkpoint_cost -- --nocapture`.

use alloy_consensus::Header;
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use basalt::{
    runtime::clock::Clock,
    state::{
        archive::{Access, Archive, ArchiveConfig},
        checkpoint::{self, Target},
        environment::{Environment, EnvironmentConfig, Identity, OpenError},
        genesis,
        snapshot::Snapshot,
    },
    types::{
        block::{Block, LogStarts, NodeKey, SealedBlock, TrieUpdate},
        diff::{Account, AccountDiff, Diff},
        view::StateView,
    },
};
use std::{path::Path, sync::Arc};

const IDENTITY: Identity = Identity { chain_id: 31_337, genesis: B256::ZERO };
const FOLDER: &str = "BASALT_TEST_FOLDER";

#[test]
fn what_a_checkpoint_costs() {
    let accounts: u64 =
        std::env::var("BASALT_COST_ACCOUNTS").map_or(20_000, |count| count.parse().unwrap());
    let changed = accounts / 20;
    let folder = tempfile::tempdir().unwrap();
    let config = EnvironmentConfig::default();
    let environment = Environment::open(&folder.path().join("db"), &config, IDENTITY).unwrap();
    let archive = folder.path().join("archive");
    let archive = Archive::open(&archive, None, ArchiveConfig::default(), Access::Direct).unwrap();
    let clock = Clock::system();

    let start = clock.now_us();
    let chunks = (0..accounts)
        .step_by(100_000)
        .map(|first| diff((first..accounts.min(first + 100_000)).map(|which| (which, which))));
    let header = |state_root| Header { state_root, ..Header::default() };
    genesis::initialise(
        &environment,
        &archive,
        chunks,
        &mut |_, _| Ok(TrieUpdate::default()),
        header,
    )
    .unwrap();
    println!("genesis of {accounts} accounts: {} ms", (clock.now_us() - start) / 1_000);

    let mut snapshot = Arc::new(Snapshot::open(&environment, 2).unwrap());
    let reads = accounts.min(200_000);
    let asked: Vec<Address> = (0..reads).map(|at| address(at * 7_919 % accounts)).collect();
    let cpu = cpu_ns();
    for address in &asked {
        assert!(snapshot.account(address).unwrap().is_some());
    }
    println!("random account read with its hash: {} ns of CPU", (cpu_ns() - cpu) / reads);

    for (number, rows, blocks) in [(1, 0, 1), (2, 0, 1), (3, changed, 1), (4, changed, 8)] {
        let first: u64 = if number == 4 { 4 } else { number };
        let sealed: Vec<SealedBlock> = (first..first + blocks)
            .map(|at| sealed(at, (accounts, changed / blocks, rows)))
            .collect();
        let target = Target { environment: &environment, archive: &archive, readers: 2 };
        let (start, cpu) = (clock.now_us(), cpu_ns());
        let written = checkpoint::write(&target, &snapshot, &sealed, (number, B256::ZERO)).unwrap();
        println!(
            "checkpoint of {blocks} blocks, {} entries, {} trie rows: {} ms, {} ms of CPU",
            written.weight,
            written.trie_rows,
            (clock.now_us() - start) / 1_000,
            (cpu_ns() - cpu) / 1_000_000
        );
        snapshot = written.snapshot;
    }
    println!("database: {} MiB", environment.used_bytes().unwrap() >> 20);
}

/// The second process is refused with a message that names the folder.
#[test]
fn a_second_process_is_refused() {
    if let Ok(folder) = std::env::var(FOLDER) {
        let config = EnvironmentConfig::default();
        let refused = Environment::open(Path::new(&folder), &config, IDENTITY).unwrap_err();
        assert!(matches!(refused, OpenError::InUse(_)), "{refused}");
        assert!(refused.to_string().contains(&folder), "{refused}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = EnvironmentConfig::default();
    let first = Environment::open(folder.path(), &config, IDENTITY).unwrap();
    let second = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_second_process_is_refused"])
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    assert!(second.status.success(), "{}", String::from_utf8_lossy(&second.stdout));
    drop(first);
}

fn address(which: u64) -> Address {
    Address::from_slice(&keccak256(which.to_be_bytes())[12..])
}

fn diff(changes: impl Iterator<Item = (u64, u64)>) -> Diff {
    let change = |(which, balance): (u64, u64)| {
        let account = Account { nonce: 1, balance: U256::from(balance + 1), ..Account::default() };
        (address(which), AccountDiff { account: Some(account), ..AccountDiff::default() })
    };
    Diff { accounts: changes.map(change).collect(), ..Diff::default() }
}

fn sealed(number: u64, (accounts, changed, rows): (u64, u64, u64)) -> SealedBlock {
    let which = |at: u64| (at * 20 + number) % accounts;
    let diff = diff((0..changed).map(|at| (which(at), number * 1_000)));
    let nibbles =
        |at: u64| keccak256((at * 31).to_be_bytes()).iter().take(5).map(|b| b & 15).collect();
    let row = |at| (NodeKey { owner: None, path: nibbles(at) }, Some(Bytes::from(vec![1; 120])));
    let mut rows: Vec<_> = (0..rows).map(row).collect();
    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
    rows.dedup_by(|(a, _), (b, _)| a == b);
    let root = B256::with_last_byte(1);
    let header = Header { number, state_root: root, ..Header::default() };
    let hash = header.hash_slow();
    let block = Block {
        header,
        hash,
        transactions: Vec::new(),
        receipts: Vec::new(),
        last_mini_block: number,
        mini_block_count: 1,
        log_starts: LogStarts::default(),
    };
    let trie = Arc::new(TrieUpdate { root, rows });
    SealedBlock { block: Arc::new(block), diff: Arc::new(diff), trie }
}

/// Nanoseconds that this thread has run on a core.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or_default()
}
