//! Who waits: admitted transactions until they are durable, bounded per sender and in total.
//!
//! A sender's transactions are handed to ordering in nonce order, without a gap; what comes before
//! its turn is held here. The pool keeps what ordering holds as well, so that it can be asked for,
//! replaced and counted. Each sender lives in one of `SHARDS`, under a lock held for a few hundred
//! nanoseconds. A transaction leaves when it is included, dropped, replaced or expired.

use crate::ingress::sender::{Entry, Load, SenderQueue, weight};
use crate::types::{
    diff::Account,
    flow::Submission,
    ids::TimestampUs,
    map::Map,
    receipt::Receipt,
    transaction::SharedTransaction,
    view::{PoolReader, Settlement},
};
use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, U256};
use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Locks over senders, and as many over hashes.
const SHARDS: usize = 64;
/// Transactions that wait, at most.
pub const POOL_TRANSACTIONS_MAX: usize = 65_536;
/// Memory of what waits, by `weight`: raw bytes, their decoded copy and 1 KiB each.
pub const POOL_BYTES_MAX: usize = 192 * 1024 * 1024;
/// Transactions of one sender, at most.
pub const PER_SENDER_MAX: usize = 1_024;
/// Held transactions (a nonce before them is missing), of all senders, at most.
pub const HELD_MAX: usize = 8_192;
/// Memory of held transactions, a part of `POOL_BYTES_MAX`.
pub const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A held transaction is forgotten after this time.
pub const HELD_LIFETIME_US: u64 = 600_000_000;
/// By how much a replacement must raise both fee cap and tip.
pub const PRICE_BUMP_PERCENT: u64 = 10;

const _: () = assert!(HELD_MAX < POOL_TRANSACTIONS_MAX && HELD_BYTES_MAX < POOL_BYTES_MAX);
/// The sum: what waits, and a hash, a sender and a map slot of each (128 bytes).
const _: () = assert!(POOL_BYTES_MAX + POOL_TRANSACTIONS_MAX * 128 <= 200 * 1024 * 1024);

/// Bounds of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Transactions in total.
    pub transactions_max: usize,
    /// Memory in total, bytes.
    pub bytes_max: usize,
    /// Transactions of one sender.
    pub per_sender_max: usize,
    /// Held transactions in total.
    pub held_max: usize,
    /// Memory of held transactions, bytes.
    pub held_bytes_max: usize,
    /// How long a transaction is held, microseconds.
    pub held_lifetime_us: u64,
    /// By how much a replacement must raise both fee cap and tip, percent.
    pub price_bump_percent: u64,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            transactions_max: POOL_TRANSACTIONS_MAX,
            bytes_max: POOL_BYTES_MAX,
            per_sender_max: PER_SENDER_MAX,
            held_max: HELD_MAX,
            held_bytes_max: HELD_BYTES_MAX,
            held_lifetime_us: HELD_LIFETIME_US,
            price_bump_percent: PRICE_BUMP_PERCENT,
        }
    }
}

/// Why the pool does not take a transaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The same transaction waits already.
    #[error("already known")]
    AlreadyKnown,
    /// Another transaction with this nonce waits and this one does not pay enough more.
    #[error(
        "replacement transaction underpriced: needs max fee per gas {cap_needed} \
         and max priority fee per gas {tip_needed}"
    )]
    Underpriced {
        /// Wei per gas.
        cap_needed: u128,
        /// Wei per gas.
        tip_needed: u128,
    },
    /// The account is past this nonce.
    #[error("nonce too low: next nonce {next}, tx nonce {nonce}")]
    NonceTooLow {
        /// The account's.
        next: u64,
        /// The transaction's.
        nonce: u64,
    },
    /// The account cannot pay for this and for what waits before it.
    #[error("insufficient funds for gas * price + value: {0}")]
    Funds(Box<Shortfall>),
    /// Too many of this sender.
    #[error("account limit exceeded: pooled {0} txs; wait until some are included")]
    SenderFull(usize),
    /// No room in total.
    #[error("txpool is full")]
    Full,
}

/// What an account would have to hold, wei.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("balance {balance}, queued cost {queued}, tx cost {cost}, overshot {over}")]
pub struct Shortfall {
    /// What the account has.
    pub balance: U256,
    /// What its waiting transactions may cost.
    pub queued: U256,
    /// What this one may cost.
    pub cost: U256,
    /// What is missing.
    pub over: U256,
}

/// What became of an admitted transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// Ordering has it.
    Released,
    /// It waits for an earlier nonce.
    Held,
}

/// Hands a transaction to ordering without waiting; gives it back where there is no room.
pub type Release<'a> = &'a dyn Fn(SharedTransaction) -> Result<(), SharedTransaction>;
/// Hands a submission to ingress without waiting; gives it back where there is no room.
pub type Submit = Box<dyn Fn(Submission) -> Result<(), Submission> + Send + Sync>;

type Senders = Map<Address, SenderQueue>;
type Hashes = Map<B256, SharedTransaction>;

/// All waiting transactions.
pub struct Pool {
    limits: PoolLimits,
    senders: Vec<Mutex<Senders>>,
    hashes: Vec<Mutex<Hashes>>,
    /// Senders with held transactions, to be looked at again.
    listed: Mutex<VecDeque<Address>>,
    count: AtomicUsize,
    bytes: AtomicUsize,
    held_count: AtomicUsize,
    held_bytes: AtomicUsize,
    submit: RwLock<Option<Submit>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The least price that replaces `old`.
fn bumped(old: u128, percent: u64) -> u128 {
    old.saturating_add(old.saturating_mul(percent.into()).div_ceil(100).max(1))
}

impl Pool {
    /// An empty pool; `submit` leads to ingress.
    pub fn new(limits: PoolLimits, submit: Submit) -> Self {
        Self {
            limits,
            senders: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hashes: (0..SHARDS).map(|_| Mutex::default()).collect(),
            listed: Mutex::default(),
            count: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            held_count: AtomicUsize::new(0),
            held_bytes: AtomicUsize::new(0),
            submit: RwLock::new(Some(submit)),
        }
    }

    /// Takes no more submissions and lets go of the ring to ingress: the first step of shutdown.
    pub fn close(&self) {
        *self.submit.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Enters a transaction that was checked against `account`, and releases what is next.
    ///
    /// # Errors
    /// The bound that it would break; nothing has changed then.
    pub fn enter(
        &self,
        tx: SharedTransaction,
        account: &Account,
        now_us: TimestampUs,
        release: Release<'_>,
    ) -> Result<Entered, PoolError> {
        let sender = tx.sender;
        let mut shard = lock(self.shard(&sender));
        if self.pending(&tx.hash).is_some() {
            return Err(PoolError::AlreadyKnown);
        }
        let mut queue = shard.remove(&sender).unwrap_or_else(|| SenderQueue::new(account.nonce));
        let before = queue.held();
        let mut removed = Vec::new();
        queue.advance(account.nonce, &mut removed);
        let entered = self.put(&mut queue, tx, account, (now_us, release));
        self.settle(&mut shard, (sender, queue), before, removed);
        entered
    }

    fn put(
        &self,
        queue: &mut SenderQueue,
        tx: SharedTransaction,
        account: &Account,
        (now_us, release): (TimestampUs, Release<'_>),
    ) -> Result<Entered, PoolError> {
        let entry = Entry { nonce: tx.nonce(), cost: tx.cost(), arrived_us: now_us, tx };
        self.check(queue, &entry, account)?;
        let nonce = entry.nonce;
        // Ordering may have this nonce already: it replaces what it has not cut yet.
        let hold = if queue.at(nonce).is_some() {
            nonce >= queue.released_to() && queue.released_to() != nonce
        } else {
            nonce > queue.released_to()
        };
        if hold {
            self.check_held(queue, &entry)?;
        }
        self.reserve(&entry, queue.at(nonce))?;
        if !hold && release(entry.tx.clone()).is_err() {
            self.unreserve(&entry, queue.at(nonce));
            return Err(PoolError::Full);
        }
        self.remember(&entry.tx);
        if let Some(old) = queue.put(entry) {
            self.forget_hash(&old.tx.hash);
        }
        if hold {
            return Ok(Entered::Held);
        }
        if nonce == queue.released_to() {
            queue.mark_released();
            release_next(queue, release);
        }
        Ok(Entered::Released)
    }

    fn check(
        &self,
        queue: &SenderQueue,
        entry: &Entry,
        account: &Account,
    ) -> Result<(), PoolError> {
        let nonce = entry.nonce;
        if nonce < queue.chain_nonce() {
            return Err(PoolError::NonceTooLow { next: queue.chain_nonce(), nonce });
        }
        let old = queue.at(nonce);
        if let Some(old) = old {
            check_bump(&old.tx, &entry.tx, self.limits.price_bump_percent)?;
        } else if queue.len() >= self.limits.per_sender_max {
            return Err(PoolError::SenderFull(queue.len()));
        }
        let queued = queue.cost_from(account.nonce);
        let replaced = old.map_or(U256::ZERO, |old| old.cost);
        let needed = queued.saturating_sub(replaced).saturating_add(entry.cost);
        if needed > account.balance {
            let over = needed - account.balance;
            let (balance, cost) = (account.balance, entry.cost);
            return Err(PoolError::Funds(Box::new(Shortfall { balance, queued, cost, over })));
        }
        Ok(())
    }

    fn check_held(&self, queue: &SenderQueue, entry: &Entry) -> Result<(), PoolError> {
        if queue.at(entry.nonce).is_some() {
            return Ok(());
        }
        let bytes = self.held_bytes.load(Ordering::Relaxed) + weight(&entry.tx);
        let count = self.held_count.load(Ordering::Relaxed) + 1;
        if count > self.limits.held_max || bytes > self.limits.held_bytes_max {
            return Err(PoolError::Full);
        }
        Ok(())
    }

    /// Takes room for an entry, less that of the one it replaces.
    fn reserve(&self, entry: &Entry, old: Option<&Entry>) -> Result<(), PoolError> {
        let (count, bytes) = growth(entry, old);
        let all = self.count.fetch_add(count, Ordering::Relaxed) + count;
        let all_bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed).wrapping_add(bytes);
        if all > self.limits.transactions_max || all_bytes > self.limits.bytes_max {
            self.unreserve(entry, old);
            return Err(PoolError::Full);
        }
        Ok(())
    }

    fn unreserve(&self, entry: &Entry, old: Option<&Entry>) {
        let (count, bytes) = growth(entry, old);
        self.count.fetch_sub(count, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Looks at a sender again with a fresh account: forgets what is void, releases what is next.
    pub fn recheck(
        &self,
        sender: &Address,
        account: &Account,
        now_us: TimestampUs,
        release: Release<'_>,
    ) {
        let mut shard = lock(self.shard(sender));
        let Some(mut queue) = shard.remove(sender) else { return };
        queue.listed = false;
        let before = queue.held();
        let mut removed = Vec::new();
        queue.advance(account.nonce, &mut removed);
        release_next(&mut queue, release);
        let oldest_us = now_us.saturating_sub(self.limits.held_lifetime_us);
        queue.prune_held(account.balance, oldest_us, &mut removed);
        self.settle(&mut shard, (*sender, queue), before, removed);
    }

    /// Up to `count` senders whose held transactions want to be looked at again.
    pub fn take_listed(&self, count: usize) -> Vec<Address> {
        let mut listed = lock(&self.listed);
        let count = count.min(listed.len());
        listed.drain(..count).collect()
    }

    /// Puts a sender's queue back and brings the totals in line with it.
    fn settle(
        &self,
        shard: &mut Senders,
        (sender, mut queue): (Address, SenderQueue),
        before: Load,
        removed: Vec<Entry>,
    ) {
        for entry in &removed {
            self.forget_hash(&entry.tx.hash);
            self.unreserve(entry, None);
        }
        let after = queue.held();
        self.held_count.fetch_add(after.count, Ordering::Relaxed);
        self.held_count.fetch_sub(before.count, Ordering::Relaxed);
        self.held_bytes.fetch_add(after.bytes, Ordering::Relaxed);
        self.held_bytes.fetch_sub(before.bytes, Ordering::Relaxed);
        if after.count > 0 && !queue.listed {
            queue.listed = true;
            lock(&self.listed).push_back(sender);
        }
        if !queue.is_empty() {
            shard.insert(sender, queue);
        }
    }

    fn shard(&self, sender: &Address) -> &Mutex<Senders> {
        &self.senders[usize::from(sender[19]) % SHARDS]
    }

    fn hash_shard(&self, hash: &B256) -> &Mutex<Hashes> {
        &self.hashes[usize::from(hash[31]) % SHARDS]
    }

    fn remember(&self, tx: &SharedTransaction) {
        lock(self.hash_shard(&tx.hash)).insert(tx.hash, tx.clone());
    }

    fn forget_hash(&self, hash: &B256) {
        lock(self.hash_shard(hash)).remove(hash);
    }

    fn include(&self, tx: &SharedTransaction) {
        let mut shard = lock(self.shard(&tx.sender));
        let Some(mut queue) = shard.remove(&tx.sender) else { return };
        let before = queue.held();
        let mut removed: Vec<Entry> = queue.remove(tx.nonce()).into_iter().collect();
        queue.advance(tx.nonce().saturating_add(1), &mut removed);
        self.settle(&mut shard, (tx.sender, queue), before, removed);
    }
}

/// What an entry adds: count and weight; the weight wraps where the new one is lighter.
fn growth(entry: &Entry, old: Option<&Entry>) -> (usize, usize) {
    let replaced = old.map_or(0, |old| weight(&old.tx));
    (usize::from(old.is_none()), weight(&entry.tx).wrapping_sub(replaced))
}

fn check_bump(
    old: &SharedTransaction,
    new: &SharedTransaction,
    percent: u64,
) -> Result<(), PoolError> {
    let prices = |tx: &SharedTransaction| {
        let cap = tx.envelope.max_fee_per_gas();
        (cap, tx.envelope.max_priority_fee_per_gas().unwrap_or(cap))
    };
    let ((old_cap, old_tip), (cap, tip)) = (prices(old), prices(new));
    let (cap_needed, tip_needed) = (bumped(old_cap, percent), bumped(old_tip, percent));
    // A tip of zero cannot be raised by a part of it: the cap decides then.
    if cap < cap_needed || (old_tip > 0 && tip < tip_needed) {
        return Err(PoolError::Underpriced { cap_needed, tip_needed });
    }
    Ok(())
}

/// Hands held entries to ordering as far as nonces and the ring's room go.
fn release_next(queue: &mut SenderQueue, release: Release<'_>) {
    while let Some(next) = queue.next().cloned() {
        if release(next).is_err() {
            return;
        }
        queue.mark_released();
    }
}

impl PoolReader for Pool {
    fn submit(&self, submission: Submission) -> Result<(), Submission> {
        let submit = self.submit.read().unwrap_or_else(PoisonError::into_inner);
        match submit.as_ref() {
            Some(submit) => submit(submission),
            None => Err(submission),
        }
    }

    fn pending(&self, hash: &B256) -> Option<SharedTransaction> {
        lock(self.hash_shard(hash)).get(hash).cloned()
    }

    fn pending_nonce(&self, sender: &Address) -> Option<u64> {
        let shard = lock(self.shard(sender));
        shard.get(sender).filter(|queue| queue.any_released()).map(SenderQueue::released_to)
    }

    fn pending_count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Settlement for Pool {
    fn included(&self, transactions: &[SharedTransaction], _receipts: &[Receipt]) {
        for tx in transactions {
            self.include(tx);
        }
    }

    /// Forgets it. One that execution found too far ahead, because the one before it was dropped,
    /// is held instead: it was admitted and its turn may still come.
    fn dropped(&self, transaction: &SharedTransaction, reason: &str) {
        let (sender, nonce) = (transaction.sender, transaction.nonce());
        let mut shard = lock(self.shard(&sender));
        let Some(mut queue) = shard.remove(&sender) else { return };
        let before = queue.held();
        let same = queue.at(nonce).is_some_and(|entry| entry.tx.hash == transaction.hash);
        let mut removed = Vec::new();
        if same && nonce < queue.released_to() {
            tracing::debug!(hash = %transaction.hash, reason, "dropped");
            removed.extend(queue.remove(nonce));
            // A replacement of one that was executed already: the chain went past this nonce, and
            // what comes after it goes on. (Another text would only cost a second look.)
            let passed = reason.starts_with("nonce too low");
            if nonce >= queue.chain_nonce() && !passed {
                queue.hold_from(nonce);
            }
        }
        self.settle(&mut shard, (sender, queue), before, removed);
    }
}

#[cfg(test)]
impl Pool {
    /// Weight in total, held count and held weight, to compare with what is really there.
    pub(super) fn totals(&self) -> (usize, usize, usize) {
        let load = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        (load(&self.bytes), load(&self.held_count), load(&self.held_bytes))
    }

    /// Hashes known and senders with a queue.
    pub(super) fn sizes(&self) -> (usize, usize) {
        let hashes = self.hashes.iter().map(|shard| lock(shard).len()).sum();
        (hashes, self.senders.iter().map(|shard| lock(shard).len()).sum())
    }
}
