//! Bounded rings between stages. Closing is by ownership: a ring whose producers are all dropped
//! is drained and then closed, so a shutdown runs down the pipeline by itself.

use crate::topology::seat::Seat;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError};
use std::time::Duration;

/// How often a dedicated seat looks before it parks; about 20 µs.
const SPINS_BEFORE_PARK: u32 = 1_000;

/// The writing end; clones write to the same ring.
pub struct Producer<T> {
    sender: Sender<T>,
}

/// The reading end; clones share the items.
pub struct Consumer<T> {
    receiver: Receiver<T>,
    spins: u32,
}

/// What a look at a ring found.
#[derive(Debug, PartialEq, Eq)]
pub enum Pop<T> {
    /// The oldest item.
    Item(T),
    /// Nothing came in time.
    Empty,
    /// Nothing is left and no producer either.
    Closed,
}

/// A ring of `capacity` items.
pub fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let (sender, receiver) = crossbeam_channel::bounded(capacity);
    (Producer { sender }, Consumer { receiver, spins: 0 })
}

impl<T> Producer<T> {
    /// Puts an item on the ring without waiting.
    ///
    /// # Errors
    /// Gives the item back where the ring is full or its consumers are gone.
    pub fn push(&self, item: T) -> Result<(), T> {
        self.sender.try_send(item).map_err(|error| match error {
            TrySendError::Full(item) | TrySendError::Disconnected(item) => item,
        })
    }

    /// Puts an item on the ring, waiting for room: backpressure.
    ///
    /// # Errors
    /// Gives the item back where the consumers are gone.
    pub fn push_wait(&self, item: T) -> Result<(), T> {
        self.sender.send(item).map_err(|error| error.0)
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.sender.len()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.sender.is_empty()
    }
}

impl<T> Consumer<T> {
    /// For the thread on `seat`: looks a while before it parks where the seat is dedicated.
    #[must_use]
    pub fn seated(mut self, seat: &Seat) -> Self {
        self.spins = if seat.dedicated { SPINS_BEFORE_PARK } else { 0 };
        self
    }

    /// Takes the oldest item without waiting.
    pub fn pop(&self) -> Pop<T> {
        match self.receiver.try_recv() {
            Ok(item) => Pop::Item(item),
            Err(TryRecvError::Empty) => Pop::Empty,
            Err(TryRecvError::Disconnected) => Pop::Closed,
        }
    }

    /// Takes the oldest item, waiting until there is one; `None` once the ring is closed.
    pub fn pop_wait(&self) -> Option<T> {
        for _ in 0..self.spins {
            match self.pop() {
                Pop::Item(item) => return Some(item),
                Pop::Closed => return None,
                Pop::Empty => std::hint::spin_loop(),
            }
        }
        self.receiver.recv().ok()
    }

    /// Takes the oldest item, waiting at most `timeout`.
    pub fn pop_timeout(&self, timeout: Duration) -> Pop<T> {
        for _ in 0..self.spins {
            match self.pop() {
                Pop::Empty => std::hint::spin_loop(),
                found => return found,
            }
        }
        match self.receiver.recv_timeout(timeout) {
            Ok(item) => Pop::Item(item),
            Err(RecvTimeoutError::Timeout) => Pop::Empty,
            Err(RecvTimeoutError::Disconnected) => Pop::Closed,
        }
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone() }
    }
}

impl<T> Clone for Consumer<T> {
    fn clone(&self) -> Self {
        Self { receiver: self.receiver.clone(), spins: self.spins }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::seat::Stage;

    #[test]
    fn a_full_ring_gives_the_item_back() {
        let (producer, consumer) = ring(1);
        assert_eq!(producer.push(1), Ok(()));
        assert_eq!(producer.push(2), Err(2));
        assert_eq!(consumer.pop(), Pop::Item(1));
        assert_eq!(consumer.pop(), Pop::Empty);
    }

    #[test]
    fn a_ring_without_producers_is_drained_then_closed() {
        let seat = Seat { stage: Stage::Wal, index: 0, core: 0, node: 0, dedicated: true };
        let (producer, consumer) = ring(2);
        producer.push(1).unwrap();
        drop(producer);
        assert_eq!(consumer.pop_wait(), Some(1));
        assert_eq!(consumer.pop(), Pop::<i32>::Closed);
        assert_eq!(consumer.clone().seated(&seat).pop_wait(), None);
    }
}
