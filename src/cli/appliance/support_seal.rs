//! Who may read a support bundle, and the encryption to them. What comes in is never on a disk.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

/// Bytes of a key file at most.
const KEY_BYTES_MAX: u64 = 256 * 1024;

/// Who may read.
pub enum Reader {
    /// By the age format: an X25519 or SSH key.
    Age(Box<dyn age::Recipient>),
    /// By OpenPGP: a file with a public key.
    Pgp(PathBuf),
}

impl Reader {
    /// `age1…`, an SSH public key, or a file with one of them or with a PGP public key; a name
    /// without a folder is looked for in `beside`.
    ///
    /// # Errors
    /// Where it is none of them, or a private key.
    pub fn new(text: &str, beside: &Path) -> Result<Self, String> {
        let text = text.trim();
        if let Some(found) = in_words(text)? {
            return Ok(found);
        }
        let path = beside.join(text);
        let shown = path.display();
        let size = fs::metadata(&path).map_err(|error| {
            format!(
                "recipient \"{text}\": no age1… or ssh-ed25519 key, and no file ({error}); {USE}"
            )
        })?;
        if size.len() > KEY_BYTES_MAX {
            return Err(format!("{shown}: {} bytes are no public key; {USE}", size.len()));
        }
        let bytes = fs::read(&path).map_err(|error| {
            format!("{shown}: cannot be read ({error}); name a file with a public key")
        })?;
        let text = String::from_utf8_lossy(&bytes);
        if text.contains("PRIVATE KEY") {
            return Err(private(&shown.to_string()));
        }
        let words = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#'));
        if let Some(found) = in_words(words.unwrap_or_default().trim())? {
            return Ok(found);
        }
        let is_pgp =
            text.contains("BEGIN PGP PUBLIC KEY") || bytes.first().is_some_and(|b| b & 0x80 != 0);
        match is_pgp {
            true => Ok(Self::Pgp(path)),
            false => Err(format!("{shown}: holds no public key; {USE}")),
        }
    }

    /// The end of a bundle's name.
    pub fn suffix(&self) -> &'static str {
        match self {
            Self::Age(_) => "age",
            Self::Pgp(_) => "gpg",
        }
    }

    /// Encrypts.
    ///
    /// # Errors
    /// Where the key cannot be encrypted to.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Age(key) => by_age(key.as_ref(), plain).map_err(|error| format!("age: {error}")),
            Self::Pgp(path) => by_gpg(path, plain),
        }
    }
}

const USE: &str = "name age1…, ssh-ed25519 AAAA…, or a file with a PGP public key";

fn private(shown: &str) -> String {
    format!("{shown}: that is a private key, which only its owner should have; name the public one")
}

fn in_words(text: &str) -> Result<Option<Reader>, String> {
    if text.starts_with("AGE-SECRET-KEY-") {
        return Err(private("recipient"));
    }
    if text.starts_with("age1") {
        let key: age::x25519::Recipient =
            text.parse().map_err(|error| format!("recipient \"{text}\": {error}; {USE}"))?;
        return Ok(Some(Reader::Age(Box::new(key))));
    }
    if text.starts_with("ssh-") {
        let key: age::ssh::Recipient = text.parse().map_err(|error| {
            format!("recipient \"{text}\": no usable SSH key ({error:?}); use ssh-ed25519")
        })?;
        return Ok(Some(Reader::Age(Box::new(key))));
    }
    Ok(None)
}

fn by_age(key: &dyn age::Recipient, plain: &[u8]) -> io::Result<Vec<u8>> {
    let encryptor = age::Encryptor::with_recipients(std::iter::once(key))
        .map_err(|error| io::Error::other(error.to_string()))?;
    let mut sealed = Vec::new();
    let mut writer = encryptor.wrap_output(&mut sealed)?;
    writer.write_all(plain)?;
    writer.finish()?;
    Ok(sealed)
}

/// gpg gets the text over a pipe. Its folder, which holds nothing of it, is removed afterwards.
fn by_gpg(key: &Path, plain: &[u8]) -> Result<Vec<u8>, String> {
    let home = std::env::temp_dir().join(format!("basalt-gpg-{}", std::process::id()));
    make_private(&home).map_err(|error| format!("{}: {error}", home.display()))?;
    let sealed = run_gpg(&home, key, plain);
    let removed = fs::remove_dir_all(&home);
    let sealed = sealed.map_err(|error| format!("gpg: {error}"))?;
    removed.map_err(|error| format!("{}: cannot be removed ({error})", home.display()))?;
    Ok(sealed)
}

fn make_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(0o700).create(folder)
}

fn run_gpg(home: &Path, key: &Path, plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut child = Command::new("gpg")
        .arg("--homedir")
        .arg(home)
        .args(["--batch", "--quiet", "--no-autostart", "--trust-model", "always"])
        .args(["--compress-algo", "none", "--recipient-file"])
        .arg(key)
        .args(["--output", "-", "--encrypt"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let input = child.stdin.take();
    let (written, output) = thread::scope(|scope| {
        let writer = scope.spawn(|| match input {
            Some(mut input) => input.write_all(plain),
            None => Ok(()),
        });
        let output = child.wait_with_output();
        (writer.join(), output)
    });
    let output = output?;
    if !output.status.success() || output.stdout.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(said.trim().replace('\n', "; ")));
    }
    written.map_err(|_| io::Error::other("the writer ended early"))??;
    Ok(output.stdout)
}
