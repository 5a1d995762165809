//! Accounts: balance, nonce, code, storage, proofs.

use crate::rpc::{
    Api,
    error::RpcError,
    eth::{Json, json},
    params::{self, Args},
};
use crate::types::{
    diff::Account,
    view::{AccountProof, BlockId},
};
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use serde::Serialize;

/// Slots in one proof at most, as geth has it.
pub const PROOF_SLOTS_MAX: usize = 1_024;

fn account(api: &Api, address: &Address, id: BlockId) -> Result<Account, RpcError> {
    Ok(api.state(id)?.account(address)?.unwrap_or_default())
}

/// `eth_getBalance(address, block)`.
pub(crate) fn balance(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let address = args.required(params::address)?;
    let id = args.block()?;
    args.end()?;
    json(&account(api, &address, id)?.balance)
}

/// `eth_getTransactionCount(address, block)`: at `pending` it counts what waits in the pool.
pub(crate) fn transaction_count(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let address = args.required(params::address)?;
    let id = args.block()?;
    args.end()?;
    let durable = account(api, &address, id)?.nonce;
    let nonce = match id {
        BlockId::Pending => {
            api.backend.pool.pending_nonce(&address).map_or(durable, |waiting| waiting.max(durable))
        }
        _ => durable,
    };
    json(&U64::from(nonce))
}

/// `eth_getCode(address, block)`.
pub(crate) fn code(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let address = args.required(params::address)?;
    let id = args.block()?;
    args.end()?;
    let state = api.state(id)?;
    let hash = state.account(&address)?.unwrap_or_default().code_hash;
    let code = if hash == alloy_primitives::KECCAK256_EMPTY { None } else { state.code(&hash)? };
    json(&code.unwrap_or_default())
}

/// `eth_getStorageAt(address, slot, block)`: always 32 bytes.
pub(crate) fn storage_at(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let address = args.required(params::address)?;
    let (slot, _) = args.required(params::slot)?;
    let id = args.block()?;
    args.end()?;
    json(&B256::from(api.state(id)?.storage(&address, &slot)?))
}

/// EIP-1186.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownProof {
    address: Address,
    account_proof: Vec<Bytes>,
    balance: U256,
    code_hash: B256,
    nonce: U64,
    storage_hash: B256,
    storage_proof: Vec<ShownSlot>,
}

#[derive(Serialize)]
struct ShownSlot {
    key: String,
    value: U256,
    proof: Vec<Bytes>,
}

/// `eth_getProof(address, slots, block)`. A key is shown as it was asked for: in full length, or
/// as a quantity.
pub(crate) fn proof(api: &Api, args: &mut Args<'_>) -> Result<Json, RpcError> {
    let address = args.required(params::address)?;
    let keys = args.required(|value| {
        let keys: Vec<&serde_json::value::RawValue> = params::object(value)?;
        keys.into_iter().map(params::slot).collect::<Result<Vec<_>, _>>()
    })?;
    let id = args.block()?;
    args.end()?;
    if keys.len() > PROOF_SLOTS_MAX {
        let asked = keys.len();
        return Err(RpcError::params(format!("too many slots: {asked} (max {PROOF_SLOTS_MAX})")));
    }
    let id = match id {
        BlockId::Hash(_) => {
            let missing = || RpcError::server("header for hash not found");
            BlockId::Number(api.block(id)?.ok_or_else(missing)?.header.number)
        }
        BlockId::Number(number) if number > api.backend.chain.heads().latest => {
            return Err(RpcError::header_not_found());
        }
        other => other,
    };
    let slots: Vec<U256> = keys.iter().map(|(slot, _)| *slot).collect();
    let AccountProof { account, storage_root, nodes, slots } =
        api.backend.proofs.proof(address, &slots, id)?;
    let account = account.unwrap_or_default();
    let storage_proof = slots
        .into_iter()
        .zip(keys)
        .map(|((slot, value, proof), (_, in_full))| {
            let key = if in_full { B256::from(slot).to_string() } else { format!("{slot:#x}") };
            ShownSlot { key, value, proof }
        })
        .collect();
    json(&ShownProof {
        address,
        account_proof: nodes,
        balance: account.balance,
        code_hash: account.code_hash,
        nonce: U64::from(account.nonce),
        storage_hash: storage_root,
        storage_proof,
    })
}
