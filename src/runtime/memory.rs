//! Memory that direct input and output accepts: buffers that begin on a block's boundary.

/// What O_DIRECT asks of addresses, offsets and lengths at most: one page, eight old sectors.
pub const BLOCK_BYTES: usize = 4096;

/// Gives the memory back to the system that this thread has freed: after work as great as a
/// genesis the allocator would keep it for the next such work, which never comes.
#[expect(unsafe_code, reason = "the allocator's crate has no safe wrapper for it")]
pub fn give_back() {
    // SAFETY: mi_collect takes no pointer and touches only what nobody holds; where another
    // allocator serves the program (in tests) it finds nothing.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Milliseconds that freed memory stays with the process for its next use: a block long.
const HOLD_MS: std::ffi::c_long = 1_000;
/// `mi_option_purge_delay`, for which the binding has no name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Has the allocator keep what is freed for a while. By default it gives memory back after 10 ms;
/// with work that comes every 10 ms and every second, the system would clear pages all the time.
#[expect(unsafe_code, reason = "the allocator's crate has no safe wrapper for it")]
pub fn hold() {
    // SAFETY: sets a number that the allocator reads; the option is one that it has.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, HOLD_MS) };
}

/// A growing byte buffer whose first byte lies on a block's boundary.
///
/// Built on a plain vector with one block of slack, so that no unsafe code is needed.
#[derive(Debug)]
pub struct AlignedBuffer {
    storage: Vec<u8>,
    /// Where the first boundary lies in `storage`; the heap block never moves under a vector.
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// An empty buffer that holds `bytes` without growing.
    ///
    /// # Panics
    /// Where the allocator's addresses cannot be aligned, which no Linux target has.
    pub fn with_capacity(bytes: usize) -> Self {
        let storage = vec![0; bytes + BLOCK_BYTES];
        let start = storage.as_ptr().align_offset(BLOCK_BYTES);
        assert!(start <= BLOCK_BYTES, "addresses cannot be aligned");
        Self { storage, start, len: 0 }
    }

    /// A buffer of `bytes` zeros.
    pub fn zeroed(bytes: usize) -> Self {
        let mut buffer = Self::with_capacity(bytes);
        buffer.len = bytes;
        buffer
    }

    /// Bytes in it.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Nothing is in it.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that it holds without growing.
    pub const fn capacity(&self) -> usize {
        self.storage.len() - BLOCK_BYTES
    }

    /// What is in it.
    pub fn as_slice(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }

    /// What is in it, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }

    /// Empties it and keeps its memory.
    pub const fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends bytes.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if end > self.capacity() {
            self.grow(end);
        }
        let at = self.start + self.len;
        self.storage[at..at + bytes.len()].copy_from_slice(bytes);
        self.len = end;
    }

    /// Appends zeros up to the next block's boundary.
    pub fn pad_to_block(&mut self) {
        let padding = self.len.next_multiple_of(BLOCK_BYTES) - self.len;
        self.extend(&[0; BLOCK_BYTES][..padding]);
    }

    /// Forgets the bytes before `at` and moves the rest to the front.
    ///
    /// # Panics
    /// Where `at` lies behind the end.
    pub fn keep_from(&mut self, at: usize) {
        self.as_mut_slice().copy_within(at.., 0);
        self.len -= at;
    }

    /// Shortens it to `len` bytes; a shorter buffer stays as it is.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    #[cold]
    fn grow(&mut self, least: usize) {
        let mut larger = Self::with_capacity(least.max(self.capacity() * 2));
        larger.len = self.len;
        larger.as_mut_slice().copy_from_slice(self.as_slice());
        *self = larger;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_stays_aligned_while_it_grows() {
        let mut buffer = AlignedBuffer::with_capacity(10);
        let mut expected = Vec::new();
        for round in 0..300u16 {
            let bytes = round.to_le_bytes().repeat(usize::from(round));
            buffer.extend(&bytes);
            expected.extend_from_slice(&bytes);
            assert_eq!(buffer.as_slice().as_ptr().align_offset(BLOCK_BYTES), 0);
        }
        assert_eq!(buffer.as_slice(), expected);
    }

    #[test]
    fn padding_is_zero_even_over_old_bytes() {
        let mut buffer = AlignedBuffer::with_capacity(BLOCK_BYTES);
        buffer.extend(&[7; BLOCK_BYTES]);
        buffer.clear();
        buffer.extend(&[1, 2]);
        buffer.pad_to_block();
        assert_eq!(buffer.len(), BLOCK_BYTES);
        assert_eq!(&buffer.as_slice()[..3], &[1, 2, 0]);
        assert!(buffer.as_slice()[2..].iter().all(|byte| *byte == 0));
        buffer.pad_to_block();
        assert_eq!(buffer.len(), BLOCK_BYTES);
    }

    #[test]
    fn the_rest_moves_to_the_front() {
        let mut buffer = AlignedBuffer::with_capacity(8);
        buffer.extend(&[1, 2, 3, 4, 5]);
        buffer.keep_from(3);
        assert_eq!(buffer.as_slice(), &[4, 5]);
        buffer.keep_from(2);
        assert!(buffer.is_empty());
    }
}
