//! The socket of one connection, which keeps one client from filling the node's memory.
//!
//! A WebSocket may send requests without waiting for answers, and each becomes a task. So nothing
//! more is read from it
//! - while `REQUESTS_MAX` of its requests are in flight,
//! - once the bytes read since it last had none in flight reach the bound of one request,
//! - while it does not take its answers: from a write that the kernel refuses until the writer
//!   has had nothing to write for `QUIET`, or has written more than can have waited.
//!
//! What is not read stays with the client, whose own sends block then. A client that takes no
//! byte for `TAKE_TIMEOUT` is cut off. So is one without a WebSocket that asks nothing for
//! `ASK_TIMEOUT`, be it silent or slow with a request's head.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::{Instant, Sleep, sleep_until},
};

/// Requests of one WebSocket in flight, beyond which nothing more is read from it.
const REQUESTS_MAX: usize = 256;
/// How long a writer that was blocked must be idle before its client is heard again.
const QUIET: Duration = Duration::from_millis(2);
/// Writes after which nothing is left of what waited when the writer was blocked: an answer to
/// each request in flight, and as many notifications.
const WAITING_MAX: usize = 2 * REQUESTS_MAX;
/// How long a client may take no byte of what is written to it.
const TAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may ask nothing.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(120);

/// What a connection's socket and its requests know of each other.
pub struct Link {
    /// Bytes of requests in flight at most.
    bytes_max: usize,
    /// How long it may ask nothing.
    ask_timeout: Duration,
    /// Holders of `InFlight`; a WebSocket itself is one.
    in_flight: AtomicUsize,
    websocket: AtomicBool,
    /// HTTP requests that are being answered.
    serving: AtomicUsize,
    state: Mutex<State>,
    sent: AtomicU64,
    sent_more: Notify,
    closed: AtomicBool,
}

struct State {
    /// Bytes read since nothing was in flight.
    bytes: usize,
    /// Whom to wake when reading may go on.
    reader: Option<Waker>,
    backlog: Backlog,
    /// When the last request was answered, or the connection opened.
    answered: Instant,
    /// Where answers that wait will end, in bytes sent.
    queued: u64,
}

/// What the client has not taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backlog {
    None,
    /// The kernel takes no more.
    Blocked,
    /// It took what was blocked; more may wait behind it until this moment, or this many writes.
    Until(Instant, usize),
}

/// One request in flight. It travels with the request's extensions, which jsonrpsee clones for
/// each message of a WebSocket before it handles it.
pub struct InFlight(Arc<Link>);

impl Clone for InFlight {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let before = self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
        if before == REQUESTS_MAX || before <= 2 {
            self.0.wake_reader(&mut self.0.lock());
        }
    }
}

impl InFlight {
    /// One more.
    pub fn new(link: &Arc<Link>) -> Self {
        link.in_flight.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(link))
    }
}

/// An HTTP request that is being answered.
pub struct Serving(Arc<Link>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.lock().answered = Instant::now();
        self.0.serving.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Link {
    /// Of a new connection, whose requests in flight hold `bytes_max` bytes at most, or one
    /// request; it may ask nothing for `ask_timeout`.
    pub fn new(bytes_max: usize, ask_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            ask_timeout,
            in_flight: AtomicUsize::new(0),
            websocket: AtomicBool::new(false),
            serving: AtomicUsize::new(0),
            state: Mutex::new(State {
                bytes: 0,
                reader: None,
                backlog: Backlog::None,
                answered: Instant::now(),
                queued: 0,
            }),
            sent: AtomicU64::new(0),
            sent_more: Notify::new(),
            closed: AtomicBool::new(false),
        })
    }

    /// From here on this is a WebSocket.
    pub fn upgraded(&self) {
        self.websocket.store(true, Ordering::Release);
    }

    /// Whether it is a WebSocket.
    pub fn is_websocket(&self) -> bool {
        self.websocket.load(Ordering::Acquire)
    }

    /// An HTTP request is being answered.
    pub fn serve(self: &Arc<Self>) -> Serving {
        self.serving.fetch_add(1, Ordering::AcqRel);
        Serving(Arc::clone(self))
    }

    /// Waits until `bytes` that are handed to the writer now have been taken by the client, or the
    /// connection is gone.
    pub async fn taken(&self, bytes: u64) {
        let end = {
            let mut state = self.lock();
            state.queued = state.queued.max(self.sent.load(Ordering::Acquire)) + bytes;
            state.queued
        };
        loop {
            let more = self.sent_more.notified();
            let gone = self.closed.load(Ordering::Acquire);
            if gone || self.sent.load(Ordering::Acquire) >= end {
                return;
            }
            more.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_reader(&self, state: &mut State) {
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Whether nothing may be read, and until when at the latest where that is known.
    fn held_back(&self, state: &mut State) -> Option<Option<Instant>> {
        match state.backlog {
            Backlog::Blocked => return Some(None),
            Backlog::Until(quiet, _) if Instant::now() < quiet => return Some(Some(quiet)),
            Backlog::Until(..) => state.backlog = Backlog::None,
            Backlog::None => {}
        }
        // The WebSocket itself holds one.
        let in_flight = self.in_flight.load(Ordering::Acquire).saturating_sub(1);
        if in_flight == 0 {
            state.bytes = 0;
        }
        (in_flight >= REQUESTS_MAX - 1 || state.bytes >= self.bytes_max).then_some(None)
    }

    fn wrote(&self, bytes: usize) {
        self.sent.fetch_add(u64::try_from(bytes).unwrap_or(0), Ordering::AcqRel);
        self.sent_more.notify_waiters();
        let mut state = self.lock();
        let writes = match state.backlog {
            Backlog::None => return,
            Backlog::Blocked => WAITING_MAX,
            Backlog::Until(_, writes) => writes.saturating_sub(1),
        };
        state.backlog = match writes {
            0 => Backlog::None,
            _ => Backlog::Until(Instant::now() + QUIET, writes),
        };
        self.wake_reader(&mut state);
    }

    fn blocked(&self) {
        self.lock().backlog = Backlog::Blocked;
    }

    fn end(&self) {
        self.closed.store(true, Ordering::Release);
        self.sent_more.notify_waiters();
        let mut state = self.lock();
        state.backlog = Backlog::None;
        self.wake_reader(&mut state);
    }
}

/// A connection's socket.
pub struct Socket {
    stream: TcpStream,
    link: Arc<Link>,
    /// When reading is to be tried again, or an idle connection ends.
    read_timer: Pin<Box<Sleep>>,
    /// When a client that takes nothing is cut off.
    take_timer: Option<Pin<Box<Sleep>>>,
    cut: bool,
}

impl Socket {
    /// Around a connection.
    pub fn new(stream: TcpStream, link: Arc<Link>) -> Self {
        let read_timer = Box::pin(sleep_until(Instant::now() + link.ask_timeout));
        Self { stream, link, read_timer, take_timer: None, cut: false }
    }

    /// Ready where the moment has come; otherwise the task is woken then.
    fn wait_until(&mut self, moment: Instant, context: &mut Context<'_>) -> Poll<()> {
        if self.read_timer.deadline() != moment {
            self.read_timer.as_mut().reset(moment);
        }
        self.read_timer.as_mut().poll(context)
    }

    /// Ready where reading may go on.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let link = Arc::clone(&self.link);
            let mut state = link.lock();
            // Before the look: who leaves after it wakes this task.
            state.reader = Some(context.waker().clone());
            match link.held_back(&mut state) {
                None => {
                    state.reader = None;
                    return Poll::Ready(());
                }
                Some(None) => return Poll::Pending,
                Some(Some(moment)) => {
                    drop(state);
                    if self.wait_until(moment, context).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn written(
        &mut self,
        result: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Ready(Ok(bytes)) => {
                self.take_timer = None;
                self.link.wrote(*bytes);
            }
            Poll::Ready(Err(_)) => self.link.end(),
            Poll::Pending => {
                self.link.blocked();
                let timer = self
                    .take_timer
                    .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + TAKE_TIMEOUT)));
                if timer.as_mut().poll(context).is_ready() {
                    self.cut = true;
                    self.link.end();
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        result
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.link.end();
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cut {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let websocket = this.link.is_websocket();
        if websocket && this.poll_room(context).is_pending() {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if websocket {
            this.link.lock().bytes += buffer.filled().len() - before;
            return read;
        }
        if read.is_pending() && this.link.serving.load(Ordering::Acquire) == 0 {
            let answered = this.link.lock().answered;
            if this.wait_until(answered + this.link.ask_timeout, context).is_ready() {
                // As if the client had gone.
                return Poll::Ready(Ok(()));
            }
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.cut {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let result = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.written(result, context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.cut {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let result = Pin::new(&mut this.stream).poll_write_vectored(context, parts);
        this.written(result, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
