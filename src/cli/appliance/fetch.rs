//! Fetching over http:// and https://: limits, time-outs, going on after a break, progress.
//!
//! https:// trusts the authorities of the system (`/etc/ssl/certs/ca-certificates.crt`, or the file
//! that `SSL_CERT_FILE` names). http:// is good as well wherever what comes is held against a
//! signature or a hash.
#![expect(clippy::disallowed_methods, reason = "waits for a network in real time; no node runs it")]

use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use ureq::{
    Agent, Body, Error,
    http::Response,
    tls::{PemItem, RootCerts, TlsConfig, parse_pem},
};

const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// For a small file as a whole.
const SMALL_TIMEOUT: Duration = Duration::from_secs(20);
/// For one piece of a large one.
const PIECE_TIMEOUT: Duration = Duration::from_secs(180);
/// For a large file from a server that does not give pieces.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(2 * 3600);
/// What is asked for at a time: lost at most, where a connection breaks before it.
const PIECE_BYTES: u64 = 8 << 20;
/// How often a connection may break without a byte having come.
const BREAKS_MAX: u32 = 5;
const BREAK_PAUSE: Duration = Duration::from_secs(2);
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server says no: asking again gives the same.
    #[error("the server refuses: {0}")]
    Refused(String),
    /// The way to it, or the server, is broken for now.
    #[error("{0}")]
    Broken(String),
    /// More than there may be.
    #[error("has more than {0} bytes")]
    TooLarge(u64),
    /// Our own disk.
    #[error("cannot be kept ({0})")]
    Disk(io::Error),
}

impl FetchError {
    fn of(error: Error) -> Self {
        match error {
            Error::StatusCode(code @ (408 | 429 | 500..)) => Self::Broken(format!("HTTP {code}")),
            Error::StatusCode(code) => Self::Refused(format!("HTTP {code}")),
            Error::BadUri(what) => Self::Refused(format!("no URL: {what}")),
            Error::Rustls(error) => Self::Refused(format!("TLS: {error}; is the clock right?")),
            Error::Io(error) if is_certificate(&error) => {
                Self::Refused(format!("TLS: {error}; is the clock right?"))
            }
            error => Self::Broken(error.to_string()),
        }
    }
}

/// A certificate that is not accepted arrives as an error of reading.
fn is_certificate(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData && error.to_string().contains("certificate")
}

/// A small file as a whole.
///
/// # Errors
/// Where it cannot be had, or is larger than `bytes_max`.
pub fn small(url: &str, bytes_max: u64) -> Result<Vec<u8>, FetchError> {
    let mut answer = agent(SMALL_TIMEOUT).get(url).call().map_err(FetchError::of)?;
    let read = answer.body_mut().with_config().limit(bytes_max).read_to_vec();
    read.map_err(|error| match error {
        Error::BodyExceedsLimit(_) => FetchError::TooLarge(bytes_max),
        error => FetchError::of(error),
    })
}

/// Calls until it is not `Broken`, or `wait` is over: at a boot the network comes late.
///
/// # Errors
/// The last one.
pub fn patiently<T>(
    wait: Duration,
    mut call: impl FnMut() -> Result<T, FetchError>,
) -> Result<T, FetchError> {
    let began = Instant::now();
    loop {
        match call() {
            Err(FetchError::Broken(_)) if began.elapsed() < wait => {
                thread::sleep(Duration::from_secs(1));
            }
            done => return done,
        }
    }
}

/// Fetches a large file to a path, in pieces where the server gives them, and gives its SHA-256.
/// After a break it goes on where it was. `tell` is told how many bytes are there, of how many.
///
/// # Errors
/// Where it cannot be had whole; what there is of it stays at the path.
pub fn large(
    url: &str,
    path: &Path,
    bytes_max: u64,
    tell: &mut dyn FnMut(u64, Option<u64>),
) -> Result<String, FetchError> {
    // Not by HEAD, which not every server has. Of an answer that is the whole file nothing is read.
    let first = agent(PIECE_TIMEOUT).get(url).header("range", "bytes=0-0").call();
    let gives_pieces = first.is_ok_and(|answer| answer.status() == 206);
    let timeout = if gives_pieces { PIECE_TIMEOUT } else { WHOLE_TIMEOUT };
    let mut to = Kept::new(path, bytes_max)?;
    let (agent, mut breaks, mut told) = (agent(timeout), 0, Instant::now());
    loop {
        let before = to.bytes;
        let done = to.ask(&agent, url, gives_pieces, &mut |bytes, total| {
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                tell(bytes, total);
            }
        });
        match done {
            Ok(true) => return to.finish(),
            Ok(false) => {}
            Err(FetchError::Broken(reason)) if breaks >= BREAKS_MAX => {
                return Err(FetchError::Broken(format!("{reason}, after {} bytes", to.bytes)));
            }
            Err(FetchError::Broken(_)) => {
                breaks = if to.bytes > before && gives_pieces { 0 } else { breaks + 1 };
                thread::sleep(BREAK_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

/// What is there of a file.
struct Kept {
    file: File,
    digest: Sha256,
    bytes: u64,
    total: Option<u64>,
    bytes_max: u64,
}

impl Kept {
    fn new(path: &Path, bytes_max: u64) -> Result<Self, FetchError> {
        let file = File::create(path).map_err(FetchError::Disk)?;
        Ok(Self { file, digest: Sha256::new(), bytes: 0, total: None, bytes_max })
    }

    /// Fetches the next piece, or all of it; whether the file is whole then.
    fn ask(
        &mut self,
        agent: &Agent,
        url: &str,
        in_pieces: bool,
        tell: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<bool, FetchError> {
        if !in_pieces && self.bytes > 0 {
            self.begin_again().map_err(FetchError::Disk)?;
        }
        let mut request = agent.get(url);
        if in_pieces {
            let last = self.bytes + PIECE_BYTES - 1;
            request = request.header("range", format!("bytes={}-{last}", self.bytes));
        }
        let answer = request.call().map_err(FetchError::of)?;
        let (first, total) = extent(&answer)?;
        if first != self.bytes {
            return Err(FetchError::Refused(format!("gave byte {first} for {}", self.bytes)));
        }
        if self.total.is_some_and(|known| Some(known) != total) {
            return Err(FetchError::Refused("the file was changed while it was read".to_owned()));
        }
        self.total = total;
        if total.is_some_and(|total| total > self.bytes_max) {
            return Err(FetchError::TooLarge(self.bytes_max));
        }
        let is_part = answer.status() == 206;
        self.take(answer.into_body(), tell)?;
        match total {
            Some(total) if self.bytes >= total => Ok(true),
            Some(_) if is_part => Ok(false),
            Some(_) => Err(FetchError::Broken("the connection ended early".to_owned())),
            None => Ok(true),
        }
    }

    fn take(
        &mut self,
        body: Body,
        tell: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<(), FetchError> {
        let mut reader = body.into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let read = reader.read(&mut buffer);
            let read = read.map_err(|error| FetchError::Broken(error.to_string()))?;
            if read == 0 {
                return Ok(());
            }
            self.bytes = self.bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
            if self.bytes > self.bytes_max {
                return Err(FetchError::TooLarge(self.bytes_max));
            }
            self.digest.update(&buffer[..read]);
            self.file.write_all(&buffer[..read]).map_err(FetchError::Disk)?;
            tell(self.bytes, self.total);
        }
    }

    fn begin_again(&mut self) -> io::Result<()> {
        use std::io::Seek as _;
        self.file.set_len(0)?;
        self.file.rewind()?;
        (self.digest, self.bytes, self.total) = (Sha256::new(), 0, None);
        Ok(())
    }

    fn finish(self) -> Result<String, FetchError> {
        self.file.sync_all().map_err(FetchError::Disk)?;
        Ok(hex::encode(self.digest.finalize()))
    }
}

/// First byte of an answer, and bytes of the whole file where the server says so.
fn extent(answer: &Response<Body>) -> Result<(u64, Option<u64>), FetchError> {
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    if answer.status() != 206 {
        return Ok((0, header("content-length").and_then(|text| text.parse().ok())));
    }
    let range = header("content-range").unwrap_or("nothing");
    let parsed = range.strip_prefix("bytes ").and_then(|range| {
        let (range, total) = range.split_once('/')?;
        Some((range.split_once('-')?.0.parse().ok()?, Some(total.parse().ok()?)))
    });
    parsed.ok_or_else(|| FetchError::Refused(format!("gave \"{range}\" for a range")))
}

/// Asks; `timeout` is for an answer's body.
fn agent(timeout: Duration) -> Agent {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(provider)
        .root_certs(RootCerts::Specific(Arc::new(authorities())))
        .build();
    let config = Agent::config_builder()
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(ANSWER_TIMEOUT))
        .timeout_recv_body(Some(timeout))
        .tls_config(tls)
        .build();
    Agent::from(config)
}

/// Whom https:// trusts; nobody where the system has no list, so that every server is refused.
fn authorities() -> Vec<ureq::tls::Certificate<'static>> {
    let path = std::env::var_os("SSL_CERT_FILE").unwrap_or_else(|| AUTHORITIES.into());
    let pem = fs::read(path).unwrap_or_default();
    let items = parse_pem(&pem).flatten();
    let certificates = items.filter_map(|item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    certificates.collect()
}
