//! The folder as a whole: states equal a model, survive restarts and fit together under load.

use crate::runtime::{clock::Clock, metrics::Metrics, ring};
use crate::state::{
    archive::{Access, Archive, ArchiveConfig},
    environment::{Environment, EnvironmentConfig},
    fixture::{Chain, IDENTITY, Model, change, seal},
    genesis,
    policy::CheckpointPolicy,
    snapshot::Snapshot,
    stage::{CheckpointSeat, Outlet, run_checkpoint, run_publish, run_seal},
};
use crate::topology::seat::Stage;
use crate::types::{
    block::{NodeKey, SealedBlock, TrieUpdate},
    diff::Diff,
    flow::{ChainEvent, Event, Step},
    receipt::Receipt,
    transaction::SharedTransaction,
    view::{BlockId, ChainReader, LogQuery, NodeSource, Place, Settlement, StateView, ViewError},
};
use alloy_consensus::Header;
use alloy_genesis::{Genesis, GenesisAccount};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use proptest::prelude::*;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

type Change = (u8, Option<u64>, bool, Vec<(u64, u64)>);

fn a_diff() -> impl Strategy<Value = Vec<Change>> {
    let slots = prop::collection::vec((0u64..5, 0u64..4), 0..4);
    let balance = prop::option::weighted(0.8, 1u64..1_000);
    prop::collection::vec((0u8..6, balance, prop::bool::weighted(0.15), slots), 1..4)
}

fn diff_of(changes: &[Change]) -> Diff {
    let mut diff = Diff::default();
    for (who, balance, wiped, slots) in changes {
        let (address, change) = change(*who, *balance, *wiped, slots);
        diff.merge_account(address, &change);
    }
    diff
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// However blocks are gathered into checkpoints, the state after every block reads as the
    /// changes up to it say: through undo layers, the snapshot or the overlay, before and after
    /// a restart.
    #[test]
    fn states_equal_a_model(
        blocks in prop::collection::vec(
            (prop::collection::vec(a_diff(), 0..3), prop::bool::weighted(0.35)),
            1..14,
        ),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut chain = Chain::open(folder.path().to_owned());
        let mut models = vec![Model::default()];
        let mut waiting: Vec<SealedBlock> = Vec::new();
        for (diffs, writes) in &blocks {
            let mut model = models.last().unwrap().clone();
            let diffs: Vec<Diff> = diffs.iter().map(|changes| diff_of(changes)).collect();
            diffs.iter().for_each(|diff| model.apply(diff));
            models.push(model);
            waiting.push(chain.grow(diffs));
            if *writes {
                chain.checkpoint(&waiting);
                waiting.clear();
                models.last().unwrap().check(&*chain.published.snapshot(), "snapshot");
            }
            for (number, model) in (0..).zip(&models) {
                let view = chain.published.state(BlockId::Number(number)).unwrap();
                model.check(&*view, &format!("block {number}"));
            }
            models.last().unwrap().check(&*chain.published.state(BlockId::Pending).unwrap(), "pending");
        }
        chain.checkpoint(&waiting);
        let folder_path = chain.folder.clone();
        drop(chain);
        let chain = Chain::open(folder_path);
        prop_assert_eq!(usize::try_from(chain.next).unwrap(), models.len());
        let view = chain.published.state(BlockId::Latest).unwrap();
        models.last().unwrap().check(&*view, "after a restart");
    }
}

#[test]
fn states_beyond_the_kept_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut chain = Chain::open(folder.path().to_owned());
    for _ in 0..131 {
        let sealed = chain.grow(vec![diff_of(&[(1, Some(chain.next), false, vec![])])]);
        chain.checkpoint(&[sealed]);
    }
    let refused = chain.published.state(BlockId::Number(2)).err().unwrap();
    assert!(
        matches!(refused, ViewError::NotKept { asked: 2, oldest: 3, newest: 131 }),
        "{refused}"
    );
    let oldest = chain.published.state(BlockId::Number(3)).unwrap();
    let account = oldest.account(&Address::repeat_byte(1)).unwrap().unwrap();
    assert_eq!(account.balance, U256::from(3));
    assert!(chain.published.state(BlockId::Number(132)).is_err());
    assert!(chain.published.state(BlockId::Hash(B256::repeat_byte(9))).is_err());
}

#[test]
fn blocks_and_transactions_are_found_in_memory_and_in_the_archive() {
    let folder = tempfile::tempdir().unwrap();
    let mut chain = Chain::open(folder.path().to_owned());
    let mut sealed: Vec<SealedBlock> = Vec::new();
    for number in 0..140 {
        sealed
            .push(chain.grow(vec![diff_of(&[(1, Some(number), false, vec![])]), Diff::default()]));
        if number % 7 == 6 {
            chain.checkpoint(sealed.get(sealed.len() - 7..).unwrap());
        }
    }
    let (open, overlay) = chain.mini_block(Diff::default());
    chain.published.push(Arc::clone(&open), &overlay);
    check_found(&chain, &sealed);
    let Some(Place::Open(mini, 1)) =
        chain.published.transaction(&open.transactions[1].hash).unwrap()
    else {
        panic!("the open mini-block's transaction is not found")
    };
    assert_eq!(mini.number, open.number);
    assert_eq!(chain.published.open_mini_blocks().len(), 1);
    assert!(chain.published.transaction(&B256::repeat_byte(3)).unwrap().is_none());
    assert!(chain.archive.segment_count() > 10);

    let folder_path = chain.folder.clone();
    drop(chain);
    let chain = Chain::open(folder_path);
    check_found(&chain, &sealed);
    assert!(chain.published.transaction(&open.transactions[1].hash).unwrap().is_none());
    let view = chain.published.state(BlockId::Latest).unwrap();
    assert_eq!(view.block_hash(90).unwrap(), Some(sealed[89].block.hash));
    assert_eq!(view.block_hash(141).unwrap(), None);
}

fn check_found(chain: &Chain, sealed: &[SealedBlock]) {
    let published = &chain.published;
    for wanted in sealed.iter().map(|sealed| &sealed.block) {
        let number = wanted.header.number;
        let found = published.block(BlockId::Number(number)).unwrap().unwrap();
        assert_eq!(found.transactions, wanted.transactions);
        assert_eq!(found.receipts, wanted.receipts);
        assert_eq!(found.header, wanted.header);
        let by_hash = published.block(BlockId::Hash(wanted.hash)).unwrap().unwrap();
        assert_eq!(by_hash.hash, found.hash);
        for (at, transaction) in wanted.transactions.iter().enumerate() {
            let Some(Place::Sealed(block, index)) =
                published.transaction(&transaction.hash).unwrap()
            else {
                panic!("transaction {at} of block {number} is not found")
            };
            assert_eq!((block.header.number, index), (number, at));
        }
    }
    let query = LogQuery {
        from: 3,
        to: 139,
        addresses: vec![Address::repeat_byte(5), Address::repeat_byte(138)],
        ..LogQuery::default()
    };
    let numbers: Vec<u64> = published
        .blocks_with_logs(&query, 200)
        .unwrap()
        .iter()
        .filter(|block| block.receipts.iter().any(|r| r.logs.iter().any(|log| query.matches(log))))
        .map(|block| block.header.number)
        .collect();
    assert_eq!(numbers, [5, 138]);
}

/// Readers beside a writer never see an account and its slot of two different blocks, and never
/// go back in time.
#[test]
fn readers_see_states_that_fit_together() {
    let folder = tempfile::tempdir().unwrap();
    let mut chain = Chain::open(folder.path().to_owned());
    let published = Arc::clone(&chain.published);
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for id in [BlockId::Latest, BlockId::Pending, BlockId::Steady] {
            let (published, stop, reads) = (&published, &stop, &reads);
            scope.spawn(move || {
                let mut seen = U256::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let view = published.state(id).unwrap();
                    let who = Address::repeat_byte(1);
                    let account = view.account(&who).unwrap().unwrap_or_default();
                    let slot = view.storage(&who, &U256::from(2)).unwrap();
                    assert_eq!(account.balance, slot, "{id:?}");
                    assert!(slot >= seen, "{id:?} went back from {seen} to {slot}");
                    seen = slot;
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut waiting = Vec::new();
        for number in 1..120u64 {
            let diff = diff_of(&[(1, Some(number), number % 5 == 0, vec![(2, number)])]);
            waiting.push(chain.grow(vec![diff]));
            if number % 3 == 0 {
                chain.checkpoint(&waiting);
                waiting.clear();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(reads.load(Ordering::Relaxed) > 0);
}

#[derive(Default)]
struct Settled(AtomicU64);

impl Settlement for Settled {
    fn included(&self, transactions: &[SharedTransaction], _receipts: &[Receipt]) {
        self.0.fetch_add(transactions.len() as u64, Ordering::Relaxed);
    }
    fn dropped(&self, _transaction: &SharedTransaction, _reason: &str) {}
}

/// The three loops end by themselves, and the last checkpoint has everything.
#[test]
fn the_loops_run_down_and_leave_a_checkpoint_of_everything() {
    const BLOCKS: u64 = 9;
    let folder = tempfile::tempdir().unwrap();
    let mut chain = Chain::open(folder.path().to_owned());
    let metrics = Metrics::default();
    let events: Arc<Mutex<Vec<ChainEvent>>> = Arc::default();
    let outlet = |stage| {
        let events = Arc::clone(&events);
        let emit = Box::new(move |event| events.lock().unwrap().push(event));
        Outlet { emit, clock: Clock::system(), metrics: metrics.stage(stage) }
    };
    let settled = Settled::default();
    let (step_in, step_out) = ring::ring(8);
    let (closed_in, closed_out) = ring::ring(8);
    let (sealed_in, sealed_out) = ring::ring(8);
    let (write_in, write_out) = ring::ring(8);
    let told: Arc<Mutex<Vec<u64>>> = Arc::default();
    let tell = Arc::clone(&told);
    let seat = CheckpointSeat {
        environment: chain.environment.clone(),
        archive: Arc::clone(&chain.archive),
        published: Arc::clone(&chain.published),
        policy: CheckpointPolicy { light_weight_max: 0, blocks_max: 4, ..Default::default() },
        readers: 2,
        on_checkpoint: Box::new(move |block, snapshot| {
            assert_eq!(snapshot.checkpoint().block, block);
            tell.lock().unwrap().push(block);
        }),
        clock: Clock::system(),
        metrics: metrics.stage(Stage::Checkpoint),
    };
    let published = Arc::clone(&chain.published);
    let (publishing, sealing) = (outlet(Stage::State), outlet(Stage::Block));
    std::thread::scope(|scope| {
        let (published, settled) = (&published, &settled);
        scope.spawn(|| {
            let closed_in = closed_in;
            run_publish(&step_out, &closed_in, published, settled, &publishing).unwrap();
        });
        scope.spawn(move || {
            while let Some(closed) = closed_out.pop_wait() {
                sealed_in.push_wait(seal(&closed)).ok().unwrap();
            }
        });
        scope.spawn(|| {
            let write_in = write_in;
            run_seal(&sealed_out, &write_in, published, &sealing).unwrap();
        });
        scope.spawn(move || run_checkpoint(&write_out, &seat).unwrap());
        for number in 1..=BLOCKS {
            let diff = diff_of(&[(1, Some(number), false, vec![(1, number)])]);
            let (mini_block, overlay) = chain.mini_block(diff);
            step_in.push_wait(Step { event: Event::MiniBlock(mini_block), overlay }).ok().unwrap();
            let (close, overlay) = chain.close();
            step_in.push_wait(Step { event: Event::Close(close), overlay }).ok().unwrap();
        }
        drop(step_in);
    });
    assert_eq!(told.lock().unwrap().last(), Some(&BLOCKS));
    assert!(told.lock().unwrap().len() < usize::try_from(BLOCKS).unwrap());
    assert_eq!(settled.0.load(Ordering::Relaxed), 2 * BLOCKS);
    let events = events.lock().unwrap();
    let blocks = events.iter().filter(|event| matches!(event, ChainEvent::Block(_))).count();
    assert_eq!((events.len() - blocks, blocks), (9, 9));
    check_final(&chain, BLOCKS);
}

fn check_final(chain: &Chain, blocks: u64) {
    let heads = chain.published.heads();
    assert_eq!((heads.latest, heads.steady, heads.mini_block), (blocks, blocks, blocks));
    let checkpoint = chain.environment.opened().unwrap().unwrap().checkpoint;
    assert_eq!((checkpoint.block, checkpoint.mini_block), (blocks, blocks));
    assert_eq!(checkpoint.mini_block_hash, keccak256(blocks.to_be_bytes()));
    let root = NodeKey { owner: None, path: vec![] };
    let row = chain.published.snapshot().row(&root).unwrap();
    assert_eq!(row, Some(Bytes::from(blocks.to_be_bytes().to_vec())));
    let gone = NodeKey { owner: None, path: vec![9] };
    assert_eq!(chain.published.snapshot().row(&gone).unwrap(), None);
}

#[test]
fn genesis_starts_again_after_an_attempt_that_was_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let config = EnvironmentConfig::default();
    let environment = Environment::open(folder.path(), &config, IDENTITY).unwrap();
    let archive = folder.path().join("archive");
    let archive = Archive::open(&archive, None, ArchiveConfig::default(), Access::Direct).unwrap();
    let code = Bytes::from_static(&[0x60, 0x00]);
    let account = GenesisAccount {
        nonce: Some(1),
        balance: U256::from(5),
        code: Some(code.clone()),
        storage: Some([(B256::with_last_byte(1), B256::with_last_byte(2))].into()),
        ..GenesisAccount::default()
    };
    let contract = Address::repeat_byte(2);
    let stray = Address::repeat_byte(9);
    let broken = Genesis::default().extend_accounts([(stray, account.clone())]);
    let header = |state_root| Header { state_root, ..Header::default() };
    let mut attempts = 0;
    let twice = genesis::chunks(&broken, &[]).chain([Diff::default()]);
    let failed = genesis::initialise(
        &environment,
        &archive,
        twice,
        &mut |_, _| {
            attempts += 1;
            if attempts == 2 { Err("no".into()) } else { Ok(TrieUpdate::default()) }
        },
        header,
    );
    assert!(failed.is_err());
    assert!(environment.opened().unwrap().is_none());

    let plain = GenesisAccount { balance: U256::from(7), ..GenesisAccount::default() };
    let genesis = Genesis::default().extend_accounts([(Address::repeat_byte(1), plain.clone())]);
    let system = [(contract, account), (Address::repeat_byte(1), GenesisAccount::default())];
    let root = B256::repeat_byte(4);
    let made = genesis::initialise(
        &environment,
        &archive,
        genesis::chunks(&genesis, &system),
        &mut |_, diff| {
            assert_eq!(diff.accounts.len(), 2);
            Ok(TrieUpdate { root, rows: Vec::new() })
        },
        header,
    )
    .unwrap();
    let opened = environment.opened().unwrap().unwrap();
    assert_eq!((opened.checkpoint, opened.header.state_root), (made, root));
    assert_eq!(opened.recent_hashes, [(0, made.hash)]);
    let snapshot = Snapshot::open(&environment, 1).unwrap();
    assert_eq!(snapshot.account(&stray).unwrap(), None);
    assert_eq!(snapshot.account(&Address::repeat_byte(1)).unwrap().unwrap().balance, plain.balance);
    assert_eq!(snapshot.storage(&contract, &U256::from(1)).unwrap(), U256::from(2));
    let hash = snapshot.account(&contract).unwrap().unwrap().code_hash;
    assert_eq!(snapshot.code(&hash).unwrap(), Some(code));
    let again = genesis::initialise(
        &environment,
        &archive,
        std::iter::empty(),
        &mut |_, _| Ok(TrieUpdate::default()),
        header,
    );
    assert!(again.is_err());
}
