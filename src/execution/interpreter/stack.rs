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

    pub(super) fn peek(&mut self, depth: usize) -> Option<U256> {
        self.at(depth).map(|word| *word)
    }

    pub(super) fn push(&mut self, word: U256) -> Option<()> {
        if !self.has_room() {
            return None;
        }
        let room = self.bottom.wrapping_byte_add(self.height);
        // SAFETY: `of` made sure that there is room for as many words.
        unsafe { room.write(word) };
        self.height += WORD;
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
        let word = self.at(1)?;
        *word = by(*word);
        Some(())
    }

    /// Replaces the two uppermost words.
    pub(super) fn merge(&mut self, by: impl FnOnce(U256, U256) -> U256) -> Option<()> {
        let first = self.peek(1)?;
        let second = self.at(2)?;
        *second = by(first, *second);
        self.pop()
    }

    pub(super) fn duplicate(&mut self, depth: usize) -> Option<()> {
        let word = self.peek(depth)?;
        self.push(word)
    }

    pub(super) fn swap(&mut self, depth: usize) -> Option<()> {
        let lower = self.peek(depth + 1)?;
        let upper = std::mem::replace(self.at(1)?, lower);
        *self.at(depth + 1)? = upper;
        Some(())
    }

    /// Replaces a place in memory by what is there.
    pub(super) fn load(&mut self, memory: &[u8]) -> Option<()> {
        let word = self.at(1)?;
        let bytes = memory.get(place(*word)?..)?.first_chunk::<WORD>()?;
        *word = U256::from_be_bytes(*bytes);
        Some(())
    }

    /// Takes a place in memory and a word, and puts the word there.
    pub(super) fn store(&mut self, memory: &mut [u8]) -> Option<()> {
        let (to, word) = (self.peek(1)?, self.peek(2)?);
        let bytes = memory.get_mut(place(to)?..)?.first_chunk_mut::<WORD>()?;
        *bytes = word.to_be_bytes();
        self.pop_two()
    }
}
