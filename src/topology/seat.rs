//! A seat: one stage on one core of one NUMA node.

use serde::Serialize;

/// The pinned loops, in the order of a transaction's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Workers of the RPC server.
    Rpc,
    /// Decodes, recovers senders, admits; several seats share the work.
    Ingress,
    /// Cuts mini-blocks.
    Ordering,
    /// Executes and commits in order.
    Execution,
    /// Executes ahead of it; several seats share the work.
    Lane,
    /// Fixes roots, hash and signature of a mini-block.
    MiniBlock,
    /// Makes records durable.
    Wal,
    /// Publishes what is durable.
    State,
    /// Computes state roots.
    Trie,
    /// Seals headers.
    Block,
    /// Writes checkpoints into mdbx and the archive.
    Checkpoint,
    /// Reads archive segments.
    Archive,
}

impl Stage {
    /// All stages, in the order of a transaction's path.
    pub const ALL: [Self; 12] = [
        Self::Rpc,
        Self::Ingress,
        Self::Ordering,
        Self::Execution,
        Self::Lane,
        Self::MiniBlock,
        Self::Wal,
        Self::State,
        Self::Trie,
        Self::Block,
        Self::Checkpoint,
        Self::Archive,
    ];

    /// How it runs beside others on one core.
    pub const fn pace(self) -> Pace {
        match self {
            Self::Ordering
            | Self::Execution
            | Self::Lane
            | Self::MiniBlock
            | Self::Wal
            | Self::State => Pace::Prompt,
            Self::Rpc | Self::Ingress => Pace::Steady,
            Self::Trie | Self::Block | Self::Checkpoint | Self::Archive => Pace::Behind,
        }
    }

    /// Its name in plans, metrics and thread names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rpc => "rpc",
            Self::Ingress => "ingress",
            Self::Ordering => "ordering",
            Self::Execution => "execution",
            Self::Lane => "lane",
            Self::MiniBlock => "mini_block",
            Self::Wal => "wal",
            Self::State => "state",
            Self::Trie => "trie",
            Self::Block => "block",
            Self::Checkpoint => "checkpoint",
            Self::Archive => "archive",
        }
    }
}

/// What a stage asks of the scheduler where it shares its core with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Short work between the socket and the receipt: runs as soon as it is woken.
    Prompt,
    /// Long work on that path: gives way to what is prompt.
    Steady,
    /// Work behind the receipt, in great pieces: takes what the others leave.
    Behind,
}

/// One thread's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Seat {
    /// What runs there.
    pub stage: Stage,
    /// Which of the stage's threads, from 0.
    pub index: usize,
    /// Logical processor, as Linux numbers it.
    pub core: usize,
    /// NUMA node of that core.
    pub node: usize,
    /// Alone on its core, so that it may spin; otherwise it must park.
    pub dedicated: bool,
}
