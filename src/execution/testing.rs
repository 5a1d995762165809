//! A state in memory and ready-made transactions for this folder's tests.

use crate::execution::serial::Outcome;
use crate::types::{
    diff::{Account, Diff},
    ids::BlockNumber,
    map::Map,
    transaction::{RecoveredTransaction, SharedTransaction},
    view::{StateView, ViewError},
};
use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use std::sync::Arc;

/// A state in maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MemoryView {
    pub(super) accounts: Map<Address, Account>,
    pub(super) slots: Map<Address, Map<U256, U256>>,
    pub(super) codes: Map<B256, Bytes>,
    pub(super) hashes: Map<BlockNumber, B256>,
}

impl MemoryView {
    pub(super) fn with_contracts() -> Self {
        let mut view = Self::default();
        for (address, code, nonce) in super::system::genesis_contracts() {
            view.put(address, nonce, U256::ZERO, code);
        }
        view
    }

    pub(super) fn put(&mut self, address: Address, nonce: u64, balance: U256, code: Bytes) {
        let code_hash = keccak256(&code);
        self.codes.insert(code_hash, code);
        self.accounts.insert(address, Account { nonce, balance, code_hash });
    }

    pub(super) fn apply(&mut self, diff: &Diff) {
        for (address, change) in diff.accounts.iter() {
            match change.account {
                Some(account) => drop(self.accounts.insert(*address, account)),
                None => drop(self.accounts.remove(address)),
            }
            let slots = self.slots.entry(*address).or_default();
            if change.wiped {
                slots.clear();
            }
            slots.extend(change.storage.iter().map(|(slot, value)| (*slot, *value)));
            slots.retain(|_, value| !value.is_zero());
        }
        self.slots.retain(|_, slots| !slots.is_empty());
        self.codes.extend(diff.codes.iter().map(|(hash, code)| (*hash, code.clone())));
    }
}

impl StateView for MemoryView {
    fn account(&self, address: &Address) -> Result<Option<Account>, ViewError> {
        Ok(self.accounts.get(address).copied())
    }

    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ViewError> {
        let slots = self.slots.get(address);
        Ok(slots.and_then(|slots| slots.get(slot)).copied().unwrap_or_default())
    }

    fn code(&self, hash: &B256) -> Result<Option<Bytes>, ViewError> {
        Ok(self.codes.get(hash).cloned())
    }

    fn block_hash(&self, number: BlockNumber) -> Result<Option<B256>, ViewError> {
        Ok(self.hashes.get(&number).copied())
    }
}

/// A type-2 transaction by `sender`; its signature is never looked at here.
pub(super) fn transaction(sender: Address, tx: TxEip1559) -> SharedTransaction {
    let signed = tx.into_signed(Signature::new(U256::from(1), U256::from(1), false));
    let envelope = TxEnvelope::from(signed);
    let raw = Bytes::from(envelope.encoded_2718());
    let hash = keccak256([sender.as_slice(), &raw[..]].concat());
    Arc::new(RecoveredTransaction::new(envelope, hash, (sender, Vec::new()), raw))
}

/// A plain transfer with generous fees.
pub(super) fn transfer(sender: Address, nonce: u64, to: Address, wei: u64) -> SharedTransaction {
    let tx = TxEip1559 {
        chain_id: 31_337,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 100_000_000_000,
        max_priority_fee_per_gas: 7,
        to: TxKind::Call(to),
        value: U256::from(wei),
        ..TxEip1559::default()
    };
    transaction(sender, tx)
}

/// Microseconds of CPU time of this thread, as Linux counts them for the scheduler.
pub(super) fn cpu_clock() -> impl Fn() -> u64 {
    || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let nanoseconds = text.split(' ').next().and_then(|n| n.parse::<u64>().ok());
        nanoseconds.unwrap_or_default() / 1_000
    }
}

/// All of an outcome, to be compared and shown.
pub(super) fn shown(outcome: &Outcome) -> impl PartialEq + std::fmt::Debug + use<> {
    let Outcome { transactions, receipts, gas_used, diff, left_over, dropped } = outcome;
    let hashes = |list: &[SharedTransaction]| list.iter().map(|it| it.hash).collect::<Vec<_>>();
    let dropped: Vec<_> = dropped.iter().map(|(it, why)| (it.hash, why.clone())).collect();
    let (done, left_over) = (hashes(transactions), hashes(left_over));
    (done, receipts.clone(), *gas_used, diff.clone(), left_over, dropped)
}
