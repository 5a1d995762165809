//! One long-lived EVM: transactions and system calls in, outcomes out, changes in its store.

use crate::execution::{
    handler::Lean,
    interpreter,
    store::{ReadError, Store},
};
use crate::types::{mini_block::BlockEnvironment, transaction::RecoveredTransaction};
use alloy_consensus::{Transaction as _, TxType};
use alloy_eips::eip7702::{RecoveredAuthority, RecoveredAuthorization};
use alloy_primitives::{Address, Bytes, Log, TxKind, U256};
use bytes::BytesMut;
use revm::{
    Context, Database, MainBuilder as _, MainnetEvm, SystemCallEvm as _,
    context::{BlockEnv, CfgEnv, FrameStack, TxEnv, either::Either},
    context_interface::{
        block::BlobExcessGasAndPrice,
        result::{EVMError, ExecutionResult, InvalidTransaction},
    },
    handler::{
        EthFrame, EthPrecompiles, EvmTr, FrameInitOrResult, FrameResult, Handler as _,
        MainnetContext, MainnetHandler,
        evm::{ContextDbError, FrameInitResult},
        instructions::EthInstructions,
    },
    interpreter::{interpreter::EthInterpreter, interpreter_action::FrameInit},
    primitives::hardfork::SpecId,
    state::TransactionId,
};
use std::mem;

/// After a transaction that touched more accounts, the map of touched accounts is made anew.
const TOUCHED_ACCOUNTS_KEPT: usize = 1_024;
/// Bytes of an input that is copied rather than shared.
const INPUT_COPIED_MAX: usize = 512;
/// Bytes that these copies are cut from.
const INPUTS_ROOM: usize = 64 * 1_024;

/// Whose rules apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fork {
    /// September 2022; with the next one for blocks of the past only.
    Paris,
    /// April 2023.
    Shanghai,
    /// March 2024.
    Cancun,
    /// May 2025.
    Prague,
    /// December 2025: the chain's own rules.
    Osaka,
}

impl Fork {
    pub(super) const fn spec(self) -> SpecId {
        match self {
            Self::Paris => SpecId::MERGE,
            Self::Shanghai => SpecId::SHANGHAI,
            Self::Cancun => SpecId::CANCUN,
            Self::Prague => SpecId::PRAGUE,
            Self::Osaka => SpecId::OSAKA,
        }
    }
}

/// What never changes during a chain's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The EVM's rules.
    pub fork: Fork,
    /// EIP-155.
    pub chain_id: u64,
    /// EIP-6110: whose logs are deposit requests.
    pub deposit_contract: Address,
    /// EIP-4844: how fast the blob base fee moves; only vectors have blobs.
    pub blob_base_fee_update_fraction: u64,
    /// EIP-7594: blobs in one transaction at most.
    pub blobs_per_transaction_max: u64,
}

impl Rules {
    /// Osaka with mainnet's constants.
    pub const fn osaka(chain_id: u64) -> Self {
        Self {
            fork: Fork::Osaka,
            chain_id,
            deposit_contract: alloy_eips::eip6110::MAINNET_DEPOSIT_CONTRACT_ADDRESS,
            blob_base_fee_update_fraction: 5_007_716,
            blobs_per_transaction_max: 6,
        }
    }

    pub(super) fn cfg(&self) -> CfgEnv {
        let mut cfg = CfgEnv::new_with_spec(self.fork.spec());
        cfg.chain_id = self.chain_id;
        cfg.blob_base_fee_update_fraction = Some(self.blob_base_fee_update_fraction);
        cfg.max_blobs_per_tx = Some(self.blobs_per_transaction_max);
        cfg
    }

    pub(super) fn block(&self, block: &BlockEnvironment, excess_blob_gas: u64) -> BlockEnv {
        let fraction = self.blob_base_fee_update_fraction;
        BlockEnv {
            number: U256::from(block.number),
            beneficiary: block.fee_recipient,
            timestamp: U256::from(block.timestamp),
            gas_limit: block.gas_limit,
            basefee: block.base_fee,
            difficulty: U256::ZERO,
            prevrandao: Some(block.prev_randao),
            blob_excess_gas_and_price: Some(BlobExcessGasAndPrice::new(excess_blob_gas, fraction)),
            slot_num: 0,
        }
    }
}

/// What an executed transaction did, beside its changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// EIP-658 status.
    pub success: bool,
    /// Refunds deducted.
    pub gas_used: u64,
    /// Events in order; none where it failed.
    pub logs: Vec<Log>,
    /// One of them is the deposit contract's (EIP-6110).
    pub deposits: bool,
}

impl Executed {
    pub(super) fn new(result: ExecutionResult, rules: &Rules) -> Self {
        let (success, gas_used) = (result.is_success(), result.tx_gas_used());
        let mut logs = if success { result.into_logs() } else { Vec::new() };
        // revm made room for four: the receipt, which stays, has room for what there is.
        logs.shrink_to_fit();
        let deposits = logs.iter().any(|log| log.address == rules.deposit_contract);
        Self { success, gas_used, logs, deposits }
    }
}

/// Why a transaction was not executed.
#[derive(Debug, thiserror::Error)]
pub enum TransactError {
    /// The transaction may not stand here; the state is as before.
    #[error("invalid transaction: {0}")]
    Invalid(InvalidTransaction),
    /// The engine itself failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Execution cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The state could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The EVM gave up for a reason that is no transaction's.
    #[error("the EVM failed: {0}")]
    Evm(String),
    /// A block's closing system call failed.
    #[error("system call to {contract} failed: {reason}; genesis must hold the contract")]
    SystemCall {
        /// Whom it called.
        contract: Address,
        /// How it ended.
        reason: String,
    },
    /// EIP-6110: the deposit contract logged what is no deposit.
    #[error("deposit contract {0} logged a deposit event of another layout: fix its address")]
    DepositLayout(Address),
}

/// An EVM that lives as long as its thread. It is not `Send`: build it where it runs.
pub struct Evm<S: Database<Error = ReadError> = Store> {
    pub(super) inner: MainnetEvm<MainnetContext<S>>,
    pub(super) rules: Rules,
    has_own_loop: bool,
    inputs: BytesMut,
}

impl<S: Database<Error = ReadError>> Evm<S> {
    /// An EVM under `rules` on the state of `store`.
    pub fn new(rules: Rules, store: S) -> Self {
        let context: MainnetContext<S> = Context::new(store, rules.fork.spec());
        let inner = context.with_cfg(rules.cfg()).build_mainnet();
        let inputs = BytesMut::with_capacity(INPUTS_ROOM);
        Self { inner, rules, has_own_loop: false, inputs }
    }

    /// From now on, simple instructions are executed by `interpreter`, not by revm.
    pub(super) fn use_own_loop(&mut self) {
        self.has_own_loop = true;
    }

    /// Its rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The transaction that comes next. A short input is copied: the count of those who use the
    /// original lies in memory that nothing else here needs.
    pub(super) fn set_transaction(&mut self, tx: &RecoveredTransaction) {
        let input = if tx.input.len() <= INPUT_COPIED_MAX {
            self.inputs.extend_from_slice(&tx.input);
            self.inputs.split().freeze().into()
        } else {
            tx.input.clone()
        };
        set_tx_env(&mut self.inner.ctx.tx, tx, input);
    }

    /// Its state.
    pub fn store(&mut self) -> &mut S {
        &mut self.inner.ctx.journaled_state.database
    }

    /// Sets the block that transactions see. `excess_blob_gas` is zero on this chain.
    pub fn set_block(&mut self, block: &BlockEnvironment, excess_blob_gas: u64) {
        self.inner.ctx.block = self.rules.block(block, excess_blob_gas);
    }

    /// The block that transactions see.
    pub(super) const fn block(&self) -> &BlockEnv {
        &self.inner.ctx.block
    }

    /// The transaction has looked at the fee recipient's account, or paid it.
    pub(super) fn has_seen_fee_recipient(&self) -> bool {
        let context = &self.inner.ctx;
        context.journaled_state.inner.state.contains_key(&context.block.beneficiary)
    }

    /// Forgets what the last transaction touched; the map keeps its room for the next one.
    pub(super) fn discard(&mut self) {
        let journal = &mut self.inner.ctx.journaled_state.inner;
        journal.state.clear();
        if journal.state.capacity() > TOUCHED_ACCOUNTS_KEPT {
            drop(mem::take(&mut journal.state));
        }
        journal.transaction_id = TransactionId::ZERO;
    }
}

/// The frames of nested calls.
type Frames = FrameStack<EthFrame>;

/// All of it is revm's but for how a frame runs.
impl<S: Database<Error = ReadError>> EvmTr for Evm<S> {
    type Context = MainnetContext<S>;
    type Instructions = EthInstructions<EthInterpreter, Self::Context>;
    type Precompiles = EthPrecompiles;
    type Frame = EthFrame;

    fn all(&self) -> (&Self::Context, &Self::Instructions, &EthPrecompiles, &Frames) {
        self.inner.all()
    }

    fn all_mut(
        &mut self,
    ) -> (&mut Self::Context, &mut Self::Instructions, &mut EthPrecompiles, &mut Frames) {
        self.inner.all_mut()
    }

    fn frame_init(
        &mut self,
        input: FrameInit,
    ) -> Result<FrameInitResult<'_, EthFrame>, ContextDbError<Self::Context>> {
        self.inner.frame_init(input)
    }

    fn frame_run(&mut self) -> Result<FrameInitOrResult<EthFrame>, ContextDbError<Self::Context>> {
        if !self.has_own_loop {
            return self.inner.frame_run();
        }
        let (context, instructions, _, frames) = self.inner.all_mut();
        let frame = frames.get();
        let tables = (instructions.instruction_table(), instructions.gas_table());
        let action = interpreter::run(&mut frame.interpreter, tables, context);
        let next: FrameInitOrResult<EthFrame> =
            frame.process_next_action::<_, ContextDbError<Self::Context>>(context, action)?;
        if next.is_result() {
            frame.set_finished(true);
        }
        Ok(next)
    }

    fn frame_return_result(
        &mut self,
        result: FrameResult,
    ) -> Result<Option<FrameResult>, ContextDbError<Self::Context>> {
        self.inner.frame_return_result(result)
    }
}

impl Evm {
    /// Executes one transaction and commits what it did to the store.
    ///
    /// # Errors
    /// `Invalid` leaves the state as it was; any other error ends the engine's use.
    pub fn transact(&mut self, tx: &RecoveredTransaction) -> Result<Executed, TransactError> {
        self.set_transaction(tx);
        let result = MainnetHandler::default().run(self);
        self.finish(result)
    }

    /// As `transact`, but without the tip where nothing has looked at the fee recipient: says
    /// whether it is due.
    ///
    /// # Errors
    /// As `transact`.
    pub(super) fn transact_tipless(
        &mut self,
        tx: &RecoveredTransaction,
    ) -> Result<(Executed, bool), TransactError> {
        self.set_transaction(tx);
        let result = Lean::mostly_tipless().run(self);
        let is_due = !self.has_seen_fee_recipient();
        self.finish(result).map(|executed| (executed, is_due))
    }

    fn finish(
        &mut self,
        result: Result<ExecutionResult, EVMError<ReadError>>,
    ) -> Result<Executed, TransactError> {
        match result {
            Ok(result) => {
                self.commit().map_err(EngineError::from)?;
                Ok(Executed::new(result, &self.rules))
            }
            Err(error) => {
                self.discard();
                Err(match error {
                    EVMError::Transaction(error) => TransactError::Invalid(error),
                    other => TransactError::Engine(other.into()),
                })
            }
        }
    }

    /// The transaction environment of the last `transact`.
    pub(super) fn last_tx(&self) -> &TxEnv {
        &self.inner.ctx.tx
    }

    /// Calls a contract as the system address (EIP-4788 and its kin) and commits what it did.
    ///
    /// # Errors
    /// Where the state cannot be read; how the call itself ended is in the result: output, or
    /// the reason of its failure.
    pub fn system_call(
        &mut self,
        contract: Address,
        input: Bytes,
    ) -> Result<Result<Bytes, String>, EngineError> {
        match self.inner.system_call_one(contract, input) {
            Ok(ExecutionResult::Success { output, .. }) => {
                self.commit()?;
                Ok(Ok(output.into_data()))
            }
            Ok(failed) => {
                self.discard();
                Ok(Err(failed.to_string()))
            }
            Err(error) => {
                self.discard();
                Err(error.into())
            }
        }
    }

    /// Moves the journal's changes into the store.
    fn commit(&mut self) -> Result<(), ReadError> {
        let journal = &mut self.inner.ctx.journaled_state;
        let store = &mut journal.database;
        let mut touched = journal.inner.state.drain();
        let done = touched.try_for_each(|(address, account)| store.commit(address, account));
        drop(touched);
        self.discard();
        done
    }
}

impl<T: ToString> From<EVMError<ReadError, T>> for EngineError {
    fn from(error: EVMError<ReadError, T>) -> Self {
        match error {
            EVMError::Database(error) => Self::Read(error),
            EVMError::Transaction(error) => Self::Evm(error.to_string()),
            EVMError::Header(error) => Self::Evm(error.to_string()),
            EVMError::Custom(error) => Self::Evm(error),
            EVMError::CustomAny(error) => Self::Evm(error.to_string()),
        }
    }
}

/// Puts a transaction where revm looks for it. Of most the envelope is not looked at.
pub(super) fn set_tx_env(env: &mut TxEnv, tx: &RecoveredTransaction, input: Bytes) {
    let (outline, envelope) = (tx.outline(), &tx.envelope);
    // Each field is named: nothing is left of the transaction before.
    let TxEnv {
        tx_type,
        caller,
        gas_limit,
        gas_price,
        kind,
        value,
        data,
        nonce,
        chain_id,
        access_list,
        gas_priority_fee,
        blob_hashes,
        max_fee_per_blob_gas,
        authorization_list,
    } = env;
    *tx_type = outline.tx_type.into();
    *caller = tx.sender;
    *gas_limit = outline.gas_limit;
    *kind = if outline.creates { TxKind::Create } else { TxKind::Call(outline.to) };
    *data = input;
    *nonce = outline.nonce;
    access_list.0.clear();
    blob_hashes.clear();
    *max_fee_per_blob_gas = 0;
    authorization_list.clear();
    if let Some(numbers) = outline.numbers() {
        *gas_price = numbers.fee_cap.into();
        *value = U256::from(numbers.value);
        *chain_id = numbers.chain_id;
        let has_tip_cap = outline.tx_type == TxType::Eip1559;
        *gas_priority_fee = has_tip_cap.then_some(numbers.tip_cap.into());
        return;
    }
    *gas_price = envelope.max_fee_per_gas();
    *value = envelope.value();
    *chain_id = envelope.chain_id();
    access_list.0.extend(envelope.access_list().into_iter().flat_map(|list| list.iter().cloned()));
    *gas_priority_fee = envelope.max_priority_fee_per_gas();
    blob_hashes.extend(envelope.blob_versioned_hashes().unwrap_or_default());
    *max_fee_per_blob_gas = envelope.max_fee_per_blob_gas().unwrap_or_default();
    let authorizations = envelope.authorization_list().unwrap_or_default();
    authorization_list.extend(authorizations.iter().zip(&tx.authorities).map(
        |(signed, authority)| {
            let authority =
                authority.map_or(RecoveredAuthority::Invalid, RecoveredAuthority::Valid);
            Either::Right(RecoveredAuthorization::new_unchecked(signed.inner().clone(), authority))
        },
    ));
}
