//! Handlers of the `eth_` namespace, one file a subject. Each is a plain function that may block.

pub mod blocks;
pub mod calls;
pub mod fees;
pub mod logs;
pub mod state;

use crate::rpc::{Api, convert::UNSEALED_HASH, error::RpcError};
use crate::types::{
    block::Block,
    ids::BlockNumber,
    mini_block::{BlockEnvironment, MiniBlock},
    view::{BlockId, StateView},
};
use alloy_eips::eip1559::{BaseFeeParams, calc_next_block_base_fee};
use alloy_primitives::{B256, keccak256};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::sync::Arc;

/// An answer as JSON text.
pub type Json = Box<RawValue>;

/// Puts an answer into JSON.
///
/// # Errors
/// Never for our shapes; a bug is answered with "internal error".
pub(crate) fn json(value: &impl Serialize) -> Result<Json, RpcError> {
    to_raw_value(value).map_err(|error| {
        tracing::error!(%error, "an answer cannot be put into JSON");
        RpcError::internal()
    })
}

/// JSON's null: what does not exist.
pub(crate) fn null() -> Json {
    RawValue::NULL.to_owned()
}

impl Api {
    /// The sealed block, `None` where there is none.
    fn block(&self, id: BlockId) -> Result<Option<Arc<Block>>, RpcError> {
        Ok(self.backend.chain.block(id)?)
    }

    /// The newest sealed block.
    pub(crate) fn latest(&self) -> Result<Arc<Block>, RpcError> {
        self.block(BlockId::Latest)?.ok_or_else(RpcError::header_not_found)
    }

    /// The state that a block parameter means.
    fn state(&self, id: BlockId) -> Result<Arc<dyn StateView>, RpcError> {
        let chain = &self.backend.chain;
        let id = match id {
            BlockId::Hash(_) => match self.block(id)? {
                Some(block) => BlockId::Number(block.header.number),
                None => return Err(RpcError::server("header for hash not found")),
            },
            BlockId::Number(number) if number > chain.heads().latest => {
                return Err(RpcError::header_not_found());
            }
            other => other,
        };
        Ok(chain.state(id)?)
    }

    /// The block environment that a call at this block parameter runs in.
    fn environment(&self, id: BlockId) -> Result<BlockEnvironment, RpcError> {
        if id == BlockId::Pending {
            return Ok(self.open_block()?.environment);
        }
        let missing = match id {
            BlockId::Hash(_) => RpcError::server("header for hash not found"),
            _ => RpcError::header_not_found(),
        };
        let block = self.block(id)?.ok_or(missing)?;
        let header = &block.header;
        Ok(BlockEnvironment {
            number: header.number,
            timestamp: header.timestamp,
            base_fee: header.base_fee_per_gas.unwrap_or_default(),
            gas_limit: header.gas_limit,
            fee_recipient: header.beneficiary,
            prev_randao: header.mix_hash,
        })
    }

    /// The block that is being built; an empty one after `latest` where nothing is open.
    fn open_block(&self) -> Result<OpenBlock, RpcError> {
        let latest = self.latest()?;
        let mut mini_blocks = self.backend.chain.open_mini_blocks();
        mini_blocks.retain(|mini| mini.environment.number > latest.header.number);
        let Some(newest) = mini_blocks.last() else {
            return Ok(OpenBlock {
                environment: self.next_environment(&latest),
                parent_hash: latest.hash,
                mini_blocks,
            });
        };
        let environment = newest.environment;
        mini_blocks.retain(|mini| mini.environment.number == environment.number);
        let follows = environment.number == latest.header.number + 1;
        // Between its end and its seal the block before has no hash yet.
        let parent_hash = if follows { latest.hash } else { UNSEALED_HASH };
        Ok(OpenBlock { environment, parent_hash, mini_blocks })
    }

    fn next_environment(&self, latest: &Block) -> BlockEnvironment {
        let now_s = self.clock.now_us() / 1_000_000;
        let number = latest.header.number + 1;
        let timestamp = now_s.max(latest.header.timestamp + self.facts.block_interval_s.max(1));
        BlockEnvironment {
            number,
            timestamp,
            base_fee: self.next_base_fee(latest),
            gas_limit: self.facts.block_gas_limit,
            fee_recipient: latest.header.beneficiary,
            prev_randao: prev_randao(self.facts.chain_id, number),
        }
    }

    /// EIP-1559 with the floor: the base fee after a block, wei per gas.
    fn next_base_fee(&self, block: &Block) -> u64 {
        let header = &block.header;
        let base_fee = header.base_fee_per_gas.unwrap_or_default();
        let ethereum = BaseFeeParams::ethereum();
        let next = calc_next_block_base_fee(header.gas_used, header.gas_limit, base_fee, ethereum);
        next.max(self.facts.fee_floor)
    }
}

/// The block after `latest` as far as it is durable.
struct OpenBlock {
    environment: BlockEnvironment,
    parent_hash: B256,
    /// Its durable mini-blocks, oldest first.
    mini_blocks: Vec<Arc<MiniBlock>>,
}

/// What simulated calls see in a block that nobody has opened; fixed by chain id and height.
fn prev_randao(chain_id: u64, number: BlockNumber) -> B256 {
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&chain_id.to_be_bytes());
    seed[8..].copy_from_slice(&number.to_be_bytes());
    keccak256(seed)
}
