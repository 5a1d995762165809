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
use alloy_consensus::{TxEip1559, TypedTransaction};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use std::sync::Arc;

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

/// Accounts and codes; everything else is empty.
#[derive(Default)]
pub(super) struct Fixed {
    pub(super) accounts: Map<Address, Account>,
    pub(super) codes: Map<B256, Bytes>,
}

impl StateView for Fixed {
    fn account(&self, address: &Address) -> Result<Option<Account>, ViewError> {
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
