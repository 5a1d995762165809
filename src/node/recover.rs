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
use crate::mini_block::seal::{Link, verify};
use crate::node::{NodeError, Settings, folders, genesis};
use crate::runtime::{clock::Clock, pin, uring::writer::Form};
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
use alloy_primitives::{B256, Bytes};
use std::{
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

/// Opens everything below the data folder and replays the log. `None` where `ended` said so on the
/// way: a long replay is no reason to ignore a signal, and nothing is lost by breaking it off.
///
/// # Errors
/// Where the data folder is of another chain, damaged or unreadable.
pub fn recover(
    settings: &Settings,
    (clock, readers): (&Clock, usize),
    ended: &dyn Fn() -> bool,
) -> Result<Option<Recovered>, NodeError> {
    let chain = &settings.config.chain;
    let spec = genesis::spec(chain, 0)?;
    let identity = genesis::identity(chain, &spec)?;
    let folder = settings.folder.as_path();
    let environment =
        Environment::open(&folder.join(folders::STATE), &EnvironmentConfig::default(), identity)
            .map_err(NodeError::of)?;
    let (archive, opened) = open_archive(settings, &environment)?;
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

fn open_archive(
    settings: &Settings,
    environment: &Environment,
) -> Result<(Arc<Archive>, Opened), NodeError> {
    let (client, requests) = read::channel().map_err(NodeError::of)?;
    let folder = settings.folder.join(folders::ARCHIVE);
    let open = |covered, access| {
        Archive::open(&folder, covered, ArchiveConfig::default(), access).map_err(NodeError::of)
    };
    let opened = match environment.opened().map_err(NodeError::of)? {
        Some(opened) => opened,
        None => {
            refuse_lost_state(&settings.folder)?;
            let archive = open(None, Access::Direct)?;
            let chain = &settings.config.chain;
            let spec = genesis::spec(chain, chain.dev_accounts)?;
            let trie_bytes = settings.config.trie_cache_bytes;
            genesis::write(environment, &archive, &spec.genesis, trie_bytes)?;
            let opened = environment.opened().map_err(NodeError::of)?;
            opened.ok_or_else(|| NodeError("genesis was written but is not there".into()))?
        }
    };
    let archive = open(Some(opened.position), Access::Thread(client))?;
    let seat = settings.plan.seat(Stage::Archive);
    pin::spawn(seat, move || archive::stage::run(requests, &folder)).map_err(NodeError::of)?;
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
            published.push(Arc::clone(mini_block), &overlay);
        }
        Ok(Arc::new(published))
    }
}
