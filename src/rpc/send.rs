//! Sending transactions: hand-over to ingress, and waiting for durability (EIP-7966).
//!
//! Each send has two halves. The first hands the transaction to ingress and never waits, so that
//! all entries of a batch are on the ring before the first answer; the second awaits the verdict.

use crate::rpc::{
    Api,
    error::RpcError,
    eth::{Json, blocks},
    params::{self, Args},
    waiters::Waiter,
};
use crate::types::{
    flow::{Refusal, Reply, Submission},
    view::{BlockId, Place},
};
use alloy_primitives::{B256, Bytes, keccak256};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

/// Milliseconds that `realtime_sendRawTransaction` waits, as MegaETH has it.
pub const REALTIME_TIMEOUT_MS: u64 = 10_000;

/// A transaction on its way through ingress.
pub type Verdict = oneshot::Receiver<Result<B256, Refusal>>;

/// A synchronous send on its way.
pub struct SyncSend {
    hash: B256,
    verdict: Verdict,
    waiter: Waiter,
    deadline: Instant,
    realtime: bool,
}

/// Hands a transaction to ingress.
///
/// # Errors
/// Where the parameter is malformed or the queue is full.
pub fn submit(api: &Api, params: Option<&str>) -> Result<Verdict, RpcError> {
    hand_over(api, params::only_data(params)?)
}

fn hand_over(api: &Api, raw: Bytes) -> Result<Verdict, RpcError> {
    let (sender, verdict) = oneshot::channel();
    // The client may be gone when the verdict comes.
    to_ingress(api, raw, Box::new(move |result| drop(sender.send(result))))?;
    Ok(verdict)
}

/// Puts a transaction on the way to ingress.
///
/// # Errors
/// Where the queue is full.
pub(crate) fn to_ingress(api: &Api, raw: Bytes, reply: Reply) -> Result<(), RpcError> {
    let full = "txpool is full: too many transactions wait for admission";
    let submitted = api.backend.pool.submit(Submission { raw, reply });
    submitted.map_err(|_| RpcError::limit(full))
}

/// What ingress said.
///
/// # Errors
/// The refusal.
pub async fn verdict(verdict: Verdict) -> Result<B256, RpcError> {
    match verdict.await {
        Ok(result) => Ok(result?),
        Err(_) => Err(RpcError::server("the node is shutting down")),
    }
}

/// Hands a transaction to ingress for a synchronous send.
///
/// # Errors
/// Where a parameter is malformed, the queue is full or too many wait already.
pub fn submit_sync(api: &Api, params: Option<&str>, realtime: bool) -> Result<SyncSend, RpcError> {
    let (raw, timeout_ms) = if realtime {
        (params::only_data(params)?, REALTIME_TIMEOUT_MS)
    } else {
        let mut args = Args::new(params)?;
        let raw = args.required(params::data)?;
        let asked = args.optional(params::count)?;
        args.end()?;
        // EIP-7966: an invalid timeout means the default.
        let allowed = 1..=api.settings.sync_timeout_max_ms;
        let asked = asked.filter(|timeout| allowed.contains(timeout));
        (raw, asked.unwrap_or(api.settings.sync_timeout_ms))
    };
    let hash = keccak256(&raw);
    let waiter = api.waiters.register(hash).ok_or_else(RpcError::busy)?;
    let verdict = hand_over(api, raw)?;
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    Ok(SyncSend { hash, verdict, waiter, deadline, realtime })
}

/// The receipt once the transaction is durable.
///
/// # Errors
/// The refusal, or EIP-7966's codes.
pub async fn receipt(api: &Arc<Api>, mut send: SyncSend) -> Result<Json, RpcError> {
    let hash = send.hash;
    let late = || {
        if send.realtime {
            RpcError::server("realtime transaction expired")
        } else {
            RpcError::sync_timeout(&hash)
        }
    };
    let admitted = timeout_at(send.deadline, verdict(send.verdict)).await.map_err(|_| late())?;
    if let Err(refusal) = admitted {
        // Sent before: it is durable already, or it waits and so do we.
        if let Some(place) = look_up(api, hash).await? {
            return shown(place).await;
        }
        if api.backend.pool.pending(&hash).is_none() {
            return Err(refusal);
        }
    } else if let Some(gap) = nonce_gap(api, &hash) {
        return Err(gap);
    }
    match timeout_at(send.deadline, &mut send.waiter.place).await {
        Ok(Ok(place)) => shown(place).await,
        Ok(Err(_)) => Err(RpcError::server("the node is shutting down")),
        Err(_) => Err(late()),
    }
}

/// EIP-7966: a transaction that cannot be executed because an earlier nonce is missing.
fn nonce_gap(api: &Api, hash: &B256) -> Option<RpcError> {
    let tx = api.backend.pool.pending(hash)?;
    // The pool first: what leaves it in between is durable, and then the state has it.
    let pooled = api.backend.pool.pending_nonce(&tx.sender);
    let state = api.backend.chain.state(BlockId::Pending).ok()?;
    let durable = state.account(&tx.sender).ok()?.unwrap_or_default().nonce;
    let expected = pooled.unwrap_or(durable).max(durable);
    // What is gapless counts itself: then the next nonce is past its own.
    (tx.nonce() >= expected).then(|| RpcError::sync_nonce_gap(expected, tx.nonce()))
}

async fn look_up(api: &Arc<Api>, hash: B256) -> Result<Option<Place>, RpcError> {
    let shared = Arc::clone(api);
    on_blocking_thread(move || Ok(shared.backend.chain.transaction(&hash)?)).await
}

async fn shown(place: Place) -> Result<Json, RpcError> {
    if let Place::Open(..) = place {
        // In memory, and one receipt: not worth a thread.
        return blocks::receipt_at(&place)?.ok_or_else(RpcError::internal);
    }
    let shown = on_blocking_thread(move || blocks::receipt_at(&place)).await?;
    shown.ok_or_else(RpcError::internal)
}

async fn on_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RpcError> + Send + 'static,
) -> Result<T, RpcError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(RpcError::internal()))
}
