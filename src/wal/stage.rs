//! The pinned loop: steps come in, become durable, and only then go on.

use crate::runtime::{
    clock::Clock,
    metrics::{Metrics, StageMetrics, seconds},
    ring::{Consumer, Pop, Producer},
};
use crate::types::flow::Step;
use crate::wal::log::{AppendError, Log};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};

/// Steps in one durable write at most: what waits while a flush runs shares the next one.
pub const STEPS_PER_FLUSH_MAX: usize = 8;
/// Bytes in one durable write, beyond which no further step joins it.
pub const FLUSH_BYTES_MAX: usize = 1 << 20;

/// What the log says of itself.
#[derive(Debug, Clone)]
pub struct WalMetrics {
    /// As of every stage.
    pub stage: StageMetrics,
    /// Seconds from taking a step to its being durable.
    pub durable: Histogram,
    /// Bytes made durable, padding included.
    pub bytes: Counter,
    /// Durable writes.
    pub flushes: Counter,
    /// Segments that hold records.
    pub segments: Gauge,
}

/// Makes every step durable and hands it on, in order. Ends when the input closes or the output's
/// reader is gone.
///
/// # Errors
/// Where a step cannot be made durable. Nothing that was not durable went on; the node must stop.
pub fn run(
    mut log: Log,
    input: &Consumer<Step>,
    output: &Producer<Step>,
    clock: &Clock,
    metrics: &WalMetrics,
) -> Result<(), AppendError> {
    let mut batch = Vec::with_capacity(STEPS_PER_FLUSH_MAX);
    while let Some(step) = input.pop_wait() {
        let start_us = clock.now_us();
        let newest = log.durable_bytes();
        log.add(&step.event)?;
        batch.push(step);
        while batch.len() < STEPS_PER_FLUSH_MAX && log.waiting_bytes() < FLUSH_BYTES_MAX {
            let Pop::Item(step) = input.pop() else { break };
            log.add(&step.event)?;
            batch.push(step);
        }
        log.flush()?;
        let took_us = clock.now_us() - start_us;
        metrics.flushed(took_us, log.durable_bytes() - newest, log.segment_count());
        metrics.stage.item(took_us, input.len());
        metrics.stage.items.inc_by(u64::try_from(batch.len()).unwrap_or(1) - 1);
        for step in batch.drain(..) {
            if output.push_wait(step).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

impl WalMetrics {
    /// The numbers, registered; `stage` are those that every stage has.
    pub fn new(metrics: &Metrics, stage: StageMetrics) -> Self {
        let new = Self {
            stage,
            durable: metrics.seconds("wal_durable", "From a step to its durability."),
            bytes: Counter::default(),
            flushes: Counter::default(),
            segments: Gauge::default(),
        };
        metrics.register("wal_bytes", "Bytes made durable.", &new.bytes);
        metrics.register("wal_flushes", "Durable writes.", &new.flushes);
        metrics.register("wal_segments", "Segments with records.", &new.segments);
        new
    }

    fn flushed(&self, took_us: u64, bytes: u64, segments: usize) {
        self.durable.observe(seconds(took_us));
        self.bytes.inc_by(bytes);
        self.flushes.inc();
        self.segments.set(i64::try_from(segments).unwrap_or(i64::MAX));
    }
}
