//! The execution stage: cuts in; mini-blocks, block ends and credits out.

use crate::execution::{
    evm::EngineError,
    worker::{Done, ExecutionConfig, ExecutionStart, Worker},
};
use crate::runtime::{
    clock::Clock,
    metrics::{Metrics, StageMetrics},
    ring::{Consumer, Pop, Producer},
};
use crate::topology::seat::Stage;
use crate::types::{
    flow::{Credit, Cut, Step},
    ids::BlockNumber,
    view::StateView,
};
use alloy_primitives::B256;
use prometheus_client::metrics::counter::Counter;
use std::sync::{Arc, Mutex, PoisonError};

/// Its rings and slots.
pub struct Rings {
    /// ordering → execution.
    pub cuts: Consumer<Cut>,
    /// execution → ordering, one for each cut.
    pub credits: Producer<Credit>,
    /// execution → mini_block.
    pub steps: Producer<Step>,
    /// block → execution: number and hash of each sealed block, in order; room for two or more.
    pub hashes: Consumer<(BlockNumber, B256)>,
    /// checkpoint → execution.
    pub fresh_base: Arc<FreshBase>,
}

/// Where a checkpoint leaves a snapshot of itself; the newest one wins.
#[derive(Default)]
pub struct FreshBase(Mutex<Option<(BlockNumber, Arc<dyn StateView>)>>);

/// What the stage counts.
#[derive(Debug, Clone)]
pub struct ExecutionMetrics {
    stage: StageMetrics,
    gas: Counter,
    transactions: Counter,
    left_over: Counter,
    dropped: Counter,
}

impl FreshBase {
    /// Leaves the snapshot of a checkpoint after block `number`.
    pub fn put(&self, number: BlockNumber, base: Arc<dyn StateView>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, base));
    }

    fn take(&self) -> Option<(BlockNumber, Arc<dyn StateView>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ExecutionMetrics {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Self {
        let own = Self {
            stage: metrics.stage(Stage::Execution),
            gas: Counter::default(),
            transactions: Counter::default(),
            left_over: Counter::default(),
            dropped: Counter::default(),
        };
        metrics.register("execution_gas", "Gas used by transactions.", &own.gas);
        metrics.register("execution_transactions", "Transactions executed.", &own.transactions);
        let help = "Transactions given back for another cut.";
        metrics.register("execution_left_over", help, &own.left_over);
        metrics.register("execution_dropped", "Transactions found invalid.", &own.dropped);
        own
    }

    fn count(&self, done: &Done) {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.gas.inc_by(done.gas_used);
        self.transactions.inc_by(count(done.transactions));
        self.left_over.inc_by(count(done.credit.left_over.len()));
        self.dropped.inc_by(count(done.credit.dropped.len()));
    }
}

/// Executes cuts until their ring closes. Build and run it on its seat's thread.
///
/// Where a neighbour behind it is gone, it returns too: the reason is the neighbour's to tell.
///
/// # Errors
/// Where the state cannot be read or a block cannot be closed validly: the node must stop.
pub fn run(
    rings: Rings,
    clock: &Clock,
    metrics: &ExecutionMetrics,
    config: &ExecutionConfig,
    start: ExecutionStart,
) -> Result<(), EngineError> {
    let Rings { cuts, credits, steps, hashes, fresh_base } = rings;
    let late_hashes = hashes.clone();
    let mut worker = Worker::new(config, start, Box::new(move || late_hashes.pop_wait()))?;
    while let Some(cut) = cuts.pop_wait() {
        let began_us = clock.now_us();
        if let Some((number, base)) = fresh_base.take() {
            worker.store().rebase(number, base);
        }
        while let Pop::Item((number, hash)) = hashes.pop() {
            worker.store().learn_hash(number, hash);
        }
        let deadline_us = cut.deadline_us;
        let mut gone = false;
        let done = worker.work(
            cut,
            &mut || clock.now_us() > deadline_us,
            &mut |step| gone |= steps.push_wait(step).is_err(),
        )?;
        metrics.count(&done);
        metrics.stage.item(clock.now_us().saturating_sub(began_us), cuts.len());
        if gone || credits.push_wait(done.credit).is_err() {
            tracing::warn!("execution ends: a stage behind it is gone");
            return Ok(());
        }
    }
    Ok(())
}
