//! The pinned loop that computes roots. What a root is stands in `root`.

use crate::runtime::{
    clock::Clock,
    metrics::{Metrics, StageMetrics},
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
        metrics.rooted(clock.now_us() - start_us);
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

    #[expect(clippy::float_arithmetic, reason = "metrics are no consensus data")]
    #[expect(clippy::cast_precision_loss, reason = "microseconds of one root fit 52 bits")]
    fn rooted(&self, took_us: u64) {
        self.root.observe(took_us as f64 / 1e6);
    }
}

fn take_checkpoint(trie: &mut StateTrie, proofs: &ProofService, covered: &mut Option<BlockNumber>) {
    let checkpoint = proofs.checkpoint();
    if *covered != Some(checkpoint.block) {
        trie.checkpointed(checkpoint.block, checkpoint.source);
        *covered = Some(checkpoint.block);
    }
}
