//! A chain without execution for tests: made-up blocks over a database in a temporary folder.

use crate::state::{
    archive::{Access, Archive, ArchiveConfig},
    checkpoint::{self, Target},
    environment::{Environment, EnvironmentConfig, Identity},
    genesis,
    published::Published,
    snapshot::Snapshot,
};
use crate::types::{
    block::{Block, BlockClose, LogStarts, NodeKey, SealedBlock, TrieUpdate},
    diff::{Account, AccountDiff, Diff},
    ids::{BlockNumber, MiniBlockNumber},
    map::Map,
    mini_block::{BlockEnvironment, MiniBlock},
    overlay::Overlay,
    receipt::Receipt,
    transaction::{RecoveredTransaction, SharedTransaction},
    view::{ChainReader as _, StateView},
};
use alloy_consensus::{Header, SignableTransaction as _, TxEnvelope, TxLegacy, TxType};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bloom, Bytes, Log, Signature, U256, keccak256};
use std::{path::PathBuf, sync::Arc};

pub(super) const IDENTITY: Identity = Identity { chain_id: 31_337, genesis: B256::repeat_byte(7) };

/// A made-up transaction; different nonces give different hashes.
pub(super) fn transaction(nonce: u64) -> SharedTransaction {
    let input = Bytes::from(vec![1; usize::try_from(nonce % 50).unwrap()]);
    let unsigned = TxLegacy { nonce, gas_limit: 21_000, input, ..TxLegacy::default() };
    let envelope: TxEnvelope = unsigned.into_signed(Signature::test_signature()).into();
    let raw = Bytes::from(envelope.encoded_2718());
    let hash = keccak256(&raw);
    let sender = Address::with_last_byte(u8::try_from(nonce % 251).unwrap());
    let authorities = vec![None, Some(sender)];
    Arc::new(RecoveredTransaction::new(envelope, hash, (sender, authorities), raw))
}

/// A receipt with one log whose emitter and topic are given.
pub(super) fn receipt(emitter: Address, topic: B256) -> Receipt {
    let log = Log::new(emitter, vec![topic], Bytes::from_static(b"data")).unwrap();
    Receipt {
        tx_type: TxType::Legacy,
        success: true,
        gas_used: 21_000,
        cumulative_gas_used: 42_000,
        logs: vec![log],
    }
}

/// A sealed block of these transactions.
pub(super) fn block(number: BlockNumber, nonces: std::ops::Range<u64>) -> Block {
    let transactions: Vec<_> = nonces.map(transaction).collect();
    let emitter = Address::repeat_byte(u8::try_from(number % 200).unwrap());
    let receipts: Vec<Receipt> =
        transactions.iter().map(|_| receipt(emitter, B256::ZERO)).collect();
    let logs_bloom = receipts.iter().fold(Bloom::ZERO, |bloom, receipt| bloom | receipt.bloom());
    let header =
        Header { number, logs_bloom, state_root: root(number), gas_limit: 1, ..Header::default() };
    let hash = header.hash_slow();
    Block {
        header,
        hash,
        transactions,
        receipts,
        last_mini_block: number,
        mini_block_count: 1,
        log_starts: LogStarts::default(),
    }
}

/// A stand-in for a state root.
pub(super) fn root(number: BlockNumber) -> B256 {
    keccak256(number.to_be_bytes())
}

/// What is expected of a state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Model {
    accounts: Map<Address, Option<Account>>,
    slots: Map<(Address, U256), U256>,
}

impl Model {
    pub(super) fn apply(&mut self, diff: &Diff) {
        for (address, change) in diff.sorted_accounts() {
            self.accounts.insert(*address, change.account);
            if change.wiped {
                self.slots.retain(|(owner, _), _| owner != address);
            }
            for (slot, value) in change.sorted_storage() {
                self.slots.insert((*address, slot), value);
            }
        }
    }

    /// Every account and slot that tests use reads as expected.
    pub(super) fn check(&self, view: &dyn StateView, what: &str) {
        for address in (0..6).map(Address::repeat_byte) {
            let expected = self.accounts.get(&address).copied().flatten();
            assert_eq!(view.account(&address).unwrap(), expected, "{what}: {address}");
            for slot in (0..5).map(U256::from) {
                let expected = self.slots.get(&(address, slot)).copied().unwrap_or_default();
                let found = view.storage(&address, &slot).unwrap();
                assert_eq!(found, expected, "{what}: {address} slot {slot}");
            }
        }
    }
}

/// A change of one account of the model.
pub(super) fn change(
    who: u8,
    balance: Option<u64>,
    wiped: bool,
    slots: &[(u64, u64)],
) -> (Address, AccountDiff) {
    let account = balance.map(|balance| Account {
        nonce: balance % 3,
        balance: U256::from(balance),
        ..Account::default()
    });
    let storage = slots.iter().map(|(slot, value)| (U256::from(*slot), U256::from(*value)));
    (Address::repeat_byte(who), AccountDiff { account, wiped, storage: storage.collect() })
}

/// A chain that grows block by block.
pub(super) struct Chain {
    pub(super) folder: PathBuf,
    pub(super) environment: Environment,
    pub(super) archive: Arc<Archive>,
    pub(super) published: Arc<Published>,
    overlay: Overlay,
    mini_block: MiniBlockNumber,
    pub(super) next: BlockNumber,
    nonce: u64,
}

impl Chain {
    /// A chain with nothing but an empty genesis in `folder`, or the chain that is there.
    pub(super) fn open(folder: PathBuf) -> Self {
        let config = EnvironmentConfig { size_bytes_max: 1 << 30, ..Default::default() };
        let environment = Environment::open(&folder.join("db"), &config, IDENTITY).unwrap();
        let opened = environment.opened().unwrap();
        let small = ArchiveConfig { segment_bytes_max: 4_000 };
        let covered = opened.as_ref().map(|opened| opened.position);
        let archive = Archive::open(&folder.join("archive"), covered, small, Access::Direct);
        let archive = Arc::new(archive.unwrap());
        if opened.is_none() {
            genesis::initialise(
                &environment,
                &archive,
                std::iter::empty(),
                &mut |_, _| Ok(TrieUpdate::default()),
                |state_root| Header { state_root, ..Header::default() },
            )
            .unwrap();
        }
        let snapshot = Arc::new(Snapshot::open(&environment, 2).unwrap());
        let opened = environment.opened().unwrap().unwrap();
        let published =
            Published::new(snapshot, Arc::clone(&archive), opened.recent_hashes).unwrap();
        Self {
            folder,
            environment,
            archive,
            published: Arc::new(published),
            overlay: Overlay::default(),
            mini_block: opened.checkpoint.mini_block,
            next: opened.checkpoint.block + 1,
            nonce: opened.checkpoint.block * 1_000,
        }
    }

    /// A mini-block of the open block with this diff, and the overlay after it.
    pub(super) fn mini_block(&mut self, diff: Diff) -> (Arc<MiniBlock>, Overlay) {
        let diff = Arc::new(diff);
        self.overlay.push(self.next, Arc::clone(&diff));
        self.mini_block += 1;
        let first = self.nonce;
        self.nonce += 2;
        let transactions: Vec<_> = (first..self.nonce).map(transaction).collect();
        let emitter = Address::repeat_byte(u8::try_from(self.next % 200).unwrap());
        let open = self.published.open_mini_blocks();
        let before = open.iter().filter(|mini| mini.environment.number == self.next);
        let mini_block = MiniBlock {
            number: self.mini_block,
            environment: environment_of(self.next),
            index: 0,
            first_transaction: before.map(|mini| mini.transactions.len() as u64).sum(),
            first_log: 0,
            timestamp_us: 0,
            parent_hash: B256::ZERO,
            receipts: transactions.iter().map(|_| receipt(emitter, B256::ZERO)).collect(),
            transactions,
            diff,
            gas_used: 42_000,
            transaction_root: B256::ZERO,
            receipt_root: B256::ZERO,
            hash: keccak256(self.mini_block.to_be_bytes()),
            signature: Signature::test_signature(),
        };
        (Arc::new(mini_block), self.overlay.clone())
    }

    /// The end of the open block, and the overlay after it.
    pub(super) fn close(&mut self) -> (Arc<BlockClose>, Overlay) {
        self.overlay.close(self.next);
        let close = BlockClose {
            environment: environment_of(self.next),
            parent_hash: B256::ZERO,
            last_mini_block: self.mini_block,
            mini_block_count: 1,
            transaction_count: 0,
            gas_used: 0,
            requests: Vec::new(),
            diff: Arc::default(),
        };
        self.next += 1;
        (Arc::new(close), self.overlay.clone())
    }

    /// Publishes one whole block of these mini-blocks and seals it.
    pub(super) fn grow(&mut self, diffs: Vec<Diff>) -> SealedBlock {
        for diff in diffs {
            let (mini_block, overlay) = self.mini_block(diff);
            self.published.push(mini_block, &overlay);
        }
        let (close, overlay) = self.close();
        let closed = self.published.close(close, &overlay);
        let sealed = seal(&closed);
        self.published.seal(Arc::clone(&sealed.block));
        sealed
    }

    /// Writes a checkpoint of these blocks and publishes it.
    pub(super) fn checkpoint(&mut self, blocks: &[SealedBlock]) {
        let Some(last) = blocks.last() else { return };
        let number = last.block.header.number;
        let target = Target { environment: &self.environment, archive: &self.archive, readers: 2 };
        let mini_head = self.published.mini_head(number).unwrap();
        let before = self.published.snapshot();
        let written = checkpoint::write(&target, &before, blocks, mini_head).unwrap();
        self.published.checkpoint(written.snapshot, written.undo);
        self.overlay.prune(number);
    }
}

/// What trie and block make of a closed block, with made-up trie rows.
pub(super) fn seal(closed: &crate::types::flow::ClosedBlock) -> SealedBlock {
    let number = closed.close.environment.number;
    let mut made = block(number, 0..0);
    let of_all = |mini: &Arc<MiniBlock>| mini.transactions.clone();
    made.transactions = closed.mini_blocks.iter().flat_map(of_all).collect();
    made.receipts = closed.mini_blocks.iter().flat_map(|mini| mini.receipts.clone()).collect();
    let blooms = made.receipts.iter().map(Receipt::bloom);
    made.header.logs_bloom = blooms.fold(Bloom::ZERO, |bloom, other| bloom | other);
    made.hash = made.header.hash_slow();
    let nibble = u8::try_from(number % 16).unwrap();
    let key = |path: Vec<u8>| NodeKey { owner: None, path };
    let rows = vec![
        (key(vec![]), Some(Bytes::from(number.to_be_bytes().to_vec()))),
        (key(vec![nibble]), (!number.is_multiple_of(3)).then(|| Bytes::from_static(b"row"))),
    ];
    let trie = TrieUpdate { root: root(number), rows };
    SealedBlock { block: Arc::new(made), diff: Arc::clone(&closed.diff), trie: Arc::new(trie) }
}

fn environment_of(number: BlockNumber) -> BlockEnvironment {
    BlockEnvironment {
        number,
        timestamp: number,
        base_fee: 1,
        gas_limit: 1,
        fee_recipient: Address::ZERO,
        prev_randao: B256::ZERO,
    }
}
