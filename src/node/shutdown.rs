//! Waiting for the end: a signal from outside, or a stage that stopped.

use crossbeam_channel::{Receiver, Sender};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use std::io;

/// Why the node ends.
#[derive(Debug)]
pub enum End {
    /// Ctrl-C or SIGTERM: everything in flight is finished and made durable.
    Signal(i32),
    /// A stage stopped on a broken invariant or a failed disk.
    Fault {
        /// The stage.
        stage: &'static str,
        /// What it said.
        reason: String,
    },
}

/// A channel on which the ends arrive; the first one counts.
///
/// # Errors
/// Where signal handlers cannot be installed.
pub fn channel() -> io::Result<(Sender<End>, Receiver<End>)> {
    let (sender, receiver) = crossbeam_channel::bounded(16);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let from_signals = sender.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if from_signals.try_send(End::Signal(signal)).is_err() {
                break; // Nobody waits any more.
            }
        }
    })?;
    Ok((sender, receiver))
}
