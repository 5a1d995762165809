//! revm's way through a transaction, but for what every transaction costs before its first
//! instruction, and for the tip. The serial engine does without, and so checks it.

use crate::execution::{
    evm::{Evm, Fork},
    store::ReadError,
};
use revm::{
    Database,
    context_interface::{
        cfg::{Cfg as _, gas::InitialAndFloorGas},
        result::{EVMError, HaltReason},
    },
    handler::{FrameResult, Handler, MainnetHandler},
};
use std::marker::PhantomData;

/// Mainnet's rules, but that the fee recipient gets its tip later, in order.
pub(super) struct Lean<S> {
    /// One that somebody has looked at gets it at once.
    pays_who_is_seen: bool,
    state: PhantomData<S>,
}

impl<S> Lean<S> {
    /// All tips come later.
    pub(super) const fn tipless() -> Self {
        Self { pays_who_is_seen: false, state: PhantomData }
    }

    /// A tip comes later where the transaction does not look at the fee recipient.
    pub(super) const fn mostly_tipless() -> Self {
        Self { pays_who_is_seen: true, state: PhantomData }
    }
}

impl<S: Database<Error = ReadError>> Handler for Lean<S> {
    type Evm = Evm<S>;
    type Error = EVMError<ReadError>;
    type HaltReason = HaltReason;

    /// EIP-2028 and EIP-7623, with one look at the input where revm takes two slow ones. What
    /// creates, has lists, or has too little gas is left to revm.
    fn validate_initial_tx_gas(&self, evm: &mut Evm<S>) -> Result<InitialAndFloorGas, Self::Error> {
        let (tx, cfg) = (&evm.inner.ctx.tx, &evm.inner.ctx.cfg);
        let is_bare = tx.kind.is_call()
            && tx.access_list.is_empty()
            && tx.authorization_list.is_empty()
            && matches!(evm.rules.fork, Fork::Prague | Fork::Osaka);
        let prices = cfg.gas_params();
        let tokens = tokens(&tx.data, prices.tx_token_non_zero_byte_multiplier());
        let initial = prices.tx_base_stipend() + tokens * prices.tx_token_cost();
        let floor = prices.tx_floor_cost_with_tokens(tokens);
        if is_bare && initial.max(floor) <= tx.gas_limit {
            return Ok(InitialAndFloorGas::new(initial, floor));
        }
        MainnetHandler::<Evm<S>, Self::Error, _>::default().validate_initial_tx_gas(evm)
    }

    fn reward_beneficiary(
        &self,
        evm: &mut Evm<S>,
        result: &mut FrameResult,
    ) -> Result<(), Self::Error> {
        if !(self.pays_who_is_seen && evm.has_seen_fee_recipient()) {
            return Ok(());
        }
        MainnetHandler::<Evm<S>, Self::Error, _>::default().reward_beneficiary(evm, result)
    }
}

/// What an input counts as: a byte that is zero one token, any other several.
fn tokens(input: &[u8], other: u64) -> u64 {
    // As many as a byte can count.
    let zeros = input
        .chunks(255)
        .map(|some| u64::from(some.iter().fold(0u8, |zeros, byte| zeros + u8::from(*byte == 0))));
    let zeros: u64 = zeros.sum();
    let bytes = u64::try_from(input.len()).unwrap_or(u64::MAX);
    (bytes - zeros) * other + zeros
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use revm::context_interface::cfg::gas::get_tokens_in_calldata_istanbul;

    proptest! {
        #[test]
        fn an_input_has_as_many_tokens_as_in_revm(
            input in prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..1_000),
            zeros in 0usize..1_000,
        ) {
            let input = [input, vec![0; zeros]].concat();
            prop_assert_eq!(tokens(&input, 4), get_tokens_in_calldata_istanbul(&input));
        }
    }
}
