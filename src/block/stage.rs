//! The pinned loop that seals blocks. What a sealed block is stands in `seal`.

use crate::block::seal::{Head, SealError, seal};
use crate::runtime::{
    clock::Clock,
    metrics::StageMetrics,
    ring::{Consumer, Producer},
};
use crate::trie::{root::RootedBlock, service::ProofService};
use crate::types::{block::SealedBlock, ids::BlockNumber};
use alloy_primitives::{B256, Bytes};
use std::sync::Arc;

/// The stage's rings.
pub struct Ports {
    /// trie → block.
    pub rooted: Consumer<RootedBlock>,
    /// block → state, on the way to a checkpoint.
    pub sealed: Producer<SealedBlock>,
    /// block → execution: the hash that the next block's end waits for.
    pub hashes: Producer<(BlockNumber, B256)>,
}

/// What the stage starts from.
pub struct Start {
    /// The newest sealed block.
    pub parent: Head,
    /// For every header; 32 bytes at most.
    pub extra_data: Bytes,
    /// Told of each sealed block.
    pub proofs: Arc<ProofService>,
}

/// Seals each block until `rooted` is closed. The hash goes to execution first: the next block
/// waits for it.
///
/// # Errors
/// Where a block breaks an invariant: the node must stop.
pub fn run(
    start: Start,
    ports: &Ports,
    clock: &Clock,
    metrics: &StageMetrics,
) -> Result<(), SealError> {
    let Start { mut parent, extra_data, proofs } = start;
    while let Some(rooted) = ports.rooted.pop_wait() {
        let start_us = clock.now_us();
        let sealed = seal(parent, rooted, &extra_data)?;
        parent = Head { number: sealed.block.header.number, hash: sealed.block.hash };
        let execution_gone = ports.hashes.push_wait((parent.number, parent.hash)).is_err();
        proofs.sealed(parent.number, parent.hash);
        metrics.item(clock.now_us() - start_us, ports.rooted.len());
        // Execution ends before the blocks on the way here: its ring may be gone already.
        tracing::debug!(number = parent.number, hash = %parent.hash, execution_gone, "sealed");
        if ports.sealed.push_wait(sealed).is_err() {
            return Ok(()); // The next stage is gone: the node is stopping.
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ring::ring;
    use crate::trie::{
        plain::MemoryRows,
        root::StateTrie,
        service::Checkpoint,
        stage::{self as trie_stage, Ports as TriePorts, TrieMetrics},
    };
    use crate::types::{
        block::BlockClose,
        diff::{Account, AccountDiff, Diff},
        flow::ClosedBlock,
        mini_block::BlockEnvironment,
        view::{BlockId, NodeSource, ProofSource as _},
    };
    use alloy_primitives::{Address, U256, keccak256};
    use alloy_trie::{EMPTY_ROOT_HASH, TrieAccount, root::state_root_unhashed};
    use std::{collections::BTreeMap, thread};

    const GENESIS: Head = Head { number: 0, hash: B256::repeat_byte(1) };

    fn closed(number: BlockNumber, parent_hash: B256, diff: Diff) -> ClosedBlock {
        let environment = BlockEnvironment {
            number,
            timestamp: number,
            base_fee: 7,
            gas_limit: 30_000_000,
            fee_recipient: Address::ZERO,
            prev_randao: B256::ZERO,
        };
        let close = BlockClose {
            environment,
            parent_hash,
            last_mini_block: 0,
            mini_block_count: 0,
            transaction_count: 0,
            gas_used: 0,
            requests: Vec::new(),
            diff: Arc::default(),
        };
        ClosedBlock { close: Arc::new(close), mini_blocks: Vec::new(), diff: Arc::new(diff) }
    }

    fn change(number: u64, model: &mut BTreeMap<Address, Account>) -> Diff {
        let mut diff = Diff::default();
        for who in 0..50u64 {
            let address = Address::left_padding_from(&(who * number).to_be_bytes());
            let account =
                Account { balance: U256::from(who + 1), nonce: number, ..Account::default() };
            model.insert(address, account);
            let change = AccountDiff { account: Some(account), ..AccountDiff::default() };
            diff.accounts.insert(address, change);
        }
        diff
    }

    fn from_scratch(model: &BTreeMap<Address, Account>) -> B256 {
        state_root_unhashed(model.iter().map(|(address, account)| {
            let Account { nonce, balance, code_hash } = *account;
            (*address, TrieAccount { nonce, balance, storage_root: EMPTY_ROOT_HASH, code_hash })
        }))
    }

    fn service() -> (Arc<dyn NodeSource>, Arc<ProofService>) {
        let source: Arc<dyn NodeSource> = Arc::new(MemoryRows::default());
        let base = Checkpoint { block: GENESIS.number, source: Arc::clone(&source) };
        (source, Arc::new(ProofService::new(base, GENESIS.hash)))
    }

    /// As in the node: trie and block in a row, each block fed with the hash of the one before.
    #[test]
    fn trie_and_block_seal_a_chain_with_the_roots_from_scratch() {
        let (source, proofs) = service();
        let trie = StateTrie::new(source, 1 << 20).unwrap();
        let ((feed, to_trie), (from_trie, rooted)) = (ring(2), ring(2));
        let ((sealed, out), (hashes, known)) = (ring(8), ring(8));
        let start = Start {
            parent: GENESIS,
            extra_data: Bytes::from_static(b"basalt"),
            proofs: Arc::clone(&proofs),
        };
        let clock = Clock::manual(0);
        let mut model = BTreeMap::new();
        let mut expected = Vec::new();
        thread::scope(|scope| {
            let metrics = StageMetrics::unregistered;
            let ports = TriePorts { closed: to_trie, rooted: from_trie };
            let (clock, service) = (&clock, &*proofs);
            let roots = scope.spawn(move || {
                trie_stage::run(trie, service, ports, clock, &TrieMetrics::unregistered())
            });
            let ports = Ports { rooted, sealed, hashes };
            let seals = scope.spawn(move || run(start, &ports, clock, &metrics()));
            let mut parent = GENESIS;
            for number in 1..=5 {
                let block = closed(number, parent.hash, change(number, &mut model));
                expected.push((number, parent.hash, from_scratch(&model)));
                assert!(feed.push_wait(block).is_ok());
                let (number, hash) = known.pop_wait().expect("a hash for each block");
                parent = Head { number, hash };
            }
            drop(feed);
            roots.join().unwrap().unwrap();
            seals.join().unwrap().unwrap();
        });
        let blocks: Vec<_> = std::iter::from_fn(|| out.pop_wait()).collect();
        let headers = blocks.iter().map(|sealed| &sealed.block.header);
        let came: Vec<_> = headers.map(|h| (h.number, h.parent_hash, h.state_root)).collect();
        assert_eq!(came, expected);
        for sealed in &blocks {
            assert_eq!(sealed.block.hash, keccak256(alloy_rlp::encode(&sealed.block.header)));
            assert_eq!(sealed.trie.root, sealed.block.header.state_root);
            let id = BlockId::Hash(sealed.block.hash);
            assert!(proofs.proof(Address::ZERO, &[], id).unwrap().account.is_some());
        }
    }

    #[test]
    fn a_block_of_another_parent_stops_the_stage_and_is_told_to_nobody() {
        let (source, proofs) = service();
        let mut trie = StateTrie::new(source, 0).unwrap();
        let ((feed, rooted), (sealed, out), (hashes, known)) = (ring(2), ring(2), ring(2));
        let update = Arc::new(trie.apply(1, &Diff::default()).unwrap());
        for number in [1, 2] {
            let closed = closed(number, B256::repeat_byte(2), Diff::default());
            assert!(feed.push(RootedBlock { closed, update: Arc::clone(&update) }).is_ok());
        }
        let start = Start { parent: GENESIS, extra_data: Bytes::new(), proofs };
        let ports = Ports { rooted, sealed, hashes };
        let ended = run(start, &ports, &Clock::manual(0), &StageMetrics::unregistered());
        assert!(matches!(ended, Err(SealError::NotChild { number: 1, .. })), "{ended:?}");
        drop(ports);
        assert!(out.pop_wait().is_none() && known.pop_wait().is_none());
    }
}
