//! The format of a data folder as one number, in a file that every version reads before anything
//! else: a version that does not know the number touches nothing.
//!
//! A version with other layouts raises `STATE_FORMAT` and writes it before the first byte in the
//! new form. The image carries the number too (`BASALT_STATE_FORMAT` in its os-release), so that an
//! update or a way back to a version that could not read the data is refused beforehand.

use crate::node::NodeError;
use crate::state::tables::FORMAT_VERSION;
use crate::wal::record::VERSION;
use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

/// Of all layouts below a data folder together. 1: database 2, log 1.
pub const STATE_FORMAT: u32 = 1;
/// The file, in the data folder.
pub const FILE: &str = "format";
/// Bytes of the file that are looked at.
const BYTES_MAX: u64 = 64;

const _: () = assert!(FORMAT_VERSION == 2 && VERSION == 1, "a new layout: raise STATE_FORMAT");

/// The number in a data folder; `None` in one that is new, or older than the file: format 1.
///
/// # Errors
/// Where the file cannot be read or holds no number.
pub fn recorded(folder: &Path) -> Result<Option<u32>, String> {
    let path = folder.join(FILE);
    let shown = path.display();
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{shown}: cannot be read ({error})")),
    };
    let text = io::read_to_string(io::Read::take(file, BYTES_MAX));
    let text = text.map_err(|error| format!("{shown}: cannot be read ({error})"))?;
    let number = text.trim().parse().ok().filter(|number| *number > 0);
    number.map(Some).ok_or_else(|| {
        format!("{shown}: \"{}\" is no format; restore the data folder", text.trim().escape_debug())
    })
}

/// Refuses a folder of a newer format; in any other the number is ours from now on.
///
/// # Errors
/// Where the format is newer, or the file cannot be read or written. Nothing else was touched.
pub fn claim(folder: &Path) -> Result<(), NodeError> {
    match recorded(folder).map_err(NodeError)? {
        Some(found) if found > STATE_FORMAT => Err(NodeError(format!(
            "data folder {} has format {found}, this version ({}) reads up to {STATE_FORMAT}: \
             run the version that wrote it, or an update that knows the format; nothing was \
             changed",
            folder.display(),
            env!("CARGO_PKG_VERSION")
        ))),
        Some(STATE_FORMAT) => Ok(()),
        _ => write(folder).map_err(|error| {
            NodeError(format!("{}: cannot be written ({error})", folder.join(FILE).display()))
        }),
    }
}

/// Durable before it counts.
fn write(folder: &Path) -> io::Result<()> {
    let staged = folder.join("format.new");
    let mut file = File::create(&staged)?;
    writeln!(file, "{STATE_FORMAT}")?;
    file.sync_all()?;
    fs::rename(&staged, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_folder_is_claimed_and_a_newer_one_is_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(recorded(path), Ok(None));
        claim(path).unwrap();
        claim(path).unwrap();
        assert_eq!(recorded(path), Ok(Some(STATE_FORMAT)));
        let newer = format!("{}\n", STATE_FORMAT + 1);
        fs::write(path.join(FILE), &newer).unwrap();
        let refusal = claim(path).unwrap_err().to_string();
        let wanted = format!("has format {}, this version", STATE_FORMAT + 1);
        assert!(refusal.contains(&wanted) && refusal.contains("nothing was changed"), "{refusal}");
        assert_eq!(fs::read_to_string(path.join(FILE)).unwrap(), newer);
        assert_eq!(fs::read_dir(path).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_number_is_refused_and_an_older_one_is_raised() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "x", "-1", "0", "1 2", "99999999999"] {
            fs::write(folder.path().join(FILE), text).unwrap();
            assert!(claim(folder.path()).is_err(), "{text:?}");
        }
    }
}
