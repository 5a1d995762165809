//! Reads of segment files: handed to the reader's thread, or done here where there is none.

use crate::state::archive::segment;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::{fs::FileExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Reads that wait at most; more have to wait for a place, which is backpressure on clients.
pub const READS_QUEUED_MAX: usize = 1_024;
/// How long a reader waits for its bytes: a disk that takes longer is broken.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that somebody wants.
pub struct Request {
    /// Number of the segment.
    pub segment: u32,
    /// First byte.
    pub offset: u64,
    /// How many.
    pub bytes: usize,
    /// Where they go; a reader that no longer waits is no fault.
    pub reply: Sender<io::Result<Vec<u8>>>,
}

/// What the reader's thread takes requests from. The stream wakes it: its ring can wait for a
/// stream but not for a channel.
pub struct Requests {
    /// Queued requests.
    pub queue: Receiver<Request>,
    /// One byte a request; at its end no client is left.
    pub wake: UnixStream,
}

/// The asking end; clones share the thread.
#[derive(Clone)]
pub struct Client {
    queue: Sender<Request>,
    wake: Arc<Mutex<UnixStream>>,
}

/// How segment files are read.
#[derive(Clone)]
pub enum Access {
    /// By the calling thread.
    Direct,
    /// By the reader's thread, `archive::stage::run`.
    Thread(Client),
}

/// Both ends of the reader's queue.
///
/// # Errors
/// Where the system gives no pair of sockets.
pub fn channel() -> io::Result<(Client, Requests)> {
    let (asking, wake) = UnixStream::pair()?;
    // A socket that is full of wake-ups wakes all the same.
    asking.set_nonblocking(true)?;
    let (sender, queue) = bounded(READS_QUEUED_MAX);
    Ok((Client { queue: sender, wake: Arc::new(Mutex::new(asking)) }, Requests { queue, wake }))
}

impl Access {
    /// Reads `bytes` bytes of a segment.
    ///
    /// # Errors
    /// Where the file ends before, the disk fails or the reader's thread gives no answer in time.
    pub fn read(
        &self,
        folder: &Path,
        segment: u32,
        (offset, bytes): (u64, usize),
    ) -> io::Result<Vec<u8>> {
        match self {
            Self::Direct => read_direct(&segment::path(folder, segment), offset, bytes),
            Self::Thread(client) => client.read(segment, offset, bytes),
        }
    }
}

impl Client {
    fn read(&self, segment: u32, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the archive's reader has stopped");
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the archive's disk gives no answer");
        let (reply, answer) = bounded(1);
        let request = Request { segment, offset, bytes, reply };
        self.queue
            .send_timeout(request, READ_TIMEOUT)
            .map_err(|error| if error.is_timeout() { late() } else { gone() })?;
        let woken = self.wake.lock().unwrap_or_else(PoisonError::into_inner).write(&[1]);
        match woken {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        answer.recv_timeout(READ_TIMEOUT).map_err(|error| match error {
            RecvTimeoutError::Timeout => late(),
            RecvTimeoutError::Disconnected => gone(),
        })?
    }
}

/// Reads with pread.
///
/// # Errors
/// Where the file ends before or the disk fails.
pub fn read_direct(path: &PathBuf, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; bytes];
    File::open(path)?.read_exact_at(&mut buffer, offset)?;
    Ok(buffer)
}
