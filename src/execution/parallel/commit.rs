//! How the committing thread commits one transaction: it takes over what a lane did, or executes
//! it in its place. Tips wait beside the store either way.

use crate::execution::{
    evm::{EngineError, Evm, Executed, TransactError},
    parallel::{
        planted::{Fault, planted},
        speculation::{Batch, Conflict},
    },
    preimages::Remembers as _,
    store::{ReadError, Store},
    tips::Tips,
};
use crate::types::transaction::RecoveredTransaction;

/// Executes a transaction with everything before it committed.
pub(super) fn in_place(
    evm: &mut Evm,
    tips: &mut Tips,
    transaction: &RecoveredTransaction,
) -> Result<Executed, TransactError> {
    let base_fee = evm.block().basefee;
    if !planted(Fault::TipsLateInPlace) {
        tips.settle(evm.store());
    }
    let most = tip_of(transaction, base_fee, transaction.gas_limit());
    let can_wait = most.map_or(Ok(false), |most| tips.takes(evm.store(), most));
    evm.store().preimages().begin(transaction);
    let done = if can_wait.map_err(EngineError::from)? {
        evm.transact_tipless(transaction)
    } else {
        evm.transact(transaction).map(|executed| (executed, false))
    };
    evm.store().preimages().end(transaction);
    let (executed, is_tip_due) = done?;
    if is_tip_due {
        let tip = tip_of(transaction, base_fee, executed.gas_used).unwrap_or_default();
        tips.add(evm.store(), tip).map_err(EngineError::from)?;
    } else if !planted(Fault::TipsOutdated) {
        tips.forget();
    }
    Ok(executed)
}

/// What the fee recipient gets for so much gas; `None` where that has no room.
fn tip_of(transaction: &RecoveredTransaction, base_fee: u64, gas: u64) -> Option<u128> {
    let tip = transaction.effective_tip(base_fee).unwrap_or_default();
    let tip = if planted(Fault::TipDropped) { 0 } else { tip };
    tip.checked_mul(u128::from(gas))
}

/// What became of a speculation.
pub(super) enum Taken {
    /// There was none.
    Nothing,
    /// It is committed.
    All(Executed),
    /// It cannot be done ahead of time.
    Abandoned,
    /// It does not hold any more.
    Conflict(Conflict),
}

/// Checks a speculation and commits it; without `All` nothing was changed.
pub(super) fn take_over(
    batch: &mut Batch,
    at: usize,
    store: &mut Store,
    ((tips, base_fee), transaction): ((&mut Tips, u64), &RecoveredTransaction),
) -> Result<Taken, ReadError> {
    let cost = transaction.checked_cost();
    let (Some(executed), Some(cost)) = (batch.done[at].executed.take(), cost) else {
        return Ok(Taken::Abandoned);
    };
    let is_looked_at = batch.reads(at, (tips.id(store)?, tips.recipient()));
    if is_looked_at && !planted(Fault::TipsLateForCheck) {
        tips.settle(store);
    }
    if let Err(conflict) = batch.check(store, at, (transaction.sender, cost))? {
        return Ok(Taken::Conflict(conflict));
    }
    let tip = tip_of(transaction, base_fee, executed.gas_used);
    if !tip.map_or(Ok(false), |tip| tips.add(store, tip))? {
        return Ok(Taken::Abandoned);
    }
    batch.apply(store, at)?;
    Ok(Taken::All(executed))
}
