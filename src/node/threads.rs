//! The threads of a node: each on its seat, each ending the node where it stops on a fault.

use crate::node::{NodeError, shutdown::End};
use crate::runtime::{clock::Clock, metrics::Metrics, pin};
use crate::topology::{
    plan::Plan,
    seat::{Seat, Stage},
};
use crossbeam_channel::{Receiver, Sender};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

/// A thread that was started, with the name of its stage.
pub type Started = (&'static str, JoinHandle<()>);

/// How often the end of a thread is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// What all threads are started with.
pub struct Threads {
    /// Who sits where.
    pub plan: Plan,
    /// Where faults go.
    pub end: Sender<End>,
    /// Time.
    pub clock: Clock,
    /// Numbers.
    pub metrics: Arc<Metrics>,
    /// What runs.
    pub started: Vec<Started>,
}

/// What a thread learns when it is seated.
pub struct At {
    /// Its place.
    pub seat: Seat,
    /// Time.
    pub clock: Clock,
    /// Numbers.
    pub metrics: Arc<Metrics>,
}

impl Threads {
    /// Starts a stage on its first seat.
    ///
    /// # Errors
    /// Where the system starts no more threads.
    pub fn run<E: std::fmt::Display>(
        &mut self,
        stage: Stage,
        name: &'static str,
        work: impl FnOnce(At) -> Result<(), E> + Send + 'static,
    ) -> Result<(), NodeError> {
        self.run_on(self.plan.seat(stage), name, work)
    }

    /// Starts a stage. An error or a panic in it ends the node.
    ///
    /// # Errors
    /// Where the system starts no more threads.
    pub fn run_on<E: std::fmt::Display>(
        &mut self,
        seat: Seat,
        name: &'static str,
        work: impl FnOnce(At) -> Result<(), E> + Send + 'static,
    ) -> Result<(), NodeError> {
        let at = At { seat, clock: self.clock.clone(), metrics: Arc::clone(&self.metrics) };
        let end = self.end.clone();
        let thread = pin::spawn(seat, move || {
            let reason = match catch_unwind(AssertUnwindSafe(|| work(at))) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it panicked; the lines above say where".to_owned(),
            };
            tracing::error!(stage = name, reason, "a stage stopped");
            drop(end.try_send(End::Fault { stage: name, reason }));
        });
        self.started.push((name, thread.map_err(NodeError::of)?));
        Ok(())
    }
}

/// Waits until all of them have ended.
///
/// # Errors
/// Where a stage stops on a fault, or they do not end within `limit`.
pub fn join(threads: Vec<Started>, ends: &Receiver<End>, limit: Duration) -> Result<(), NodeError> {
    let mut waited = Duration::ZERO;
    for (name, thread) in threads {
        while !thread.is_finished() {
            if let Ok(End::Fault { stage, reason }) = ends.try_recv() {
                return Err(NodeError(format!("stage {stage} stopped: {reason}")));
            }
            if waited > limit {
                let text = format!("stage {name} did not end in {limit:?}; the log is whole");
                return Err(NodeError(text));
            }
            std::thread::sleep(LOOK_INTERVAL);
            waited += LOOK_INTERVAL;
        }
    }
    Ok(())
}
