//! A lane: an EVM on a thread of its own that executes what the plan gives it, ahead of time.

use crate::execution::{
    cache::Window,
    call::bring,
    evm::{Evm, Executed, Rules},
    handler::Lean,
    parallel::{
        pace::Paced,
        plan::{Plan, Planner},
        speculation::{
            AccountWrite, Batch, Becomes, Other, SlotRead, SlotWrite, Source, Speculation, WEI_MAX,
        },
        view::View,
        watch::watch,
    },
    prefetch::{prefetch, prefetch_all},
    preimages::{Remembers as _, foresee, remember},
    store::outcome_of,
    transfer::may_be_plain,
};
use crate::types::{
    diff::Account,
    transaction::{RecoveredTransaction, SharedTransaction},
};
use alloy_primitives::{Address, B256, KECCAK256_EMPTY, U256};
use crossbeam_channel::{Receiver, Sender};
use revm::{
    context::BlockEnv,
    handler::Handler as _,
    state::{Account as EvmAccount, EvmState},
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering},
};

/// Nobody has begun it.
pub(super) const FREE: u8 = 0;
/// The lane that commits; those that run ahead are numbered from 1.
pub(super) const COMMITTER: u8 = u8::MAX;
/// No transaction before it on its lane is known to change what it reads.
pub(super) const NOBODY: u32 = u32::MAX;

/// Transactions that are handed over together, at most.
const BATCH_MAX: usize = 8;
/// Places behind the committing thread's at which it will soon wait.
const NEAR: u32 = 8;
/// Places before the committing thread's at which a lane begins nothing that nobody follows: as
/// many in small cuts as a sixteenth of them.
const LEAD_MAX: usize = 8;
/// Gas of a transaction for whose end what is done before it may have to wait.
const GAS_WAITED_FOR: u64 = 1_000_000;
/// Transactions whose outlines are asked for before they are planned.
const OUTLINES_AHEAD: usize = 32;
/// Places at which a lane looks to prepare for what it will execute there.
const PLACES_AHEAD: usize = 16;

/// What comes to a lane.
pub(super) enum Job {
    /// A cut to be planned, and then to be worked on; only the first lane gets it.
    Plan(Box<Cut>),
    /// A cut to be worked on.
    Work(Arc<Work>),
}

/// A cut as the committing thread hands it over while it goes on alone.
pub(super) struct Cut {
    /// Which one it is.
    pub(super) number: u64,
    pub(super) block: BlockEnv,
    pub(super) window: Window,
    /// All of it.
    pub(super) all: Arc<Vec<SharedTransaction>>,
    /// Those before it are done with.
    pub(super) from: usize,
    pub(super) progress: Arc<Progress>,
    /// Goes back with the plan.
    pub(super) planner: Box<Planner>,
}

/// The planner back, and what it came to: `None` where nothing is for lanes to do.
pub(super) type Planned = (Box<Planner>, Option<Arc<Work>>);

/// The transactions of a cut that need the EVM, for all lanes.
pub(super) struct Work {
    /// Which cut it is.
    pub(super) cut: u64,
    block: BlockEnv,
    window: Window,
    /// All of the cut.
    all: Arc<Vec<SharedTransaction>>,
    pub(super) plan: Plan,
    /// For each that is planned, who began it.
    pub(super) claims: Vec<AtomicU8>,
    pub(super) progress: Arc<Progress>,
}

/// What the committing thread says while it goes through a cut. Lanes look at it often: nothing
/// else lies in its cache lines.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Progress {
    /// While there is no plan: transactions of the cut before this one are done with.
    pub(super) reached: AtomicUsize,
    /// Planned ones before this place are done with.
    pub(super) committed: AtomicU32,
    /// Nothing more is wanted.
    pub(super) closed: AtomicBool,
}

impl Work {
    fn transaction(&self, place: usize) -> &RecoveredTransaction {
        &self.all[self.plan.positions[place]]
    }

    fn lead(&self) -> u32 {
        u32::try_from((self.plan.lanes.len() / 16).min(LEAD_MAX)).unwrap_or(0)
    }
}

/// A lane before its thread runs it.
pub struct Lane {
    pub(super) number: u8,
    pub(super) rules: Rules,
    pub(super) jobs: Receiver<Job>,
    /// Lanes that this one wakes.
    pub(super) next: Vec<Sender<Job>>,
    /// All lanes of the engine.
    pub(super) count: usize,
    pub(super) planned: Sender<Planned>,
    pub(super) done: Sender<Box<Batch>>,
    /// Batches whose room can be used again.
    pub(super) spare: Receiver<Box<Batch>>,
    pub(super) paced: Paced,
}

impl Lane {
    /// Works until its engine is gone.
    pub fn run(self) {
        self.run_watched(&mut |_| ());
    }

    /// As `run`; tells before it works on a cut (true) and after it (false).
    pub fn run_watched(self, tell: &mut dyn FnMut(bool)) {
        let view = View::new(self.paced.clone());
        let mut evm = Evm::new(self.rules, view);
        watch(&mut evm);
        remember(&mut evm);
        evm.use_own_loop();
        while let Some(job) = self.paced.receive(&self.jobs) {
            tell(true);
            let goes_on = match job {
                Job::Plan(cut) => self.plan(*cut),
                Job::Work(work) => Ok(Some(work)),
            };
            let goes_on = goes_on.and_then(|work| {
                let open = work.filter(|work| !work.progress.closed.load(Ordering::Acquire));
                let Some(work) = open else { return Ok(()) };
                for lane in &self.next {
                    // A lane that still has work in its queue does not need waking.
                    drop(lane.try_send(Job::Work(Arc::clone(&work))));
                }
                self.cut(&mut evm, &work)
            });
            tell(false);
            if goes_on.is_err() {
                break;
            }
        }
        self.paced.leave();
    }

    /// Plans a cut and tells the committing thread. Fails where nobody listens any more.
    fn plan(&self, cut: Cut) -> Result<Option<Arc<Work>>, ()> {
        let Cut { number, block, window, all, from, progress, mut planner } = cut;
        let listed = all.iter().enumerate().skip(from).map(|(at, it)| {
            if let Some(far) = all.get(at + OUTLINES_AHEAD) {
                prefetch(far.outline());
            }
            (at, &**it, !may_be_plain(it.outline(), self.rules.chain_id))
        });
        let plan = planner.plan(listed, self.count);
        self.paced.point();
        let work = plan.map(|plan| {
            // The committing thread went on meanwhile.
            let reached = progress.reached.load(Ordering::Acquire);
            let committed = plan.positions.partition_point(|it| *it < reached);
            progress.committed.store(number_of(committed), Ordering::Release);
            let claims = plan.lanes.iter().map(|_| AtomicU8::new(FREE)).collect();
            Arc::new(Work { cut: number, block, window, all, plan, claims, progress })
        });
        self.planned.send((planner, work.clone())).map_err(drop)?;
        Ok(work)
    }

    /// Executes what is planned for this lane. Fails where nobody listens any more.
    fn cut(&self, evm: &mut Evm<View>, work: &Work) -> Result<(), ()> {
        evm.inner.ctx.block.clone_from(&work.block);
        evm.store().open(work.window.clone());
        let mut foreseen = 0;
        let plan = &work.plan;
        for (place, lane) in plan.lanes.iter().enumerate() {
            if *lane != self.number {
                continue;
            }
            self.paced.point();
            if work.progress.closed.load(Ordering::Acquire) {
                break;
            }
            let committed = work.progress.committed.load(Ordering::Acquire);
            let here = number_of(place);
            if here < committed {
                continue;
            }
            self.hand_over(evm.store(), work, Some((committed, work.transaction(place))))?;
            // The committing thread would soon come and wait: what is near is left to it, but for
            // what others follow, which this lane could not begin without it.
            if here < committed.saturating_add(work.lead()) && !plan.followed[place] {
                continue;
            }
            let before = plan.follows[place];
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
            evm.store().begin(follows, committed);
            let executed = evm.speculate(work.transaction(place));
            let view = evm.store();
            if executed.is_none() {
                view.batch.cut_off(view.begins);
            } else if plan.followed[place] {
                view.keep_own(here);
            }
            let ends = view.batch.ends();
            view.batch.done.push(Speculation { place: here, executed, ends });
        }
        self.hand_over(evm.store(), work, None)?;
        evm.store().close();
        Ok(())
    }

    /// Hands over what is done where that is enough, where the committing thread may be waiting
    /// for it, before a transaction (the next) that may take long, and where nothing is next.
    fn hand_over(
        &self,
        view: &mut View,
        work: &Work,
        next: Option<(u32, &RecoveredTransaction)>,
    ) -> Result<(), ()> {
        let Some(first) = view.batch.done.first() else { return Ok(()) };
        let can_wait = next.is_some_and(|(committed, next)| {
            view.batch.done.len() < BATCH_MAX
                && first.place > committed.saturating_add(NEAR)
                && next.gas_limit() <= GAS_WAITED_FOR
        });
        if can_wait {
            return Ok(());
        }
        let mut room = self.spare.try_recv().unwrap_or_default();
        room.clear();
        let mut batch = std::mem::replace(&mut view.batch, room);
        batch.cut = work.cut;
        self.paced.point();
        self.done.send(batch).map_err(drop)
    }

    /// Prepares for the transactions from `place` on, as many as it says.
    fn look_ahead(&self, evm: &mut Evm<View>, work: &Work, place: usize) -> usize {
        let lanes = &work.plan.lanes;
        let mine = |place: &usize| lanes[*place] == self.number;
        let next = place..lanes.len().min(place + PLACES_AHEAD);
        let calls = next.map(|place| mine(&place).then(|| work.transaction(place)));
        let looked_at = foresee(evm.store(), calls);
        let far = place + looked_at..lanes.len().min(place + looked_at + PLACES_AHEAD);
        for (nth, place) in far.filter(mine).enumerate() {
            let call = work.transaction(place);
            // What it is was asked for already where it is among the next.
            if nth < looked_at / 2 { prefetch_all(&call.input) } else { bring(call) }
        }
        looked_at
    }
}

impl Evm<View> {
    /// Executes a transaction and notes in the view's reads what it would write; `None` where it
    /// has to be executed in its place.
    fn speculate(&mut self, transaction: &RecoveredTransaction) -> Option<Executed> {
        let parties = (transaction.sender, self.inner.ctx.block.beneficiary);
        self.store().preimages().begin(transaction);
        self.set_transaction(transaction);
        let result = Lean::tipless().run(self);
        self.store().preimages().end(transaction);
        let journal = &mut self.inner.ctx.journaled_state;
        let view = &mut journal.database;
        let is_kept = result.is_ok() && note_writes(view, &mut journal.inner.state, parties);
        self.discard();
        let result = result.ok().filter(|_| is_kept)?;
        Some(Executed::new(result, &self.rules))
    }
}

/// Notes what would be written; false where the fee recipient is among it, whose balance nobody
/// knows here.
fn note_writes(
    view: &mut View,
    state: &mut EvmState,
    (sender, fee_recipient): (Address, Address),
) -> bool {
    if state.get(&fee_recipient).is_some_and(EvmAccount::is_touched) {
        return false;
    }
    let (batch, begins) = (&mut *view.batch, view.begins);
    for (address, account) in state.drain().filter(|(_, account)| account.is_touched()) {
        let reads = &batch.accounts[begins.accounts..];
        let Some(read) = reads.iter().position(|read| read.address == address) else {
            return false;
        };
        let read = begins.accounts + read;
        let (after, created) = (outcome_of(&account), account.is_created());
        let seen = batch.accounts[read].hot.account;
        let (had, has) = (code_of(seen), code_of(after));
        let slots_begin = batch.slot_writes.len();
        if after.is_some() {
            let changed = account.storage.iter().filter(|(_, slot)| slot.is_changed());
            for (slot, new) in changed {
                let read = slot_read(batch, begins.slots, (address, *slot));
                batch.slot_writes.push(SlotWrite { read, value: new.present_value });
            }
        }
        let slots_end = batch.slot_writes.len();
        if after == seen && !created && slots_begin == slots_end {
            continue;
        }
        let becomes = match after {
            after if after == seen && !created => Becomes::Same,
            Some(Account { nonce, balance, .. }) if seen.is_some() && has == had && !created => {
                Becomes::Paid { nonce, balance }
            }
            after => {
                let code = account.info.code.filter(|_| has != had);
                Becomes::Other(Box::new(Other { created, after, code }))
            }
        };
        let (read, slots_end) = (number_of(read), number_of(slots_end));
        batch.account_writes.push(AccountWrite { read, slots_end, becomes });
    }
    free_balances(view, sender);
    true
}

/// The hash of an account's code.
fn code_of(account: Option<Account>) -> B256 {
    account.map_or(KECCAK256_EMPTY, |account| account.code_hash)
}

/// The place of a slot among the reads, where it is put if it was not read.
fn slot_read(batch: &mut Batch, begins: usize, (address, slot): (Address, U256)) -> u32 {
    let known = |read: &SlotRead| read.slot == slot && read.address == address;
    let known = batch.slots[begins..].iter().position(known);
    let at = known.map_or(batch.slots.len(), |at| begins + at);
    if known.is_none() {
        batch.slot_sources.push(Source::Unread);
        batch.slots.push(SlotRead { address, slot, incarnation: 0, value: U256::ZERO });
    }
    number_of(at)
}

fn number_of(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Marks the accounts whose balance plays no part: nobody looked at it, and it did not fall (or
/// only by what the sender pays, which `check` knows).
fn free_balances(view: &mut View, sender: Address) {
    let mut batch = std::mem::take(&mut view.batch);
    let begins = view.begins;
    for read in &mut batch.accounts[begins.accounts..] {
        read.any_balance = read.hot.account.is_some() && !view.was_looked_at(&read.address);
    }
    for write in &batch.account_writes[begins.account_writes..] {
        let read = &mut batch.accounts[write.read as usize];
        let after = write.becomes.after(&read.hot);
        let stays = after.zip(read.hot.account).is_some_and(|(after, before)| {
            let falls = after.balance < before.balance && read.address != sender;
            after.code_hash == before.code_hash && after.balance < WEI_MAX && !falls
        });
        read.any_balance &= stays && !write.becomes.is_created();
    }
    view.batch = batch;
}
