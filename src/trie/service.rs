//! Proofs for clients while the trie stage goes on: immutable rows, a layer a block.

use crate::trie::proof::account_proof;
use crate::types::{
    block::{NodeKey, TrieUpdate},
    ids::BlockNumber,
    view::{AccountProof, BlockId, NodeSource, ProofSource, ViewError},
};
use alloy_primitives::{Address, B256, Bytes, U256};
use arc_swap::ArcSwap;
use std::sync::Arc;

/// The tries of every block from the steady checkpoint to the newest.
///
/// Writers replace the whole picture, readers keep the one they began with: a proof never mixes
/// two blocks, and no reader makes a stage wait.
pub struct ProofService {
    kept: ArcSwap<Kept>,
}

/// A steady checkpoint and the rows to read it from.
#[derive(Clone)]
pub struct Checkpoint {
    /// The newest block that it covers.
    pub block: BlockNumber,
    /// A snapshot of exactly that checkpoint.
    pub source: Arc<dyn NodeSource>,
}

#[derive(Clone)]
struct Kept {
    base: Checkpoint,
    base_hash: B256,
    /// Oldest first, each block's number one more than the one before.
    layers: Vec<Layer>,
}

#[derive(Clone)]
struct Layer {
    block: BlockNumber,
    /// Once it is sealed.
    hash: Option<B256>,
    update: Arc<TrieUpdate>,
}

struct Snapshot {
    /// Newest first.
    layers: Vec<Arc<TrieUpdate>>,
    source: Arc<dyn NodeSource>,
}

impl NodeSource for Snapshot {
    fn row(&self, key: &NodeKey) -> Result<Option<Bytes>, ViewError> {
        for layer in &self.layers {
            if let Ok(at) = layer.rows.binary_search_by(|(have, _)| have.cmp(key)) {
                return Ok(layer.rows[at].1.clone());
            }
        }
        self.source.row(key)
    }
}

impl ProofService {
    /// Serves `base`, whose header has `base_hash`, until more is published.
    pub fn new(base: Checkpoint, base_hash: B256) -> Self {
        Self { kept: ArcSwap::from_pointee(Kept { base, base_hash, layers: Vec::new() }) }
    }

    /// The newest checkpoint.
    pub fn checkpoint(&self) -> Checkpoint {
        self.kept.load().base.clone()
    }

    /// Adds a block's rows; clients see it once it is sealed.
    pub fn rooted(&self, block: BlockNumber, update: &Arc<TrieUpdate>) {
        let layer = Layer { block, hash: None, update: Arc::clone(update) };
        self.change(|kept| kept.layers.push(layer.clone()));
    }

    /// Says that a block's header is known: it is the newest that clients see.
    pub fn sealed(&self, block: BlockNumber, hash: B256) {
        self.change(|kept| {
            if block == kept.base.block {
                kept.base_hash = hash;
            }
            for layer in kept.layers.iter_mut().filter(|layer| layer.block == block) {
                layer.hash = Some(hash);
            }
        });
    }

    /// A checkpoint became steady: older blocks are no longer served.
    pub fn checkpointed(&self, checkpoint: &Checkpoint) {
        self.change(|kept| {
            let is_base = |layer: &&Layer| layer.block == checkpoint.block;
            if let Some(hash) = kept.layers.iter().find(is_base).and_then(|layer| layer.hash) {
                kept.base_hash = hash;
            }
            kept.base = checkpoint.clone();
            kept.layers.retain(|layer| layer.block > checkpoint.block);
        });
    }

    fn change(&self, change: impl Fn(&mut Kept)) {
        self.kept.rcu(|kept| {
            let mut kept = Kept::clone(kept);
            change(&mut kept);
            kept
        });
    }
}

impl Kept {
    /// Newest block that is sealed.
    fn latest(&self) -> BlockNumber {
        let sealed = self.layers.iter().rev().find(|layer| layer.hash.is_some());
        sealed.map_or(self.base.block, |layer| layer.block)
    }

    fn resolve(&self, id: BlockId) -> Result<BlockNumber, ViewError> {
        let (oldest, newest) = (self.base.block, self.latest());
        let asked = match id {
            BlockId::Latest | BlockId::Pending => newest,
            BlockId::Steady => oldest,
            BlockId::Earliest => 0,
            BlockId::Number(number) => number,
            BlockId::Hash(hash) if hash == self.base_hash => oldest,
            BlockId::Hash(hash) => {
                let layer = self.layers.iter().find(|layer| layer.hash == Some(hash));
                let unknown = || ViewError::Database(format!("no proof is kept for block {hash}"));
                layer.map(|layer| layer.block).ok_or_else(unknown)?
            }
        };
        if (oldest..=newest).contains(&asked) {
            Ok(asked)
        } else {
            Err(ViewError::NotKept { asked, oldest, newest })
        }
    }

    fn snapshot(&self, block: BlockNumber) -> Snapshot {
        let layers = self.layers.iter().rev().filter(|layer| layer.block <= block);
        let layers = layers.map(|layer| Arc::clone(&layer.update)).collect();
        Snapshot { layers, source: Arc::clone(&self.base.source) }
    }
}

impl ProofSource for ProofService {
    fn proof(
        &self,
        address: Address,
        slots: &[U256],
        block: BlockId,
    ) -> Result<AccountProof, ViewError> {
        let kept = self.kept.load_full();
        let block = kept.resolve(block)?;
        account_proof(&kept.snapshot(block), address, slots)
    }
}
