//! Taking the chain up where it stopped: the checkpoint, then the log after it.
//!
//! 1. open mdbx at checkpoint N (none: write genesis)  2. replay the log after N by diff, check
//!    each mini-block's hash  3. at each block end compute the root and seal the header, whose
//!    hash the next block's end names  4. put whole blocks under a checkpoint  5. keep the open
//!    block's mini-blocks over it
//!
//! A hash or root that differs stops the node with the record's position: it never guesses.

use crate::block::seal::{Head, seal};
use crate::config::{chain_spec::ChainSpec, schema};
use crate::execution::fees::ParentBlock;
use crate::mini_block::seal::{Link, verify};
use crate::node::{NodeError, Settings, folders, genesis};
use crate::runtime::{clock::Clock, memory, metrics::Metrics, pin, uring::writer::Form};
use crate::state::{
    archive::{
        self, Archive, ArchiveConfig,
        read::{self, Access},
    },
    checkpoint::{self, Target},
    environment::{Environment, EnvironmentConfig, Opened},
    published::Published,
    snapshot::Snapshot,
};
use crate::topology::seat::Stage;
use crate::trie::root::{RootedBlock, StateTrie};
use crate::types::{
    block::{BlockClose, SealedBlock},
    flow::{ClosedBlock, Event},
    mini_block::MiniBlock,
    overlay::Overlay,
};
use crate::wal::{
    log::Log,
    replay::{self, Replay},
    segment::{Preparer, holds_segments},
};
use alloy_consensus::Header;
use alloy_genesis::Genesis;
use alloy_primitives::{B256, Bytes};
use std::{
    mem,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Replayed blocks that are gathered before they go under a checkpoint: bounds memory.
const GATHERED_WEIGHT_MAX: usize = 500_000;
/// How often a long replay says how far it is.
const BLOCKS_PER_LINE: u64 = 100;

/// A chain, ready to go on.
pub struct Recovered {
    /// What the chain is.
    pub spec: ChainSpec,
    /// The database.
    pub environment: Environment,
    /// The blocks.
    pub archive: Arc<Archive>,
    /// The chain as clients see it.
    pub published: Arc<Published>,
    /// The snapshot of the newest checkpoint.
    pub snapshot: Arc<Snapshot>,
    /// The log, ready for writing.
    pub log: Log,
    /// Makes the log's segments.
    pub preparer: Preparer,
    /// Block under the newest checkpoint, for the log.
    pub steady: Arc<AtomicU64>,
    /// The tries after the newest sealed block.
    pub trie: StateTrie,
    /// The newest sealed block.
    pub head: Head,
    /// Its header.
    pub header: Header,
    /// The newest durable mini-block.
    pub link: Link,
    /// State over the snapshot: the open block's.
    pub overlay: Overlay,
    /// The open block's mini-blocks.
    pub open: Vec<Arc<MiniBlock>>,
}

impl Recovered {
    /// What the next block follows from.
    pub fn parent(&self) -> ParentBlock {
        ParentBlock {
            number: self.head.number,
            hash: Some(self.head.hash),
            timestamp: self.header.timestamp,
            gas_used: self.header.gas_used,
            base_fee: self.header.base_fee_per_gas.unwrap_or_default(),
            gas_limit: self.header.gas_limit,
        }
    }
}

/// Opens everything below the data folder and replays the log. `None` where `ended` said so on the
/// way: a long replay is no reason to ignore a signal, and nothing is lost by breaking it off.
///
/// # Errors
/// Where the data folder is of another chain, damaged or unreadable.
pub fn recover(
    settings: &Settings,
    (clock, metrics, readers): (&Clock, &Metrics, usize),
    ended: &dyn Fn() -> bool,
) -> Result<Option<Recovered>, NodeError> {
    let chain = &settings.config.chain;
    let mut spec = genesis::spec(chain, 0)?;
    let identity = genesis::identity(chain, &spec)?;
    let folder = settings.folder.as_path();
    let open = || {
        Environment::open(&folder.join(folders::STATE), &EnvironmentConfig::default(), identity)
            .map_err(NodeError::of)
    };
    let mut environment = open()?;
    if environment.opened().map_err(NodeError::of)?.is_none() {
        write_genesis(settings, &environment, &mut spec.genesis)?;
        // Opened anew, the database no longer has all that was written mapped into memory.
        drop(environment);
        environment = open()?;
    }
    let (archive, opened) = open_archive(settings, &environment, (clock, metrics))?;
    // They are in the database; a million of them take 200 MB here.
    spec.genesis.alloc.clear();
    let snapshot = Arc::new(Snapshot::open(&environment, readers).map_err(NodeError::of)?);
    let steady = Arc::new(AtomicU64::new(opened.checkpoint.block));
    let mut replay = open_log(settings, folder, &opened, &steady)?;
    let trie = StateTrie::new(Arc::clone(&snapshot) as _, settings.config.trie_cache_bytes)
        .map_err(NodeError::of)?;
    check_checkpoint(&opened, trie.root())?;
    let mut chain = Replayed::new(settings, &opened, trie, snapshot);
    let target = Target { environment: &environment, archive: &archive, readers };
    while let Some(next) = replay.next_event().map_err(NodeError::of)? {
        if ended() {
            return Ok(None);
        }
        let position = next.position;
        chain.take(next.event).map_err(|error| NodeError(format!("{position}: {error}")))?;
        if chain.gathered_weight >= GATHERED_WEIGHT_MAX {
            chain.checkpoint(&target, &steady)?;
        }
    }
    chain.checkpoint(&target, &steady)?;
    let (log, preparer) = replay.finish(clock).map_err(NodeError::of)?;
    warn_of_empty_log(&log, &opened);
    let published = chain.publish(&archive, opened.recent_hashes)?;
    let Replayed { trie, snapshot, head, header, link, overlay, open, .. } = chain;
    memory::give_back();
    tracing::info!(
        block = head.number,
        mini_block = link.number,
        open_mini_blocks = open.len(),
        "the chain is taken up"
    );
    Ok(Some(Recovered {
        spec,
        environment,
        archive,
        published,
        snapshot,
        log,
        preparer,
        steady,
        trie,
        head,
        header,
        link,
        overlay,
        open,
    }))
}

/// What is built upon must be what was written: a damaged state would become wrong blocks.
fn check_checkpoint(opened: &Opened, root: B256) -> Result<(), NodeError> {
    let (at, header) = (&opened.checkpoint, &opened.header);
    let (hash, stated) = (header.hash_slow(), header.state_root);
    let differs = |what: &str, found: B256, wanted: B256| {
        Err(NodeError(format!(
            "checkpoint of block {}: its {what} is {found}, but {wanted} was written: the state \
             database is damaged; restore the data folder from a copy",
            at.block
        )))
    };
    if hash != at.hash {
        return differs("header's hash", hash, at.hash);
    }
    if root != stated {
        return differs("state root", root, stated);
    }
    Ok(())
}

/// A node that once sealed a block has records, under the checkpoint or above.
fn warn_of_empty_log(log: &Log, opened: &Opened) {
    if log.newest_record() == 0 && opened.checkpoint.block > 0 {
        tracing::warn!(
            block = opened.checkpoint.block,
            "the log is empty, though there is a checkpoint: unless the node had ended cleanly, \
             what was acknowledged after that block is lost; who did not remove the log on \
             purpose should stop now and restore it from a copy"
        );
    }
}

fn write_genesis(
    settings: &Settings,
    environment: &Environment,
    genesis: &mut Genesis,
) -> Result<(), NodeError> {
    refuse_lost_state(&settings.folder)?;
    let folder = settings.folder.join(folders::ARCHIVE);
    let archive = Archive::open(&folder, None, ArchiveConfig::default(), Access::Direct)
        .map_err(NodeError::of)?;
    let chain = &settings.config.chain;
    let alloc = match chain.genesis_file {
        Some(_) => mem::take(&mut genesis.alloc),
        None => genesis::spec(chain, chain.dev_accounts)?.genesis.alloc,
    };
    genesis::write(environment, &archive, (genesis, alloc), settings.config.trie_cache_bytes)
}

fn open_archive(
    settings: &Settings,
    environment: &Environment,
    (clock, metrics): (&Clock, &Metrics),
) -> Result<(Arc<Archive>, Opened), NodeError> {
    let opened = environment.opened().map_err(NodeError::of)?;
    let opened = opened.ok_or_else(|| NodeError("genesis was written but is not there".into()))?;
    let (client, requests) = read::channel().map_err(NodeError::of)?;
    let folder = settings.folder.join(folders::ARCHIVE);
    let (position, access) = (Some(opened.position), Access::Thread(client));
    let archive = Archive::open(&folder, position, ArchiveConfig::default(), access)
        .map_err(NodeError::of)?;
    let seat = settings.plan.seat(Stage::Archive);
    let (clock, metrics) = (clock.clone(), metrics.stage(Stage::Archive));
    pin::spawn(seat, move || archive::stage::run(requests, &folder, &clock, &metrics))
        .map_err(NodeError::of)?;
    Ok((Arc::new(archive), opened))
}

/// The log is made after the first state: with a log and no state, the state was lost, and
/// writing a new one would clear the archive.
fn refuse_lost_state(folder: &Path) -> Result<(), NodeError> {
    let log = folder.join(folders::WAL);
    if holds_segments(&log).map_err(|error| NodeError(format!("{}: {error}", log.display())))? {
        return Err(NodeError(format!(
            "{} holds no chain, but the log {} has records of one: restore the state folder from \
             a copy, or forget the chain: empty the data folder (--fresh); nothing was changed",
            folder.join(folders::STATE).display(),
            log.display()
        )));
    }
    Ok(())
}

fn open_log(
    settings: &Settings,
    folder: &Path,
    opened: &Opened,
    steady: &Arc<AtomicU64>,
) -> Result<Replay, NodeError> {
    let wal = &settings.config.wal;
    let log = replay::open(replay::Settings {
        directory: folder.join(folders::WAL),
        segment_bytes: wal.segment_bytes,
        form: wal.durable_write.map(|form| match form {
            schema::DurableWrite::Linked => Form::Linked,
            schema::DurableWrite::Dsync => Form::Dsync,
            schema::DurableWrite::Pwrite => Form::Plain,
        }),
        steady: Arc::clone(steady),
    });
    log.map_err(NodeError::of)?.replay(opened.checkpoint.block).map_err(NodeError::of)
}

/// The chain as far as it is replayed.
struct Replayed {
    extra_data: Bytes,
    trie: StateTrie,
    snapshot: Arc<Snapshot>,
    head: Head,
    header: Header,
    link: Link,
    /// The newest mini-block when `head` closed.
    head_link: Link,
    overlay: Overlay,
    open: Vec<Arc<MiniBlock>>,
    gathered: Vec<SealedBlock>,
    gathered_weight: usize,
}

impl Replayed {
    fn new(settings: &Settings, opened: &Opened, trie: StateTrie, snapshot: Arc<Snapshot>) -> Self {
        let at = &opened.checkpoint;
        let link = Link { number: at.mini_block, hash: at.mini_block_hash };
        Self {
            extra_data: Bytes::copy_from_slice(&settings.config.chain.extra_data),
            trie,
            snapshot,
            head: Head { number: at.block, hash: at.hash },
            header: opened.header.clone(),
            link,
            head_link: link,
            overlay: Overlay::default(),
            open: Vec::new(),
            gathered: Vec::new(),
            gathered_weight: 0,
        }
    }

    fn take(&mut self, event: Event) -> Result<(), NodeError> {
        match event {
            Event::MiniBlock(mini_block) => self.take_mini_block(mini_block),
            Event::Close(close) => self.take_close(close),
        }
    }

    fn take_mini_block(&mut self, mini_block: Arc<MiniBlock>) -> Result<(), NodeError> {
        verify(&mini_block).map_err(NodeError::of)?;
        if mini_block.parent_hash != self.link.hash || mini_block.number != self.link.number + 1 {
            return Err(NodeError(format!(
                "mini-block {} with parent {} does not follow mini-block {} {}",
                mini_block.number, mini_block.parent_hash, self.link.number, self.link.hash
            )));
        }
        self.link = Link { number: mini_block.number, hash: mini_block.hash };
        self.overlay.push(mini_block.environment.number, Arc::clone(&mini_block.diff));
        self.overlay.compact();
        self.open.push(mini_block);
        Ok(())
    }

    fn take_close(&mut self, close: Arc<BlockClose>) -> Result<(), NodeError> {
        let number = close.environment.number;
        self.overlay.push(number, Arc::clone(&close.diff));
        let diff = self.overlay.close(number);
        let update = Arc::new(self.trie.apply(number, &diff).map_err(NodeError::of)?);
        let mini_blocks = std::mem::take(&mut self.open);
        let closed = ClosedBlock { close, mini_blocks, diff };
        let sealed = seal(self.head, RootedBlock { closed, update }, &self.extra_data)
            .map_err(NodeError::of)?;
        self.head = Head { number, hash: sealed.block.hash };
        self.header = sealed.block.header.clone();
        self.head_link = self.link;
        self.gathered_weight += 1 + sealed.diff.weight();
        self.gathered.push(sealed);
        if number.is_multiple_of(BLOCKS_PER_LINE) {
            tracing::info!(block = number, "replaying the log");
        }
        Ok(())
    }

    fn checkpoint(&mut self, target: &Target<'_>, steady: &AtomicU64) -> Result<(), NodeError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let mini_head = (self.head_link.number, self.head_link.hash);
        let written = checkpoint::write(target, &self.snapshot, &self.gathered, mini_head)
            .map_err(NodeError::of)?;
        self.snapshot = written.snapshot;
        self.overlay.prune(self.head.number);
        self.trie.checkpointed(self.head.number, Arc::clone(&self.snapshot) as _);
        steady.store(self.head.number, Ordering::Release);
        self.gathered.clear();
        self.gathered_weight = 0;
        Ok(())
    }

    /// The chain for clients, with the open block's mini-blocks.
    fn publish(
        &self,
        archive: &Arc<Archive>,
        hashes: Vec<(u64, B256)>,
    ) -> Result<Arc<Published>, NodeError> {
        let published = Published::new(Arc::clone(&self.snapshot), Arc::clone(archive), hashes)
            .map_err(NodeError::of)?;
        let mut overlay = Overlay::default();
        for mini_block in &self.open {
            overlay.push(mini_block.environment.number, Arc::clone(&mini_block.diff));
            overlay.compact();
            published.push(Arc::clone(mini_block), &overlay);
        }
        Ok(Arc::new(published))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::overlay::{Flag, Sources, effective};
    use crate::mini_block::seal::seal as seal_mini_block;
    use crate::topology::{
        hardware::Machine,
        plan::{Wants, plan},
    };
    use crate::types::{
        diff::{Account, AccountDiff, Diff},
        mini_block::BlockEnvironment,
    };
    use alloy_primitives::{Address, Signature, U256};

    const READERS: usize = 8;
    const SOMEONE: Address = Address::repeat_byte(9);

    fn settings(folder: &Path) -> Settings {
        let flag = |key, value: &str| Flag { flag: "--test", key, value: value.to_owned() };
        let sources = Sources {
            environment: vec![("HOME".to_owned(), "/h".to_owned())],
            flags: vec![flag("wal.segment_bytes", "4194304"), flag("wal.durable_write", "pwrite")],
            ..Sources::default()
        };
        let config = effective(&sources).unwrap().config;
        let plan = plan(&Machine::read().unwrap(), &Wants::from(&config.topology));
        let (folder, watch) = (folder.to_owned(), Arc::new(|_: &_| {}));
        Settings { config, folder, plan, watch, metrics_socket: None, metrics_more: None }
    }

    fn recovered(settings: &Settings) -> Result<Recovered, NodeError> {
        let recovered =
            recover(settings, (&Clock::system(), &Metrics::default(), READERS), &|| false);
        recovered.map(|recovered| recovered.expect("nobody asked for the end"))
    }

    fn environment(number: u64) -> BlockEnvironment {
        BlockEnvironment {
            number,
            timestamp: 1_000 + number,
            base_fee: 7,
            gas_limit: 30_000_000,
            fee_recipient: Address::ZERO,
            prev_randao: B256::ZERO,
        }
    }

    fn gift(balance: u64) -> Arc<Diff> {
        let account = Account { balance: U256::from(balance), ..Account::default() };
        let change = AccountDiff { account: Some(account), ..AccountDiff::default() };
        Arc::new(Diff { accounts: [(SOMEONE, change)].into_iter().collect(), ..Diff::default() })
    }

    /// The only mini-block of its block; the balance that it gives is its number.
    fn mini_block(block: u64, parent: Link) -> (MiniBlock, Link) {
        let mut mini_block = MiniBlock {
            number: 0,
            environment: environment(block),
            index: 0,
            first_transaction: 0,
            first_log: 0,
            timestamp_us: 1,
            parent_hash: B256::ZERO,
            transactions: Vec::new(),
            receipts: Vec::new(),
            diff: gift(parent.number + 1),
            gas_used: 0,
            transaction_root: B256::ZERO,
            receipt_root: B256::ZERO,
            hash: B256::ZERO,
            signature: Signature::test_signature(),
        };
        let sign = |_| Signature::test_signature();
        let link = seal_mini_block(&mut mini_block, parent, &sign).unwrap();
        (mini_block, link)
    }

    fn close(block: u64, parent_hash: B256, link: Link) -> Event {
        Event::Close(Arc::new(BlockClose {
            environment: environment(block),
            parent_hash,
            last_mini_block: link.number,
            mini_block_count: 1,
            transaction_count: 0,
            gas_used: 0,
            requests: Vec::new(),
            diff: Arc::new(Diff::default()),
        }))
    }

    fn log(recovered: &mut Recovered, events: impl IntoIterator<Item = Event>) {
        for event in events {
            recovered.log.add(&event).unwrap();
        }
        recovered.log.flush().unwrap();
    }

    #[test]
    fn a_half_open_block_is_taken_up_and_the_closed_one_is_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let mut fresh = recovered(&settings).unwrap();
        assert_eq!((fresh.head.number, fresh.link), (0, Link::default()));
        let (first, link) = mini_block(1, fresh.link);
        let (second, newest) = mini_block(2, link);
        let end = close(1, fresh.head.hash, link);
        log(&mut fresh, [Event::MiniBlock(first.into()), end, Event::MiniBlock(second.into())]);
        drop(fresh);
        let broken_off =
            recover(&settings, (&Clock::system(), &Metrics::default(), READERS), &|| true).unwrap();
        assert!(broken_off.is_none(), "a signal ends the replay");

        let mut again = recovered(&settings).unwrap();
        assert_eq!((again.head.number, again.link), (1, newest));
        assert_eq!(again.header.state_root, again.trie.root());
        assert_eq!(again.steady.load(Ordering::Acquire), 1, "whole blocks go under a checkpoint");
        let open: Vec<u64> = again.open.iter().map(|mini_block| mini_block.number).collect();
        assert_eq!(open, [2]);
        let account = again.overlay.account(&SOMEONE).unwrap().unwrap();
        assert_eq!(account.balance, U256::from(2));
        // The open block's end comes in another life, and names the block sealed in replay.
        let sealed = again.head.hash;
        log(&mut again, [close(2, sealed, newest)]);
        drop(again);
        let last = recovered(&settings).unwrap();
        assert_eq!((last.head.number, last.link, last.open.len()), (2, newest, 0));
    }

    #[test]
    fn a_root_or_hash_that_differs_stops_with_the_records_position() {
        let position = "wal-0000000000000001.seg at byte ";
        // The end of block 2 names a block 1 that had another root.
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let mut fresh = recovered(&settings).unwrap();
        let (first, link) = mini_block(1, fresh.link);
        let (second, newest) = mini_block(2, link);
        let genesis = fresh.head.hash;
        let (first, second) = (Event::MiniBlock(first.into()), Event::MiniBlock(second.into()));
        let ends = [close(1, genesis, link), close(2, B256::repeat_byte(1), newest)];
        let [one, two] = ends;
        log(&mut fresh, [first, one, second, two]);
        drop(fresh);
        let stopped = recovered(&settings).err().unwrap().to_string();
        assert!(stopped.contains(position), "{stopped}");
        assert!(stopped.contains(": block 2 has parent 0x0101"), "{stopped}");

        // A diff that is not the one that was sealed and signed.
        let folder = tempfile::tempdir().unwrap();
        let settings = self::settings(folder.path());
        let mut fresh = recovered(&settings).unwrap();
        let (mut first, _) = mini_block(1, fresh.link);
        first.diff = gift(1_000_000);
        log(&mut fresh, [Event::MiniBlock(first.into())]);
        drop(fresh);
        let stopped = recovered(&settings).err().unwrap().to_string();
        assert!(stopped.contains(position), "{stopped}");
        assert!(stopped.contains("mini-block 1: its hash is"), "{stopped}");
    }

    #[test]
    fn a_checkpoint_whose_root_or_header_differs_stops() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        let fresh = recovered(&settings).unwrap();
        let mut opened = fresh.environment.opened().unwrap().unwrap();
        check_checkpoint(&opened, fresh.trie.root()).unwrap();
        let stopped = check_checkpoint(&opened, B256::repeat_byte(1)).unwrap_err().to_string();
        assert!(stopped.starts_with("checkpoint of block 0: its state root is 0x01"), "{stopped}");
        assert!(stopped.contains("restore"), "{stopped}");
        opened.header.gas_limit += 1;
        let stopped = check_checkpoint(&opened, fresh.trie.root()).unwrap_err().to_string();
        assert!(stopped.contains("header's hash"), "{stopped}");
    }
}
