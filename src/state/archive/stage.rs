//! The archive's reader: one thread with an io_uring that serves many reads at once.

use crate::runtime::{clock::Clock, metrics::StageMetrics};
use crate::state::archive::{
    read::{Request, Requests, read_direct},
    segment,
};
use crate::types::{ids::TimestampUs, map::Map};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    rc::Rc,
};
use tokio_uring as uring;

/// Segment files held open at most.
const FILES_OPEN_MAX: usize = 64;
/// Entries of the submission queue.
const RING_ENTRIES: u32 = 256;

type Files = Map<u32, Rc<uring::fs::File>>;

/// What notes each read. Its time runs from the submission to the answer.
#[derive(Clone)]
struct Notes {
    clock: Clock,
    metrics: StageMetrics,
}

impl Notes {
    fn read(&self, start_us: TimestampUs, waiting: usize) {
        self.metrics.item(self.clock.now_us().saturating_sub(start_us), waiting);
    }
}

/// Serves reads of the segments in `folder` until every client is gone.
///
/// Where the kernel offers no io_uring it reads with pread, one at a time, and says so once.
pub fn run(requests: Requests, folder: &Path, clock: &Clock, metrics: &StageMetrics) {
    let notes = Notes { clock: clock.clone(), metrics: metrics.clone() };
    let mut builder = uring::builder();
    builder.entries(RING_ENTRIES);
    match uring::Runtime::new(&builder) {
        Ok(runtime) => runtime.block_on(serve(requests, folder, notes)),
        Err(error) => {
            tracing::warn!(%error, "no io_uring for the archive: its reads take turns");
            serve_in_turn(&requests, folder, &notes);
        }
    }
}

async fn serve(requests: Requests, folder: &Path, notes: Notes) {
    let wake = uring::net::UnixStream::from_std(requests.wake);
    let mut files = Files::default();
    let mut bell = vec![0u8; 4096];
    loop {
        let (rung, buffer) = wake.read(bell).await;
        bell = buffer;
        for request in requests.queue.try_iter() {
            let file = match opened(&mut files, folder, request.segment) {
                Ok(file) => file,
                Err(error) => {
                    drop(request.reply.try_send(Err(error)));
                    continue;
                }
            };
            let waiting = requests.queue.len();
            drop(uring::spawn(answer(file, request, notes.clone(), waiting)));
        }
        match rung {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "the archive's reader cannot be woken: it stops");
                return;
            }
        }
    }
}

async fn answer(file: Rc<uring::fs::File>, request: Request, notes: Notes, waiting: usize) {
    let start_us = notes.clock.now_us();
    let buffer = vec![0; request.bytes];
    let (result, buffer) = file.read_exact_at(buffer, request.offset).await;
    notes.read(start_us, waiting);
    drop(request.reply.try_send(result.map(|()| buffer)));
}

fn opened(files: &mut Files, folder: &Path, segment: u32) -> io::Result<Rc<uring::fs::File>> {
    if let Some(file) = files.get(&segment) {
        return Ok(Rc::clone(file));
    }
    if files.len() >= FILES_OPEN_MAX {
        files.clear();
    }
    let file = File::open(segment::path(folder, segment))?;
    let file = Rc::new(uring::fs::File::from_std(file));
    files.insert(segment, Rc::clone(&file));
    Ok(file)
}

fn serve_in_turn(requests: &Requests, folder: &Path, notes: &Notes) {
    for request in &requests.queue {
        let start_us = notes.clock.now_us();
        let path: PathBuf = segment::path(folder, request.segment);
        let read = read_direct(&path, request.offset, request.bytes);
        notes.read(start_us, requests.queue.len());
        drop(request.reply.try_send(read));
    }
}

/// `run` without numbers, for tests of the archive.
#[cfg(test)]
pub(super) fn run_unnoted(requests: Requests, folder: &Path) {
    run(requests, folder, &Clock::manual(0), &StageMetrics::unregistered());
}
