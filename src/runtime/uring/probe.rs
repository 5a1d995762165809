//! Which form of durable write is fastest on this kernel and device, found by trying.

use crate::runtime::{
    clock::Clock,
    memory::{AlignedBuffer, BLOCK_BYTES},
    uring::{
        direct,
        writer::{DurableWriter, Form},
    },
};
use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// Writes of each form. Forms take turns, so that a slow moment of the device hits all alike.
const ROUNDS: usize = 32;
/// Blocks of the scratch file, written one after another.
const SCRATCH_BLOCKS: usize = 16;
/// A form whose single write takes longer is not tried again.
const ROUND_US_MAX: u64 = 50_000;
/// Name of the scratch file.
const SCRATCH: &str = "probe.scratch";

/// What a form took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// The form.
    pub form: Form,
    /// Median of one durable 4 KiB write, microseconds.
    pub p50_us: u64,
    /// The slowest, microseconds.
    pub max_us: u64,
}

/// Times each form in a scratch file of `folder`, which is removed again, fastest median first.
/// A form that does not work here is left out; the plain one works wherever files do.
///
/// # Errors
/// Where the scratch file cannot be written at all.
pub fn time_forms(folder: &Path, clock: &Clock) -> io::Result<Vec<Timing>> {
    let path = folder.join(SCRATCH);
    let (file, _) = direct::open(&path, true)?;
    let timings = time_in(&file, clock);
    fs::remove_file(&path)?;
    timings
}

/// The fastest form in `folder`; the log says what each took.
///
/// # Errors
/// Where no file can be written there.
pub fn fastest(folder: &Path, clock: &Clock) -> io::Result<Form> {
    let timings = time_forms(folder, clock)?;
    for Timing { form, p50_us, max_us } in &timings {
        tracing::info!(form = form.name(), p50_us, max_us, "durable write of 4 KiB");
    }
    let form = timings.first().map_or(Form::Plain, |timing| timing.form);
    tracing::info!(form = form.name(), "durable writes take the fastest form");
    Ok(form)
}

fn time_in(file: &File, clock: &Clock) -> io::Result<Vec<Timing>> {
    // Written ahead as segments are: the first write of a block costs more than the next.
    let mut plain = DurableWriter::new(Form::Plain)?;
    let zeros = AlignedBuffer::zeroed(SCRATCH_BLOCKS * BLOCK_BYTES);
    plain.write_durable(file, 0, zeros.as_slice())?;
    let block = &zeros.as_slice()[..BLOCK_BYTES];
    let mut trials: Vec<_> = Form::ALL
        .into_iter()
        .filter_map(|form| DurableWriter::new(form).ok())
        .map(|writer| (writer, Vec::with_capacity(ROUNDS)))
        .collect();
    for round in 0..ROUNDS {
        let offset = u64::try_from(round % SCRATCH_BLOCKS * BLOCK_BYTES).unwrap_or(0);
        trials.retain_mut(|(writer, took)| {
            if took.last().is_some_and(|last| *last > ROUND_US_MAX) {
                return true;
            }
            let start_us = clock.now_us();
            let written = writer.write_durable(file, offset, block);
            took.push(clock.now_us() - start_us);
            if let Err(error) = &written {
                tracing::info!(form = writer.form().name(), %error, "does not work here");
            }
            written.is_ok()
        });
    }
    let mut timings: Vec<Timing> = trials.into_iter().filter_map(timing).collect();
    timings.sort_by_key(|timing| timing.p50_us);
    Ok(timings)
}

fn timing((writer, mut took): (DurableWriter, Vec<u64>)) -> Option<Timing> {
    took.sort_unstable();
    let p50_us = *took.get(took.len() / 2)?;
    Some(Timing { form: writer.form(), p50_us, max_us: *took.last()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_form_always_works_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let timings = time_forms(folder.path(), &Clock::system()).unwrap();
        assert!(timings.iter().any(|timing| timing.form == Form::Plain), "{timings:?}");
        assert!(timings.is_sorted_by_key(|timing| timing.p50_us), "{timings:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
