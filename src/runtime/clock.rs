//! Where time comes from. Stages read a clock and pass the reading on; logic never reads one.

use crate::types::ids::TimestampUs;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// A clock in microseconds since the Unix epoch that never runs backwards.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The machine's wall clock at the start, then its monotonic clock.
    System {
        /// Wall clock at the start.
        start_us: TimestampUs,
        /// Monotonic clock at the start.
        start: Instant,
    },
    /// Set by a test or a simulation.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clock.
    #[expect(clippy::disallowed_methods, reason = "this is the clock that others are handed")]
    pub fn system() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start_us = u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX);
        Self::System { start_us, start: Instant::now() }
    }

    /// A clock that stands at `now_us` until it is set.
    pub fn manual(now_us: TimestampUs) -> Self {
        Self::Manual(Arc::new(AtomicU64::new(now_us)))
    }

    /// Microseconds since the epoch.
    pub fn now_us(&self) -> TimestampUs {
        match self {
            Self::System { start_us, start } => {
                start_us + u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
            }
            Self::Manual(now) => now.load(Ordering::Acquire),
        }
    }

    /// Moves a manual clock; the machine's clock stays.
    pub fn set_us(&self, now_us: TimestampUs) {
        if let Self::Manual(now) = self {
            now.store(now_us, Ordering::Release);
        }
    }
}
