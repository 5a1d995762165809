//! `eth_sendRawTransaction` over HTTP, alone or in a batch of nothing else, in the plain form in
//! which every client sends it: read where it lies in the request's body, answered as one text.
//!
//! What is not of that form goes the way of all requests and is answered the same; so this only
//! ever makes faster. One allocation a transaction is left (its bytes) and one for its reply.

use crate::rpc::{Api, error::RpcError, params, send};
use crate::types::flow::Refusal;
use alloy_primitives::B256;
use jsonrpsee::types::ErrorObjectOwned;
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;
use std::{
    io::Write as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::Notify;

/// The method.
pub(crate) const METHOD: &str = "eth_sendRawTransaction";
/// Bytes of an answer with a hash, beside its id.
const ANSWER_BYTES: usize = 112;

/// Requests to send, as they stand in a body.
pub(crate) enum Sends<'a> {
    /// One by itself.
    One(Call<'a>),
    /// Several.
    Batch(Vec<Call<'a>>),
}

/// One request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Call<'a> {
    #[serde(rename = "jsonrpc", deserialize_with = "version")]
    _version: (),
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(rename = "method", deserialize_with = "method")]
    _method: (),
    #[serde(borrow)]
    params: [&'a str; 1],
}

fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    expected(deserializer, "2.0")
}

fn method<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    expected(deserializer, METHOD)
}

fn expected<'de, D: Deserializer<'de>>(
    deserializer: D,
    text: &'static str,
) -> Result<(), D::Error> {
    let found = <&str>::deserialize(deserializer)?;
    if found == text { Ok(()) } else { Err(de::Error::custom("another request")) }
}

impl<'a> Sends<'a> {
    /// What a body asks for, where that is nothing but sends; stops at the first thing else.
    pub(crate) fn read(body: &'a [u8]) -> Option<Self> {
        let sends = match body.iter().find(|byte| !byte.is_ascii_whitespace())? {
            b'[' => Self::Batch(serde_json::from_slice(body).ok()?),
            b'{' => Self::One(serde_json::from_slice(body).ok()?),
            _ => return None,
        };
        let calls = sends.calls();
        let plain = !calls.is_empty() && calls.iter().all(|call| is_plain(call.id.get()));
        plain.then_some(sends)
    }

    /// All of them.
    pub(crate) fn calls(&self) -> &[Call<'a>] {
        match self {
            Self::One(call) => std::slice::from_ref(call),
            Self::Batch(calls) => calls,
        }
    }

    /// The answers as one JSON text.
    pub(crate) fn answered(&self, verdicts: &[Verdict]) -> Vec<u8> {
        let mut text = Vec::with_capacity(verdicts.len() * (ANSWER_BYTES + 8));
        let is_batch = matches!(self, Self::Batch(_));
        for (at, (call, verdict)) in self.calls().iter().zip(verdicts).enumerate() {
            if is_batch {
                text.push(if at == 0 { b'[' } else { b',' });
            }
            write_answer(&mut text, call.id.get(), verdict);
        }
        if is_batch {
            text.push(b']');
        }
        text
    }
}

/// An id that is answered as it stands: a whole number, or a string without escapes.
fn is_plain(id: &str) -> bool {
    match id.as_bytes() {
        [b'"', inner @ .., b'"'] => !inner.contains(&b'\\'),
        _ => id.parse::<u64>().is_ok() && !id.starts_with('+'),
    }
}

/// The hash, or why not.
pub(crate) type Verdict = Result<B256, RpcError>;

fn write_answer(text: &mut Vec<u8>, id: &str, verdict: &Verdict) {
    text.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    text.extend_from_slice(id.as_bytes());
    // A vector takes all that is written to it.
    let written = match verdict {
        Ok(hash) => write!(text, r#","result":"{hash}""#),
        Err(error) => {
            text.extend_from_slice(br#","error":"#);
            let error = ErrorObjectOwned::from(error.clone());
            serde_json::to_writer(&mut *text, &error).map_err(Into::into)
        }
    };
    debug_assert!(written.is_ok(), "an answer cannot be put into JSON");
    text.push(b'}');
}

/// The verdicts on the transactions of one request, as ingress gives them.
struct Verdicts {
    each: Vec<OnceLock<Result<B256, Refusal>>>,
    left: AtomicUsize,
    all_there: Notify,
}

/// Where one verdict goes; dropped without one it says that there is none.
struct Slot {
    verdicts: Arc<Verdicts>,
    at: usize,
}

impl Slot {
    fn put(&self, verdict: Result<B256, Refusal>) {
        // There is one slot for each, used once.
        let _first = self.verdicts.each[self.at].set(verdict);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.verdicts.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.verdicts.all_there.notify_one();
        }
    }
}

/// Transactions that are with ingress, and those that did not get there.
pub(crate) struct Submitted {
    refused: Vec<Result<(), RpcError>>,
    verdicts: Arc<Verdicts>,
}

/// Hands all transactions to ingress.
pub(crate) fn submit(api: &Api, calls: &[Call<'_>]) -> Submitted {
    let verdicts = Arc::new(Verdicts {
        each: calls.iter().map(|_| OnceLock::new()).collect(),
        left: AtomicUsize::new(calls.len()),
        all_there: Notify::new(),
    });
    let refused = calls.iter().enumerate().map(|(at, call)| {
        let slot = Slot { verdicts: Arc::clone(&verdicts), at };
        let raw = params::data_of(call.params[0])?;
        send::to_ingress(api, raw, Box::new(move |verdict| slot.put(verdict)))
    });
    Submitted { refused: refused.collect(), verdicts }
}

impl Submitted {
    /// What ingress said of each.
    pub(crate) async fn verdicts(self) -> Vec<Verdict> {
        let Self { refused, verdicts } = self;
        while verdicts.left.load(Ordering::Acquire) > 0 {
            verdicts.all_there.notified().await;
        }
        let given = verdicts.each.iter().map(|verdict| match verdict.get() {
            Some(Ok(hash)) => Ok(*hash),
            Some(Err(refusal)) => Err(refusal.clone().into()),
            None => Err(RpcError::server("the node is shutting down")),
        });
        refused.into_iter().zip(given).map(|(refused, given)| refused.and(given)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Option<usize> {
        Sends::read(body.as_bytes()).map(|sends| sends.calls().len())
    }

    #[test]
    fn the_plain_form_is_read_in_any_order_and_spacing() {
        let one = r#"{"jsonrpc":"2.0","id":1,"method":"eth_sendRawTransaction","params":["0x01"]}"#;
        assert_eq!(read(one), Some(1));
        assert_eq!(read(&format!(" [{one} , {one}]\n")), Some(2));
        let other = r#"{ "params": ["0x"], "method": "eth_sendRawTransaction",
            "id": "a-b", "jsonrpc": "2.0" }"#;
        assert_eq!(read(other), Some(1));
    }

    #[test]
    fn everything_else_goes_the_way_of_all_requests() {
        let with = |id: &str, method: &str, params: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
        };
        let good = with("1", METHOD, r#"["0x01"]"#);
        assert_eq!(read(&good), Some(1));
        for body in [
            with("1", "eth_chainId", "[]"),
            with("1", METHOD, "[]"),
            with("1", METHOD, r#"["0x01","0x02"]"#),
            with("1", METHOD, r#"["0x\u0030"]"#),
            with("1", METHOD, "[1]"),
            with("-1", METHOD, r#"["0x01"]"#),
            with("1.5", METHOD, r#"["0x01"]"#),
            with("null", METHOD, r#"["0x01"]"#),
            with("[1]", METHOD, r#"["0x01"]"#),
            with("18446744073709551616", METHOD, r#"["0x01"]"#),
            with(r#""\n""#, METHOD, r#"["0x01"]"#),
            good.replace("2.0", "1.0"),
            good.replace(r#""id":1,"#, ""),
            good.replace(r#""id":1,"#, r#""id":1,"more":1,"#),
            format!("[{good},{}]", with("1", "eth_chainId", "[]")),
            format!("{good}{good}"),
            format!("[{good}"),
            "[]".to_owned(),
            String::new(),
        ] {
            assert_eq!(read(&body), None, "{body}");
        }
    }

    #[test]
    fn answers_stand_in_order_with_their_ids() {
        let body = r#"[{"jsonrpc":"2.0","id":7,"method":"eth_sendRawTransaction","params":["0x"]},
            {"jsonrpc":"2.0","id":"x","method":"eth_sendRawTransaction","params":["0x"]}]"#;
        let sends = Sends::read(body.as_bytes()).unwrap();
        let text = sends.answered(&[Ok(B256::ZERO), Err(RpcError::params("a \"text\""))]);
        let answers: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let expected = serde_json::json!([
            {"jsonrpc": "2.0", "id": 7, "result": B256::ZERO},
            {"jsonrpc": "2.0", "id": "x", "error": {"code": -32602, "message": "a \"text\""}},
        ]);
        assert_eq!(answers, expected);
    }
}
