//! The engine that every other one must equal: one transaction after another.

use crate::execution::{
    block::{Begun, OpenBlock},
    evm::{EngineError, Evm, Executed, TransactError},
    refusal::{self, Verdict},
    system,
};
use crate::types::{
    diff::Diff,
    limits::{MINI_BLOCK_TRANSACTION_BYTES_MAX, MINI_BLOCKS_PER_BLOCK_MAX, TXS_PER_MINI_BLOCK_MAX},
    mini_block::BlockEnvironment,
    receipt::Receipt,
    transaction::{RecoveredTransaction, SharedTransaction},
};
use std::sync::Arc;

/// Gas between two looks at the clock: a few transfers, or one small contract call.
const GAS_BETWEEN_LOOKS: u64 = 100_000;

/// What the execution of transactions came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Executed, in order.
    pub transactions: Vec<SharedTransaction>,
    /// One each.
    pub receipts: Vec<Receipt>,
    /// Gas of them all.
    pub gas_used: u64,
    /// Once their mini-block ended, what it changed, and what the block's opening changed before
    /// the first of them. Empty where nothing was executed: then the opening's changes wait.
    pub diff: Diff,
    /// To be offered again, in order.
    pub left_over: Vec<SharedTransaction>,
    /// To be forgotten, with the reason.
    pub dropped: Vec<(SharedTransaction, String)>,
}

/// Executes cuts of an open block, under the law of sequential equivalence (see `execution`).
pub trait Engine {
    /// What it executes in.
    fn evm(&mut self) -> &mut Evm;

    /// Executes `transactions` in order as more of a mini-block, within the limits of `block`,
    /// which is brought up to date. `is_late` says that the deadline has passed; what is not yet
    /// started then is left over. Something is always executed before it is asked, so that a late
    /// cut makes progress.
    ///
    /// # Errors
    /// Where the state cannot be read: the engine must not be used again.
    fn extend(
        &mut self,
        block: &mut OpenBlock,
        transactions: Vec<SharedTransaction>,
        is_late: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome, EngineError>;

    /// Ends the mini-block that `outcome` is all of, if there is anything in it.
    fn end(&mut self, block: &mut OpenBlock, outcome: &mut Outcome) {
        if !outcome.transactions.is_empty() {
            outcome.diff = self.evm().store().take_diff();
            block.mini_blocks += 1;
            block.begun = Begun::default();
        }
    }

    /// Executes a mini-block as a whole.
    ///
    /// # Errors
    /// As `extend`.
    fn execute(
        &mut self,
        block: &mut OpenBlock,
        transactions: Vec<SharedTransaction>,
        is_late: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome, EngineError> {
        let mut outcome = self.extend(block, transactions, is_late)?;
        self.end(block, &mut outcome);
        Ok(outcome)
    }
}

impl Outcome {
    /// Adds what more of a mini-block that has not ended came to.
    pub fn append(&mut self, more: Self) {
        join(&mut self.transactions, more.transactions);
        join(&mut self.receipts, more.receipts);
        self.gas_used += more.gas_used;
        join(&mut self.left_over, more.left_over);
        join(&mut self.dropped, more.dropped);
    }
}

/// Adds to the end of a list; to an empty one without copying.
fn join<T>(list: &mut Vec<T>, more: Vec<T>) {
    if list.is_empty() {
        *list = more;
    } else {
        list.extend(more);
    }
}

/// One EVM.
pub struct Serial {
    /// Its state stands in here.
    pub evm: Evm,
}

impl Engine for Serial {
    fn evm(&mut self) -> &mut Evm {
        &mut self.evm
    }

    fn extend(
        &mut self,
        block: &mut OpenBlock,
        transactions: Vec<SharedTransaction>,
        is_late: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome, EngineError> {
        execute(&mut self.evm, block, Arc::new(transactions), is_late, &mut Plain)
    }
}

/// What an engine does with each transaction, whose transactions come one after another.
pub(super) trait Steps {
    /// Sees what is still to come, that at `at` first.
    fn look_ahead(&mut self, _evm: &mut Evm, _at: usize, _waiting: &[SharedTransaction]) {}

    /// Executes the transaction at `at` of its cut and commits what it did.
    fn transact(
        &mut self,
        evm: &mut Evm,
        at: usize,
        block: &BlockEnvironment,
        transaction: &RecoveredTransaction,
    ) -> Result<Executed, TransactError>;

    /// There are no more of them: finishes what was put off, lets go of all.
    fn close(&mut self, _evm: &mut Evm) {}
}

/// Each in the EVM.
struct Plain;

impl Steps for Plain {
    fn transact(
        &mut self,
        evm: &mut Evm,
        _at: usize,
        _block: &BlockEnvironment,
        transaction: &RecoveredTransaction,
    ) -> Result<Executed, TransactError> {
        evm.transact(transaction)
    }
}

/// Executes `transactions` in order by `steps`, within all limits.
pub(super) fn execute(
    evm: &mut Evm,
    block: &mut OpenBlock,
    transactions: Arc<Vec<SharedTransaction>>,
    is_late: &mut dyn FnMut() -> bool,
    steps: &mut impl Steps,
) -> Result<Outcome, EngineError> {
    let mut run = Run::default();
    if block.mini_blocks < MINI_BLOCKS_PER_BLOCK_MAX {
        run.outcome.receipts.reserve(transactions.len());
        evm.store().expect(transactions.len());
        run.all(evm, block, &transactions, (is_late, steps))?;
    }
    steps.close(evm);
    Ok(run.settle(transactions))
}

#[derive(Default)]
struct Run {
    outcome: Outcome,
    /// Transactions before this one were taken, left over or dropped.
    end: usize,
    left_over: Vec<usize>,
    dropped: Vec<(usize, String)>,
}

impl Run {
    fn all(
        &mut self,
        evm: &mut Evm,
        block: &mut OpenBlock,
        transactions: &[SharedTransaction],
        (is_late, steps): (&mut dyn FnMut() -> bool, &mut impl Steps),
    ) -> Result<(), EngineError> {
        let mut looked_at_gas = 0;
        steps.look_ahead(evm, 0, transactions);
        for (at, transaction) in transactions.iter().enumerate() {
            if self.outcome.gas_used - looked_at_gas >= GAS_BETWEEN_LOOKS {
                looked_at_gas = self.outcome.gas_used;
                if is_late() {
                    break;
                }
            }
            if block.begun.transactions == TXS_PER_MINI_BLOCK_MAX {
                break;
            }
            self.one(evm, block, (at, transaction), steps)?;
            self.end = at + 1;
            steps.look_ahead(evm, self.end, &transactions[self.end..]);
        }
        Ok(())
    }

    /// Gives each transaction to where it belongs.
    fn settle(self, transactions: Arc<Vec<SharedTransaction>>) -> Outcome {
        let Self { mut outcome, end, left_over, dropped, .. } = self;
        // Nobody else looks at them any more, mostly: then they are moved.
        let mut transactions = Arc::unwrap_or_clone(transactions);
        let rest = transactions.split_off(end);
        if !(left_over.is_empty() && dropped.is_empty()) {
            let mut left_over = left_over.into_iter().peekable();
            let mut dropped = dropped.into_iter().peekable();
            let all = std::mem::take(&mut transactions);
            for (at, transaction) in all.into_iter().enumerate() {
                if left_over.next_if_eq(&at).is_some() {
                    outcome.left_over.push(transaction);
                } else if let Some((_, why)) = dropped.next_if(|(dropped, _)| *dropped == at) {
                    outcome.dropped.push((transaction, why));
                } else {
                    transactions.push(transaction);
                }
            }
        }
        outcome.left_over.extend(rest);
        outcome.transactions = transactions;
        outcome
    }

    fn one(
        &mut self,
        evm: &mut Evm,
        block: &mut OpenBlock,
        (at, transaction): (usize, &SharedTransaction),
        steps: &mut impl Steps,
    ) -> Result<(), EngineError> {
        let bytes = transaction.block_bytes();
        if transaction.gas_limit() > block.environment.gas_limit {
            self.dropped.push((at, "exceeds block gas limit".to_owned()));
            return Ok(());
        }
        let fits = transaction.gas_limit() <= block.gas_left()
            && bytes <= block.bytes_left()
            && block.begun.bytes + bytes <= MINI_BLOCK_TRANSACTION_BYTES_MAX;
        if !fits {
            self.left_over.push(at);
            return Ok(());
        }
        match steps.transact(evm, at, &block.environment, transaction) {
            Ok(executed) => self.take(evm, block, (transaction, bytes), executed),
            Err(TransactError::Invalid(error)) => {
                match refusal::judge(&error, evm.last_tx(), block.environment.base_fee) {
                    Verdict::LeftOver => self.left_over.push(at),
                    Verdict::Dropped(why) => self.dropped.push((at, why)),
                }
                Ok(())
            }
            Err(TransactError::Engine(error)) => Err(error),
        }
    }

    fn take(
        &mut self,
        evm: &Evm,
        block: &mut OpenBlock,
        (transaction, bytes): (&SharedTransaction, usize),
        executed: Executed,
    ) -> Result<(), EngineError> {
        // Logs that a lane has written are in its core's caches: they are not looked at here.
        if executed.deposits {
            system::append_deposits(&mut block.deposits, &executed.logs, evm.rules())?;
        }
        block.transactions += 1;
        block.logs += u64::try_from(executed.logs.len()).unwrap_or(u64::MAX);
        block.bytes += bytes;
        block.begun.transactions += 1;
        block.begun.bytes += bytes;
        block.gas_used += executed.gas_used;
        self.outcome.gas_used += executed.gas_used;
        self.outcome.receipts.push(Receipt {
            tx_type: transaction.outline().tx_type,
            success: executed.success,
            gas_used: executed.gas_used,
            cumulative_gas_used: block.gas_used,
            logs: executed.logs,
        });
        Ok(())
    }
}
