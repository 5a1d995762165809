//! Prometheus metrics: one registry, and the set of numbers that every stage keeps.

use crate::topology::seat::Stage;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::sync::{Mutex, atomic::AtomicU64};

/// All metrics of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    registry: Mutex<Registry>,
}

/// What each stage says of itself. Clones share the numbers.
#[derive(Debug, Clone)]
pub struct StageMetrics {
    /// Items that the stage finished.
    pub items: Counter,
    /// Seconds that it worked; its rate is the stage's occupancy.
    pub busy: Counter<f64, AtomicU64>,
    /// Items that wait before it.
    pub queue: Gauge,
    /// Seconds an item.
    pub item_time: Histogram,
}

impl Metrics {
    /// Adds a metric under `basalt_<name>`.
    pub fn register<M>(&self, name: &str, help: &str, metric: &M)
    where
        M: prometheus_client::registry::Metric + Clone,
    {
        self.with(|registry| registry.register(format!("basalt_{name}"), help, metric.clone()));
    }

    /// A histogram of seconds under `basalt_<name>_seconds`, from 10 µs to 5 s.
    pub fn seconds(&self, name: &str, help: &str) -> Histogram {
        let histogram = Histogram::new(SECONDS_BUCKETS);
        self.with(|registry| {
            let name = format!("basalt_{name}");
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        });
        histogram
    }

    /// The numbers of a stage; two threads of one stage share one set.
    pub fn stage(&self, stage: Stage) -> StageMetrics {
        let name = stage.name();
        let metrics = StageMetrics {
            items: Counter::default(),
            busy: Counter::default(),
            queue: Gauge::default(),
            item_time: self.seconds(&format!("{name}_item"), "Time for one item."),
        };
        self.register(&format!("{name}_items"), "Items finished.", &metrics.items);
        self.register(&format!("{name}_busy_seconds"), "Time spent working.", &metrics.busy);
        self.register(&format!("{name}_queue"), "Items waiting.", &metrics.queue);
        metrics
    }

    /// All metrics in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        self.with(|registry| {
            if let Err(error) = encode(&mut text, registry) {
                tracing::error!(%error, "metrics cannot be rendered");
            }
        });
        text
    }

    fn with(&self, work: impl FnOnce(&mut Registry)) {
        work(&mut self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl StageMetrics {
    /// Numbers that no registry shows: for stages run by tests and benches.
    pub fn unregistered() -> Self {
        Self {
            items: Counter::default(),
            busy: Counter::default(),
            queue: Gauge::default(),
            item_time: Histogram::new(SECONDS_BUCKETS),
        }
    }

    /// Notes one item that took `took_us` microseconds, with `waiting` items behind it.
    pub fn item(&self, took_us: u64, waiting: usize) {
        let seconds = seconds(took_us);
        self.items.inc();
        self.busy.inc_by(seconds);
        self.item_time.observe(seconds);
        self.queue.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }
}

/// Microseconds as what a metric counts.
#[expect(clippy::float_arithmetic, reason = "metrics are no consensus data")]
#[expect(clippy::cast_precision_loss, reason = "microseconds of 140 years fit 52 bits")]
pub fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

const SECONDS_BUCKETS: [f64; 20] = [
    1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 8e-3, 1e-2, 1.2e-2, 1.5e-2, 2e-2, 5e-2,
    0.1, 0.25, 0.5, 1.0, 5.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stage_counts_is_rendered() {
        let metrics = Metrics::default();
        let stage = metrics.stage(Stage::Wal);
        stage.item(150, 3);
        let text = metrics.render();
        assert!(text.contains("basalt_wal_items_total 1"), "{text}");
        assert!(text.contains("basalt_wal_queue 3"), "{text}");
        assert!(text.contains("basalt_wal_item_seconds_bucket"), "{text}");
    }
}
