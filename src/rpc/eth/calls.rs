//! `eth_call` and `eth_estimateGas`.

use crate::rpc::{
    Api,
    error::RpcError,
    eth::{Json, json},
    params::{self, Args, Data, Quantity, Quantity64},
};
use crate::types::view::{BlockId, CallOutcome, CallRequest};
use alloy_eips::{eip2930::AccessList, eip7702::SignedAuthorization};
use alloy_primitives::{Address, U64};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The transaction object as clients send it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallObject<'a> {
    from: Option<Address>,
    to: Option<Address>,
    gas: Option<Quantity64>,
    gas_price: Option<Quantity>,
    max_fee_per_gas: Option<Quantity>,
    max_priority_fee_per_gas: Option<Quantity>,
    value: Option<Quantity>,
    nonce: Option<Quantity64>,
    data: Option<Data>,
    input: Option<Data>,
    access_list: Option<AccessList>,
    authorization_list: Option<Vec<SignedAuthorization>>,
    chain_id: Option<Quantity>,
    #[serde(borrow)]
    blob_versioned_hashes: Option<&'a RawValue>,
    #[serde(borrow)]
    blobs: Option<&'a RawValue>,
}

/// A call from a client's object.
///
/// # Errors
/// Where fields contradict each other, in geth's words.
fn request(api: &Api, object: CallObject<'_>) -> Result<CallRequest, RpcError> {
    let fee = |quantity: Option<Quantity>| -> Result<Option<u128>, RpcError> {
        let wide = || RpcError::params("fee has more than 128 bits");
        quantity.map(|fee| u128::try_from(fee.0).map_err(|_| wide())).transpose()
    };
    let gas_price = fee(object.gas_price)?;
    let cap = fee(object.max_fee_per_gas)?;
    let tip = fee(object.max_priority_fee_per_gas)?;
    if gas_price.is_some() && (cap.is_some() || tip.is_some()) {
        let text = "both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified";
        return Err(RpcError::server(text));
    }
    if let (Some(cap), Some(tip)) = (cap, tip)
        && cap < tip
    {
        let text = format!("maxFeePerGas ({cap:#x}) < maxPriorityFeePerGas ({tip:#x})");
        return Err(RpcError::server(text));
    }
    if let Some(Quantity(asked)) = object.chain_id
        && asked != api.facts.chain_id
    {
        let own = api.facts.chain_id;
        let text = format!("chainId does not match node's (have={asked}, want={own})");
        return Err(RpcError::server(text));
    }
    if object.blob_versioned_hashes.or(object.blobs).is_some_and(|blobs| blobs.get() != "null") {
        return Err(RpcError::server("blob transactions are not supported on this chain"));
    }
    let input = match (object.input, object.data) {
        (Some(input), Some(data)) if input != data => {
            let text = "both \"data\" and \"input\" are set and not equal. Please use \"input\" \
                        to pass transaction call data";
            return Err(RpcError::server(text));
        }
        (input, data) => input.or(data).map(|Data(bytes)| bytes).unwrap_or_default(),
    };
    Ok(CallRequest {
        from: object.from.unwrap_or_default(),
        to: object.to,
        gas: object.gas.map(|gas| gas.0.min(api.facts.call_gas_max)),
        max_fee_per_gas: gas_price.or(cap),
        max_priority_fee_per_gas: gas_price.or(tip),
        value: object.value.map(|value| value.0).unwrap_or_default(),
        input,
        access_list: object.access_list.unwrap_or_default(),
        authorizations: object.authorization_list.unwrap_or_default(),
        nonce: object.nonce.map(|nonce| nonce.0),
    })
}

/// Refuses overrides, which this node does not have; absent or empty ones are fine.
fn no_overrides(args: &mut Args<'_>, what: &str) -> Result<(), RpcError> {
    let given = args.optional(|value| Ok(value.get()))?;
    let empty = |text: &str| text.chars().filter(|c| !c.is_whitespace()).eq("{}".chars());
    match given {
        Some(text) if !empty(text) => {
            Err(RpcError::params(format!("{what} overrides are not supported by this node")))
        }
        _ => Ok(()),
    }
}

fn parse(api: &Api, args: &mut Args<'_>) -> Result<(CallRequest, BlockId), RpcError> {
    let object: CallObject<'_> = args.required(params::object)?;
    let call = request(api, object)?;
    let id = args.block()?;
    no_overrides(args, "state")?;
    no_overrides(args, "block")?;
    args.end()?;
    Ok((call, id))
}

/// `eth_call(call, block)`.
pub(crate) fn call(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let (call, id) = parse(api, args)?;
    let state = api.state(id)?;
    let environment = api.environment(id)?;
    match api.backend.simulator.call(state.as_ref(), &environment, &call)? {
        CallOutcome::Success { output, .. } => json(&output),
        other => Err(RpcError::call(other, 0)),
    }
}

/// `eth_estimateGas(call, block)`: at `latest` unless told otherwise.
pub(crate) fn estimate_gas(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let (call, id) = parse(api, args)?;
    let state = api.state(id)?;
    let environment = api.environment(id)?;
    let allowance = call.gas.unwrap_or(api.facts.call_gas_max).min(environment.gas_limit);
    match api.backend.simulator.estimate(state.as_ref(), &environment, &call)? {
        Ok(gas) => json(&U64::from(gas)),
        Err(outcome) => Err(RpcError::call(outcome, allowance)),
    }
}
