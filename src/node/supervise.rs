//! What systemd is told of the node: ready, still starting, going on, stopping. Without systemd
//! (no `NOTIFY_SOCKET`) nothing is told and nothing is missed.
//!
//! The watchdog is fed only while the chain goes on: an interval passed (a mini-block or a
//! heartbeat) since the last look, and a block was sealed not too long ago. A stage that hangs
//! anywhere on the path stops one of the two.

use crate::runtime::metrics::Metrics;
use crate::types::{flow::ChainEvent, ids::TimestampUs};
use prometheus_client::metrics::{gauge::Gauge, histogram::Histogram};
use sd_notify::NotifyState;
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How often the chain's progress is looked at, at the longest.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// A look more often costs more than it tells.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// Block intervals without a block after which the chain counts as stuck, and the least time.
const BLOCK_INTERVALS_MAX: u64 = 3;
const BLOCK_AGE_MIN_US: u64 = 10_000_000;
/// What a start that goes on asks for, and how often.
const EXTEND_US: u32 = 120_000_000;
const EXTEND_EVERY_US: u64 = 5_000_000;

/// How far the chain has come since this process started.
#[derive(Debug, Default)]
pub struct Progress {
    intervals: AtomicU64,
    interval_us: AtomicU64,
    blocks: AtomicU64,
    height: Gauge,
    interval_ms: Gauge,
    between: OnceLock<Histogram>,
}

impl Progress {
    /// Puts its numbers among the metrics, with the block that the chain was taken up at.
    pub fn show(&self, metrics: &Metrics, height: u64) {
        self.height.set(i64::try_from(height).unwrap_or(i64::MAX));
        metrics.register("block_height", "Newest sealed block.", &self.height);
        metrics.register(
            "interval_timestamp_ms",
            "Unix time of the newest mini-block or heartbeat, in milliseconds.",
            &self.interval_ms,
        );
        let help = "Between two intervals, with a mini-block or without.";
        self.between.get_or_init(|| metrics.seconds("interval", help));
    }

    /// Notes what clients are told as well.
    pub fn see(&self, event: &ChainEvent) {
        let interval_us = match event {
            ChainEvent::MiniBlock(mini_block) => mini_block.timestamp_us,
            ChainEvent::Heartbeat { timestamp_us } => *timestamp_us,
            ChainEvent::Block(block) => {
                self.height.set(i64::try_from(block.header.number).unwrap_or(i64::MAX));
                self.blocks.fetch_add(1, Ordering::Release);
                return;
            }
            ChainEvent::Admitted(_) => return,
        };
        self.interval_ms.set(i64::try_from(interval_us / 1_000).unwrap_or(i64::MAX));
        self.observe(self.interval_us.swap(interval_us, Ordering::AcqRel), interval_us);
        self.intervals.fetch_add(1, Ordering::Release);
    }

    #[expect(clippy::float_arithmetic, reason = "metrics are no consensus data")]
    #[expect(clippy::cast_precision_loss, reason = "microseconds of one interval fit 52 bits")]
    fn observe(&self, before_us: TimestampUs, now_us: TimestampUs) {
        if let Some(between) = self.between.get().filter(|_| before_us != 0) {
            between.observe(now_us.saturating_sub(before_us) as f64 / 1e6);
        }
    }

    /// Intervals that passed and blocks that were sealed.
    pub fn counts(&self) -> (u64, u64) {
        (self.intervals.load(Ordering::Acquire), self.blocks.load(Ordering::Acquire))
    }

    /// The newest sealed block.
    pub fn height(&self) -> i64 {
        self.height.get()
    }
}

/// Decides whether the watchdog is fed. Pure.
#[derive(Debug)]
pub struct Feeder {
    intervals: u64,
    blocks: u64,
    block_at_us: TimestampUs,
    block_age_max_us: u64,
}

impl Feeder {
    /// For a chain that is to seal a block every `block_interval_ms`.
    pub fn new(block_interval_ms: u64, now_us: TimestampUs) -> Self {
        let intervals_us = block_interval_ms.saturating_mul(1_000 * BLOCK_INTERVALS_MAX);
        let block_age_max_us = intervals_us.max(BLOCK_AGE_MIN_US);
        Self { intervals: 0, blocks: 0, block_at_us: now_us, block_age_max_us }
    }

    /// Whether the chain went on since the last look.
    pub fn goes_on(&mut self, now_us: TimestampUs, (intervals, blocks): (u64, u64)) -> bool {
        if blocks != self.blocks {
            self.block_at_us = now_us;
        }
        let moved = intervals != self.intervals;
        (self.intervals, self.blocks) = (intervals, blocks);
        moved && now_us.saturating_sub(self.block_at_us) <= self.block_age_max_us
    }
}

/// Asks for more time while a start goes on.
#[derive(Debug, Default)]
pub struct Patience {
    asked_us: AtomicU64,
}

impl Patience {
    /// To be called as often as there is progress.
    pub fn goes_on(&self, now_us: TimestampUs) {
        let asked_us = self.asked_us.load(Ordering::Acquire);
        if now_us.saturating_sub(asked_us) >= EXTEND_EVERY_US {
            self.asked_us.store(now_us, Ordering::Release);
            tell(&[
                NotifyState::ExtendTimeoutUsec(EXTEND_US),
                NotifyState::Status("taking up the chain"),
            ]);
        }
    }
}

/// How often to look: a quarter of systemd's limit, where it has set one.
pub fn look_interval() -> Duration {
    let limit = sd_notify::watchdog_enabled();
    limit.map_or(LOOK_INTERVAL_MAX, |limit| limit / 4).clamp(LOOK_INTERVAL_MIN, LOOK_INTERVAL_MAX)
}

/// Clients are served.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// The chain went on: feeds the watchdog.
pub fn alive(status: &str) {
    tell(&[NotifyState::Watchdog, NotifyState::Status(&one_line(status))]);
}

/// The chain did not go on: the watchdog is not fed.
pub fn stuck(status: &str) {
    tell(&[NotifyState::Status(&one_line(status))]);
}

/// The node ends, for a reason.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(&one_line(status))]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd does not listen");
    }
}

/// A line break would end the word and begin another.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn a_chain_that_goes_on_feeds_the_watchdog() {
        let mut feeder = Feeder::new(1_000, 0);
        for second in 1..100 {
            assert!(feeder.goes_on(second * 5 * S, (second * 500, second * 5)), "{second}");
        }
    }

    #[test]
    fn without_intervals_it_is_not_fed() {
        let mut feeder = Feeder::new(1_000, 0);
        assert!(feeder.goes_on(5 * S, (500, 5)));
        assert!(!feeder.goes_on(10 * S, (500, 10)));
        assert!(feeder.goes_on(15 * S, (501, 11)), "it recovers");
    }

    #[test]
    fn without_blocks_it_is_fed_for_three_block_intervals_or_ten_seconds() {
        for (block_interval_ms, limit_s) in [(100, 10), (1_000, 10), (60_000, 180)] {
            let mut feeder = Feeder::new(block_interval_ms, 0);
            assert!(feeder.goes_on(S, (1, 1)));
            assert!(feeder.goes_on(S + limit_s * S, (2, 1)));
            assert!(!feeder.goes_on(S + limit_s * S + 1, (3, 1)), "{block_interval_ms}");
        }
    }

    #[test]
    fn progress_counts_heartbeats_as_intervals() {
        let (progress, metrics) = (Progress::default(), Metrics::default());
        progress.show(&metrics, 7);
        progress.see(&ChainEvent::Heartbeat { timestamp_us: 5_000_000 });
        progress.see(&ChainEvent::Heartbeat { timestamp_us: 5_010_000 });
        assert_eq!((progress.counts(), progress.height()), ((2, 0), 7));
        let text = metrics.render();
        assert!(text.contains("basalt_interval_timestamp_ms 5010"), "{text}");
        assert!(text.contains("basalt_interval_seconds_count 1"), "{text}");
    }

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(one_line("a\nREADY=1"), "a READY=1");
    }
}
