//! One segment file: its head, and the index that a closed one carries; pure layout.

use crate::state::tables::take;
use crate::types::ids::BlockNumber;
use alloy_primitives::{B256, keccak256};
use std::path::{Path, PathBuf};

/// Start of every segment: `magic(8) number(4) zero(4)`.
pub const HEAD_BYTES: usize = 16;
/// End of a closed segment: `magic(8) data end(8) first block(8) entries(8) blocks(8)
/// checksum(8)`.
pub const TRAILER_BYTES: usize = 48;
/// Bytes of one index entry: `front of the transaction's hash(8, big-endian)
/// block - first block(4) place in the block(4)`.
pub const ENTRY_BYTES: usize = 16;
/// Entries between two fences: a look-up reads 8 KiB, and fences take 8 bytes in memory for 512
/// transactions, about 5 KiB for a full segment of plain transfers.
pub const ENTRIES_PER_FENCE: usize = 512;
/// Bits of filter a transaction: with three probes 3 % of unknown hashes pass.
const FILTER_BITS_PER_ENTRY: usize = 8;
const FILTER_PROBES: usize = 3;

const HEAD_MAGIC: &[u8; 8] = b"BSLTARC1";
const TRAILER_MAGIC: &[u8; 8] = b"BSLTIDX1";

/// Where a transaction stands, by the front of its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// First eight bytes of the hash, as a big-endian number.
    pub front: u64,
    /// Block, counted from the segment's first.
    pub block: u32,
    /// Place in the block.
    pub index: u32,
}

impl Entry {
    /// The bytes in the file.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.front.to_be_bytes());
        out.extend_from_slice(&self.block.to_be_bytes());
        out.extend_from_slice(&self.index.to_be_bytes());
    }

    /// Entries of a run of bytes; a tail that is no entry is left out.
    pub fn decode_all(mut bytes: &[u8]) -> Vec<Self> {
        let mut entries = Vec::with_capacity(bytes.len() / ENTRY_BYTES);
        while let (Some(front), Some(block), Some(index)) =
            (take(&mut bytes), take(&mut bytes), take(&mut bytes))
        {
            let (front, block) = (u64::from_be_bytes(front), u32::from_be_bytes(block));
            entries.push(Self { front, block, index: u32::from_be_bytes(index) });
        }
        entries
    }
}

/// The front of a hash, by which entries are sorted.
pub fn front(hash: &B256) -> u64 {
    u64::from_be_bytes(hash.0.first_chunk().copied().unwrap_or_default())
}

/// What stays in memory of a closed segment: fences always, the filter while the budget lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Number of the segment.
    pub number: u32,
    /// End of its records, where the index starts.
    pub data_end: u64,
    /// Number of its first block.
    pub first_block: BlockNumber,
    /// Transactions in it.
    pub entries: usize,
    /// Blocks in it.
    pub blocks: u64,
    /// The front of every `ENTRIES_PER_FENCE`th entry.
    pub fences: Vec<u64>,
    /// A Bloom filter of its hashes; `None`: every look-up reads.
    pub filter: Option<Vec<u8>>,
}

/// Builds the index of a segment, sorting `entries`, and what to append to its file:
/// `entries(16 each) fences(8 each) filter trailer(48)`.
pub fn seal(
    number: u32,
    data_end: u64,
    first_block: BlockNumber,
    (blocks, entries): (u64, &mut Vec<(Entry, B256)>),
) -> (Closed, Vec<u8>) {
    entries.sort_unstable();
    let mut bytes = Vec::with_capacity(entries.len() * (ENTRY_BYTES + 2) + TRAILER_BYTES);
    let mut filter = vec![0u8; filter_bytes(entries.len())];
    for (entry, hash) in entries.iter() {
        entry.encode(&mut bytes);
        for bit in probes(hash, filter.len()) {
            if let Some(byte) = filter.get_mut(bit / 8) {
                *byte |= 1 << (bit % 8);
            }
        }
    }
    let fences: Vec<u64> =
        entries.iter().step_by(ENTRIES_PER_FENCE).map(|(entry, _)| entry.front).collect();
    let tail = bytes.len();
    fences.iter().for_each(|fence| bytes.extend_from_slice(&fence.to_be_bytes()));
    bytes.extend_from_slice(&filter);
    let closed = Closed {
        number,
        data_end,
        first_block,
        entries: entries.len(),
        blocks,
        fences,
        filter: Some(filter),
    };
    bytes.extend_from_slice(TRAILER_MAGIC);
    bytes.extend_from_slice(&data_end.to_be_bytes());
    bytes.extend_from_slice(&first_block.to_be_bytes());
    bytes.extend_from_slice(&u64::try_from(entries.len()).unwrap_or(u64::MAX).to_be_bytes());
    bytes.extend_from_slice(&blocks.to_be_bytes());
    let sum = checksum(bytes.get(tail..).unwrap_or_default());
    bytes.extend_from_slice(&sum);
    (closed, bytes)
}

/// Where fences and filter of a closed segment start, from its last `TRAILER_BYTES` and its
/// length; `None` where those are no trailer.
pub fn tail_start(trailer: &[u8], file_bytes: u64) -> Option<u64> {
    let mut rest = trailer;
    if take::<8>(&mut rest)? != *TRAILER_MAGIC {
        return None;
    }
    let data_end = u64::from_be_bytes(take(&mut rest)?);
    let _first: [u8; 8] = take(&mut rest)?;
    let entries = u64::from_be_bytes(take(&mut rest)?);
    let start = data_end.checked_add(entries.checked_mul(u64::try_from(ENTRY_BYTES).ok()?)?)?;
    (start < file_bytes).then_some(start)
}

/// Reads fences, filter and trailer, which are the file from [`tail_start`] on; `None` where they
/// are damaged.
pub fn read_tail(number: u32, tail: &[u8]) -> Option<Closed> {
    let (tail, sum) = tail.split_last_chunk::<8>()?;
    if checksum(tail) != *sum {
        return None;
    }
    let (lists, mut trailer) = tail.split_at_checked(tail.len().checked_sub(TRAILER_BYTES - 8)?)?;
    let _magic: [u8; 8] = take(&mut trailer)?;
    let data_end = u64::from_be_bytes(take(&mut trailer)?);
    let first_block = u64::from_be_bytes(take(&mut trailer)?);
    let entries = usize::try_from(u64::from_be_bytes(take(&mut trailer)?)).ok()?;
    let blocks = u64::from_be_bytes(take(&mut trailer)?);
    let (fences, filter) =
        lists.split_at_checked(entries.div_ceil(ENTRIES_PER_FENCE).checked_mul(8)?)?;
    if filter.len() != filter_bytes(entries) {
        return None;
    }
    let fences = fences.as_chunks::<8>().0.iter().map(|fence| u64::from_be_bytes(*fence)).collect();
    let filter = Some(filter.to_vec());
    Some(Closed { number, data_end, first_block, entries, blocks, fences, filter })
}

impl Closed {
    /// Bytes of the file (start and length) that hold every entry with this hash's front, or
    /// `None` where the filter or the fences say that there is none.
    pub fn span(&self, hash: &B256) -> Option<(u64, usize)> {
        if let Some(filter) = &self.filter {
            let has = |bit: usize| filter.get(bit / 8).is_some_and(|b| b & (1 << (bit % 8)) != 0);
            if !probes(hash, filter.len()).all(has) {
                return None;
            }
        }
        let wanted = front(hash);
        let end = self.fences.partition_point(|fence| *fence <= wanted);
        if end == 0 {
            return None;
        }
        let start = self.fences.partition_point(|fence| *fence < wanted).saturating_sub(1);
        let first = start * ENTRIES_PER_FENCE;
        let last = (end * ENTRIES_PER_FENCE).min(self.entries);
        let offset = u64::try_from(first * ENTRY_BYTES).ok()?;
        Some((self.data_end + offset, (last - first) * ENTRY_BYTES))
    }

    /// Bytes held in memory.
    pub fn memory_bytes(&self) -> usize {
        self.fences.len() * 8 + self.filter.as_ref().map_or(0, Vec::len)
    }
}

/// The first bytes of a segment.
pub fn head(number: u32) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(HEAD_MAGIC);
    head[8..12].copy_from_slice(&number.to_be_bytes());
    head
}

/// Where a segment lies.
pub fn path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:08}.segment"))
}

/// The number in a segment's file name, `None` for other files.
pub fn number_of(path: &Path) -> Option<u32> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".segment")?;
    if stem.len() == 8 { stem.parse().ok() } else { None }
}

fn filter_bytes(entries: usize) -> usize {
    (entries * FILTER_BITS_PER_ENTRY).div_ceil(8)
}

/// Bits for a hash: other bytes of it than the front, which are as good as random.
fn probes(hash: &B256, filter_bytes: usize) -> impl Iterator<Item = usize> {
    let bits = u64::try_from(filter_bytes).unwrap_or(u64::MAX).saturating_mul(8).max(1);
    let words = *hash.0.as_chunks::<8>().0.last_chunk::<FILTER_PROBES>().unwrap_or(&[[0; 8]; 3]);
    words
        .into_iter()
        .map(move |word| usize::try_from(u64::from_be_bytes(word) % bits).unwrap_or_default())
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    keccak256(bytes).0.first_chunk().copied().unwrap_or_default()
}
