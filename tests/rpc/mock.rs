//! A chain in memory, behind the traits that the RPC reads through.

use alloy_consensus::{Header, SignableTransaction as _, TxEip1559, TxEnvelope, TxType};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Log, Signature, TxKind, U256, keccak256};
use basalt::{
    rpc::{
        Backend, Facts, Settings,
        server::{self, Parts, RunningServer},
        subscribe::Events,
    },
    runtime::{
        clock::Clock,
        metrics::{Metrics, StageMetrics},
    },
    types::{
        block::{Block, LogStarts},
        diff::{Account, AccountDiff, Diff},
        flow::{Refusal, Submission},
        mini_block::{BlockEnvironment, MiniBlock},
        receipt::Receipt,
        transaction::{RecoveredTransaction, SharedTransaction},
        view::{
            AccountProof, BlockId, CallOutcome, CallRequest, ChainReader, Heads, LogQuery, Place,
            PoolReader, ProofSource, Simulator, StateView, ViewError,
        },
    },
};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

pub(crate) const CHAIN_ID: u64 = 31_337;
pub(crate) const ALICE: Address = Address::repeat_byte(0xa1);
pub(crate) const CONTRACT: Address = Address::repeat_byte(0xc0);
pub(crate) const TOPIC: B256 = B256::repeat_byte(0x70);

/// A signed-looking transaction of Alice: nobody here recovers senders.
pub(crate) fn transaction(nonce: u64) -> SharedTransaction {
    let tx = TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 3_000_000_000,
        max_priority_fee_per_gas: 1_000,
        to: TxKind::Call(CONTRACT),
        value: U256::from(7),
        ..TxEip1559::default()
    };
    let signature = Signature::new(U256::from(nonce + 1), U256::from(2), false);
    let envelope = TxEnvelope::Eip1559(tx.into_signed(signature));
    let raw: Bytes = envelope.encoded_2718().into();
    Arc::new(RecoveredTransaction::new(envelope, keccak256(&raw), (ALICE, Vec::new()), raw))
}

fn receipt(position: u64) -> Receipt {
    let log = Log::new_unchecked(CONTRACT, vec![TOPIC, B256::with_last_byte(1)], Bytes::new());
    Receipt {
        tx_type: TxType::Eip1559,
        success: true,
        gas_used: 21_000,
        cumulative_gas_used: 21_000 * (position + 1),
        logs: vec![log],
    }
}

fn environment(number: u64) -> BlockEnvironment {
    BlockEnvironment {
        number,
        timestamp: 1_700_000_000 + number,
        base_fee: 1_000_000_000,
        gas_limit: 60_000_000,
        fee_recipient: Address::ZERO,
        prev_randao: B256::ZERO,
    }
}

/// What the chain consists of.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) blocks: Vec<Arc<Block>>,
    pub(crate) open: Vec<Arc<MiniBlock>>,
    pub(crate) waiting: Vec<SharedTransaction>,
    /// Submissions that nobody has answered.
    pub(crate) held: Vec<Submission>,
    pub(crate) hold: bool,
    pub(crate) refuse: Option<Refusal>,
    pub(crate) full: bool,
    pub(crate) outcome: Option<CallOutcome>,
    pub(crate) next_nonce: u64,
    /// What waits becomes durable right before the pool is asked for a sender's next nonce.
    pub(crate) included_when_asked: bool,
    included: u64,
}

#[derive(Default)]
pub(crate) struct Chain {
    state: Mutex<State>,
    gate: (Mutex<bool>, Condvar),
}

impl Chain {
    pub(crate) fn new() -> Arc<Self> {
        let chain = Self::default();
        *chain.gate.0.lock().unwrap() = true;
        let genesis = Header {
            base_fee_per_gas: Some(1_000_000_000),
            gas_limit: 60_000_000,
            withdrawals_root: Some(B256::ZERO),
            ..Header::default()
        };
        chain.lock().blocks.push(block_of(genesis, Vec::new(), 0));
        Arc::new(chain)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Stops or lets on whatever asks for a proof.
    pub(crate) fn set_gate(&self, open: bool) {
        *self.gate.0.lock().unwrap() = open;
        self.gate.1.notify_all();
    }

    /// A durable mini-block of the open block with these transactions.
    pub(crate) fn mini_block(&self, transactions: Vec<SharedTransaction>) -> Arc<MiniBlock> {
        let mut state = self.lock();
        let number = state.blocks.len() as u64;
        let first: u64 = state.open.iter().map(|mini| mini.transactions.len() as u64).sum();
        let mut diff = Diff::default();
        let account = Account { nonce: 5, balance: U256::from(1_000), ..Account::default() };
        let storage = [(U256::from(1), U256::from(0x1234))].into_iter().collect();
        let change = AccountDiff { account: Some(account), wiped: false, storage };
        diff.accounts.insert(ALICE, change);
        let count = transactions.len() as u64;
        let mini = Arc::new(MiniBlock {
            number: 100 + state.open.len() as u64,
            environment: environment(number),
            index: state.open.len() as u64,
            first_transaction: first,
            first_log: first,
            timestamp_us: 1_700_000_000_000_000,
            parent_hash: B256::ZERO,
            receipts: (first..first + count).map(receipt).collect(),
            transactions,
            diff: Arc::new(diff),
            gas_used: 21_000 * count,
            transaction_root: B256::repeat_byte(1),
            receipt_root: B256::repeat_byte(2),
            hash: B256::repeat_byte(3),
            signature: Signature::new(U256::from(8), U256::from(9), true),
        });
        let hashes: Vec<B256> = mini.transactions.iter().map(|tx| tx.hash).collect();
        state.waiting.retain(|tx| !hashes.contains(&tx.hash));
        state.open.push(Arc::clone(&mini));
        mini
    }

    /// Seals what is open.
    pub(crate) fn seal(&self) -> Arc<Block> {
        let mut state = self.lock();
        let open = std::mem::take(&mut state.open);
        let number = state.blocks.len() as u64;
        let header = Header {
            number,
            parent_hash: state.blocks.last().unwrap().hash,
            timestamp: environment(number).timestamp,
            base_fee_per_gas: Some(1_000_000_000),
            gas_limit: 60_000_000,
            gas_used: open.iter().map(|mini| mini.gas_used).sum(),
            withdrawals_root: Some(B256::ZERO),
            ..Header::default()
        };
        let transactions = open.iter().flat_map(|mini| mini.transactions.clone()).collect();
        let block = block_of(header, transactions, open.len() as u64);
        state.blocks.push(Arc::clone(&block));
        block
    }
}

fn block_of(header: Header, transactions: Vec<SharedTransaction>, minis: u64) -> Arc<Block> {
    Arc::new(Block {
        hash: header.hash_slow(),
        header,
        receipts: (0..transactions.len() as u64).map(receipt).collect(),
        transactions,
        last_mini_block: minis,
        mini_block_count: minis,
        log_starts: LogStarts::default(),
    })
}

/// Alice, who has sent five transactions and what was included since, and a contract.
struct Accounts {
    included: u64,
}

impl StateView for Accounts {
    fn account(&self, address: &Address) -> Result<Option<Account>, ViewError> {
        let code_hash = keccak256([0x60]);
        Ok(match *address {
            ALICE => Some(Account {
                nonce: 5 + self.included,
                balance: U256::from(1_000),
                ..Account::default()
            }),
            CONTRACT => Some(Account { nonce: 1, code_hash, ..Account::default() }),
            _ => None,
        })
    }

    fn storage(&self, _: &Address, slot: &U256) -> Result<U256, ViewError> {
        Ok(slot.saturating_add(U256::from(1)))
    }

    fn code(&self, hash: &B256) -> Result<Option<Bytes>, ViewError> {
        Ok((*hash == keccak256([0x60])).then(|| Bytes::from_static(&[0x60])))
    }

    fn block_hash(&self, _: u64) -> Result<Option<B256>, ViewError> {
        Ok(None)
    }
}

impl ChainReader for Chain {
    fn heads(&self) -> Heads {
        let latest = self.lock().blocks.len() as u64 - 1;
        Heads { latest, steady: latest.saturating_sub(1), mini_block: 7 }
    }

    fn block(&self, id: BlockId) -> Result<Option<Arc<Block>>, ViewError> {
        let heads = self.heads();
        let state = self.lock();
        let number = match id {
            BlockId::Number(number) => number,
            BlockId::Hash(hash) => {
                return Ok(state.blocks.iter().find(|block| block.hash == hash).cloned());
            }
            BlockId::Latest | BlockId::Pending => heads.latest,
            BlockId::Steady => heads.steady,
            BlockId::Earliest => 0,
        };
        Ok(state.blocks.get(usize::try_from(number).unwrap()).cloned())
    }

    fn open_mini_blocks(&self) -> Vec<Arc<MiniBlock>> {
        self.lock().open.clone()
    }

    fn transaction(&self, hash: &B256) -> Result<Option<Place>, ViewError> {
        let state = self.lock();
        for mini in &state.open {
            if let Some(index) = mini.transactions.iter().position(|tx| tx.hash == *hash) {
                return Ok(Some(Place::Open(Arc::clone(mini), index)));
            }
        }
        for block in &state.blocks {
            if let Some(index) = block.transactions.iter().position(|tx| tx.hash == *hash) {
                return Ok(Some(Place::Sealed(Arc::clone(block), index)));
            }
        }
        Ok(None)
    }

    fn state(&self, _: BlockId) -> Result<Arc<dyn StateView>, ViewError> {
        Ok(Arc::new(Accounts { included: self.lock().included }))
    }

    fn blocks_with_logs(
        &self,
        query: &LogQuery,
        blocks_max: usize,
    ) -> Result<Vec<Arc<Block>>, ViewError> {
        let state = self.lock();
        let in_range = |block: &&Arc<Block>| (query.from..=query.to).contains(&block.header.number);
        Ok(state.blocks.iter().filter(in_range).take(blocks_max).cloned().collect())
    }
}

impl ProofSource for Chain {
    fn proof(
        &self,
        address: Address,
        slots: &[U256],
        _: BlockId,
    ) -> Result<AccountProof, ViewError> {
        assert_ne!(address, Address::repeat_byte(0xee), "a bug in the node");
        let mut open = self.gate.0.lock().unwrap();
        while !*open {
            open = self.gate.1.wait(open).unwrap();
        }
        let node = Bytes::from_static(&[0xc0]);
        Ok(AccountProof {
            account: Accounts { included: 0 }.account(&address)?,
            storage_root: B256::repeat_byte(9),
            nodes: vec![node.clone()],
            slots: slots.iter().map(|slot| (*slot, U256::from(3), vec![node.clone()])).collect(),
        })
    }
}

impl PoolReader for Chain {
    fn submit(&self, submission: Submission) -> Result<(), Submission> {
        let mut state = self.lock();
        if state.full {
            return Err(submission);
        }
        if state.hold {
            state.held.push(submission);
            return Ok(());
        }
        let refusal = state.refuse.clone();
        drop(state);
        let hash = keccak256(&submission.raw);
        (submission.reply)(refusal.map_or(Ok(hash), Err));
        Ok(())
    }

    fn pending(&self, hash: &B256) -> Option<SharedTransaction> {
        self.lock().waiting.iter().find(|tx| tx.hash == *hash).cloned()
    }

    fn pending_nonce(&self, _: &Address) -> Option<u64> {
        let mut state = self.lock();
        if state.included_when_asked {
            state.included += std::mem::take(&mut state.waiting).len() as u64;
            return None;
        }
        Some(state.next_nonce)
    }

    fn pending_count(&self) -> usize {
        self.lock().waiting.len()
    }
}

impl Simulator for Chain {
    fn call(
        &self,
        _: &dyn StateView,
        _: &BlockEnvironment,
        call: &CallRequest,
    ) -> Result<CallOutcome, ViewError> {
        let echo = CallOutcome::Success { output: call.input.clone(), gas_used: 21_000 };
        Ok(self.lock().outcome.clone().unwrap_or(echo))
    }

    fn estimate(
        &self,
        _: &dyn StateView,
        _: &BlockEnvironment,
        _: &CallRequest,
    ) -> Result<Result<u64, CallOutcome>, ViewError> {
        Ok(self.lock().outcome.clone().map_or(Ok(21_000), Err))
    }
}

/// A chain and a server on a free port.
pub(crate) struct Node {
    pub(crate) chain: Arc<Chain>,
    pub(crate) events: Events,
    pub(crate) server: RunningServer,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let free = ([127, 0, 0, 1], 0).into();
        let mut settings =
            Settings { address: free, metrics_address: Some(free), ..Settings::default() };
        change(&mut settings);
        let chain = Chain::new();
        let events = Events::new(10_000, 256);
        let server = server::start(Parts {
            settings,
            facts: facts(),
            backend: Backend {
                chain: chain.clone(),
                proofs: chain.clone(),
                pool: chain.clone(),
                simulator: chain.clone(),
            },
            events: events.clone(),
            clock: Clock::system(),
            metrics: Arc::new(Metrics::default()),
            stage: StageMetrics::unregistered(),
        });
        Self { chain, events, server: server.expect("a free port") }
    }

    pub(crate) fn ws(&self) -> String {
        format!("ws://{}", self.server.local_addr)
    }
}

fn facts() -> Facts {
    Facts {
        chain_id: CHAIN_ID,
        client_version: "basalt/test".to_owned(),
        block_gas_limit: 60_000_000,
        fee_floor: 1_000_000,
        call_gas_max: 50_000_000,
        mini_block_interval_us: 10_000,
        block_interval_s: 1,
    }
}
