//! Opening a file past the page cache, where its file system lets us.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// How a file is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// O_DIRECT: addresses, offsets and lengths must be multiples of a block.
    Direct,
    /// Through the page cache, because the file system refuses O_DIRECT.
    Buffered,
}

/// Opens a file to read and write, past the page cache where that is possible.
///
/// # Errors
/// Where the file can be opened in neither way.
pub fn open(path: &Path, create: bool) -> io::Result<(File, Access)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create);
    match options.clone().custom_flags(libc::O_DIRECT).open(path) {
        Ok(file) => Ok((file, Access::Direct)),
        // tmpfs, some overlay and network file systems: EINVAL.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            tracing::debug!(path = %path.display(), "no O_DIRECT here: writes are buffered");
            Ok((options.open(path)?, Access::Buffered))
        }
        Err(error) => Err(error),
    }
}
