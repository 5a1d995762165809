//! CPU time, for benches on machines that others use too.

/// Seconds of CPU time of this thread: robust where a machine is shared.
#[expect(unsafe_code, reason = "libc has no safe wrapper for clock_gettime")]
pub(crate) fn thread_s() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing for the length of the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0, "this system has no clock of a thread's CPU time");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
