//! A transaction whose sender is known. Decoding and recovery live in `ingress` and `crypto`.

use alloy_consensus::{Transaction as _, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, U256};
use std::sync::Arc;

/// A decoded, signed transaction with its recovered sender.
///
/// The type says that recovery took place: nothing executes an envelope without a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredTransaction {
    /// The decoded transaction.
    pub envelope: TxEnvelope,
    /// Keccak of the EIP-2718 encoding.
    pub hash: B256,
    /// Who signed it.
    pub sender: Address,
    /// EIP-7702: the authority of each authorization in order, `None` where the signature is void.
    pub authorities: Vec<Option<Address>>,
    /// The EIP-2718 encoding as it arrived.
    pub raw: Bytes,
}

/// What stages share.
pub type SharedTransaction = Arc<RecoveredTransaction>;

impl RecoveredTransaction {
    /// The sender's nonce that this transaction uses.
    pub fn nonce(&self) -> u64 {
        self.envelope.nonce()
    }

    /// Gas that it may use at most.
    pub fn gas_limit(&self) -> u64 {
        self.envelope.gas_limit()
    }

    /// Wei per gas that the fee recipient gets at `base_fee`, or `None` where the fee cap is
    /// under it.
    pub fn effective_tip(&self, base_fee: u64) -> Option<u128> {
        self.envelope.effective_tip_per_gas(base_fee)
    }

    /// Wei per gas that the sender pays at `base_fee`.
    pub fn effective_gas_price(&self, base_fee: u64) -> u128 {
        self.envelope.effective_gas_price(Some(base_fee))
    }

    /// Wei that the sender must hold: gas limit times fee cap, and the value.
    pub fn cost(&self) -> U256 {
        U256::from(self.envelope.gas_limit())
            .saturating_mul(U256::from(self.envelope.max_fee_per_gas()))
            .saturating_add(self.envelope.value())
    }

    /// As `cost`, `None` where the fee has more than 128 bits or all of it more than 256: the EVM
    /// refuses both.
    pub fn checked_cost(&self) -> Option<U256> {
        let fee = u128::from(self.envelope.gas_limit());
        let fee = fee.checked_mul(self.envelope.max_fee_per_gas())?;
        U256::from(fee).checked_add(self.envelope.value())
    }

    /// Memory that it takes, bytes, near enough for limits: input and raw bytes are two copies.
    pub fn memory_bytes(&self) -> usize {
        let authorities = self.authorities.len() * size_of::<Option<Address>>();
        size_of::<Self>() + 2 * self.raw.len() + authorities
    }

    /// Bytes of its item in a block's RLP list, near enough for limits (a typed transaction is
    /// wrapped in a string of up to four bytes of prefix).
    pub fn block_bytes(&self) -> usize {
        self.raw.len() + 4
    }

    /// Re-encodes the envelope; equals `raw` for every transaction that was decoded.
    pub fn encoded(&self) -> Vec<u8> {
        self.envelope.encoded_2718()
    }
}
