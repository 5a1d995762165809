//! Ethereum's usual words for invalid transactions, as geth says them, and which may come back.

use alloy_primitives::U256;
use revm::{context::TxEnv, context_interface::result::InvalidTransaction};

/// EIP-3860: bytes of init code at most.
const INIT_CODE_BYTES_MAX: usize = 2 * 24_576;

/// What happens to a transaction that is invalid at its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may become valid: to be offered again.
    LeftOver,
    /// It will not: to be forgotten, with the reason.
    Dropped(String),
}

/// Judges a transaction that the EVM refused.
///
/// A nonce gap may still be filled and a base fee may fall. Everything else is final: funds that
/// are missing now could come later, but nobody promised them.
pub fn judge(error: &InvalidTransaction, tx: &TxEnv, base_fee: u64) -> Verdict {
    match error {
        InvalidTransaction::NonceTooHigh { .. } | InvalidTransaction::GasPriceLessThanBasefee => {
            Verdict::LeftOver
        }
        other => Verdict::Dropped(text(other, tx, base_fee)),
    }
}

/// The refusal in geth's words, with the offending values.
pub fn text(error: &InvalidTransaction, tx: &TxEnv, base_fee: u64) -> String {
    let (sender, fee_cap) = (tx.caller, tx.gas_price);
    match error {
        InvalidTransaction::NonceTooLow { tx, state } => {
            format!("nonce too low: next nonce {state}, tx nonce {tx}")
        }
        InvalidTransaction::NonceTooHigh { tx, state } => {
            format!("nonce too high: address {sender}, tx: {tx} state: {state}")
        }
        InvalidTransaction::NonceOverflowInTransaction => {
            format!("nonce has max value: address {sender}, nonce: {}", tx.nonce)
        }
        InvalidTransaction::LackOfFundForMaxFee { fee, balance } => {
            insufficient_funds(tx, **balance, **fee)
        }
        InvalidTransaction::OverflowPaymentInTransaction => {
            format!(
                "insufficient funds for gas * price + value: address {sender} required \
                     balance exceeds 256 bits"
            )
        }
        InvalidTransaction::GasPriceLessThanBasefee => {
            format!(
                "max fee per gas less than block base fee: address {sender}, \
                     maxFeePerGas: {fee_cap}, baseFee: {base_fee}"
            )
        }
        InvalidTransaction::PriorityFeeGreaterThanMaxFee => {
            let tip = tx.gas_priority_fee.unwrap_or_default();
            format!(
                "max priority fee per gas higher than max fee per gas: address {sender}, \
                     maxPriorityFeePerGas: {tip}, maxFeePerGas: {fee_cap}"
            )
        }
        InvalidTransaction::CallGasCostMoreThanGasLimit { initial_gas, gas_limit } => {
            format!("intrinsic gas too low: have {gas_limit}, want {initial_gas}")
        }
        InvalidTransaction::GasFloorMoreThanGasLimit { gas_floor, gas_limit } => {
            format!("insufficient gas for floor data gas cost: have {gas_limit}, want {gas_floor}")
        }
        InvalidTransaction::TxGasLimitGreaterThanCap { gas_limit, cap } => {
            format!("transaction gas limit too high (cap: {cap}, tx: {gas_limit})")
        }
        InvalidTransaction::CallerGasLimitMoreThanBlock => "exceeds block gas limit".to_owned(),
        InvalidTransaction::RejectCallerWithCode => {
            format!("sender not an eoa: address {sender}")
        }
        InvalidTransaction::CreateInitCodeSizeLimit => init_code_size(tx.data.len()),
        InvalidTransaction::InvalidChainId | InvalidTransaction::MissingChainId => {
            format!("invalid chain id for signer: have {}", tx.chain_id.unwrap_or_default())
        }
        InvalidTransaction::EmptyAuthorizationList => {
            format!("EIP-7702 transaction with empty auth list (sender {sender})")
        }
        InvalidTransaction::EmptyBlobs => "blob transaction missing blob hashes".to_owned(),
        InvalidTransaction::Eip2930NotSupported
        | InvalidTransaction::Eip1559NotSupported
        | InvalidTransaction::Eip4844NotSupported
        | InvalidTransaction::Eip7702NotSupported => "transaction type not supported".to_owned(),
        other => other.to_string(),
    }
}

/// The sender cannot pay `want`.
pub(super) fn insufficient_funds(tx: &TxEnv, have: U256, want: U256) -> String {
    let sender = tx.caller;
    format!("insufficient funds for gas * price + value: address {sender} have {have} want {want}")
}

/// The init code is too long, where it is.
pub(super) fn init_code_size(bytes: usize) -> String {
    format!("max initcode size exceeded: code size {bytes}, limit {INIT_CODE_BYTES_MAX}")
}

/// EIP-3860: the init code is too long.
pub(super) const fn init_code_too_long(bytes: usize) -> bool {
    bytes > INIT_CODE_BYTES_MAX
}
