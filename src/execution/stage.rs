//! The execution stage: cuts in; mini-blocks, block ends and credits out.

use crate::execution::{
    evm::EngineError,
    parallel::lane::Lane,
    worker::{Done, ExecutionConfig, ExecutionStart, Worker},
};
use crate::runtime::{
    clock::Clock,
    metrics::{Metrics, StageMetrics},
    ring::{Consumer, Pop, Producer},
};
use crate::types::{
    flow::{Credit, Cut, Step},
    ids::BlockNumber,
    view::StateView,
};
use alloy_primitives::{Address, B256};
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};
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

/// Lanes, and how their threads are started; each runs until the stage ends.
pub struct Lanes<'a> {
    /// How many.
    pub count: usize,
    /// Starts one on its seat.
    pub start: &'a mut dyn FnMut(usize, LaneThread),
}

/// What the thread of a lane does.
pub type LaneThread = Box<dyn FnOnce() + Send>;

/// What the stage counts.
#[derive(Debug, Clone)]
pub struct ExecutionMetrics {
    stage: StageMetrics,
    gas: Counter,
    transactions: Counter,
    direct: Counter,
    ahead: Counter,
    in_place: Counter,
    aborted: Counter,
    abandoned: Counter,
    conflicts: Family<[(&'static str, String); 1], Gauge>,
    lane_busy: Family<[(&'static str, String); 1], Counter>,
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
    /// Registers its own beside `stage`'s, which the wiring made.
    pub fn new(metrics: &Metrics, stage: StageMetrics) -> Self {
        let counter = |name: &str, help: &str| {
            let counter = Counter::default();
            metrics.register(name, help, &counter);
            counter
        };
        let conflicts = Family::default();
        let help = "Accounts that most speculations failed on, ten of them, and how often.";
        metrics.register("execution_conflicts", help, &conflicts);
        let lane_busy = Family::default();
        let help = "Microseconds that each lane was at work: its rate is the lane's occupancy.";
        metrics.register("execution_lane_busy_us", help, &lane_busy);
        Self {
            stage,
            gas: counter("execution_gas", "Gas used by transactions."),
            transactions: counter("execution_transactions", "Transactions executed."),
            direct: counter(
                "execution_direct",
                "Plain transfers among them, done without the EVM.",
            ),
            ahead: counter("execution_ahead", "Those that a lane executed ahead of its turn."),
            in_place: counter(
                "execution_in_place",
                "Those that the committing thread executed in the EVM.",
            ),
            aborted: counter(
                "execution_aborted",
                "Executed by a lane and again in place: what was read had changed.",
            ),
            abandoned: counter(
                "execution_abandoned",
                "Given up by a lane: only the committing thread could execute them.",
            ),
            conflicts,
            lane_busy,
            left_over: counter("execution_left_over", "Transactions given back for another cut."),
            dropped: counter("execution_dropped", "Transactions found invalid."),
        }
    }

    fn count(&self, done: &Done) {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.gas.inc_by(done.gas_used);
        self.transactions.inc_by(count(done.transactions));
        self.direct.inc_by(done.counts.direct);
        self.ahead.inc_by(done.counts.ahead);
        self.in_place.inc_by(done.counts.in_place);
        self.aborted.inc_by(done.counts.aborted);
        self.abandoned.inc_by(done.counts.abandoned);
        self.left_over.inc_by(count(done.credit.left_over.len()));
        self.dropped.inc_by(count(done.credit.dropped.len()));
    }

    /// What the thread of lane `at` does: it counts its own time at work.
    fn lane(&self, at: usize, lane: Lane, clock: Clock) -> LaneThread {
        let number = [("lane", (at + 1).to_string())];
        let busy = Counter::clone(&*self.lane_busy.get_or_create(&number));
        let mut began_us = 0;
        Box::new(move || {
            lane.run_watched(&mut |works| {
                let now_us = clock.now_us();
                if !works {
                    busy.inc_by(now_us.saturating_sub(began_us));
                }
                began_us = now_us;
            });
        })
    }

    /// Shows the accounts with most conflicts; those that no longer belong to them go.
    fn show_conflicts(&self, top: &[(Address, u64)]) {
        self.conflicts.clear();
        for (address, times) in top {
            let times = i64::try_from(*times).unwrap_or(i64::MAX);
            self.conflicts.get_or_create(&[("address", address.to_string())]).set(times);
        }
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
    (config, lanes): (&ExecutionConfig, Lanes<'_>),
    start: ExecutionStart,
) -> Result<(), EngineError> {
    let Rings { cuts, credits, steps, hashes, fresh_base } = rings;
    let late_hashes = hashes.clone();
    let next_hash = Box::new(move || late_hashes.pop_wait());
    let (mut worker, crew) = Worker::with_lanes(config, start, next_hash, lanes.count)?;
    for (at, lane) in crew.into_iter().enumerate() {
        (lanes.start)(at, metrics.lane(at, lane, clock.clone()));
    }
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
        let done = worker.work(cut, &mut || clock.now_us() > deadline_us, &mut |step| {
            gone |= steps.push_wait(step).is_err()
        })?;
        metrics.count(&done);
        if done.closed {
            metrics.show_conflicts(&worker.top_conflicts());
        }
        metrics.stage.item(clock.now_us().saturating_sub(began_us), cuts.len());
        if gone || credits.push_wait(done.credit).is_err() {
            tracing::warn!("execution ends: a stage behind it is gone");
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::{
        evm::Rules,
        fees::{FeeRules, ParentBlock},
        store::CacheLimits,
        testing::{MemoryView, transfer},
    };
    use crate::runtime::ring::ring;
    use crate::types::{
        flow::{Ends, Event},
        overlay::Overlay,
    };
    use alloy_primitives::{Address, Bytes, U256};

    fn start(base: MemoryView) -> ExecutionStart {
        let parent = ParentBlock {
            number: 0,
            hash: Some(B256::ZERO),
            timestamp: 0,
            gas_used: 0,
            base_fee: 1_000,
            gas_limit: 30_000_000,
        };
        ExecutionStart {
            overlay: Overlay::default(),
            base: Arc::new(base),
            parent,
            hashes: Vec::new(),
            open: None,
            last_mini_block: 0,
        }
    }

    fn run_alone(
        rings: Rings,
        own: &ExecutionMetrics,
        config: &ExecutionConfig,
        begun: ExecutionStart,
    ) -> Result<(), EngineError> {
        let lanes = Lanes { count: 0, start: &mut |_, _| () };
        run(rings, &Clock::manual(0), own, (config, lanes), begun)
    }

    #[test]
    fn cuts_become_steps_and_credits_until_the_ring_closes() {
        let (alice, bob) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let mut base = MemoryView::with_contracts();
        base.put(alice, 0, U256::from(u64::MAX), Bytes::new());
        let fees = FeeRules {
            chain_id: 31_337,
            base_fee_floor: 7,
            gas_limit: 30_000_000,
            fee_recipient: Address::repeat_byte(3),
        };
        let cache = CacheLimits::default();
        let config = ExecutionConfig { rules: Rules::osaka(31_337), fees, cache };
        let (cuts, cuts_out) = ring(2);
        let (credits_in, credits) = ring(2);
        let (steps_in, steps) = ring(8);
        let (hashes, hashes_out) = ring(2);
        let fresh_base = Arc::new(FreshBase::default());
        let rings = Rings {
            cuts: cuts_out,
            credits: credits_in,
            steps: steps_in,
            hashes: hashes_out,
            fresh_base: Arc::clone(&fresh_base),
        };
        let metrics = Metrics::default();
        std::thread::scope(|scope| {
            let stage = StageMetrics {
                items: Counter::default(),
                busy: Counter::default(),
                queue: Gauge::default(),
                item_time: metrics.seconds("execution_item", "Time for one item."),
            };
            let own = ExecutionMetrics::new(&metrics, stage);
            let begun = start(base.clone());
            let stage = scope.spawn(move || run_alone(rings, &own, &config, begun));
            for block in 1u64..4 {
                let transactions = vec![transfer(alice, block - 1, bob, 5)];
                let at = block;
                cuts.push_wait(Cut {
                    timestamp_us: at,
                    deadline_us: at,
                    block_timestamp: at,
                    transactions,
                    ends: Ends::Block,
                })
                .unwrap();
                let credit = credits.pop_wait().unwrap();
                assert!(credit.left_over.is_empty() && credit.dropped.is_empty());
                let Event::MiniBlock(mini_block) = steps.pop_wait().unwrap().event else {
                    panic!("a mini-block comes first")
                };
                base.apply(&mini_block.diff);
                let step = steps.pop_wait().unwrap();
                let Event::Close(close) = step.event else { panic!("then the close") };
                base.apply(&close.diff);
                assert_eq!(close.last_mini_block, block);
                // A checkpoint after every block: nothing stays in the overlay but the next one.
                assert!(step.overlay.account(&alice).is_some());
                fresh_base.put(block, Arc::new(base.clone()));
                hashes.push_wait((block, B256::from(U256::from(block)))).unwrap();
            }
            drop(cuts);
            stage.join().unwrap().unwrap();
        });
        let received = base.accounts.get(&bob).unwrap().balance;
        assert_eq!(received, U256::from(15));
        assert!(metrics.render().contains("basalt_execution_gas_total 63000"));
    }
}
