//! What a block's environment follows from: its parent and the chain's fee rules.

use crate::types::{
    ids::{BlockNumber, TimestampS},
    mini_block::BlockEnvironment,
};
use alloy_primitives::{Address, B256, keccak256};

/// EIP-1559: a block aims at its gas limit divided by this.
const ELASTICITY: u64 = 2;
/// EIP-1559: the base fee moves by a part in this many at most.
const CHANGE_DENOMINATOR: u128 = 8;
/// Yellow paper: a block's gas limit differs from its parent's by less than a part in this many.
const GAS_LIMIT_BOUND_DIVISOR: u64 = 1_024;
/// Yellow paper: the least gas limit.
const GAS_LIMIT_MIN: u64 = 5_000;

/// What the operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeeRules {
    /// Part of `prev_randao`'s preimage.
    pub chain_id: u64,
    /// Wei per gas below which the base fee never falls.
    pub base_fee_floor: u64,
    /// Gas limit that blocks move towards.
    pub gas_limit: u64,
    /// Who gets the tips.
    pub fee_recipient: Address,
}

/// What a block takes from its parent's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParentBlock {
    /// Height.
    pub number: BlockNumber,
    /// Hash of its header, where it is known already.
    pub hash: Option<B256>,
    /// Seconds since the epoch.
    pub timestamp: TimestampS,
    /// Gas that it used.
    pub gas_used: u64,
    /// Wei per gas.
    pub base_fee: u64,
    /// Gas that it could have used.
    pub gas_limit: u64,
}

/// EIP-1559: the base fee after `parent`, wei per gas, never under `floor`.
pub fn next_base_fee(parent: &ParentBlock, floor: u64) -> u64 {
    let target = (parent.gas_limit / ELASTICITY).max(1);
    let part = |gas: u64| {
        let step = u128::from(parent.base_fee) * u128::from(gas) / u128::from(target);
        u64::try_from(step / CHANGE_DENOMINATOR).unwrap_or(u64::MAX)
    };
    let next = if parent.gas_used > target {
        parent.base_fee.saturating_add(part(parent.gas_used - target).max(1))
    } else {
        parent.base_fee - part(target - parent.gas_used)
    };
    next.max(floor)
}

/// The gas limit after `parent`, one step towards `wanted`.
fn next_gas_limit(parent: u64, wanted: u64) -> u64 {
    let step = (parent / GAS_LIMIT_BOUND_DIVISOR).saturating_sub(1);
    wanted.clamp(parent.saturating_sub(step), parent.saturating_add(step)).max(GAS_LIMIT_MIN)
}

/// The environment of the block after `parent`.
///
/// `prev_randao` is keccak(chain id ‖ number), both as eight bytes, most significant first: known
/// in advance and no source of randomness.
pub fn environment_after(
    parent: &ParentBlock,
    timestamp: TimestampS,
    rules: &FeeRules,
) -> BlockEnvironment {
    let number = parent.number + 1;
    let seed = [rules.chain_id.to_be_bytes(), number.to_be_bytes()].concat();
    BlockEnvironment {
        number,
        timestamp,
        base_fee: next_base_fee(parent, rules.base_fee_floor),
        gas_limit: next_gas_limit(parent.gas_limit, rules.gas_limit),
        fee_recipient: rules.fee_recipient,
        prev_randao: keccak256(seed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parent(gas_used: u64, base_fee: u64) -> ParentBlock {
        let gas_limit = 30_000_000;
        ParentBlock { number: 1, hash: None, timestamp: 0, gas_used, base_fee, gas_limit }
    }

    #[test]
    fn the_base_fee_moves_by_an_eighth_and_stops_at_the_floor() {
        assert_eq!(next_base_fee(&parent(15_000_000, 1_000), 0), 1_000);
        assert_eq!(next_base_fee(&parent(30_000_000, 1_000), 0), 1_125);
        assert_eq!(next_base_fee(&parent(0, 1_000), 0), 875);
        assert_eq!(next_base_fee(&parent(0, 1_000), 900), 900);
        assert_eq!(next_base_fee(&parent(15_000_001, 1), 0), 2);
    }

    #[test]
    fn the_gas_limit_goes_to_what_is_wanted_in_valid_steps() {
        assert_eq!(next_gas_limit(30_000_000, 30_000_000), 30_000_000);
        assert_eq!(next_gas_limit(30_000_000, 60_000_000), 30_000_000 + 30_000_000 / 1_024 - 1);
        assert_eq!(next_gas_limit(30_000_000, 29_999_999), 29_999_999);
        assert_eq!(next_gas_limit(5_000, 0), 5_000);
    }

    proptest! {
        /// An independent implementation agrees wherever the floor does not bind.
        #[test]
        fn the_base_fee_equals_the_eips(used in 0u64..=30_000_000, base_fee in 7u64..1 << 50) {
            let params = alloy_eips::eip1559::BaseFeeParams::ethereum();
            let expected = params.next_block_base_fee(used, 30_000_000, base_fee);
            prop_assert_eq!(next_base_fee(&parent(used, base_fee), 0), expected);
        }
    }
}
