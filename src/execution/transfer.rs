//! Plain transfers as what they are: a nonce and three balances. No EVM runs.
//!
//! Taken here is only what cannot meet anything else: a valid call of a type without
//! authorisations or blobs, without input and access list, to an address that has neither code
//! (delegations of EIP-7702 are code) nor a precompile. Whatever else a transaction is, or may
//! be, the EVM judges it, invalid ones included, so that there is one place that refuses.

use crate::execution::{
    block::TRANSFER_GAS,
    evm::Executed,
    store::{ReadError, Store},
    table::Id,
};
use crate::types::{
    diff::Account, limits::TRANSACTION_GAS_MAX, mini_block::BlockEnvironment,
    transaction::RecoveredTransaction,
};
use alloy_consensus::{Transaction as _, TxType};
use alloy_primitives::{Address, KECCAK256_EMPTY, U256};

/// Precompiles, those still to come too, are numbers of two bytes.
const PRECOMPILE_ZEROS: usize = 18;

/// Where the accounts of a transaction lie, as far as that is known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Parties {
    pub(super) sender: Option<Id>,
    pub(super) recipient: Option<Id>,
}

/// Does what may be a plain transfer to `to`, or nothing where it is none or not a valid one.
///
/// # Errors
/// Where the state cannot be read; then nothing was changed.
pub(super) fn transfer(
    store: &mut Store,
    block: &BlockEnvironment,
    transaction: &RecoveredTransaction,
    (to, parties): (Address, Parties),
) -> Result<Option<Executed>, ReadError> {
    let envelope = &transaction.envelope;
    let (Some(tip), from) = (transaction.effective_tip(block.base_fee), transaction.sender) else {
        return Ok(None);
    };
    let from_id = known_or_found(parties.sender, store, from)?;
    let sender_hot = store.hot(from_id);
    let Some(sender) = sender_hot.account else { return Ok(None) };
    let to_id = known_or_found(parties.recipient, store, to)?;
    let recipient_hot = store.hot(to_id);
    let is_plain = sender.code_hash == KECCAK256_EMPTY
        && recipient_hot.account.is_none_or(|it| it.code_hash == KECCAK256_EMPTY && !it.is_empty());
    let is_next = sender.nonce == envelope.nonce() && sender.nonce < u64::MAX;
    let cost = transaction.checked_cost();
    if !(is_plain && is_next && cost.is_some_and(|cost| cost <= sender.balance)) {
        return Ok(None);
    }
    let value = envelope.value();
    // Gas and price have 64 and 128 bits, and the fee at most 128: `checked_cost` passed.
    let gas = u128::from(TRANSFER_GAS);
    let tip = U256::from(gas * tip);
    let fee = tip + U256::from(gas * u128::from(block.base_fee));
    let paid = Account { nonce: sender.nonce + 1, balance: sender.balance - fee - value, ..sender };
    let fees_id = store.account_id(block.fee_recipient)?;
    let (gas_used, logs) = (TRANSFER_GAS, Vec::new());
    let done = Ok(Some(Executed { success: true, gas_used, logs, deposits: false }));
    if from_id != to_id && from_id != fees_id && to_id != fees_id {
        let fees_hot = store.hot(fees_id);
        let Some(received) = credited(recipient_hot.account, value) else { return Ok(None) };
        let Some(earned) = credited(fees_hot.account, tip) else { return Ok(None) };
        store.change_account(from_id, &sender_hot, Some(paid));
        if !value.is_zero() {
            store.change_account(to_id, &recipient_hot, received);
        }
        if !tip.is_zero() {
            store.change_account(fees_id, &fees_hot, earned);
        }
        return done;
    }
    let mut ledger = Ledger::default();
    ledger.set(from_id, paid);
    if !ledger.credit(store, to_id, value) || !ledger.credit(store, fees_id, tip) {
        return Ok(None);
    }
    for (id, account) in ledger.0.into_iter().flatten() {
        store.set_account(id, Some(account));
    }
    done
}

/// An account with wei added; nothing where the sum has more than 256 bits, or where the account
/// exists and is empty, which touching would remove (EIP-161).
#[inline]
fn credited(account: Option<Account>, wei: U256) -> Option<Option<Account>> {
    if account.is_some_and(|account| account.is_empty()) {
        return None;
    }
    if wei.is_zero() {
        return Some(account);
    }
    let account = account.unwrap_or_default();
    let balance = account.balance.checked_add(wei)?;
    Some(Some(Account { balance, ..account }))
}

fn known_or_found(known: Option<Id>, store: &mut Store, address: Address) -> Result<Id, ReadError> {
    known.map_or_else(|| store.account_id(address), Ok)
}

/// The recipient of what may be a plain transfer by its own looks.
pub(super) fn plain_recipient(
    transaction: &RecoveredTransaction,
    chain_id: u64,
) -> Option<Address> {
    let envelope = &transaction.envelope;
    let is_known = matches!(envelope.tx_type(), TxType::Legacy | TxType::Eip2930 | TxType::Eip1559);
    let fees_agree = envelope
        .max_priority_fee_per_gas()
        .is_none_or(|priority| priority <= envelope.max_fee_per_gas());
    let is_plain = is_known
        && fees_agree
        && envelope.input().is_empty()
        && envelope.access_list().is_none_or(|list| list.is_empty())
        && envelope.chain_id().is_none_or(|id| id == chain_id)
        && (TRANSFER_GAS..=TRANSACTION_GAS_MAX).contains(&envelope.gas_limit());
    let to = envelope.to().filter(|_| is_plain)?;
    (to[..PRECOMPILE_ZEROS] != [0; PRECOMPILE_ZEROS]).then_some(to)
}

/// The accounts of one transfer: sender, recipient, fee recipient, any of which may be the same.
#[derive(Default)]
struct Ledger([Option<(Id, Account)>; 3]);

impl Ledger {
    fn set(&mut self, id: Id, account: Account) {
        let place = self.0.iter_mut().find(|it| it.is_none_or(|(known, _)| known == id));
        if let Some(place) = place {
            *place = Some((id, account));
        }
    }

    /// Adds wei to an account; false where that is not for the ledger to do.
    fn credit(&mut self, store: &Store, to: Id, wei: U256) -> bool {
        let known = self.0.iter().flatten().find(|(known, _)| *known == to);
        let account = known.map_or_else(|| store.hot(to).account, |(_, account)| Some(*account));
        let Some(credited) = credited(account, wei) else { return false };
        if let Some(account) = credited.filter(|_| !wei.is_zero()) {
            self.set(to, account);
        }
        true
    }
}
