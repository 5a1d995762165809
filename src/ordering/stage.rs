//! The pinned loop of ordering: gathers, cuts when it is due, takes credits back.
//!
//! It sleeps until something is due or a credit comes, never per transaction: those wait on their
//! ring and are taken together when the loop wakes. Where it finds calls enough, it does not wait
//! for the interval's end: they get their places in its mini-block, and execution begins.

use crate::ordering::{
    cut::{Intervals, Schedule, Standing},
    early::Early,
    policy::{CutLimits, Waiting},
};
use crate::runtime::{
    clock::Clock,
    metrics::{Metrics, StageMetrics, seconds},
    ring::{Consumer, Pop, Producer},
};
use crate::types::{
    flow::{ChainEvent, Credit, Cut, Ends},
    ids::TimestampUs,
    transaction::SharedTransaction,
    view::Settlement,
};
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use std::{sync::Arc, time::Duration};

/// A transaction that could not go for this time (its fee cap is too low) is dropped.
pub const WAITING_LIFETIME_US: u64 = 3 * 3_600 * 1_000_000;
/// How often the oldest are looked for.
const EXPIRY_INTERVAL_US: u64 = 10_000_000;
/// How often in an interval it is looked whether execution may begin.
const LOOKS: u64 = 4;
/// Taken from the ring at one wake-up at most, so that a flood does not delay a cut.
const GATHER_MAX: usize = 16_384;

/// What ordering works with.
pub struct Ordering {
    /// ingress → ordering.
    pub admitted: Consumer<SharedTransaction>,
    /// ordering → execution.
    pub to_execution: Producer<Cut>,
    /// execution → ordering.
    pub credits: Consumer<Credit>,
    /// Told of transactions that will not be included.
    pub settlement: Arc<dyn Settlement>,
    /// Told of heartbeats; must not block.
    pub announce: Arc<dyn Fn(ChainEvent) + Send + Sync>,
    /// Values from the config and the chain.
    pub config: OrderingConfig,
    /// Time.
    pub clock: Clock,
    /// The stage's numbers.
    pub metrics: OrderingMetrics,
}

/// What the stage says of itself.
#[derive(Debug, Clone)]
pub struct OrderingMetrics {
    /// As of every stage; an item is a cut until its credit.
    pub stage: StageMetrics,
    /// Seconds from the end of one interval to the end of the next, with a mini-block or without.
    pub interval: Histogram,
    /// Cuts made before their interval ended.
    pub early: Counter,
}

/// What ordering starts with.
#[derive(Debug, Clone, Copy)]
pub struct OrderingConfig {
    /// The grids of mini-blocks and blocks.
    pub intervals: Intervals,
    /// What one mini-block may hold.
    pub limits: CutLimits,
    /// Gas for code, by the gas limits of what came, at which an interval's end is not waited for
    /// and execution begins; 0: never.
    pub early_gas: u64,
    /// Where the chain stands.
    pub standing: Standing,
    /// Base fee of the block that the first cut belongs to, wei per gas.
    pub base_fee: u64,
}

/// Why ordering ended before its input did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OrderingError {
    /// Nobody takes cuts or gives credits any more.
    #[error("execution is gone; the node stops and replays its log at the next start")]
    ExecutionGone,
}

impl OrderingMetrics {
    /// The numbers, registered; `stage` are those that every stage has.
    pub fn new(metrics: &Metrics, stage: StageMetrics) -> Self {
        let help = "From the end of one interval to the end of the next.";
        let interval = metrics.seconds("mini_block_interval", help);
        let early = Counter::default();
        let help = "Cuts made before their interval ended, because there was work enough.";
        metrics.register("ordering_early_cuts", help, &early);
        Self { stage, interval, early }
    }
}

struct Running {
    ordering: Ordering,
    waiting: Waiting,
    schedule: Schedule,
    early: Early,
    /// When the last interval ended.
    ended_us: Option<TimestampUs>,
    /// When the cut in flight was made.
    in_flight_us: Option<TimestampUs>,
    block_full: bool,
    expire_at_us: TimestampUs,
    /// How far the clock was set forward since the start; the clocks of other stages were not.
    stepped_us: u64,
}

/// Cuts mini-blocks until ingress is gone; then cuts what is there and ends.
///
/// # Errors
/// `ExecutionGone` where execution ended first.
pub fn run(ordering: Ordering) -> Result<(), OrderingError> {
    let mut running = Running::new(ordering);
    while running.turn()? {
        running.wait()?;
    }
    running.finish()
}

impl Running {
    fn new(ordering: Ordering) -> Self {
        let now_us = ordering.clock.now_us();
        let config = ordering.config;
        Self {
            waiting: Waiting::new(config.base_fee),
            schedule: Schedule::new(config.intervals, config.standing, now_us),
            early: Early::new(config.limits, config.early_gas),
            ended_us: None,
            in_flight_us: None,
            block_full: false,
            expire_at_us: now_us + EXPIRY_INTERVAL_US,
            stepped_us: 0,
            ordering,
        }
    }

    /// Everything that can be done now; false once ingress is gone.
    fn turn(&mut self) -> Result<bool, OrderingError> {
        if !self.gather() {
            return Ok(false);
        }
        let now_us = self.ordering.clock.now_us();
        if self.in_flight_us.is_none() {
            if self.is_due(now_us) {
                self.cut(now_us)?;
            } else if self.early.is_worthwhile() && !self.block_full {
                self.begin(now_us)?;
            }
        }
        self.expire(now_us);
        Ok(true)
    }

    /// Takes what was admitted; false once ingress is gone and all of it is taken.
    fn gather(&mut self) -> bool {
        let now_us = self.ordering.clock.now_us();
        for _ in 0..GATHER_MAX {
            match self.ordering.admitted.pop() {
                Pop::Item(tx) => {
                    self.early.came(&tx, now_us);
                    self.waiting.add(tx, now_us);
                }
                Pop::Empty => break,
                Pop::Closed => return false,
            }
        }
        true
    }

    /// A cut or a heartbeat is due; a full block that may close does so at once.
    fn is_due(&self, now_us: TimestampUs) -> bool {
        now_us >= self.schedule.due_us() || (self.block_full && self.schedule.closes_early(now_us))
    }

    /// A cut ahead of the interval's end, which execution works on no longer than until then.
    fn begin(&mut self, now_us: TimestampUs) -> Result<(), OrderingError> {
        let transactions = self.select();
        if transactions.is_empty() {
            return Ok(());
        }
        self.early.begin(&transactions);
        self.ordering.metrics.early.inc();
        self.send((transactions, Ends::Nothing), now_us, self.schedule.due_us())
    }

    /// The next transactions of the mini-block.
    fn select(&mut self) -> Vec<SharedTransaction> {
        self.waiting.select(&self.early.room())
    }

    /// Ends the interval: a cut, or a heartbeat where there is nothing to execute.
    fn cut(&mut self, now_us: TimestampUs) -> Result<(), OrderingError> {
        let early = self.block_full && self.schedule.closes_early(now_us);
        let closes_block = early || self.schedule.closes(now_us);
        // A full block takes no more; what waits opens the next one.
        let transactions = if self.block_full { Vec::new() } else { self.select() };
        if now_us >= self.schedule.due_us() {
            self.schedule.passed(now_us);
            if let Some(before_us) = self.ended_us.replace(now_us) {
                let took_us = now_us.saturating_sub(before_us);
                self.ordering.metrics.interval.observe(seconds(took_us));
            }
        }
        if transactions.is_empty() && !self.early.has_begun() {
            (self.ordering.announce)(ChainEvent::Heartbeat { timestamp_us: now_us });
            if !closes_block {
                return Ok(());
            }
        }
        let ends = if closes_block { Ends::Block } else { Ends::MiniBlock };
        self.early.end();
        self.send((transactions, ends), now_us, self.schedule.deadline_us(now_us))
    }

    fn send(
        &mut self,
        (transactions, ends): (Vec<SharedTransaction>, Ends),
        now_us: TimestampUs,
        deadline_us: TimestampUs,
    ) -> Result<(), OrderingError> {
        let cut = Cut {
            timestamp_us: now_us,
            deadline_us: deadline_us - self.stepped_us,
            block_timestamp: self.schedule.block_timestamp(),
            transactions,
            ends,
        };
        self.in_flight_us = Some(now_us);
        if ends == Ends::Block {
            self.schedule.closed(now_us);
            self.block_full = false;
            self.follow_wall_clock();
        }
        self.ordering.to_execution.push_wait(cut).map_err(|_| OrderingError::ExecutionGone)
    }

    /// Blocks carry the time of day, which a time server may have set since the node started.
    fn follow_wall_clock(&mut self) {
        let step_us = self.ordering.clock.follow();
        if step_us == 0 {
            return;
        }
        tracing::warn!(step_ms = step_us / 1_000, "the clock was set forward; blocks follow it");
        self.stepped_us += step_us;
        self.expire_at_us += step_us;
        // Nothing took this long.
        for at_us in [&mut self.ended_us, &mut self.in_flight_us] {
            *at_us = at_us.map(|at_us| at_us + step_us);
        }
    }

    /// Sleeps until a credit comes or the next interval ends.
    fn wait(&mut self) -> Result<(), OrderingError> {
        let now_us = self.ordering.clock.now_us();
        let interval_us = self.ordering.config.intervals.mini_block_us;
        let left_us = self.schedule.due_us().saturating_sub(now_us);
        let until_us = match self.in_flight_us {
            // Already late, and only the credit helps: look in at the intake once an interval.
            Some(_) if left_us == 0 => interval_us,
            None if self.early.looks(now_us) => left_us.min(interval_us / LOOKS),
            _ => left_us,
        };
        match self.ordering.credits.pop_timeout(Duration::from_micros(until_us)) {
            Pop::Item(credit) => self.take(credit),
            Pop::Empty => {}
            Pop::Closed => return Err(OrderingError::ExecutionGone),
        }
        Ok(())
    }

    fn take(&mut self, credit: Credit) {
        let now_us = self.ordering.clock.now_us();
        self.early.give_back(&credit.left_over);
        self.waiting.set_base_fee(credit.base_fee);
        self.waiting.put_back(credit.left_over, now_us);
        self.block_full = credit.block_full;
        for (tx, reason) in &credit.dropped {
            self.ordering.settlement.dropped(tx, reason);
        }
        if let Some(cut_us) = self.in_flight_us.take() {
            let took_us = now_us.saturating_sub(cut_us);
            self.ordering.metrics.stage.item(took_us, self.waiting.len());
        }
    }

    fn expire(&mut self, now_us: TimestampUs) {
        if now_us < self.expire_at_us {
            return;
        }
        self.expire_at_us = now_us + EXPIRY_INTERVAL_US;
        for tx in self.waiting.expire(now_us.saturating_sub(WAITING_LIFETIME_US)) {
            self.ordering.settlement.dropped(&tx, "fee cap under the base fee for too long");
        }
    }

    /// The last cut: what is there, without closing the block.
    fn finish(mut self) -> Result<(), OrderingError> {
        self.await_credit()?;
        let transactions = if self.block_full { Vec::new() } else { self.select() };
        if transactions.is_empty() && !self.early.has_begun() {
            return Ok(());
        }
        let now_us = self.ordering.clock.now_us();
        self.send((transactions, Ends::MiniBlock), now_us, self.schedule.deadline_us(now_us))?;
        self.await_credit()
    }

    fn await_credit(&mut self) -> Result<(), OrderingError> {
        if self.in_flight_us.is_some() {
            let credit = self.ordering.credits.pop_wait().ok_or(OrderingError::ExecutionGone)?;
            self.take(credit);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ordering::tests::{sized, transaction};
    use crate::runtime::ring::ring;
    use crate::types::{map::Map, receipt::Receipt};
    use alloy_primitives::{Address, B256};
    use std::sync::Mutex;

    #[derive(Default)]
    struct Notes {
        dropped: Mutex<Vec<(B256, String)>>,
        heartbeats: Mutex<u64>,
    }

    impl Settlement for Notes {
        fn included(&self, _: &[SharedTransaction], _: &[Receipt]) {}
        fn dropped(&self, tx: &SharedTransaction, reason: &str) {
            self.dropped.lock().unwrap().push((tx.hash, reason.to_owned()));
        }
    }

    struct Rig {
        registry: Metrics,
        admitted: Producer<SharedTransaction>,
        cuts: Consumer<Cut>,
        credits: Producer<Credit>,
        notes: Arc<Notes>,
    }

    /// Transactions in a mini-block.
    const COUNT_MAX: usize = 25;

    fn rig(clock: &Clock, block_us: u64) -> (Rig, Ordering) {
        let (admitted, admitted_out) = ring(4_096);
        let (to_execution, cuts) = ring(2);
        let (credits, credits_out) = ring(2);
        let (notes, registry) = (Arc::new(Notes::default()), Metrics::default());
        let beats = notes.clone();
        let intervals = Intervals { mini_block_us: 10_000, block_us, deadline_percent: 80 };
        let ordering = Ordering {
            admitted: admitted_out,
            to_execution,
            credits: credits_out,
            settlement: notes.clone(),
            announce: Arc::new(move |event| {
                assert!(matches!(event, ChainEvent::Heartbeat { .. }));
                *beats.heartbeats.lock().unwrap() += 1;
            }),
            config: OrderingConfig {
                intervals,
                limits: CutLimits::new(20_000_000).with_count(COUNT_MAX),
                early_gas: 100_000,
                standing: Standing { parent_timestamp: 1, open_timestamp: None },
                base_fee: 7,
            },
            clock: clock.clone(),
            metrics: OrderingMetrics::new(&registry, StageMetrics::unregistered()),
        };
        (Rig { registry, admitted, cuts, credits, notes }, ordering)
    }

    /// A small generator with a seed: the run is the same each time.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % sides
        }
    }

    /// Seconds of a chain whose execution is at times late, takes a part of a cut, drops some and
    /// fills its block: every transaction is taken once, nonces go in order, blocks close in time,
    /// and a mini-block that is begun early keeps to the same bounds.
    #[test]
    fn a_simulated_chain_takes_everything_once() {
        for seed in 1..6 {
            simulate(seed);
        }
    }

    fn simulate(seed: u64) {
        let start_us = 1_000_000_000;
        let clock = Clock::manual(start_us);
        let (rig, ordering) = rig(&clock, 250_000);
        let mut running = Running::new(ordering);
        let mut dice = Dice(seed);
        let (mut sent, mut done) = (Map::<u8, u64>::default(), Map::<Address, u64>::default());
        let (mut total, mut taken, mut closes, mut early) = (0, 0, 0, 0);
        let mut in_mini_block = 0;
        let (mut flight, mut is_begun): (Option<(Cut, u64)>, bool) = (None, false);
        for tick in 0..5_000u64 {
            let now_us = start_us + tick * 1_000;
            clock.set_us(now_us);
            for _ in 0..if tick < 3_000 { dice.roll(4) } else { 0 } {
                let sender = u8::try_from(dice.roll(20)).unwrap();
                let nonce = sent.entry(sender).or_default();
                let tip = u128::from(dice.roll(30));
                let gas = if dice.roll(4) == 0 { 71_000 } else { 21_000 };
                let tx = sized(sender, *nonce, (100 + tip, tip), (gas, 100));
                rig.admitted.push(tx).unwrap();
                *nonce += 1;
                total += 1;
            }
            if let Some((cut, ready_us)) = flight.take() {
                if now_us < ready_us {
                    flight = Some((cut, ready_us));
                } else {
                    let mut left_over = cut.transactions;
                    let part = dice.roll(30) + u64::from(tick > 4_000) * 10_000;
                    let kept = left_over.len().min(usize::try_from(part).unwrap());
                    in_mini_block += kept;
                    assert!(in_mini_block <= COUNT_MAX, "seed {seed}: {in_mini_block}");
                    if cut.ends != Ends::Nothing {
                        in_mini_block = 0;
                    }
                    for tx in left_over.drain(..kept) {
                        let next = done.entry(tx.sender).or_default();
                        assert_eq!(tx.nonce(), *next, "seed {seed}");
                        *next += 1;
                        taken += 1;
                    }
                    let block_full = dice.roll(10) == 0;
                    let base_fee = 7 + dice.roll(90);
                    let credit = Credit { left_over, base_fee, block_full, dropped: Vec::new() };
                    rig.credits.push(credit).unwrap();
                    let Pop::Item(credit) = running.ordering.credits.pop() else { panic!() };
                    running.take(credit);
                }
            }
            assert!(running.turn().unwrap());
            while let Pop::Item(cut) = rig.cuts.pop() {
                assert!(flight.is_none(), "two cuts in flight");
                let deadline_us = match cut.ends {
                    Ends::Nothing => running.schedule.due_us(),
                    _ => now_us + 8_000,
                };
                assert_eq!((cut.timestamp_us, cut.deadline_us), (now_us, deadline_us));
                assert!(deadline_us > now_us);
                let may_be_empty = cut.ends == Ends::Block || is_begun;
                assert!(may_be_empty || !cut.transactions.is_empty());
                assert!(cut.block_timestamp <= now_us / 1_000_000);
                is_begun = cut.ends == Ends::Nothing;
                closes += u64::from(cut.ends == Ends::Block);
                early += u64::from(is_begun);
                flight = Some((cut, now_us + 1_000 + dice.roll(20) * 1_000));
            }
        }
        assert_eq!((taken, running.waiting.len()), (total, 0), "seed {seed}");
        assert!(total > 3_000 && closes >= 19, "seed {seed}: {total} sent, {closes} blocks");
        assert!(early > 20 && !is_begun, "seed {seed}: {early} cuts before an interval's end");
        assert!(*rig.notes.heartbeats.lock().unwrap() > 20);
    }

    #[test]
    fn an_interval_is_measured_whether_or_not_it_has_a_mini_block() {
        let clock = Clock::manual(1_000_000_000);
        let (rig, ordering) = rig(&clock, 10_000_000);
        let mut running = Running::new(ordering);
        for (interval, end_us) in [10_000, 20_000, 30_000, 45_000].into_iter().enumerate() {
            if interval == 2 {
                rig.admitted.push(transaction(1, 0, 100, 1)).unwrap();
            }
            clock.set_us(1_000_000_000 + end_us);
            assert!(running.turn().unwrap());
            if let Pop::Item(_) = rig.cuts.pop() {
                running.take(Credit { base_fee: 7, ..Credit::default() });
            }
        }
        let text = rig.registry.render();
        assert!(text.contains("basalt_mini_block_interval_seconds_count 3"), "{text}");
        assert!(text.contains("basalt_mini_block_interval_seconds_sum 0.035"), "{text}");
    }

    #[test]
    fn blocks_follow_a_clock_that_is_set_forward_after_the_start() {
        const STEP_US: u64 = 40_000_000;
        let Clock::System { start_us, start } = Clock::system() else { unreachable!() };
        // The node started before the machine knew the time.
        let clock = Clock::System { start_us: start_us - STEP_US, start };
        let (rig, ordering) = rig(&clock, 50_000);
        let mut running = Running::new(ordering);
        let mut cuts: Vec<Cut> = Vec::new();
        while cuts.len() < 3 {
            assert!(running.turn().unwrap());
            if let Pop::Item(cut) = rig.cuts.pop() {
                cuts.push(cut);
                running.take(Credit { base_fee: 7, ..Credit::default() });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let stages_us = clock.now_us();
        assert!(cuts[0].timestamp_us.abs_diff(stages_us) < STEP_US / 2, "before the first block");
        for cut in &cuts[1..] {
            assert!(cut.timestamp_us > stages_us + STEP_US / 2, "{cut:?}");
            assert!(cut.deadline_us.abs_diff(stages_us) < STEP_US / 2, "{cut:?}");
        }
        let seconds = cuts[2].block_timestamp - cuts[0].block_timestamp;
        assert!((39..60).contains(&seconds), "{seconds}");
        let text = rig.registry.render();
        let sum =
            text.lines().find_map(|l| l.strip_prefix("basalt_mini_block_interval_seconds_sum "));
        assert!(sum.unwrap().parse::<f64>().unwrap() < 20.0, "an interval of the step's length");
    }

    /// The real loop against a thread that executes: the last cut is made when the input closes.
    #[test]
    fn the_loop_runs_until_its_input_closes() {
        let clock = Clock::system();
        let (rig, ordering) = rig(&clock, 50_000);
        let Rig { admitted, cuts, credits, notes, .. } = rig;
        let (mut taken, mut closes) = (Vec::new(), 0);
        std::thread::scope(|scope| {
            let ordering = scope.spawn(|| run(ordering));
            let execution = scope.spawn(|| {
                while let Some(cut) = cuts.pop_wait() {
                    closes += u64::from(cut.ends == Ends::Block);
                    let mut transactions = cut.transactions;
                    let dropped = transactions
                        .pop_if(|tx| tx.nonce() == 99)
                        .map(|tx| (tx, "nonce too high".to_owned()));
                    taken.extend(transactions);
                    let dropped = dropped.into_iter().collect();
                    let credit = Credit { dropped, base_fee: 7, ..Credit::default() };
                    if credits.push(credit).is_err() {
                        return;
                    }
                }
            });
            for nonce in 0..100 {
                admitted.push(transaction(1, nonce, 100, 1)).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(admitted);
            assert_eq!(ordering.join().unwrap(), Ok(()));
            execution.join().unwrap();
        });
        let nonces: Vec<u64> = taken.iter().map(|tx| tx.nonce()).collect();
        assert_eq!(nonces, (0..99).collect::<Vec<_>>());
        assert!(closes >= 1);
        assert_eq!(notes.dropped.lock().unwrap().len(), 1);
    }

    #[test]
    fn execution_that_ends_first_is_an_error() {
        let (rig, ordering) = rig(&Clock::system(), 50_000);
        let Rig { admitted, cuts, credits, .. } = rig;
        drop((cuts, credits));
        assert_eq!(run(ordering), Err(OrderingError::ExecutionGone));
        drop(admitted);
    }
}
