//! When to write a checkpoint; pure.

use crate::types::ids::TimestampUs;

/// Bounds between checkpoints. Every one of them is reached under load, so each says what it costs.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointPolicy {
    /// Up to this many entries (accounts, slots, codes) a checkpoint is written at once, after
    /// every block, while nothing else waits: a quiet chain is always nearly under its
    /// checkpoint. A random update costs mdbx about 5 µs, so 20,000 take a tenth of a second.
    pub light_weight_max: usize,
    /// Blocks gathered at most. Hot accounts and upper trie nodes are then written once for all
    /// of them. Their bodies stay in memory until then.
    pub blocks_max: usize,
    /// Entries gathered at most: bounds the time of a commit.
    pub weight_max: usize,
    /// Memory of what is gathered at most, bytes: bodies, diffs and rows of trie nodes (about a
    /// kilobyte each). As much again may gather while a checkpoint is written.
    pub bytes_max: usize,
    /// Microseconds that a start may take to replay what no checkpoint has.
    pub replay_us_max: u64,
    /// Microseconds that a sealed block waits for its checkpoint at most, so that the log's space
    /// comes free and `safe` moves on.
    pub age_us_max: u64,
}

/// Microseconds to replay one entry: the diff is applied and hashed into the root.
const REPLAY_US_PER_ENTRY: u64 = 5;

impl Default for CheckpointPolicy {
    fn default() -> Self {
        Self {
            light_weight_max: 20_000,
            blocks_max: 12,
            weight_max: 500_000,
            bytes_max: 96 << 20,
            replay_us_max: 3_000_000,
            age_us_max: 15_000_000,
        }
    }
}

/// What no checkpoint has yet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Waiting {
    /// Sealed blocks.
    pub blocks: usize,
    /// Entries of their diffs.
    pub weight: usize,
    /// Their memory, bytes.
    pub bytes: usize,
    /// When the oldest of them came.
    pub since_us: TimestampUs,
    /// No further block has come yet.
    pub idle: bool,
}

/// A checkpoint is to be written now.
pub fn due(policy: &CheckpointPolicy, waiting: &Waiting, now_us: TimestampUs) -> bool {
    let replay_us = REPLAY_US_PER_ENTRY.saturating_mul(as_u64(waiting.weight));
    waiting.blocks > 0
        && ((waiting.idle && waiting.weight <= policy.light_weight_max)
            || waiting.blocks >= policy.blocks_max
            || waiting.weight >= policy.weight_max
            || waiting.bytes >= policy.bytes_max
            || replay_us >= policy.replay_us_max
            || now_us.saturating_sub(waiting.since_us) >= policy.age_us_max)
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_chain_writes_after_every_block_and_a_busy_one_gathers() {
        let policy = CheckpointPolicy::default();
        let now = 1_000_000;
        let one = Waiting { blocks: 1, weight: 10, bytes: 1, since_us: now, idle: true };
        assert!(due(&policy, &one, now));
        assert!(!due(&policy, &Waiting { idle: false, ..one }, now));
        let busy = Waiting { weight: 50_000, ..one };
        assert!(!due(&policy, &busy, now));
        assert!(due(&policy, &busy, now + policy.age_us_max));
        assert!(due(&policy, &Waiting { blocks: policy.blocks_max, ..busy }, now));
        assert!(due(&policy, &Waiting { weight: policy.weight_max, ..busy }, now));
        assert!(due(&policy, &Waiting { bytes: policy.bytes_max, ..busy }, now));
        assert!(due(&policy, &Waiting { weight: 600_001, ..busy }, now));
        assert!(!due(&policy, &Waiting { blocks: 0, ..one }, now));
    }
}
