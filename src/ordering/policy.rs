//! The order of execution: by effective tip, then arrival, each sender's nonces in order. Pure.
//!
//! Each sender has a queue in nonce order; the heads of all queues compete in a heap. What came
//! back from execution goes before everything else, in the order in which it came back. A head
//! whose fee cap is under the base fee is not in the heap and waits for the base fee to fall.

use crate::types::{
    ids::TimestampUs,
    limits::{MINI_BLOCK_TRANSACTION_BYTES_MAX, TRANSACTION_GAS_MAX, TXS_PER_MINI_BLOCK_MAX},
    map::Map,
    transaction::SharedTransaction,
};
use alloy_consensus::Transaction as _;
use alloy_primitives::Address;
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

/// Heads that may be passed over in one cut because they do not fit; then the cut is done.
const PASSED_OVER_MAX: usize = 64;
/// Void heap items that are kept before the heap is built anew, beside one a sender: to build it
/// costs as much as there are senders.
const VOID_HEADS_MAX: usize = 1_024;

/// What one cut may hold: a mini-block, or what is left of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutLimits {
    count: usize,
    bytes: usize,
    gas: u64,
}

impl CutLimits {
    /// At most `gas` by the sum of gas limits, and the mini-block's bounds in count and bytes.
    ///
    /// Every admitted transaction fits an empty mini-block: `gas` is raised to EIP-7825's cap.
    pub fn new(gas: u64) -> Self {
        Self {
            count: TXS_PER_MINI_BLOCK_MAX,
            bytes: MINI_BLOCK_TRANSACTION_BYTES_MAX,
            gas: gas.max(TRANSACTION_GAS_MAX),
        }
    }

    /// The same with at most `count` transactions.
    #[must_use]
    pub fn with_count(self, count: usize) -> Self {
        Self { count: count.clamp(1, TXS_PER_MINI_BLOCK_MAX), ..self }
    }

    /// What is left beside these transactions.
    pub fn take(&mut self, transactions: &[SharedTransaction]) {
        for tx in transactions {
            self.count = self.count.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(tx.block_bytes());
            self.gas = self.gas.saturating_sub(tx.gas_limit());
        }
    }

    /// What is left once these that were taken have come back.
    pub fn give_back(&mut self, transactions: &[SharedTransaction]) {
        for tx in transactions {
            self.count += 1;
            self.bytes += tx.block_bytes();
            self.gas = self.gas.saturating_add(tx.gas_limit());
        }
    }
}

#[derive(Debug)]
struct Entry {
    tx: SharedTransaction,
    nonce: u64,
    cap: u128,
    tip: u128,
    /// Place among those that came back from one cut; `u64::MAX` for all others.
    rank: u64,
    /// Arrival; unique.
    serial: u64,
    arrived_us: TimestampUs,
}

impl Entry {
    fn effective_tip(&self, base_fee: u64) -> Option<u128> {
        let over = self.cap.checked_sub(u128::from(base_fee))?;
        Some(over.min(self.tip))
    }
}

/// A queue's first transaction, greatest first: rank, tip, arrival.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    rank: Reverse<u64>,
    tip: u128,
    serial: Reverse<u64>,
    sender: Address,
}

/// Everything that waits for execution.
#[derive(Debug, Default)]
pub struct Waiting {
    senders: Map<Address, VecDeque<Entry>>,
    heads: BinaryHeap<Head>,
    base_fee: u64,
    serial: u64,
    count: usize,
}

impl Waiting {
    /// Nothing waits; heads compete at `base_fee`, wei per gas.
    pub fn new(base_fee: u64) -> Self {
        Self { base_fee, ..Self::default() }
    }

    /// Transactions that wait.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Some transaction could go now.
    pub fn any_ready(&mut self) -> bool {
        self.drop_void_heads();
        !self.heads.is_empty()
    }

    /// Adds an admitted transaction; one of the same sender and nonce is replaced.
    pub fn add(&mut self, tx: SharedTransaction, now_us: TimestampUs) {
        let entry = self.entry(tx, u64::MAX, now_us);
        self.insert(entry, true);
    }

    /// Takes back what a cut left over: it goes first, in this order.
    ///
    /// One that was replaced in the meantime stays replaced.
    pub fn put_back(&mut self, left_over: Vec<SharedTransaction>, now_us: TimestampUs) {
        for (rank, tx) in (0..).zip(left_over) {
            let entry = self.entry(tx, rank, now_us);
            self.insert(entry, false);
        }
    }

    /// Sets the base fee at which heads compete.
    pub fn set_base_fee(&mut self, base_fee: u64) {
        if base_fee != self.base_fee {
            self.base_fee = base_fee;
            self.rebuild();
        }
    }

    /// Takes the next cut's transactions, in order.
    pub fn select(&mut self, limits: &CutLimits) -> Vec<SharedTransaction> {
        let mut chosen = Vec::new();
        let (mut bytes, mut gas) = (0_usize, 0_u64);
        let mut passed_over = Vec::new();
        while chosen.len() < limits.count && passed_over.len() < PASSED_OVER_MAX {
            let Some(head) = self.heads.pop() else { break };
            let Some(front) = self.valid(&head) else { continue };
            let after_bytes = bytes + front.tx.block_bytes();
            let after_gas = gas.saturating_add(front.tx.gas_limit());
            if after_bytes > limits.bytes || after_gas > limits.gas {
                passed_over.push(head);
                continue;
            }
            (bytes, gas) = (after_bytes, after_gas);
            chosen.extend(self.take_front(&head.sender).map(|entry| entry.tx));
        }
        self.heads.extend(passed_over);
        chosen
    }

    /// Forgets senders whose first transaction arrived before a time, and returns that one of
    /// each, in order of arrival; the pool holds those behind it.
    pub fn expire(&mut self, arrived_before_us: TimestampUs) -> Vec<SharedTransaction> {
        let old = |queue: &VecDeque<Entry>| {
            queue.front().is_some_and(|front| front.arrived_us < arrived_before_us)
        };
        let mut void: Vec<(u64, Address)> = self
            .senders
            .iter()
            .filter(|(_, queue)| old(queue))
            .filter_map(|(sender, queue)| Some((queue.front()?.serial, *sender)))
            .collect();
        void.sort_unstable();
        let mut expired = Vec::with_capacity(void.len());
        for (_, sender) in void {
            let Some(mut queue) = self.senders.remove(&sender) else { continue };
            self.count -= queue.len();
            expired.extend(queue.pop_front().map(|entry| entry.tx));
        }
        expired
    }

    fn entry(&mut self, tx: SharedTransaction, rank: u64, arrived_us: TimestampUs) -> Entry {
        self.serial += 1;
        let cap = tx.envelope.max_fee_per_gas();
        let tip = tx.envelope.max_priority_fee_per_gas().unwrap_or(cap);
        Entry { nonce: tx.nonce(), cap, tip, rank, serial: self.serial, arrived_us, tx }
    }

    fn insert(&mut self, entry: Entry, newest_wins: bool) {
        let sender = entry.tx.sender;
        let queue = self.senders.entry(sender).or_default();
        let place = match queue.back() {
            Some(last) if last.nonce < entry.nonce => Err(queue.len()),
            None => Err(0),
            _ => queue.binary_search_by_key(&entry.nonce, |waiting| waiting.nonce),
        };
        let at = match place {
            Ok(at) if !newest_wins || queue[at].tx.hash == entry.tx.hash => return,
            Ok(at) => {
                queue[at] = entry;
                at
            }
            Err(at) => {
                queue.insert(at, entry);
                self.count += 1;
                at
            }
        };
        if at == 0 {
            self.enter_head(&sender);
        }
    }

    /// Lets the first of a sender's queue compete, if the base fee lets it.
    fn enter_head(&mut self, sender: &Address) {
        let Some(front) = self.senders.get(sender).and_then(VecDeque::front) else { return };
        let Some(tip) = front.effective_tip(self.base_fee) else { return };
        let (rank, serial) = (Reverse(front.rank), Reverse(front.serial));
        self.heads.push(Head { rank, tip, serial, sender: *sender });
        if self.heads.len() > 2 * self.senders.len() + VOID_HEADS_MAX {
            self.rebuild();
        }
    }

    /// The entry that a heap item stands for, unless it was replaced, overtaken or forgotten.
    fn valid(&self, head: &Head) -> Option<&Entry> {
        let front = self.senders.get(&head.sender)?.front()?;
        (front.serial == head.serial.0).then_some(front)
    }

    fn take_front(&mut self, sender: &Address) -> Option<Entry> {
        let queue = self.senders.get_mut(sender)?;
        let entry = queue.pop_front()?;
        self.count -= 1;
        if queue.is_empty() {
            self.senders.remove(sender);
        } else {
            self.enter_head(sender);
        }
        Some(entry)
    }

    fn drop_void_heads(&mut self) {
        while let Some(head) = self.heads.peek() {
            if self.valid(head).is_some() {
                return;
            }
            self.heads.pop();
        }
    }

    fn rebuild(&mut self) {
        let base_fee = self.base_fee;
        let heads = self.senders.iter().filter_map(|(sender, queue)| {
            let front = queue.front()?;
            let tip = front.effective_tip(base_fee)?;
            let (rank, serial) = (Reverse(front.rank), Reverse(front.serial));
            Some(Head { rank, tip, serial, sender: *sender })
        });
        // Serials are unique, so what the heap gives does not depend on the map's order.
        self.heads = heads.collect();
    }
}
