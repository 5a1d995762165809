//! Bodies and receipts of sealed blocks in append-only segment files.
//!
//! Input: sealed blocks at a checkpoint. Output: blocks by position, places of transactions by
//! hash. What grows with every transaction lives here and not in mdbx.
//!
//! 1. records are appended to the open segment
//! 2. fdatasync
//! 3. mdbx commits their positions
//! 4. at the next start whatever lies behind the last committed position is cut off
//!
//! A segment that is full gets its index behind its records and is never written again. The open
//! one's index lives in memory and is rebuilt from its records at the start.
//!
//! Limits: memory of the open segment's index about 50 bytes a transaction; of a closed one 8
//! bytes for 512 transactions, and one byte a transaction of filter for the newest segments while
//! [`FILTER_BYTES_MAX`] lasts. An unknown hash costs one read of 8 KiB in 3 % of the segments with
//! a filter and in every segment without.
//! Failure: a record that cannot be read back is an error with its position, never a wrong block.
//! Seat: appends run on the checkpoint's seat, reads on the archive's.

pub mod record;
pub mod segment;
pub mod read;
pub mod shelf;
pub mod stage;
#[cfg(test)]
mod tests;

pub use read::Access;

use crate::state::tables::Position;
use crate::types::{block::Block, ids::BlockNumber, view::Archived};
use alloy_primitives::{B256, Bytes};
use record::RecordError;
use segment::Entry;
use shelf::{OpenSegment, Shelf};
use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

/// Bytes of filters in memory at most, over all closed segments, the newest first.
pub const FILTER_BYTES_MAX: usize = 64 << 20;
/// Decoded blocks kept, since neighbours are often asked for together.
const CACHED_BLOCKS_MAX: usize = 8;

/// Sizes of the archive.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveConfig {
    /// A segment is closed before a record would take it beyond this; one larger record has a
    /// segment of its own.
    pub segment_bytes_max: u64,
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self { segment_bytes_max: 64 << 20 }
    }
}

/// The archive failed.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The disk did.
    #[error("archive {}: {error}; check the disk and its free space; a lost file has to be \
        restored from a copy", .path.display())]
    Disk {
        /// File or folder.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A record is not what was written.
    #[error("archive segment {segment} at byte {offset}: {error}; restore the archive folder")]
    Record {
        /// The segment.
        segment: u32,
        /// Where the record starts.
        offset: u64,
        /// What is wrong.
        error: RecordError,
    },
    /// A segment that should be closed has no valid index.
    #[error("archive segment {0} has no valid index: restore the archive folder")]
    Unsealed(u32),
    /// The database speaks of data that is not there.
    #[error("archive segment {} ends before byte {}, which the database speaks of: restore the \
        archive folder", .0.segment, .0.offset + u64::from(.0.bytes))]
    Missing(Position),
    /// A block is too large for a record.
    #[error(
        "block {number} takes {bytes} bytes, more than a record holds ({})",
        record::PAYLOAD_BYTES_MAX
    )]
    TooLarge {
        /// The block.
        number: BlockNumber,
        /// Its bytes.
        bytes: usize,
    },
}

/// The segments of a folder. One thread appends, any number read.
pub struct Archive {
    folder: PathBuf,
    config: ArchiveConfig,
    shelf: RwLock<Shelf>,
    access: Access,
    cache: Mutex<VecDeque<(Position, Arc<Block>)>>,
}

fn damaged(position: Position, error: RecordError) -> ArchiveError {
    ArchiveError::Record { segment: position.segment, offset: position.offset, error }
}

impl Archive {
    /// Opens the archive in `folder` and cuts off what lies behind `covered`, the last record
    /// that the database knows; `None` empties it.
    ///
    /// # Errors
    /// Where the disk fails, or data that the database speaks of is missing or damaged.
    pub fn open(
        folder: &Path,
        covered: Option<Position>,
        config: ArchiveConfig,
        access: Access,
    ) -> Result<Self, ArchiveError> {
        let shelf = shelf::open(folder, covered)?;
        Ok(Self {
            folder: folder.to_owned(),
            config,
            shelf: RwLock::new(shelf),
            access,
            cache: Mutex::default(),
        })
    }

    /// Appends blocks and gives their positions once they are durable.
    ///
    /// # Errors
    /// Where the disk fails. The archive is then cut back at the next start.
    pub fn append(&self, blocks: &[Arc<Block>]) -> Result<Vec<Position>, ArchiveError> {
        let mut positions = Vec::with_capacity(blocks.len());
        let mut buffer = Vec::new();
        let mut written: Vec<&Arc<Block>> = Vec::new();
        let mut end = self.read_shelf(|shelf| shelf.open.end);
        for block in blocks {
            let start = buffer.len();
            let number = block.header.number;
            let bytes = record::encode(block, &mut buffer)
                .map_err(|bytes| ArchiveError::TooLarge { number, bytes })?;
            let length = u64::try_from(bytes).unwrap_or(u64::MAX);
            let full = end.saturating_add(length) > self.config.segment_bytes_max;
            if full && end > u64::try_from(segment::HEAD_BYTES).unwrap_or_default() {
                let rest = buffer.split_off(start);
                self.flush(&buffer, &written)?;
                self.roll()?;
                buffer = rest;
                written.clear();
                end = self.read_shelf(|shelf| shelf.open.end);
            }
            let segment = self.read_shelf(|shelf| shelf.open.number);
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            positions.push(Position { segment, offset: end, bytes });
            end += length;
            written.push(block);
        }
        self.flush(&buffer, &written)?;
        Ok(positions)
    }

    /// The block at a position.
    ///
    /// # Errors
    /// Where the disk fails or the record is damaged.
    pub fn read(&self, position: Position) -> Result<Arc<Block>, ArchiveError> {
        if let Some((_, block)) = self.cached().iter().find(|(cached, _)| *cached == position) {
            return Ok(Arc::clone(block));
        }
        let block = record::decode(&self.record(position)?);
        let block = Arc::new(block.map_err(|error| damaged(position, error))?);
        let mut cache = self.cached();
        cache.push_back((position, Arc::clone(&block)));
        if cache.len() > CACHED_BLOCKS_MAX {
            cache.pop_front();
        }
        drop(cache);
        Ok(block)
    }

    /// The transaction at `index` of the block at a position, without the others.
    ///
    /// # Errors
    /// Where the disk fails or the record is damaged.
    pub fn read_one(
        &self,
        position: Position,
        index: usize,
    ) -> Result<Option<Archived>, ArchiveError> {
        let found = record::decode_one(&self.record(position)?, index);
        found.map_err(|error| damaged(position, error))
    }

    fn record(&self, position: Position) -> Result<Bytes, ArchiveError> {
        let bytes = usize::try_from(position.bytes).unwrap_or_default();
        self.bytes(position.segment, (position.offset, bytes)).map(Bytes::from)
    }

    /// Places (block, index) where the transaction may stand: right ones and, rarely, others
    /// whose hash starts alike; newest segments first.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn look_up(&self, hash: &B256) -> Result<Vec<(BlockNumber, usize)>, ArchiveError> {
        let (open, closed) =
            self.read_shelf(|shelf| (shelf.open.place(hash), shelf.closed.clone()));
        if let Some(place) = open {
            return Ok(vec![place]);
        }
        let front = segment::front(hash);
        let mut places = Vec::new();
        for closed in closed.iter().rev() {
            let Some(span) = closed.span(hash) else { continue };
            let entries = Entry::decode_all(&self.bytes(closed.number, span)?);
            let fitting = entries.iter().filter(|entry| entry.front == front);
            places.extend(fitting.map(|entry| {
                let block = closed.first_block + u64::from(entry.block);
                (block, usize::try_from(entry.index).unwrap_or(usize::MAX))
            }));
            if !places.is_empty() {
                break;
            }
        }
        Ok(places)
    }

    /// Segments, the open one among them.
    pub fn segment_count(&self) -> usize {
        self.read_shelf(|shelf| shelf.closed.len() + 1)
    }

    /// Bytes that indices hold in memory, the open segment's estimated.
    pub fn index_bytes(&self) -> usize {
        self.read_shelf(Shelf::memory_bytes)
    }

    /// Writes buffered records to the open segment, makes them durable and indexes them.
    fn flush(&self, records: &[u8], blocks: &[&Arc<Block>]) -> Result<(), ArchiveError> {
        if blocks.is_empty() {
            return Ok(());
        }
        let (file, end, number) = self
            .read_shelf(|shelf| (Arc::clone(&shelf.open.file), shelf.open.end, shelf.open.number));
        shelf::write(&file, records, end)
            .map_err(|error| shelf::disk(&segment::path(&self.folder, number), error))?;
        let length = u64::try_from(records.len()).unwrap_or(u64::MAX);
        self.with_shelf(|shelf| {
            blocks.iter().for_each(|block| shelf.open.index(block));
            shelf.open.end += length;
        });
        Ok(())
    }

    /// Closes the open segment and starts the next.
    fn roll(&self) -> Result<(), ArchiveError> {
        // Sorting and writing run beside readers; only the exchange excludes them.
        let (closed, footer, file) = self.read_shelf(|shelf| {
            let (closed, footer) = shelf.open.seal();
            (closed, footer, Arc::clone(&shelf.open.file))
        });
        shelf::write(&file, &footer, closed.data_end)
            .map_err(|error| shelf::disk(&segment::path(&self.folder, closed.number), error))?;
        let next = OpenSegment::create(&self.folder, closed.number + 1)?;
        self.with_shelf(|shelf| {
            shelf.closed.push(Arc::new(closed));
            shelf.open = next;
            shelf.trim_filters(FILTER_BYTES_MAX);
        });
        Ok(())
    }

    fn bytes(&self, segment: u32, span: (u64, usize)) -> Result<Vec<u8>, ArchiveError> {
        self.access
            .read(&self.folder, segment, span)
            .map_err(|error| shelf::disk(&segment::path(&self.folder, segment), error))
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, VecDeque<(Position, Arc<Block>)>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_shelf<R>(&self, work: impl FnOnce(&Shelf) -> R) -> R {
        work(&self.shelf.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_shelf<R>(&self, work: impl FnOnce(&mut Shelf) -> R) -> R {
        work(&mut self.shelf.write().unwrap_or_else(PoisonError::into_inner))
    }
}
