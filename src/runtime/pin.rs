//! Threads on their seats: the only place that starts one.

pub use crate::topology::seat::Seat;
use core_affinity::CoreId;
use std::{io, thread};

/// Starts a named thread, pinned to its seat's core, that runs `work`.
///
/// A seat that the kernel refuses (a cgroup without that core) is said in the log and the thread
/// runs unpinned: a node with a wrong plan is slow, not dead.
///
/// # Errors
/// Where the system starts no more threads.
pub fn spawn<R: Send + 'static>(
    seat: Seat,
    work: impl FnOnce() -> R + Send + 'static,
) -> io::Result<thread::JoinHandle<R>> {
    let name = format!("{}-{}", seat.stage.name(), seat.index);
    thread::Builder::new().name(name).spawn(move || {
        take(&seat);
        work()
    })
}

/// Pins the calling thread to a seat and reports the core that it really runs on.
pub fn take(seat: &Seat) {
    let pinned = core_affinity::set_for_current(CoreId { id: seat.core });
    let core = current_core();
    let (stage, index) = (seat.stage.name(), seat.index);
    if pinned && core == Some(seat.core) {
        tracing::debug!(stage, index, core, node = seat.node, "seated");
    } else {
        tracing::warn!(stage, index, planned = seat.core, actual = core, "not on the planned core");
    }
}

/// The logical processor that the calling thread runs on at this moment.
#[expect(unsafe_code, reason = "libc has no safe wrapper for sched_getcpu")]
pub fn current_core() -> Option<usize> {
    // SAFETY: sched_getcpu takes no argument and touches no memory of ours.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}
