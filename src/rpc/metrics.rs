//! Requests in numbers, and the port where Prometheus reads all metrics of the process.

use crate::rpc::{Api, methods::METHODS};
use crate::runtime::metrics::{Metrics, StageMetrics, seconds};
use crate::types::ids::TimestampUs;
use prometheus_client::metrics::{
    counter::Counter, family::Family, gauge::Gauge, histogram::Histogram,
};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

type Label = [(&'static str, &'static str); 1];

/// Upper bounds in seconds: from 10 µs, the cost of a read from memory, to the longest wait.
const BUCKETS: [f64; 14] =
    [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.25, 1.0, 10.0];
/// Bytes of a request's head at most.
const HEAD_BYTES_MAX: usize = 8 * 1024;
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

/// Answers `GET /metrics` and `GET /health`, one request a connection.
pub(crate) async fn serve(listener: TcpListener, metrics: Arc<Metrics>, api: Arc<Api>) {
    let room = Arc::new(Semaphore::new(READERS_MAX));
    loop {
        let (stream, permit) =
            match (listener.accept().await, Arc::clone(&room).try_acquire_owned()) {
                (Ok((stream, _)), Ok(permit)) => (stream, permit),
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

async fn answer(stream: &TcpStream, metrics: &Metrics, api: &Api) -> io::Result<()> {
    let head = read_head(stream).await?;
    let path =
        head.strip_prefix(b"GET ".as_slice()).and_then(|rest| rest.split(|b| *b == b' ').next());
    let (status, kind, body) = match path {
        Some(b"/metrics") => {
            api.metrics.look(api.clock.now_us(), api.backend.pool.pending_count());
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ("200 OK", kind, metrics.render())
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

async fn read_head(stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        stream.readable().await?;
        match stream.try_read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) if head.len() + read <= HEAD_BYTES_MAX => {
                head.extend_from_slice(&buffer[..read]);
            }
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(head)
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
