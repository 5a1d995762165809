//! Where threads may overtake each other: the places at which a test takes over the schedule.

use crossbeam_channel::{Receiver, TryRecvError};
use std::sync::Arc;

/// Decides which thread goes on. Thread 0 commits, the others are lanes.
pub trait Pace: Send + Sync {
    /// Thread `who` reached a place where another may go on instead.
    fn point(&self, who: usize);
    /// Thread `who` has nothing to do until `is_ready`.
    fn wait(&self, who: usize, is_ready: &mut dyn FnMut() -> bool);
    /// Thread `who` ends.
    fn leave(&self, who: usize);
}

/// A thread's own end of a schedule; without one, the machine decides.
#[derive(Clone, Default)]
pub(super) struct Paced {
    pub(super) who: usize,
    pub(super) pace: Option<Arc<dyn Pace>>,
}

impl Paced {
    #[inline]
    pub(super) fn point(&self) {
        if let Some(pace) = &self.pace {
            pace.point(self.who);
        }
    }

    /// The next message; `None` once no more can come.
    pub(super) fn receive<T>(&self, from: &Receiver<T>) -> Option<T> {
        let Some(pace) = &self.pace else { return from.recv().ok() };
        let mut found = None;
        pace.wait(self.who, &mut || match from.try_recv() {
            Ok(item) => {
                found = Some(item);
                true
            }
            Err(TryRecvError::Empty) => false,
            Err(TryRecvError::Disconnected) => true,
        });
        found
    }

    pub(super) fn leave(&self) {
        if let Some(pace) = &self.pace {
            pace.leave(self.who);
        }
    }
}
