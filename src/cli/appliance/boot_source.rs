//! Where an appliance's configuration comes from: the ESP, a credential, a kernel argument.
//!
//! Under Secure Boot a credential or a kernel argument may be anybody's who owns the machine's
//! firmware tables, so they count only where the owner of the image said so by a file in it, or
//! where the image's boot programs take nothing from those tables: then they are the owner's.

use crate::cli::appliance::boot_config;
use crate::cli::appliance::fetch;
use crate::cli::appliance::in_force::{NAMES, Wrong};
use crate::config::overlay::FILE_BYTES_MAX;
use clap::Args;
use sha2::{Digest as _, Sha256};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Below the ESP.
const FOLDER: &str = "loader/basalt";
const FILE: &str = "basalt.toml";
/// Its name among systemd's credentials.
const CREDENTIAL: &str = "basalt.config";
const URL: &str = "basalt.config_url=";
const SHA256: &str = "basalt.config_sha256=";
/// UEFI's variable that tells whether Secure Boot is enforced: four bytes of attributes, then 1.
const SECURE_BOOT: &str = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// systemd-boot's variable that tells its version.
const LOADER_INFO: &str = "LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// Where to look.
#[derive(Debug, Args)]
pub struct Asked {
    /// Where the ESP may be mounted; the first that has a configuration counts
    #[arg(long, value_name = "DIR", default_values = ["/efi", "/boot"])]
    pub esp: Vec<PathBuf>,
    /// The kernel's arguments
    #[arg(long, value_name = "FILE", default_value = "/proc/cmdline")]
    pub kernel_arguments: PathBuf,
    /// The firmware's variables
    #[arg(long, value_name = "DIR", default_value = "/sys/firmware/efi/efivars")]
    pub firmware: PathBuf,
    /// Where this file exists, Secure Boot or not, credential and kernel argument count
    #[arg(long, value_name = "FILE", default_value = "/usr/lib/basalt/accept-firmware-config")]
    pub accept: PathBuf,
    /// Where this file exists, arguments and credentials come from what the owner signed
    #[arg(long, value_name = "FILE", default_value = "/usr/lib/basalt/firmware-config-closed")]
    pub closed: PathBuf,
    /// Seconds to wait for a URL, and for addresses that a network must give
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub wait_s: u64,
}

/// A configuration that was found.
#[derive(Debug)]
pub struct Found {
    /// Where, for messages.
    pub name: String,
    /// As it is.
    pub text: String,
    /// Nobody gave one.
    pub is_default: bool,
    /// It was fetched, so the network was there before it.
    pub is_fetched: bool,
    /// A genesis file beside it that it names: its name and where it is.
    pub genesis: Option<(String, PathBuf)>,
    /// What else was there, and does not count.
    pub passed_over: Vec<String>,
}

impl Asked {
    /// The first source that has one; a source that has one and cannot give it is a fault, never
    /// passed over.
    ///
    /// # Errors
    /// Where it cannot be read, fetched or accepted.
    pub fn find(&self, credentials: Option<&Path>) -> Result<Found, Wrong> {
        self.require_esp()?;
        let mut found = Vec::new();
        for esp in &self.esp {
            found.extend(on_esp(esp)?);
            if !found.is_empty() {
                break; // The same partition may be mounted in two places.
            }
        }
        let credential = credentials.map(|folder| folder.join(CREDENTIAL));
        let credential = credential.filter(|path| path.exists());
        let url = self.kernel_url()?;
        let others = [
            credential.as_ref().map(|_| format!("credential {CREDENTIAL}")),
            url.as_ref().map(|_| format!("kernel argument {URL}")),
        ];
        let others: Vec<String> = others.into_iter().flatten().collect();
        if let Some(mut found) = found.pop() {
            let note = |other: &String| format!("{other} does not count: the ESP has a {FILE}");
            found.passed_over = others.iter().map(note).collect();
            return Ok(found);
        }
        if let Some(other) = others.first().filter(|_| self.is_locked()) {
            let what =
                "Secure Boot is on, and whoever owns the firmware's tables could have set it";
            let remedy = format!(
                "put {FOLDER}/{FILE} on the ESP, or build the image with {}",
                self.accept.display()
            );
            return Err(Wrong::of(other, what, remedy));
        }
        match (credential, url) {
            (Some(path), url) => {
                let name = format!("credential {CREDENTIAL}");
                let text = read(&name, &path)?;
                let mut found = Found { name, text, is_default: false, ..boot_config::none() };
                let note = format!("kernel argument {URL} does not count: there is a credential");
                found.passed_over.extend(url.map(|_| note));
                Ok(found)
            }
            (None, Some((url, sha256))) => {
                let text = self.fetch(&url, &sha256)?;
                let found = Found { name: url, text, is_default: false, ..boot_config::none() };
                Ok(Found { is_fetched: true, ..found })
            }
            (None, None) => Ok(boot_config::none()),
        }
    }

    /// The configuration, where it is on this machine: on the ESP, else in a credential. One by URL
    /// comes with the network, too late for what is needed before that.
    ///
    /// # Errors
    /// Where it cannot be read or accepted.
    pub fn find_local(&self, credentials: Option<&Path>) -> Result<Found, Wrong> {
        self.require_esp()?;
        for esp in &self.esp {
            if let Some(found) = on_esp(esp)? {
                return Ok(found);
            }
        }
        let path = credentials.map(|folder| folder.join(CREDENTIAL)).filter(|path| path.exists());
        match path {
            Some(path) if !self.is_locked() => {
                let name = format!("credential {CREDENTIAL}");
                let text = read(&name, &path)?;
                Ok(Found { name, text, is_default: false, ..boot_config::none() })
            }
            _ => Ok(boot_config::none()),
        }
    }

    /// A machine that systemd-boot started has an ESP: one that is not mounted would pass for one
    /// without a configuration.
    fn require_esp(&self) -> Result<(), Wrong> {
        let by_loader = self.firmware.join(LOADER_INFO).exists();
        if !by_loader || self.esp.iter().any(|esp| esp.join("loader").is_dir()) {
            return Ok(());
        }
        let shown: Vec<_> = self.esp.iter().map(|esp| esp.display().to_string()).collect();
        let what = format!("the ESP is not mounted on {}", shown.join(" or "));
        Err(Wrong::of("ESP", what, "check the boot partition, and the journal for its mount"))
    }

    fn is_locked(&self) -> bool {
        let secure = fs::read(self.firmware.join(SECURE_BOOT));
        let is_the_owners = self.accept.exists() || self.closed.exists();
        secure.is_ok_and(|bytes| bytes.get(4) == Some(&1)) && !is_the_owners
    }

    /// The URL among the kernel's arguments, with its hash. The last of several counts, as for the
    /// kernel.
    fn kernel_url(&self) -> Result<Option<(String, String)>, Wrong> {
        let name = self.kernel_arguments.display().to_string();
        let text = fs::read_to_string(&self.kernel_arguments).map_err(|error| {
            Wrong::of(&name, format!("cannot be read ({error})"), "name a readable file")
        })?;
        let last = |prefix: &str| {
            let mut values = text.split_whitespace().filter_map(|word| word.strip_prefix(prefix));
            values.next_back().map(str::to_owned)
        };
        let wrong = |what: String, remedy: &str| Err(Wrong::of("kernel arguments", what, remedy));
        match (last(URL), last(SHA256).map(|digits| digits.to_ascii_lowercase())) {
            (None, None) => Ok(None),
            (Some(url), None) => {
                wrong(format!("{URL}{url} without {SHA256}"), "add the file's SHA-256")
            }
            (None, Some(digits)) => {
                wrong(format!("{SHA256}{digits} without {URL}"), "add the file's URL")
            }
            (Some(_), Some(digits))
                if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) =>
            {
                let what = format!("{SHA256}{digits} is not 64 hexadecimal digits");
                wrong(what, "use what sha256sum prints")
            }
            (Some(url), Some(_)) if !url.starts_with("http://") && !url.starts_with("https://") => {
                wrong(format!("{URL}{url} is no http:// or https:// URL"), "correct the URL")
            }
            (Some(url), Some(digits)) => Ok(Some((url, digits))),
        }
    }

    /// Asks until the network is up. A file with another hash is a fault at once.
    fn fetch(&self, url: &str, sha256: &str) -> Result<String, Wrong> {
        let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX);
        let wait = Duration::from_secs(self.wait_s);
        let fetched = fetch::patiently(wait, || fetch::small(url, limit));
        let bytes = fetched.map_err(|error| {
            let what = format!("cannot be fetched in {} s ({error})", self.wait_s);
            Wrong::of(url, what, "correct the URL, or mend the network")
        })?;
        let found = hex::encode(Sha256::digest(&bytes));
        if found != sha256 {
            let what = format!("has SHA-256 {found}, wanted {sha256}");
            return Err(Wrong::of(url, what, "correct the kernel argument or the file"));
        }
        utf8(url, bytes)
    }
}

fn on_esp(esp: &Path) -> Result<Option<Found>, Wrong> {
    let folder = esp.join(FOLDER);
    let path = folder.join(FILE);
    let name = path.display().to_string();
    match fs::metadata(&path) {
        Ok(_) => {}
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(unreadable(&name, &error)),
    }
    let text = read(&name, &path)?;
    let genesis = genesis_beside(&folder, &text);
    Ok(Some(Found { name, text, is_default: false, genesis, ..boot_config::none() }))
}

/// The genesis file beside a configuration that names it by a plain name.
fn genesis_beside(folder: &Path, text: &str) -> Option<(String, PathBuf)> {
    let document = toml_edit::Document::parse(text).ok()?;
    let name = document.as_table().get("chain")?.get("genesis_file")?.as_str()?.to_owned();
    let plain = !name.is_empty() && !name.contains('/') && !NAMES.contains(&name.as_str());
    let path = folder.join(&name);
    (plain && path.is_file()).then_some((name, path))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn read(name: &str, path: &Path) -> Result<String, Wrong> {
    let bytes = fs::read(path).map_err(|error| unreadable(name, &error))?;
    utf8(name, bytes)
}

fn utf8(name: &str, bytes: Vec<u8>) -> Result<String, Wrong> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Wrong::of(name, format!("byte {at} is no UTF-8"), "save it as plain text in UTF-8")
    })
}

fn unreadable(name: &str, error: &io::Error) -> Wrong {
    Wrong::of(name, format!("cannot be read ({error})"), "check the disk, then write it again")
}
