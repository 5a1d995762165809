//! Requests in numbers, and the port where Prometheus reads all metrics of the process.

use crate::rpc::{Api, methods::METHODS};
use crate::runtime::metrics::{Metrics, StageMetrics, seconds};
use crate::types::ids::TimestampUs;
use prometheus_client::metrics::{
    counter::Counter, family::Family, gauge::Gauge, histogram::Histogram,
};
use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

type Label = [(&'static str, &'static str); 1];

/// Upper bounds in seconds: from 10 µs, the cost of a read from memory, to the longest wait.
const BUCKETS: [f64; 14] =
    [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.25, 1.0, 10.0];
/// Bytes of a request's head at most.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Bytes that a file adds to the page at most.
const MORE_BYTES_MAX: u64 = 16 * 1024;
/// The page's last line.
const END: &str = "# EOF\n";
/// How long a reader may take for its request or for reading the answer.
const READER_TIMEOUT: Duration = Duration::from_secs(5);
/// Readers at a time.
const READERS_MAX: usize = 16;

/// What the RPC counts.
pub struct RpcMetrics {
    by_method: Vec<(Histogram, Counter)>,
    unknown: Counter,
    stage: StageMetrics,
    batches: Counter,
    connections: Gauge,
    subscriptions: Gauge,
    /// Set when they are read.
    pool: Gauge,
    uptime: Gauge,
    started_us: TimestampUs,
}

/// One of something that is open; dropping it closes it.
pub struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl RpcMetrics {
    /// Registers all of them: `stage` are those that every stage has, `now_us` is when the node
    /// started.
    pub fn new(metrics: &Metrics, stage: StageMetrics, now_us: TimestampUs) -> Self {
        let times: Family<Label, Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let errors: Family<Label, Counter> = Family::default();
        let per_method = |name: &'static str| {
            let label = [("method", name)];
            (times.get_or_create(&label).clone(), errors.get_or_create(&label).clone())
        };
        let this = Self {
            by_method: METHODS.iter().map(|method| per_method(method.name)).collect(),
            unknown: errors.get_or_create(&[("method", "unknown")]).clone(),
            stage,
            batches: Counter::default(),
            connections: Gauge::default(),
            subscriptions: Gauge::default(),
            pool: Gauge::default(),
            uptime: Gauge::default(),
            started_us: now_us,
        };
        metrics.register("rpc_request_seconds", "Time from request to answer.", &times);
        metrics.register("rpc_errors", "Requests answered with an error.", &errors);
        metrics.register("rpc_batches", "Batches.", &this.batches);
        metrics.register("rpc_connections", "Open connections.", &this.connections);
        metrics.register("rpc_subscriptions", "Open subscriptions.", &this.subscriptions);
        metrics.register("pool_transactions", "Transactions that wait.", &this.pool);
        metrics.register("uptime_seconds", "Time since the start.", &this.uptime);
        this
    }

    /// Sets what is only known when somebody looks.
    fn look(&self, now_us: TimestampUs, pool_transactions: usize) {
        let uptime_s = now_us.saturating_sub(self.started_us) / 1_000_000;
        self.uptime.set(i64::try_from(uptime_s).unwrap_or(i64::MAX));
        self.pool.set(i64::try_from(pool_transactions).unwrap_or(i64::MAX));
    }

    /// Notes one request of a method.
    pub fn request(&self, method: usize, took_us: u64, failed: bool) {
        let Some((times, errors)) = self.by_method.get(method) else { return };
        times.observe(seconds(took_us));
        if failed {
            errors.inc();
        }
    }

    /// Notes that a thread worked on a request for `took_us`, with `waiting` that block.
    pub fn worked(&self, took_us: u64, waiting: usize) {
        self.stage.item(took_us, waiting);
    }

    /// Notes a request of a method that does not exist.
    pub fn unknown(&self) {
        self.unknown.inc();
    }

    /// Notes a batch.
    pub fn batch(&self) {
        self.batches.inc();
    }

    /// Notes a connection, and tells how many were open before it.
    pub fn connection(&self) -> (Open, i64) {
        (Open(self.connections.clone()), self.connections.inc())
    }

    /// Notes a subscription.
    pub fn subscription(&self) -> Open {
        self.subscriptions.inc();
        Open(self.subscriptions.clone())
    }
}

/// Where readers come in.
pub(crate) enum Door {
    /// From the network.
    Port(TcpListener),
    /// On this machine alone: there even where no port is open.
    Socket(UnixListener),
}

impl Door {
    async fn accept(&self) -> io::Result<Reader> {
        match self {
            Self::Port(listener) => Ok(Reader::Port(listener.accept().await?.0)),
            Self::Socket(listener) => Ok(Reader::Socket(listener.accept().await?.0)),
        }
    }
}

/// A socket at a path, for our user and group; one that an earlier process left is replaced.
///
/// # Errors
/// Where the system refuses.
pub(crate) fn bind(path: &Path) -> io::Result<Door> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(Door::Socket(listener))
}

/// Who came in.
enum Reader {
    Port(TcpStream),
    Socket(UnixStream),
}

impl Reader {
    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match self {
                Self::Port(stream) => {
                    stream.readable().await?;
                    stream.try_read(buffer)
                }
                Self::Socket(stream) => {
                    stream.readable().await?;
                    stream.try_read(buffer)
                }
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let written = match self {
                Self::Port(stream) => {
                    stream.writable().await?;
                    stream.try_write(bytes)
                }
                Self::Socket(stream) => {
                    stream.writable().await?;
                    stream.try_write(bytes)
                }
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }
}

/// Answers `GET /metrics` and `GET /health`, one request a connection.
pub(crate) async fn serve(door: Door, metrics: Arc<Metrics>, api: Arc<Api>) {
    let room = Arc::new(Semaphore::new(READERS_MAX));
    loop {
        let (stream, permit) = match (door.accept().await, Arc::clone(&room).try_acquire_owned()) {
            (Ok(stream), Ok(permit)) => (stream, permit),
            (Ok(_), Err(_)) => continue,
            (Err(error), _) => {
                tracing::warn!(%error, "a reader of metrics could not connect");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (metrics, api) = (Arc::clone(&metrics), Arc::clone(&api));
        tokio::spawn(async move {
            let served = timeout(READER_TIMEOUT, answer(&stream, &metrics, &api)).await;
            if let Ok(Err(error)) = served {
                tracing::debug!(%error, "a reader of metrics left early");
            }
            drop(permit);
        });
    }
}

async fn answer(stream: &Reader, metrics: &Metrics, api: &Api) -> io::Result<()> {
    let head = read_head(stream).await?;
    let path =
        head.strip_prefix(b"GET ".as_slice()).and_then(|rest| rest.split(|b| *b == b' ').next());
    let (status, kind, body) = match path {
        Some(b"/metrics") => {
            api.metrics.look(api.clock.now_us(), api.backend.pool.pending_count());
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ("200 OK", kind, with_more(metrics.render(), api.settings.metrics_more.as_deref()))
        }
        Some(b"/health") => {
            let heads = api.backend.chain.heads();
            let body = serde_json::json!({
                "status": "ok",
                "latest": heads.latest,
                "steady": heads.steady,
                "mini_block": heads.mini_block,
            });
            ("200 OK", "application/json", body.to_string())
        }
        Some(_) => ("404 Not Found", "text/plain", "see /metrics and /health\n".to_owned()),
        None => ("405 Method Not Allowed", "text/plain", "only GET is served\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    write_all(stream, head.as_bytes()).await?;
    write_all(stream, body.as_bytes()).await
}

/// The page with what a file adds to it, which ends before the page's end mark.
fn with_more(mut page: String, more: Option<&Path>) -> String {
    let file = more.and_then(|path| fs::File::open(path).ok());
    let text = file.map(|file| io::read_to_string(io::Read::take(file, MORE_BYTES_MAX)));
    if let Some(Ok(text)) = text {
        let end = page.rfind(END).unwrap_or(page.len());
        page.insert_str(end, text.trim_end_matches(END));
    }
    page
}

async fn read_head(stream: &Reader) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read if head.len() + read <= HEAD_BYTES_MAX => head.extend_from_slice(&buffer[..read]),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(head)
}

async fn write_all(stream: &Reader, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = stream.write(bytes).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}
