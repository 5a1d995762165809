//! What a transaction that calls a contract asks of it, by its looks.

use crate::execution::{
    prefetch::prefetch,
    words::{Key, account_key, address_of},
};
use crate::types::transaction::{Outline, RecoveredTransaction};
use alloy_primitives::Address;

/// Has what execution looks at of a call brought near, but for what its input holds.
#[inline]
pub(super) fn bring(call: &RecoveredTransaction) {
    prefetch(call.outline());
    prefetch(&call.input);
}

/// A contract's function: its address and selector.
pub(super) type Function = Key<3>;

/// The function that a transaction calls.
pub(super) fn function(transaction: &RecoveredTransaction) -> Function {
    let Outline { to, selector, .. } = transaction.outline();
    let [first, second, last] = account_key(*to);
    Key([first, second, last | u64::from(u32::from_be_bytes(*selector)) << 32])
}

/// Whose function it is.
pub(super) fn contract(of: Function) -> Address {
    address_of(&of.0)
}

/// The word at a place of the call data.
pub(super) fn argument(call: &RecoveredTransaction, at: usize) -> Option<[u8; 32]> {
    let word = call.input.get(4 + 32 * at..36 + 32 * at)?;
    word.try_into().ok()
}
