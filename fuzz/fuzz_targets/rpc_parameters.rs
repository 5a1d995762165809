//! Any text as the parameters of any method: every answer is a result or an error, never a panic.
#![no_main]

use alloy_consensus::Header;
use alloy_primitives::{Address, B256, Bytes, U256};
use basalt::{
    rpc::{
        Api, Backend, Facts, Settings,
        error::INTERNAL,
        methods::{METHODS, answer},
        metrics::RpcMetrics,
        params::only_data,
        subscribe::Events,
        waiters::Waiters,
    },
    runtime::{
        clock::Clock,
        metrics::{Metrics, StageMetrics},
    },
    types::{
        block::{Block, LogStarts},
        diff::Account,
        flow::Submission,
        mini_block::{BlockEnvironment, MiniBlock},
        transaction::SharedTransaction,
        view::{
            AccountProof, BlockId, CallOutcome, CallRequest, ChainReader, Heads, LogQuery, Place,
            PoolReader, ProofSource, Simulator, StateView, ViewError,
        },
    },
};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};

/// A chain of a genesis block and nothing else.
struct Genesis(Arc<Block>);
struct Nothing;

impl StateView for Nothing {
    fn account(&self, _: &Address) -> Result<Option<Account>, ViewError> {
        Ok(None)
    }
    fn storage(&self, _: &Address, _: &U256) -> Result<U256, ViewError> {
        Ok(U256::ZERO)
    }
    fn code(&self, _: &B256) -> Result<Option<Bytes>, ViewError> {
        Ok(None)
    }
    fn block_hash(&self, _: u64) -> Result<Option<B256>, ViewError> {
        Ok(None)
    }
}

impl ChainReader for Genesis {
    fn heads(&self) -> Heads {
        Heads::default()
    }
    fn block(&self, id: BlockId) -> Result<Option<Arc<Block>>, ViewError> {
        let known = match id {
            BlockId::Number(number) => number == 0,
            BlockId::Hash(hash) => hash == self.0.hash,
            _ => true,
        };
        Ok(known.then(|| Arc::clone(&self.0)))
    }
    fn open_mini_blocks(&self) -> Vec<Arc<MiniBlock>> {
        Vec::new()
    }
    fn transaction(&self, _: &B256) -> Result<Option<Place>, ViewError> {
        Ok(None)
    }
    fn state(&self, _: BlockId) -> Result<Arc<dyn StateView>, ViewError> {
        Ok(Arc::new(Nothing))
    }
    fn blocks_with_logs(&self, _: &LogQuery, _: usize) -> Result<Vec<Arc<Block>>, ViewError> {
        Ok(vec![Arc::clone(&self.0)])
    }
}

impl ProofSource for Genesis {
    fn proof(&self, _: Address, slots: &[U256], _: BlockId) -> Result<AccountProof, ViewError> {
        Ok(AccountProof {
            account: None,
            storage_root: B256::ZERO,
            nodes: Vec::new(),
            slots: slots.iter().map(|slot| (*slot, U256::ZERO, Vec::new())).collect(),
        })
    }
}

impl PoolReader for Genesis {
    fn submit(&self, submission: Submission) -> Result<(), Submission> {
        Err(submission)
    }
    fn pending(&self, _: &B256) -> Option<SharedTransaction> {
        None
    }
    fn pending_nonce(&self, _: &Address) -> Option<u64> {
        None
    }
    fn pending_count(&self) -> usize {
        0
    }
}

impl Simulator for Genesis {
    fn call(
        &self,
        _: &dyn StateView,
        _: &BlockEnvironment,
        call: &CallRequest,
    ) -> Result<CallOutcome, ViewError> {
        Ok(CallOutcome::Revert { output: call.input.clone(), gas_used: 0 })
    }
    fn estimate(
        &self,
        _: &dyn StateView,
        _: &BlockEnvironment,
        call: &CallRequest,
    ) -> Result<Result<u64, CallOutcome>, ViewError> {
        Ok(Err(CallOutcome::Revert { output: call.input.clone(), gas_used: 0 }))
    }
}

static API: LazyLock<Api> = LazyLock::new(|| {
    let header = Header { base_fee_per_gas: Some(1), gas_limit: 1 << 25, ..Header::default() };
    let chain = Arc::new(Genesis(Arc::new(Block {
        hash: header.hash_slow(),
        header,
        transactions: Vec::new(),
        receipts: Vec::new(),
        last_mini_block: 0,
        mini_block_count: 0,
        log_starts: LogStarts::default(),
    })));
    Api {
        backend: Backend {
            chain: chain.clone(),
            proofs: chain.clone(),
            pool: chain.clone(),
            simulator: chain,
        },
        facts: Facts {
            chain_id: 1,
            client_version: String::new(),
            block_gas_limit: 1 << 25,
            fee_floor: 1,
            call_gas_max: 1 << 25,
            mini_block_interval_us: 10_000,
            block_interval_s: 1,
        },
        settings: Settings::default(),
        events: Events::new(10_000, 256),
        waiters: Arc::new(Waiters::new(1)),
        metrics: RpcMetrics::new(&Metrics::default(), StageMetrics::unregistered(), 0),
        clock: Clock::manual(0),
    }
});

fuzz_target!(|data: &[u8]| {
    let Some((choice, text)) = data.split_first() else { return };
    let Ok(params) = std::str::from_utf8(text) else { return };
    let method = METHODS[usize::from(*choice) % METHODS.len()].name;
    if let Err(error) = answer(&API, method, Some(params)) {
        // Handlers catch panics: an internal error is one.
        assert_ne!(error.code, INTERNAL, "{method} {params}: {error}");
    }
    drop(only_data(Some(params)));
});
