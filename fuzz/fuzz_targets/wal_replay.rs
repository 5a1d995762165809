//! Replay of a log from arbitrary bytes: an event, a clean end or an error, never a panic.
//!
//! The first byte chooses: payloads as they are (the checksum would keep nearly all of them away
//! from the decoder), or the bytes as a segment, by themselves or as changes of a sound one.
#![no_main]

use basalt::{
    runtime::{clock::Clock, memory::AlignedBuffer, uring::writer::Form},
    types::flow::Event,
    wal::{
        codec,
        record::Kind,
        replay::{Settings, open},
    },
};
use libfuzzer_sys::fuzz_target;
use std::{fs, path::Path, sync::OnceLock};

const SEGMENT: &str = "wal-0000000000000001.seg";

fuzz_target!(|input: &[u8]| {
    let Some((mode, bytes)) = input.split_first() else { return };
    match mode % 4 {
        0 => payload(Kind::MiniBlock, bytes),
        1 => payload(Kind::Close, bytes),
        2 => segment(bytes),
        _ => changed(bytes),
    }
});

/// What decodes is what its encoding decodes to.
fn payload(kind: Kind, bytes: &[u8]) {
    let Ok(event) = codec::decode(kind, bytes) else { return };
    let mut buffer = AlignedBuffer::with_capacity(0);
    codec::encode(&event, &mut buffer);
    assert_eq!(buffer.as_slice(), bytes);
}

fn segment(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    drop(open(settings(folder.path())).expect("an empty log"));
    // A file of another size is refused when the log is opened.
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(64 * 1024).max(64 * 1024), 0);
    fs::write(folder.path().join(SEGMENT), bytes).expect("a segment");
    assert!(replay(folder.path()) == 0, "an event out of nothing");
}

/// Changes of a sound segment: four bytes each, a place (3) and what is flipped there (1).
fn changed(bytes: &[u8]) {
    let (identity, sound, count) = sound();
    let mut segment = sound.clone();
    for change in bytes.chunks_exact(4) {
        let place = u32::from_le_bytes([change[0], change[1], change[2], 0]);
        let place = usize::try_from(place).unwrap_or(0) % segment.len();
        segment[place] ^= change[3];
    }
    let folder = tempfile::tempdir().expect("a scratch folder");
    fs::write(folder.path().join("identity"), identity).expect("an identity");
    fs::write(folder.path().join(SEGMENT), segment).expect("a segment");
    assert!(replay(folder.path()) <= *count, "more events than were written");
}

/// The identity and the segment of a log of closed blocks, and how many.
fn sound() -> &'static (Vec<u8>, Vec<u8>, usize) {
    static SOUND: OnceLock<(Vec<u8>, Vec<u8>, usize)> = OnceLock::new();
    SOUND.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let replay = open(settings(folder.path())).expect("a log").replay(0).expect("a replay");
        let (mut log, _preparer) = replay.finish(&Clock::manual(0)).expect("a log");
        let mut count = 0;
        for number in 1u8..=6 {
            log.add(&close(number)).expect("an event that is added");
            count += 1;
            if number % 2 == 0 {
                log.flush().expect("a durable event");
            }
        }
        drop(log);
        let read = |name| fs::read(folder.path().join(name)).expect("a file of the log");
        (read("identity"), read(SEGMENT), count)
    })
}

/// A block that closes empty, by way of its payload: number, and zeros up to the requests.
fn close(number: u8) -> Event {
    let mut payload = vec![0; 8 * 4 + 20 + 32 + 32 + 8 * 4 + 4 + 4 + 4];
    payload[0] = number;
    codec::decode(Kind::Close, &payload).expect("a close")
}

fn settings(folder: &Path) -> Settings {
    Settings {
        directory: folder.to_owned(),
        segment_bytes: 64 * 1024,
        form: Some(Form::Plain),
        steady: Default::default(),
    }
}

/// Events until the end or an error.
fn replay(folder: &Path) -> usize {
    let Ok(unreplayed) = open(settings(folder)) else { return 0 };
    let Ok(mut replay) = unreplayed.replay(0) else { return 0 };
    let mut events = 0;
    while let Ok(Some(_)) = replay.next_event() {
        events += 1;
    }
    events
}
