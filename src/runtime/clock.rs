//! Where time comes from. Stages read a clock and pass the reading on; logic never reads one.

use crate::types::ids::TimestampUs;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// What is less is no step of the wall clock.
const STEP_US_MIN: u64 = 100_000;

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
        Self::System { start_us: wall_us(), start: Instant::now() }
    }

    /// A clock that stands at `now_us` until it is set.
    pub fn manual(now_us: TimestampUs) -> Self {
        Self::Manual(Arc::new(AtomicU64::new(now_us)))
    }

    /// Microseconds since the epoch.
    pub fn now_us(&self) -> TimestampUs {
        match self {
            Self::System { start_us, start } => start_us + elapsed_us(*start),
            Self::Manual(now) => now.load(Ordering::Acquire),
        }
    }

    /// Takes over that the wall clock was set forward, as a time server does after the machine's
    /// start; gives by how much, 0 where it was not. Set back, it is not followed: time would run
    /// backwards. What is only sped up or slowed down needs no following. A clone stays as it is.
    pub fn follow(&mut self) -> u64 {
        let Self::System { start_us, start } = self else { return 0 };
        // The wall clock first: time that passes between the readings is no step.
        let wall_us = wall_us();
        let step_us = wall_us.saturating_sub(*start_us + elapsed_us(*start));
        if step_us < STEP_US_MIN {
            return 0;
        }
        *start_us += step_us;
        step_us
    }

    /// Moves a manual clock; the machine's clock stays.
    pub fn set_us(&self, now_us: TimestampUs) {
        if let Self::Manual(now) = self {
            now.store(now_us, Ordering::Release);
        }
    }
}

fn wall_us() -> TimestampUs {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

fn elapsed_us(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_was_set_forward_is_followed_and_one_set_back_is_not() {
        const STEP_US: u64 = 40_000_000;
        let Clock::System { start_us, start } = Clock::system() else { unreachable!() };
        // As one that was started 40 s too early, or too late, and whose machine was put right.
        let mut behind = Clock::System { start_us: start_us - STEP_US, start };
        let before_us = behind.now_us();
        let step_us = behind.follow();
        assert!(step_us.abs_diff(STEP_US) < STEP_US / 2, "{step_us}");
        assert!(behind.now_us() >= before_us + step_us);
        assert_eq!(behind.follow(), 0);
        let mut ahead = Clock::System { start_us: start_us + STEP_US, start };
        assert_eq!(ahead.follow(), 0);
        assert!(ahead.now_us() >= start_us + STEP_US);
        assert_eq!(Clock::manual(1).follow(), 0);
    }
}
