//! When a mini-block is due, when a block closes, and what time its header says. Pure.
//!
//! Both grids are wall-clock multiples of their intervals. A block's timestamp is the second in
//! which its span begins. Where the block interval is a second or more, timestamps rise strictly
//! from block to block, as Ethereum's rules want; below that they never fall.

use crate::types::ids::{TimestampS, TimestampUs};

const SECOND_US: u64 = 1_000_000;

/// The two grids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intervals {
    /// Between mini-blocks, microseconds.
    pub mini_block_us: u64,
    /// Between blocks, microseconds.
    pub block_us: u64,
    /// Part of the mini-block interval after a cut in which execution works on it, percent.
    pub deadline_percent: u64,
}

/// Where the chain stands when ordering starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Timestamp of the newest closed block.
    pub parent_timestamp: TimestampS,
    /// Timestamp of the open block, where mini-blocks of it were replayed.
    pub open_timestamp: Option<TimestampS>,
}

/// When things are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    intervals: Intervals,
    /// When the next mini-block is due.
    due_us: TimestampUs,
    /// When the open block closes.
    block_end_us: TimestampUs,
    /// What the open block's header says.
    block_timestamp: TimestampS,
}

impl Schedule {
    /// A schedule from `now_us` on.
    pub fn new(intervals: Intervals, standing: Standing, now_us: TimestampUs) -> Self {
        let start_us = floor(now_us, intervals.block_us);
        let mut schedule = Self {
            intervals,
            due_us: floor(now_us, intervals.mini_block_us) + intervals.mini_block_us,
            block_end_us: start_us + intervals.block_us,
            block_timestamp: standing.parent_timestamp,
        };
        match standing.open_timestamp {
            Some(timestamp) => schedule.block_timestamp = timestamp,
            None => schedule.open(start_us, now_us),
        }
        schedule
    }

    /// When the next mini-block is due.
    pub fn due_us(&self) -> TimestampUs {
        self.due_us
    }

    /// What the open block's header says.
    pub fn block_timestamp(&self) -> TimestampS {
        self.block_timestamp
    }

    /// When execution stops working on a cut of `now_us`.
    pub fn deadline_us(&self, now_us: TimestampUs) -> TimestampUs {
        now_us + self.intervals.mini_block_us * self.intervals.deadline_percent / 100
    }

    /// A cut made at `now_us` ends the block.
    pub fn closes(&self, now_us: TimestampUs) -> bool {
        now_us >= self.block_end_us
    }

    /// A full block may end at `now_us`, before its time: the next one's timestamp may follow.
    pub fn closes_early(&self, now_us: TimestampUs) -> bool {
        self.step() == 0 || now_us / SECOND_US >= self.block_timestamp + self.step()
    }

    /// Notes that the interval which ended at `now_us` is done with, cut or empty.
    ///
    /// Intervals that were missed are skipped. After a late cut the next is due on the grid again,
    /// but not sooner than half an interval later.
    pub fn passed(&mut self, now_us: TimestampUs) {
        let interval_us = self.intervals.mini_block_us;
        self.due_us = (now_us + interval_us / 2).div_ceil(interval_us) * interval_us;
        if self.due_us <= now_us {
            self.due_us += interval_us;
        }
    }

    /// Notes that a cut of `now_us` closed the block: the next one opens.
    pub fn closed(&mut self, now_us: TimestampUs) {
        let boundary_us = floor(now_us, self.intervals.block_us);
        let on_time = now_us >= self.block_end_us;
        self.block_end_us = boundary_us + self.intervals.block_us;
        self.open(if on_time { boundary_us } else { now_us }, now_us);
    }

    /// Fixes the timestamp of a block that spans from `start_us`, after `self.block_timestamp`.
    fn open(&mut self, start_us: TimestampUs, now_us: TimestampUs) {
        let start = start_us / SECOND_US;
        let least = self.block_timestamp + self.step();
        self.block_timestamp = start.max(least);
        // Ahead of the clock by a second (a block opened in the second of its parent): it lasts
        // until its timestamp has passed, so that the chain does not stay ahead for ever. Further
        // ahead (a genesis in the future) the chain runs ahead until the clock has caught up.
        if self.step() > 0 && self.block_timestamp <= now_us / SECOND_US + 1 {
            let passed_us = (self.block_timestamp + 1) * SECOND_US;
            let grid_us = self.intervals.block_us;
            self.block_end_us = self.block_end_us.max(passed_us.div_ceil(grid_us) * grid_us);
        }
        debug_assert!(self.block_end_us > now_us);
    }

    /// Seconds by which timestamps rise at least.
    fn step(&self) -> u64 {
        u64::from(self.intervals.block_us >= SECOND_US)
    }
}

fn floor(at_us: u64, grid_us: u64) -> u64 {
    at_us / grid_us * grid_us
}
