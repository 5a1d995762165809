//! Large answers: how many bytes of them may be in memory at one time.
//!
//! A large answer takes its bytes from a budget when it is built and gives them back when its
//! client has taken them. Without room it is dropped and refused: a client that reads slowly costs
//! others large answers at the worst, never the node its memory. Beyond the budget come only those
//! that are being built, one a blocking thread.

use bytes::Bytes;
use http_body::{Body, Frame};
use jsonrpsee::{core::BoxError, server::HttpBody};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

/// From this size on an answer is large, bytes.
pub const LARGE_BYTES: usize = 64 * 1024;
/// Bytes that the connection takes at a time; the budget gets an answer back with the last.
const PIECE_BYTES: usize = 64 * 1024;

/// The budget.
pub struct LargeAnswers {
    bytes_max: usize,
    bytes: AtomicUsize,
}

/// A part of the budget; dropping it gives it back.
pub struct Held {
    owner: Arc<LargeAnswers>,
    bytes: usize,
}

impl LargeAnswers {
    /// Room for `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, bytes: AtomicUsize::new(0) })
    }

    /// Nothing yet, to be enlarged.
    pub fn hold_none(self: &Arc<Self>) -> Held {
        Held { owner: Arc::clone(self), bytes: 0 }
    }

    /// Takes `bytes`, `None` where there is no room.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let mut held = self.hold_none();
        held.enlarge(bytes).then_some(held)
    }
}

impl Held {
    /// Takes `bytes` more; `false` where there is no room.
    pub fn enlarge(&mut self, bytes: usize) -> bool {
        let before = self.owner.bytes.fetch_add(bytes, Ordering::AcqRel);
        let fits = before.saturating_add(bytes) <= self.owner.bytes_max;
        if fits {
            self.bytes += bytes;
        } else {
            self.owner.bytes.fetch_sub(bytes, Ordering::AcqRel);
        }
        fits
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.owner.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// A body that is handed to the connection in pieces and holds its part of the budget as long.
pub struct HeldBody {
    inner: HttpBody,
    rest: Bytes,
    _held: Arc<Held>,
}

impl HeldBody {
    /// Around the body of a large answer.
    pub fn new(inner: HttpBody, held: Arc<Held>) -> Self {
        Self { inner, rest: Bytes::new(), _held: held }
    }
}

impl Body for HeldBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match Pin::new(&mut this.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return other,
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        let inner = self.inner.size_hint();
        let rest = u64::try_from(self.rest.len()).unwrap_or(0);
        match inner.exact() {
            Some(exact) => http_body::SizeHint::with_exact(exact + rest),
            None => inner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_held_again() {
        let answers = LargeAnswers::new(10);
        let mut first = answers.hold(6).expect("room");
        assert!(answers.hold(5).is_none());
        assert!(first.enlarge(4) && !first.enlarge(1));
        assert_eq!(first.bytes(), 10);
        drop(first);
        assert_eq!(answers.hold(10).map(|held| held.bytes()), Some(10));
    }
}
