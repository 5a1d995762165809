//! Asks for memory before it is needed, so that several misses are under way at once.

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// Has a value brought into the nearest cache. Only time depends on it.
#[inline]
pub(super) fn prefetch<T>(value: &T) {
    ask::<T, false>(value);
}

/// Has a value that will be written brought into the nearest cache, and taken from the others.
#[inline]
pub(super) fn prefetch_to_write<T>(value: &T) {
    ask::<T, true>(value);
}

/// Has all of a list brought into the nearest cache.
#[inline]
pub(super) fn prefetch_all<T>(values: &[T]) {
    // Small values lie several in a line.
    let every = LINE.checked_div(size_of::<T>()).unwrap_or(1).max(1);
    values.iter().step_by(every).for_each(prefetch);
}

#[inline]
#[expect(unsafe_code, reason = "the processor's hint has no safe wrapper")]
fn ask<T, const IS_WRITE: bool>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
        let start = std::ptr::from_ref(value).cast::<i8>();
        for offset in (0..size_of::<T>()).step_by(LINE) {
            let line = start.wrapping_add(offset);
            if IS_WRITE {
                // SAFETY: a hint reads nothing and faults nowhere, and the address is that of a
                // living value anyway; a processor that does not know the hint passes over it.
                unsafe { _mm_prefetch::<_MM_HINT_ET0>(line) };
            } else {
                // SAFETY: as above; SSE is part of x86-64.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (value, LINE);
}
