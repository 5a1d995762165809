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
