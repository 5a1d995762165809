//! `eth_getLogs` and the filter that subscriptions share.

use crate::rpc::{
    Api,
    convert::{self, At},
    error::RpcError,
    eth::{Json, json},
    params::{self, Args},
};
use crate::types::{
    block::Block,
    mini_block::MiniBlock,
    view::{BlockId, LogQuery},
};
use alloy_primitives::{Address, B256};
use alloy_rpc_types_eth::Log;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Addresses or topics at one place at most, as geth has it.
pub const FILTER_ENTRIES_MAX: usize = 1_000;
/// Blocks that are read at a time: bounds memory.
const BLOCKS_AT_A_TIME: usize = 64;

/// What a client asks for.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// First block.
    pub from: Option<BlockId>,
    /// Last block.
    pub to: Option<BlockId>,
    /// Only this block.
    pub block_hash: Option<B256>,
    /// Emitters and topics.
    pub query: LogQuery,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FilterObject<'a> {
    #[serde(borrow)]
    from_block: Option<&'a RawValue>,
    #[serde(borrow)]
    to_block: Option<&'a RawValue>,
    #[serde(borrow)]
    block_hash: Option<&'a RawValue>,
    #[serde(borrow)]
    address: Option<&'a RawValue>,
    #[serde(borrow)]
    topics: Option<Vec<Option<&'a RawValue>>>,
}

/// A filter object.
pub(crate) fn filter(value: &RawValue) -> Result<Filter, String> {
    let object: FilterObject<'_> = params::object(value)?;
    let block = |value: Option<&RawValue>| value.map(params::block_id).transpose();
    let (from, to) = (block(object.from_block)?, block(object.to_block)?);
    let block_hash = object.block_hash.map(params::hash).transpose()?;
    if block_hash.is_some() && (from.is_some() || to.is_some()) {
        let text = "cannot specify both BlockHash and FromBlock/ToBlock, choose one or the other";
        return Err(text.to_owned());
    }
    let topics = object.topics.unwrap_or_default();
    if topics.len() > 4 {
        return Err("exceed max topics".to_owned());
    }
    let mut query = LogQuery {
        addresses: one_or_many(object.address, params::address)?,
        ..LogQuery::default()
    };
    for (place, given) in query.topics.iter_mut().zip(topics) {
        *place = one_or_many(given, params::hash)?;
    }
    Ok(Filter { from, to, block_hash, query })
}

/// One value or a list; a null anywhere means any.
fn one_or_many<T>(
    value: Option<&RawValue>,
    parse: impl Fn(&RawValue) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let Some(value) = value.filter(|value| value.get() != "null") else { return Ok(Vec::new()) };
    if !value.get().starts_with('[') {
        return parse(value).map(|one| vec![one]);
    }
    let list: Vec<Option<&RawValue>> = params::object(value)?;
    if list.len() > FILTER_ENTRIES_MAX {
        return Err("exceed max addresses or topics per search position".to_owned());
    }
    let any = list.iter().any(Option::is_none);
    let parsed = list.into_iter().flatten().map(parse).collect::<Result<Vec<T>, String>>()?;
    Ok(if any { Vec::new() } else { parsed })
}

/// `eth_getLogs(filter)`.
pub(crate) fn get_logs(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let filter = args.required(filter)?;
    args.end()?;
    let mut found = Vec::new();
    if let Some(hash) = filter.block_hash {
        let block = api.block(BlockId::Hash(hash))?;
        let block = block.ok_or_else(|| RpcError::server("unknown block"))?;
        found.extend(sealed_logs(&block, &filter.query));
        return within_limit(api, &filter.query, found).and_then(|found| json(&found));
    }
    let head = api.backend.chain.heads().latest;
    let from = sealed_number(api, filter.from, head)?;
    let to = sealed_number(api, filter.to, head)?;
    if to.is_some_and(|to| to > head) {
        return Err(RpcError::params("block range extends beyond current head block"));
    }
    match (from, to) {
        (Some(from), to) => {
            let query = LogQuery { from, to: to.unwrap_or(head), ..filter.query.clone() };
            // Who polls from the block after `latest` finds nothing yet; that is no error.
            if query.from > query.to && matches!(filter.to, Some(BlockId::Number(_))) {
                return Err(RpcError::params("invalid block range params"));
            }
            let span = query.to.saturating_sub(query.from);
            let span_max = api.settings.logs_blocks_max;
            if span >= span_max {
                let text = format!("query exceeds max block range {span_max}");
                return Err(RpcError::limit(text));
            }
            found = search(api, query)?;
        }
        (None, Some(_)) => return Err(RpcError::params("invalid block range params")),
        (None, None) => {}
    }
    if to.is_none() {
        for mini in &api.open_block()?.mini_blocks {
            found.extend(open_logs(mini, &filter.query));
        }
    }
    within_limit(api, &filter.query, found).and_then(|found| json(&found))
}

/// The height that a bound means, `None` for `pending`.
fn sealed_number(api: &Api, id: Option<BlockId>, head: u64) -> Result<Option<u64>, RpcError> {
    match id {
        None | Some(BlockId::Latest) => Ok(Some(head)),
        Some(BlockId::Pending) => Ok(None),
        Some(BlockId::Number(number)) => Ok(Some(number)),
        Some(BlockId::Earliest) => Ok(Some(0)),
        Some(BlockId::Steady) => Ok(Some(api.backend.chain.heads().steady)),
        Some(BlockId::Hash(_)) => {
            let block = id.map(|id| api.block(id)).transpose()?.flatten();
            let block = block.ok_or_else(|| RpcError::server("unknown block"))?;
            Ok(Some(block.header.number))
        }
    }
}

fn search(api: &Api, mut query: LogQuery) -> Result<Vec<Log>, RpcError> {
    let mut found = Vec::new();
    while query.from <= query.to {
        let blocks = api.backend.chain.blocks_with_logs(&query, BLOCKS_AT_A_TIME)?;
        for block in &blocks {
            found.extend(sealed_logs(block, &query));
        }
        found = within_limit(api, &query, found)?;
        match blocks.last() {
            Some(last) if blocks.len() == BLOCKS_AT_A_TIME => query.from = last.header.number + 1,
            _ => break,
        }
    }
    Ok(found)
}

fn within_limit(api: &Api, query: &LogQuery, found: Vec<Log>) -> Result<Vec<Log>, RpcError> {
    let max = api.settings.logs_max;
    if found.len() <= max {
        return Ok(found);
    }
    let last = found[max - 1].block_number.unwrap_or(query.to).saturating_sub(1).max(query.from);
    Err(RpcError::limit(format!(
        "query returned more than {max} results. Try with this block range [{:#x}, {last:#x}].",
        query.from
    )))
}

/// Fitting logs of a sealed block.
pub(crate) fn sealed_logs(block: &Block, query: &LogQuery) -> Vec<Log> {
    let mut found = Vec::new();
    let mut first_log = 0;
    let all = block.transactions.iter().zip(&block.receipts);
    for (index, (tx, receipt)) in (0..).zip(all) {
        let shown = convert::logs(tx.hash, receipt, At::sealed(block), index, first_log);
        found.extend(shown.filter(|log| query.matches(&log.inner)));
        first_log += convert::count(&receipt.logs);
    }
    found
}

/// Fitting logs of a mini-block.
pub(crate) fn open_logs(mini: &MiniBlock, query: &LogQuery) -> Vec<Log> {
    let mut first_log = mini.first_log;
    let at = At::open(&mini.environment);
    let mut found = Vec::new();
    let all = mini.transactions.iter().zip(&mini.receipts);
    for (index, (tx, receipt)) in (mini.first_transaction..).zip(all) {
        let shown = convert::logs(tx.hash, receipt, at, index, first_log);
        found.extend(shown.filter(|log| query.matches(&log.inner)));
        first_log += convert::count(&receipt.logs);
    }
    found
}

/// The addresses of a `stateChanges` subscription.
pub(crate) fn addresses(value: &RawValue) -> Result<Vec<Address>, String> {
    one_or_many(Some(value), params::address)
}
