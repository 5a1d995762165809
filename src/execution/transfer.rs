//! Plain transfers as what they are: a nonce and three balances. No EVM runs.
//!
//! Taken here is only what cannot meet anything else: a valid call of a type without
//! authorisations or blobs, without input and access list, to an address that has neither code
//! (delegations of EIP-7702 are code) nor a precompile. Whatever else a transaction is, or may
//! be, the EVM judges it, invalid ones included, so that there is one place that refuses.

use crate::execution::{
    block::{OpenBlock, TRANSFER_GAS},
    evm::{EngineError, Evm, Executed, TransactError},
    serial::{self, Engine, Outcome},
    store::{ReadError, Store},
};
use crate::types::{
    diff::Account,
    limits::TRANSACTION_GAS_MAX,
    mini_block::BlockEnvironment,
    transaction::{RecoveredTransaction, SharedTransaction},
};
use alloy_consensus::{Transaction as _, TxType};
use alloy_primitives::{Address, KECCAK256_EMPTY, U256};

/// Precompiles, those still to come too, are numbers of two bytes.
const PRECOMPILE_ZEROS: usize = 18;

/// Plain transfers in the ledger, the rest in one EVM, all in order.
pub struct Direct {
    /// Its state stands in here.
    pub evm: Evm,
    /// Transactions that no EVM saw.
    pub taken: u64,
}

impl Direct {
    /// An engine that has taken nothing yet.
    pub const fn new(evm: Evm) -> Self {
        Self { evm, taken: 0 }
    }
}

impl Engine for Direct {
    fn execute(
        &mut self,
        block: &mut OpenBlock,
        transactions: Vec<SharedTransaction>,
        is_late: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome, EngineError> {
        let Self { evm, taken } = self;
        serial::execute(evm, block, transactions, is_late, &mut |evm, _, environment, transaction| {
            let chain_id = evm.rules().chain_id;
            match transfer(evm.store(), environment, chain_id, transaction) {
                Ok(Some(executed)) => {
                    *taken += 1;
                    Ok(executed)
                }
                Ok(None) => evm.transact(transaction),
                Err(error) => Err(TransactError::Engine(error.into())),
            }
        })
    }
}

/// Does a plain transfer, or nothing where it is none or not a valid one.
///
/// # Errors
/// Where the state cannot be read; then nothing was changed.
pub(super) fn transfer(
    store: &mut Store,
    block: &BlockEnvironment,
    chain_id: u64,
    transaction: &RecoveredTransaction,
) -> Result<Option<Executed>, ReadError> {
    let Some(to) = plain_recipient(transaction, chain_id) else { return Ok(None) };
    let envelope = &transaction.envelope;
    let (Some(tip), from) = (transaction.effective_tip(block.base_fee), transaction.sender) else {
        return Ok(None);
    };
    let Some(sender) = store.account(from)? else { return Ok(None) };
    let recipient = store.account(to)?;
    let is_plain = sender.code_hash == KECCAK256_EMPTY
        && recipient.is_none_or(|it| it.code_hash == KECCAK256_EMPTY && !it.is_empty());
    let is_next = sender.nonce == envelope.nonce() && sender.nonce < u64::MAX;
    let cost = transaction.checked_cost();
    if !(is_plain && is_next && cost.is_some_and(|cost| cost <= sender.balance)) {
        return Ok(None);
    }
    let gas = U256::from(TRANSFER_GAS);
    let fee = gas * (U256::from(tip) + U256::from(block.base_fee));
    let mut ledger = Ledger::default();
    let paid = Account {
        nonce: sender.nonce + 1,
        balance: sender.balance - fee - envelope.value(),
        ..sender
    };
    ledger.set(from, paid);
    if !ledger.credit(store, to, envelope.value())?
        || !ledger.credit(store, block.fee_recipient, gas * U256::from(tip))?
    {
        return Ok(None);
    }
    for (address, account) in ledger.0.into_iter().flatten() {
        let id = store.account_id(address)?;
        store.set_account(id, Some(account));
    }
    Ok(Some(Executed { success: true, gas_used: TRANSFER_GAS, logs: Vec::new() }))
}

/// The recipient of what may be a plain transfer by its own looks.
pub(super) fn plain_recipient(transaction: &RecoveredTransaction, chain_id: u64) -> Option<Address> {
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
struct Ledger([Option<(Address, Account)>; 3]);

impl Ledger {
    fn set(&mut self, address: Address, account: Account) {
        let place = self.0.iter_mut().find(|it| it.is_none_or(|(known, _)| known == address));
        if let Some(place) = place {
            *place = Some((address, account));
        }
    }

    /// Adds wei to an account; false where the sum has more than 256 bits, or where the account
    /// exists and is empty, which touching would remove (EIP-161).
    fn credit(&mut self, store: &mut Store, to: Address, wei: U256) -> Result<bool, ReadError> {
        let known = self.0.iter().flatten().find(|(known, _)| *known == to);
        let account = match known {
            Some((_, account)) => Some(*account),
            None => store.account(to)?,
        };
        if account.is_some_and(|account| account.is_empty()) {
            return Ok(false);
        }
        if wei.is_zero() {
            return Ok(true);
        }
        let account = account.unwrap_or_default();
        let Some(balance) = account.balance.checked_add(wei) else { return Ok(false) };
        self.set(to, Account { balance, ..account });
        Ok(true)
    }
}
