//! The pinned loop of ordering: gathers, cuts when it is due, takes credits back.
//!
//! It sleeps until something is due or a credit comes, never per transaction: those wait on their
//! ring and are taken together when the loop wakes.

use crate::{
    ordering::{
        cut::{Intervals, Schedule, Standing},
        policy::{CutLimits, Waiting},
    },
    runtime::{
        clock::Clock,
        metrics::StageMetrics,
        ring::{Consumer, Pop, Producer},
    },
    types::{
        flow::{ChainEvent, Credit, Cut},
        ids::TimestampUs,
        transaction::SharedTransaction,
        view::Settlement,
    },
};
use std::{sync::Arc, time::Duration};

/// A transaction that could not go for this time (its fee cap is too low) is dropped.
pub const WAITING_LIFETIME_US: u64 = 3 * 3_600 * 1_000_000;
/// How often the oldest are looked for.
const EXPIRY_INTERVAL_US: u64 = 10_000_000;
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
    pub metrics: StageMetrics,
}

/// What ordering starts with.
#[derive(Debug, Clone, Copy)]
pub struct OrderingConfig {
    /// The grids of mini-blocks and blocks.
    pub intervals: Intervals,
    /// What one cut may hold.
    pub limits: CutLimits,
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

struct Running {
    ordering: Ordering,
    waiting: Waiting,
    schedule: Schedule,
    /// When the cut in flight was made.
    in_flight_us: Option<TimestampUs>,
    block_full: bool,
    expire_at_us: TimestampUs,
}

/// Cuts mini-blocks until ingress is gone; then cuts what is there and ends.
///
/// # Errors
/// `ExecutionGone` where execution ended first.
pub fn run(ordering: Ordering) -> Result<(), OrderingError> {
    let now_us = ordering.clock.now_us();
    let config = ordering.config;
    let mut running = Running {
        waiting: Waiting::new(config.base_fee),
        schedule: Schedule::new(config.intervals, config.standing, now_us),
        in_flight_us: None,
        block_full: false,
        expire_at_us: now_us + EXPIRY_INTERVAL_US,
        ordering,
    };
    while running.gather() {
        let now_us = running.ordering.clock.now_us();
        if running.in_flight_us.is_none() && running.is_due(now_us) {
            running.cut(now_us)?;
        }
        running.expire(now_us);
        running.wait()?;
    }
    running.finish()
}

impl Running {
    /// Takes what was admitted; false once ingress is gone and all of it is taken.
    fn gather(&mut self) -> bool {
        let now_us = self.ordering.clock.now_us();
        for _ in 0..GATHER_MAX {
            match self.ordering.admitted.pop() {
                Pop::Item(tx) => self.waiting.add(tx, now_us),
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

    /// Ends the interval: a cut, or a heartbeat where there is nothing to execute.
    fn cut(&mut self, now_us: TimestampUs) -> Result<(), OrderingError> {
        let early = self.block_full && self.schedule.closes_early(now_us);
        let closes_block = early || self.schedule.closes(now_us);
        // A full block takes no more; what waits opens the next one.
        let transactions = if self.block_full {
            Vec::new()
        } else {
            self.waiting.select(&self.ordering.config.limits)
        };
        if now_us >= self.schedule.due_us() {
            self.schedule.passed(now_us);
        }
        if transactions.is_empty() {
            (self.ordering.announce)(ChainEvent::Heartbeat { timestamp_us: now_us });
            if !closes_block {
                return Ok(());
            }
        }
        self.send(transactions, closes_block, now_us)
    }

    fn send(
        &mut self,
        transactions: Vec<SharedTransaction>,
        closes_block: bool,
        now_us: TimestampUs,
    ) -> Result<(), OrderingError> {
        let cut = Cut {
            timestamp_us: now_us,
            deadline_us: self.schedule.deadline_us(now_us),
            block_timestamp: self.schedule.block_timestamp(),
            transactions,
            closes_block,
        };
        if closes_block {
            self.schedule.closed(now_us);
            self.block_full = false;
        }
        self.in_flight_us = Some(now_us);
        self.ordering.to_execution.push_wait(cut).map_err(|_| OrderingError::ExecutionGone)
    }

    /// Sleeps until a credit comes or the next interval ends.
    fn wait(&mut self) -> Result<(), OrderingError> {
        let now_us = self.ordering.clock.now_us();
        let interval_us = self.ordering.config.intervals.mini_block_us;
        // With a cut in flight that is already late, only its credit helps: look in at the intake
        // once an interval.
        let until_us = match self.schedule.due_us().saturating_sub(now_us) {
            0 if self.in_flight_us.is_some() => interval_us,
            left_us => left_us,
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
        self.waiting.set_base_fee(credit.base_fee);
        self.waiting.put_back(credit.left_over, now_us);
        self.block_full = credit.block_full;
        for (tx, reason) in &credit.dropped {
            self.ordering.settlement.dropped(tx, reason);
        }
        if let Some(cut_us) = self.in_flight_us.take() {
            let took_us = now_us.saturating_sub(cut_us);
            self.ordering.metrics.item(took_us, self.waiting.len());
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
        let transactions = self.waiting.select(&self.ordering.config.limits);
        if transactions.is_empty() || self.block_full {
            return Ok(());
        }
        let now_us = self.ordering.clock.now_us();
        self.send(transactions, false, now_us)?;
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
