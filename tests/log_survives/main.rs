//! Whatever was acknowledged is there after a crash, and nothing that was never written is.
#![expect(clippy::unwrap_used, reason = "a test fails where anything does")]

mod events;

use basalt::{
    runtime::{
        clock::Clock, memory::AlignedBuffer, metrics::Metrics, ring::ring, uring::writer::Form,
    },
    topology::seat::Stage,
    types::flow::{Event, Step},
    wal::{
        codec,
        log::{AppendError, Log},
        replay::{ReplayError, Settings, open},
        stage::{WalMetrics, run},
    },
};
use events::{any_event, chain, same};
use proptest::prelude::*;
use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

const SEGMENT_BYTES: u64 = 64 * 1024;
const BLOCK: usize = 4096;

fn settings(folder: &Path) -> Settings {
    Settings {
        directory: folder.to_owned(),
        segment_bytes: SEGMENT_BYTES,
        form: Some(Form::Plain),
        steady: Arc::default(),
    }
}

/// A log ready to be written, with the thread that makes its segments, and what was in it.
struct Running {
    log: Option<Log>,
    preparer: Option<thread::JoinHandle<()>>,
    replayed: Vec<Event>,
}

impl Running {
    fn start(settings: Settings, after: u64) -> Result<Self, ReplayError> {
        let mut replay = open(settings).unwrap().replay(after)?;
        let mut replayed = Vec::new();
        while let Some(next) = replay.next_event()? {
            replayed.push(next.event);
        }
        let (log, preparer) = replay.finish(&Clock::system())?;
        let preparer = thread::Builder::new().spawn(|| preparer.run()).unwrap();
        Ok(Self { log: Some(log), preparer: Some(preparer), replayed })
    }

    fn log(&mut self) -> &mut Log {
        self.log.as_mut().unwrap()
    }

    fn append(&mut self, events: &[Event]) {
        for event in events {
            self.log().add(event).unwrap();
        }
        self.log().flush().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.log.take());
        self.preparer.take().unwrap().join().unwrap();
    }
}

/// What a log in `folder` replays to.
fn read(folder: &Path, after: u64) -> Result<Vec<Event>, ReplayError> {
    let mut replay = open(settings(folder)).unwrap().replay(after)?;
    let mut events = Vec::new();
    while let Some(next) = replay.next_event()? {
        events.push(next.event);
    }
    Ok(events)
}

fn assert_prefix(found: &[Event], of: &[Event]) {
    assert!(found.len() <= of.len(), "{} events out of {}", found.len(), of.len());
    for (at, (found, written)) in found.iter().zip(of).enumerate() {
        assert!(same(found, written), "event {at} differs");
    }
}

fn assert_equal(found: &[Event], written: &[Event]) {
    assert_prefix(found, written);
    assert_eq!(found.len(), written.len());
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    paths.sort();
    paths
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

/// A log of one segment: batches of one, two or three events. Gives all events, how many were
/// acknowledged before the last batch, and where that batch begins.
fn batches(folder: &Path) -> (Vec<Event>, usize, u64) {
    let events = chain(11, |at| at * 700);
    let mut running = Running::start(settings(folder), 0).unwrap();
    let mut last = (0, 0);
    for (from, to) in [(0, 1), (1, 3), (3, 4), (4, 7), (7, 8), (8, 11)] {
        last = (from, running.log().durable_bytes());
        running.append(&events[from..to]);
    }
    (events, last.0, last.1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn an_event_comes_back_as_it_was(event in any_event()) {
        let mut buffer = AlignedBuffer::with_capacity(0);
        codec::encode(&event, &mut buffer);
        let decoded = codec::decode(codec::kind(&event), buffer.as_slice()).unwrap();
        prop_assert!(same(&decoded, &event));
        let mut again = AlignedBuffer::with_capacity(0);
        codec::encode(&decoded, &mut again);
        prop_assert_eq!(again.as_slice(), buffer.as_slice());
    }

    #[test]
    fn a_damaged_payload_never_panics(
        event in any_event(),
        cut in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..8),
    ) {
        let mut buffer = AlignedBuffer::with_capacity(0);
        codec::encode(&event, &mut buffer);
        let kind = codec::kind(&event);
        let bytes = buffer.as_mut_slice();
        let cut = cut.index(bytes.len());
        prop_assert!(codec::decode(kind, &bytes[..cut]).is_err());
        for (at, mask) in flips {
            bytes[at.index(bytes.len())] ^= mask;
        }
        if let Ok(other) = codec::decode(kind, bytes) {
            // It is another event then, and the record's checksum is what tells.
            let mut again = AlignedBuffer::with_capacity(0);
            codec::encode(&other, &mut again);
            prop_assert_eq!(again.as_slice(), &*bytes);
        }
    }
}

#[test]
fn what_is_written_over_many_segments_and_starts_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let events = chain(60, |at| (at * 1_777) % 9_000);
    let mut written = 0;
    for part in events.chunks(17) {
        let mut running = Running::start(settings(folder.path()), 0).unwrap();
        assert_equal(&running.replayed, &events[..written]);
        for event in part {
            running.append(std::slice::from_ref(event));
        }
        written += part.len();
    }
    assert!(segments(folder.path()).len() > 3);
    assert_equal(&read(folder.path(), 0).unwrap(), &events);
    // Blocks have three events each.
    assert_equal(&read(folder.path(), 7).unwrap(), &events[21..]);
    assert_equal(&read(folder.path(), 20).unwrap(), &[]);
}

#[test]
fn every_form_of_write_leaves_the_same_log() {
    for form in Form::ALL {
        let folder = tempfile::tempdir().unwrap();
        let events = chain(9, |at| at * 5_000);
        let settings = Settings { form: Some(form), ..settings(folder.path()) };
        let mut running = Running::start(settings, 0).unwrap();
        running.append(&events);
        drop(running);
        assert_equal(&read(folder.path(), 0).unwrap(), &events);
    }
}

#[test]
fn a_log_cut_anywhere_replays_to_a_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let (events, _, _) = batches(folder.path());
    let path = &segments(folder.path())[0];
    let whole = fs::read(path).unwrap();
    let mut longest = 0;
    for cut in (0..=whole.len()).step_by(512) {
        let torn = copy(folder.path());
        let path = &segments(torn.path())[0];
        // A segment is written out with zeros before its first record: it never gets shorter.
        let mut left = whole.clone();
        left[cut..].fill(0);
        fs::write(path, left).unwrap();
        let found = read(torn.path(), 0).unwrap();
        assert_prefix(&found, &events);
        assert!(found.len() >= longest, "cut at {cut}");
        longest = found.len();
        // And the log goes on from there.
        let mut running = Running::start(settings(torn.path()), 0).unwrap();
        running.append(&events[found.len()..]);
        drop(running);
        assert_equal(&read(torn.path(), 0).unwrap(), &events);
    }
    assert_eq!(longest, events.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The last write reaches the disk block by block in any order; all before it was flushed.
    #[test]
    fn a_crash_in_a_write_loses_nothing_acknowledged(
        reached in prop::collection::vec(any::<bool>(), 64),
        torn_at in 0usize..BLOCK,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (events, acknowledged, begin) = batches(folder.path());
        let path = &segments(folder.path())[0];
        let mut bytes = fs::read(path).unwrap();
        let begin = usize::try_from(begin).unwrap();
        for (block, reached) in bytes[begin..].chunks_mut(BLOCK).zip(reached) {
            if !reached {
                block[torn_at..].fill(0xaa);
            }
        }
        fs::write(path, bytes).unwrap();
        let found = read(folder.path(), 0).unwrap();
        assert_prefix(&found, &events);
        prop_assert!(found.len() >= acknowledged, "{} of {acknowledged}", found.len());
        // A second life writes the lost ones again, over what is left of the first.
        let mut running = Running::start(settings(folder.path()), 0).unwrap();
        for event in &events[found.len()..] {
            running.append(std::slice::from_ref(event));
        }
        drop(running);
        assert_equal(&read(folder.path(), 0).unwrap(), &events);
    }

    #[test]
    fn flipped_bytes_give_a_prefix_or_an_error(
        flips in prop::collection::vec((0usize..65_536, 1u8..), 1..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (events, acknowledged, begin) = batches(folder.path());
        let path = &segments(folder.path())[0];
        let mut bytes = fs::read(path).unwrap();
        for (at, mask) in &flips {
            bytes[*at] ^= mask;
        }
        fs::write(path, bytes).unwrap();
        match read(folder.path(), 0) {
            Ok(found) => {
                assert_prefix(&found, &events);
                // Only the last write, which looks like a torn one, may go unnoticed; or, with it,
                // the headers that would tell.
                let before = flips.iter().all(|(at, _)| (*at as u64) < begin);
                prop_assert!(!before || found.len() == events.len() || flips.len() > 1);
                prop_assert!(flips.len() > 1 || found.len() >= acknowledged);
            }
            Err(error) => {
                prop_assert!(matches!(error, ReplayError::Corrupt { .. }), "{error}");
            }
        }
    }
}

#[test]
fn damage_in_the_middle_stops_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    batches(folder.path());
    let path = &segments(folder.path())[0];
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&[0xff; 40], 4096 + 300).unwrap();
    let error = read(folder.path(), 0).unwrap_err();
    let ReplayError::Corrupt { at, .. } = &error else { panic!("{error}") };
    assert_eq!((at.offset, at.record), (4096, 2));
    let text = error.to_string();
    assert!(text.contains("wal-0000000000000001.seg at byte 4096, record 2"), "{text}");
    assert!(text.contains("restore the segment"), "{text}");
}

#[test]
fn a_log_that_does_not_fit_the_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let events = chain(12, |_| 9);
    let mut running = Running::start(settings(folder.path()), 0).unwrap();
    running.append(&events[3..]);
    drop(running);
    let error = read(folder.path(), 0).unwrap_err();
    assert!(matches!(error, ReplayError::Missing { block: 2, after: 0, .. }), "{error}");
    assert_equal(&read(folder.path(), 1).unwrap(), &events[3..]);
    let error = read(folder.path(), 9).unwrap_err();
    assert!(matches!(error, ReplayError::Behind { block: 4, after: 9, .. }), "{error}");
}

#[test]
fn events_out_of_order_are_refused_and_stop_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let events = chain(5, |_| 9);
    let mut running = Running::start(settings(folder.path()), 0).unwrap();
    running.append(&events[..1]);
    let error = running.log().add(&events[3]).unwrap_err();
    assert!(matches!(error, AppendError::Disordered { number: 3, tip: 1, .. }), "{error}");
    let error = running.log().add(&events[1]).unwrap_err();
    assert!(matches!(error, AppendError::Stopped), "{error}");
    drop(running);
    assert_equal(&read(folder.path(), 0).unwrap(), &events[..1]);
}

#[test]
fn a_record_larger_than_a_segment_has_one_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let large = |at| if at % 4 == 1 { 300_000 } else { 2_000 };
    let events = chain(12, large);
    let mut running = Running::start(settings(folder.path()), 0).unwrap();
    for pair in events.chunks(2) {
        running.append(pair);
    }
    drop(running);
    assert_equal(&read(folder.path(), 0).unwrap(), &events);
}

#[test]
fn segments_behind_the_checkpoint_are_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let steady = Arc::new(AtomicU64::new(0));
    let events = chain(600, |at| if at % 100 == 0 { 100_000 } else { 3_000 });
    let settings = Settings { steady: Arc::clone(&steady), ..settings(folder.path()) };
    let mut running = Running::start(settings.clone(), 0).unwrap();
    let mut most = 0;
    for (at, event) in events.iter().enumerate() {
        running.append(std::slice::from_ref(event));
        let block = at as u64 / 3 + 1;
        // The checkpoint is 20 blocks behind.
        steady.store(block.saturating_sub(20), Ordering::Release);
        most = most.max(segments(folder.path()).len());
        if at % 150 == 149 {
            // What recycled segments held before is in nobody's way, wherever the log stands.
            let after = block.saturating_sub(20);
            let from = usize::try_from(after).unwrap() * 3;
            drop(running);
            running = Running::start(settings.clone(), after).unwrap();
            assert_equal(&running.replayed, &events[from..=at]);
        }
    }
    drop(running);
    assert!(most <= 14, "{most} segments at once");
    assert_equal(&read(folder.path(), 180).unwrap(), &events[540..]);
    let error = read(folder.path(), 0).unwrap_err();
    assert!(matches!(error, ReplayError::Missing { .. }), "{error}");
}

#[test]
fn steps_that_wait_share_a_flush_and_go_on_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let events = chain(20, |_| 100);
    let mut running = Running::start(settings(folder.path()), 0).unwrap();
    let (input, waiting) = ring(events.len());
    let (output, durable) = ring(events.len());
    for event in &events {
        let step = Step { event: event.clone(), overlay: Default::default() };
        assert!(input.push(step).is_ok());
    }
    drop(input);
    let registry = Metrics::default();
    let metrics = WalMetrics::new(&registry, registry.stage(Stage::Wal));
    run(running.log.take().unwrap(), &waiting, &output, &Clock::system(), &metrics).unwrap();
    drop(output);
    let mut passed = Vec::new();
    while let Some(step) = durable.pop_wait() {
        passed.push(step.event);
    }
    assert_equal(&passed, &events);
    // Twenty steps of a block each: eight, eight, four; sixteen fill the segment.
    assert_eq!(metrics.flushes.get(), 3);
    assert_eq!(metrics.bytes.get(), 20 * 4096);
    assert_eq!(metrics.stage.items.get(), 20);
    assert!(registry.render().contains("basalt_wal_durable_seconds_count 3"));
    assert_equal(&read(folder.path(), 0).unwrap(), &events);
}
