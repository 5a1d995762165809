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
    id: Option<Id>,
    held: Option<Held>,
}

struct Held {
    id: Id,
    /// As it is stored.
    stored: Hot,
    /// What is to be added to it.
    due: u128,
    /// Whatever is due can be added.
    takes: bool,
}

impl Tips {
    /// Tips for this account.
    pub(super) const fn of(recipient: Address) -> Self {
        Self { recipient, id: None, held: None }
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
    pub(super) fn add(&mut self, store: &mut Store, tip: u128) -> Result<bool, ReadError> {
        let held = self.hold(store)?;
        match held.due.checked_add(tip) {
            Some(due) if held.takes => {
                held.due = due;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Whether a tip of at most so much could be added.
    ///
    /// # Errors
    /// Where the view cannot be read.
    #[inline]
    pub(super) fn takes(&mut self, store: &mut Store, most: u128) -> Result<bool, ReadError> {
        let held = self.hold(store)?;
        Ok(held.takes && held.due.checked_add(most).is_some())
    }

    /// Writes them: from here on others may look at the account, and change it.
    #[inline]
    pub(super) fn settle(&mut self, store: &mut Store) {
        let Some(Held { id, stored, due, .. }) = self.held.take() else { return };
        if due > 0 {
            let account = stored.account.unwrap_or_default();
            let balance = account.balance + U256::from(due);
            store.change_account(id, &stored, Some(Account { balance, ..account }));
        }
    }

    /// The account has changed meanwhile; nothing is due.
    pub(super) fn forget(&mut self) {
        self.held = None;
    }

    #[inline]
    fn hold(&mut self, store: &mut Store) -> Result<&mut Held, ReadError> {
        if self.held.is_none() {
            let id = store.known_or_found(self.id, self.recipient)?;
            self.id = Some(id);
            let stored = store.hot(id);
            // EIP-161 would remove an empty account that is touched.
            let takes =
                stored.account.is_none_or(|it| !it.is_empty() && !it.balance.bit(U256::BITS - 1));
            self.held = Some(Held { id, stored, due: 0, takes });
        }
        match &mut self.held {
            Some(held) => Ok(held),
            None => unreachable!("it was made just now"),
        }
    }
}
