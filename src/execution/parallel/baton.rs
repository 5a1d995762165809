//! A schedule from a seed: one thread goes at a time, and who goes next is drawn. What fails
//! under a seed fails under it again.

use crate::execution::parallel::pace::Pace;
use std::sync::{Condvar, Mutex};

/// Hands a baton from thread to thread.
pub(super) struct Baton {
    state: Mutex<State>,
    passed: Condvar,
}

struct State {
    random: u64,
    holder: usize,
    running: Vec<bool>,
}

impl Baton {
    /// For `threads` threads, of which the first begins.
    pub(super) fn new(seed: u64, threads: usize) -> Self {
        let state = State {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            holder: 0,
            running: vec![true; threads],
        };
        Self { state: Mutex::new(state), passed: Condvar::new() }
    }

    fn pass(&self, who: usize, leaves: bool) {
        let mut state = self.passed.wait_while(self.state.lock().unwrap(), |it| it.holder != who);
        let state = state.as_mut().unwrap();
        state.running[who] = !leaves;
        let left: Vec<usize> = (0..state.running.len()).filter(|it| state.running[*it]).collect();
        if left.is_empty() {
            return;
        }
        // Xorshift: George Marsaglia, "Xorshift RNGs", 2003.
        state.random ^= state.random << 13;
        state.random ^= state.random >> 7;
        state.random ^= state.random << 17;
        let drawn = usize::try_from(state.random >> 33).unwrap() % left.len();
        state.holder = left[drawn];
        self.passed.notify_all();
    }

    fn hold(&self, who: usize) {
        let state = self.state.lock().unwrap();
        drop(self.passed.wait_while(state, |state| state.holder != who).unwrap());
    }
}

impl Pace for Baton {
    fn point(&self, who: usize) {
        self.pass(who, false);
        self.hold(who);
    }

    fn wait(&self, who: usize, is_ready: &mut dyn FnMut() -> bool) {
        self.hold(who);
        while !is_ready() {
            self.point(who);
        }
    }

    fn leave(&self, who: usize) {
        self.pass(who, true);
    }
}
