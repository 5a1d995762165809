//! The segments in a folder: found, cut back and indexed at the start, extended afterwards.

use crate::state::archive::{
    ArchiveError, FILTER_BYTES_MAX, record,
    segment::{self, Closed, Entry, HEAD_BYTES, TRAILER_BYTES},
};
use crate::state::tables::Position;
use crate::types::{block::Block, ids::BlockNumber, map::Map};
use alloy_primitives::{B256, Bytes};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
};

/// Bytes of one place in the open segment's index, with the map's overhead.
const OPEN_ENTRY_BYTES: usize = 56;

/// All segments.
pub struct Shelf {
    /// Oldest first.
    pub closed: Vec<Arc<Closed>>,
    /// The one that is written.
    pub open: OpenSegment,
}

/// The segment that is written, with its index.
pub struct OpenSegment {
    /// Its number.
    pub number: u32,
    /// End of its records.
    pub end: u64,
    /// The file, shared with whoever writes it.
    pub file: Arc<File>,
    first_block: Option<BlockNumber>,
    blocks: u64,
    places: Map<B256, (u32, u32)>,
}

/// Names the file that failed.
pub fn disk(path: &Path, error: io::Error) -> ArchiveError {
    ArchiveError::Disk { path: path.to_owned(), error }
}

/// Writes bytes at an offset and makes them durable.
///
/// # Errors
/// Where the disk fails.
pub fn write(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)?;
    file.sync_data()
}

/// Finds the segments of a folder and cuts them back to `covered`.
///
/// # Errors
/// Where the disk fails, or data up to `covered` is missing or damaged.
pub fn open(folder: &Path, covered: Option<Position>) -> Result<Shelf, ArchiveError> {
    fs::create_dir_all(folder).map_err(|error| disk(folder, error))?;
    let listed = fs::read_dir(folder).map_err(|error| disk(folder, error))?;
    let mut numbers = Vec::new();
    for entry in listed {
        let path = entry.map_err(|error| disk(folder, error))?.path();
        numbers.extend(segment::number_of(&path));
    }
    numbers.sort_unstable();
    for number in &numbers {
        if covered.is_none_or(|covered| *number > covered.segment) {
            let path = segment::path(folder, *number);
            fs::remove_file(&path).map_err(|error| disk(&path, error))?;
        }
    }
    let Some(covered) = covered else {
        return Ok(Shelf { closed: Vec::new(), open: OpenSegment::create(folder, 0)? });
    };
    let mut closed = Vec::new();
    for number in 0..covered.segment {
        closed.push(Arc::new(read_closed(folder, number)?));
    }
    let open = OpenSegment::reopen(folder, covered)?;
    let mut shelf = Shelf { closed, open };
    shelf.trim_filters(FILTER_BYTES_MAX);
    Ok(shelf)
}

impl Shelf {
    /// Drops filters of the oldest segments until all of them fit `bytes_max`.
    pub fn trim_filters(&mut self, bytes_max: usize) {
        let mut held = 0;
        for closed in self.closed.iter_mut().rev() {
            held += closed.filter.as_ref().map_or(0, Vec::len);
            if held > bytes_max && closed.filter.is_some() {
                Arc::make_mut(closed).filter = None;
            }
        }
    }

    /// Bytes of all indices.
    pub fn memory_bytes(&self) -> usize {
        let closed: usize = self.closed.iter().map(|closed| closed.memory_bytes()).sum();
        closed + self.open.places.len() * OPEN_ENTRY_BYTES
    }
}

impl OpenSegment {
    /// Starts a segment.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn create(folder: &Path, number: u32) -> Result<Self, ArchiveError> {
        let path = segment::path(folder, number);
        let made = (|| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)?;
            file.write_all_at(&segment::head(number), 0)?;
            file.sync_all()?;
            // The file's name has to be durable, too.
            File::open(folder)?.sync_all()?;
            Ok(file)
        })();
        let file = made.map_err(|error| disk(&path, error))?;
        Ok(Self::empty(number, file))
    }

    fn empty(number: u32, file: File) -> Self {
        let end = u64::try_from(HEAD_BYTES).unwrap_or_default();
        let places = Map::default();
        Self { number, end, file: Arc::new(file), first_block: None, blocks: 0, places }
    }

    /// Opens the segment that `covered` lies in, cuts it off behind that and indexes the rest.
    fn reopen(folder: &Path, covered: Position) -> Result<Self, ArchiveError> {
        let path = segment::path(folder, covered.segment);
        let end = covered.offset + u64::from(covered.bytes);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| disk(&path, error))?;
        let cut = (|| {
            let length = file.metadata()?.len();
            if length > end {
                file.set_len(end)?;
                file.sync_all()?;
            }
            let mut head = [0; HEAD_BYTES];
            file.read_exact_at(&mut head, 0)?;
            Ok((length, head))
        })();
        let (length, head) = cut.map_err(|error| disk(&path, error))?;
        if length < end || head != segment::head(covered.segment) {
            return Err(ArchiveError::Missing(covered));
        }
        let mut open = Self::empty(covered.segment, file);
        while open.end < end {
            open.index_next(end)?;
        }
        if open.end == end { Ok(open) } else { Err(ArchiveError::Missing(covered)) }
    }

    /// Reads the record at `self.end` and indexes it.
    fn index_next(&mut self, end: u64) -> Result<(), ArchiveError> {
        let (segment, offset) = (self.number, self.end);
        let damaged = |error| ArchiveError::Record { segment, offset, error };
        let mut prefix = [0; record::PREFIX_BYTES];
        let read = |buffer: &mut [u8]| {
            self.file
                .read_exact_at(buffer, offset)
                .map_err(|_| damaged(record::RecordError::Short(buffer.len())))
        };
        read(&mut prefix)?;
        let (bytes, _) = record::peek(&prefix).map_err(damaged)?;
        let length = u64::try_from(bytes).unwrap_or(u64::MAX);
        if length > end - offset {
            return Err(damaged(record::RecordError::Short(bytes)));
        }
        let mut bytes = vec![0; bytes];
        read(&mut bytes)?;
        let block = record::decode(&Bytes::from(bytes)).map_err(damaged)?;
        self.index(&block);
        self.end += length;
        Ok(())
    }

    /// Adds a block's transactions to the index.
    pub fn index(&mut self, block: &Block) {
        let number = block.header.number;
        let first = *self.first_block.get_or_insert(number);
        let at = u32::try_from(number - first).unwrap_or(u32::MAX);
        self.blocks += 1;
        self.places.reserve(block.transactions.len());
        for (index, transaction) in (0u32..).zip(&block.transactions) {
            self.places.insert(transaction.hash, (at, index));
        }
    }

    /// Where a transaction of this segment stands.
    pub fn place(&self, hash: &B256) -> Option<(BlockNumber, usize)> {
        let (block, index) = self.places.get(hash)?;
        Some((self.first_block? + u64::from(*block), usize::try_from(*index).ok()?))
    }

    /// The index that closes the segment, and its bytes.
    pub fn seal(&self) -> (Closed, Vec<u8>) {
        let mut entries: Vec<(Entry, B256)> = self
            .places
            .iter()
            .map(|(hash, (block, index))| {
                let front = segment::front(hash);
                (Entry { front, block: *block, index: *index }, *hash)
            })
            .collect();
        let first = self.first_block.unwrap_or_default();
        segment::seal(self.number, self.end, first, (self.blocks, &mut entries))
    }
}

fn read_closed(folder: &Path, number: u32) -> Result<Closed, ArchiveError> {
    let path = segment::path(folder, number);
    let trailer_bytes = u64::try_from(TRAILER_BYTES).unwrap_or_default();
    let tail = (|| {
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        let Some(at) = length.checked_sub(trailer_bytes) else { return Ok(None) };
        let mut trailer = [0; TRAILER_BYTES];
        file.read_exact_at(&mut trailer, at)?;
        let Some(start) = segment::tail_start(&trailer, length) else { return Ok(None) };
        let mut tail = vec![0; usize::try_from(length - start).unwrap_or_default()];
        file.read_exact_at(&mut tail, start)?;
        Ok(Some(tail))
    })();
    let tail = tail.map_err(|error| disk(&path, error))?;
    tail.and_then(|tail| segment::read_tail(number, &tail)).ok_or(ArchiveError::Unsealed(number))
}
