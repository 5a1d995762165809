//! The node: everything wired together, taken up where it stopped, and run down in order.
//!
//! Input: a checked configuration and a data folder that this process holds. Output: a running
//! chain. Start: `recover` (mdbx, then the log), then `wire` (one thread a seat). End: a signal
//! closes the RPC; each stage finishes what it has and closes the next ring, so that everything
//! accepted is executed, durable and under a checkpoint. A stage that stops on a fault ends the
//! process at once: the log has all that anybody was told.

pub mod keys;
pub mod format;
pub mod genesis;
pub mod recover;
pub mod shutdown;
pub mod supervise;
pub mod scrub;
pub mod threads;
pub mod wire;

use crate::config::schema::Config;
use crate::node::{
    shutdown::End,
    supervise::{Feeder, Progress},
    wire::Running,
};
use crate::runtime::{clock::Clock, memory};
use crate::topology::plan::Plan;
use crate::types::flow::ChainEvent;
use alloy_primitives::Address;
use crossbeam_channel::RecvTimeoutError;
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
    /// A socket in the file system where metrics are served, beside the configured port.
    pub metrics_socket: Option<PathBuf>,
    /// A file that adds to the metrics.
    pub metrics_more: Option<PathBuf>,
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
    progress: Arc<Progress>,
    block_interval_ms: u64,
}

/// How long the stages may take to finish what they have.
const RUN_DOWN: Duration = Duration::from_secs(30);

impl Node {
    /// Recovers the chain and starts every stage; returns once clients are served, and systemd
    /// knows it. `None` where a signal asked for the end before that.
    ///
    /// # Errors
    /// Where the chain cannot be taken up, or an address cannot be served.
    pub fn start(mut settings: Settings) -> Result<Option<Self>, NodeError> {
        let (end, ends) = shutdown::channel().map_err(NodeError::of)?;
        let block_interval_ms = settings.config.sequencing.block_interval_ms;
        let progress = Arc::new(Progress::default());
        let (seen, watch) = (Arc::clone(&progress), Arc::clone(&settings.watch));
        settings.watch = Arc::new(move |event| {
            seen.see(event);
            watch(event);
        });
        let running = wire::start(settings, (end, &ends), &progress)?;
        let Some(running) = running else { return Ok(None) };
        let node = Self { running, ends, progress, block_interval_ms };
        memory::hold();
        supervise::ready(&node.status());
        Ok(Some(node))
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
        match self.watched_end() {
            Ok(End::Signal(signal)) => {
                tracing::info!(signal, "ending: no new requests");
                supervise::stopping("ending: finishing what is in flight");
            }
            Ok(End::Fault { stage, reason }) => {
                let error = NodeError(format!("stage {stage} stopped: {reason}"));
                supervise::stopping(&error.0);
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        self.running.stop(&self.ends, RUN_DOWN)
    }

    /// The first end; until then systemd's watchdog is fed while the chain goes on.
    fn watched_end(&self) -> Result<End, NodeError> {
        let clock = Clock::system();
        let mut feeder = Feeder::new(self.block_interval_ms, clock.now_us());
        let interval = supervise::look_interval();
        loop {
            match self.ends.recv_timeout(interval) {
                Ok(end) => return Ok(end),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(NodeError("nothing is left that could end the node".to_owned()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if feeder.goes_on(clock.now_us(), self.progress.counts()) {
                supervise::alive(&self.status());
            } else {
                tracing::warn!("the chain does not go on: systemd's watchdog is not fed");
                supervise::stuck(&format!("{}, stuck", self.status()));
            }
        }
    }

    fn status(&self) -> String {
        let height = self.progress.height();
        format!("block {height}, JSON-RPC on {}", self.rpc_address())
    }
}
