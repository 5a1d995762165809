//! From a parsed request to its answer: the service that stands before jsonrpsee's own.
//!
//! A request is begun (parsed; answered, or handed to ingress or to a blocking thread) without
//! waiting, then finished. A batch begins all of its entries before it finishes the first, so they
//! run side by side while answers keep their order. What asks for nothing but sends takes the
//! shorter way of `sends`, before jsonrpsee.

use crate::rpc::{
    Api,
    answers::{Held, LARGE_BYTES, LargeAnswers},
    error::{INTERNAL, METHOD_NOT_FOUND, RpcError},
    eth::Json,
    methods::{self, Handler, Kind, METHODS},
    send::{self, SyncSend, Verdict},
    sends::{self, Sends},
    socket::Link,
};
use crate::types::map::Map;
use alloy_primitives::B256;
use jsonrpsee::{
    core::{
        middleware::{Batch, BatchEntry, Notification, Request, RpcServiceT},
        server::{BatchResponseBuilder, MethodResponse, ResponsePayload},
    },
    types::{ErrorObjectOwned, Id, error::TOO_MANY_SUBSCRIPTIONS_CODE},
};
use serde::Serialize;
use serde_json::value::RawValue;
use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::task::JoinHandle;

/// Large answers of the greatest size that may wait for their clients.
const LARGE_ANSWERS: usize = 2;
/// Bytes around a result in an answer.
const ENVELOPE_BYTES: usize = 256;

/// What all connections share.
pub struct Dispatcher {
    api: Arc<Api>,
    by_name: Map<&'static str, usize>,
    blocking: Arc<AtomicUsize>,
    answers: Arc<LargeAnswers>,
}

/// Puts `Dispatch` before the service of the connection with this socket.
#[derive(Clone)]
pub struct DispatchLayer(pub Arc<Dispatcher>, pub Arc<Link>);

/// One connection's service.
#[derive(Clone)]
pub struct Dispatch<S> {
    inner: S,
    shared: Arc<Dispatcher>,
    link: Arc<Link>,
}

impl<S> tower::Layer<S> for DispatchLayer {
    type Service = Dispatch<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Dispatch { inner, shared: Arc::clone(&self.0), link: Arc::clone(&self.1) }
    }
}

/// A request that was begun.
struct Begun<'a> {
    id: Id<'a>,
    method: Option<usize>,
    started_us: u64,
    work: Work,
}

enum Work {
    Done(Result<Json, RpcError>),
    Send(Verdict),
    Sync(Box<SyncSend>),
    Blocking(JoinHandle<MethodResponse>),
}

/// A place among the requests that block; dropping it gives it back.
struct Queued(Arc<AtomicUsize>);

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dispatcher {
    /// A dispatcher of all methods.
    pub fn new(api: Arc<Api>) -> Self {
        let answers = LargeAnswers::new(response_max(&api).saturating_mul(LARGE_ANSWERS));
        Self { api, by_name: methods::by_name(), blocking: Arc::default(), answers }
    }

    /// Notes that this thread worked since then.
    fn worked(&self, started_us: u64) {
        let took_us = self.api.clock.now_us().saturating_sub(started_us);
        self.api.metrics.worked(took_us, self.blocking.load(Ordering::Relaxed));
    }

    fn begin<'a>(self: &Arc<Self>, request: Request<'a>) -> Begun<'a> {
        let Request { id, method, params, .. } = request;
        let started_us = self.api.clock.now_us();
        let Some(index) = self.by_name.get(method.as_ref()).copied() else {
            self.api.metrics.unknown();
            let work = Work::Done(Err(RpcError::no_method(&method)));
            return Begun { id, method: None, started_us, work };
        };
        let text = params.as_deref().map(RawValue::get);
        let work = match METHODS[index].kind {
            Kind::Inline(handler) => Ok(Work::Done(methods::run(handler, &self.api, text))),
            Kind::Blocking(handler) => self.block(handler, id.clone().into_owned(), params),
            Kind::Send => send::submit(&self.api, text).map(Work::Send),
            Kind::SendSync => self.begin_sync(text, false),
            Kind::SendRealtime => self.begin_sync(text, true),
            Kind::Subscription => Err(RpcError::internal()),
        };
        let work = work.unwrap_or_else(|error| Work::Done(Err(error)));
        self.worked(started_us);
        Begun { id, method: Some(index), started_us, work }
    }

    /// Answers a body that asks for nothing but sends, as JSON text, with its part of the budget
    /// where it is large; `None` where the body asks for anything else.
    pub async fn sends(&self, body: &[u8]) -> Option<(Vec<u8>, Option<Held>)> {
        let started_us = self.api.clock.now_us();
        let sends = Sends::read(body)?;
        let method = self.by_name.get(sends::METHOD).copied()?;
        let count = sends.calls().len();
        if count > self.api.settings.batch_max {
            return None;
        }
        if let Sends::Batch(_) = sends {
            self.api.metrics.batch();
        }
        let submitted = sends::submit(&self.api, sends.calls());
        let took_us = self.api.clock.now_us().saturating_sub(started_us);
        let each_us = took_us / u64::try_from(count).unwrap_or(1).max(1);
        let waiting = self.blocking.load(Ordering::Relaxed);
        let verdicts = submitted.verdicts().await;
        let took_us = self.api.clock.now_us().saturating_sub(started_us);
        for verdict in &verdicts {
            self.api.metrics.worked(each_us, waiting);
            self.api.metrics.request(method, took_us, verdict.is_err());
        }
        let text = sends.answered(&verdicts);
        if text.len() > response_max(&self.api) {
            return Some((as_text(&failure(Id::Null, self.too_large())), None));
        }
        if text.len() < LARGE_BYTES {
            return Some((text, None));
        }
        match self.answers.hold(text.len()) {
            Some(held) => Some((text, Some(held))),
            None => Some((as_text(&failure(Id::Null, no_room())), None)),
        }
    }

    fn begin_sync(&self, params: Option<&str>, realtime: bool) -> Result<Work, RpcError> {
        send::submit_sync(&self.api, params, realtime).map(|send| Work::Sync(Box::new(send)))
    }

    /// Runs a handler and puts its answer together on a blocking thread.
    fn block(
        self: &Arc<Self>,
        handler: Handler,
        id: Id<'static>,
        params: Option<Cow<'_, RawValue>>,
    ) -> Result<Work, RpcError> {
        let before = self.blocking.fetch_add(1, Ordering::Relaxed);
        let queued = Queued(Arc::clone(&self.blocking));
        if before >= self.api.settings.blocking_queue_max {
            return Err(RpcError::busy());
        }
        let this = Arc::clone(self);
        let params = params.map(Cow::into_owned);
        Ok(Work::Blocking(tokio::task::spawn_blocking(move || {
            let started_us = this.api.clock.now_us();
            let answer = methods::run(handler, &this.api, params.as_deref().map(RawValue::get));
            let response = this.respond(id, answer);
            drop(queued);
            this.worked(started_us);
            response
        })))
    }

    async fn finish(&self, begun: Begun<'_>) -> MethodResponse {
        let Begun { id, method, started_us, work } = begun;
        let response = match work {
            Work::Done(answer) => self.respond(id, answer),
            Work::Send(verdict) => match send::verdict(verdict).await {
                Ok(hash) => success::<B256>(id, hash),
                Err(error) => failure(id, error),
            },
            Work::Sync(send) => {
                let answer = send::receipt(&self.api, *send).await;
                self.respond(id, answer)
            }
            Work::Blocking(handle) => {
                handle.await.unwrap_or_else(|_| failure(id, RpcError::internal()))
            }
        };
        if let Some(method) = method {
            let took_us = self.api.clock.now_us().saturating_sub(started_us);
            self.api.metrics.request(method, took_us, response.is_error());
        }
        response
    }

    /// A large answer holds its part of the budget by an extension of the response.
    fn respond(&self, id: Id<'_>, answer: Result<Json, RpcError>) -> MethodResponse {
        let json = match answer {
            Ok(json) => json,
            Err(error) => return failure(id, error),
        };
        let bytes = json.get().len() + ENVELOPE_BYTES;
        if bytes > response_max(&self.api) {
            return failure(id, self.too_large());
        }
        if bytes < LARGE_BYTES {
            return success(id, json);
        }
        match self.answers.hold(bytes) {
            Some(held) => holding(success(id, json), held),
            None => failure(id, no_room()),
        }
    }

    fn too_large(&self) -> RpcError {
        let max = response_max(&self.api);
        RpcError::limit(format!("response too large: more than {max} bytes, ask for less"))
    }

    fn is_subscription(&self, method: &str) -> bool {
        let index = self.by_name.get(method);
        index.is_some_and(|index| matches!(METHODS[*index].kind, Kind::Subscription))
    }
}

fn response_max(api: &Api) -> usize {
    usize::try_from(api.settings.response_bytes_max).unwrap_or(usize::MAX)
}

fn no_room() -> RpcError {
    RpcError::limit("server busy: too many large answers wait for their clients, try again later")
}

fn as_text(response: &MethodResponse) -> Vec<u8> {
    response.as_json().get().as_bytes().to_vec()
}

fn holding(mut response: MethodResponse, held: Held) -> MethodResponse {
    response.extensions_mut().insert(Arc::new(held));
    response
}

fn success<T: Serialize + Clone>(id: Id<'_>, result: T) -> MethodResponse {
    MethodResponse::response(id, ResponsePayload::success(result), usize::MAX)
}

fn failure(id: Id<'_>, error: RpcError) -> MethodResponse {
    MethodResponse::error(id, ErrorObjectOwned::from(error))
}

impl<S> Dispatch<S>
where
    S: RpcServiceT<MethodResponse = MethodResponse> + Send + Sync + Clone + 'static,
{
    /// Subscriptions are jsonrpsee's; its own refusals get Ethereum's codes.
    async fn subscription(&self, request: Request<'_>) -> MethodResponse {
        let id = request.id.clone().into_owned();
        let response = self.inner.call(request).await;
        if response.is_subscription() {
            return response;
        }
        match response.as_error_code() {
            Some(INTERNAL) => {
                failure(id, RpcError::new(METHOD_NOT_FOUND, "notifications not supported"))
            }
            Some(TOO_MANY_SUBSCRIPTIONS_CODE) => {
                let max = self.shared.api.settings.subscriptions_max;
                let text = format!("too many subscriptions on this connection, at most {max}");
                failure(id, RpcError::limit(text))
            }
            _ => response,
        }
    }

    /// On a WebSocket a large answer holds its part of the budget until the client has it; with
    /// HTTP the response's body does that.
    fn until_taken(&self, mut response: MethodResponse) -> MethodResponse {
        if self.link.is_websocket()
            && let Some(held) = response.extensions_mut().remove::<Arc<Held>>()
        {
            let link = Arc::clone(&self.link);
            tokio::spawn(async move {
                link.taken(u64::try_from(held.bytes()).unwrap_or(0)).await;
                drop(held);
            });
        }
        response
    }

    async fn whole_batch(self, batch: Batch<'_>) -> MethodResponse {
        let shared = &self.shared;
        let max = shared.api.settings.batch_max;
        let asked = batch.len();
        if asked > max {
            let text = format!("batch too large: {asked} requests, at most {max}");
            return failure(Id::Null, RpcError::limit(text));
        }
        shared.api.metrics.batch();
        let mut entries = Vec::with_capacity(asked);
        let mut notified = false;
        for entry in batch {
            entries.push(match entry {
                Ok(BatchEntry::Call(request)) if shared.is_subscription(&request.method) => {
                    Entry::Subscription(request)
                }
                Ok(BatchEntry::Call(request)) => Entry::Begun(shared.begin(request)),
                Ok(BatchEntry::Notification(_)) => {
                    notified = true;
                    continue;
                }
                Err(error) => {
                    let (error, id) = error.into_parts();
                    Entry::Refused(MethodResponse::error(id, error))
                }
            });
        }
        let mut held = shared.answers.hold_none();
        let mut answers = BatchResponseBuilder::new_with_limit(response_max(&shared.api));
        for entry in entries {
            let answer = match entry {
                Entry::Begun(begun) => shared.finish(begun).await,
                Entry::Subscription(request) => self.subscription(request).await,
                Entry::Refused(response) => response,
            };
            if !held.enlarge(answer.as_json().get().len()) {
                return failure(Id::Null, no_room());
            }
            if answers.append(answer).is_err() {
                return failure(Id::Null, shared.too_large());
            }
        }
        if answers.is_empty() && notified {
            return MethodResponse::notification();
        }
        holding(MethodResponse::from_batch(answers.finish()), held)
    }
}

enum Entry<'a> {
    Begun(Begun<'a>),
    Subscription(Request<'a>),
    Refused(MethodResponse),
}

impl<S> RpcServiceT for Dispatch<S>
where
    S: RpcServiceT<MethodResponse = MethodResponse> + Send + Sync + Clone + 'static,
{
    type MethodResponse = MethodResponse;
    type NotificationResponse = MethodResponse;
    type BatchResponse = MethodResponse;

    fn call<'a>(
        &self,
        request: Request<'a>,
    ) -> impl Future<Output = Self::MethodResponse> + Send + 'a {
        let this = self.clone();
        async move {
            if this.shared.is_subscription(&request.method) {
                return this.subscription(request).await;
            }
            let begun = this.shared.begin(request);
            let response = this.shared.finish(begun).await;
            this.until_taken(response)
        }
    }

    fn batch<'a>(
        &self,
        requests: Batch<'a>,
    ) -> impl Future<Output = Self::BatchResponse> + Send + 'a {
        let this = self.clone();
        async move {
            let response = this.clone().whole_batch(requests).await;
            this.until_taken(response)
        }
    }

    fn notification<'a>(
        &self,
        _notification: Notification<'a>,
    ) -> impl Future<Output = Self::NotificationResponse> + Send + 'a {
        // Nobody would hear the answer, so nothing is done, as in geth.
        std::future::ready(MethodResponse::notification())
    }
}
