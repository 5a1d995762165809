//! The pinned loop that computes roots. What a root is stands in `root`.

use crate::runtime::{
    clock::Clock,
    metrics::{Metrics, StageMetrics, seconds},
    ring::{Consumer, Pop, Producer},
};
use crate::trie::{
    root::{RootError, RootedBlock, StateTrie},
    service::ProofService,
};
use crate::types::{flow::ClosedBlock, ids::BlockNumber};
use prometheus_client::metrics::histogram::Histogram;
use std::{sync::Arc, time::Duration};

/// How often an idle stage looks whether a checkpoint has freed it of rows and of a snapshot.
const CHECKPOINT_LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The stage's rings.
pub struct Ports {
    /// state → trie.
    pub closed: Consumer<ClosedBlock>,
    /// trie → block.
    pub rooted: Producer<RootedBlock>,
}

/// What the stage says of itself.
#[derive(Debug, Clone)]
pub struct TrieMetrics {
    /// As of every stage.
    pub stage: StageMetrics,
    /// Seconds that a root takes, without handing it on.
    pub root: Histogram,
}

/// Computes the root of each block until `closed` is closed, publishing its rows to `proofs`
/// before it hands the block on. New checkpoints are taken from `proofs`.
///
/// # Errors
/// Where a root cannot be computed: the node must stop.
pub fn run(
    mut trie: StateTrie,
    proofs: &ProofService,
    ports: Ports,
    clock: &Clock,
    metrics: &TrieMetrics,
) -> Result<(), RootError> {
    let mut covered = None;
    loop {
        take_checkpoint(&mut trie, proofs, &mut covered);
        let closed = match ports.closed.pop_timeout(CHECKPOINT_LOOK_INTERVAL) {
            Pop::Item(closed) => closed,
            Pop::Empty => continue,
            Pop::Closed => return Ok(()),
        };
        take_checkpoint(&mut trie, proofs, &mut covered);
        let start_us = clock.now_us();
        let block = closed.close.environment.number;
        let update = Arc::new(trie.apply(block, &closed.diff)?);
        metrics.root.observe(seconds(clock.now_us() - start_us));
        proofs.rooted(block, &update);
        metrics.stage.item(clock.now_us() - start_us, ports.closed.len());
        if ports.rooted.push_wait(RootedBlock { closed, update }).is_err() {
            return Ok(()); // The next stage is gone: the node is stopping.
        }
    }
}

impl TrieMetrics {
    /// The numbers, registered; `stage` are those that every stage has.
    pub fn new(metrics: &Metrics, stage: StageMetrics) -> Self {
        Self { stage, root: metrics.seconds("state_root", "Time to compute a block's state root.") }
    }

    /// Numbers that no registry shows: for stages run by tests.
    #[cfg(test)]
    pub(crate) fn unregistered() -> Self {
        Self::new(&Metrics::default(), StageMetrics::unregistered())
    }
}

fn take_checkpoint(trie: &mut StateTrie, proofs: &ProofService, covered: &mut Option<BlockNumber>) {
    let checkpoint = proofs.checkpoint();
    if *covered != Some(checkpoint.block) {
        trie.checkpointed(checkpoint.block, checkpoint.source);
        *covered = Some(checkpoint.block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ring::ring;
    use crate::trie::{plain::MemoryRows, service::Checkpoint};
    use crate::types::{
        block::{BlockClose, NodeKey},
        diff::{Account, AccountDiff, Diff},
        mini_block::BlockEnvironment,
        view::{BlockId, NodeSource, ProofSource as _},
    };
    use alloy_primitives::{Address, B256, Bytes, U256};
    use alloy_trie::{EMPTY_ROOT_HASH, TrieAccount, root::state_root_unhashed};
    use std::collections::BTreeMap;

    type Model = BTreeMap<Address, Account>;

    fn address(who: u64) -> Address {
        Address::left_padding_from(&who.to_be_bytes())
    }

    /// Funds the accounts anew; every seventh of those that exist goes.
    fn diff(number: u64, accounts: impl Iterator<Item = u64>, model: &mut Model) -> Arc<Diff> {
        let mut diff = Diff::default();
        for who in accounts {
            let account = Account {
                nonce: number,
                balance: U256::from(who * 1_000 + number),
                ..Account::default()
            };
            let goes = who.is_multiple_of(7) && model.contains_key(&address(who));
            match goes {
                true => model.remove(&address(who)),
                false => model.insert(address(who), account),
            };
            let change = AccountDiff {
                account: (!goes).then_some(account),
                wiped: goes,
                ..AccountDiff::default()
            };
            diff.accounts.insert(address(who), change);
        }
        Arc::new(diff)
    }

    fn from_scratch(model: &Model) -> B256 {
        state_root_unhashed(model.iter().map(|(address, account)| {
            let Account { nonce, balance, code_hash } = *account;
            (*address, TrieAccount { nonce, balance, storage_root: EMPTY_ROOT_HASH, code_hash })
        }))
    }

    fn closed(number: BlockNumber, diff: Arc<Diff>) -> ClosedBlock {
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
            parent_hash: B256::ZERO,
            last_mini_block: 0,
            mini_block_count: 0,
            transaction_count: 0,
            gas_used: 0,
            requests: Vec::new(),
            diff: Arc::default(),
        };
        ClosedBlock { close: Arc::new(close), mini_blocks: Vec::new(), diff }
    }

    /// Runs the stage over blocks that wait already, and gives what it returns and what came out.
    fn run_over(
        rows: &Arc<MemoryRows>,
        proofs: &ProofService,
        blocks: Vec<ClosedBlock>,
    ) -> (Result<(), RootError>, Vec<RootedBlock>) {
        let trie = StateTrie::new(Arc::clone(rows) as Arc<dyn NodeSource>, 0).unwrap();
        let (feed, closed) = ring(blocks.len());
        let (rooted, out) = ring(blocks.len());
        for block in blocks {
            assert!(feed.push(block).is_ok());
        }
        drop(feed);
        let metrics = TrieMetrics::unregistered();
        let ended = run(trie, proofs, Ports { closed, rooted }, &Clock::manual(0), &metrics);
        (ended, std::iter::from_fn(|| out.pop_wait()).collect())
    }

    fn genesis(model: &mut Model) -> (Arc<MemoryRows>, ProofService) {
        let rows = Arc::new(MemoryRows::default());
        let source = Arc::clone(&rows) as Arc<dyn NodeSource>;
        let mut trie = StateTrie::new(Arc::clone(&source), 0).unwrap();
        rows.write(&trie.apply(0, &diff(0, 0..400, model)).unwrap().rows);
        (rows, ProofService::new(Checkpoint { block: 0, source }, B256::ZERO))
    }

    #[test]
    fn each_block_comes_out_with_the_root_from_scratch() {
        let mut model = Model::default();
        let (rows, proofs) = genesis(&mut model);
        let (mut blocks, mut expected) = (Vec::new(), Vec::new());
        for number in 1..6 {
            let touched = (0..90).map(|at| (at * 13 + number * 31) % 600);
            blocks.push(closed(number, diff(number, touched, &mut model)));
            expected.push((number, from_scratch(&model)));
        }
        blocks.push(closed(6, Arc::default()));
        expected.push((6, from_scratch(&model)));
        let (ended, rooted) = run_over(&rows, &proofs, blocks);
        ended.unwrap();
        let roots = rooted.iter().map(|b| (b.closed.close.environment.number, b.update.root));
        assert_eq!(roots.collect::<Vec<_>>(), expected);
        for number in 1..=6 {
            proofs.sealed(number, B256::repeat_byte(9));
        }
        let proof = proofs.proof(address(101), &[], BlockId::Number(6)).unwrap();
        assert_eq!(proof.account, model.get(&address(101)).copied());
    }

    #[test]
    fn a_row_that_is_gone_stops_the_stage() {
        let mut model = Model::default();
        let (rows, proofs) = genesis(&mut model);
        let untouched = closed(1, Arc::default());
        let first = closed(2, diff(2, 0..400, &mut model));
        let later = closed(3, Arc::default());
        let inner = rows_of(&rows);
        assert!(!inner.is_empty(), "the test needs more rows");
        rows.write(&inner);
        let (ended, rooted) = run_over(&rows, &proofs, vec![untouched, first, later]);
        let error = ended.unwrap_err().to_string();
        assert!(error.starts_with("trie row accounts/") && error.contains("missing"), "{error}");
        assert_eq!(rooted.len(), 1, "nothing comes out after the fault");
    }

    /// The deletion of each row under the topmost one.
    fn rows_of(rows: &MemoryRows) -> Vec<(NodeKey, Option<Bytes>)> {
        let below = (0..16).map(|nibble| NodeKey { owner: None, path: vec![nibble] });
        below.filter(|key| rows.row(key).unwrap().is_some()).map(|key| (key, None)).collect()
    }

    #[test]
    fn a_next_stage_that_is_gone_ends_the_stage() {
        let (rows, proofs) = genesis(&mut Model::default());
        let trie = StateTrie::new(rows as Arc<dyn NodeSource>, 0).unwrap();
        let (feed, closed_blocks) = ring(1);
        let (rooted, out) = ring(1);
        assert!(feed.push(closed(1, Arc::default())).is_ok());
        drop(out);
        let ports = Ports { closed: closed_blocks, rooted };
        run(trie, &proofs, ports, &Clock::manual(0), &TrieMetrics::unregistered()).unwrap();
    }
}
