//! Headers and sealed blocks against Ethereum's own types.

use crate::block::{
    header::{Roots, header},
    seal::{Head, SealError, ethereum_block, seal},
};
use crate::trie::root::RootedBlock;
use crate::types::{
    block::{BlockClose, TrieUpdate},
    diff::Diff,
    flow::ClosedBlock,
    mini_block::{BlockEnvironment, MiniBlock},
    receipt::Receipt,
    transaction::RecoveredTransaction,
};
use alloy_consensus::proofs::calculate_transaction_root;
use alloy_consensus::{Block, Header, SignableTransaction as _, TxEip1559, TxEnvelope, TxType};
use alloy_primitives::{
    Address, B256, Bloom, Bytes, Log, LogData, Signature, TxKind, U256, keccak256,
};
use alloy_rlp::{Decodable as _, Encodable as _};
use alloy_trie::{EMPTY_ROOT_HASH, root::ordered_trie_root_with_encoder};
use proptest::prelude::*;
use std::sync::Arc;

const PARENT: Head = Head { number: 6, hash: B256::repeat_byte(6) };

fn environment() -> BlockEnvironment {
    BlockEnvironment {
        number: 7,
        timestamp: 1_700_000_000,
        base_fee: 1_000_000,
        gas_limit: 60_000_000,
        fee_recipient: Address::repeat_byte(3),
        prev_randao: B256::repeat_byte(4),
    }
}

fn transaction(nonce: u64, input: Vec<u8>) -> Arc<RecoveredTransaction> {
    let body = TxEip1559 {
        chain_id: 31_337,
        nonce,
        gas_limit: 21_000,
        to: TxKind::Call(Address::repeat_byte(9)),
        input: input.into(),
        ..TxEip1559::default()
    };
    let signature = Signature::new(U256::from(1), U256::from(2), true);
    let envelope = TxEnvelope::from(body.into_signed(signature));
    let raw = Bytes::from(alloy_eips::eip2718::Encodable2718::encoded_2718(&envelope));
    let (hash, sender) = (*envelope.tx_hash(), Address::repeat_byte(8));
    Arc::new(RecoveredTransaction::new(envelope, hash, (sender, Vec::new()), raw))
}

/// A block whose mini-blocks hold so many transactions each.
fn closed(counts: &[usize], requests: Vec<Bytes>) -> ClosedBlock {
    let (mut mini_blocks, mut nonce) = (Vec::new(), 0u64);
    for (index, count) in (0u64..).zip(counts) {
        let first_transaction = nonce;
        let (mut transactions, mut receipts) = (Vec::new(), Vec::new());
        for _ in 0..*count {
            let data = LogData::new_unchecked(vec![B256::from(U256::from(nonce))], Bytes::new());
            nonce += 1;
            transactions.push(transaction(nonce, vec![7; usize::try_from(nonce % 70).unwrap()]));
            receipts.push(Receipt {
                tx_type: TxType::Eip1559,
                success: !nonce.is_multiple_of(3),
                gas_used: 21_000,
                cumulative_gas_used: 21_000 * nonce,
                logs: vec![Log { address: Address::repeat_byte(2), data }],
            });
        }
        mini_blocks.push(Arc::new(MiniBlock {
            number: 100 + index,
            environment: environment(),
            index,
            first_transaction,
            // Each transaction has one log.
            first_log: first_transaction,
            timestamp_us: 0,
            parent_hash: B256::ZERO,
            gas_used: 21_000 * u64::try_from(*count).unwrap(),
            transactions,
            receipts,
            diff: Arc::new(Diff::default()),
            transaction_root: B256::ZERO,
            receipt_root: B256::ZERO,
            hash: B256::ZERO,
            signature: Signature::new(U256::from(1), U256::from(2), true),
        }));
    }
    let mini_block_count = u64::try_from(counts.len()).unwrap();
    let close = BlockClose {
        environment: environment(),
        parent_hash: PARENT.hash,
        last_mini_block: 99 + mini_block_count,
        mini_block_count,
        transaction_count: nonce,
        gas_used: 21_000 * nonce,
        requests,
        diff: Arc::new(Diff::default()),
    };
    ClosedBlock { close: Arc::new(close), mini_blocks, diff: Arc::new(Diff::default()) }
}

fn rooted(closed: ClosedBlock) -> RootedBlock {
    let update = TrieUpdate { root: B256::repeat_byte(5), rows: Vec::new() };
    RootedBlock { closed, update: Arc::new(update) }
}

proptest! {
    /// The hash is that of the RLP, and the RLP decodes to what it was made from.
    #[test]
    fn a_sealed_block_is_an_ethereum_block(
        counts in prop::collection::vec(0usize..30, 0..6),
        requests in prop::collection::vec(prop::collection::vec(any::<u8>(), 2..40), 0..3),
        extra_data in prop::collection::vec(any::<u8>(), 0..32),
    ) {
        // `BlockClose` has them in order of type, one a type.
        let mut requests: Vec<Bytes> = requests.into_iter().map(Bytes::from).collect();
        requests.sort_by_key(|request| request[0]);
        requests.dedup_by_key(|request| request[0]);
        let extra_data = Bytes::from(extra_data);
        let block = closed(&counts, requests.clone());
        let sealed = seal(PARENT, rooted(block), &extra_data).unwrap();
        let header = &sealed.block.header;
        prop_assert_eq!(keccak256(alloy_rlp::encode(header)), sealed.block.hash);
        prop_assert_eq!(&Header::decode(&mut &alloy_rlp::encode(header)[..]).unwrap(), header);
        prop_assert_eq!(header.state_root, B256::repeat_byte(5));

        let ethereum = ethereum_block(&sealed.block);
        let mut rlp = Vec::new();
        ethereum.encode(&mut rlp);
        let decoded = Block::<TxEnvelope, Header>::decode(&mut &rlp[..]).unwrap();
        prop_assert_eq!(&decoded.header, header);
        let root = calculate_transaction_root(&decoded.body.transactions);
        prop_assert_eq!(root, header.transactions_root);
        prop_assert_eq!(decoded.body.calculate_withdrawals_root(), header.withdrawals_root);
        prop_assert_eq!(decoded.body.calculate_ommers_root(), header.ommers_hash);
        let receipts = &sealed.block.receipts;
        let root = ordered_trie_root_with_encoder(receipts, |receipt, out| {
            alloy_eips::eip2718::Encodable2718::encode_2718(&receipt.envelope(), out);
        });
        prop_assert_eq!(header.receipts_root, root);
        let bloom = receipts.iter().fold(Bloom::ZERO, |bloom, receipt| bloom | receipt.bloom());
        prop_assert_eq!(header.logs_bloom, bloom);
        let requests = alloy_eips::eip7685::Requests::new(requests);
        prop_assert_eq!(header.requests_hash, Some(requests.requests_hash()));
    }
}

#[test]
fn an_empty_block_has_empty_roots() {
    let block = closed(&[], Vec::new());
    let roots = Roots {
        state: B256::repeat_byte(5),
        transactions: EMPTY_ROOT_HASH,
        receipts: EMPTY_ROOT_HASH,
        logs_bloom: Bloom::ZERO,
    };
    let expected = header(&block.close, &roots, &Bytes::from_static(b"basalt"));
    let sealed = seal(PARENT, rooted(block), &Bytes::from_static(b"basalt")).unwrap();
    assert_eq!(sealed.block.header, expected);
}

#[test]
fn a_stranger_to_the_parent_is_refused() {
    for parent in [Head { number: 6, hash: B256::ZERO }, Head { number: 5, ..PARENT }] {
        let error = seal(parent, rooted(closed(&[1], Vec::new())), &Bytes::new()).unwrap_err();
        assert!(matches!(error, SealError::NotChild { number: 7, .. }), "{error}");
    }
}

#[test]
fn parts_that_contradict_the_end_are_refused() {
    type Damage = fn(&mut BlockClose, &mut Vec<Arc<MiniBlock>>);
    let damages: [(&str, Damage); 7] = [
        ("gas", |close, _| close.gas_used += 1),
        ("count of transactions", |close, _| close.transaction_count += 1),
        ("count of mini-blocks", |close, _| close.mini_block_count += 1),
        ("newest mini-block", |close, _| close.last_mini_block += 1),
        ("place of a mini-block", |_, mini_blocks| mini_blocks.swap(0, 1)),
        ("place of a transaction", |_, mini_blocks| {
            Arc::make_mut(&mut mini_blocks[1]).first_transaction += 1;
        }),
        ("count of receipts", |_, mini_blocks| {
            Arc::make_mut(&mut mini_blocks[0]).receipts.pop();
        }),
    ];
    for (what, damage) in damages {
        let mut block = closed(&[2, 3], Vec::new());
        damage(Arc::make_mut(&mut block.close), &mut block.mini_blocks);
        let error = seal(PARENT, rooted(block), &Bytes::new()).unwrap_err();
        assert!(error.to_string().contains(&format!("block 7: {what} is")), "{what}: {error}");
    }
}
