//! May this transaction wait here? Checks without state first, then against one state. Pure.

use crate::ingress::{decode::Decoded, gas::intrinsic};
use crate::types::{
    diff::Account,
    limits::TRANSACTION_GAS_MAX,
    transaction::RecoveredTransaction,
    view::{StateView, ViewError},
};
use alloy_consensus::{Transaction as _, TxEnvelope};
use alloy_primitives::{Address, KECCAK256_EMPTY, U256};

/// EIP-3860: bytes of init code at most.
pub const INITCODE_BYTES_MAX: usize = 49_152;
/// EIP-7702: code that delegates is this prefix and an address.
const DELEGATION_PREFIX: [u8; 3] = [0xef, 0x01, 0x00];
const DELEGATION_BYTES: usize = 23;

/// What this chain asks of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// EIP-155 id of this chain.
    pub chain_id: u64,
    /// Gas of a whole block; a transaction with more never fits.
    pub block_gas_limit: u64,
    /// EIP-7825: gas of one transaction at most.
    pub transaction_gas_max: u64,
    /// Wei per gas that the fee recipient must be offered at least.
    pub tip_min: u128,
    /// Wei per gas under which the base fee never falls.
    pub base_fee_floor: u64,
    /// Whether legacy transactions without a chain id are taken. Geth's RPC refuses them, since
    /// they can be replayed on every chain; well-known deployer contracts need them.
    pub unprotected_allowed: bool,
    /// How far above the account's nonce a transaction may be.
    pub nonce_window: u64,
}

impl Rules {
    /// Ethereum's rules with geth's defaults.
    pub fn new(chain_id: u64, block_gas_limit: u64) -> Self {
        Self {
            chain_id,
            block_gas_limit,
            transaction_gas_max: TRANSACTION_GAS_MAX,
            tip_min: 0,
            base_fee_floor: 0,
            unprotected_allowed: false,
            nonce_window: 1_024,
        }
    }
}

/// Why a transaction may not wait here.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AdmitError {
    /// EIP-155: signed for another chain.
    #[error("invalid chain id for signer: have {have} want {want}")]
    ChainId {
        /// The transaction's.
        have: u64,
        /// This chain's.
        want: u64,
    },
    /// Legacy, without a chain id.
    #[error("only replay-protected (EIP-155) transactions allowed over RPC")]
    Unprotected,
    /// Creation with too much code.
    #[error("max initcode size exceeded: code size {0}, limit {INITCODE_BYTES_MAX}")]
    InitCode(usize),
    /// EIP-7825.
    #[error("transaction gas limit too high (cap: {cap}, tx: {gas})")]
    GasCap {
        /// Gas at most.
        cap: u64,
        /// The transaction's gas limit.
        gas: u64,
    },
    /// More than a block has.
    #[error("exceeds block gas limit: gas {gas}, block gas limit {limit}")]
    BlockGas {
        /// The transaction's gas limit.
        gas: u64,
        /// A block's.
        limit: u64,
    },
    /// EIP-1559: the tip is part of the fee cap.
    #[error(
        "max priority fee per gas higher than max fee per gas: \
         maxPriorityFeePerGas: {tip}, maxFeePerGas: {cap}"
    )]
    TipAboveCap {
        /// Tip, wei per gas.
        tip: u128,
        /// Fee cap, wei per gas.
        cap: u128,
    },
    /// EIP-2681.
    #[error("nonce has max value: nonce: {}", u64::MAX)]
    NonceMax,
    /// Less gas than is charged before execution.
    #[error("intrinsic gas too low: gas {gas}, minimum needed {needed}")]
    IntrinsicGas {
        /// The transaction's gas limit.
        gas: u64,
        /// Least.
        needed: u64,
    },
    /// EIP-7623.
    #[error("insufficient gas for floor data gas cost: gas {gas}, minimum needed {needed}")]
    FloorGas {
        /// The transaction's gas limit.
        gas: u64,
        /// Least.
        needed: u64,
    },
    /// The tip is under this node's least.
    #[error("transaction underpriced: gas tip cap {tip}, minimum needed {needed}")]
    TipTooLow {
        /// Tip, wei per gas.
        tip: u128,
        /// Least.
        needed: u128,
    },
    /// The fee cap is under what the base fee can ever be.
    #[error("transaction underpriced: max fee per gas {cap}, minimum needed {needed}")]
    CapTooLow {
        /// Fee cap, wei per gas.
        cap: u128,
        /// Least.
        needed: u64,
    },
    /// Nobody holds that much: gas times fee cap, or that and the value, is over 256 bits.
    #[error("insufficient funds for gas * price + value: tx cost exceeds 256 bits")]
    CostOverflow,
    /// EIP-7702.
    #[error("set code tx must have at least one authorization tuple")]
    NoAuthorization,
    /// The account is past this nonce.
    #[error("nonce too low: next nonce {next}, tx nonce {nonce}")]
    NonceTooLow {
        /// The account's.
        next: u64,
        /// The transaction's.
        nonce: u64,
    },
    /// Too far ahead.
    #[error("nonce too high: next nonce {next}, tx nonce {nonce}, at most {window} ahead")]
    NonceTooHigh {
        /// The account's.
        next: u64,
        /// The transaction's.
        nonce: u64,
        /// Distance at most.
        window: u64,
    },
    /// The account cannot pay.
    #[error(
        "insufficient funds for gas * price + value: \
         balance {balance}, tx cost {cost}, overshot {}", over(.cost, .balance)
    )]
    Funds {
        /// Wei that the account has.
        balance: U256,
        /// Wei that it must have.
        cost: U256,
    },
    /// EIP-3607: contracts send nothing.
    #[error("sender not an eoa: address {address}, len(code): {code_bytes}")]
    NotEoa {
        /// The sender.
        address: Address,
        /// Bytes of its code.
        code_bytes: usize,
    },
    /// The state could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
}

fn over(cost: &U256, balance: &U256) -> U256 {
    cost.saturating_sub(*balance)
}

/// Checks what needs neither sender nor state.
///
/// # Errors
/// The first rule that the transaction breaks, in geth's order.
pub fn check_alone(decoded: &Decoded, rules: &Rules) -> Result<(), AdmitError> {
    let tx = &decoded.envelope;
    check_chain(tx, rules)?;
    if tx.is_create() && tx.input().len() > INITCODE_BYTES_MAX {
        return Err(AdmitError::InitCode(tx.input().len()));
    }
    let gas = tx.gas_limit();
    if gas > rules.transaction_gas_max {
        return Err(AdmitError::GasCap { cap: rules.transaction_gas_max, gas });
    }
    if gas > rules.block_gas_limit {
        return Err(AdmitError::BlockGas { gas, limit: rules.block_gas_limit });
    }
    check_price(tx, rules)?;
    if tx.nonce() == u64::MAX {
        return Err(AdmitError::NonceMax);
    }
    let least = intrinsic(tx);
    if gas < least.gas {
        return Err(AdmitError::IntrinsicGas { gas, needed: least.gas });
    }
    if gas < least.floor {
        return Err(AdmitError::FloorGas { gas, needed: least.floor });
    }
    if tx.authorization_list().is_some_and(|list| list.is_empty()) {
        return Err(AdmitError::NoAuthorization);
    }
    Ok(())
}

fn check_chain(tx: &TxEnvelope, rules: &Rules) -> Result<(), AdmitError> {
    match tx.chain_id() {
        Some(have) if have != rules.chain_id => {
            Err(AdmitError::ChainId { have, want: rules.chain_id })
        }
        None if !rules.unprotected_allowed => Err(AdmitError::Unprotected),
        _ => Ok(()),
    }
}

fn check_price(tx: &TxEnvelope, rules: &Rules) -> Result<(), AdmitError> {
    let cap = tx.max_fee_per_gas();
    let tip = tx.max_priority_fee_per_gas().unwrap_or(cap);
    if tip > cap {
        return Err(AdmitError::TipAboveCap { tip, cap });
    }
    if tip < rules.tip_min {
        return Err(AdmitError::TipTooLow { tip, needed: rules.tip_min });
    }
    if cap < u128::from(rules.base_fee_floor) {
        return Err(AdmitError::CapTooLow { cap, needed: rules.base_fee_floor });
    }
    // 64 and 128 bits multiply within 256.
    let fee = U256::from(tx.gas_limit()) * U256::from(cap);
    fee.checked_add(tx.value()).map(drop).ok_or(AdmitError::CostOverflow)
}

/// Checks against a state and returns the sender's account in it.
///
/// # Errors
/// The first rule that the transaction breaks, or `View` where the state cannot be read.
pub fn check_sender(
    tx: &RecoveredTransaction,
    state: &dyn StateView,
    rules: &Rules,
) -> Result<Account, AdmitError> {
    let account = state.account(&tx.sender)?.unwrap_or_default();
    let (next, nonce) = (account.nonce, tx.nonce());
    if nonce < next {
        return Err(AdmitError::NonceTooLow { next, nonce });
    }
    if nonce - next > rules.nonce_window {
        return Err(AdmitError::NonceTooHigh { next, nonce, window: rules.nonce_window });
    }
    if account.code_hash != KECCAK256_EMPTY {
        check_code(tx.sender, &account, state)?;
    }
    let cost = tx.cost();
    if cost > account.balance {
        return Err(AdmitError::Funds { balance: account.balance, cost });
    }
    Ok(account)
}

fn check_code(
    address: Address,
    account: &Account,
    state: &dyn StateView,
) -> Result<(), AdmitError> {
    let code = state.code(&account.code_hash)?.unwrap_or_default();
    let delegates = code.len() == DELEGATION_BYTES && code.starts_with(&DELEGATION_PREFIX);
    if delegates || code.is_empty() {
        return Ok(());
    }
    Err(AdmitError::NotEoa { address, code_bytes: code.len() })
}
