//! The folder as a whole: states equal a model, survive restarts and fit together under load.

use crate::state::{
    archive::{Access, Archive, ArchiveConfig},
    environment::{Environment, EnvironmentConfig},
    fixture::{Chain, IDENTITY, Model, change},
    genesis,
    snapshot::Snapshot,
};
use crate::types::{
    block::{SealedBlock, TrieUpdate},
    diff::Diff,
    view::{BlockId, ChainReader, LogQuery, Place, StateView, ViewError},
};
use alloy_consensus::Header;
use alloy_genesis::GenesisAccount;
use alloy_primitives::{Address, B256, Bytes, U256};
use proptest::prelude::*;
use std::sync::{
    Arc,
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
            let pending = chain.published.state(BlockId::Pending).unwrap();
            models.last().unwrap().check(&*pending, "pending");
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
            match published.transaction(&transaction.hash).unwrap() {
                Some(Place::Sealed(block, index)) => {
                    assert_eq!((block.header.number, index), (number, at));
                }
                Some(Place::Archived(found)) => {
                    assert_eq!(found.index, u64::try_from(at).unwrap());
                    assert_eq!(found.first_log, wanted.first_log(at));
                    assert_eq!((&found.header, found.block_hash), (&wanted.header, wanted.hash));
                    assert_eq!(found.transaction, *transaction);
                    assert_eq!(found.receipt, wanted.receipts[at]);
                }
                _ => panic!("transaction {at} of block {number} is not found"),
            }
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
    let header = |state_root| Header { state_root, ..Header::default() };
    let mut attempts = 0;
    let twice = genesis::chunks([(stray, account.clone())].into()).chain([Diff::default()]);
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
    let alloc = [(Address::repeat_byte(1), plain.clone()), (contract, account)].into();
    let root = B256::repeat_byte(4);
    let made = genesis::initialise(
        &environment,
        &archive,
        genesis::chunks(alloc),
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
