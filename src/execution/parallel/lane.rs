//! A lane: an EVM on a thread of its own that executes what the plan gives it, ahead of time.

use crate::execution::{
    cache::Window,
    evm::{Evm, Executed, Rules, tx_env},
    parallel::{
        pace::Paced,
        speculation::{AccountWrite, SlotRead, SlotWrite, Speculation, WEI_MAX},
        view::View,
        watch::watch,
    },
    prefetch::prefetch,
    preimages::{Remembers as _, foresee, remember},
    store::{ReadError, outcome_of},
};
use crate::types::transaction::{RecoveredTransaction, SharedTransaction};
use alloy_primitives::{Address, KECCAK256_EMPTY};
use crossbeam_channel::{Receiver, Sender};
use revm::{
    context::BlockEnv,
    context_interface::{
        ContextSetters as _,
        result::{EVMError, HaltReason},
    },
    handler::{FrameResult, Handler, MainnetContext, MainnetEvm},
    state::{Account, EvmState},
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
};

/// Nobody has begun it.
pub(super) const FREE: u8 = 0;
/// The lane that commits; those that run ahead are numbered from 1.
pub(super) const COMMITTER: u8 = u8::MAX;
/// No transaction before it on its lane is known to change what it reads.
pub(super) const NOBODY: u32 = u32::MAX;

/// Places at which a lane looks to prepare for what it will execute there.
const PLACES_AHEAD: usize = 16;

/// The transactions of a cut that need the EVM, for all lanes.
pub(super) struct Work {
    /// Which cut it is.
    pub(super) cut: u64,
    pub(super) block: BlockEnv,
    pub(super) window: Window,
    pub(super) transactions: Vec<SharedTransaction>,
    /// For each, the lane that it is planned for; 0: executed in place.
    pub(super) lanes: Vec<u8>,
    /// For each, the one before it that it depends on.
    pub(super) follows: Vec<u32>,
    /// For each, whether another depends on it.
    pub(super) followed: Vec<bool>,
    /// For each, who began it.
    pub(super) claims: Vec<AtomicU8>,
    /// Those before it are done with.
    pub(super) committed: AtomicU32,
    /// Nothing more is wanted.
    pub(super) closed: AtomicBool,
}

/// What a lane has done.
pub(super) struct Ahead {
    pub(super) cut: u64,
    pub(super) place: u32,
    pub(super) speculation: Box<Speculation>,
}

/// A lane before its thread runs it.
pub struct Lane {
    pub(super) number: u8,
    pub(super) rules: Rules,
    pub(super) work: Receiver<Arc<Work>>,
    /// Lanes that this one wakes.
    pub(super) next: Vec<Sender<Arc<Work>>>,
    pub(super) done: Sender<Ahead>,
    /// Speculations whose room can be used again.
    pub(super) spare: Receiver<Box<Speculation>>,
    pub(super) paced: Paced,
}

impl Lane {
    /// Works until its engine is gone.
    pub fn run(self) {
        let view = View::new(self.paced.clone());
        let mut evm = Evm::new(self.rules, view);
        watch(&mut evm);
        remember(&mut evm);
        while let Some(work) = self.paced.receive(&self.work) {
            for lane in &self.next {
                // A lane that still has work in its queue does not need waking.
                drop(lane.try_send(Arc::clone(&work)));
            }
            if self.cut(&mut evm, &work).is_err() {
                break;
            }
        }
        self.paced.leave();
    }

    /// Executes what is planned for this lane. Fails where nobody listens any more.
    fn cut(&self, evm: &mut Evm<View>, work: &Work) -> Result<(), ()> {
        evm.inner.ctx.block.clone_from(&work.block);
        evm.store().open(work.window.clone());
        let mut foreseen = 0;
        for (place, lane) in work.lanes.iter().enumerate() {
            if *lane != self.number {
                continue;
            }
            self.paced.point();
            if work.closed.load(Ordering::Acquire) {
                break;
            }
            let committed = work.committed.load(Ordering::Acquire);
            let here = u32::try_from(place).unwrap_or(u32::MAX);
            if here < committed {
                continue;
            }
            let before = work.follows[place];
            let follows = before != NOBODY && before >= committed;
            if follows && work.claims[before as usize].load(Ordering::Acquire) != self.number {
                continue;
            }
            let claim = &work.claims[place];
            let (free, mine) = (FREE, self.number);
            if claim.compare_exchange(free, mine, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            if place >= foreseen {
                foreseen = place + self.look_ahead(evm, work, place);
            }
            let into = self.spare.try_recv().unwrap_or_default();
            evm.store().begin(into, follows, committed);
            let executed = evm.speculate(&work.transactions[place]);
            if executed.is_some() && work.followed[place] {
                evm.store().keep_own(here);
            }
            let mut speculation = std::mem::take(&mut evm.store().reads);
            speculation.executed = executed;
            self.paced.point();
            self.done.send(Ahead { cut: work.cut, place: here, speculation }).map_err(drop)?;
        }
        evm.store().close();
        Ok(())
    }

    /// Prepares for the transactions from `place` on, as many as it says.
    fn look_ahead(&self, evm: &mut Evm<View>, work: &Work, place: usize) -> usize {
        let next = work.transactions[place..].iter().zip(&work.lanes[place..]).take(PLACES_AHEAD);
        let mine = next.map(|(it, lane)| (*lane == self.number).then_some(&**it));
        let looked_at = foresee(evm.store(), mine.clone());
        let far = work.transactions.iter().zip(&work.lanes).skip(place + looked_at);
        for (transaction, lane) in far.take(PLACES_AHEAD) {
            if *lane == self.number {
                prefetch(&**transaction);
            }
        }
        looked_at
    }
}

type LaneEvm = MainnetEvm<MainnetContext<View>>;

/// The rules of mainnet, except that the fee recipient gets its tip later, in order.
struct Tipless;

impl Handler for Tipless {
    type Evm = LaneEvm;
    type Error = EVMError<ReadError>;
    type HaltReason = HaltReason;

    fn reward_beneficiary(
        &self,
        _evm: &mut LaneEvm,
        _result: &mut FrameResult,
    ) -> Result<(), Self::Error> {
        Ok(())
    }
}

impl Evm<View> {
    /// Executes a transaction and notes in the view's reads what it would write; `None` where it
    /// has to be executed in its place.
    fn speculate(&mut self, transaction: &RecoveredTransaction) -> Option<Executed> {
        let parties = (transaction.sender, self.inner.ctx.block.beneficiary);
        self.store().preimages().begin(transaction);
        self.inner.set_tx(tx_env(transaction));
        let result = Tipless.run(&mut self.inner);
        self.store().preimages().end(transaction);
        let journal = &mut self.inner.ctx.journaled_state;
        let view = &mut journal.database;
        let is_kept = result.is_ok() && note_writes(view, &mut journal.inner.state, parties);
        self.discard();
        let result = result.ok().filter(|_| is_kept)?;
        let (success, gas_used) = (result.is_success(), result.tx_gas_used());
        let logs = if success { result.into_logs() } else { Vec::new() };
        Some(Executed { success, gas_used, logs })
    }
}

/// Notes what would be written; false where the fee recipient is among it, whose balance nobody
/// knows here.
fn note_writes(
    view: &mut View,
    state: &mut EvmState,
    (sender, fee_recipient): (Address, Address),
) -> bool {
    if state.get(&fee_recipient).is_some_and(Account::is_touched) {
        return false;
    }
    let reads = &mut view.reads;
    for (address, account) in state.drain().filter(|(_, account)| account.is_touched()) {
        let place = reads.accounts.iter().position(|read| read.address == address);
        let Some(read) = place else { return false };
        let (after, created) = (outcome_of(&account), account.is_created());
        let seen = reads.accounts[read].hot.account;
        let slots_begin = reads.slot_writes.len();
        if after.is_some() {
            let changed = account.storage.iter().filter(|(_, slot)| slot.is_changed());
            for (slot, new) in changed {
                let known = |read: &SlotRead| read.slot == *slot && read.address == address;
                let read = reads.slots.iter().position(known);
                reads.slot_writes.push(SlotWrite { slot: *slot, read, value: new.present_value });
            }
        }
        let slots_end = reads.slot_writes.len();
        if after == seen && !created && slots_begin == slots_end {
            continue;
        }
        let had = seen.map_or(KECCAK256_EMPTY, |account| account.code_hash);
        let has = after.map_or(KECCAK256_EMPTY, |account| account.code_hash);
        let code = if has == had { None } else { account.info.code };
        reads.account_writes.push(AccountWrite { read, after, created, code, slots_end });
    }
    free_balances(view, sender);
    true
}

/// Marks the accounts whose balance plays no part: nobody looked at it, and it did not fall (or
/// only by what the sender pays, which `check` knows).
fn free_balances(view: &mut View, sender: Address) {
    let mut reads = std::mem::take(&mut view.reads);
    for read in &mut reads.accounts {
        read.any_balance = read.hot.account.is_some() && !view.was_looked_at(&read.address);
    }
    for write in &reads.account_writes {
        let read = &mut reads.accounts[write.read];
        let stays = write.after.zip(read.hot.account).is_some_and(|(after, before)| {
            let falls = after.balance < before.balance && read.address != sender;
            after.code_hash == before.code_hash && after.balance < WEI_MAX && !falls
        });
        read.any_balance &= stays && !write.created;
    }
    view.reads = reads;
}
