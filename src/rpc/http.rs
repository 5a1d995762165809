//! What stands between a socket and JSON-RPC: connection limit, browsers, large answers, and
//! refusals in JSON.

use crate::rpc::{
    Api, Cors,
    answers::{Held, HeldBody},
    dispatch::Dispatcher,
    error::{INVALID_REQUEST, RpcError},
    metrics::Open,
    socket::{InFlight, Link},
};
use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use jsonrpsee::{
    core::BoxError,
    server::{HttpBody, HttpRequest, HttpResponse, ws::is_upgrade_request},
    types::{ErrorObjectOwned, Id, Response, ResponsePayload},
};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tower::Service;

const JSON: &str = "application/json; charset=utf-8";
/// Seconds that a browser may remember our answer to its question.
const CORS_MAX_AGE_S: &str = "600";

/// Puts `Http` before a connection's service.
#[derive(Clone)]
pub struct HttpLayer {
    api: Arc<Api>,
    dispatcher: Arc<Dispatcher>,
    connection: Arc<Connection>,
}

/// A connection's service; made anew for each of its requests.
#[derive(Clone)]
pub struct Http<S> {
    inner: S,
    layer: HttpLayer,
}

struct Connection {
    /// Counts the connection as long as it, or the WebSocket that it became, lives.
    _open: Open,
    refused: bool,
    link: Arc<Link>,
}

impl HttpLayer {
    /// Of a new connection with this socket.
    pub fn new(api: Arc<Api>, dispatcher: Arc<Dispatcher>, link: Arc<Link>) -> Self {
        let (open, before) = api.metrics.connection();
        let refused = before >= i64::from(api.settings.connections_max);
        Self { api, dispatcher, connection: Arc::new(Connection { _open: open, refused, link }) }
    }
}

impl<S> tower::Layer<S> for HttpLayer {
    type Service = Http<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Http { inner, layer: self.clone() }
    }
}

impl<S, B> Service<HttpRequest<B>> for Http<S>
where
    S: Service<HttpRequest<HttpBody>, Response = HttpResponse, Error = BoxError>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = HttpResponse;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: HttpRequest<B>) -> Self::Future {
        let mut request = request.map(HttpBody::new);
        let layer = self.layer.clone();
        let connection = Arc::clone(&layer.connection);
        let serving = connection.link.serve();
        let origin = request.headers().get("origin").and_then(|value| value.to_str().ok());
        let allowed = origin.and_then(|origin| allowed_origin(&layer.api.settings.cors, origin));
        let ours = layer.own_answer(&request);
        if ours.is_none() && is_upgrade_request(&request) {
            connection.link.upgraded();
        }
        // A WebSocket keeps the request's extensions, and so stays counted.
        request.extensions_mut().insert(InFlight::new(&connection.link));
        request.extensions_mut().insert(connection);
        let inner = self.inner.clone();
        Box::pin(async move {
            let mut response = match ours {
                Some(ours) => ours,
                None => layer.answer(request, inner).await?,
            };
            if let Some(origin) = allowed {
                set(&mut response, "access-control-allow-origin", &origin);
                set(&mut response, "vary", "origin");
            }
            if let Some(held) = response.extensions_mut().remove::<Arc<Held>>() {
                response = response.map(|body| HttpBody::new(HeldBody::new(body, held)));
            }
            drop(serving);
            Ok(response)
        })
    }
}

impl HttpLayer {
    /// By the short way where the body asks for nothing but sends, else by jsonrpsee.
    async fn answer<S>(
        &self,
        request: HttpRequest<HttpBody>,
        mut inner: S,
    ) -> Result<HttpResponse, BoxError>
    where
        S: Service<HttpRequest<HttpBody>, Response = HttpResponse, Error = BoxError>,
    {
        if request.method() != "POST" {
            return inner.call(request).await;
        }
        let max = usize::try_from(self.api.settings.request_bytes_max).unwrap_or(usize::MAX);
        let too_large = || {
            let text = format!("content length too large: at most {max} bytes");
            Ok(refusal(413, RpcError::limit(text)))
        };
        let (head, body) = request.into_parts();
        // What is announced as too large is not read first.
        if body.size_hint().lower() > u64::from(self.api.settings.request_bytes_max) {
            return too_large();
        }
        let body = match Limited::new(body, max).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return too_large(),
            Err(error) => return Err(error),
        };
        let Some((answer, held)) = self.dispatcher.sends(&body).await else {
            return inner.call(HttpRequest::from_parts(head, whole(body))).await;
        };
        let mut response = respond(200, JSON, answer);
        if let Some(held) = held {
            response.extensions_mut().insert(Arc::new(held));
        }
        Ok(response)
    }

    /// What is answered without JSON-RPC.
    fn own_answer<B>(&self, request: &HttpRequest<B>) -> Option<HttpResponse> {
        if self.connection.refused {
            let max = self.api.settings.connections_max;
            let text = format!("too many connections, at most {max}");
            let mut response = refusal(503, RpcError::limit(text));
            set(&mut response, "connection", "close");
            return Some(response);
        }
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        match request.method().as_str() {
            "POST" => {
                let kind = header("content-type").unwrap_or_default().trim().to_ascii_lowercase();
                let json = ["application/json", "application/json-rpc"];
                let plain = kind.split(';').next().unwrap_or_default().trim();
                (!json.contains(&plain)).then(|| {
                    let text = "invalid content type, only application/json is supported";
                    refusal(415, RpcError::new(INVALID_REQUEST, text))
                })
            }
            "GET" if header("upgrade").is_some() => None,
            "GET" => Some(respond(200, "text/plain; charset=utf-8", self.greeting())),
            "OPTIONS" => {
                let mut response = respond(204, "text/plain", String::new());
                set(&mut response, "access-control-allow-methods", "POST, GET, OPTIONS");
                set(&mut response, "access-control-allow-headers", "content-type");
                set(&mut response, "access-control-max-age", CORS_MAX_AGE_S);
                Some(response)
            }
            _ => {
                let text = "method not allowed: send JSON-RPC requests with POST";
                Some(refusal(405, RpcError::new(INVALID_REQUEST, text)))
            }
        }
    }

    fn greeting(&self) -> String {
        let facts = &self.api.facts;
        let latest = self.api.backend.chain.heads().latest;
        format!(
            "{}: chain {}, block {latest}. JSON-RPC by POST or WebSocket on this port.\n",
            facts.client_version, facts.chain_id
        )
    }
}

/// What `access-control-allow-origin` says to a page of `origin`.
fn allowed_origin(cors: &Cors, origin: &str) -> Option<String> {
    match cors {
        Cors::Any => Some("*".to_owned()),
        Cors::Origins(origins) => origins.iter().find(|known| *known == origin).cloned(),
        Cors::Off => None,
    }
}

fn refusal(status: u16, error: RpcError) -> HttpResponse {
    let payload = ResponsePayload::<()>::error(ErrorObjectOwned::from(error));
    let body = serde_json::to_string(&Response::new(payload, Id::Null)).unwrap_or_default();
    respond(status, JSON, body)
}

fn whole(body: Bytes) -> HttpBody {
    HttpBody::new(Full::new(body))
}

fn respond(status: u16, kind: &str, body: impl Into<HttpBody>) -> HttpResponse {
    let built =
        HttpResponse::builder().status(status).header("content-type", kind).body(body.into());
    built.unwrap_or_else(|_| HttpResponse::new(HttpBody::empty()))
}

fn set(response: &mut HttpResponse, name: &'static str, value: &str) {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}
