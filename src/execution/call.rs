//! What a transaction that calls a contract asks of it, by its looks.

use crate::types::transaction::RecoveredTransaction;
use alloy_consensus::Transaction as _;
use alloy_primitives::Address;

/// A contract's function.
pub(super) type Function = (Address, [u8; 4]);

/// The function that a transaction calls.
pub(super) fn function(transaction: &RecoveredTransaction) -> Function {
    let input = transaction.envelope.input();
    let mut selector = [0; 4];
    if let Some(first) = input.get(..4) {
        selector.copy_from_slice(first);
    }
    (transaction.envelope.to().unwrap_or_default(), selector)
}

/// The word at a place of the call data.
pub(super) fn argument(call: &RecoveredTransaction, at: usize) -> Option<[u8; 32]> {
    let word = call.envelope.input().get(4 + 32 * at..36 + 32 * at)?;
    word.try_into().ok()
}
