//! What stands between a socket and JSON-RPC: connection limit, browsers, and refusals in JSON.

use crate::rpc::{
    Api, Cors,
    error::{INVALID_REQUEST, RpcError},
    metrics::Open,
};
use jsonrpsee::{
    core::BoxError,
    server::{HttpBody, HttpRequest, HttpResponse},
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

/// Puts `Http` before a connection's service; called once a connection.
#[derive(Clone)]
pub struct HttpLayer(pub Arc<Api>);

/// One connection.
#[derive(Clone)]
pub struct Http<S> {
    inner: S,
    api: Arc<Api>,
    connection: Arc<Connection>,
}

struct Connection {
    /// Counts the connection as long as it, or the WebSocket that it became, lives.
    _open: Open,
    refused: bool,
}

impl<S> tower::Layer<S> for HttpLayer {
    type Service = Http<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let (open, before) = self.0.metrics.connection();
        let refused = before >= i64::from(self.0.settings.connections_max);
        let connection = Arc::new(Connection { _open: open, refused });
        Http { inner, api: Arc::clone(&self.0), connection }
    }
}

impl<S> Service<HttpRequest> for Http<S>
where
    S: Service<HttpRequest, Response = HttpResponse, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = HttpResponse;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: HttpRequest) -> Self::Future {
        let origin = request.headers().get("origin").and_then(|value| value.to_str().ok());
        let allowed = origin.and_then(|origin| allowed_origin(&self.api.settings.cors, origin));
        let ours = self.own_answer(&request);
        // A WebSocket keeps the request's extensions, and so stays counted.
        request.extensions_mut().insert(Arc::clone(&self.connection));
        let api = Arc::clone(&self.api);
        let inner = ours.is_none().then(|| self.inner.call(request));
        Box::pin(async move {
            let mut response = match (ours, inner) {
                (Some(ours), _) => ours,
                (None, Some(inner)) => restated(&api, inner.await?),
                (None, None) => refusal(500, RpcError::internal()),
            };
            if let Some(origin) = allowed {
                set(&mut response, "access-control-allow-origin", &origin);
                set(&mut response, "vary", "origin");
            }
            Ok(response)
        })
    }
}

impl<S> Http<S> {
    /// What is answered without JSON-RPC.
    fn own_answer(&self, request: &HttpRequest) -> Option<HttpResponse> {
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

/// jsonrpsee's refusals by HTTP status, with Ethereum's code and text.
fn restated(api: &Api, response: HttpResponse) -> HttpResponse {
    match response.status().as_u16() {
        413 => {
            let max = api.settings.request_bytes_max;
            refusal(413, RpcError::limit(format!("content length too large: at most {max} bytes")))
        }
        _ => response,
    }
}

fn refusal(status: u16, error: RpcError) -> HttpResponse {
    let payload = ResponsePayload::<()>::error(ErrorObjectOwned::from(error));
    let body = serde_json::to_string(&Response::new(payload, Id::Null)).unwrap_or_default();
    respond(status, JSON, body)
}

fn respond(status: u16, kind: &str, body: String) -> HttpResponse {
    let built = HttpResponse::builder()
        .status(status)
        .header("content-type", kind)
        .body(HttpBody::from(body));
    built.unwrap_or_else(|_| HttpResponse::new(HttpBody::empty()))
}

fn set(response: &mut HttpResponse, name: &'static str, value: &str) {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}
