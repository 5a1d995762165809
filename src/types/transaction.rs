//! A transaction whose sender is known. Decoding and recovery live in `ingress` and `crypto`.

use alloy_consensus::{Transaction as _, TxEnvelope, TxType};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, U256};
use std::{mem::offset_of, sync::Arc};

/// A decoded, signed transaction with its recovered sender.
///
/// The type says that recovery took place: nothing executes an envelope without a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C)]
pub struct RecoveredTransaction {
    /// Who signed it.
    pub sender: Address,
    outline: Outline,
    /// The envelope's, for whoever looks at nothing else of it.
    pub input: Bytes,
    /// The decoded transaction.
    pub envelope: TxEnvelope,
    /// Keccak of the EIP-2718 encoding.
    pub hash: B256,
    /// EIP-7702: the authority of each authorization in order, `None` where the signature is void.
    pub authorities: Vec<Option<Address>>,
    /// The EIP-2718 encoding as it arrived.
    pub raw: Bytes,
}

/// What one thread looks at of every transaction in its turn. With the sender, and the counts of
/// an `Arc` before it, it fills two cache lines; the whole transaction takes several times that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Outline {
    /// Whom it calls; zeros where it creates a contract.
    pub to: Address,
    /// The first four bytes of its input, zeros where it has fewer.
    pub selector: [u8; 4],
    /// The sender's nonce.
    pub nonce: u64,
    /// Gas that it may use at most.
    pub gas_limit: u64,
    value: [u64; 2],
    fee_cap: u64,
    tip_cap: u64,
    chain_id: u64,
    raw_bytes: u32,
    /// EIP-2718.
    pub tx_type: TxType,
    /// It has input.
    pub has_input: bool,
    /// It creates a contract.
    pub creates: bool,
    /// It has lists (of accesses, authorizations, blobs), or numbers that have no room here: all
    /// of these stand in the envelope alone.
    is_odd: bool,
}

/// What a transaction pays and moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// Wei per gas that are paid at most.
    pub fee_cap: u64,
    /// Wei per gas that the fee recipient gets at most; the fee cap in types without one of its
    /// own.
    pub tip_cap: u64,
    /// Wei that it moves.
    pub value: u128,
    /// EIP-155; legacy transactions may do without.
    pub chain_id: Option<u64>,
}

/// Stands for none: a transaction that says so itself is odd.
const NO_CHAIN_ID: u64 = 0;
const CACHE_LINE_BYTES: usize = 64;
/// Before what an `Arc` holds stand two counts.
const ARC_COUNTS_BYTES: usize = 2 * size_of::<usize>();
const _: () = assert!(
    ARC_COUNTS_BYTES + offset_of!(RecoveredTransaction, input) <= 2 * CACHE_LINE_BYTES,
    "what is always looked at has outgrown its cache lines",
);

impl Outline {
    fn new(envelope: &TxEnvelope, raw: &Bytes) -> Self {
        let input = envelope.input();
        let mut selector = [0; 4];
        selector.iter_mut().zip(input).for_each(|(byte, first)| *byte = *first);
        let (fee_cap, chain_id) = (envelope.max_fee_per_gas(), envelope.chain_id());
        let tip_cap = envelope.max_priority_fee_per_gas().unwrap_or(fee_cap);
        let [low, high, more @ ..] = envelope.value().into_limbs();
        let narrow = (u64::try_from(fee_cap), u64::try_from(tip_cap), u32::try_from(raw.len()));
        let is_wide = !matches!(narrow, (Ok(_), Ok(_), Ok(_)))
            || more != [0; 2]
            || chain_id == Some(NO_CHAIN_ID);
        let has_lists = matches!(envelope.tx_type(), TxType::Eip4844 | TxType::Eip7702)
            || envelope.access_list().is_some_and(|list| !list.is_empty());
        Self {
            to: envelope.to().unwrap_or_default(),
            selector,
            nonce: envelope.nonce(),
            gas_limit: envelope.gas_limit(),
            value: [low, high],
            fee_cap: narrow.0.unwrap_or_default(),
            tip_cap: narrow.1.unwrap_or_default(),
            chain_id: chain_id.unwrap_or(NO_CHAIN_ID),
            raw_bytes: narrow.2.unwrap_or_default(),
            tx_type: envelope.tx_type(),
            has_input: !input.is_empty(),
            creates: envelope.kind().is_create(),
            is_odd: has_lists || is_wide,
        }
    }

    /// Its numbers, where it has no list: then nothing of it but its input stands elsewhere.
    #[inline]
    pub fn numbers(&self) -> Option<Numbers> {
        let Self { fee_cap, tip_cap, value: [low, high], .. } = *self;
        let value = u128::from(high) << 64 | u128::from(low);
        let chain_id = (self.chain_id != NO_CHAIN_ID).then_some(self.chain_id);
        (!self.is_odd).then_some(Numbers { fee_cap, tip_cap, value, chain_id })
    }

    /// The numbers of one that calls somebody, and at most moves wei.
    #[inline]
    pub fn bare(&self) -> Option<Numbers> {
        self.numbers().filter(|_| !self.has_input && !self.creates)
    }
}

/// What stages share.
pub type SharedTransaction = Arc<RecoveredTransaction>;

impl RecoveredTransaction {
    /// A transaction whose sender and authorities were recovered.
    pub fn new(
        envelope: TxEnvelope,
        hash: B256,
        (sender, authorities): (Address, Vec<Option<Address>>),
        raw: Bytes,
    ) -> Self {
        let outline = Outline::new(&envelope, &raw);
        let input = envelope.input().clone();
        Self { sender, outline, input, envelope, hash, authorities, raw }
    }

    /// What is looked at in its turn.
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// The sender's nonce that this transaction uses.
    pub fn nonce(&self) -> u64 {
        self.outline.nonce
    }

    /// Gas that it may use at most.
    pub fn gas_limit(&self) -> u64 {
        self.outline.gas_limit
    }

    /// Wei per gas that the fee recipient gets at `base_fee`, or `None` where the fee cap is
    /// under it.
    pub fn effective_tip(&self, base_fee: u64) -> Option<u128> {
        let Some(Numbers { fee_cap, tip_cap, .. }) = self.outline.numbers() else {
            return self.envelope.effective_tip_per_gas(base_fee);
        };
        fee_cap.checked_sub(base_fee).map(|over| over.min(tip_cap).into())
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
        let gas_limit = u128::from(self.outline.gas_limit);
        let Some(Numbers { fee_cap, value, .. }) = self.outline.numbers() else {
            let fee = gas_limit.checked_mul(self.envelope.max_fee_per_gas())?;
            return U256::from(fee).checked_add(self.envelope.value());
        };
        Some(U256::from(gas_limit * u128::from(fee_cap)) + U256::from(value))
    }

    /// Memory that it takes, bytes, near enough for limits: input and raw bytes are two copies.
    pub fn memory_bytes(&self) -> usize {
        let authorities = self.authorities.len() * size_of::<Option<Address>>();
        size_of::<Self>() + 2 * self.raw.len() + authorities
    }

    /// Bytes of its item in a block's RLP list, near enough for limits (a typed transaction is
    /// wrapped in a string of up to four bytes of prefix).
    pub fn block_bytes(&self) -> usize {
        let Outline { raw_bytes, is_odd, .. } = self.outline;
        let near = usize::try_from(raw_bytes).ok().filter(|_| !is_odd);
        near.unwrap_or(self.raw.len()) + 4
    }

    /// Re-encodes the envelope; equals `raw` for every transaction that was decoded.
    pub fn encoded(&self) -> Vec<u8> {
        self.envelope.encoded_2718()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEip2930, TxLegacy};
    use alloy_eips::eip2930::{AccessList, AccessListItem};
    use alloy_primitives::{Signature, TxKind};
    use proptest::prelude::*;

    fn recovered(envelope: TxEnvelope) -> RecoveredTransaction {
        let raw = Bytes::from(envelope.encoded_2718());
        RecoveredTransaction::new(envelope, B256::ZERO, (Address::ZERO, Vec::new()), raw)
    }

    /// Numbers about the edges of what an outline holds.
    fn number() -> impl Strategy<Value = u128> {
        let edges = [0, 1, 7, u128::from(u64::MAX), u128::from(u64::MAX) + 1, u128::MAX];
        prop_oneof![prop::sample::select(edges.to_vec()), any::<u128>(), (0u128..1_000)]
    }

    fn envelope() -> impl Strategy<Value = TxEnvelope> {
        let fields = (number(), number(), number(), any::<u64>(), 0u64..3, 0usize..6);
        let shape = (0u8..3, any::<bool>(), any::<bool>(), any::<bool>());
        (fields, shape).prop_map(|((cap, tip, wei, gas_limit, chain, bytes), shape)| {
            let (kind, creates, is_listed, is_high) = shape;
            let value = U256::from(wei) << if is_high { 128 } else { 0 };
            let to = if creates { TxKind::Create } else { Address::repeat_byte(9).into() };
            let input = Bytes::from(vec![5; bytes]);
            let listed = AccessListItem::default();
            let access_list = AccessList(if is_listed { vec![listed] } else { Vec::new() });
            let (nonce, signature) = (gas_limit / 3, Signature::test_signature());
            match kind {
                0 => {
                    let chain_id = chain.checked_sub(1);
                    TxLegacy { chain_id, nonce, gas_price: cap, gas_limit, to, value, input }
                        .into_signed(signature)
                        .into()
                }
                1 => TxEip2930 {
                    chain_id: chain,
                    nonce,
                    gas_price: cap,
                    gas_limit,
                    to,
                    value,
                    access_list,
                    input,
                }
                .into_signed(signature)
                .into(),
                _ => TxEip1559 {
                    chain_id: chain,
                    nonce,
                    gas_limit,
                    max_fee_per_gas: cap,
                    max_priority_fee_per_gas: tip,
                    to,
                    value,
                    access_list,
                    input,
                }
                .into_signed(signature)
                .into(),
            }
        })
    }

    proptest! {
        /// An outline says what the envelope says, or nothing.
        #[test]
        fn an_outline_says_what_the_envelope_says(
            envelope in envelope(),
            base_fee in prop_oneof![Just(0), Just(u64::MAX), any::<u64>()],
        ) {
            let tx = recovered(envelope);
            let (outline, envelope) = (tx.outline(), &tx.envelope);
            prop_assert_eq!(tx.nonce(), envelope.nonce());
            prop_assert_eq!(tx.gas_limit(), envelope.gas_limit());
            prop_assert_eq!(outline.tx_type, envelope.tx_type());
            prop_assert_eq!(outline.has_input, !envelope.input().is_empty());
            prop_assert_eq!(outline.to, envelope.to().unwrap_or_default());
            let head = envelope.input().iter().chain(&[0; 4]).take(4).copied();
            prop_assert_eq!(outline.selector.to_vec(), head.collect::<Vec<u8>>());
            prop_assert_eq!(tx.effective_tip(base_fee), envelope.effective_tip_per_gas(base_fee));
            prop_assert_eq!(tx.block_bytes(), tx.raw.len() + 4);
            let cost = tx.checked_cost();
            prop_assert!(cost.is_none_or(|cost| cost == tx.cost()));
            let gas = U256::from(envelope.gas_limit());
            let fee = gas.checked_mul(U256::from(envelope.max_fee_per_gas()));
            let fee = fee.filter(|fee| *fee <= U256::from(u128::MAX));
            prop_assert_eq!(cost, fee.and_then(|fee| fee.checked_add(envelope.value())));
            let is_listed = envelope.access_list().is_some_and(|list| !list.is_empty());
            let is_bare = !envelope.kind().is_create() && !outline.has_input && !is_listed;
            prop_assert!(is_bare || outline.bare().is_none());
            prop_assert_eq!(outline.creates, envelope.kind().is_create());
            prop_assert_eq!(&tx.input, envelope.input());
            if let Some(numbers) = outline.numbers() {
                let tip_cap = envelope.max_priority_fee_per_gas().map_or(numbers.fee_cap, |tip| {
                    u64::try_from(tip).unwrap()
                });
                prop_assert_eq!(u128::from(numbers.fee_cap), envelope.max_fee_per_gas());
                prop_assert_eq!(numbers.tip_cap, tip_cap);
                prop_assert_eq!(U256::from(numbers.value), envelope.value());
                prop_assert_eq!(numbers.chain_id, envelope.chain_id());
                prop_assert_eq!(outline.bare(), is_bare.then_some(numbers));
            } else if !is_listed {
                let numbers = [envelope.max_fee_per_gas(), envelope.priority_fee_or_price()];
                let is_wide = numbers.iter().any(|number| *number > u64::MAX.into())
                    || envelope.value() > U256::from(u128::MAX)
                    || envelope.chain_id() == Some(0);
                prop_assert!(is_wide, "it has room");
            }
        }
    }
}
