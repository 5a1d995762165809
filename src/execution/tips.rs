//! The fee recipient's account, at hand while tips are added to it: it is written once for many
//! transactions, and in any case before anything else looks at it.

use crate::execution::{
    cache::Hot,
    store::{ReadError, Store},
    table::Id,
};
use crate::types::diff::Account;
use alloy_primitives::{Address, U256};

/// Tips of one cut.
pub(super) struct Tips {
    recipient: Address,
    held: Option<Held>,
}

struct Held {
    id: Id,
    /// As it is stored.
    stored: Hot,
    /// What it holds.
    balance: U256,
}

impl Tips {
    /// Tips for this account.
    pub(super) const fn of(recipient: Address) -> Self {
        Self { recipient, held: None }
    }

    /// Whose they are.
    pub(super) const fn recipient(&self) -> Address {
        self.recipient
    }

    /// The record of the account that they are for.
    ///
    /// # Errors
    /// Where the view cannot be read.
    #[inline]
    pub(super) fn id(&mut self, store: &mut Store) -> Result<Id, ReadError> {
        self.hold(store).map(|held| held.id)
    }

    /// Adds a tip, or nothing and says false where only the EVM knows what becomes of the account.
    ///
    /// # Errors
    /// Where the view cannot be read.
    #[inline]
    pub(super) fn add(&mut self, store: &mut Store, tip: U256) -> Result<bool, ReadError> {
        let held = self.hold(store)?;
        // EIP-161 would remove an empty account that is touched.
        let is_empty =
            held.balance.is_zero() && held.stored.account.is_some_and(|it| it.is_empty());
        match held.balance.checked_add(tip) {
            Some(balance) if !is_empty => {
                held.balance = balance;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Writes them: from here on others may look at the account, and change it.
    #[inline]
    pub(super) fn settle(&mut self, store: &mut Store) {
        let Some(Held { id, stored, balance }) = self.held.take() else { return };
        let account = stored.account.unwrap_or_default();
        if account.balance != balance {
            store.change_account(id, &stored, Some(Account { balance, ..account }));
        }
    }

    #[inline]
    fn hold(&mut self, store: &mut Store) -> Result<&mut Held, ReadError> {
        if self.held.is_none() {
            let id = store.account_id(self.recipient)?;
            let stored = store.hot(id);
            let balance = stored.account.unwrap_or_default().balance;
            self.held = Some(Held { id, stored, balance });
        }
        match &mut self.held {
            Some(held) => Ok(held),
            None => unreachable!("it was made just now"),
        }
    }
}
