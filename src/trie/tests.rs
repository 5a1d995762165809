//! The trie against other means: `alloy-trie` from scratch, and a naive definition.

use crate::trie::{
    plain::{MemoryRows, PlainTrie},
    root::StateTrie,
    service::{Checkpoint, ProofService},
    walk,
};
use crate::types::{
    block::{NodeKey, TrieUpdate},
    diff::{Account, AccountDiff, Diff},
    view::{BlockId, NodeSource, ProofSource, ViewError},
};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_trie::{
    EMPTY_ROOT_HASH, Nibbles, TrieAccount,
    proof::verify_proof,
    root::{state_root_unhashed, storage_root_unhashed},
};
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};

#[derive(Debug, Clone)]
struct Change {
    who: u16,
    /// 0: deleted.
    balance: u64,
    wiped: bool,
    code: bool,
    slots: Vec<(u8, u64)>,
}

type Model = BTreeMap<Address, (Account, BTreeMap<U256, U256>)>;

fn address(who: u16) -> Address {
    Address::left_padding_from(&who.to_be_bytes())
}

fn change(who: u16, slot_count: u8) -> impl Strategy<Value = Change> {
    let slots =
        prop::collection::vec((0..slot_count, prop_oneof![Just(0), 1..1_000_000u64]), 0..12);
    (0..who, prop_oneof![1 => Just(0), 5 => 1..9_999u64], 0..8u8, any::<bool>(), slots).prop_map(
        |(who, balance, wiped, code, slots)| {
            // Few accounts have storage, so that some storages grow large.
            let slots = if who.is_multiple_of(16) { slots } else { Vec::new() };
            Change { who, balance, wiped: wiped == 0, code, slots }
        },
    )
}

fn diff_of(changes: &[Change], model: &mut Model) -> Diff {
    let mut diff = Diff::default();
    for change in changes {
        let code_hash =
            if change.code { B256::repeat_byte(7) } else { alloy_primitives::KECCAK256_EMPTY };
        let balance = U256::from(change.balance) << (change.balance % 200);
        let account = Account { nonce: change.balance % 300, balance, code_hash };
        let slots = change.slots.iter().map(|(k, v)| (U256::from(*k), U256::from(*v)));
        let exists = change.balance > 0;
        let newer = AccountDiff {
            account: exists.then_some(account),
            wiped: change.wiped || !exists,
            storage: if exists { slots.collect() } else { Default::default() },
        };
        let entry = model.entry(address(change.who)).or_default();
        entry.0 = account;
        if newer.wiped {
            entry.1.clear();
        }
        entry.1.extend(newer.storage.iter().map(|(k, v)| (*k, *v)));
        entry.1.retain(|_, value| !value.is_zero());
        if !exists {
            model.remove(&address(change.who));
        }
        diff.merge_account(address(change.who), &newer);
    }
    diff
}

fn expected_root(model: &Model) -> B256 {
    state_root_unhashed(model.iter().map(|(address, (account, storage))| {
        let storage = storage.iter().map(|(slot, value)| (B256::from(*slot), *value));
        let account = TrieAccount {
            nonce: account.nonce,
            balance: account.balance,
            storage_root: storage_root_unhashed(storage),
            code_hash: account.code_hash,
        };
        (*address, account)
    }))
}

fn source(rows: &Arc<MemoryRows>) -> Arc<dyn NodeSource> {
    Arc::clone(rows) as Arc<dyn NodeSource>
}

fn first_block() -> Vec<Change> {
    let slots =
        |who: u16| if who.is_multiple_of(64) { (0..120).map(|k| (k, 5)).collect() } else { vec![] };
    let all = 0..400u16;
    all.map(|who| Change { who, balance: 9, wiped: false, code: false, slots: slots(who) })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever comes, goes, is evicted, checkpointed and opened again, the root is that of a
    /// trie built from scratch, and no row outlives its nodes.
    #[test]
    fn the_root_is_that_from_scratch(
        blocks in prop::collection::vec(
            (prop::collection::vec(change(500, 120), 0..60), any::<bool>(), any::<bool>()),
            1..12,
        ),
        crowded in any::<bool>(),
        budget_bytes in prop_oneof![Just(0usize), Just(20_000), Just(10_000_000)],
    ) {
        let stored = Arc::new(MemoryRows::default());
        let mut trie = StateTrie::new(source(&stored), budget_bytes).unwrap();
        let mut model = Model::default();
        let mut unwritten = Vec::<TrieUpdate>::new();
        let start = if crowded { first_block() } else { Vec::new() };
        let all = std::iter::once((start, true, false)).chain(blocks);
        for (number, (changes, checkpoint, reopen)) in (1u64..).zip(all) {
            let update = trie.apply(number, &diff_of(&changes, &mut model)).unwrap();
            prop_assert_eq!(update.root, expected_root(&model));
            prop_assert!(update.rows.is_sorted_by(|a, b| a.0 < b.0));
            unwritten.push(update);
            if checkpoint {
                for update in unwritten.drain(..) {
                    stored.write(&update.rows);
                }
                trie.checkpointed(number, source(&stored));
                prop_assert_eq!(walk::root(stored.as_ref(), None).unwrap(), trie.root());
                if reopen {
                    trie = StateTrie::new(source(&stored), budget_bytes).unwrap();
                }
            }
        }
        let all: Vec<u16> = (0..500).collect();
        let mut diff = Diff::default();
        for who in all {
            diff.accounts.insert(address(who), AccountDiff { wiped: true, ..Default::default() });
        }
        let update = trie.apply(1_000, &diff).unwrap();
        prop_assert_eq!(update.root, EMPTY_ROOT_HASH);
        unwritten.push(update);
        for update in unwritten {
            stored.write(&update.rows);
        }
        prop_assert_eq!(stored.len(), 0);
    }

    /// Keys of any length, also such that begin others, against the definition.
    #[test]
    fn a_plain_trie_is_what_the_definition_says(
        batches in prop::collection::vec(
            prop::collection::vec(
                (
                    prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0x10)], 0..5),
                    prop::option::weighted(0.8, prop::collection::vec(any::<u8>(), 1..40)),
                ),
                0..30,
            ),
            1..6,
        ),
    ) {
        let mut trie = PlainTrie::default();
        let mut model = BTreeMap::<Vec<u8>, Vec<u8>>::new();
        for batch in &batches {
            let mut changes = Vec::new();
            for (key, value) in batch {
                changes.push((&key[..], value.as_deref()));
                match value {
                    Some(value) => model.insert(key.clone(), value.clone()),
                    None => model.remove(key),
                };
            }
            prop_assert_eq!(trie.apply(&changes).unwrap(), defined_root(&model));
        }
        let entries: Vec<_> = model.into_iter().collect();
        prop_assert_eq!(trie.entries().unwrap(), entries);
    }

    /// A damaged row is an error or, where what was hit is not needed, passes; never a panic.
    #[test]
    fn damaged_rows_never_panic(
        row in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let (mut stored, _) = crowded_rows();
        let at = row.index(stored.rows.len());
        let (_, damaged) = &mut stored.rows[at];
        let mut bytes = damaged.clone().unwrap().to_vec();
        let place = place.index(bytes.len());
        if cut {
            bytes.truncate(place);
        } else {
            bytes[place] = byte;
        }
        *damaged = Some(bytes.into());
        let rows = Arc::new(MemoryRows::default());
        rows.write(&stored.rows);
        let service = service(&rows);
        for who in 0..80 {
            let slots = [U256::ZERO, U256::from(77)];
            let _proof = service.proof(address(who * 5), &slots, BlockId::Latest).is_ok();
        }
        let _walked = walk::leaves(rows.as_ref(), None, &mut |_, _| {}).is_ok();
        if let Ok(mut trie) = StateTrie::new(source(&rows), 0) {
            let mut changes = first_block();
            for change in &mut changes {
                change.balance = u64::from(change.who % 3) * 4;
                change.wiped = change.who.is_multiple_of(128);
            }
            let _applied = trie.apply(2, &diff_of(&changes, &mut Model::default())).is_ok();
        }
    }
}

/// Appendix D of the Yellow Paper, word by word.
fn defined_root(model: &BTreeMap<Vec<u8>, Vec<u8>>) -> B256 {
    let pairs: Vec<(Vec<u8>, &[u8])> = model
        .iter()
        .map(|(key, value)| (key.iter().flat_map(|b| [b >> 4, b & 15]).collect(), &value[..]))
        .collect();
    if pairs.is_empty() { EMPTY_ROOT_HASH } else { keccak256(node(&pairs, 0)) }
}

fn node(pairs: &[(Vec<u8>, &[u8])], at: usize) -> Vec<u8> {
    let mut items = Vec::new();
    if let [(key, value)] = pairs {
        string(&compact(&key[at..], true), &mut items);
        string(value, &mut items);
        return list(items);
    }
    let first = &pairs[0].0;
    let shared = |(key, _): &(Vec<u8>, &[u8])| {
        key[at..].iter().zip(&first[at..]).take_while(|(a, b)| a == b).count()
    };
    let shared = pairs.iter().map(shared).min().unwrap();
    if shared > 0 {
        string(&compact(&first[at..at + shared], false), &mut items);
        items.extend(named(node(pairs, at + shared)));
        return list(items);
    }
    for nibble in 0..16u8 {
        let group = |(key, _): &&(Vec<u8>, &[u8])| key.get(at) == Some(&nibble);
        let group: Vec<_> = pairs.iter().filter(group).cloned().collect();
        if group.is_empty() {
            items.push(0x80);
        } else {
            items.extend(named(node(&group, at + 1)));
        }
    }
    let own = pairs.iter().find(|(key, _)| key.len() == at).map_or(&[][..], |pair| pair.1);
    string(own, &mut items);
    list(items)
}

fn named(rlp: Vec<u8>) -> Vec<u8> {
    if rlp.len() < 32 {
        return rlp;
    }
    [&[0xa0], keccak256(rlp).as_slice()].concat()
}

fn string(bytes: &[u8], out: &mut Vec<u8>) {
    alloy_rlp::Encodable::encode(bytes, out);
}

fn list(payload: Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    alloy_rlp::Header { list: true, payload_length: payload.len() }.encode(&mut out);
    out.extend(payload);
    out
}

fn compact(path: &[u8], leaf: bool) -> Vec<u8> {
    let flag = if leaf { 2 } else { 0 } + u8::from(path.len() % 2 == 1);
    let mut nibbles = vec![flag];
    nibbles.extend(if path.len().is_multiple_of(2) { vec![0] } else { vec![] });
    nibbles.extend(path);
    nibbles.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn crowded_rows() -> (TrieUpdate, Model) {
    let mut model = Model::default();
    let mut trie = StateTrie::new(Arc::new(MemoryRows::default()), 0).unwrap();
    (trie.apply(1, &diff_of(&first_block(), &mut model)).unwrap(), model)
}

fn service(rows: &Arc<MemoryRows>) -> ProofService {
    ProofService::new(Checkpoint { block: 1, source: source(rows) }, B256::repeat_byte(1))
}

fn check_proofs(service: &ProofService, id: BlockId, root: B256, model: &Model) {
    for who in 0..600 {
        let address = address(who);
        let slots: Vec<U256> = [0, 7, 119, 200].map(U256::from).to_vec();
        let proof = service.proof(address, &slots, id).unwrap();
        let kept = model.get(&address);
        assert_eq!(proof.account, kept.map(|(account, _)| *account), "{who}");
        let storage = kept.map(|(_, storage)| storage.clone()).unwrap_or_default();
        let value = kept.map(|(account, _)| {
            let all = storage.iter().map(|(slot, value)| (B256::from(*slot), *value));
            let storage_root = storage_root_unhashed(all);
            assert_eq!(proof.storage_root, storage_root);
            alloy_rlp::encode(TrieAccount {
                nonce: account.nonce,
                balance: account.balance,
                storage_root,
                code_hash: account.code_hash,
            })
        });
        verify_proof(root, Nibbles::unpack(keccak256(address)), value, &proof.nodes).unwrap();
        for (slot, value, nodes) in &proof.slots {
            let kept = storage.get(slot).copied();
            assert_eq!(*value, kept.unwrap_or_default());
            let key = Nibbles::unpack(keccak256(B256::from(*slot)));
            verify_proof(proof.storage_root, key, kept.map(alloy_rlp::encode), nodes).unwrap();
        }
    }
}

#[test]
fn proofs_of_every_kept_block_verify() {
    let (genesis, mut model) = crowded_rows();
    let rows = Arc::new(MemoryRows::default());
    rows.write(&genesis.rows);
    let service = service(&rows);
    let mut trie = StateTrie::new(source(&rows), 1 << 20).unwrap();
    let mut states = vec![(1, genesis.root, model.clone())];
    let mut updates = Vec::new();
    for number in 2..6u16 {
        let changes: Vec<_> = (0..200)
            .map(|at: u16| {
                let who = (at * number * 7) % 500;
                let storage = who.is_multiple_of(32);
                Change {
                    who,
                    balance: u64::from((at + number) % 5),
                    wiped: at.is_multiple_of(9),
                    code: storage,
                    slots: if storage { vec![(7, at.into()), (119, 0)] } else { vec![] },
                }
            })
            .collect();
        let update = Arc::new(trie.apply(number.into(), &diff_of(&changes, &mut model)).unwrap());
        let before = service.checkpoint().block;
        service.rooted(number.into(), &update);
        let unsealed = service.proof(Address::ZERO, &[], BlockId::Number(number.into()));
        assert!(matches!(unsealed, Err(ViewError::NotKept { .. })), "over checkpoint {before}");
        service.sealed(number.into(), B256::repeat_byte(number.to_be_bytes()[1]));
        states.push((number.into(), update.root, model.clone()));
        updates.push(update);
    }
    for (number, root, model) in &states {
        check_proofs(&service, BlockId::Number(*number), *root, model);
    }
    check_proofs(&service, BlockId::Hash(B256::repeat_byte(3)), states[2].1, &states[2].2);
    check_proofs(&service, BlockId::Hash(B256::repeat_byte(1)), states[0].1, &states[0].2);

    let newer = Arc::new(MemoryRows::default());
    for update in std::iter::once(&genesis).chain(updates.iter().take(2).map(|u| u.as_ref())) {
        newer.write(&update.rows);
    }
    service.checkpointed(&Checkpoint { block: 3, source: source(&newer) });
    check_proofs(&service, BlockId::Steady, states[2].1, &states[2].2);
    check_proofs(&service, BlockId::Hash(B256::repeat_byte(3)), states[2].1, &states[2].2);
    check_proofs(&service, BlockId::Pending, states[4].1, &states[4].2);
    let old = service.proof(Address::ZERO, &[], BlockId::Number(2));
    assert!(matches!(old, Err(ViewError::NotKept { asked: 2, oldest: 3, newest: 5 })));
}

#[test]
fn an_empty_trie_proves_absence_without_nodes() {
    let service = service(&Arc::new(MemoryRows::default()));
    let proof = service.proof(Address::ZERO, &[U256::ZERO], BlockId::Latest).unwrap();
    assert!(proof.account.is_none() && proof.nodes.is_empty());
    verify_proof(EMPTY_ROOT_HASH, Nibbles::unpack(B256::ZERO), None, &proof.nodes).unwrap();
}

#[test]
fn a_row_that_is_not_its_parents_child_is_refused() {
    let (stored, _) = crowded_rows();
    let inner = stored.rows.iter().filter(|(key, _)| key.owner.is_none() && !key.path.is_empty());
    let (key, row) = inner.last().unwrap();
    let mut damaged = row.clone().unwrap().to_vec();
    let last_hash_byte = 2 + 2 + 32;
    damaged[last_hash_byte] ^= 1;
    for row in [Some(Bytes::from(damaged)), None] {
        let rows = Arc::new(MemoryRows::default());
        rows.write(&stored.rows);
        rows.write(&[(NodeKey::clone(key), row)]);
        let mut trie = StateTrie::new(source(&rows), 0).unwrap();
        let root = trie.root();
        let error = trie.apply(2, &diff_of(&first_block(), &mut Model::default())).unwrap_err();
        assert!(error.to_string().starts_with("trie row accounts/"), "{error}");
        assert_eq!(trie.root(), root);
    }
}

#[test]
fn memory_keeps_to_its_budget_once_rows_are_checkpointed() {
    let stored = Arc::new(MemoryRows::default());
    let budget_bytes = 30_000;
    let mut trie = StateTrie::new(source(&stored), budget_bytes).unwrap();
    let mut model = Model::default();
    let update = trie.apply(1, &diff_of(&first_block(), &mut model)).unwrap();
    assert!(trie.held_bytes() > budget_bytes, "the test needs more rows");
    stored.write(&update.rows);
    trie.checkpointed(1, source(&stored));
    assert!(trie.held_bytes() <= budget_bytes);
}
