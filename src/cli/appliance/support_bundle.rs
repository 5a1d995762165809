//! `basalt support-bundle`: what somebody who helps needs to know of this machine, without its
//! secrets, encrypted to the operator's own key.
//!
//! 1. gather in memory  2. take out secrets  3. pack (tar, zstd)  4. encrypt  5. write
//!
//! Nothing that is not encrypted is ever on a disk. A part that cannot be had is named in the
//! bundle's `index.json` and on the screen; it is no failure.

use crate::cli::appliance::console_facts;
use crate::cli::appliance::support_parts::{self, Machine, Part};
use crate::cli::appliance::support_redact::{Counts, Secrets};
use crate::cli::appliance::support_seal::Reader;
use crate::cli::{Output, say};
use clap::Args;
use serde_json::json;
use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const EXAMPLES: &str = "\
Examples:
  basalt support-bundle --recipient age1…            into basalt-support-….tar.zst.age
  basalt support-bundle --recipient \"ssh-ed25519 AAAA…\" --out /mnt/bundle.age
  basalt support-bundle --recipient key.asc          to a PGP key in a file
  age --decrypt -i key.txt FILE | tar --zstd -xf -   to read one; gpg --decrypt FILE for PGP

It holds the journal, metrics, the configuration without secrets, the plan, the hardware, slots and
health. Addresses and names of hosts are in it. index.json says what was left out.";

/// Bytes of each journal, unless the whole is too large.
const JOURNAL_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Below this there is no point in trying again with less of the journal.
const JOURNAL_BYTES_MIN: usize = 256 * 1024;
/// zstd's level: journals shrink to a tenth by it, in a second.
const LEVEL: i32 = 6;
/// Bytes that stay free on the ESP, so that an update still fits.
const ESP_BYTES_LEFT: u64 = 128 * 1024 * 1024;
/// How a bundle on the ESP is named.
const ESP_NAME: &str = "support-";
/// Bytes of a bundle there.
const ESP_BUNDLE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Seconds that a boot may take until something answers at the metrics port.
const METRICS_WAIT_S: u32 = 60;

/// Arguments of `basalt support-bundle`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SupportBundle {
    /// Who may read it: age1…, ssh-ed25519 …, or a file with a public key (PGP, age, SSH)
    #[arg(long, value_name = "KEY")]
    recipient: String,
    /// Where to write it; a file that is there is not overwritten
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Mebibytes at most; older parts of the journal are left out for it
    #[arg(long, value_name = "N", default_value_t = 32,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    size_mib_max: u16,
    /// Root of the file systems
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

/// A bundle that was made.
#[derive(Debug)]
pub struct Made {
    /// Encrypted.
    pub sealed: Vec<u8>,
    /// Its name, where nobody gave one.
    pub name: String,
    /// What is in it and what is not, for people.
    pub told: String,
    /// Parts that are not in it.
    pub missing: usize,
}

impl SupportBundle {
    /// Makes and writes it.
    ///
    /// # Errors
    /// Where there is no usable recipient, or the file cannot be written.
    pub fn run(self, output: &mut Output<'_>) -> Result<(), String> {
        let reader = Reader::new(&self.recipient, Path::new(""))?;
        if let Some(out) = self.out.as_ref().filter(|out| out.exists()) {
            return Err(format!("{}: is there already; name another file", out.display()));
        }
        let bytes_max = usize::from(self.size_mib_max) << 20;
        let made = make(&self.root, &reader, bytes_max)?;
        let path = self.out.unwrap_or_else(|| PathBuf::from(&made.name));
        write(&path, &made.sealed)?;
        say(output.out, &made.told);
        say(output.out, &format!("{}: {} bytes\n", path.display(), made.sealed.len()));
        Ok(())
    }
}

/// Makes a bundle and puts it on the ESP, in the place of an earlier one: for an operator who reads
/// that partition and nothing else. A PGP key is named as a file in the same folder.
///
/// # Errors
/// Where there is no usable recipient, no room, or the ESP cannot be written.
pub fn to_esp(root: &Path, recipient: &str, folder: &Path) -> Result<String, String> {
    let reader = Reader::new(recipient, folder)?;
    wait_for_metrics(root);
    let made = make(root, &reader, ESP_BUNDLE_BYTES_MAX)?;
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(ESP_NAME) {
            let path = entry.path();
            fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    let size = u64::try_from(made.sealed.len()).unwrap_or(u64::MAX);
    let free = console_facts::free_bytes(folder)?;
    if free < size.saturating_add(ESP_BYTES_LEFT) {
        return Err(format!(
            "{}: {free} bytes are free, {size} and {ESP_BYTES_LEFT} for updates are needed; remove \
             what is not Basalt's",
            folder.display()
        ));
    }
    // Names on the ESP are short and plain.
    let name = format!("{ESP_NAME}{}.tar.zst.{}", seconds(), reader.suffix());
    let path = folder.join(name);
    write(&path, &made.sealed)?;
    let missing = made.missing;
    Ok(format!("{}: {size} bytes; {missing} parts could not be had", path.display()))
}

/// At a boot the node, or maintenance, takes a while until it tells how it does.
fn wait_for_metrics(root: &Path) {
    let Some(port) = support_parts::metrics_port(root) else { return };
    for _ in 0..METRICS_WAIT_S {
        if support_parts::metrics_page(root, &port).is_some() {
            return;
        }
        thread::sleep(Duration::from_secs(1));
    }
}

/// Gathers, takes secrets out, packs, encrypts. Too large: again with less of the journal.
fn make(root: &Path, reader: &Reader, bytes_max: usize) -> Result<Made, String> {
    let mut journal_bytes_max = JOURNAL_BYTES_MAX;
    loop {
        let machine = Machine { root: root.to_owned(), journal_bytes_max };
        let mut secrets = Secrets::default();
        let mut parts = machine.gather(&mut secrets);
        let mut counts = Counts::new();
        for part in &mut parts {
            part.finish(&secrets, &mut counts);
        }
        let packed = pack(&parts, &counts, root).map_err(|error| format!("packing: {error}"))?;
        let sealed = reader.seal(&packed)?;
        if sealed.len() <= bytes_max {
            let host = hostname(root);
            let name = format!("basalt-support-{host}-{}.tar.zst.{}", seconds(), reader.suffix());
            let missing = parts.iter().filter(|part| part.text.is_err()).count();
            return Ok(Made { sealed, name, told: told(&parts, &counts), missing });
        }
        if journal_bytes_max <= JOURNAL_BYTES_MIN {
            let size = sealed.len();
            return Err(format!("the bundle has {size} bytes, more than {bytes_max}; allow more"));
        }
        journal_bytes_max /= 4;
    }
}

fn pack(parts: &[Part], counts: &Counts, root: &Path) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(zstd::stream::write::Encoder::new(Vec::new(), LEVEL)?);
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        header.set_mode(0o600);
        header.set_mtime(seconds());
        archive.append_data(&mut header, format!("basalt-support/{name}"), bytes)
    };
    let index = serde_json::to_vec_pretty(&index(parts, counts, root))?;
    add("index.json", &index)?;
    for part in parts {
        if let Ok(text) = &part.text {
            add(&part.name, text.as_bytes())?;
        }
    }
    archive.into_inner()?.finish()
}

/// What is in the bundle, what is not and why, how often a secret was taken out and by which rule.
fn index(parts: &[Part], counts: &Counts, root: &Path) -> serde_json::Value {
    let parts = parts.iter().map(|part| match &part.text {
        Ok(text) => json!({ "name": part.name, "bytes": text.len(), "cut": part.cut }),
        Err(why) => json!({ "name": part.name, "missing": why }),
    });
    json!({
        "made_at_unix_s": seconds(),
        "version": console_facts::version(root),
        "parts": parts.collect::<Vec<_>>(),
        "redacted": counts,
    })
}

fn told(parts: &[Part], counts: &Counts) -> String {
    let mut text = String::new();
    for Part { name, text: content, cut, .. } in parts {
        text.push_str(&match (content, cut) {
            (Ok(content), None) => format!("{name:<32}{:>10} bytes\n", content.len()),
            (Ok(content), Some(cut)) => format!("{name:<32}{:>10} bytes, {cut}\n", content.len()),
            (Err(why), _) => format!("{name:<32}   missing: {}\n", why.trim().replace('\n', "; ")),
        });
    }
    for (kind, count) in counts {
        text.push_str(&format!("taken out: {kind}, {count} times\n"));
    }
    text
}

fn hostname(root: &Path) -> String {
    let name = fs::read_to_string(root.join("proc/sys/kernel/hostname")).unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    if name.is_empty() { "host".to_owned() } else { name }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// For its owner alone, whole or not at all. On the ESP's FAT a rename makes a new entry, whose
/// size reaches the disk only when the file is synced once more.
fn write(path: &Path, sealed: &[u8]) -> Result<(), String> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    let staged = PathBuf::from(staged);
    let written = (|| {
        let mut options = fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&staged)?;
        file.write_all(sealed)?;
        file.sync_all()?;
        fs::rename(&staged, path)?;
        file.sync_all()?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    })();
    written.map_err(|error: io::Error| format!("{}: cannot be written ({error})", path.display()))
}
