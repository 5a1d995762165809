//! MegaETH's realtime shapes: mini-blocks, state changes, heartbeats.
//!
//! Numbers are hex quantities and names have underscores, as MegaETH's clients expect; only the
//! `nonce` of a state change is a plain number.

use crate::rpc::convert::{self, At, Receipts, ShownReceipts};
use crate::types::{
    diff::{Account, AccountDiff},
    mini_block::MiniBlock,
};
use alloy_consensus::TxEnvelope;
use alloy_primitives::{Address, B256, Signature, U256};
use alloy_rpc_types_eth::Transaction;
use serde::{Serialize, ser::SerializeMap as _};

/// An item of `miniBlocks`.
#[derive(Serialize)]
pub struct ShownMiniBlock<'a> {
    block_number: U256,
    block_timestamp: U256,
    index: U256,
    mini_block_number: U256,
    mini_block_timestamp: U256,
    gas_used: U256,
    transactions: Vec<Transaction<TxEnvelope>>,
    receipts: ShownReceipts<'a>,
    transaction_root: B256,
    receipt_root: B256,
    signature: ShownSignature,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownSignature {
    r: U256,
    s: U256,
    y_parity: U256,
}

impl From<&Signature> for ShownSignature {
    fn from(signature: &Signature) -> Self {
        Self { r: signature.r(), s: signature.s(), y_parity: U256::from(signature.v()) }
    }
}

/// A mini-block with whole transactions and receipts, whose block hash is all `ff`.
pub fn mini_block(mini: &MiniBlock) -> ShownMiniBlock<'_> {
    let at = At::open(&mini.environment);
    let numbered = (mini.first_transaction..).zip(&mini.transactions);
    ShownMiniBlock {
        block_number: U256::from(mini.environment.number),
        block_timestamp: U256::from(mini.environment.timestamp),
        index: U256::from(mini.index),
        mini_block_number: U256::from(mini.number),
        mini_block_timestamp: U256::from(mini.timestamp_us),
        gas_used: U256::from(mini.gas_used),
        transactions: numbered.map(|(index, tx)| convert::transaction(tx, at, index)).collect(),
        receipts: ShownReceipts(vec![Receipts::open(mini)]),
        transaction_root: mini.transaction_root,
        receipt_root: mini.receipt_root,
        signature: ShownSignature::from(&mini.signature),
    }
}

/// An item of `stateChanges`: one account of one mini-block.
#[derive(Serialize)]
pub struct ShownStateChange<'a> {
    address: Address,
    nonce: u64,
    balance: U256,
    storage: ShownStorage<'a>,
}

struct ShownStorage<'a>(&'a AccountDiff);

impl Serialize for ShownStorage<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let slots = self.0.sorted_storage();
        let mut map = serializer.serialize_map(Some(slots.len()))?;
        for (slot, value) in slots {
            map.serialize_entry(&B256::from(slot), &value)?;
        }
        map.end()
    }
}

/// What a mini-block changed of those accounts, in their order.
pub fn state_changes<'a>(
    mini: &'a MiniBlock,
    addresses: &'a [Address],
) -> impl Iterator<Item = ShownStateChange<'a>> {
    addresses.iter().filter_map(|address| {
        let change = mini.diff.accounts.get(address)?;
        let Account { nonce, balance, .. } = change.account.unwrap_or_default();
        Some(ShownStateChange { address: *address, nonce, balance, storage: ShownStorage(change) })
    })
}

/// What subscribers of `miniBlocks` with `{"heartbeat": true}` get while nothing happens.
#[derive(Serialize)]
pub struct ShownHeartbeat {
    heartbeat: bool,
    mini_block_number: U256,
    timestamp: U256,
}

/// A heartbeat at `timestamp_us`, with the newest mini-block's number.
pub fn heartbeat(mini_block_number: u64, timestamp_us: u64) -> ShownHeartbeat {
    ShownHeartbeat {
        heartbeat: true,
        mini_block_number: U256::from(mini_block_number),
        timestamp: U256::from(timestamp_us),
    }
}
