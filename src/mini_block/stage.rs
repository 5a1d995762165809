//! The pinned loop: blank mini-blocks in, sealed ones out.

use crate::{
    mini_block::seal::{Link, SealError, seal},
    runtime::{
        clock::Clock,
        metrics::{Metrics, StageMetrics},
        ring::{Consumer, Producer},
    },
    types::{
        flow::{Event, Step},
        ids::TimestampUs,
    },
};
use alloy_primitives::{B256, Signature};
use prometheus_client::metrics::histogram::Histogram;
use std::sync::Arc;

/// What the stage starts from.
pub struct Start {
    /// The newest mini-block that is durable.
    pub link: Link,
    /// The sequencer's key, as a function of the hash.
    pub sign: Box<dyn Fn(B256) -> Signature + Send>,
}

/// What the stage says of itself.
#[derive(Debug, Clone)]
pub struct MiniBlockMetrics {
    /// As of every stage.
    pub stage: StageMetrics,
    /// Seconds between one mini-block's timestamp and the next one's.
    pub interval: Histogram,
}

/// Seals every mini-block and hands every step on, in order. Ends when the input closes or the
/// output's reader is gone.
///
/// # Errors
/// Where execution broke its contract; the node must stop.
pub fn run(
    start: Start,
    input: &Consumer<Step>,
    output: &Producer<Step>,
    clock: &Clock,
    metrics: &MiniBlockMetrics,
) -> Result<(), SealError> {
    let Start { mut link, sign } = start;
    let mut before_us = None;
    while let Some(mut step) = input.pop_wait() {
        let start_us = clock.now_us();
        if let Event::MiniBlock(mini_block) = &mut step.event {
            // Nobody else holds it yet, so this copies nothing.
            let mini_block = Arc::make_mut(mini_block);
            link = seal(mini_block, link, &*sign)?;
            metrics.interval(before_us.replace(mini_block.timestamp_us), mini_block.timestamp_us);
        }
        metrics.stage.item(clock.now_us() - start_us, input.len());
        if output.push_wait(step).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

impl MiniBlockMetrics {
    /// The numbers, registered; `stage` are those that every stage has.
    pub fn new(metrics: &Metrics, stage: StageMetrics) -> Self {
        Self { stage, interval: metrics.seconds("mini_block_interval", "Between two mini-blocks.") }
    }

    #[expect(clippy::float_arithmetic, reason = "metrics are no consensus data")]
    #[expect(clippy::cast_precision_loss, reason = "microseconds of one interval fit 52 bits")]
    fn interval(&self, before_us: Option<TimestampUs>, now_us: TimestampUs) {
        if let Some(before_us) = before_us {
            self.interval.observe(now_us.saturating_sub(before_us) as f64 / 1e6);
        }
    }
}
