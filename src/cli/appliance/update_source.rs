//! What a mirror holds: sums that somebody signed, and the parts of versions.

use crate::cli::appliance::fetch::{self, FetchError};
use crate::cli::appliance::update_entries::order;
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs::{self, File},
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
    time::Duration,
};

const SUMS: &str = "SHA256SUMS";
const SIGNATURE: &str = "SHA256SUMS.gpg";
/// Bytes of the sums and of a signature at most.
const SUMS_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes of a part at most: a slot's size.
const PART_BYTES_MAX: u64 = 4 << 30;

/// A folder or a mirror.
#[derive(Debug, Clone)]
pub enum Source {
    /// On this machine.
    Folder(PathBuf),
    /// `http://…` or `https://…`
    Mirror(String),
    /// Another scheme, which is refused when it is used.
    Unknown(String),
}

impl FromStr for Source {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.split_once("://") {
            Some(("http" | "https", _)) => Self::Mirror(text.trim_end_matches('/').to_owned()),
            Some(("file", path)) => Self::Folder(PathBuf::from(path)),
            Some(_) => Self::Unknown(text.to_owned()),
            None => Self::Folder(PathBuf::from(text)),
        })
    }
}

/// A version with all of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Which.
    pub version: String,
    /// Names of its files, and their sums.
    pub files: Vec<(String, String)>,
}

/// What a source has, after its signature was found good.
#[derive(Debug)]
pub struct Releases {
    source: Source,
    sums: Vec<u8>,
    signature: Vec<u8>,
    all: Vec<Release>,
}

impl Source {
    /// Reads the sums and holds their signature against the keyring. A mirror that does not answer
    /// is asked again for as long as `wait`.
    ///
    /// # Errors
    /// Where they cannot be read, or nobody in the keyring signed them.
    pub fn releases(&self, keyring: &Path, wait: Duration) -> Result<Releases, String> {
        let (sums, signature) = (self.read(SUMS, wait)?, self.read(SIGNATURE, wait)?);
        verify(&sums, &signature, keyring)
            .map_err(|why| format!("{}: {why}; nothing was changed", self.place(SUMS)))?;
        let all = releases_in(&String::from_utf8_lossy(&sums));
        Ok(Releases { source: self.clone(), sums, signature, all })
    }

    fn place(&self, name: &str) -> String {
        match self {
            Self::Folder(folder) => folder.join(name).display().to_string(),
            Self::Mirror(url) | Self::Unknown(url) => format!("{url}/{name}"),
        }
    }

    /// A small file.
    fn read(&self, name: &str, wait: Duration) -> Result<Vec<u8>, String> {
        let place = self.place(name);
        match self {
            Self::Folder(folder) => {
                let read = File::open(folder.join(name)).and_then(|file| {
                    let mut bytes = Vec::new();
                    file.take(SUMS_BYTES_MAX).read_to_end(&mut bytes)?;
                    Ok(bytes)
                });
                read.map_err(|error| format!("{place}: cannot be read ({error})"))
            }
            Self::Mirror(_) => fetch::patiently(wait, || fetch::small(&place, SUMS_BYTES_MAX))
                .map_err(|error| format!("{place}: cannot be fetched ({error})")),
            Self::Unknown(_) => Err(unknown(&place)),
        }
    }

    /// Brings a part to a path, durable; its SHA-256.
    fn bring(&self, name: &str, to: &Path, tell: Tell<'_>) -> Result<String, String> {
        let place = self.place(name);
        match self {
            Self::Folder(folder) => copy(&folder.join(name), to)
                .map_err(|error| format!("{place}: cannot be copied ({error})")),
            Self::Mirror(_) => {
                let mut progress = |bytes: u64, total: Option<u64>| {
                    let of = total.map(|total| format!(" of {}", total >> 20)).unwrap_or_default();
                    tell(&format!("{name}: {}{of} MiB\n", bytes >> 20));
                };
                let fetched = fetch::large(&place, to, PART_BYTES_MAX, &mut progress);
                fetched.map_err(|error: FetchError| {
                    format!("{place}: cannot be fetched ({error}); nothing was changed")
                })
            }
            Self::Unknown(_) => Err(unknown(&place)),
        }
    }
}

/// Takes a line of progress.
pub type Tell<'a> = &'a mut dyn FnMut(&str);

fn unknown(place: &str) -> String {
    format!("{place}: use a folder, http:// or https://")
}

/// Whether somebody in the keyring signed the sums. gpg has no keys but these.
fn verify(sums: &[u8], signature: &[u8], keyring: &Path) -> Result<(), String> {
    let folder = PrivateFolder::new().map_err(|error| format!("no folder for gpg ({error})"))?;
    let path = |name: &str| folder.0.join(name);
    for (name, bytes) in [(SUMS, sums), (SIGNATURE, signature)] {
        fs::write(path(name), bytes).map_err(|error| error.to_string())?;
    }
    let mut command = Command::new("gpg");
    command.args(["--batch", "--no-options", "--no-default-keyring", "--no-auto-key-locate"]);
    command.args(["--trust-model", "always", "--homedir"]).arg(&folder.0).arg("--keyring");
    let keyring = keyring.canonicalize().map_err(|error| error.to_string())?;
    command.arg(keyring).arg("--verify").arg(path(SIGNATURE)).arg(path(SUMS));
    let checked = command.output().map_err(|error| format!("gpg cannot be run ({error})"))?;
    if checked.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&checked.stderr);
    let last = words.lines().last().unwrap_or("no reason given").to_owned();
    Err(format!("not signed by a key of this machine ({last})"))
}

/// A folder of ours alone, gone with the value.
struct PrivateFolder(PathBuf);

impl PrivateFolder {
    fn new() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("basalt-update-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "a folder stays behind");
        }
    }
}

/// Versions of which the sums name all three parts.
fn releases_in(sums: &str) -> Vec<Release> {
    let mut parts: BTreeMap<String, [Option<(String, String)>; 3]> = BTreeMap::new();
    for line in sums.lines() {
        let Some((sum, name)) = line.split_once(' ') else { continue };
        let name = name.trim_start().trim_start_matches('*');
        let is_sum = sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some((version, part)) = part_of(name).filter(|_| is_sum) {
            let all = parts.entry(version.to_owned()).or_default();
            all[part] = Some((name.to_owned(), sum.to_ascii_lowercase()));
        }
    }
    let whole = parts.into_iter().filter_map(|(version, parts)| {
        let files: Vec<_> = parts.into_iter().flatten().collect();
        (files.len() == 3).then_some(Release { version, files })
    });
    let mut whole: Vec<_> = whole.collect();
    whole.sort_by(|a, b| order(&a.version, &b.version));
    whole
}

/// Version and number of the part that a name stands for.
fn part_of(name: &str) -> Option<(&str, usize)> {
    let rest = name.strip_prefix("basalt_").filter(|rest| !rest.contains('/'))?;
    let rest = rest.strip_suffix(".xz").unwrap_or(rest);
    if let Some(version) = rest.strip_suffix(".efi") {
        return Some((version, 2));
    }
    let rest = rest.strip_suffix(".raw")?;
    let of = |infix: &str| rest.split_once(infix).map(|(version, _)| version);
    of(".root-x86-64-verity.").map(|version| (version, 1)).or_else(|| {
        let version = of(".root-x86-64.")?;
        Some((version, 0))
    })
}

impl Releases {
    /// The newest version, or the one of that name.
    ///
    /// # Errors
    /// Where there is none with all of its parts.
    pub fn newest(&self, wanted: Option<&str>) -> Result<Release, String> {
        let fits = |release: &&Release| wanted.is_none_or(|version| release.version == version);
        let found = self.all.iter().rev().find(fits).cloned();
        let shown = wanted.unwrap_or("any version");
        found.ok_or_else(|| {
            format!("{}: has not all three parts of {shown}", self.source.place(SUMS))
        })
    }

    /// All that are whole, oldest first.
    pub fn all(&self) -> &[Release] {
        &self.all
    }

    /// Puts sums, signature and parts into a folder, whole or not at all.
    ///
    /// # Errors
    /// Where a part cannot be fetched or is not what was signed.
    pub fn fetch(&self, release: &Release, into: &Path, tell: Tell<'_>) -> Result<(), String> {
        let staged = into.with_extension("new");
        let fault = |error: io::Error| format!("{}: {error}", staged.display());
        remove_folder(&staged).map_err(fault)?;
        fs::create_dir_all(&staged).map_err(fault)?;
        let fetched = self.fetch_parts(release, &staged, tell);
        if fetched.is_err() {
            remove_folder(&staged).map_err(fault)?;
        }
        fetched?;
        remove_folder(into).map_err(fault)?;
        fs::rename(&staged, into).map_err(fault)
    }

    fn fetch_parts(&self, release: &Release, staged: &Path, tell: Tell<'_>) -> Result<(), String> {
        for (name, bytes) in [(SUMS, &self.sums), (SIGNATURE, &self.signature)] {
            fs::write(staged.join(name), bytes).map_err(|error| format!("{name}: {error}"))?;
        }
        for (name, wanted) in &release.files {
            let place = self.source.place(name);
            let sum = self.source.bring(name, &staged.join(name), tell)?;
            if sum != *wanted {
                return Err(format!(
                    "{place}: has SHA-256 {sum}, signed is {wanted}; nothing was changed"
                ));
            }
        }
        Ok(())
    }
}

/// Removes a folder that need not be there.
///
/// # Errors
/// Where the system refuses.
pub fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Copies all of it to a durable file; its SHA-256.
fn copy(from: &Path, to: &Path) -> io::Result<String> {
    let mut from = File::open(from)?;
    let mut file = File::create(to)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
        file.write_all(&buffer[..read])?;
    }
    file.sync_all()?;
    Ok(hex::encode(digest.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_version_with_all_parts_is_a_release() {
        let sum = "a".repeat(64);
        let mut sums = String::new();
        for name in [
            "basalt_1.9.root-x86-64.0a.raw.xz",
            "basalt_1.9.root-x86-64-verity.0b.raw.xz",
            "basalt_1.9.efi",
            "basalt_1.10.root-x86-64.0a.raw",
            "*basalt_1.10.root-x86-64-verity.0b.raw",
            "basalt_1.10.efi.xz",
            "basalt_2.efi",
            "basalt_2.raw",
            "../basalt_3.efi",
        ] {
            sums.push_str(&format!("{sum}  {name}\n"));
        }
        sums.push_str("nonsense\n");
        let versions: Vec<_> = releases_in(&sums).into_iter().map(|it| it.version).collect();
        assert_eq!(versions, ["1.9", "1.10"]);
        assert_eq!(releases_in(&sums)[1].files[1].0, "basalt_1.10.root-x86-64-verity.0b.raw");
    }
}
