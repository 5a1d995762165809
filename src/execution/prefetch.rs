//! Asks for memory before it is needed, so that several misses are under way at once.

/// Bytes of a cache line.
const LINE: usize = 64;

/// Has a value brought into the nearest cache. Only time depends on it.
#[inline]
#[expect(unsafe_code, reason = "the processor's hint has no safe wrapper")]
pub(super) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = std::ptr::from_ref(value).cast::<i8>();
        for offset in (0..size_of::<T>()).step_by(LINE) {
            let line = start.wrapping_add(offset);
            // SAFETY: a hint reads nothing and faults nowhere, and the address is that of a
            // living value anyway; SSE is part of x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (value, LINE);
}
