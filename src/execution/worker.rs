//! A chain of blocks being executed, cut by cut; the stage around it only moves messages.

use crate::execution::{
    block::OpenBlock,
    evm::{EngineError, Evm, Rules},
    fees::{FeeRules, ParentBlock, environment_after, next_base_fee},
    hashes::{BlockHashes, NextHash},
    parallel::{counts::Counts, engine::Parallel, lane::Lane},
    serial::{Engine as _, Outcome},
    store::{CacheLimits, Store},
    system,
};
use crate::types::{
    block::BlockClose,
    diff::Diff,
    flow::{Credit, Cut, Ends, Event, Step},
    ids::{BlockNumber, MiniBlockNumber, TimestampS, TimestampUs},
    mini_block::{BlockEnvironment, MiniBlock},
    overlay::Overlay,
    receipt::Receipt,
    view::StateView,
};
use alloy_primitives::{Address, B256, Signature, U256};
use std::sync::Arc;

/// Accounts with conflicts that are shown.
const TOP_CONFLICTS: usize = 10;

/// What the operator sets.
#[derive(Debug, Clone, Copy)]
pub struct ExecutionConfig {
    /// The chain's rules.
    pub rules: Rules,
    /// Base fee, gas limit, fee recipient.
    pub fees: FeeRules,
    /// Bounds of the state cache.
    pub cache: CacheLimits,
}

/// Where execution takes up.
pub struct ExecutionStart {
    /// All state newer than `base`, with the open block's durable mini-blocks.
    pub overlay: Overlay,
    /// A snapshot at a block boundary.
    pub base: Arc<dyn StateView>,
    /// The newest closed block.
    pub parent: ParentBlock,
    /// Hashes of closed blocks that `base` does not know, in order.
    pub hashes: Vec<(BlockNumber, B256)>,
    /// The block that durable mini-blocks belong to and that is not closed.
    pub open: Option<OpenBlock>,
    /// Number of the newest mini-block.
    pub last_mini_block: MiniBlockNumber,
}

/// What one cut came to, beside its steps.
#[derive(Debug, Default)]
pub struct Done {
    /// For ordering.
    pub credit: Credit,
    /// Transactions executed.
    pub transactions: usize,
    /// How they were executed.
    pub counts: Counts,
    /// Gas that they used.
    pub gas_used: u64,
    /// The block was closed.
    pub closed: bool,
}

/// Executes cuts one after another.
pub struct Worker {
    engine: Parallel,
    fees: FeeRules,
    parent: ParentBlock,
    open: Option<OpenBlock>,
    /// What the cuts of the mini-block that is not ended came to.
    begun: Outcome,
    last_mini_block: MiniBlockNumber,
}

impl Worker {
    /// Takes up a chain. `next_hash` waits for the next sealed block's hash.
    ///
    /// # Errors
    /// Where the state cannot be read.
    pub fn new(
        config: &ExecutionConfig,
        start: ExecutionStart,
        next_hash: NextHash,
    ) -> Result<Self, EngineError> {
        Ok(Self::with_lanes(config, start, next_hash, 0)?.0)
    }

    /// As `new`, with lanes to be run on threads of their own.
    ///
    /// # Errors
    /// Where the state cannot be read.
    pub fn with_lanes(
        config: &ExecutionConfig,
        start: ExecutionStart,
        next_hash: NextHash,
        lanes: usize,
    ) -> Result<(Self, Vec<Lane>), EngineError> {
        let ExecutionStart { overlay, base, parent, hashes, open, last_mini_block } = start;
        let mut known = BlockHashes::new(next_hash);
        let parent_hash = parent.hash.map(|hash| (parent.number, hash));
        hashes.into_iter().chain(parent_hash).for_each(|(at, hash)| known.learn(at, hash));
        let mut evm = Evm::new(config.rules, Store::new(base, overlay, known, config.cache));
        if let Some(open) = &open {
            system::resume(&mut evm, open)?;
        }
        let (engine, lanes) = Parallel::new(evm, lanes);
        let begun = Outcome::default();
        Ok((Self { engine, fees: config.fees, parent, open, begun, last_mini_block }, lanes))
    }

    /// The state under it, for hashes and snapshots that arrive between cuts.
    pub fn store(&mut self) -> &mut Store {
        self.engine.evm.store()
    }

    /// The ten accounts that most speculations failed on lately, the worst first.
    pub fn top_conflicts(&mut self) -> Vec<(Address, u64)> {
        self.engine.conflicts.top(TOP_CONFLICTS)
    }

    /// Executes a cut. Steps go to `emit` as soon as they stand, so that a mini-block need not
    /// wait for its block's end, which may wait for the parent's hash.
    ///
    /// # Errors
    /// Where the state cannot be read or the block cannot be closed validly.
    pub fn work(
        &mut self,
        cut: Cut,
        is_late: &mut dyn FnMut() -> bool,
        emit: &mut dyn FnMut(Step),
    ) -> Result<Done, EngineError> {
        let mut block = match self.open.take() {
            Some(block) => block,
            None => self.open_block(cut.block_timestamp)?,
        };
        let mut outcome = self.engine.extend(&mut block, cut.transactions, is_late)?;
        let mut done = Done {
            credit: Credit {
                left_over: std::mem::take(&mut outcome.left_over),
                dropped: std::mem::take(&mut outcome.dropped),
                ..Credit::default()
            },
            transactions: outcome.transactions.len(),
            counts: std::mem::take(&mut self.engine.counts),
            gas_used: outcome.gas_used,
            closed: cut.ends == Ends::Block,
        };
        self.begun.append(outcome);
        if cut.ends != Ends::Nothing
            && let Some(step) = self.end_mini_block(&mut block, cut.timestamp_us)
        {
            emit(step);
            // Now that the mini-block is on its way: merging takes milliseconds at times.
            self.store().overlay_mut().compact();
        }
        if done.closed {
            emit(self.close_block(&block)?);
            done.credit.base_fee = next_base_fee(&self.parent, self.fees.base_fee_floor);
        } else {
            done.credit.base_fee = block.environment.base_fee;
            done.credit.block_full = block.is_full();
            self.open = Some(block);
        }
        Ok(done)
    }

    /// The mini-block of all that was executed since the last one; `None` where nothing was.
    fn end_mini_block(&mut self, block: &mut OpenBlock, timestamp_us: TimestampUs) -> Option<Step> {
        let mut outcome = std::mem::take(&mut self.begun);
        self.engine.end(block, &mut outcome);
        let Outcome { transactions, receipts, gas_used, diff, .. } = outcome;
        if transactions.is_empty() {
            return None;
        }
        let count = u64::try_from(transactions.len()).unwrap_or(u64::MAX);
        let diff = Arc::new(diff);
        let overlay = self.push(block.environment.number, &diff);
        self.last_mini_block += 1;
        let mini_block = MiniBlock {
            index: block.mini_blocks - 1,
            first_transaction: block.transactions - count,
            first_log: block.logs - log_count(&receipts),
            transactions,
            receipts,
            diff,
            gas_used,
            ..blank(timestamp_us, block.environment)
        };
        Some(Step { event: Event::MiniBlock(Arc::new(mini_block)), overlay })
    }

    fn open_block(&mut self, wanted: TimestampS) -> Result<OpenBlock, EngineError> {
        let timestamp = wanted.max(self.parent.timestamp);
        if timestamp != wanted {
            tracing::warn!(wanted, timestamp, "block timestamp before its parent's: raised to it");
        }
        let block = OpenBlock::new(environment_after(&self.parent, timestamp, &self.fees));
        system::open(&mut self.engine.evm, &block)?;
        Ok(block)
    }

    fn close_block(&mut self, block: &OpenBlock) -> Result<Step, EngineError> {
        let environment = block.environment;
        let parent = self.parent.number;
        let parent_hash = self.store().hash_of(parent)?;
        let requests = system::close(&mut self.engine.evm, block, parent_hash)?;
        let diff = Arc::new(self.store().take_diff());
        self.push(environment.number, &diff);
        let overlay = self.store().overlay_mut();
        overlay.close(environment.number);
        let overlay = overlay.clone();
        self.parent = ParentBlock {
            number: environment.number,
            hash: None,
            timestamp: environment.timestamp,
            gas_used: block.gas_used,
            base_fee: environment.base_fee,
            gas_limit: environment.gas_limit,
        };
        let close = BlockClose {
            environment,
            parent_hash,
            last_mini_block: self.last_mini_block,
            mini_block_count: block.mini_blocks,
            transaction_count: block.transactions,
            gas_used: block.gas_used,
            requests,
            diff,
        };
        Ok(Step { event: Event::Close(Arc::new(close)), overlay })
    }

    fn push(&mut self, number: BlockNumber, diff: &Arc<Diff>) -> Overlay {
        let overlay = self.store().overlay_mut();
        overlay.push(number, Arc::clone(diff));
        overlay.clone()
    }
}

fn log_count(receipts: &[Receipt]) -> u64 {
    receipts.iter().map(|receipt| u64::try_from(receipt.logs.len()).unwrap_or(u64::MAX)).sum()
}

/// A mini-block without content: `mini_block` fills in what commits to it.
fn blank(timestamp_us: TimestampUs, environment: BlockEnvironment) -> MiniBlock {
    MiniBlock {
        number: 0,
        environment,
        index: 0,
        first_transaction: 0,
        first_log: 0,
        timestamp_us,
        parent_hash: B256::ZERO,
        transactions: Vec::new(),
        receipts: Vec::new(),
        diff: Arc::default(),
        gas_used: 0,
        transaction_root: B256::ZERO,
        receipt_root: B256::ZERO,
        hash: B256::ZERO,
        signature: Signature::new(U256::ZERO, U256::ZERO, false),
    }
}
