//! The first state and block 0, from the genesis that the configuration names.

use crate::config::{chain_spec::ChainSpec, schema::Chain};
use crate::crypto::derive::Accounts;
use crate::node::NodeError;
use crate::state::{
    archive::Archive,
    environment::{Environment, Identity},
    genesis,
};
use crate::trie::root::StateTrie;
use crate::types::view::NodeSource;
use alloy_consensus::{EMPTY_OMMER_ROOT_HASH, Header};
use alloy_eips::eip7685::EMPTY_REQUESTS_HASH;
use alloy_genesis::{Genesis, GenesisAccount};
use alloy_primitives::{Address, B256, keccak256};
use alloy_trie::EMPTY_ROOT_HASH;
use std::{collections::BTreeMap, fs, sync::Arc};

/// Tells one chain from another without building its genesis: a hundred thousand accounts take
/// seconds to derive, and are needed once. Whatever goes into the hash of a block but is not
/// written down in the chain belongs here.
///
/// # Errors
/// Where the genesis file cannot be read.
pub fn identity(chain: &Chain, spec: &ChainSpec) -> Result<Identity, NodeError> {
    let genesis = match &chain.genesis_file {
        Some(path) => {
            let mut bytes = fs::read(path)
                .map_err(|error| NodeError(format!("{}: {error}", path.display())))?;
            bytes.extend_from_slice(&chain.initial_base_fee_wei.to_be_bytes());
            bytes.extend_from_slice(&chain.extra_data);
            keccak256(bytes)
        }
        None => keccak256(format!(
            "{} {} {} {} {} {} {} {:?}",
            chain.id,
            chain.dev_mnemonic,
            chain.dev_accounts,
            chain.dev_balance_mega,
            chain.block_gas_limit,
            chain.initial_base_fee_wei,
            chain.fee_recipient,
            chain.extra_data,
        )),
    };
    Ok(Identity { chain_id: spec.chain_id, genesis })
}

/// The genesis of a file, or one with as many development accounts as are asked for.
///
/// # Errors
/// Where the file or the mnemonic is refused.
pub fn spec(chain: &Chain, accounts: usize) -> Result<ChainSpec, NodeError> {
    let addresses = match chain.genesis_file {
        Some(_) => Vec::new(),
        None => {
            let count = u32::try_from(accounts).unwrap_or(u32::MAX);
            let derived = Accounts::from_mnemonic(&chain.dev_mnemonic).map_err(NodeError::of)?;
            derived.addresses(count).map_err(NodeError::of)?
        }
    };
    ChainSpec::new(chain, &addresses).map_err(NodeError::of)
}

/// Writes the first state, which is `alloc`, and block 0 as `genesis` says.
///
/// # Errors
/// Where the disk fails.
pub fn write(
    environment: &Environment,
    archive: &Archive,
    (genesis, alloc): (&Genesis, BTreeMap<Address, GenesisAccount>),
    trie_bytes: usize,
) -> Result<(), NodeError> {
    let count = alloc.len();
    tracing::info!(accounts = count, "writing the genesis state");
    let mut trie: Option<StateTrie> = None;
    let mut apply = |source: Arc<dyn NodeSource>, diff: &_| {
        let trie = match &mut trie {
            Some(trie) => {
                trie.checkpointed(0, source);
                trie
            }
            None => trie.insert(StateTrie::new(source, trie_bytes)?),
        };
        Ok(trie.apply(0, diff)?)
    };
    let (chunks, header) = (genesis::chunks(alloc), |root| header(genesis, root));
    let written = genesis::initialise(environment, archive, chunks, &mut apply, header);
    let checkpoint = written.map_err(NodeError::of)?;
    tracing::info!(accounts = count, hash = %checkpoint.hash, "genesis stands");
    Ok(())
}

/// Block 0 under Osaka's rules.
fn header(genesis: &Genesis, state_root: B256) -> Header {
    Header {
        ommers_hash: EMPTY_OMMER_ROOT_HASH,
        beneficiary: genesis.coinbase,
        state_root,
        transactions_root: EMPTY_ROOT_HASH,
        receipts_root: EMPTY_ROOT_HASH,
        difficulty: genesis.difficulty,
        gas_limit: genesis.gas_limit,
        timestamp: genesis.timestamp,
        extra_data: genesis.extra_data.clone(),
        mix_hash: genesis.mix_hash,
        nonce: genesis.nonce.into(),
        base_fee_per_gas: genesis
            .base_fee_per_gas
            .map(|fee| u64::try_from(fee).unwrap_or(u64::MAX)),
        withdrawals_root: Some(EMPTY_ROOT_HASH),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::ZERO),
        requests_hash: Some(EMPTY_REQUESTS_HASH),
        ..Header::default()
    }
}
