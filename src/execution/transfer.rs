//! Plain transfers as what they are: a nonce and three balances. No EVM runs.
//!
//! Taken here is only what cannot meet anything else: a valid call of a type without
//! authorisations or blobs, without input and access list, to an address that has neither code
//! (delegations of EIP-7702 are code) nor a precompile. Whatever else a transaction is, or may
//! be, the EVM judges it, invalid ones included, so that there is one place that refuses.

use crate::execution::{
    evm::Executed,
    store::{ReadError, Store},
    table::Id,
    tips::Tips,
    words::Purse,
};
use crate::types::{
    diff::Account,
    limits::{TRANSACTION_GAS_MAX, TRANSFER_GAS},
    transaction::{Numbers, Outline, RecoveredTransaction},
};
use alloy_primitives::U256;

/// Precompiles, those still to come too, are numbers of two bytes.
const PRECOMPILE_ZEROS: usize = 18;

/// Where the accounts of a transaction lie, as far as that is known.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Parties {
    pub(super) sender: Option<Id>,
    pub(super) recipient: Option<Id>,
}

/// Whether a transaction may be a plain transfer, by all that it says itself.
#[inline]
pub(super) fn may_be_plain(outline: &Outline, chain_id: u64) -> bool {
    outline.bare().is_some_and(|bare| {
        bare.tip_cap <= bare.fee_cap
            && bare.chain_id.is_none_or(|id| id == chain_id)
            && (TRANSFER_GAS..=TRANSACTION_GAS_MAX).contains(&outline.gas_limit)
            && outline.to[..PRECOMPILE_ZEROS] != [0; PRECOMPILE_ZEROS]
    })
}

/// Does what may be a plain transfer, or nothing where it is none or not a valid one.
///
/// # Errors
/// Where the state cannot be read; then nothing was changed.
pub(super) fn transfer(
    store: &mut Store,
    (tips, base_fee): (&mut Tips, u64),
    transaction: &RecoveredTransaction,
    parties: Parties,
) -> Result<Option<Executed>, ReadError> {
    let outline = transaction.outline();
    let Some(Numbers { fee_cap, tip_cap, value, .. }) = outline.bare() else { return Ok(None) };
    let Some(tip) = fee_cap.checked_sub(base_fee) else { return Ok(None) };
    let tip = u128::from(tip.min(tip_cap));
    let cost = u128::from(outline.gas_limit) * u128::from(fee_cap);
    let Some(cost) = cost.checked_add(value) else { return Ok(None) };
    let from_id = store.known_or_found(parties.sender, transaction.sender)?;
    let to_id = store.known_or_found(parties.recipient, outline.to)?;
    let fees_id = tips.id(store)?;
    let are_tips_apart = from_id != fees_id && to_id != fees_id;
    if !are_tips_apart {
        tips.settle(store); // Before the account is looked at.
    }
    let (Ok(Some(sender)), Ok(recipient)) = (store.purse(from_id), store.purse(to_id)) else {
        return Ok(None);
    };
    let is_next = sender.nonce == outline.nonce && sender.nonce < u64::MAX;
    // EIP-161 would remove an empty account that is touched.
    let is_empty = recipient.is_some_and(|it| it.nonce == 0 && it.balance == 0);
    if !is_next || is_empty || cost > sender.balance {
        return Ok(None);
    }
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
