//! The pinned loop that computes roots. What a root is stands in `root`.

use crate::runtime::{
    clock::Clock,
    metrics::StageMetrics,
    ring::{Consumer, Pop, Producer},
};
use crate::trie::{
    root::{RootError, RootedBlock, StateTrie},
    service::ProofService,
};
use crate::types::{flow::ClosedBlock, ids::BlockNumber};
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
    metrics: &StageMetrics,
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
        proofs.rooted(block, &update);
        metrics.item(clock.now_us() - start_us, ports.closed.len());
        if ports.rooted.push_wait(RootedBlock { closed, update }).is_err() {
            return Ok(()); // The next stage is gone: the node is stopping.
        }
    }
}

fn take_checkpoint(trie: &mut StateTrie, proofs: &ProofService, covered: &mut Option<BlockNumber>) {
    let checkpoint = proofs.checkpoint();
    if *covered != Some(checkpoint.block) {
        trie.checkpointed(checkpoint.block, checkpoint.source);
        *covered = Some(checkpoint.block);
    }
}
