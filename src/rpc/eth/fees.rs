//! What gas costs: price, tip, history.

use crate::rpc::{
    Api,
    error::RpcError,
    eth::{Json, json},
    params::{self, Args},
};
use crate::types::{block::Block, view::BlockId};
use alloy_primitives::{U64, U128};
use serde::Serialize;

/// Blocks in one `eth_feeHistory` at most, as geth has it.
pub const FEE_HISTORY_BLOCKS_MAX: u64 = 1_024;
/// Percentiles in one `eth_feeHistory` at most, as geth has it.
pub const PERCENTILES_MAX: usize = 100;
/// Blocks that a suggested tip looks back on.
const TIP_BLOCKS: u64 = 20;
/// Percentile of paid tips that is suggested, as geth does.
const TIP_PERCENTILE: usize = 60;
/// Blocks fuller than one part in this many raise the suggested tip.
const CROWDED_PARTS: u64 = 2;

/// `eth_gasPrice`: the next block's base fee and the suggested tip.
pub(crate) fn gas_price(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    args.end()?;
    let base_fee = u128::from(api.open_block()?.environment.base_fee);
    json(&U128::from(base_fee + suggested_tip(api)?))
}

/// `eth_maxPriorityFeePerGas`: zero while blocks have room, else what others paid.
pub(crate) fn max_priority_fee(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    args.end()?;
    json(&U128::from(suggested_tip(api)?))
}

/// `eth_blobBaseFee`: there are no blobs; the least value that EIP-4844 knows.
pub(crate) fn blob_base_fee(_api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    args.end()?;
    json(&U64::from(1))
}

fn suggested_tip(api: &Api) -> Result<u128, RpcError> {
    let latest = api.latest()?;
    // With room in the newest block, a transaction without a tip is in the next mini-block.
    if latest.header.gas_used < latest.header.gas_limit / CROWDED_PARTS {
        return Ok(0);
    }
    let newest = latest.header.number;
    let mut tips = Vec::new();
    for number in newest.saturating_sub(TIP_BLOCKS - 1)..=newest {
        let Some(block) = api.block(BlockId::Number(number))? else { continue };
        let base_fee = block.header.base_fee_per_gas.unwrap_or_default();
        tips.extend(block.transactions.iter().filter_map(|tx| tx.effective_tip(base_fee)));
    }
    tips.sort_unstable();
    let at = tips.len().saturating_sub(1) * TIP_PERCENTILE / 100;
    Ok(tips.get(at).copied().unwrap_or_default())
}

/// Answer to `eth_feeHistory`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownHistory {
    oldest_block: U64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reward: Option<Vec<Vec<U128>>>,
    base_fee_per_gas: Vec<U64>,
    gas_used_ratio: Vec<f64>,
    base_fee_per_blob_gas: Vec<U64>,
    blob_gas_used_ratio: Vec<f64>,
}

/// `eth_feeHistory(count, newest, percentiles)`.
pub(crate) fn history(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let count = args.required(params::count)?;
    let newest = args.required(params::block_id)?;
    let percentiles: Vec<f64> = args.optional(params::object)?.unwrap_or_default();
    args.end()?;
    check_percentiles(&percentiles)?;
    let head = api.backend.chain.heads().latest;
    let newest = match newest {
        BlockId::Number(number) if number > head => {
            let text = format!("request beyond head block: requested {number}, head {head}");
            return Err(RpcError::server(text));
        }
        BlockId::Number(number) => number,
        id => api.block(id)?.ok_or_else(RpcError::header_not_found)?.header.number,
    };
    let count = count.min(FEE_HISTORY_BLOCKS_MAX).min(newest + 1);
    let mut shown = ShownHistory {
        oldest_block: U64::from(newest + 1 - count),
        reward: (!percentiles.is_empty()).then(Vec::new),
        base_fee_per_gas: Vec::new(),
        gas_used_ratio: Vec::new(),
        base_fee_per_blob_gas: Vec::new(),
        blob_gas_used_ratio: Vec::new(),
    };
    let mut next = None;
    for number in newest + 1 - count..=newest {
        if count == 0 {
            break;
        }
        let block = api.block(BlockId::Number(number))?.ok_or_else(RpcError::header_not_found)?;
        let base_fee = block.header.base_fee_per_gas.unwrap_or_default();
        shown.base_fee_per_gas.push(U64::from(base_fee));
        shown.gas_used_ratio.push(ratio(block.header.gas_used, block.header.gas_limit));
        shown.base_fee_per_blob_gas.push(U64::from(1));
        shown.blob_gas_used_ratio.push(0.0);
        if let Some(reward) = &mut shown.reward {
            reward.push(rewards(&block, &percentiles));
        }
        next = Some(api.next_base_fee(&block));
    }
    if let Some(next) = next {
        shown.base_fee_per_gas.push(U64::from(next));
        shown.base_fee_per_blob_gas.push(U64::from(1));
    }
    json(&shown)
}

fn check_percentiles(percentiles: &[f64]) -> Result<(), RpcError> {
    if percentiles.len() > PERCENTILES_MAX {
        let text = format!("invalid reward percentile: over the query limit {PERCENTILES_MAX}");
        return Err(RpcError::server(text));
    }
    if let Some(wrong) = percentiles.iter().find(|p| !(0.0..=100.0).contains(*p)) {
        return Err(RpcError::server(format!("invalid reward percentile: {wrong:.6}")));
    }
    match percentiles.windows(2).position(|pair| pair[0] > pair[1]) {
        None => Ok(()),
        Some(at) => {
            let (first, second) = (percentiles[at], percentiles[at + 1]);
            let text =
                format!("invalid reward percentile: #{at}:{first:.6} >= #{}:{second:.6}", at + 1);
            Err(RpcError::server(text))
        }
    }
}

#[expect(clippy::float_arithmetic, reason = "the answer's format, no consensus data")]
fn ratio(used: u64, limit: u64) -> f64 {
    if limit == 0 { 0.0 } else { used as f64 / limit as f64 }
}

/// The tips at percentiles of the gas used, lowest first; zeros for an empty block.
#[expect(clippy::float_arithmetic, reason = "percentiles come as floats; no consensus data")]
fn rewards(block: &Block, percentiles: &[f64]) -> Vec<U128> {
    let base_fee = block.header.base_fee_per_gas.unwrap_or_default();
    let with_gas = block.transactions.iter().zip(&block.receipts);
    let mut paid: Vec<(u128, u64)> = with_gas
        .map(|(tx, receipt)| (tx.effective_tip(base_fee).unwrap_or_default(), receipt.gas_used))
        .collect();
    paid.sort_unstable();
    let total = block.header.gas_used as f64;
    let reward_at = |percentile: &f64| {
        let threshold = total * percentile / 100.0;
        let mut sum = 0_u64;
        let reached = paid.iter().find(|(_, gas)| {
            sum += gas;
            sum as f64 >= threshold
        });
        U128::from(reached.or(paid.last()).map_or(0, |(tip, _)| *tip))
    };
    percentiles.iter().map(reward_at).collect()
}
