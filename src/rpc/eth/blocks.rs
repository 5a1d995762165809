//! Blocks, transactions and receipts.

use crate::rpc::{
    Api,
    convert::{self, At, Receipts, ShownReceipts},
    error::RpcError,
    eth::{Json, json, null},
    params::{self, Args},
};
use crate::types::{
    block::Block,
    view::{BlockId, Place},
};
use alloy_consensus::ReceiptEnvelope;
use alloy_primitives::{B256, U64};
use alloy_rpc_types_eth::{Log, TransactionReceipt};
use serde_json::value::RawValue;

fn flag(value: &RawValue) -> Result<bool, String> {
    match value.get() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("json: cannot unmarshal non-boolean into Go value of type bool".to_owned()),
    }
}

fn by_hash(value: &RawValue) -> Result<BlockId, String> {
    params::hash(value).map(BlockId::Hash)
}

/// `eth_blockNumber`.
pub(crate) fn number(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    args.end()?;
    json(&U64::from(api.backend.chain.heads().latest))
}

/// `eth_getBlockByNumber(block, full)`.
pub(crate) fn block_by_number(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let id = args.required(params::block_id)?;
    show(api, id, args)
}

/// `eth_getBlockByHash(hash, full)`.
pub(crate) fn block_by_hash(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let id = args.required(by_hash)?;
    show(api, id, args)
}

fn show(api: &Api, id: BlockId, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let full = args.optional(flag)?.unwrap_or(false);
    args.end()?;
    if id == BlockId::Pending {
        let open = api.open_block()?;
        let header =
            convert::pending_header(&open.environment, open.parent_hash, &open.mini_blocks);
        let shown = convert::pending_block(&header, &open.mini_blocks, &open.environment, full);
        return json(&shown.map_err(|_| RpcError::internal())?);
    }
    match api.block(id)? {
        Some(block) => json(&convert::block(&block, full)),
        None => Ok(null()),
    }
}

/// `eth_getBlockTransactionCountByNumber(block)`.
pub(crate) fn count_by_number(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let id = args.required(params::block_id)?;
    args.end()?;
    if id == BlockId::Pending {
        let open = api.open_block()?;
        let waiting: usize = open.mini_blocks.iter().map(|mini| mini.transactions.len()).sum();
        return json(&U64::from(waiting));
    }
    transaction_count(api, id)
}

/// `eth_getBlockTransactionCountByHash(hash)`.
pub(crate) fn count_by_hash(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let id = args.required(by_hash)?;
    args.end()?;
    transaction_count(api, id)
}

fn transaction_count(api: &Api, id: BlockId) -> Result<Json, RpcError> {
    match api.block(id)? {
        Some(block) => json(&U64::from(block.transactions.len())),
        None => Ok(null()),
    }
}

/// `eth_getUncleCountByBlockNumber(block)`: there are none.
pub(crate) fn uncles_by_number(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let id = args.required(params::block_id)?;
    args.end()?;
    uncles(api, id)
}

/// `eth_getUncleCountByBlockHash(hash)`: there are none.
pub(crate) fn uncles_by_hash(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let id = args.required(by_hash)?;
    args.end()?;
    uncles(api, id)
}

fn uncles(api: &Api, id: BlockId) -> Result<Json, RpcError> {
    if api.block(id)?.is_some() { json(&U64::ZERO) } else { Ok(null()) }
}

/// `eth_getTransactionByHash(hash)`: sealed, durable or waiting.
pub(crate) fn transaction(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let hash = args.required(params::hash)?;
    args.end()?;
    match api.backend.chain.transaction(&hash)? {
        Some(Place::Sealed(block, index)) => show_transaction(&block, index),
        Some(Place::Archived(found)) => {
            let at = At::under(&found.header, found.block_hash);
            json(&convert::transaction(&found.transaction, at, found.index))
        }
        Some(Place::Open(mini, index)) => {
            let Some(tx) = mini.transactions.get(index) else { return Ok(null()) };
            let at = At::open(&mini.environment);
            let index = mini.first_transaction + u64::try_from(index).unwrap_or_default();
            json(&convert::transaction(tx, at, index))
        }
        None => match api.backend.pool.pending(&hash) {
            Some(tx) => json(&convert::waiting(&tx)),
            None => Ok(null()),
        },
    }
}

fn show_transaction(block: &Block, index: usize) -> Result<Json, RpcError> {
    match (block.transactions.get(index), u64::try_from(index)) {
        (Some(tx), Ok(index)) => json(&convert::transaction(tx, At::sealed(block), index)),
        _ => Ok(null()),
    }
}

/// `eth_getTransactionByBlockNumberAndIndex(block, index)`.
pub(crate) fn transaction_by_number(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let id = args.required(params::block_id)?;
    transaction_at(api, id, args)
}

/// `eth_getTransactionByBlockHashAndIndex(hash, index)`.
pub(crate) fn transaction_by_block_hash(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let id = args.required(by_hash)?;
    transaction_at(api, id, args)
}

fn transaction_at(api: &Api, id: BlockId, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let index = args.required(params::quantity_64)?;
    args.end()?;
    if id == BlockId::Pending {
        let open = api.open_block()?;
        let at = At::open(&open.environment);
        let nth = usize::try_from(index).unwrap_or(usize::MAX);
        let mut all = open.mini_blocks.iter().flat_map(|mini| &mini.transactions);
        return match all.nth(nth) {
            Some(tx) => json(&convert::transaction(tx, at, index)),
            None => Ok(null()),
        };
    }
    match (api.block(id)?, usize::try_from(index)) {
        (Some(block), Ok(index)) => show_transaction(&block, index),
        _ => Ok(null()),
    }
}

/// `eth_getTransactionReceipt(hash)`: block hash all `ff` until the block is sealed.
pub(crate) fn receipt(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let hash = args.required(params::hash)?;
    args.end()?;
    receipt_of(api, &hash).map(|found| found.unwrap_or_else(null))
}

/// The receipt of a durable transaction.
///
/// # Errors
/// Where the chain cannot be read.
pub(crate) fn receipt_of(api: &Api, hash: &B256) -> Result<Option<Json>, RpcError> {
    match api.backend.chain.transaction(hash)? {
        Some(place) => receipt_at(&place),
        None => Ok(None),
    }
}

/// The receipt at a place, in JSON.
///
/// # Errors
/// Where it cannot be put into JSON.
pub(crate) fn receipt_at(place: &Place) -> Result<Option<Json>, RpcError> {
    shown_receipt(place).map(|shown| json(&shown)).transpose()
}

fn shown_receipt(place: &Place) -> Option<TransactionReceipt<ReceiptEnvelope<Log>>> {
    match place {
        Place::Sealed(block, index) => {
            let (tx, receipt) = (block.transactions.get(*index)?, block.receipts.get(*index)?);
            let (at, first_log) = (At::sealed(block), block.first_log(*index));
            Some(convert::receipt(tx, receipt, at, u64::try_from(*index).ok()?, first_log))
        }
        Place::Archived(found) => {
            let (tx, receipt) = (&found.transaction, &found.receipt);
            let at = At::under(&found.header, found.block_hash);
            Some(convert::receipt(tx, receipt, at, found.index, found.first_log))
        }
        Place::Open(mini, index) => {
            let (tx, receipt) = (mini.transactions.get(*index)?, mini.receipts.get(*index)?);
            let first_log = mini.first_log + convert::log_count(&mini.receipts[..*index]);
            let at = At::open(&mini.environment);
            let index = mini.first_transaction + u64::try_from(*index).ok()?;
            Some(convert::receipt(tx, receipt, at, index, first_log))
        }
    }
}

/// `eth_getBlockReceipts(block)`.
pub(crate) fn block_receipts(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let id = args.required(params::block_id)?;
    args.end()?;
    if id == BlockId::Pending {
        let open = api.open_block()?;
        let parts = open.mini_blocks.iter().map(|mini| Receipts::open(mini)).collect();
        return json(&ShownReceipts(parts));
    }
    let Some(block) = api.block(id)? else { return Ok(null()) };
    json(&ShownReceipts(vec![Receipts::sealed(&block)]))
}
