//! One writer: a ring of its own, one write in flight, durable on return.

use crate::runtime::memory::BLOCK_BYTES;
use io_uring::{
    IoUring, opcode,
    squeue::{Entry, Flags},
    types::{Fd, FsyncFlags},
};
use std::{
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    time::Duration,
};

/// Tries of a write that the kernel broke off without progress, before that is an error.
const IDLE_TRIES_MAX: u32 = 16;
/// Submission entries of a ring: a write and its flush, and room.
const RING_ENTRIES: u32 = 4;
/// How long to wait before looking again for a completion that the kernel will not wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// How bytes are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// io_uring: a write linked to an fdatasync.
    Linked,
    /// io_uring: a write with RWF_DSYNC, one command where the device has forced unit access.
    Dsync,
    /// Two system calls, pwrite and fdatasync: works everywhere.
    Plain,
}

/// Writes durably in one form.
pub struct DurableWriter {
    form: Form,
    /// `None` in the plain form, and after a failure that left the ring in doubt.
    ring: Option<IoUring>,
}

impl Form {
    /// Every form.
    pub const ALL: [Self; 3] = [Self::Linked, Self::Dsync, Self::Plain];

    /// Its name in config and log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linked => "linked_fdatasync",
            Self::Dsync => "rwf_dsync",
            Self::Plain => "pwrite_fdatasync",
        }
    }
}

impl DurableWriter {
    /// A writer of one form.
    ///
    /// # Errors
    /// Where the kernel has no io_uring, or a seccomp filter forbids it; never for `Plain`.
    pub fn new(form: Form) -> io::Result<Self> {
        let ring = match form {
            Form::Plain => None,
            Form::Linked | Form::Dsync => Some(IoUring::new(RING_ENTRIES)?),
        };
        Ok(Self { form, ring })
    }

    /// A writer of the form, or of the plain one where io_uring is not to be had; that is said in
    /// the log.
    pub fn or_plain(form: Form) -> Self {
        Self::new(form).unwrap_or_else(|error| {
            tracing::warn!(
                %error, asked = form.name(), used = Form::Plain.name(),
                "io_uring is not available"
            );
            Self { form: Form::Plain, ring: None }
        })
    }

    /// How it writes.
    pub const fn form(&self) -> Form {
        self.form
    }

    /// Writes bytes at `offset` and returns once all of them are durable. For a file past the
    /// page cache they are whole blocks from the start of an aligned buffer, and `offset` is a
    /// block's boundary; the kernel refuses others.
    ///
    /// # Errors
    /// Where the write or the flush failed. What stands behind `offset` is then in doubt, and a
    /// second flush proves nothing: do not write on.
    pub fn write_durable(&mut self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.form == Form::Plain {
            file.write_all_at(bytes, offset)?;
            return file.sync_data();
        }
        let (mut done, mut idle) = (0, 0);
        while done < bytes.len() {
            let at = offset + u64::try_from(done).map_err(io::Error::other)?;
            let written = self.attempt(file, at, &bytes[done..])?;
            // A direct write must go on from a boundary; what is behind it is written again.
            let progress =
                if done + written == bytes.len() { written } else { written & !(BLOCK_BYTES - 1) };
            idle = if progress == 0 { idle + 1 } else { 0 };
            if idle > IDLE_TRIES_MAX {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done += progress;
        }
        Ok(())
    }

    /// Bytes written; durable where they are all of `bytes`.
    fn attempt(&mut self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let fd = Fd(file.as_raw_fd());
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let write = opcode::Write::new(fd, bytes.as_ptr(), len).offset(offset);
        if self.form == Form::Dsync {
            let ([written], _) = self.complete([write.rw_flags(libc::RWF_DSYNC).build()])?;
            return outcome(written);
        }
        let write = write.build().flags(Flags::IO_LINK);
        let flush = opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build();
        let ([written, flushed], together) = self.complete([write, flush])?;
        let written = outcome(written)?;
        if written < bytes.len() {
            // A short write breaks the link and cancels the flush; the next attempt flushes.
            return Ok(written);
        }
        if together {
            outcome(flushed)?
        } else {
            file.sync_data().map(|()| 0)?
        };
        Ok(written)
    }

    /// Submits entries and waits for all of them. Gives their results in order, and whether the
    /// kernel took them in one submission (else a link between them does not hold).
    #[expect(unsafe_code, reason = "the kernel reads memory that entries point to")]
    fn complete<const N: usize>(&mut self, entries: [Entry; N]) -> io::Result<([i32; N], bool)> {
        let Some(ring) = &mut self.ring else {
            return Err(io::Error::other("the ring broke in an earlier write"));
        };
        let mut tag = 0;
        let entries = entries.map(|entry| {
            tag += 1;
            entry.user_data(tag)
        });
        // SAFETY: the entries point to a buffer and a file that the caller of `write_durable`
        // lends for the whole call, and this function returns only when the kernel has completed
        // every entry that it took. All are pushed or none.
        unsafe { ring.submission().push_multiple(&entries) }.map_err(io::Error::other)?;
        let (mut taken, mut together) = (0, true);
        let mut results = [None; N];
        while results.iter().any(Option::is_none) {
            let missing = results.iter().filter(|result| result.is_none()).count();
            match ring.submit_and_wait(missing) {
                Ok(count) => {
                    together &= taken > 0 || count == N;
                    taken += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if taken == 0 && !busy(&error) => {
                    // Nothing is in flight. Entries that were not taken go with the ring.
                    self.ring = None;
                    return Err(error);
                }
                // In flight, and the kernel will not wait: the buffer is not ours until it is done.
                Err(_) => std::thread::sleep(LOOK_AGAIN),
            }
            for completion in ring.completion() {
                let tag = completion.user_data();
                if let Some(at) = entries.iter().position(|entry| entry.get_user_data() == tag) {
                    results[at] = Some(completion.result());
                }
            }
        }
        Ok((results.map(|result| result.unwrap_or(-libc::EIO)), together))
    }
}

/// The kernel lacks room for the moment.
fn busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY))
}

/// A completion's result as a count; an interrupted operation did nothing.
fn outcome(result: i32) -> io::Result<usize> {
    match result {
        code if code == -libc::EINTR || code == -libc::EAGAIN => Ok(0),
        code if code < 0 => Err(io::Error::from_raw_os_error(-code)),
        count => usize::try_from(count).map_err(io::Error::other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{memory::AlignedBuffer, uring::direct};
    use std::fs;

    #[test]
    fn every_form_writes_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let mut buffer = AlignedBuffer::with_capacity(0);
        for number in 0..BLOCK_BYTES * 3 / 2 {
            buffer.extend(&u16::try_from(number).unwrap().to_le_bytes());
        }
        let bytes = buffer.as_slice();
        for form in Form::ALL {
            let Ok(mut writer) = DurableWriter::new(form) else { continue };
            let path = folder.path().join(form.name());
            let (file, _) = direct::open(&path, true).unwrap();
            writer.write_durable(&file, 0, bytes).unwrap();
            writer.write_durable(&file, 4096, bytes).unwrap();
            let found = fs::read(&path).unwrap();
            assert_eq!(&found[..4096], &bytes[..4096], "{form:?}");
            assert_eq!(&found[4096..], bytes, "{form:?}");
        }
    }

    #[test]
    fn a_failed_write_is_an_error_and_never_a_flush() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("read_only");
        fs::write(&path, []).unwrap();
        let file = File::open(&path).unwrap();
        let zeros = AlignedBuffer::zeroed(4096);
        for form in Form::ALL {
            let Ok(mut writer) = DurableWriter::new(form) else { continue };
            let error = writer.write_durable(&file, 0, zeros.as_slice()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{form:?}");
        }
    }

    #[test]
    fn a_full_device_is_an_error() {
        let Ok((file, _)) = direct::open(std::path::Path::new("/dev/full"), false) else { return };
        let zeros = AlignedBuffer::zeroed(4096);
        for form in Form::ALL {
            let Ok(mut writer) = DurableWriter::new(form) else { continue };
            let error = writer.write_durable(&file, 0, zeros.as_slice()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{form:?}");
        }
    }
}
