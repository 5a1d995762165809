//! Synchronous sends that wait for their transaction to become durable.
//!
//! The hash is registered first, then the transaction is submitted; its mini-block resolves the
//! wait. In this order no wake-up can be lost.

use crate::types::{map::Map, mini_block::MiniBlock, view::Place};
use alloy_primitives::B256;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// All that wait.
pub struct Waiters {
    max: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    count: usize,
    by_hash: Map<B256, Vec<(u64, oneshot::Sender<Place>)>>,
}

/// One that waits; dropping it ends the wait.
pub struct Waiter {
    owner: Arc<Waiters>,
    hash: B256,
    ticket: u64,
    /// Gets the transaction's place once it is durable.
    pub place: oneshot::Receiver<Place>,
}

impl Waiters {
    /// Room for `max` at a time.
    pub fn new(max: usize) -> Self {
        Self { max, waiting: Mutex::default() }
    }

    /// Starts to wait, `None` where too many do already.
    pub fn register(self: &Arc<Self>, hash: B256) -> Option<Waiter> {
        let (sender, place) = oneshot::channel();
        let mut waiting = self.lock();
        if waiting.count >= self.max {
            return None;
        }
        let ticket = waiting.next;
        waiting.next += 1;
        waiting.count += 1;
        waiting.by_hash.entry(hash).or_default().push((ticket, sender));
        Some(Waiter { owner: Arc::clone(self), hash, ticket, place })
    }

    /// Tells those that wait for a transaction of this mini-block.
    pub fn resolve(&self, mini: &Arc<MiniBlock>) {
        let mut waiting = self.lock();
        if waiting.count == 0 {
            return;
        }
        for (index, tx) in mini.transactions.iter().enumerate() {
            let Some(waiters) = waiting.by_hash.remove(&tx.hash) else { continue };
            waiting.count -= waiters.len();
            for (_, sender) in waiters {
                // One that has given up in this moment needs no answer.
                drop(sender.send(Place::Open(Arc::clone(mini), index)));
            }
        }
    }

    /// Looks each hash up, where events were missed.
    pub fn look_up(&self, find: impl Fn(&B256) -> Option<Place>) {
        let mut hashes: Vec<B256> = self.lock().by_hash.keys().copied().collect();
        hashes.sort_unstable();
        for hash in hashes {
            let Some(place) = find(&hash) else { continue };
            let mut waiting = self.lock();
            let Some(waiters) = waiting.by_hash.remove(&hash) else { continue };
            waiting.count -= waiters.len();
            for (_, sender) in waiters {
                drop(sender.send(place.clone()));
            }
        }
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.lock().count
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.owner.lock();
        let Some(same_hash) = waiting.by_hash.get_mut(&self.hash) else { return };
        let before = same_hash.len();
        same_hash.retain(|(ticket, _)| *ticket != self.ticket);
        let (gone, empty) = (before - same_hash.len(), same_hash.is_empty());
        waiting.count -= gone;
        if empty {
            waiting.by_hash.remove(&self.hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_ends_leaves_nothing_behind() {
        let waiters = Arc::new(Waiters::new(2));
        let first = waiters.register(B256::ZERO).unwrap();
        let second = waiters.register(B256::ZERO).unwrap();
        assert!(waiters.register(B256::ZERO).is_none(), "the limit holds");
        drop(first);
        assert_eq!(waiters.count(), 1);
        drop(second);
        assert_eq!(waiters.count(), 0);
        assert!(waiters.lock().by_hash.is_empty());
    }
}
