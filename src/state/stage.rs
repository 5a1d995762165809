//! The loops: publish what is durable, publish what is sealed, write checkpoints.
//!
//! Three threads, so that nobody waits for a commit: `run_publish` (wal → trie), `run_seal`
//! (block → checkpoint), `run_checkpoint`. Each returns when its input closes.

use crate::runtime::{
    clock::Clock,
    metrics::StageMetrics,
    ring::{Consumer, Pop, Producer},
};
use crate::state::{
    archive::Archive,
    checkpoint::{self, CheckpointError, Target},
    environment::Environment,
    policy::{self, CheckpointPolicy, Waiting},
    published::Published,
    snapshot::Snapshot,
};
use crate::types::{
    block::SealedBlock,
    flow::{ChainEvent, ClosedBlock, Event, Step},
    ids::BlockNumber,
    view::Settlement,
};
use std::{sync::Arc, time::Duration};

/// Where clients' events go; called in order, must not block.
pub type Emit = Box<dyn Fn(ChainEvent) + Send + Sync>;
/// Told of each checkpoint once it is durable and published: execution, trie and log may now let
/// go of what it covers.
pub type OnCheckpoint = Box<dyn Fn(BlockNumber, &Arc<Snapshot>) + Send>;

/// The next stage has stopped before this one.
#[derive(Debug, thiserror::Error)]
#[error("the stage after {after} has stopped at block {block}: see its own message")]
pub struct NextStageGone {
    /// Which loop could not hand on its work.
    pub after: &'static str,
    /// Which block.
    pub block: BlockNumber,
}

/// What `run_publish` and `run_seal` tell the world through.
pub struct Outlet {
    /// Clients.
    pub emit: Emit,
    /// Time for the metrics.
    pub clock: Clock,
    /// Its numbers.
    pub metrics: StageMetrics,
}

/// Publishes durable mini-blocks and hands closed blocks to the trie.
///
/// # Errors
/// Where the trie's stage is gone while blocks still come.
pub fn run_publish(
    input: &Consumer<Step>,
    output: &Producer<ClosedBlock>,
    published: &Published,
    settlement: &dyn Settlement,
    outlet: &Outlet,
) -> Result<(), NextStageGone> {
    while let Some(step) = input.pop_wait() {
        let start_us = outlet.clock.now_us();
        match step.event {
            Event::MiniBlock(mini_block) => {
                published.push(Arc::clone(&mini_block), &step.overlay);
                settlement.included(&mini_block.transactions, &mini_block.receipts);
                (outlet.emit)(ChainEvent::MiniBlock(mini_block));
            }
            Event::Close(close) => {
                let block = close.environment.number;
                let closed = published.close(close, &step.overlay);
                output
                    .push_wait(closed)
                    .map_err(|_| NextStageGone { after: "publishing", block })?;
            }
        }
        outlet.metrics.item(outlet.clock.now_us().saturating_sub(start_us), input.len());
    }
    Ok(())
}

/// Publishes sealed blocks and hands them to the checkpoint, whose full ring holds it back.
///
/// # Errors
/// Where the checkpoint's stage is gone while blocks still come.
pub fn run_seal(
    input: &Consumer<SealedBlock>,
    output: &Producer<SealedBlock>,
    published: &Published,
    outlet: &Outlet,
) -> Result<(), NextStageGone> {
    while let Some(sealed) = input.pop_wait() {
        let start_us = outlet.clock.now_us();
        let block = sealed.block.header.number;
        published.seal(Arc::clone(&sealed.block));
        (outlet.emit)(ChainEvent::Block(Arc::clone(&sealed.block)));
        outlet.metrics.item(outlet.clock.now_us().saturating_sub(start_us), input.len());
        output.push_wait(sealed).map_err(|_| NextStageGone { after: "sealing", block })?;
    }
    Ok(())
}

/// What `run_checkpoint` works with.
pub struct CheckpointSeat {
    /// The database.
    pub environment: Environment,
    /// The archive.
    pub archive: Arc<Archive>,
    /// The chain that clients see.
    pub published: Arc<Published>,
    /// When to write.
    pub policy: CheckpointPolicy,
    /// Read transactions a snapshot: as many as threads read at once.
    pub readers: usize,
    /// Told of each checkpoint.
    pub on_checkpoint: OnCheckpoint,
    /// Time.
    pub clock: Clock,
    /// Its numbers; an item is a checkpoint.
    pub metrics: StageMetrics,
}

/// How long to wait for a block before the age of those that wait is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Gathers sealed blocks and writes checkpoints of them; writes the rest when its input closes.
///
/// # Errors
/// Where a checkpoint cannot be written: the node must stop, the log has everything.
pub fn run_checkpoint(
    input: &Consumer<SealedBlock>,
    seat: &CheckpointSeat,
) -> Result<(), CheckpointError> {
    let mut blocks: Vec<SealedBlock> = Vec::new();
    let mut waiting = Waiting::default();
    loop {
        let popped = if blocks.is_empty() { wait(input) } else { input.pop_timeout(LOOK_AGAIN) };
        match popped {
            Pop::Item(sealed) => {
                if blocks.is_empty() {
                    waiting = Waiting { since_us: seat.clock.now_us(), ..Waiting::default() };
                }
                waiting.weight += sealed.diff.weight();
                waiting.bytes += sealed.memory_bytes();
                blocks.push(sealed);
                waiting.blocks = blocks.len();
            }
            Pop::Empty => {}
            Pop::Closed => {
                return if blocks.is_empty() { Ok(()) } else { write(seat, &blocks, 0) };
            }
        }
        waiting.idle = input.is_empty();
        if policy::due(&seat.policy, &waiting, seat.clock.now_us()) {
            write(seat, &blocks, input.len())?;
            blocks.clear();
        }
    }
}

fn wait(input: &Consumer<SealedBlock>) -> Pop<SealedBlock> {
    input.pop_wait().map_or(Pop::Closed, Pop::Item)
}

fn write(
    seat: &CheckpointSeat,
    blocks: &[SealedBlock],
    queued: usize,
) -> Result<(), CheckpointError> {
    let Some(last) = blocks.last().map(|sealed| sealed.block.header.number) else {
        return Ok(());
    };
    let start_us = seat.clock.now_us();
    let mini_head = seat.published.mini_head(last).ok_or(CheckpointError::NotClosed(last))?;
    let target =
        Target { environment: &seat.environment, archive: &seat.archive, readers: seat.readers };
    let written = checkpoint::write(&target, &seat.published.snapshot(), blocks, mini_head)?;
    let (weight, trie_rows) = (written.weight, written.trie_rows);
    seat.published.checkpoint(Arc::clone(&written.snapshot), written.undo);
    (seat.on_checkpoint)(last, &written.snapshot);
    let took_us = seat.clock.now_us().saturating_sub(start_us);
    seat.metrics.item(took_us, queued);
    tracing::debug!(block = last, blocks = blocks.len(), weight, trie_rows, took_us, "checkpoint");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{metrics::Metrics, ring};
    use crate::state::fixture::{Chain, change, seal};
    use crate::types::{
        block::NodeKey,
        diff::Diff,
        receipt::Receipt,
        transaction::SharedTransaction,
        view::{ChainReader as _, NodeSource as _},
    };
    use alloy_primitives::{Bytes, keccak256};
    use std::sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    };

    fn metrics() -> StageMetrics {
        StageMetrics {
            items: Default::default(),
            busy: Default::default(),
            queue: Default::default(),
            item_time: Metrics::default().seconds("test", "test"),
        }
    }

    #[derive(Default)]
    struct Settled(AtomicU64);

    impl Settlement for Settled {
        fn included(&self, transactions: &[SharedTransaction], _receipts: &[Receipt]) {
            self.0.fetch_add(transactions.len() as u64, Ordering::Relaxed);
        }
        fn dropped(&self, _transaction: &SharedTransaction, _reason: &str) {}
    }

    const BLOCKS: u64 = 9;

    /// The three loops end by themselves, and the last checkpoint has everything.
    #[test]
    fn the_loops_run_down_and_leave_a_checkpoint_of_everything() {
        let folder = tempfile::tempdir().unwrap();
        let mut chain = Chain::open(folder.path().to_owned());
        let events: Arc<Mutex<Vec<ChainEvent>>> = Arc::default();
        let outlet = || {
            let events = Arc::clone(&events);
            let emit = Box::new(move |event| events.lock().unwrap().push(event));
            Outlet { emit, clock: Clock::system(), metrics: metrics() }
        };
        let settled = Settled::default();
        let (step_in, step_out) = ring::ring(8);
        let (closed_in, closed_out) = ring::ring(8);
        let (sealed_in, sealed_out) = ring::ring(8);
        let (write_in, write_out) = ring::ring(8);
        let told = Arc::new(Mutex::new(Vec::new()));
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
            metrics: metrics(),
        };
        let (publishing, sealing) = (outlet(), outlet());
        let published = Arc::clone(&chain.published);
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
                let diff = Diff {
                    accounts: [change(1, Some(number), false, &[(1, number)])]
                        .into_iter()
                        .collect(),
                    ..Diff::default()
                };
                let (mini_block, overlay) = chain.mini_block(diff);
                step_in
                    .push_wait(Step { event: Event::MiniBlock(mini_block), overlay })
                    .ok()
                    .unwrap();
                let (close, overlay) = chain.close();
                step_in.push_wait(Step { event: Event::Close(close), overlay }).ok().unwrap();
            }
            drop(step_in);
        });
        assert_eq!(told.lock().unwrap().last(), Some(&BLOCKS));
        assert!(told.lock().unwrap().len() < 9);
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
}
