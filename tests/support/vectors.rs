//! Conformance suites, from `BASALT_VECTORS` or `../shared/vectors`: a folder or a `.tar.zst` each.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// One file of a suite.
pub struct Vector {
    /// Path inside the suite, such as `osaka/eip7825/test_x.json`.
    pub path: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What a suite's run came to.
#[derive(Debug, Default)]
pub struct Tally {
    pub ran: usize,
    pub failures: Vec<String>,
    /// Case and reason.
    pub excluded: Vec<(String, String)>,
}

impl Tally {
    /// Notes one case that ran.
    pub fn ran(&mut self, case: &str, verdict: Result<(), String>) {
        self.ran += 1;
        if let Err(why) = verdict {
            self.failures.push(format!("{case}: {why}"));
        }
    }

    pub fn exclude(&mut self, case: &str, why: &str) {
        self.excluded.push((case.to_owned(), why.to_owned()));
    }

    /// Prints the closing line and fails where a case failed or none ran.
    pub fn finish(self, suite: &str) {
        let mut reasons = std::collections::BTreeMap::<&str, usize>::new();
        for (_, why) in &self.excluded {
            *reasons.entry(why).or_default() += 1;
        }
        for (why, count) in reasons {
            println!("{suite}: excluded {count}: {why}");
        }
        let passed = self.ran - self.failures.len();
        let excluded = self.excluded.len();
        println!("{suite}: ran {}, passed {passed}, excluded {excluded}", self.ran);
        let shown: Vec<_> = self.failures.iter().take(20).cloned().collect();
        let failed = self.failures.len();
        assert!(failed == 0, "{suite}: {failed} failed\n{}", shown.join("\n"));
        assert!(self.ran > 0, "{suite}: not one case ran");
    }
}

/// The files of a suite in order of path, or `None` where no vectors are at hand and none were
/// asked for. A folder named by `BASALT_VECTORS` that lacks the suite fails the test.
pub fn suite(name: &str) -> Option<Vec<Vector>> {
    let named = std::env::var_os("BASALT_VECTORS").map(PathBuf::from);
    let root = named
        .clone()
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors"));
    let (folder, archive) = (root.join(name), root.join(format!("{name}.tar.zst")));
    let mut found = if folder.is_dir() {
        from_folder(&folder)
    } else if archive.is_file() {
        from_archive(&archive, name)
    } else {
        assert!(named.is_none(), "{name}: neither a folder nor a .tar.zst in {}", root.display());
        println!("{name}: no vectors at {}; set BASALT_VECTORS to run them", root.display());
        return None;
    };
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "{name}: empty");
    Some(found)
}

fn from_folder(folder: &Path) -> Vec<Vector> {
    let files = walkdir::WalkDir::new(folder).into_iter().map(|entry| entry.expect("readable"));
    files
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| Vector {
            path: entry.path().strip_prefix(folder).expect("below").display().to_string(),
            bytes: fs::read(entry.path()).expect("readable"),
        })
        .collect()
}

fn from_archive(archive: &Path, name: &str) -> Vec<Vector> {
    let file = zstd::Decoder::new(File::open(archive).expect("readable")).expect("zstd");
    let mut found = Vec::new();
    for entry in tar::Archive::new(file).entries().expect("tar") {
        let mut entry = entry.expect("tar entry");
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().expect("path").display().to_string();
        let path = path.trim_start_matches("./").trim_start_matches(name).trim_start_matches('/');
        let path = path.to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("tar entry");
        found.push(Vector { path, bytes });
    }
    found
}

/// A number in hexadecimal digits, where there is one.
pub fn number(value: &serde_json::Value) -> Option<u64> {
    let text = value.as_str()?;
    Some(u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number"))
}

/// Whatever a string stands for.
pub fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(value: &serde_json::Value) -> T {
    value.as_str().expect("hex").parse().expect("a value")
}

/// Bytes in hexadecimal digits.
pub fn bytes(value: &serde_json::Value) -> alloy_primitives::Bytes {
    alloy_primitives::hex::decode(value.as_str().expect("hex")).expect("hex").into()
}
