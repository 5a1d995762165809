//! The kernel's settings that the image asks for, read back.

use serde::{Deserialize, Serialize};
use std::{fs, path::Path};

/// Where the image has them; only files of ours are held against the kernel.
const FOLDER: &str = "usr/lib/sysctl.d";
const OURS: &str = "-basalt-";

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadBack {
    /// How many are in force.
    pub in_force: usize,
    /// One for each that is not.
    pub notes: Vec<String>,
}

/// Holds the image's files against the kernel. Some settings are shown to the holder of
/// CAP_SYS_ADMIN only.
pub fn read_back(root: &Path) -> ReadBack {
    let (mut in_force, mut notes) = (0, Vec::new());
    let entries = fs::read_dir(root.join(FOLDER)).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.retain(|path| path.to_string_lossy().contains(OURS));
    files.sort();
    for text in files.iter().filter_map(|path| fs::read_to_string(path).ok()) {
        for (key, wanted) in settings(&text) {
            let path = root.join("proc/sys").join(key.replace('.', "/"));
            match fs::read_to_string(&path) {
                Ok(found) if is_same(&found, wanted) => in_force += 1,
                Ok(found) => {
                    let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
                    notes.push(format!("sysctl {key} is {found}, not {wanted}"));
                }
                Err(error) => notes.push(format!("sysctl {key} cannot be read ({error})")),
            }
        }
    }
    ReadBack { in_force, notes }
}

/// Keys and values of a file of sysctl.d(5).
fn settings(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.trim(), value.trim()))
}

fn is_same(found: &str, wanted: &str) -> bool {
    found.split_whitespace().eq(wanted.split_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_force_is_told() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("usr/lib/sysctl.d/60-basalt-a.conf", "# x = 1\na.b = 2\nc.d = 4096 16 7\ne.f = 1\n");
        put("usr/lib/sysctl.d/50-other.conf", "g.h = 1\n");
        put("proc/sys/a/b", "3\n");
        put("proc/sys/c/d", "4096\t16\t7\n");
        let ReadBack { in_force, notes } = read_back(root.path());
        assert_eq!(in_force, 1);
        assert_eq!(notes[0], "sysctl a.b is 3, not 2");
        assert!(notes[1].starts_with("sysctl e.f cannot be read"), "{notes:?}");
        assert_eq!(notes.len(), 2);
    }

    /// A key that stands twice, or is no key, would be found at a boot only.
    #[test]
    fn the_images_files_are_well_formed() {
        let folder = Path::new("image/mkosi.extra").join(FOLDER);
        let mut keys = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
                let (key, value) = line.split_once(" = ").expect(line);
                assert!(value.split(' ').all(|part| part.parse::<u64>().is_ok()), "{line}");
                assert!(!keys.contains(&key.to_owned()), "{key} stands there twice");
                keys.push(key.to_owned());
            }
        }
        assert!(keys.len() > 30, "{keys:?}");
    }
}
