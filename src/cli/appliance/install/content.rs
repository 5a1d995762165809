//! What is on a disk: whether it may be written over unasked. Signatures are found by libblkid,
//! through `wipefs`; what it does not know is told by bytes that are not zero.

use crate::cli::appliance::install::gpt::{self, Geometry};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::Command,
};

/// The only partition of a disk that an installation was begun on and not ended.
pub const UNFINISHED: &str = "basalt_unfinished";
/// Bytes at the head and at the end of a disk that have to be zero for it to be empty.
const BLANK_BYTES: u64 = 1 << 20;
/// Things told of one disk at most.
const WHAT_MAX: usize = 12;

/// How far a disk is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nothing known is on it, and its head and end are zero.
    Empty,
    /// An installation was begun on it and not ended.
    Unfinished,
    /// Something is on it.
    Used,
    /// It is a part of an array or a volume group.
    Member,
    /// It cannot be told.
    Unreadable,
}

/// What is on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Content {
    /// Whether it may be written over.
    pub kind: Kind,
    /// What was found, in words.
    pub what: Vec<String>,
}

impl Content {
    fn of(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: vec![what.into()] }
    }

    /// In one line.
    pub fn text(&self) -> String {
        match self.kind {
            Kind::Empty => "empty".to_owned(),
            Kind::Unfinished => "an unfinished Basalt installation".to_owned(),
            Kind::Used => self.what.join(", "),
            Kind::Member => format!("part of an array: {}", self.what.join(", ")),
            Kind::Unreadable => format!("cannot be read: {}", self.what.join(", ")),
        }
    }
}

/// What `wipefs --json` tells.
#[derive(Debug, Deserialize)]
pub struct Signatures {
    signatures: Vec<Signature>,
}

/// A known sequence of bytes on a device.
#[derive(Debug, Deserialize)]
struct Signature {
    device: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    usage: Option<String>,
    label: Option<String>,
}

/// Looks at a disk (the first of the paths) and its partitions.
pub fn look(nodes: &[PathBuf], geometry: Geometry) -> Content {
    look_with(nodes, geometry, &wipefs)
}

/// The same with another way to find signatures.
fn look_with(
    nodes: &[PathBuf],
    geometry: Geometry,
    signatures: &dyn Fn(&Path) -> Result<Signatures, String>,
) -> Content {
    let Some(disk) = nodes.first().filter(|_| geometry.bytes > 0) else {
        return Content { kind: Kind::Empty, what: Vec::new() };
    };
    let unreadable =
        |what: &dyn std::fmt::Display| Content::of(Kind::Unreadable, format!("{what}"));
    let (table, is_blank) = match head_and_end(disk, geometry) {
        Ok(found) => found,
        Err(error) => return unreadable(&error),
    };
    let names: Vec<&str> =
        table.iter().flat_map(|table| &table.entries).map(|entry| entry.name.as_str()).collect();
    if names == [UNFINISHED] {
        return Content { kind: Kind::Unfinished, what: Vec::new() };
    }
    let mut found = Vec::new();
    for node in nodes {
        match signatures(node) {
            Ok(some) => found.extend(some.signatures),
            Err(error) => return unreadable(&error),
        }
    }
    let is_member = found.iter().any(Signature::is_member);
    let mut what: Vec<String> = found.iter().map(Signature::text).collect();
    if !names.is_empty() {
        what.insert(0, format!("partitions {}", names.join(" ")));
    }
    what.sort_by_key(|text| !text.starts_with("partitions "));
    what.dedup();
    what.truncate(WHAT_MAX);
    match (is_member, what.is_empty(), is_blank) {
        (true, ..) => Content { kind: Kind::Member, what },
        (false, false, _) => Content { kind: Kind::Used, what },
        (false, true, false) => Content::of(Kind::Used, "data of no known kind"),
        (false, true, true) => Content { kind: Kind::Empty, what },
    }
}

impl Signature {
    /// libblkid calls the usage of most of them "raid".
    fn is_member(&self) -> bool {
        let kind = self.kind.as_deref().unwrap_or_default();
        self.usage.as_deref() == Some("raid")
            || kind.ends_with("_member")
            || matches!(kind, "bcache" | "ceph_bluestore" | "drbd")
    }

    fn text(&self) -> String {
        let kind = self.kind.as_deref().unwrap_or("unknown");
        let device = self.device.as_deref().map(|it| format!(" on {it}")).unwrap_or_default();
        let label = self.label.as_deref().map(|it| format!(" \"{it}\"")).unwrap_or_default();
        // A label is anybody's text.
        format!("{kind}{label}{device}").replace(|c: char| c.is_control(), "?")
    }
}

/// The partition table, and whether both ends are zero.
fn head_and_end(disk: &Path, geometry: Geometry) -> io::Result<(Option<gpt::Table>, bool)> {
    let mut file = File::open(disk)?;
    let bytes = BLANK_BYTES.min(geometry.bytes);
    let mut blank = true;
    let mut part = vec![0; usize::try_from(bytes).unwrap_or(0)];
    for at in [0, geometry.bytes - bytes] {
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut part)?;
        blank &= part.iter().all(|byte| *byte == 0);
    }
    let table = if blank { None } else { gpt::read(&mut file, geometry).ok() };
    Ok((table, blank))
}

fn wipefs(device: &Path) -> Result<Signatures, String> {
    let mut command = Command::new("wipefs");
    command.args(["--json", "--no-act", "--output", "DEVICE,TYPE,USAGE,LABEL"]).arg(device);
    let failed = |what: &str| format!("wipefs {}: {what}", device.display());
    let done = command.output().map_err(|error| failed(&error.to_string()))?;
    if !done.status.success() {
        return Err(failed(String::from_utf8_lossy(&done.stderr).trim()));
    }
    parsed(&done.stdout).map_err(|error| failed(&error))
}

/// Older versions print nothing where there is nothing.
fn parsed(text: &[u8]) -> Result<Signatures, String> {
    if text.trim_ascii().is_empty() {
        return Ok(Signatures { signatures: Vec::new() });
    }
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::appliance::install::gpt::{Entry, LINUX, Table};
    use std::io::Write as _;

    const GEOMETRY: Geometry = Geometry { bytes: 8 << 20, sector: 512 };

    fn seen(head: &[u8], json: &str) -> Content {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(head).unwrap();
        file.as_file().set_len(GEOMETRY.bytes).unwrap();
        let json = json.to_owned();
        look_with(&[file.path().to_owned()], GEOMETRY, &move |_| parsed(json.as_bytes()))
    }

    fn table(name: &str) -> Vec<u8> {
        let name = name.to_owned();
        let (id, start, bytes) = ([1; 16], 1 << 20, 1 << 20);
        let entry = Entry { kind: LINUX, id, start, bytes, attributes: 0, name };
        gpt::encode(&Table { id, entries: vec![entry] }, GEOMETRY).unwrap().primary
    }

    #[test]
    fn only_zeros_without_a_signature_are_empty() {
        assert_eq!(seen(b"", "{\"signatures\": []}").kind, Kind::Empty);
        assert_eq!(seen(b"", "").kind, Kind::Empty);
        assert_eq!(seen(b"x", "").text(), "data of no known kind");
        let json = r#"{"signatures": [
            {"device": "sda1", "type": "ext4", "usage": "filesystem", "label": "a\u001bb"}]}"#;
        let content = seen(b"", json);
        assert_eq!((content.kind, content.text().as_str()), (Kind::Used, "ext4 \"a?b\" on sda1"));
    }

    #[test]
    fn members_of_arrays_and_what_cannot_be_read_are_told_apart() {
        for (kind, usage) in [("LVM2_member", "raid"), ("zfs_member", "filesystem")] {
            let json = format!(r#"{{"signatures": [{{"type": "{kind}", "usage": "{usage}"}}]}}"#);
            assert_eq!(seen(b"", &json).kind, Kind::Member, "{kind}");
        }
        assert_eq!(seen(b"", "{").kind, Kind::Unreadable);
        let missing = [PathBuf::from("/nonexistent")];
        assert_eq!(look_with(&missing, GEOMETRY, &|_| parsed(b"")).kind, Kind::Unreadable);
    }

    #[test]
    fn an_installation_that_was_begun_is_known_by_its_only_partition() {
        let json = r#"{"signatures": [{"type": "gpt", "usage": "partition-table"}]}"#;
        assert_eq!(seen(&table(UNFINISHED), json).kind, Kind::Unfinished);
        let content = seen(&table("data"), json);
        assert_eq!((content.kind, content.text().as_str()), (Kind::Used, "partitions data, gpt"));
    }
}
