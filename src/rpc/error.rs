//! What a client is told when a request fails: Ethereum's codes and usual texts.

use crate::types::{
    flow::Refusal,
    view::{CallOutcome, ViewError},
};
use alloy_primitives::{B256, Bytes, U256, hex};
use jsonrpsee::types::ErrorObjectOwned;
use serde_json::value::{RawValue, to_raw_value};

/// Malformed JSON (JSON-RPC 2.0).
pub const PARSE_ERROR: i32 = -32700;
/// Not a request (JSON-RPC 2.0).
pub const INVALID_REQUEST: i32 = -32600;
/// No such method (JSON-RPC 2.0).
pub const METHOD_NOT_FOUND: i32 = -32601;
/// Parameters of the wrong number, type or range (JSON-RPC 2.0).
pub const INVALID_PARAMS: i32 = -32602;
/// The node failed (JSON-RPC 2.0).
pub const INTERNAL: i32 = -32603;
/// Whatever else Ethereum refuses (EIP-1474).
pub const SERVER: i32 = -32000;
/// A limit of this node was exceeded (EIP-1474).
pub const LIMIT_EXCEEDED: i32 = -32005;
/// A call reverted; the data is what it reverted with.
pub const REVERTED: i32 = 3;
/// EIP-7966: admitted, but not executed in time; the data is the hash.
pub const SYNC_TIMEOUT: i32 = 4;
/// EIP-7966: not ready to be executed; the data is the hash.
pub const SYNC_NOT_READY: i32 = 5;
/// EIP-7966: a nonce before it is missing; the data is the nonce that is expected.
pub const SYNC_NONCE_GAP: i32 = 6;

/// A JSON-RPC error.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message} ({code})")]
pub struct RpcError {
    /// JSON-RPC or Ethereum code.
    pub code: i32,
    /// Ethereum's usual text.
    pub message: String,
    /// What goes with it.
    pub data: Option<Box<RawValue>>,
}

impl RpcError {
    /// An error without data.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// -32000 with Ethereum's text.
    pub fn server(message: impl Into<String>) -> Self {
        Self::new(SERVER, message)
    }

    /// -32602 with what was wrong.
    pub fn params(message: impl Into<String>) -> Self {
        Self::new(INVALID_PARAMS, message)
    }

    /// -32005 with the limit and the remedy.
    pub fn limit(message: impl Into<String>) -> Self {
        Self::new(LIMIT_EXCEEDED, message)
    }

    /// -32603; details are in the log, not in the answer.
    pub fn internal() -> Self {
        Self::new(INTERNAL, "internal error")
    }

    /// -32601 in geth's words.
    pub fn no_method(method: &str) -> Self {
        let shown: String = method.chars().take(64).collect();
        let message = format!("the method {shown} does not exist/is not available");
        Self::new(METHOD_NOT_FOUND, message)
    }

    /// The block or its state is not there.
    pub fn header_not_found() -> Self {
        Self::server("header not found")
    }

    /// The queue before ingress or the blocking threads is full.
    pub fn busy() -> Self {
        Self::limit("server busy: too many requests wait, try again later")
    }

    /// EIP-7966: time ran out.
    pub fn sync_timeout(hash: &B256) -> Self {
        let message = "The transaction was added to the mempool but wasn't processed within \
                       the designated timeout";
        Self { data: to_raw_value(hash).ok(), ..Self::new(SYNC_TIMEOUT, message) }
    }

    /// EIP-7966: a nonce is missing.
    pub fn sync_nonce_gap(expected: u64, nonce: u64) -> Self {
        let message = format!(
            "The transaction was added to the mempool but its nonce is too high: \
             next nonce {expected}, tx nonce {nonce}"
        );
        let data = to_raw_value(&format!("{expected:#x}")).ok();
        Self { data, ..Self::new(SYNC_NONCE_GAP, message) }
    }

    /// A tried call that did not succeed; `allowance` is the most gas that it could get.
    pub fn call(outcome: CallOutcome, allowance: u64) -> Self {
        match outcome {
            CallOutcome::Revert { output, .. } => Self::reverted(&output),
            CallOutcome::Halt { reason, .. } if reason == "out of gas" && allowance > 0 => {
                Self::server(format!("gas required exceeds allowance ({allowance})"))
            }
            CallOutcome::Halt { reason, .. } => Self::server(reason),
            CallOutcome::Invalid(reason) => Self::server(reason),
            CallOutcome::Success { .. } => Self::internal(),
        }
    }

    /// Code 3 with the reason, where the data carries one.
    pub fn reverted(output: &Bytes) -> Self {
        let message = match revert_reason(output) {
            Some(reason) => format!("execution reverted: {reason}"),
            None => "execution reverted".to_owned(),
        };
        Self { data: to_raw_value(output).ok(), ..Self::new(REVERTED, message) }
    }
}

impl From<ViewError> for RpcError {
    fn from(error: ViewError) -> Self {
        match &error {
            ViewError::NotKept { asked, newest, .. } if asked > newest => Self::header_not_found(),
            ViewError::NotKept { .. } => Self::server(error.to_string()),
            ViewError::Database(reason) => {
                tracing::error!(reason, "a request could not be answered");
                Self::new(INTERNAL, error.to_string())
            }
        }
    }
}

impl From<Refusal> for RpcError {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code, refusal.message)
    }
}

impl From<RpcError> for ErrorObjectOwned {
    fn from(error: RpcError) -> Self {
        Self::owned(error.code, error.message, error.data)
    }
}

/// The text in Solidity's `Error(string)` and `Panic(uint256)`.
fn revert_reason(output: &[u8]) -> Option<String> {
    let (selector, arguments) = output.split_first_chunk::<4>()?;
    match selector {
        [0x08, 0xc3, 0x79, 0xa0] => {
            let offset = word(arguments, 0)?;
            let length = word(arguments, offset)?;
            let start = offset.checked_add(32)?;
            let text = arguments.get(start..start.checked_add(length)?)?;
            String::from_utf8(text.to_vec()).ok()
        }
        [0x4e, 0x48, 0x7b, 0x71] => {
            let code = U256::from_be_slice(arguments.get(..32)?);
            Some(panic_text(code))
        }
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..at.checked_add(32)?)?;
    usize::try_from(U256::from_be_slice(word)).ok()
}

/// Solidity's panic codes, in geth's words.
fn panic_text(code: U256) -> String {
    let known = match u8::try_from(code) {
        Ok(0x00) => "generic panic",
        Ok(0x01) => "assert(false)",
        Ok(0x11) => "arithmetic underflow or overflow",
        Ok(0x12) => "division or modulo by zero",
        Ok(0x21) => "enum overflow",
        Ok(0x22) => "invalid encoded storage byte array accessed",
        Ok(0x31) => "out-of-bounds array access; popping on an empty array",
        Ok(0x32) => "out-of-bounds access of an array or bytesN",
        Ok(0x41) => "out of memory",
        Ok(0x51) => "uninitialized function",
        _ => {
            return format!(
                "unknown panic code: 0x{}",
                hex::encode(code.to_be_bytes_trimmed_vec())
            );
        }
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_string(text: &str) -> Bytes {
        let mut data = vec![0x08, 0xc3, 0x79, 0xa0];
        data.extend(U256::from(32).to_be_bytes::<32>());
        data.extend(U256::from(text.len()).to_be_bytes::<32>());
        data.extend(text.as_bytes());
        data.resize(data.len().next_multiple_of(32) + 4, 0);
        data.into()
    }

    #[test]
    fn a_revert_shows_its_reason() {
        let error = RpcError::reverted(&error_string("not the owner"));
        assert_eq!(error.code, 3);
        assert_eq!(error.message, "execution reverted: not the owner");
        let mut panic = vec![0x4e, 0x48, 0x7b, 0x71];
        panic.extend(U256::from(0x11).to_be_bytes::<32>());
        let error = RpcError::reverted(&panic.into());
        assert_eq!(error.message, "execution reverted: arithmetic underflow or overflow");
    }

    #[test]
    fn a_revert_with_broken_data_shows_none() {
        let mut data = error_string("x").to_vec();
        data[4..36].fill(0xff);
        let error = RpcError::reverted(&data.into());
        assert_eq!(error.message, "execution reverted");
        assert_eq!(RpcError::reverted(&Bytes::from_static(&[1])).message, "execution reverted");
    }
}
