//! The archive by itself: round trips, cut-off tails, look-ups over segments, the reader's thread.

use crate::state::archive::{
    Access, Archive, ArchiveConfig, ArchiveError, read, record, segment, stage,
};
use crate::state::fixture::{block, transaction};
use crate::state::tables::Position;
use crate::types::block::Block;
use alloy_primitives::{B256, Bytes, keccak256};
use proptest::prelude::*;
use std::{fs::OpenOptions, io::Write as _, path::Path, sync::Arc};

const SMALL: ArchiveConfig = ArchiveConfig { segment_bytes_max: 6_000 };

fn blocks(count: u64) -> Vec<Arc<Block>> {
    (0..count)
        .map(|number| Arc::new(block(number, number * 10..number * 10 + number % 10)))
        .collect()
}

fn open(folder: &Path, covered: Option<Position>) -> Archive {
    Archive::open(folder, covered, SMALL, Access::Direct).unwrap()
}

fn check(archive: &Archive, blocks: &[Arc<Block>], positions: &[Position]) {
    for (block, position) in blocks.iter().zip(positions) {
        let found = archive.read(*position).unwrap();
        assert_eq!(found.hash, block.hash);
        assert_eq!(found.header, block.header);
        assert_eq!(found.transactions, block.transactions);
        assert_eq!(found.receipts, block.receipts);
        assert_eq!(found.last_mini_block, block.last_mini_block);
        for (index, transaction) in block.transactions.iter().enumerate() {
            let places = archive.look_up(&transaction.hash).unwrap();
            assert!(places.contains(&(block.header.number, index)), "{places:?}");
        }
    }
}

#[test]
fn blocks_come_back_from_several_segments_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), None);
    let blocks = blocks(60);
    let mut positions = Vec::new();
    for some in blocks.chunks(7) {
        positions.extend(archive.append(some).unwrap());
    }
    assert!(archive.segment_count() > 4);
    check(&archive, &blocks, &positions);
    for unknown in (0u64..200).map(|seed| keccak256(seed.to_be_bytes())) {
        assert_eq!(archive.look_up(&unknown).unwrap(), []);
    }
    assert!(archive.index_bytes() < 60_000, "{}", archive.index_bytes());
    drop(archive);
    let archive = open(folder.path(), positions.last().copied());
    check(&archive, &blocks, &positions);
}

/// Wherever the database's last row points, everything behind it is gone after a start, and
/// the archive goes on from there.
#[test]
fn what_the_database_does_not_know_is_cut_off() {
    let blocks = blocks(40);
    for covered in [0, 5, 17, 29, 38] {
        let folder = tempfile::tempdir().unwrap();
        let archive = open(folder.path(), None);
        let positions = archive.append(&blocks).unwrap();
        drop(archive);
        let last = positions[covered];
        let torn = segment::path(folder.path(), positions[39].segment);
        OpenOptions::new().append(true).open(torn).unwrap().write_all(b"torn").unwrap();
        let archive = open(folder.path(), Some(last));
        check(&archive, &blocks[..=covered], &positions[..=covered]);
        let gone = &blocks[39].transactions[0].hash;
        assert_eq!(archive.look_up(gone).unwrap(), []);
        let again = archive.append(&blocks[covered + 1..]).unwrap();
        assert_eq!(again, positions[covered + 1..]);
        check(&archive, &blocks, &positions);
    }
}

#[test]
fn damage_is_reported_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let archive = open(folder.path(), None);
    let positions = archive.append(&blocks(9)).unwrap();
    let at = positions[3];
    let file =
        OpenOptions::new().write(true).open(segment::path(folder.path(), at.segment)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"rot", at.offset + 90).unwrap();
    let error = archive.read(at).unwrap_err();
    assert!(error.to_string().contains("checksum differs"), "{error}");
    let beyond = Position { offset: 1 << 20, ..at };
    assert!(matches!(archive.read(beyond), Err(ArchiveError::Disk { .. })));
    drop(archive);
    let missing = Archive::open(folder.path(), Some(beyond), SMALL, Access::Direct);
    assert!(matches!(missing, Err(ArchiveError::Missing(_))));
}

#[test]
fn the_readers_thread_serves_many_clients() {
    let folder = tempfile::tempdir().unwrap();
    let (client, requests) = read::channel().unwrap();
    let access = Access::Thread(client);
    let archive = Archive::open(folder.path(), None, SMALL, access).unwrap();
    let blocks = blocks(60);
    let positions = archive.append(&blocks).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| stage::run_unnoted(requests, folder.path()));
        std::thread::scope(|clients| {
            for _ in 0..4 {
                clients.spawn(|| check(&archive, &blocks, &positions));
            }
        });
        let beyond = Position { offset: 1 << 20, ..positions[0] };
        assert!(archive.read(beyond).is_err());
        let nowhere = Position { segment: 9_999, ..positions[0] };
        assert!(archive.read(nowhere).is_err());
        // The last client lets the thread end.
        drop(archive);
    });
}

proptest! {
    #[test]
    fn records_come_back_and_changed_ones_are_refused(
        number: u64,
        transactions in 0u64..20,
        at: prop::sample::Index,
        flip in 1u8..255,
    ) {
        let made = block(number, 5..5 + transactions);
        let mut bytes = Vec::new();
        let length = record::encode(&made, &mut bytes).unwrap();
        prop_assert_eq!(length, bytes.len());
        let found = record::decode(&Bytes::from(bytes.clone())).unwrap();
        prop_assert_eq!(found.transactions, made.transactions);
        prop_assert_eq!(found.receipts, made.receipts);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(record::decode(&Bytes::from(bytes)).is_err());
    }

    #[test]
    fn an_index_finds_every_hash(count in 0u64..2_000) {
        let hashes: Vec<B256> = (0..count).map(|n| keccak256(n.to_be_bytes())).collect();
        let entry = |(at, hash): (u32, &B256)| {
            (segment::Entry { front: segment::front(hash), block: at / 7, index: at % 7 }, *hash)
        };
        let mut entries: Vec<_> = (0..).zip(&hashes).map(entry).collect();
        let (closed, bytes) = segment::seal(3, 0, 100, (9, &mut entries));
        let trailer = &bytes[bytes.len() - segment::TRAILER_BYTES..];
        let start = segment::tail_start(trailer, bytes.len() as u64).unwrap();
        let start = usize::try_from(start).unwrap();
        prop_assert_eq!(segment::read_tail(3, &bytes[start..]), Some(closed.clone()));
        let mut torn = bytes[start..].to_vec();
        torn[0] ^= 1;
        prop_assert_eq!(segment::read_tail(3, &torn), None);
        for (at, hash) in (0u32..).zip(&hashes) {
            let (offset, length) = closed.span(hash).expect("known");
            let offset = usize::try_from(offset).unwrap();
            let found = segment::Entry::decode_all(&bytes[offset..offset + length]);
            let front = segment::front(hash);
            let wanted = segment::Entry { front, block: at / 7, index: at % 7 };
            prop_assert!(found.contains(&wanted));
        }
        let unknown = (count..count + 1_000).map(|n| keccak256(n.to_be_bytes()));
        let passed = unknown.filter(|hash| closed.span(hash).is_some()).count();
        prop_assert!(passed < 100, "{passed} of 1000 unknown hashes pass the filter");
    }
}

#[test]
fn made_up_transactions_differ() {
    assert_ne!(transaction(1).hash, transaction(2).hash);
}
