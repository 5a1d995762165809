//! The log: structured lines on standard error, for people or for machines.

use crate::config::schema::Log;
use std::io::IsTerminal as _;
use tracing_subscriber::{EnvFilter, fmt};

/// Starts the log of this process. A second call changes nothing.
pub fn start(log: &Log) {
    let asked_off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let builder = fmt()
        .with_env_filter(EnvFilter::new(&log.level))
        .with_ansi(std::io::stderr().is_terminal() && !asked_off)
        .with_writer(std::io::stderr);
    let started = if log.json { builder.json().try_init() } else { builder.try_init() };
    if let Err(error) = started {
        tracing::debug!(%error, "the log runs already");
    }
}
