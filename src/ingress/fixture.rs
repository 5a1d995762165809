//! What the tests of ingress share: signed transactions and a state made of balances.

use crate::crypto::sign::Signer;
use crate::ingress::decode::decode;
use crate::types::{
    diff::Account,
    ids::{BlockNumber, DEV_CHAIN_ID},
    map::Map,
    transaction::SharedTransaction,
    view::{StateView, ViewError},
};
use alloy_consensus::{TxEip1559, TxEip2930, TxEip7702, TxLegacy, TypedTransaction};
use alloy_eips::{eip2718::Encodable2718 as _, eip7702::Authorization};
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256};
use std::sync::{Arc, Mutex};

/// One whole coin, enough for any test.
pub(super) const RICH: u64 = 1_000_000_000_000_000_000;

pub(super) fn signer(byte: u8) -> Signer {
    Signer::from_secret(&B256::repeat_byte(byte)).unwrap()
}

pub(super) fn plain(nonce: u64, cap: u128, tip: u128) -> TxEip1559 {
    TxEip1559 {
        chain_id: DEV_CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: cap,
        max_priority_fee_per_gas: tip,
        to: TxKind::Call(Address::repeat_byte(0x77)),
        value: U256::from(1),
        ..TxEip1559::default()
    }
}

pub(super) fn raw(signer: &Signer, tx: TxEip1559) -> Bytes {
    signer.sign_transaction(TypedTransaction::Eip1559(tx)).encoded_2718().into()
}

pub(super) fn shared(signer: &Signer, tx: TxEip1559) -> SharedTransaction {
    Arc::new(decode(raw(signer, tx)).unwrap().recover().unwrap())
}

pub(super) fn account(nonce: u64, balance: u64) -> Account {
    Account { nonce, balance: U256::from(balance), ..Account::default() }
}

/// One transaction of each type, unsigned; of the authorizations one is void.
pub(super) fn every_type() -> Vec<TypedTransaction> {
    let to = TxKind::Call(Address::repeat_byte(7));
    let delegation =
        Authorization { chain_id: U256::from(1), address: Address::repeat_byte(9), nonce: 3 };
    let signature = signer(2).sign(delegation.signature_hash());
    let voided = Signature::new(U256::ZERO, U256::ZERO, false);
    let authorization_list =
        vec![delegation.clone().into_signed(signature), delegation.into_signed(voided)];
    let chain_id = DEV_CHAIN_ID;
    vec![
        TypedTransaction::Legacy(TxLegacy { chain_id: Some(chain_id), to, ..TxLegacy::default() }),
        TypedTransaction::Legacy(TxLegacy { chain_id: None, to, ..TxLegacy::default() }),
        TypedTransaction::Eip2930(TxEip2930 { chain_id, to, ..TxEip2930::default() }),
        TypedTransaction::Eip1559(TxEip1559 { chain_id, ..TxEip1559::default() }),
        TypedTransaction::Eip7702(TxEip7702 {
            chain_id,
            authorization_list,
            ..TxEip7702::default()
        }),
    ]
}

/// Accounts and codes; everything else is empty.
#[derive(Default)]
pub(super) struct Fixed {
    pub(super) accounts: Map<Address, Account>,
    pub(super) codes: Map<B256, Bytes>,
    /// Accounts that were read, in order.
    pub(super) looked_at: Arc<Mutex<Vec<Address>>>,
}

impl StateView for Fixed {
    fn account(&self, address: &Address) -> Result<Option<Account>, ViewError> {
        self.looked_at.lock().unwrap().push(*address);
        Ok(self.accounts.get(address).copied())
    }
    fn storage(&self, _: &Address, _: &U256) -> Result<U256, ViewError> {
        Ok(U256::ZERO)
    }
    fn code(&self, hash: &B256) -> Result<Option<Bytes>, ViewError> {
        Ok(self.codes.get(hash).cloned())
    }
    fn block_hash(&self, _: BlockNumber) -> Result<Option<B256>, ViewError> {
        Ok(None)
    }
}
