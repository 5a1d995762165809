//! A stack whose height is kept in a register.

use crate::execution::interpreter::arithmetic::place;
use alloy_primitives::U256;
use revm::interpreter::{STACK_LIMIT, Stack};

/// Bytes of a word.
pub(super) const WORD: usize = size_of::<U256>();

/// A stack's words. Its height is written back at the end.
pub(super) struct Words<'a> {
    stack: &'a mut Vec<U256>,
    bottom: *mut U256,
    /// In bytes.
    height: usize,
}

#[expect(unsafe_code, reason = "the stack's height is to stay in a register")]
impl<'a> Words<'a> {
    /// `None` where the stack has no room for all words that it may hold.
    pub(super) fn of(stack: &'a mut Stack) -> Option<Self> {
        let stack = stack.data_mut();
        let (bottom, height) = (stack.as_mut_ptr(), stack.len() * WORD);
        (stack.capacity() >= STACK_LIMIT).then_some(Self { stack, bottom, height })
    }

    pub(super) fn put_back(self) {
        // SAFETY: `push` keeps the height within the capacity, and wrote each word below it that
        // was not there.
        unsafe { self.stack.set_len(self.height / WORD) };
    }

    pub(super) fn has_room(&self) -> bool {
        self.height < STACK_LIMIT * WORD
    }

    /// The word at a depth, the uppermost at 1.
    fn at(&mut self, depth: usize) -> Option<&mut U256> {
        let place = self.height.checked_sub(depth * WORD)?;
        let word = self.bottom.wrapping_byte_add(place);
        // SAFETY: words below the height are there, and nothing else refers to them: the vector
        // is borrowed, and so is `self`.
        Some(unsafe { &mut *word })
    }

    pub(super) fn peek(&mut self, depth: usize) -> Option<&U256> {
        self.at(depth).map(|word| &*word)
    }

    pub(super) fn push(&mut self, word: U256) -> Option<()> {
        if !self.has_room() {
            return None;
        }
        let room = self.bottom.wrapping_byte_add(self.height);
        // SAFETY: `of` made sure that there is room for as many words.
        unsafe { write(room, word) };
        self.height += WORD;
        Some(())
    }

    fn set(&mut self, depth: usize, word: U256) -> Option<()> {
        let to = self.at(depth)?;
        // SAFETY: the word is there.
        unsafe { write(to, word) };
        Some(())
    }

    pub(super) fn pop(&mut self) -> Option<()> {
        self.height = self.height.checked_sub(WORD)?;
        Some(())
    }

    pub(super) fn pop_two(&mut self) -> Option<()> {
        self.height = self.height.checked_sub(2 * WORD)?;
        Some(())
    }

    /// Replaces the uppermost word.
    pub(super) fn change(&mut self, by: impl FnOnce(U256) -> U256) -> Option<()> {
        let word = by(*self.peek(1)?);
        self.set(1, word)
    }

    /// Replaces the two uppermost words.
    pub(super) fn merge(&mut self, by: impl FnOnce(U256, U256) -> U256) -> Option<()> {
        let word = by(*self.peek(1)?, *self.peek(2)?);
        self.set(2, word)?;
        self.pop()
    }

    /// Replaces the three uppermost words.
    pub(super) fn merge_three(&mut self, by: impl FnOnce(U256, U256, U256) -> U256) -> Option<()> {
        let word = by(*self.peek(1)?, *self.peek(2)?, *self.peek(3)?);
        self.set(3, word)?;
        self.pop_two()
    }

    pub(super) fn duplicate(&mut self, depth: usize) -> Option<()> {
        let word = *self.peek(depth)?;
        self.push(word)
    }

    pub(super) fn swap(&mut self, depth: usize) -> Option<()> {
        let (upper, lower) = (*self.peek(1)?, *self.peek(depth + 1)?);
        self.set(1, lower)?;
        self.set(depth + 1, upper)
    }

    /// Replaces a place in memory by what is there.
    pub(super) fn load(&mut self, memory: &[u8]) -> Option<()> {
        let bytes = memory.get(place(self.peek(1)?)?..)?.first_chunk::<WORD>()?;
        self.set(1, U256::from_be_bytes(*bytes))
    }

    /// Takes a place in memory and a word, and puts the word there.
    pub(super) fn store(&mut self, memory: &mut [u8]) -> Option<()> {
        let word = *self.peek(2)?;
        let bytes = memory.get_mut(place(self.peek(1)?)?..)?.first_chunk_mut::<WORD>()?;
        *bytes = word.to_be_bytes();
        self.pop_two()
    }
}

/// Writes a word by halves, as most are read: a processor passes on what was just written only to
/// a read of which one write has all, and makes any other wait.
///
/// # Safety
/// It must be the caller's place to write.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[expect(unsafe_code, reason = "halves of words are no type of the language")]
unsafe fn write(to: *mut U256, word: U256) {
    use std::arch::x86_64::{__m128i, _mm_set_epi64x};
    let [a, b, c, d] = word.into_limbs().map(u64::cast_signed);
    let halves = [_mm_set_epi64x(b, a), _mm_set_epi64x(d, c)];
    // SAFETY: two halves are a word.
    unsafe { to.cast::<[__m128i; 2]>().write_unaligned(halves) };
}

/// Writes a word.
///
/// # Safety
/// It must be the caller's place to write.
#[cfg(not(target_arch = "x86_64"))]
#[expect(unsafe_code, reason = "as above")]
unsafe fn write(to: *mut U256, word: U256) {
    // SAFETY: it is the caller's to see to that.
    unsafe { to.write(word) };
}
