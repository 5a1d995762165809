//! Subscriptions: what became durable fans out to all who asked.
//!
//! The state stage calls `Events::publish`, which puts a pointer into a bounded broadcast and
//! never waits. Each subscription reads it at its own pace; one that falls behind by more than the
//! bound is ended with a reason. What is shown alike to all is put into JSON once.

use crate::rpc::{
    Api, convert,
    error::RpcError,
    eth::{
        Json, json,
        logs::{self, Filter},
    },
    params::{self, Args},
    realtime,
    waiters::Waiters,
};
use crate::types::{
    block::Block,
    flow::ChainEvent,
    ids::TimestampUs,
    mini_block::MiniBlock,
    transaction::SharedTransaction,
    view::{BlockId, ChainReader, LogQuery},
};
use alloy_primitives::Address;
use jsonrpsee::{
    core::{
        SubscriptionError,
        server::{SubscriptionCloseResponse, SubscriptionSink},
    },
    server::PendingSubscriptionSink,
    types::Params,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::broadcast::{self, error::RecvError};

/// Admitted transactions that a subscriber may be behind.
pub const ADMITTED_MAX: usize = 16_384;
/// Microseconds within which heartbeat subscribers hear something.
pub const HEARTBEAT_INTERVAL_US: u64 = 1_000_000;
/// How long a subscriber's connection may refuse to take a message.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of one `stateChanges` subscription at most.
const ADDRESSES_MAX: usize = logs::FILTER_ENTRIES_MAX;

/// The fan-out; clones share it.
#[derive(Clone)]
pub struct Events {
    shared: Arc<Shared>,
}

struct Shared {
    chain: broadcast::Sender<Arc<Item>>,
    admitted: broadcast::Sender<SharedTransaction>,
    interval_us: u64,
    spoke_us: AtomicU64,
}

/// What happened, with its JSON once somebody needed it.
pub enum Item {
    /// A mini-block became durable.
    MiniBlock(Arc<MiniBlock>, OnceLock<Json>),
    /// A block was sealed.
    Block(Arc<Block>, OnceLock<Json>),
    /// Nothing happened for a while.
    Heartbeat(TimestampUs),
}

impl Events {
    /// A fan-out for a chain with this interval between mini-blocks. A subscriber may be behind by
    /// `behind_max` mini-blocks, blocks and heartbeats, rounded up to a power of two.
    pub fn new(mini_block_interval_us: u64, behind_max: usize) -> Self {
        let shared = Shared {
            chain: broadcast::Sender::new(behind_max.max(1)),
            admitted: broadcast::Sender::new(ADMITTED_MAX),
            interval_us: mini_block_interval_us,
            spoke_us: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Tells everybody; never waits.
    pub fn publish(&self, event: ChainEvent) {
        let shared = &self.shared;
        let item = match event {
            ChainEvent::Admitted(tx) => {
                // An error says that nobody listens.
                drop(shared.admitted.send(tx));
                return;
            }
            ChainEvent::MiniBlock(mini) => {
                shared.spoke_us.store(mini.timestamp_us, Ordering::Relaxed);
                Item::MiniBlock(mini, OnceLock::new())
            }
            ChainEvent::Block(block) => Item::Block(block, OnceLock::new()),
            ChainEvent::Heartbeat { timestamp_us } => {
                let silent_us =
                    timestamp_us.saturating_sub(shared.spoke_us.load(Ordering::Relaxed));
                if silent_us + shared.interval_us <= HEARTBEAT_INTERVAL_US {
                    return;
                }
                shared.spoke_us.store(timestamp_us, Ordering::Relaxed);
                Item::Heartbeat(timestamp_us)
            }
        };
        drop(shared.chain.send(Arc::new(item)));
    }

    /// Resolves those that wait, until the fan-out is gone.
    pub(crate) async fn serve_waiters(self, waiters: Arc<Waiters>, chain: Arc<dyn ChainReader>) {
        let mut events = self.shared.chain.subscribe();
        drop(self);
        loop {
            match events.recv().await {
                Ok(item) => {
                    if let Item::MiniBlock(mini, _) = item.as_ref() {
                        waiters.resolve(mini);
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "synchronous sends are looked up: events were missed");
                    let (waiters, chain) = (Arc::clone(&waiters), Arc::clone(&chain));
                    let look_up = move || waiters.look_up(|hash| chain.transaction(hash).ok()?);
                    if let Err(error) = tokio::task::spawn_blocking(look_up).await {
                        tracing::error!(%error, "synchronous sends could not be looked up");
                    }
                }
                Err(RecvError::Closed) => return,
            }
        }
    }
}

/// What a client subscribed to.
enum Topic {
    Heads,
    /// In real time (from mini-blocks), or from sealed blocks.
    Logs {
        query: LogQuery,
        realtime: bool,
    },
    Admitted {
        full: bool,
    },
    MiniBlocks {
        heartbeat: bool,
    },
    StateChanges(Vec<Address>),
}

#[derive(Deserialize, Default)]
struct MiniBlockOptions {
    #[serde(default)]
    heartbeat: bool,
}

fn topic(params: Option<&str>) -> Result<Topic, RpcError> {
    let mut args = Args::new(params)?;
    let name = args.required(params::text)?;
    let topic = match name.as_ref() {
        "newHeads" => Topic::Heads,
        "logs" => {
            let Filter { from, to, query, .. } = args.optional(logs::filter)?.unwrap_or_default();
            // As MegaETH has it: who asks for pending logs gets them with their mini-block.
            let realtime = [from, to].contains(&Some(BlockId::Pending));
            Topic::Logs { query, realtime }
        }
        "newPendingTransactions" => {
            Topic::Admitted { full: args.optional(params::object)?.unwrap_or(false) }
        }
        "miniBlocks" => {
            let options: MiniBlockOptions = args.optional(params::object)?.unwrap_or_default();
            Topic::MiniBlocks { heartbeat: options.heartbeat }
        }
        "stateChanges" => {
            let addresses = args.required(logs::addresses)?;
            if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
                let text = format!("stateChanges takes a list of 1 to {ADDRESSES_MAX} addresses");
                return Err(RpcError::params(text));
            }
            Topic::StateChanges(addresses)
        }
        other => {
            let shown: String = other.chars().take(64).collect();
            let text = format!("no {shown:?} subscription in eth namespace");
            return Err(RpcError::new(crate::rpc::error::METHOD_NOT_FOUND, text));
        }
    };
    args.end()?;
    Ok(topic)
}

/// Serves one `eth_subscribe` until the client leaves or is too slow.
pub async fn serve(
    params: Params<'static>,
    pending: PendingSubscriptionSink,
    api: Arc<Api>,
) -> SubscriptionCloseResponse {
    let topic = match topic(params.as_str()) {
        Ok(topic) => topic,
        Err(error) => {
            pending.reject(error).await;
            return SubscriptionCloseResponse::None;
        }
    };
    // Listening starts before the answer: nothing after it is missed.
    let (chain, admitted) = (&api.events.shared.chain, &api.events.shared.admitted);
    let _counted = api.metrics.subscription();
    match topic {
        Topic::Admitted { full } => {
            let events = admitted.subscribe();
            let Ok(sink) = pending.accept().await else { return SubscriptionCloseResponse::None };
            let shown = move |tx: SharedTransaction| {
                let message = if full { json(&convert::waiting(&tx)) } else { json(&tx.hash) };
                message.into_iter().collect()
            };
            forward(events, &sink, shown).await
        }
        other => {
            let events = chain.subscribe();
            let Ok(sink) = pending.accept().await else { return SubscriptionCloseResponse::None };
            let shown = |item: Arc<Item>| messages(&api, &other, &item).unwrap_or_default();
            forward(events, &sink, shown).await
        }
    }
}

async fn forward<T: Clone>(
    mut events: broadcast::Receiver<T>,
    sink: &SubscriptionSink,
    shown: impl Fn(T) -> Vec<Box<RawValue>>,
) -> SubscriptionCloseResponse {
    loop {
        let event = tokio::select! {
            () = sink.closed() => return SubscriptionCloseResponse::None,
            event = events.recv() => event,
        };
        match event {
            Ok(event) => {
                for message in shown(event) {
                    if sink.send_timeout(message, SEND_TIMEOUT).await.is_err() {
                        return ended("the client took no message for 10 s");
                    }
                }
            }
            Err(RecvError::Lagged(missed)) => {
                return ended(&format!("too slow, {missed} events were missed: subscribe again"));
            }
            Err(RecvError::Closed) => return ended("the node is shutting down"),
        }
    }
}

fn ended(reason: &str) -> SubscriptionCloseResponse {
    let reason = format!("subscription closed: {reason}");
    SubscriptionCloseResponse::NotifErr(SubscriptionError::from(reason))
}

/// What a subscriber of `topic` hears of `item`.
fn messages(api: &Api, topic: &Topic, item: &Item) -> Result<Vec<Json>, RpcError> {
    let chain = api.backend.chain.as_ref();
    match (topic, item) {
        (Topic::Heads, Item::Block(block, shared)) => {
            once(shared, || json(&convert::header(block)))
        }
        (Topic::MiniBlocks { .. }, Item::MiniBlock(mini, shared)) => {
            once(shared, || json(&realtime::mini_block(mini)))
        }
        (Topic::MiniBlocks { heartbeat: true }, Item::Heartbeat(timestamp_us)) => {
            let number = chain.heads().mini_block;
            Ok(vec![json(&realtime::heartbeat(number, *timestamp_us))?])
        }
        (Topic::Logs { query, realtime: true }, Item::MiniBlock(mini, _)) => {
            logs::open_logs(mini, query).iter().map(json).collect()
        }
        (Topic::Logs { query, realtime: false }, Item::Block(block, _)) => {
            logs::sealed_logs(block, query).iter().map(json).collect()
        }
        (Topic::StateChanges(addresses), Item::MiniBlock(mini, _)) => {
            realtime::state_changes(mini, addresses).map(|change| json(&change)).collect()
        }
        _ => Ok(Vec::new()),
    }
}

fn once(
    shared: &OnceLock<Json>,
    show: impl FnOnce() -> Result<Json, RpcError>,
) -> Result<Vec<Json>, RpcError> {
    if let Some(shown) = shared.get() {
        return Ok(vec![shown.clone()]);
    }
    let shown = show()?;
    Ok(vec![shared.get_or_init(|| shown).clone()])
}
