//! The frame of a record: the header that makes a torn, stale or foreign record show itself.

use crate::runtime::memory::BLOCK_BYTES;
use crate::types::ids::BlockNumber;
use twox_hash::{XxHash3_64, XxHash3_128};

/// Bytes of a header; the payload follows it at once.
pub const HEADER_BYTES: usize = 96;
/// Bytes of one payload at most. Limits on a mini-block's gas keep real ones two orders below.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;
/// Form of header and payload; another number means another layout.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"BSLT";
/// A header checksum covers what follows it.
const CHECKED_FROM: usize = 8;

const _: () = assert!(HEADER_BYTES <= BLOCK_BYTES);

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A mini-block.
    MiniBlock,
    /// The close of a block.
    Close,
}

/// The first 96 bytes of a record. Integers are little-endian.
///
/// ```text
///  0 header_checksum   8  xxh3-64 of bytes 8..96: first, so that a torn or blank block shows
///  8 magic             4  "BSLT"
/// 12 version           2  layout of header and payload
/// 14 kind              1  1 mini-block, 2 close of a block
/// 15 zero              1
/// 16 log               8  random name of this log: no payload can forge a header, as whoever
///                         chose its bytes cannot know it; nor is a copied segment taken for ours
/// 24 segment           8  sequence number of the segment: what a recycled segment held before
///                         bears an older one
/// 32 number            8  of this record, counted from 1 over the whole log
/// 40 batch_first       8  number of the first record of the same durable write. A later record
///                         with `batch_first` above n proves that n had become durable
/// 48 block             8  height of the block it belongs to, so that what a checkpoint covers is
///                         skipped without decoding
/// 56 payload_bytes     8
/// 64 previous         16  hash of the record before; zero for the first
/// 80 payload_checksum 16  xxh3-128 of the payload
/// 96 payload              then zeros up to a block's boundary (4096): a direct write must end on
///                         one, and no two writes ever share a block
/// ```
///
/// A record's hash is xxh3-128 of its header, which holds the checksum of the payload and the hash
/// before: so it chains over everything written so far. xxh3 takes 46 ns a transfer where encoding
/// takes 160 (`what_does_fsync_cost`); it misses a torn write once in 2^128, where CRC-32C, the
/// classic choice, does once in 2^32; and `twox-hash` is its maintained implementation
/// in Rust, with a choice of instructions at run time. It guards against the disk, not against who
/// can write to the directory: against them stand keccak hash and signature in the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub kind: Kind,
    /// Random name of the log.
    pub log: u64,
    /// Sequence number of the segment.
    pub segment: u64,
    /// Number of this record.
    pub number: u64,
    /// Number of the first record of the same durable write.
    pub batch_first: u64,
    /// Block that it belongs to.
    pub block: BlockNumber,
    /// Bytes of the payload.
    pub payload_bytes: u64,
    /// Hash of the record before.
    pub previous: u128,
    /// Checksum of the payload.
    pub payload_checksum: u128,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Checksum or magic differ: blank, torn or something else.
    #[error("no record header stands here")]
    NoHeader,
    /// Whole, but of another layout.
    #[error("its layout is version {version}, this program reads version {VERSION}")]
    Version {
        /// The version.
        version: u16,
        /// Its log; like the version, it stands at this place in every layout.
        log: u64,
        /// Its segment, likewise.
        segment: u64,
    },
    /// Whole, but of an unknown kind.
    #[error("it is of unknown kind {0}")]
    Kind(u8),
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::MiniBlock => 1,
            Self::Close => 2,
        }
    }
}

impl Header {
    /// Its bytes, checksum and all.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[8..12].copy_from_slice(&MAGIC);
        bytes[12..14].copy_from_slice(&VERSION.to_le_bytes());
        bytes[14] = self.kind.code();
        bytes[16..24].copy_from_slice(&self.log.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.segment.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.number.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.batch_first.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.block.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[64..80].copy_from_slice(&self.previous.to_le_bytes());
        bytes[80..96].copy_from_slice(&self.payload_checksum.to_le_bytes());
        let checksum = XxHash3_64::oneshot(&bytes[CHECKED_FROM..]);
        bytes[..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// Where the bytes are none, or none that this program can read.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        let checksum = XxHash3_64::oneshot(&bytes[CHECKED_FROM..]);
        if bytes[..CHECKED_FROM] != checksum.to_le_bytes() || bytes[8..12] != MAGIC {
            return Err(HeaderError::NoHeader);
        }
        let version = u16::from_le_bytes([bytes[12], bytes[13]]);
        if version != VERSION {
            let (log, segment) = (u64_at(bytes, 16), u64_at(bytes, 24));
            return Err(HeaderError::Version { version, log, segment });
        }
        let kind = match bytes[14] {
            1 => Kind::MiniBlock,
            2 => Kind::Close,
            other => return Err(HeaderError::Kind(other)),
        };
        Ok(Self {
            kind,
            log: u64_at(bytes, 16),
            segment: u64_at(bytes, 24),
            number: u64_at(bytes, 32),
            batch_first: u64_at(bytes, 40),
            block: u64_at(bytes, 48),
            payload_bytes: u64_at(bytes, 56),
            previous: u128_at(bytes, 64),
            payload_checksum: u128_at(bytes, 80),
        })
    }
}

/// The hash of a record, from its header's bytes.
pub fn hash(header: &[u8; HEADER_BYTES]) -> u128 {
    XxHash3_128::oneshot(header)
}

/// The checksum of a payload.
pub fn checksum(payload: &[u8]) -> u128 {
    XxHash3_128::oneshot(payload)
}

/// Bytes that a record takes on disk with its padding.
pub const fn record_bytes(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).next_multiple_of(BLOCK_BYTES)
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn u128_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u128 {
    let mut word = [0; 16];
    word.copy_from_slice(&bytes[at..at + 16]);
    u128::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: Kind::Close,
            log: 1,
            segment: 2,
            number: 3,
            batch_first: 4,
            block: 5,
            payload_bytes: 6,
            previous: 7 << 100,
            payload_checksum: 8 << 100,
        }
    }

    #[test]
    fn a_header_comes_back_and_any_flipped_bit_shows() {
        let bytes = header().encode();
        assert_eq!(Header::decode(&bytes), Ok(header()));
        for bit in 0..HEADER_BYTES * 8 {
            let mut torn = bytes;
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&torn), Err(HeaderError::NoHeader), "bit {bit}");
        }
        assert_eq!(Header::decode(&[0; HEADER_BYTES]), Err(HeaderError::NoHeader));
    }

    #[test]
    fn a_header_of_another_version_says_so() {
        let mut bytes = header().encode();
        bytes[12] = 9;
        let checksum = XxHash3_64::oneshot(&bytes[CHECKED_FROM..]);
        bytes[..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(
            Header::decode(&bytes),
            Err(HeaderError::Version { version: 9, log: 1, segment: 2 })
        );
    }
}
