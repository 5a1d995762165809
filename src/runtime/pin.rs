//! Threads on their seats: the only place that starts one.

use crate::topology::seat::Pace;
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

/// How much nicer work behind the receipt is: its weight is a quarter of the others'.
const NICER_BEHIND: i32 = 6;
/// The time slice that prompt work asks for: the least that Linux grants. A thread with a short
/// slice is given a near deadline, so that it preempts one with a long slice when it is woken.
const SLICE_PROMPT_NS: u64 = 100_000;

/// Pins the calling thread to a seat and reports the core that it really runs on.
pub fn take(seat: &Seat) {
    if !seat.dedicated {
        share(seat.stage.pace());
    }
    let pinned = core_affinity::set_for_current(CoreId { id: seat.core });
    let core = current_core();
    let (stage, index) = (seat.stage.name(), seat.index);
    if pinned && core == Some(seat.core) {
        tracing::debug!(stage, index, core, node = seat.node, "seated");
    } else {
        tracing::warn!(stage, index, planned = seat.core, actual = core, "not on the planned core");
    }
}

/// Asks the scheduler for the pace that a stage has among others on its core. Needs no privilege;
/// Linux before 6.12 takes the niceness and ignores the slice.
#[expect(unsafe_code, reason = "libc has no safe wrapper for sched_setattr")]
fn share(pace: Pace) {
    let (nicer, slice_ns) = match pace {
        Pace::Prompt => (0, SLICE_PROMPT_NS),
        Pace::Steady => (0, 0),
        Pace::Behind => (NICER_BEHIND, 0),
    };
    // SAFETY: sched_attr is plain numbers, for which zero is a value.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = u32::try_from(size_of::<libc::sched_attr>()).unwrap_or_default();
    attributes.sched_policy = libc::SCHED_OTHER.unsigned_abs();
    // Never below what the process was started with: that would need a privilege.
    attributes.sched_nice = niceness().saturating_add(nicer).min(19);
    attributes.sched_runtime = slice_ns;
    let pointer: *const libc::sched_attr = &raw const attributes;
    // SAFETY: the kernel reads `size` bytes at the pointer, which lives through the call; zero
    // means the calling thread.
    let failed = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, pointer, 0) } != 0;
    if failed {
        let error = io::Error::last_os_error();
        tracing::debug!(%error, ?pace, "the scheduler keeps its own pace for this thread");
    }
}

/// The calling thread's niceness, -20 to 19.
#[expect(unsafe_code, reason = "libc has no safe wrapper for getpriority")]
fn niceness() -> i32 {
    // SAFETY: getpriority takes numbers only; zero means the calling thread.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// The logical processor that the calling thread runs on at this moment.
#[expect(unsafe_code, reason = "libc has no safe wrapper for sched_getcpu")]
pub fn current_core() -> Option<usize> {
    // SAFETY: sched_getcpu takes no argument and touches no memory of ours.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::seat::Stage;

    fn niceness_on(stage: Stage, dedicated: bool) -> i32 {
        let core = core_affinity::get_core_ids().unwrap()[0].id;
        let seat = Seat { stage, index: 0, core, node: 0, dedicated };
        spawn(seat, niceness).unwrap().join().unwrap()
    }

    #[test]
    fn work_behind_the_receipt_gives_way_on_a_shared_core() {
        let own = niceness();
        assert_eq!(niceness_on(Stage::Execution, false), own);
        assert_eq!(niceness_on(Stage::Trie, false), (own + NICER_BEHIND).min(19));
        assert_eq!(niceness_on(Stage::Trie, true), own);
    }
}
