//! From a directory to a log that may be written: every record since the checkpoint is handed out
//! once, checked, in order.
//!
//! Where a record is not whole, either the power went while it was written (nothing that came
//! later can have been written: the log ends there and goes on from there), or the disk lost what
//! had been acknowledged (a later durable write exists: replay stops, the operator decides).
//! The two differ by `batch_first` of later headers. A damaged *last* record looks like a torn one.

use crate::runtime::{
    clock::Clock,
    memory::{AlignedBuffer, BLOCK_BYTES},
    ring::ring,
    uring::{
        probe,
        writer::{DurableWriter, Form},
    },
};
use crate::types::{
    flow::Event,
    ids::{BlockNumber, MiniBlockNumber},
};
use crate::wal::{
    codec::{self, DecodeError},
    log::{BUFFER_BYTES_KEPT, Log, Tip},
    record::{self, HEADER_BYTES, Header, HeaderError, VERSION},
    segment::{self, Directory, OpenError, Preparer, SEGMENT_BYTES_MIN},
};
use std::{
    collections::VecDeque,
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
};

/// What a log is opened with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where its segments lie; made where it is missing.
    pub directory: PathBuf,
    /// Bytes of a new segment: a multiple of 4096, at least 64 KiB.
    pub segment_bytes: u64,
    /// Form of the durable write; `None`: the fastest, found by trying.
    pub form: Option<Form>,
    /// Newest block under a steady checkpoint, kept up to date by whoever writes checkpoints.
    pub steady: Arc<AtomicU64>,
}

/// A log that is open and locked but must be replayed before it can be written.
#[derive(Debug)]
pub struct UnreplayedLog {
    directory: Directory,
    sequences: Vec<u64>,
    settings: Settings,
}

/// A place in a log, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The segment.
    pub path: PathBuf,
    /// Where in it, bytes.
    pub offset: u64,
    /// Number of the record.
    pub record: u64,
}

/// One event with the place it was read from.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// What happened.
    pub event: Event,
    /// Where it stands, to name it should it prove wrong.
    pub position: Position,
}

/// Why a log cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The disk cannot be read.
    #[error("{path}: {source} at byte {offset}; check the disk")]
    Read {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A record that was durable is no longer whole.
    #[error(
        "{at}: {flaw}, but record {later} in {later_path} at byte {later_offset} was written after \
         it had become durable: the disk lost acknowledged transactions; restore the segment from \
         a copy, or the whole data directory from a backup; nothing was changed"
    )]
    Corrupt {
        /// The record that should be there.
        at: Position,
        /// What is wrong with it.
        flaw: Flaw,
        /// Number of a later record.
        later: u64,
        /// Its segment.
        later_path: PathBuf,
        /// Where in it.
        later_offset: u64,
    },
    /// A record of another version of this program.
    #[error(
        "{at}: layout version {version}, this program reads {VERSION}; start the version that \
        wrote it, stop it cleanly after a checkpoint, then start this one"
    )]
    Version {
        /// The record.
        at: Position,
        /// Its layout.
        version: u16,
    },
    /// A whole record whose payload makes no sense.
    #[error("{at}: {source}; the record is whole, so the program that wrote it had a fault")]
    Undecodable {
        /// The record.
        at: Position,
        /// What is wrong.
        source: DecodeError,
    },
    /// A mini-block that does not follow the one before it.
    #[error("{at}: mini-block {number} does not follow mini-block {before}")]
    Disordered {
        /// The record.
        at: Position,
        /// What stands there.
        number: MiniBlockNumber,
        /// The one before.
        before: MiniBlockNumber,
    },
    /// The log starts too late for the checkpoint.
    #[error(
        "{at}: the log goes on with block {block}, but the checkpoint ends with block {after}: \
         segments between are missing; restore them, or a newer checkpoint"
    )]
    Missing {
        /// The first record above the checkpoint.
        at: Position,
        /// Its block.
        block: BlockNumber,
        /// The checkpoint's block.
        after: BlockNumber,
    },
    /// The log ends too early for the checkpoint.
    #[error(
        "{at}: the log ends with block {block}, before the checkpoint's block {after}: it does not \
         belong to this state; restore both from the same copy"
    )]
    Behind {
        /// The last record.
        at: Position,
        /// Its block.
        block: BlockNumber,
        /// The checkpoint's block.
        after: BlockNumber,
    },
    /// A log that had records has none.
    #[error(
        "{at}: no record, though {before} segments came before it and one of them is always kept: \
         segments were removed; restore them from a copy"
    )]
    Emptied {
        /// Where the first record should be.
        at: Position,
        /// Segments that are gone.
        before: u64,
    },
    /// The log cannot be made ready for writing.
    #[error("log directory {path} cannot be written: {source}; check free space and permissions")]
    Prepare {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What is wrong where a record should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// No header, or one of another log or segment.
    #[error("no record begins there")]
    NoHeader,
    /// A whole header that continues something else.
    #[error("the record there does not follow the one before it")]
    Chain,
    /// A whole header whose payload is not.
    #[error("the record's payload is damaged")]
    Payload,
    /// A header of an unknown kind of record.
    #[error("the record there is of unknown kind {0}")]
    Kind(u8),
}

/// Opens and locks a log.
///
/// # Errors
/// Where the directory cannot be used, is in use, or lacks a segment.
pub fn open(settings: Settings) -> Result<UnreplayedLog, OpenError> {
    let bytes = settings.segment_bytes;
    if bytes < SEGMENT_BYTES_MIN || !bytes.is_multiple_of(wide(BLOCK_BYTES)) {
        return Err(OpenError::SegmentBytes(bytes));
    }
    let (directory, sequences) = Directory::open(&settings.directory)?;
    Ok(UnreplayedLog { directory, sequences, settings })
}

impl UnreplayedLog {
    /// Starts to read what a checkpoint at block `after` does not cover; 0: everything.
    ///
    /// # Errors
    /// Where the disk cannot be read.
    pub fn replay(self, after: BlockNumber) -> Result<Replay, ReplayError> {
        let mut replay = Replay {
            directory: self.directory,
            settings: self.settings,
            sequences: self.sequences,
            after,
            index: 0,
            file: None,
            offset: 0,
            number: None,
            previous: 0,
            tip: None,
            block: 0,
            older: VecDeque::new(),
            payload: Vec::new(),
            handed_out: false,
            ended: false,
        };
        replay.skip_covered()?;
        Ok(replay)
    }
}

/// A log being read; memory holds one record at a time.
pub struct Replay {
    directory: Directory,
    settings: Settings,
    sequences: Vec<u64>,
    after: BlockNumber,
    /// Of the segment being read.
    index: usize,
    /// A segment that is open, and its index.
    file: Option<(usize, File, u64)>,
    offset: u64,
    /// Number of the next record, once one was read.
    number: Option<u64>,
    previous: u128,
    tip: Option<Tip>,
    block: BlockNumber,
    older: VecDeque<(u64, BlockNumber)>,
    payload: Vec<u8>,
    handed_out: bool,
    ended: bool,
}

impl Replay {
    /// The next event above the checkpoint, or `None` at the log's end.
    ///
    /// # Errors
    /// Where the log is damaged, does not fit the checkpoint, or cannot be read.
    pub fn next_event(&mut self) -> Result<Option<Replayed>, ReplayError> {
        while let Some((header, position)) = self.next_record()? {
            self.block = header.block;
            if header.block <= self.after {
                continue;
            }
            let event = codec::decode(header.kind, &self.payload)
                .map_err(|source| ReplayError::Undecodable { at: position.clone(), source })?;
            self.check(&event, &position)?;
            self.handed_out = true;
            return Ok(Some(Replayed { event, position }));
        }
        Ok(None)
    }

    /// Reads what is left and makes the log ready for writing. The preparer is to be run on a
    /// thread off the hot path, as long as the log lives.
    ///
    /// # Errors
    /// As `next_event`, and where the directory cannot be written.
    pub fn finish(mut self, clock: &Clock) -> Result<(Log, Preparer), ReplayError> {
        while self.next_event()?.is_some() {}
        let path = self.directory.path.clone();
        self.ready(clock).map_err(|source| ReplayError::Prepare { path, source })
    }

    fn ready(self, clock: &Clock) -> io::Result<(Log, Preparer)> {
        let Self { directory, settings, sequences, index, .. } = self;
        let folder = directory.path.clone();
        let sequence = sequences.get(index).copied().unwrap_or(1);
        for surplus in sequences.iter().skip(index + 2).rev() {
            segment::remove(&folder, *surplus)?;
        }
        let segment = segment::open_or_create(&folder, sequence, settings.segment_bytes)?;
        // What was read may still be in the device's cache, from a process that was killed
        // between its write and its flush. Before anyone is told of it, it must be durable.
        segment.file.sync_data()?;
        let form = match settings.form {
            Some(form) => form,
            None => probe::fastest(&folder, clock)?,
        };
        let (order_producer, order_consumer) = ring(1);
        let (ready_producer, ready_consumer) = ring(1);
        let preparer = Preparer {
            directory: folder,
            segment_bytes: settings.segment_bytes,
            orders: order_consumer,
            ready: ready_producer,
        };
        let number = self.number.unwrap_or(1);
        let mut log = Log {
            directory,
            writer: DurableWriter::or_plain(form),
            buffer: AlignedBuffer::with_capacity(BUFFER_BYTES_KEPT),
            segment,
            offset: self.offset,
            number,
            batch_first: number,
            previous: self.previous,
            tip: self.tip,
            block: self.block,
            older: self.older,
            steady: settings.steady,
            orders: order_producer,
            ready: ready_consumer,
            durable_bytes: 0,
            sound: true,
        };
        log.order_next().map_err(io::Error::other)?;
        Ok((log, preparer))
    }

    /// Begins with the last segment whose first record a checkpoint covers: what is before it is
    /// covered too.
    fn skip_covered(&mut self) -> Result<(), ReplayError> {
        for index in (1..self.sequences.len()).rev() {
            let Some(bytes) = self.header_bytes(index, 0)? else { continue };
            let Ok(header) = Header::decode(&bytes) else { continue };
            if self.is_ours(index, header.log, header.segment) && header.block <= self.after {
                let covered = self.sequences[..index].iter();
                self.older = covered.map(|sequence| (*sequence, header.block)).collect();
                self.index = index;
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next record, its payload in `self.payload`.
    fn next_record(&mut self) -> Result<Option<(Header, Position)>, ReplayError> {
        if self.ended || self.sequences.is_empty() {
            return Ok(None);
        }
        let mut found = self.look(self.index, self.offset)?;
        if found.is_err() && self.index + 1 < self.sequences.len() {
            // A segment ends where the next record did not fit.
            if let Ok(first) = self.look(self.index + 1, 0)? {
                self.older.push_back((self.sequences[self.index], self.block));
                (self.index, self.offset) = (self.index + 1, 0);
                found = Ok(first);
            }
        }
        let (header, hash) = match found {
            Ok(found) => found,
            Err(flaw) => return self.end(flaw).map(|()| None),
        };
        let position = self.position(header.number);
        self.offset += wide(record::record_bytes(self.payload.len()));
        self.number = Some(header.number + 1);
        self.previous = hash;
        Ok(Some((header, position)))
    }

    /// The record that should stand at a place, with its hash; its payload goes to `self.payload`.
    fn look(
        &mut self,
        index: usize,
        offset: u64,
    ) -> Result<Result<(Header, u128), Flaw>, ReplayError> {
        let Some(bytes) = self.header_bytes(index, offset)? else {
            return Ok(Err(Flaw::NoHeader));
        };
        let header = match Header::decode(&bytes) {
            Ok(header) => header,
            Err(HeaderError::NoHeader) => return Ok(Err(Flaw::NoHeader)),
            Err(HeaderError::Kind(kind)) => return Ok(Err(Flaw::Kind(kind))),
            Err(HeaderError::Version { version, log, segment }) => {
                if self.is_ours(index, log, segment) {
                    let record = self.number.unwrap_or(1);
                    let path = self.directory.segment_path(segment);
                    let at = Position { path, offset, record };
                    return Err(ReplayError::Version { at, version });
                }
                return Ok(Err(Flaw::NoHeader));
            }
        };
        if !self.is_ours(index, header.log, header.segment) {
            return Ok(Err(Flaw::NoHeader));
        }
        let follows = self
            .number
            .is_none_or(|number| header.number == number && header.previous == self.previous);
        let counted = (1..u64::MAX).contains(&header.number);
        if !follows || !counted || header.batch_first > header.number || header.block < self.block {
            return Ok(Err(Flaw::Chain));
        }
        if !self.read_payload(index, offset + wide(HEADER_BYTES), header.payload_bytes)?
            || record::checksum(&self.payload) != header.payload_checksum
        {
            return Ok(Err(Flaw::Payload));
        }
        Ok(Ok((header, record::hash(&bytes))))
    }

    /// False where the segment ends before the payload does.
    fn read_payload(
        &mut self,
        index: usize,
        offset: u64,
        payload_bytes: u64,
    ) -> Result<bool, ReplayError> {
        let mut payload = std::mem::take(&mut self.payload);
        let (file, file_bytes) = self.file(index)?;
        let whole = offset.checked_add(payload_bytes).is_some_and(|end| end <= file_bytes);
        let read = if whole {
            payload.resize(usize::try_from(payload_bytes).unwrap_or(0), 0);
            file.read_exact_at(&mut payload, offset)
        } else {
            Ok(())
        };
        self.payload = payload;
        self.payload.shrink_to(self.payload.len().max(BUFFER_BYTES_KEPT));
        read.map_err(|source| self.unreadable(index, offset, source))?;
        Ok(whole)
    }

    /// `None` where the segment ends first.
    fn header_bytes(
        &mut self,
        index: usize,
        offset: u64,
    ) -> Result<Option<[u8; HEADER_BYTES]>, ReplayError> {
        let (file, file_bytes) = self.file(index)?;
        if offset.saturating_add(wide(HEADER_BYTES)) > file_bytes {
            return Ok(None);
        }
        let mut bytes = [0; HEADER_BYTES];
        let read = file.read_exact_at(&mut bytes, offset);
        read.map_err(|source| self.unreadable(index, offset, source))?;
        Ok(Some(bytes))
    }

    /// A segment and its size; one is open at a time.
    fn file(&mut self, index: usize) -> Result<(&File, u64), ReplayError> {
        if self.file.as_ref().is_none_or(|(open, ..)| *open != index) {
            let path = self.directory.segment_path(self.sequences[index]);
            let opened = File::open(path).and_then(|file| {
                let bytes = file.metadata()?.len();
                Ok((index, file, bytes))
            });
            self.file = Some(opened.map_err(|source| self.unreadable(index, 0, source))?);
        }
        match &self.file {
            Some((_, file, bytes)) => Ok((file, *bytes)),
            None => Err(self.unreadable(index, 0, io::ErrorKind::NotFound.into())),
        }
    }

    /// The log ends here, unless something was made durable after what should stand here.
    fn end(&mut self, flaw: Flaw) -> Result<(), ReplayError> {
        let missing = self.number.unwrap_or(1);
        let at = self.position(missing);
        for index in self.index..self.sequences.len() {
            let from = if index == self.index { self.offset } else { 0 };
            if let Some((later, later_offset)) = self.later_record(index, from, missing)? {
                let later_path = self.directory.segment_path(self.sequences[index]);
                return Err(ReplayError::Corrupt { at, flaw, later, later_path, later_offset });
            }
        }
        if self.number.is_some() && self.block < self.after {
            let at = self.position(missing - 1);
            return Err(ReplayError::Behind { at, block: self.block, after: self.after });
        }
        // A segment that is changed to is never the only one: the one before it holds records.
        if let (None, Some(first @ 2..)) = (self.number, self.sequences.first()) {
            return Err(ReplayError::Emptied { at, before: first - 1 });
        }
        tracing::info!(end = %at, %flaw, "the log ends");
        self.ended = true;
        Ok(())
    }

    /// A record of a write that began only when record `missing` was durable.
    fn later_record(
        &mut self,
        index: usize,
        from: u64,
        missing: u64,
    ) -> Result<Option<(u64, u64)>, ReplayError> {
        let (log, segment) = (self.directory.log, self.sequences[index]);
        let mut chunk = vec![0; SCAN_BYTES];
        let mut offset = from;
        loop {
            let (file, file_bytes) = self.file(index)?;
            let left = usize::try_from(file_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
            let chunk = &mut chunk[..left.min(SCAN_BYTES)];
            if chunk.len() < HEADER_BYTES {
                return Ok(None);
            }
            let read = file.read_exact_at(chunk, offset);
            read.map_err(|source| self.unreadable(index, offset, source))?;
            for (block, at) in chunk.chunks(BLOCK_BYTES).zip((offset..).step_by(BLOCK_BYTES)) {
                let Some(bytes) = block.first_chunk() else { continue };
                let Ok(header) = Header::decode(bytes) else { continue };
                let ours = header.log == log && header.segment == segment;
                if ours && header.batch_first > missing {
                    return Ok(Some((header.number, at)));
                }
            }
            offset += wide(chunk.len());
        }
    }

    /// Checks an event against the one before it and against the checkpoint.
    fn check(&mut self, event: &Event, at: &Position) -> Result<(), ReplayError> {
        let (opens, block) = match event {
            Event::MiniBlock(mini_block) => (mini_block.index == 0, mini_block.environment.number),
            Event::Close(close) => (close.mini_block_count == 0, close.environment.number),
        };
        let continues = self.handed_out || (opens && block == self.after + 1);
        if !continues {
            return Err(ReplayError::Missing { at: at.clone(), block, after: self.after });
        }
        if let Event::MiniBlock(next) = event {
            if let Some(tip) = self.tip
                && (next.number != tip.number + 1 || next.parent_hash != tip.hash)
            {
                let (number, before) = (next.number, tip.number);
                return Err(ReplayError::Disordered { at: at.clone(), number, before });
            }
            self.tip = Some(Tip { number: next.number, hash: next.hash });
        }
        Ok(())
    }

    fn is_ours(&self, index: usize, log: u64, segment: u64) -> bool {
        log == self.directory.log && segment == self.sequences[index]
    }

    /// Where the next record stands.
    fn position(&self, record: u64) -> Position {
        let sequence = self.sequences.get(self.index).copied().unwrap_or(1);
        Position { path: self.directory.segment_path(sequence), offset: self.offset, record }
    }

    fn unreadable(&self, index: usize, offset: u64, source: io::Error) -> ReplayError {
        let path = self.directory.segment_path(self.sequences[index]);
        ReplayError::Read { path, offset, source }
    }
}

/// Bytes read at once in the search for later records.
const SCAN_BYTES: usize = 1 << 20;

const _: () = assert!(SCAN_BYTES.is_multiple_of(BLOCK_BYTES));

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}, record {}", self.path.display(), self.offset, self.record)
    }
}

/// A length as the file's offsets count.
fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
