//! The writing end: records gather in one aligned buffer and become durable in one write.

use crate::runtime::{
    memory::AlignedBuffer,
    ring::{Consumer, Producer},
    uring::writer::DurableWriter,
};
use crate::types::{
    flow::Event,
    ids::{BlockNumber, MiniBlockNumber},
};
use crate::wal::{
    codec,
    record::{self, HEADER_BYTES, Header, PAYLOAD_BYTES_MAX},
    segment::{Directory, Order, Segment},
};
use alloy_primitives::B256;
use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Memory kept for the next record; one that took more gives the surplus back.
pub(crate) const BUFFER_BYTES_KEPT: usize = 4 << 20;
/// Segments behind the checkpoint that are kept for reuse, at most; more are deleted.
const SPARE_SEGMENTS_MAX: usize = 2;

/// Why an event could not be made durable. The log takes no more after any of these.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The device or file system failed.
    #[error(
        "{path}: {bytes} bytes at byte {offset} could not be made durable: {source}; check the \
         disk, then start again: what was acknowledged is safe"
    )]
    Write {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// How many bytes.
        bytes: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The next segment could not be made.
    #[error("segment {sequence} could not be made ready: {source}; is the disk full?")]
    Segment {
        /// Its sequence number.
        sequence: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The thread that makes segments is gone.
    #[error("segment {0} is needed, but the thread that makes segments has ended")]
    NoPreparer(u64),
    /// A record that no segment may hold.
    #[error("an event of {0} bytes is more than a record may hold ({PAYLOAD_BYTES_MAX})")]
    TooLarge(usize),
    /// Events out of order: a bug, noticed before it reaches the disk.
    #[error("mini-block {number} after {parent} does not follow {tip} {tip_hash}")]
    Disordered {
        /// What came.
        number: MiniBlockNumber,
        /// The parent that it names.
        parent: B256,
        /// The newest mini-block in the log.
        tip: MiniBlockNumber,
        /// Its hash.
        tip_hash: B256,
    },
    /// An earlier append failed.
    #[error("an earlier write failed: the log takes no more; start the node again")]
    Stopped,
}

/// Number and hash of the newest mini-block in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// Its number.
    pub number: MiniBlockNumber,
    /// Its hash.
    pub hash: B256,
}

/// A log that has been replayed, and may be written.
pub struct Log {
    pub(crate) directory: Directory,
    pub(crate) writer: DurableWriter,
    pub(crate) buffer: AlignedBuffer,
    pub(crate) segment: Segment,
    /// Where the next write goes.
    pub(crate) offset: u64,
    /// Of the next record.
    pub(crate) number: u64,
    /// Of the first record that waits in the buffer.
    pub(crate) batch_first: u64,
    /// Hash of the newest record.
    pub(crate) previous: u128,
    /// Newest mini-block; `None` where every record is of blocks under the checkpoint.
    pub(crate) tip: Option<Tip>,
    /// Block of the newest record.
    pub(crate) block: BlockNumber,
    /// Sequence number of older segments, oldest first, with the last block in each.
    pub(crate) older: VecDeque<(u64, BlockNumber)>,
    /// Newest block under a steady checkpoint: what is not above it is not needed here.
    pub(crate) steady: Arc<AtomicU64>,
    pub(crate) orders: Producer<Order>,
    pub(crate) ready: Consumer<io::Result<Segment>>,
    /// Bytes made durable since the start.
    pub(crate) durable_bytes: u64,
    /// False after a failure.
    pub(crate) sound: bool,
}

impl Log {
    /// Encodes an event behind those that wait. It is durable after `flush`; where it does not
    /// fit into the segment, those before it are flushed now.
    ///
    /// # Errors
    /// Where events are out of order, or a change of segment or that flush fails.
    pub fn add(&mut self, event: &Event) -> Result<(), AppendError> {
        if !self.sound {
            return Err(AppendError::Stopped);
        }
        self.sound = false;
        let added = self.encode(event);
        self.sound = added.is_ok();
        added
    }

    /// Makes all that waits durable: one write, one flush.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn flush(&mut self) -> Result<(), AppendError> {
        if !self.sound {
            return Err(AppendError::Stopped);
        }
        self.sound = false;
        let written = self.write();
        self.sound = written.is_ok();
        written
    }

    /// Bytes that wait for `flush`.
    pub const fn waiting_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes made durable since the start.
    pub const fn durable_bytes(&self) -> u64 {
        self.durable_bytes
    }

    /// Number of the newest record, durable or waiting; 0: none yet.
    pub const fn newest_record(&self) -> u64 {
        self.number - 1
    }

    /// Segments that hold records, those kept for reuse among them, and the one in use.
    pub fn segment_count(&self) -> usize {
        self.older.len() + 1
    }

    /// The newest mini-block in the log, where one is above the checkpoint that replay began at.
    pub const fn tip(&self) -> Option<Tip> {
        self.tip
    }

    fn encode(&mut self, event: &Event) -> Result<(), AppendError> {
        let tip = self.follow(event)?;
        let mut start = self.buffer.len();
        self.buffer.extend(&[0; HEADER_BYTES]);
        codec::encode(event, &mut self.buffer);
        let payload_bytes = self.buffer.len() - start - HEADER_BYTES;
        if payload_bytes > PAYLOAD_BYTES_MAX {
            self.buffer.truncate(start);
            return Err(AppendError::TooLarge(payload_bytes));
        }
        self.buffer.pad_to_block();
        if self.offset + wide(self.buffer.len()) > self.segment.bytes {
            self.make_room(start)?;
            start = 0;
        }
        if start == 0 {
            self.batch_first = self.number;
        }
        let record = &mut self.buffer.as_mut_slice()[start..];
        let payload = &record[HEADER_BYTES..HEADER_BYTES + payload_bytes];
        let header = Header {
            kind: codec::kind(event),
            log: self.directory.log,
            segment: self.segment.sequence,
            number: self.number,
            batch_first: self.batch_first,
            block: codec::block(event),
            payload_bytes: wide(payload_bytes),
            previous: self.previous,
            payload_checksum: record::checksum(payload),
        };
        let bytes = header.encode();
        record[..HEADER_BYTES].copy_from_slice(&bytes);
        self.previous = record::hash(&bytes);
        self.number += 1;
        self.block = header.block;
        self.tip = tip;
        Ok(())
    }

    /// The newest mini-block after `event`, which must continue the chain.
    fn follow(&self, event: &Event) -> Result<Option<Tip>, AppendError> {
        let Event::MiniBlock(next) = event else { return Ok(self.tip) };
        if let Some(tip) = self.tip
            && (next.number != tip.number + 1 || next.parent_hash != tip.hash)
        {
            return Err(AppendError::Disordered {
                number: next.number,
                parent: next.parent_hash,
                tip: tip.number,
                tip_hash: tip.hash,
            });
        }
        Ok(Some(Tip { number: next.number, hash: next.hash }))
    }

    /// The record that begins at `start` of the buffer goes to the front of a fresh segment.
    fn make_room(&mut self, start: usize) -> Result<(), AppendError> {
        if start > 0 {
            self.write_first(start)?;
            self.buffer.keep_from(start);
        }
        if self.offset > 0 {
            self.change_segment()?;
        }
        // A record larger than a segment has one for itself, which grows under the write: slow,
        // but only diffs of many megabytes come here.
        self.segment.bytes = self.segment.bytes.max(wide(self.buffer.len()));
        Ok(())
    }

    fn change_segment(&mut self) -> Result<(), AppendError> {
        let sequence = self.segment.sequence + 1;
        let made = self.ready.pop_wait().ok_or(AppendError::NoPreparer(sequence))?;
        let next = made.map_err(|source| AppendError::Segment { sequence, source })?;
        let full = std::mem::replace(&mut self.segment, next);
        self.older.push_back((full.sequence, self.block));
        self.offset = 0;
        self.order_next()
    }

    /// Has the segment after the one in use made ready, out of one that is no longer needed.
    pub(crate) fn order_next(&mut self) -> Result<(), AppendError> {
        let sequence = self.segment.sequence + 1;
        let steady = self.steady.load(Ordering::Acquire);
        // The newest of them stays: the chain of records never starts anew.
        let older = self.older.iter().take(self.older.len().saturating_sub(1));
        let free = older.take_while(|(_, last_block)| *last_block <= steady).count();
        let recycle = (free > 0).then(|| self.older.pop_front()).flatten();
        let surplus = free.saturating_sub(1 + SPARE_SEGMENTS_MAX);
        let discard = self.older.drain(..surplus).map(|(sequence, _)| sequence).collect();
        let recycle = recycle.map(|(sequence, _)| sequence);
        let order = Order { sequence, recycle, discard };
        self.orders.push(order).map_err(|_| AppendError::NoPreparer(sequence))
    }

    fn write(&mut self) -> Result<(), AppendError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.write_first(self.buffer.len())?;
        self.buffer.clear();
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = AlignedBuffer::with_capacity(BUFFER_BYTES_KEPT);
        }
        Ok(())
    }

    /// Writes the first `bytes` of the buffer, which end with a record.
    fn write_first(&mut self, bytes: usize) -> Result<(), AppendError> {
        let (file, offset) = (&self.segment.file, self.offset);
        self.writer.write_durable(file, offset, &self.buffer.as_slice()[..bytes]).map_err(
            |source| AppendError::Write { path: self.segment.path.clone(), offset, bytes, source },
        )?;
        self.offset += wide(bytes);
        self.durable_bytes += wide(bytes);
        Ok(())
    }
}

/// A length as the file's offsets count.
fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
