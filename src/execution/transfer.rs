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
    tips::Tips,
    words::Purse,
};
use crate::types::{diff::Account, limits::TRANSACTION_GAS_MAX, transaction::RecoveredTransaction};
use alloy_consensus::TxEnvelope;
use alloy_primitives::{Address, Bytes, TxKind, U256};

/// Precompiles, those still to come too, are numbers of two bytes.
const PRECOMPILE_ZEROS: usize = 18;

/// Where the accounts of a transaction lie, as far as that is known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Parties {
    pub(super) sender: Option<Id>,
    pub(super) recipient: Option<Id>,
}

/// What may be a plain transfer, by all that the transaction itself says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain {
    pub(super) to: Address,
    nonce: u64,
    gas_limit: u64,
    /// Wei per gas that are paid at most, and that the fee recipient gets at most.
    fee_cap: u128,
    tip_cap: u128,
    value: u128,
}

impl Plain {
    /// Read off the transaction; nothing where it cannot be one.
    #[inline]
    pub(super) fn of(transaction: &RecoveredTransaction, chain_id: u64) -> Option<Self> {
        let is_bare = |input: &Bytes, listed: usize| input.is_empty() && listed == 0;
        let read = |nonce, gas_limit, (fee_cap, tip_cap), value: U256| {
            let [low, high, more @ ..] = *value.as_limbs();
            let value = u128::from(high) << 64 | u128::from(low);
            let to = Address::ZERO;
            (more == [0; 2]).then_some(Self { to, nonce, gas_limit, fee_cap, tip_cap, value })
        };
        let (chain, to, is_bare, plain) = match &transaction.envelope {
            TxEnvelope::Legacy(signed) => {
                let tx = signed.tx();
                let plain = read(tx.nonce, tx.gas_limit, (tx.gas_price, tx.gas_price), tx.value);
                (tx.chain_id, &tx.to, is_bare(&tx.input, 0), plain)
            }
            TxEnvelope::Eip2930(signed) => {
                let tx = signed.tx();
                let plain = read(tx.nonce, tx.gas_limit, (tx.gas_price, tx.gas_price), tx.value);
                (Some(tx.chain_id), &tx.to, is_bare(&tx.input, tx.access_list.len()), plain)
            }
            TxEnvelope::Eip1559(signed) => {
                let tx = signed.tx();
                let caps = (tx.max_fee_per_gas, tx.max_priority_fee_per_gas);
                let plain = read(tx.nonce, tx.gas_limit, caps, tx.value);
                (Some(tx.chain_id), &tx.to, is_bare(&tx.input, tx.access_list.len()), plain)
            }
            _ => return None,
        };
        let (TxKind::Call(to), Some(plain)) = (*to, plain) else { return None };
        let is_plain = is_bare
            && plain.tip_cap <= plain.fee_cap
            && chain.is_none_or(|id| id == chain_id)
            && (TRANSFER_GAS..=TRANSACTION_GAS_MAX).contains(&plain.gas_limit)
            && to[..PRECOMPILE_ZEROS] != [0; PRECOMPILE_ZEROS];
        is_plain.then_some(Self { to, ..plain })
    }

    /// Wei that the sender must hold; `None` where no purse does.
    fn cost(&self) -> Option<u128> {
        u128::from(self.gas_limit).checked_mul(self.fee_cap)?.checked_add(self.value)
    }
}

/// Does what may be a plain transfer, or nothing where it is none or not a valid one.
///
/// # Errors
/// Where the state cannot be read; then nothing was changed.
pub(super) fn transfer(
    store: &mut Store,
    (tips, base_fee): (&mut Tips, u64),
    plain: &Plain,
    (from, parties): (Address, Parties),
) -> Result<Option<Executed>, ReadError> {
    let Some(tip) = plain.fee_cap.checked_sub(u128::from(base_fee)) else { return Ok(None) };
    let tip = tip.min(plain.tip_cap);
    let from_id = known_or_found(parties.sender, store, from)?;
    let to_id = known_or_found(parties.recipient, store, plain.to)?;
    let fees_id = tips.id(store)?;
    let are_tips_apart = from_id != fees_id && to_id != fees_id;
    if !are_tips_apart {
        tips.settle(store); // Before the account is looked at.
    }
    let (Ok(Some(sender)), Ok(recipient)) = (store.purse(from_id), store.purse(to_id)) else {
        return Ok(None);
    };
    let is_next = sender.nonce == plain.nonce && sender.nonce < u64::MAX;
    // EIP-161 would remove an empty account that is touched.
    let is_empty = recipient.is_some_and(|it| it.nonce == 0 && it.balance == 0);
    if !is_next || is_empty || plain.cost().is_none_or(|cost| cost > sender.balance) {
        return Ok(None);
    }
    let value = plain.value;
    // No more than the cost, which the sender holds.
    let gas = u128::from(TRANSFER_GAS);
    let fee = gas * (tip + u128::from(base_fee));
    let tip = gas * tip;
    let paid = |wei| Purse { nonce: sender.nonce + 1, balance: sender.balance - wei };
    if are_tips_apart {
        let received = recipient.map_or(0, |it| it.balance).checked_add(value);
        let Some(received) = received else { return Ok(None) };
        if !tips.add(store, tip)? {
            return Ok(None);
        }
        match recipient {
            _ if from_id == to_id => store.set_purse(from_id, &paid(fee)),
            _ if value == 0 => store.set_purse(from_id, &paid(fee)),
            Some(Purse { nonce, .. }) => {
                store.set_purse(from_id, &paid(fee + value));
                store.set_purse(to_id, &Purse { nonce, balance: received });
            }
            None => {
                store.set_purse(from_id, &paid(fee + value));
                let new = Account { balance: U256::from(received), ..Account::default() };
                store.set_account(to_id, Some(new));
            }
        }
    } else {
        let Purse { nonce, balance } = paid(fee + value);
        let mut ledger = Ledger::default();
        ledger.set(from_id, Account { nonce, balance: U256::from(balance), ..Account::default() });
        let credits = [(to_id, value), (fees_id, tip)];
        if !credits.into_iter().all(|(to, wei)| ledger.credit(store, to, U256::from(wei))) {
            return Ok(None);
        }
        for (id, account) in ledger.0.into_iter().flatten() {
            store.set_account(id, Some(account));
        }
    }
    let (gas_used, logs) = (TRANSFER_GAS, Vec::new());
    Ok(Some(Executed { success: true, gas_used, logs, deposits: false }))
}

/// An account with wei added; nothing where the sum has more than 256 bits, or where the account
/// exists and is empty, which touching would remove (EIP-161).
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
