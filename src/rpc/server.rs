//! Starts and stops the servers on a runtime of their own, whose threads sit on the RPC's seats.

use crate::rpc::{
    Api, Backend, Facts, Settings,
    dispatch::{DispatchLayer, Dispatcher},
    http::HttpLayer,
    metrics::{self, RpcMetrics},
    socket::{Link, Socket},
    subscribe::{self, Events},
    waiters::Waiters,
};
use crate::runtime::{
    clock::Clock,
    metrics::{Metrics, StageMetrics},
    pin,
};
use jsonrpsee::{
    core::RegisterMethodError,
    server::{
        BatchRequestConfig, Methods, PingConfig, RandomStringIdProvider, RpcModule, Server,
        ServerConfig, ServerHandle, StopHandle, middleware::rpc::RpcServiceBuilder,
        serve_with_graceful_shutdown, stop_channel,
    },
};
use jsonrpsee::{core::traits::IdProvider, types::SubscriptionId};
use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::runtime::{Builder, Runtime};

/// Messages that wait for a WebSocket client to read them.
const WEBSOCKET_MESSAGES_MAX: u32 = 32;
/// How long requests may run on after a stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long nobody is let in after the system refused to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a WebSocket client is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// All that a server is made of.
pub struct Parts {
    /// Where and within which limits.
    pub settings: Settings,
    /// What never changes.
    pub facts: Facts,
    /// What requests are answered from.
    pub backend: Backend,
    /// What becomes durable.
    pub events: Events,
    /// Time.
    pub clock: Clock,
    /// Where numbers are registered, and what the metrics port shows.
    pub metrics: Arc<Metrics>,
    /// What the RPC says of itself as every stage does.
    pub stage: StageMetrics,
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another program has the port.
    #[error(
        "{what} cannot listen on {address}: the port is in use. Stop the other program, or choose \
         another address with {flag}"
    )]
    InUse {
        /// Which of the two.
        what: &'static str,
        /// Where it should have listened.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
    },
    /// The system refuses the address.
    #[error("{what} cannot listen on {address}: {source}. Choose another address with {flag}")]
    Listen {
        /// Which of the two.
        what: &'static str,
        /// Where it should have listened.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The system refuses the socket in the file system.
    #[error("metrics cannot be served at {}: {source}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// No threads.
    #[error("the RPC's threads cannot be started: {0}")]
    Threads(io::Error),
    /// A method is registered twice.
    #[error("a method is registered twice: {0}")]
    Method(#[from] RegisterMethodError),
}

/// A server that serves. Dropping it stops it without waiting.
pub struct RunningServer {
    /// Where HTTP and WebSocket are served.
    pub local_addr: SocketAddr,
    /// Where metrics are served.
    pub metrics_addr: Option<SocketAddr>,
    handle: ServerHandle,
    runtime: Option<Runtime>,
}

impl RunningServer {
    /// Takes no more requests, lets those that run finish for a while, and ends.
    pub fn stop(mut self) {
        if self.handle.stop().is_err() {
            tracing::debug!("the server had stopped by itself");
        }
        if let Some(runtime) = self.runtime.take() {
            let stopped = tokio::time::timeout;
            let handle = self.handle.clone();
            runtime.block_on(async move {
                if stopped(STOP_TIMEOUT, handle.stopped()).await.is_err() {
                    tracing::warn!("connections were cut: requests still ran after 2 s");
                }
            });
            runtime.shutdown_timeout(STOP_TIMEOUT);
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Hex subscription ids of 128 bits, as geth gives them.
#[derive(Debug)]
struct SubscriptionIds(RandomStringIdProvider);

impl IdProvider for SubscriptionIds {
    fn next_id(&self) -> SubscriptionId<'static> {
        match self.0.next_id() {
            SubscriptionId::Str(random) => {
                let hash = alloy_primitives::keccak256(random.as_bytes());
                let id = alloy_primitives::hex::encode_prefixed(&hash[..16]);
                SubscriptionId::Str(id.into())
            }
            number @ SubscriptionId::Num(_) => number,
        }
    }
}

/// Starts to serve.
///
/// # Errors
/// Where an address cannot be had or no threads can be started.
pub fn start(parts: Parts) -> Result<RunningServer, StartError> {
    let Parts { settings, facts, backend, events, clock, metrics, stage } = parts;
    let listener = listen("JSON-RPC", settings.address, "--rpc")?;
    let metrics_listener = match settings.metrics_address {
        Some(address) => Some(listen("metrics", address, "--metrics")?),
        None => None,
    };
    let failed = |source| StartError::Listen {
        what: "JSON-RPC",
        address: settings.address,
        flag: "--rpc",
        source,
    };
    let local_addr = listener.local_addr().map_err(failed)?;
    let metrics_addr = metrics_listener.as_ref().and_then(|socket| socket.local_addr().ok());
    let runtime = runtime(&settings)?;
    let entered = runtime.enter();

    let waiters = Arc::new(Waiters::new(settings.sync_waiters_max));
    let api = Arc::new(Api {
        metrics: RpcMetrics::new(&metrics, stage, clock.now_us()),
        waiters: Arc::clone(&waiters),
        events: events.clone(),
        backend,
        facts,
        settings: settings.clone(),
        clock,
    });
    let chain = Arc::clone(&api.backend.chain);
    runtime.spawn(events.serve_waiters(waiters, chain));
    if let Some(path) = &settings.metrics_socket {
        let socket = metrics::bind(path)
            .map_err(|source| StartError::Socket { path: path.clone(), source })?;
        runtime.spawn(metrics::serve(socket, Arc::clone(&metrics), Arc::clone(&api)));
    }
    if let Some(socket) = metrics_listener {
        let socket = tokio::net::TcpListener::from_std(socket).map_err(failed)?;
        runtime.spawn(metrics::serve(metrics::Door::Port(socket), metrics, Arc::clone(&api)));
    }

    let mut module = RpcModule::from_arc(Arc::clone(&api));
    module.register_subscription(
        "eth_subscribe",
        "eth_subscription",
        "eth_unsubscribe",
        |params, pending, api, _| subscribe::serve(params, pending, api),
    )?;
    let dispatcher = Arc::new(Dispatcher::new(Arc::clone(&api)));
    let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
    let (stop, handle) = stop_channel();
    let door = Door { config: server_config(&settings), methods: module.into(), dispatcher, api };
    runtime.spawn(door.accept(listener, stop));
    drop(entered);
    Ok(RunningServer { local_addr, metrics_addr, handle, runtime: Some(runtime) })
}

/// Where connections come in.
struct Door {
    config: ServerConfig,
    methods: Methods,
    dispatcher: Arc<Dispatcher>,
    api: Arc<Api>,
}

impl Door {
    /// Lets connections in until the stop.
    async fn accept(self, listener: tokio::net::TcpListener, stop: StopHandle) {
        let stopped = stop.clone().shutdown();
        tokio::pin!(stopped);
        for id in 0.. {
            let accepted = tokio::select! {
                () = &mut stopped => return,
                accepted = listener.accept() => accepted,
            };
            match accepted.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream)) {
                Ok(stream) => self.serve(stream, id, &stop),
                Err(error) => {
                    tracing::warn!(%error, "a client could not connect");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(&self, stream: tokio::net::TcpStream, id: u32, stop: &StopHandle) {
        let settings = &self.api.settings;
        let request_bytes_max = usize::try_from(settings.request_bytes_max).unwrap_or(usize::MAX);
        let link = Link::new(request_bytes_max, settings.ask_timeout);
        let dispatch = DispatchLayer(Arc::clone(&self.dispatcher), Arc::clone(&link));
        let http =
            HttpLayer::new(Arc::clone(&self.api), Arc::clone(&self.dispatcher), Arc::clone(&link));
        let service = Server::builder()
            .set_config(self.config.clone())
            .set_rpc_middleware(RpcServiceBuilder::new().layer(dispatch))
            .set_http_middleware(tower::ServiceBuilder::new().layer(http))
            .to_service_builder()
            .connection_id(id)
            .build(self.methods.clone(), stop.clone());
        let socket = Socket::new(stream, link);
        let served = serve_with_graceful_shutdown(socket, service, stop.clone().shutdown());
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(error, "a connection ended");
            }
        });
    }
}

fn server_config(settings: &Settings) -> ServerConfig {
    let ids = SubscriptionIds(RandomStringIdProvider::new(32));
    ServerConfig::builder()
        .max_request_body_size(settings.request_bytes_max)
        .max_response_body_size(settings.response_bytes_max)
        // `Http` counts connections; jsonrpsee would count requests.
        .max_connections(u32::MAX)
        .max_subscriptions_per_connection(settings.subscriptions_max)
        // `Dispatch` limits batches, with Ethereum's code.
        .set_batch_request_config(BatchRequestConfig::Unlimited)
        .set_message_buffer_capacity(WEBSOCKET_MESSAGES_MAX)
        .enable_ws_ping(PingConfig::new().ping_interval(PING_INTERVAL))
        .set_id_provider(ids)
        .build()
}

fn listen(
    what: &'static str,
    address: SocketAddr,
    flag: &'static str,
) -> Result<TcpListener, StartError> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::InUse { what, address, flag },
        _ => StartError::Listen { what, address, flag, source },
    })
}

fn runtime(settings: &Settings) -> Result<Runtime, StartError> {
    let seats = settings.seats.clone();
    let next = AtomicUsize::new(0);
    Builder::new_multi_thread()
        .worker_threads(seats.len().max(1))
        .max_blocking_threads(settings.blocking_threads.max(1))
        .thread_name("rpc")
        .enable_all()
        .on_thread_start(move || {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            if let Some(seat) = seats.get(turn % seats.len().max(1)) {
                pin::take(seat);
            }
        })
        .build()
        .map_err(StartError::Threads)
}
