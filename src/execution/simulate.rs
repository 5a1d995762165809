//! Tries calls on a state: `eth_call` and `eth_estimateGas` with geth's semantics.
//!
//! revm cannot be interrupted, so what bounds a call's time is its gas: 50 million gas are a few
//! hundred milliseconds of ordinary code, and a few seconds of the worst.

use crate::execution::{
    cache::{NoCode, analysed},
    evm::{EngineError, Rules},
    refusal,
    store::{ReadError, account_info, history_slot},
};
use crate::types::{
    limits::TRANSFER_GAS,
    mini_block::BlockEnvironment,
    view::{CallOutcome, CallRequest, Simulator, StateView, ViewError},
};
use alloy_eips::eip2935::HISTORY_STORAGE_ADDRESS;
use alloy_primitives::{Address, B256, KECCAK256_EMPTY, TxKind, U256};
use revm::{
    Context, Database, MainBuilder as _, MainnetEvm,
    context::{TxEnv, either::Either},
    context_interface::{
        ContextTr as _, JournalTr as _, Transaction as _,
        journaled_state::account::JournaledAccountTr as _,
        result::{EVMError, ExecutionResult, HaltReason, InvalidTransaction, OutOfGasError},
    },
    handler::{EvmTr as _, Handler, MainnetContext, pre_execution::calculate_caller_fee},
    interpreter::InitialAndFloorGas,
    state::{AccountInfo, Bytecode},
};
use std::marker::PhantomData;

/// EIP-150: a call keeps one part in this many.
const CALL_GAS_DIVISOR: u64 = 64;
/// Gas that a call with value gets on top.
const CALL_STIPEND: u64 = 2_300;
/// The search ends once the bounds are this close, in thousandths, as geth's does: finding the
/// last unit of gas is not worth another execution.
const ESTIMATE_TOLERANCE_PERMILLE: u64 = 15;

/// Executes calls under the chain's rules; shared by any number of threads.
#[derive(Debug, Clone, Copy)]
pub struct CallSimulator {
    /// The chain's rules.
    pub rules: Rules,
    /// Gas of one call at most, whatever it asks for.
    pub gas_max: u64,
    /// EIP-7825: gas of a transaction at most, the upper bound of an estimate.
    pub transaction_gas_max: u64,
}

impl Simulator for CallSimulator {
    fn call(
        &self,
        state: &dyn StateView,
        block: &BlockEnvironment,
        call: &CallRequest,
    ) -> Result<CallOutcome, ViewError> {
        let mut trial = Trial::new(self, state, block, call);
        let gas = call.gas.unwrap_or(self.gas_max).min(self.gas_max);
        Ok(trial.run(gas)?.outcome)
    }

    fn estimate(
        &self,
        state: &dyn StateView,
        block: &BlockEnvironment,
        call: &CallRequest,
    ) -> Result<Result<u64, CallOutcome>, ViewError> {
        let most = match self.most_gas(state, block, call)? {
            Ok(most) => most,
            Err(refused) => return Ok(Err(refused)),
        };
        let mut trial = Trial::new(self, state, block, call);
        if is_plain_transfer(state, call)? && trial.run(TRANSFER_GAS)?.succeeded() {
            return Ok(Ok(TRANSFER_GAS));
        }
        let first = trial.run(most)?;
        match first.outcome {
            CallOutcome::Success { .. } => {}
            _ if first.wants_gas => {
                let reason = format!("gas required exceeds allowance ({most})");
                return Ok(Err(CallOutcome::Invalid(reason)));
            }
            failed => return Ok(Err(failed)),
        }
        search(&mut trial, first.gas_used, first.gas_refunded, most)
    }
}

impl CallSimulator {
    /// The most gas that an estimate may come to, from the request, the block, the sender's funds
    /// and the server's cap.
    fn most_gas(
        &self,
        state: &dyn StateView,
        block: &BlockEnvironment,
        call: &CallRequest,
    ) -> Result<Result<u64, CallOutcome>, ViewError> {
        let asked = call.gas.filter(|gas| *gas >= TRANSFER_GAS);
        let mut most = asked.unwrap_or(block.gas_limit).min(self.transaction_gas_max);
        let fee_cap = U256::from(call.max_fee_per_gas.unwrap_or_default());
        if !fee_cap.is_zero() {
            let balance = state.account(&call.from)?.unwrap_or_default().balance;
            let Some(left) = balance
                .checked_sub(call.value)
                .filter(|left| call.value.is_zero() || !left.is_zero())
            else {
                let reason = "insufficient funds for transfer".to_owned();
                return Ok(Err(CallOutcome::Invalid(reason)));
            };
            most = most.min(u64::try_from(left / fee_cap).unwrap_or(u64::MAX));
        }
        Ok(Ok(most.min(self.gas_max)))
    }
}

fn is_plain_transfer(state: &dyn StateView, call: &CallRequest) -> Result<bool, ViewError> {
    let Some(to) = call.to.filter(|_| call.input.is_empty()) else { return Ok(false) };
    Ok(state.account(&to)?.is_none_or(|account| account.code_hash == KECCAK256_EMPTY))
}

/// Halves the way between too little and enough.
fn search(
    trial: &mut Trial<'_>,
    gas_used: u64,
    gas_refunded: u64,
    most: u64,
) -> Result<Result<u64, CallOutcome>, ViewError> {
    // Less than what was used cannot do. What was used, with the refund, the stipend and what
    // calls keep back, mostly does.
    let (mut low, mut high) = (gas_used.saturating_sub(1), most);
    let likely =
        (gas_used + gas_refunded + CALL_STIPEND) * CALL_GAS_DIVISOR / (CALL_GAS_DIVISOR - 1);
    let mut next = (likely < high).then_some(likely);
    while low + 1 < high {
        if next.is_none() && (high - low) * 1_000 < high * ESTIMATE_TOLERANCE_PERMILLE {
            break;
        }
        // Most calls need little more than the lower bound: do not go far above it at once.
        let middle = next.take().unwrap_or_else(|| low.midpoint(high).min(low.saturating_mul(2)));
        if trial.run(middle)?.succeeded() {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(Ok(high))
}

/// One call that is tried with several amounts of gas.
struct Trial<'a> {
    evm: MainnetEvm<MainnetContext<CallState<'a>>>,
    tx: TxEnv,
    base_fee: u64,
    /// The call named a fee, so that it is checked.
    fee_given: bool,
}

struct Run {
    outcome: CallOutcome,
    gas_used: u64,
    gas_refunded: u64,
    /// It failed for want of gas.
    wants_gas: bool,
}

impl Run {
    fn succeeded(&self) -> bool {
        matches!(self.outcome, CallOutcome::Success { .. })
    }

    fn refused(reason: String, wants_gas: bool) -> Self {
        Self { outcome: CallOutcome::Invalid(reason), gas_used: 0, gas_refunded: 0, wants_gas }
    }
}

impl<'a> Trial<'a> {
    fn new(
        simulator: &CallSimulator,
        state: &'a dyn StateView,
        block: &BlockEnvironment,
        call: &CallRequest,
    ) -> Self {
        let parent = block.number.checked_sub(1);
        let view = CallState { state, parent, no_code: NoCode::default() };
        let context: MainnetContext<CallState<'a>> =
            Context::new(view, simulator.rules.fork.spec());
        let mut cfg = simulator.rules.cfg();
        cfg.tx_gas_limit_cap = Some(u64::MAX);
        let fee_cap = call.max_fee_per_gas.unwrap_or_default();
        let tip = call.max_priority_fee_per_gas.unwrap_or_default();
        let fee_given = fee_cap > 0 || tip > 0;
        let mut block = simulator.rules.block(block, 0);
        let base_fee = block.basefee;
        if !fee_given {
            // As geth does: a call that pays nothing sees a base fee of nothing.
            block.basefee = 0;
        }
        let evm = context.with_cfg(cfg).with_block(block).build_mainnet();
        let kind = call.to.map_or(TxKind::Create, TxKind::Call);
        let tx = TxEnv {
            tx_type: if call.authorizations.is_empty() { 2 } else { 4 },
            caller: call.from,
            gas_limit: 0,
            gas_price: fee_cap,
            kind,
            value: call.value,
            data: call.input.clone(),
            nonce: 0,
            chain_id: Some(simulator.rules.chain_id),
            access_list: call.access_list.clone(),
            gas_priority_fee: Some(tip),
            blob_hashes: Vec::new(),
            max_fee_per_blob_gas: 0,
            authorization_list: call.authorizations.iter().cloned().map(Either::Left).collect(),
        };
        Self { evm, tx, base_fee, fee_given }
    }

    fn run(&mut self, gas: u64) -> Result<Run, ViewError> {
        self.tx.gas_limit = gas;
        if let Err(error) = self.check() {
            return Ok(Run::refused(refusal::text(&error, &self.tx, self.base_fee), false));
        }
        self.evm.ctx.tx = self.tx.clone();
        let result = Tolerant(PhantomData).run(&mut self.evm);
        self.evm.ctx.journal_mut().finalize();
        match result {
            Ok(result) => Ok(finished(result)),
            Err(EVMError::Transaction(error)) => {
                let wants_gas = matches!(
                    error,
                    InvalidTransaction::CallGasCostMoreThanGasLimit { .. }
                        | InvalidTransaction::GasFloorMoreThanGasLimit { .. }
                );
                Ok(Run::refused(refusal::text(&error, &self.tx, self.base_fee), wants_gas))
            }
            Err(EVMError::Database(ReadError::View(error))) => Err(error),
            Err(other) => Err(ViewError::Database(EngineError::from(other).to_string())),
        }
    }

    /// The checks of the environment that a call is not excused from.
    fn check(&self) -> Result<(), InvalidTransaction> {
        if self.fee_given {
            let fee_cap = self.tx.gas_price;
            if self.tx.gas_priority_fee.unwrap_or_default() > fee_cap {
                return Err(InvalidTransaction::PriorityFeeGreaterThanMaxFee);
            }
            if fee_cap < u128::from(self.base_fee) {
                return Err(InvalidTransaction::GasPriceLessThanBasefee);
            }
        }
        if self.tx.kind.is_create() && refusal::init_code_too_long(self.tx.data.len()) {
            return Err(InvalidTransaction::CreateInitCodeSizeLimit);
        }
        Ok(())
    }
}

fn finished(result: ExecutionResult) -> Run {
    let (gas_used, gas_refunded) = (result.tx_gas_used(), result.gas().final_refunded());
    let mut wants_gas = false;
    let outcome = match result {
        ExecutionResult::Success { output, .. } => {
            CallOutcome::Success { output: output.into_data(), gas_used }
        }
        ExecutionResult::Revert { output, .. } => CallOutcome::Revert { output, gas_used },
        ExecutionResult::Halt { reason, .. } => {
            wants_gas = matches!(reason, HaltReason::OutOfGas(_));
            CallOutcome::Halt { reason: halt_text(&reason), gas_used }
        }
    };
    Run { outcome, gas_used, gas_refunded, wants_gas }
}

/// Geth's words for an exceptional halt.
fn halt_text(reason: &HaltReason) -> String {
    let text = match reason {
        HaltReason::OutOfGas(OutOfGasError::InvalidOperand) => "gas uint64 overflow",
        HaltReason::OutOfGas(_) => "out of gas",
        HaltReason::InvalidFEOpcode => "invalid opcode: INVALID",
        HaltReason::OpcodeNotFound | HaltReason::NotActivated => "invalid opcode",
        HaltReason::InvalidJump => "invalid jump destination",
        HaltReason::StackUnderflow => "stack underflow",
        HaltReason::StackOverflow => "stack limit reached 1024 (1023)",
        HaltReason::OutOfOffset => "return data out of bounds",
        HaltReason::CreateCollision => "contract address collision",
        HaltReason::NonceOverflow => "nonce uint64 overflow",
        HaltReason::CreateContractSizeLimit => "max code size exceeded",
        HaltReason::CreateContractStartingWithEF => "invalid code: must not begin with 0xef",
        HaltReason::CreateInitCodeSizeLimit => "max initcode size exceeded",
        HaltReason::StateChangeDuringStaticCall | HaltReason::CallNotAllowedInsideStatic => {
            "write protection"
        }
        HaltReason::OutOfFunds => "insufficient balance for transfer",
        HaltReason::CallTooDeep => "max call depth exceeded",
        other => return other.to_string(),
    };
    text.to_owned()
}

/// Mainnet's handler less what a call is excused from: the nonce, EIP-3607, the block's and
/// EIP-7825's gas limits.
struct Tolerant<'a>(PhantomData<&'a ()>);

impl<'a> Handler for Tolerant<'a> {
    type Evm = MainnetEvm<MainnetContext<CallState<'a>>>;
    type Error = EVMError<ReadError>;
    type HaltReason = HaltReason;

    fn validate_env(&self, _evm: &mut Self::Evm) -> Result<(), Self::Error> {
        Ok(())
    }

    fn validate_against_state_and_deduct_caller(
        &self,
        evm: &mut Self::Evm,
        _gas: &mut InitialAndFloorGas,
    ) -> Result<(), Self::Error> {
        let (block, tx, cfg, journal, _, _) = evm.ctx().all_mut();
        let mut caller = journal.load_account_with_code_mut(tx.caller())?.data;
        let left = calculate_caller_fee(*caller.balance(), tx, block, cfg)?;
        caller.set_balance(left);
        if tx.kind().is_call() {
            caller.bump_nonce();
        }
        Ok(())
    }
}

/// A view as the EVM reads it.
struct CallState<'a> {
    state: &'a dyn StateView,
    parent: Option<u64>,
    no_code: NoCode,
}

impl Database for CallState<'_> {
    type Error = ReadError;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, ReadError> {
        Ok(self.state.account(&address)?.map(|account| account_info(account, None, &self.no_code)))
    }

    fn code_by_hash(&mut self, hash: B256) -> Result<Bytecode, ReadError> {
        Ok(analysed(self.state.code(&hash)?.ok_or(ReadError::NoCode(hash))?))
    }

    fn storage(&mut self, address: Address, slot: U256) -> Result<U256, ReadError> {
        // The open block's diff does not hold its parent's hash yet: see `execution`.
        if address == HISTORY_STORAGE_ADDRESS
            && let Some(parent) = self.parent
            && slot == history_slot(parent)
        {
            return Ok(U256::from_be_bytes(self.block_hash(parent)?.0));
        }
        Ok(self.state.storage(&address, &slot)?)
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, ReadError> {
        let hash = self.state.block_hash(number)?;
        hash.ok_or_else(|| {
            let text = format!("block {number} is still being sealed: ask again for its hash");
            ReadError::View(ViewError::Database(text))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::testing::MemoryView;
    use alloy_primitives::{Bytes, hex};

    const BASE_FEE: u64 = 1_000;

    fn simulator() -> CallSimulator {
        let rules = Rules::osaka(31_337);
        CallSimulator { rules, gas_max: 50_000_000, transaction_gas_max: 1 << 24 }
    }

    fn block() -> BlockEnvironment {
        BlockEnvironment {
            number: 1,
            timestamp: 1,
            base_fee: BASE_FEE,
            gas_limit: 30_000_000,
            fee_recipient: Address::ZERO,
            prev_randao: B256::ZERO,
        }
    }

    fn who(at: u8) -> Address {
        Address::repeat_byte(at)
    }

    fn state(code: &[u8]) -> MemoryView {
        let mut state = MemoryView::with_contracts();
        state.put(who(1), 0, U256::from(1_000_000_000), Bytes::new());
        state.put(who(2), 1, U256::from(5), code.to_vec().into());
        state
    }

    fn estimate(state: &MemoryView, call: &CallRequest) -> Result<u64, CallOutcome> {
        simulator().estimate(state, &block(), call).unwrap()
    }

    fn call(state: &MemoryView, call: &CallRequest) -> CallOutcome {
        simulator().call(state, &block(), call).unwrap()
    }

    #[test]
    fn a_plain_transfer_takes_21000_and_money() {
        let state = state(&[]);
        let mut request = CallRequest { from: who(1), to: Some(who(3)), ..Default::default() };
        assert_eq!(estimate(&state, &request), Ok(21_000));
        request.value = U256::from(2_000_000_000);
        let words = format!(
            "insufficient funds for gas * price + value: address {} have \
                             1000000000 want 2000000000",
            who(1)
        );
        assert_eq!(call(&state, &request), CallOutcome::Invalid(words.clone()));
        assert_eq!(estimate(&state, &request), Err(CallOutcome::Invalid(words)));
        request.max_fee_per_gas = Some(2_000);
        let words = "insufficient funds for transfer".to_owned();
        assert_eq!(estimate(&state, &request), Err(CallOutcome::Invalid(words)));
        // Funds for fewer than 21,000 gas.
        request.value = U256::from(999_000_000);
        let words = "gas required exceeds allowance (500)".to_owned();
        request.input = Bytes::from_static(&[1]);
        assert_eq!(estimate(&state, &request), Err(CallOutcome::Invalid(words)));
    }

    #[test]
    fn fees_are_checked_only_where_they_are_given() {
        // Returns the base fee.
        let state = state(&hex!("485f5260205ff3"));
        let mut request = CallRequest { from: who(1), to: Some(who(2)), ..Default::default() };
        let output = |outcome| match outcome {
            CallOutcome::Success { output, .. } => U256::from_be_slice(&output),
            other => panic!("{other:?}"),
        };
        assert_eq!(output(call(&state, &request)), U256::ZERO);
        request.gas = Some(100_000);
        request.max_fee_per_gas = Some(BASE_FEE.into());
        assert_eq!(output(call(&state, &request)), U256::from(BASE_FEE));
        request.max_fee_per_gas = Some(999);
        let CallOutcome::Invalid(words) = call(&state, &request) else { panic!("too cheap") };
        assert!(words.starts_with("max fee per gas less than block base fee"), "{words}");
        // A contract may be the sender.
        request.max_fee_per_gas = None;
        request.from = who(2);
        assert_eq!(output(call(&state, &request)), U256::ZERO);
    }

    #[test]
    fn an_estimate_suffices_and_little_less_does_not() {
        // Writes 30 slots: for (i = 30; i != 0; i--) sstore(i, i).
        let code = hex!("601e5b808055600190038060025700");
        let state = state(&code);
        let mut request = CallRequest { from: who(1), to: Some(who(2)), ..Default::default() };
        let gas = estimate(&state, &request).unwrap();
        request.gas = Some(gas);
        assert!(matches!(call(&state, &request), CallOutcome::Success { .. }));
        request.gas = Some(gas - gas / 30);
        assert!(matches!(call(&state, &request), CallOutcome::Halt { reason, .. }
            if reason == "out of gas"));
    }

    #[test]
    fn failures_say_how() {
        let state = state(&hex!("602a5f5260205ffd"));
        let request = CallRequest { from: who(1), to: Some(who(2)), ..Default::default() };
        let Err(CallOutcome::Revert { output, .. }) = estimate(&state, &request) else {
            panic!("reverts")
        };
        assert_eq!(U256::from_be_slice(&output), U256::from(42));
        let mut state = state;
        state.put(who(2), 1, U256::ZERO, Bytes::from_static(&[0xfe]));
        let CallOutcome::Halt { reason, .. } = call(&state, &request) else { panic!("halts") };
        assert_eq!(reason, "invalid opcode: INVALID");
        // The hash of the parent is not there yet.
        state.put(who(2), 1, U256::ZERO, Bytes::from_static(&hex!("5f40")));
        assert!(simulator().call(&state, &block(), &request).is_err());
    }
}
