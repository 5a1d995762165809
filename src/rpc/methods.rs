//! The table of all methods, and those that need no chain.

use crate::rpc::{
    Api,
    error::RpcError,
    eth::{Json, blocks, calls, fees, json, logs, state},
    params::{self, Args},
};
use crate::types::map::Map;
use alloy_primitives::{Address, U64, keccak256};
use serde_json::json as value;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Answers one request; may block where its kind says so.
pub type Handler = fn(&Api, &mut Args<'_>) -> Result<Json, RpcError>;

/// How a method is served.
#[derive(Clone, Copy)]
pub enum Kind {
    /// From memory, on the worker that read the request.
    Inline(Handler),
    /// May read the disk or compute for long: on a blocking thread.
    Blocking(Handler),
    /// `eth_sendRawTransaction`.
    Send,
    /// `eth_sendRawTransactionSync`.
    SendSync,
    /// `realtime_sendRawTransaction`.
    SendRealtime,
    /// `eth_subscribe` and `eth_unsubscribe`, on a WebSocket only.
    Subscription,
}

/// One method.
#[derive(Clone, Copy)]
pub struct Method {
    /// Its name.
    pub name: &'static str,
    /// How it is served.
    pub kind: Kind,
}

const fn inline(name: &'static str, handler: Handler) -> Method {
    Method { name, kind: Kind::Inline(handler) }
}

const fn blocking(name: &'static str, handler: Handler) -> Method {
    Method { name, kind: Kind::Blocking(handler) }
}

/// All methods.
pub const METHODS: &[Method] = &[
    Method { name: "eth_sendRawTransaction", kind: Kind::Send },
    Method { name: "eth_sendRawTransactionSync", kind: Kind::SendSync },
    Method { name: "realtime_sendRawTransaction", kind: Kind::SendRealtime },
    Method { name: "eth_subscribe", kind: Kind::Subscription },
    Method { name: "eth_unsubscribe", kind: Kind::Subscription },
    inline("eth_chainId", chain_id),
    inline("eth_blockNumber", blocks::number),
    inline("eth_getBalance", state::balance),
    inline("eth_getTransactionCount", state::transaction_count),
    inline("eth_getCode", state::code),
    inline("eth_getStorageAt", state::storage_at),
    inline("eth_syncing", syncing),
    inline("eth_accounts", accounts),
    inline("eth_blobBaseFee", fees::blob_base_fee),
    inline("net_version", net_version),
    inline("net_listening", net_listening),
    inline("net_peerCount", net_peer_count),
    inline("web3_clientVersion", client_version),
    inline("rpc_modules", modules),
    blocking("web3_sha3", sha3),
    blocking("eth_gasPrice", fees::gas_price),
    blocking("eth_maxPriorityFeePerGas", fees::max_priority_fee),
    blocking("eth_feeHistory", fees::history),
    blocking("eth_getProof", state::proof),
    blocking("eth_getBlockByNumber", blocks::block_by_number),
    blocking("eth_getBlockByHash", blocks::block_by_hash),
    blocking("eth_getBlockTransactionCountByNumber", blocks::count_by_number),
    blocking("eth_getBlockTransactionCountByHash", blocks::count_by_hash),
    blocking("eth_getUncleCountByBlockNumber", blocks::uncles_by_number),
    blocking("eth_getUncleCountByBlockHash", blocks::uncles_by_hash),
    blocking("eth_getTransactionByHash", blocks::transaction),
    blocking("eth_getTransactionByBlockNumberAndIndex", blocks::transaction_by_number),
    blocking("eth_getTransactionByBlockHashAndIndex", blocks::transaction_by_block_hash),
    blocking("eth_getTransactionReceipt", blocks::receipt),
    blocking("eth_getBlockReceipts", blocks::block_receipts),
    blocking("eth_getLogs", logs::get_logs),
    blocking("eth_call", calls::call),
    blocking("eth_estimateGas", calls::estimate_gas),
];

/// Places of the methods in `METHODS`, by name.
pub fn by_name() -> Map<&'static str, usize> {
    METHODS.iter().enumerate().map(|(index, method)| (method.name, index)).collect()
}

/// Runs a handler; a panic in it is an internal error and no more.
///
/// # Errors
/// What the handler refuses.
pub fn run(handler: Handler, api: &Api, params: Option<&str>) -> Result<Json, RpcError> {
    let answer = catch_unwind(AssertUnwindSafe(|| {
        let mut args = Args::new(params)?;
        handler(api, &mut args)
    }));
    answer.unwrap_or_else(|_| {
        tracing::error!("a request's handler panicked");
        Err(RpcError::internal())
    })
}

/// Answers a request on the calling thread, where its method needs neither ingress nor a
/// subscription: for tests and fuzzing.
///
/// # Errors
/// What the method refuses; -32601 for every other name.
pub fn answer(api: &Api, name: &str, params: Option<&str>) -> Result<Json, RpcError> {
    match METHODS.iter().find(|method| method.name == name).map(|method| method.kind) {
        Some(Kind::Inline(handler) | Kind::Blocking(handler)) => run(handler, api, params),
        _ => Err(RpcError::no_method(name)),
    }
}

fn chain_id(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    args.end()?;
    json(&U64::from(api.facts.chain_id))
}

/// A node that answers is in step: there is nobody to catch up with.
fn syncing(_api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    args.end()?;
    json(&false)
}

/// The node holds no keys of users.
fn accounts(_api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    args.end()?;
    json(&[Address::ZERO; 0])
}

fn net_version(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    args.end()?;
    json(&api.facts.chain_id.to_string())
}

fn net_listening(_api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    args.end()?;
    json(&true)
}

fn net_peer_count(_api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    args.end()?;
    json(&U64::ZERO)
}

fn client_version(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    args.end()?;
    json(&api.facts.client_version)
}

fn sha3(_api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let data = args.required(params::data)?;
    args.end()?;
    json(&keccak256(&data))
}

fn modules(_api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    args.end()?;
    json(&value!({ "eth": "1.0", "net": "1.0", "realtime": "1.0", "rpc": "1.0", "web3": "1.0" }))
}
