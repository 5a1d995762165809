//! The node: everything wired together, taken up where it stopped, and run down in order.
//!
//! Input: a checked configuration and a data folder that this process holds. Output: a running
//! chain. Start: `recover` (mdbx, then the log), then `wire` (one thread a seat). End: a signal
//! closes the RPC; each stage finishes what it has and closes the next ring, so that everything
//! accepted is executed, durable and under a checkpoint. A stage that stops on a fault ends the
//! process at once: the log has all that anybody was told.

pub mod keys;
pub mod genesis;
pub mod recover;
pub mod shutdown;
pub mod threads;
pub mod wire;

use crate::config::schema::Config;
use crate::node::{shutdown::End, wire::Running};
use crate::topology::plan::Plan;
use crate::types::flow::ChainEvent;
use alloy_primitives::Address;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

/// Folders and files below the data folder.
pub mod folders {
    /// mdbx.
    pub const STATE: &str = "state";
    /// Blocks.
    pub const ARCHIVE: &str = "archive";
    /// The write-ahead log.
    pub const WAL: &str = "wal";
}

/// Told of everything that clients are told; must not block.
pub type Watch = Arc<dyn Fn(&ChainEvent) + Send + Sync>;

/// What a node is made from.
pub struct Settings {
    /// The settings in force.
    pub config: Config,
    /// The data folder, held by the caller.
    pub folder: PathBuf,
    /// Which thread goes where.
    pub plan: Plan,
    /// Told of blocks.
    pub watch: Watch,
}

/// Why a node does not start, or ends badly. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NodeError(pub String);

impl NodeError {
    /// From any error that says what to do in its own text.
    pub fn of(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// A node that runs.
pub struct Node {
    running: Running,
    ends: crossbeam_channel::Receiver<End>,
}

/// How long the stages may take to finish what they have.
const RUN_DOWN: Duration = Duration::from_secs(30);

impl Node {
    /// Recovers the chain and starts every stage; returns once clients are served. `None` where a
    /// signal asked for the end before that.
    ///
    /// # Errors
    /// Where the chain cannot be taken up, or an address cannot be served.
    pub fn start(settings: Settings) -> Result<Option<Self>, NodeError> {
        let (end, ends) = shutdown::channel().map_err(NodeError::of)?;
        let running = wire::start(settings, (end, &ends))?;
        Ok(running.map(|running| Self { running, ends }))
    }

    /// Where JSON-RPC is served.
    pub fn rpc_address(&self) -> SocketAddr {
        self.running.rpc_address
    }

    /// Where metrics are served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.running.metrics_address
    }

    /// EIP-155.
    pub fn chain_id(&self) -> u64 {
        self.running.chain_id
    }

    /// Whose signature mini-blocks carry.
    pub fn sequencer(&self) -> Address {
        self.running.sequencer
    }

    /// Waits for the end, and for everything accepted to be safe.
    ///
    /// # Errors
    /// Where a stage stopped on a fault, or the stages do not end in time.
    pub fn wait(self) -> Result<(), NodeError> {
        match self.ends.recv() {
            Ok(End::Signal(signal)) => tracing::info!(signal, "ending: no new requests"),
            Ok(End::Fault { stage, reason }) => {
                return Err(NodeError(format!("stage {stage} stopped: {reason}")));
            }
            Err(error) => return Err(NodeError::of(error)),
        }
        self.running.stop(&self.ends, RUN_DOWN)
    }
}
