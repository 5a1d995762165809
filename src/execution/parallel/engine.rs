//! The engine: goes through a cut in order, and takes over what lanes have done ahead of it.

use crate::execution::{
    block::OpenBlock,
    evm::{EngineError, Evm, Executed, TransactError},
    parallel::{
        commit::{Taken, in_place, take_over},
        counts::{Conflicts, Counts},
        lane::{COMMITTER, Cut, FREE, Job, Lane, Planned, Progress, Work},
        pace::{Pace, Paced},
        plan::{Plan, Planner},
        speculation::Batch,
    },
    prefetch::{prefetch, prefetch_all},
    preimages::{foresee, remember},
    serial::{self, Engine, Outcome, Steps},
    tips::Tips,
    transfer::{Parties, may_be_plain, transfer},
};
use crate::types::{
    mini_block::BlockEnvironment,
    transaction::{RecoveredTransaction, SharedTransaction},
};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::{Arc, atomic::Ordering};

/// Lanes beside the committing thread, at most.
pub const LANES_MAX: usize = 63;
/// What a lane may be ahead of the committing thread, transactions.
const AHEAD_MAX: usize = 256;
/// Transactions among which calls enough for lanes are sought; after as many it is tried again.
const SOUGHT_AMONG: usize = 1_024;

/// Plain transfers in the ledger, the rest in several EVMs at once, all committed in order.
pub struct Parallel {
    /// Its state stands in here.
    pub evm: Evm,
    /// Since it was made, or since somebody took them.
    pub counts: Counts,
    /// What speculations failed on.
    pub conflicts: Conflicts,
    lanes: Vec<Port>,
    /// Away while a lane plans.
    planner: Option<Box<Planner>>,
    planned: Receiver<Planned>,
    cut: u64,
    paced: Paced,
}

/// The engine's end of a lane.
struct Port {
    jobs: Sender<Job>,
    done: Receiver<Box<Batch>>,
    spare: Sender<Box<Batch>>,
    /// What it is taking over, and the next in it.
    taking: (Box<Batch>, usize),
    /// The next batch, on its way from the lane's caches to those of the committing thread.
    coming: Option<Box<Batch>>,
}

impl Parallel {
    /// An engine, and its lanes, each to be run on a thread of its own. Without lanes it executes
    /// everything in place.
    pub fn new(evm: Evm, lanes: usize) -> (Self, Vec<Lane>) {
        Self::paced(evm, lanes, None)
    }

    /// As `new`, under a schedule.
    pub fn paced(mut evm: Evm, lanes: usize, pace: Option<Arc<dyn Pace>>) -> (Self, Vec<Lane>) {
        remember(&mut evm);
        evm.use_own_loop();
        let rules = *evm.rules();
        let count = lanes.min(LANES_MAX);
        // Room for the cut that it works on and the next one.
        let (wakers, jobs): (Vec<_>, Vec<_>) = (0..count).map(|_| bounded(2)).unzip();
        // There is one planner.
        let (planned_in, planned) = bounded(1);
        let (mut ports, mut lanes) = (Vec::new(), Vec::new());
        for (at, jobs) in jobs.into_iter().enumerate() {
            let (done_in, done) = bounded(AHEAD_MAX);
            let (spare_in, spare) = bounded(AHEAD_MAX);
            let who = at + 1;
            lanes.push(Lane {
                number: u8::try_from(who).unwrap_or(COMMITTER),
                rules,
                jobs,
                count,
                planned: planned_in.clone(),
                // The first wakes the second and third, and so on: waking takes a system call.
                next: wakers.iter().skip(2 * at + 1).take(2).cloned().collect(),
                done: done_in,
                spare,
                paced: Paced { who, pace: pace.clone() },
            });
            let jobs = wakers[at].clone();
            let taking = Default::default();
            ports.push(Port { jobs, done, spare: spare_in, taking, coming: None });
        }
        let engine = Self {
            evm,
            counts: Counts::default(),
            conflicts: Conflicts::default(),
            lanes: ports,
            planner: Some(Box::default()),
            planned,
            cut: 0,
            paced: Paced { who: 0, pace },
        };
        (engine, lanes)
    }
}

impl Engine for Parallel {
    fn evm(&mut self) -> &mut Evm {
        &mut self.evm
    }

    fn extend(
        &mut self,
        block: &mut OpenBlock,
        transactions: Vec<SharedTransaction>,
        is_late: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome, EngineError> {
        let transactions = Arc::new(transactions);
        let Self { evm, counts, conflicts, lanes, planner, planned, paced, cut } = self;
        let chain_id = evm.rules().chain_id;
        let mut crew = Crew {
            counts,
            conflicts,
            lanes,
            planner,
            planned,
            paced,
            cut,
            all: Arc::clone(&transactions),
            run: None,
            try_at: 0,
            tips: Tips::of(block.environment.fee_recipient),
            near: [None; AHEAD],
            foreseen: 0,
            chain_id,
        };
        serial::execute(evm, block, transactions, is_late, &mut crew)
    }
}

/// Transactions whose memory is asked for before they are executed, in three steps: what they
/// are, where their accounts and their input are, the accounts and the input.
const AHEAD: usize = 32;
const LISTED_AHEAD: usize = 16;
const ACCOUNTS_AHEAD: usize = 8;
/// Calls whose hashes are computed side by side before they are executed, at most.
const CALLS_AHEAD: usize = 8;

/// The hashes of the parties of what may be a plain transfer, ahead of its execution.
#[derive(Debug, Clone, Copy)]
struct Near {
    sender: u64,
    recipient: u64,
    /// Most likely where they lie.
    guess: Parties,
}

impl Steps for Crew<'_> {
    #[inline]
    fn look_ahead(&mut self, evm: &mut Evm, at: usize, waiting: &[SharedTransaction]) {
        if let Some(far) = waiting.get(AHEAD - 1) {
            prefetch(far.outline());
        }
        let store = evm.store();
        if let Some(next) = waiting.get(LISTED_AHEAD) {
            let outline = next.outline();
            let near = || Near {
                sender: store.bring_place(next.sender),
                recipient: store.bring_place(outline.to),
                guess: Parties::default(),
            };
            if outline.has_input {
                prefetch(&next.input);
            }
            self.near[(at + LISTED_AHEAD) % AHEAD] =
                may_be_plain(outline, self.chain_id).then(near);
        }
        if let Some(next) = waiting.get(ACCOUNTS_AHEAD)
            && next.outline().has_input
        {
            prefetch_all(&next.input);
        }
        if waiting.len() > ACCOUNTS_AHEAD
            && at + ACCOUNTS_AHEAD >= LISTED_AHEAD
            && let Some(near) = &mut self.near[(at + ACCOUNTS_AHEAD) % AHEAD]
        {
            near.guess.sender = store.bring_account(near.sender);
            near.guess.recipient = store.bring_account(near.recipient);
        }
        if at >= self.foreseen {
            let next = waiting.iter().take(CALLS_AHEAD).enumerate();
            let mut place = self.run.as_ref().map_or(0, |run| run.next);
            let calls =
                next.map(|(next, it)| self.is_in_place(at + next, &mut place, it).then_some(&**it));
            self.foreseen = at + foresee(store, calls);
        }
    }

    fn transact(
        &mut self,
        evm: &mut Evm,
        at: usize,
        block: &BlockEnvironment,
        transaction: &RecoveredTransaction,
    ) -> Result<Executed, TransactError> {
        let fees = (&mut self.tips, block.base_fee);
        let (store, sender, outline) = (evm.store(), transaction.sender, transaction.outline());
        let parties = if at < LISTED_AHEAD {
            may_be_plain(outline, self.chain_id).then(Parties::default)
        } else {
            self.near[at % AHEAD].as_ref().map(|near| Parties {
                sender: store.cached_id(sender, near.sender, near.guess.sender),
                recipient: store.cached_id(outline.to, near.recipient, near.guess.recipient),
            })
        };
        let done = parties.map(|parties| transfer(store, fees, transaction, parties));
        let Some(done) = done else { return self.one(evm, at, (block, transaction)) };
        if let Some(done) = done.map_err(EngineError::from)? {
            self.counts.direct += 1;
            return Ok(done);
        }
        self.one(evm, at, (block, transaction))
    }

    fn close(&mut self, evm: &mut Evm) {
        self.tips.settle(evm.store());
        self.all = Arc::default();
        if let Some(run) = self.run.take() {
            run.progress.closed.store(true, Ordering::Release);
        }
    }
}

/// Speculations in a row that may fail and teach nothing before the lanes are told to leave the
/// rest of a cut: the committing thread waits for each, and executes it all the same.
const FAILURES_MAX: u32 = 12;

/// A cut that lanes plan and work on.
struct Run {
    progress: Arc<Progress>,
    /// `None` while it is being planned.
    work: Option<Arc<Work>>,
    /// Speculations that failed one after another and taught nothing.
    failures: u32,
    /// The next place.
    next: usize,
}

/// Everything of the engine but its EVM.
struct Crew<'a> {
    counts: &'a mut Counts,
    conflicts: &'a mut Conflicts,
    lanes: &'a mut [Port],
    planner: &'a mut Option<Box<Planner>>,
    planned: &'a Receiver<Planned>,
    paced: &'a Paced,
    cut: &'a mut u64,
    all: Arc<Vec<SharedTransaction>>,
    run: Option<Run>,
    /// Where to try for lanes next.
    try_at: usize,
    tips: Tips,
    near: [Option<Near>; AHEAD],
    /// Transactions before this one have been prepared for.
    foreseen: usize,
    chain_id: u64,
}

impl Crew<'_> {
    /// Hands what is left of the cut to the lanes, where that is worth it. Not called before the
    /// first transaction that needs the EVM: most cuts of transfers have none.
    #[cold]
    fn begin(&mut self, evm: &mut Evm, at: usize) -> Option<Run> {
        if self.lanes.is_empty() {
            return None;
        }
        if let Ok((planner, _)) = self.planned.try_recv() {
            // With the plan of a cut that was over before it was planned.
            *self.planner = Some(planner);
        }
        if self.planner.is_none() {
            // Still away with such a cut: it is looked for again.
            self.paced.point();
            self.try_at = at;
            return None;
        }
        let calls = self.all[at..].iter().take(SOUGHT_AMONG).map(|it| &**it);
        let calls = calls.filter(|it| !may_be_plain(it.outline(), self.chain_id));
        let planner = self.planner.take_if(|planner| planner.is_worthwhile(calls))?;
        *self.cut += 1;
        // Before a lane can have anything of this cut.
        for port in &mut *self.lanes {
            port.coming.take().into_iter().chain(port.done.try_iter()).for_each(|batch| {
                port.recycle(batch);
            });
            port.taking.1 = port.taking.0.done.len();
        }
        let progress = Arc::<Progress>::default();
        let cut = Cut {
            number: *self.cut,
            block: evm.block().clone(),
            window: evm.store().window(),
            all: Arc::clone(&self.all),
            from: at,
            progress: Arc::clone(&progress),
            planner,
        };
        if let Err(refused) = self.lanes[0].jobs.try_send(Job::Plan(Box::new(cut))) {
            // Its queue is full: it has more than enough to do.
            if let Job::Plan(cut) = refused.into_inner() {
                *self.planner = Some(cut.planner);
            }
            return None;
        }
        Some(Run { progress, work: None, failures: 0, next: 0 })
    }

    /// Executes one transaction that needs the EVM, by what a lane has done, or in place.
    fn one(
        &mut self,
        evm: &mut Evm,
        at: usize,
        (block, transaction): (&BlockEnvironment, &RecoveredTransaction),
    ) -> Result<Executed, TransactError> {
        if self.run.is_none() && at >= self.try_at {
            self.try_at = at + SOUGHT_AMONG;
            self.run = self.begin(evm, at);
        }
        let run = self.run.take().and_then(|run| self.with_plan(run, at));
        let Some(mut run) = run else { return self.alone(evm, transaction) };
        let done = match run.work.take() {
            Some(work) => {
                let positions = work.plan.positions[run.next..].iter();
                run.next += positions.take_while(|it| **it < at).count();
                let done = if work.plan.positions.get(run.next) == Some(&at) {
                    self.planned(evm, (block, transaction), (&work, &mut run))
                } else {
                    self.alone(evm, transaction)
                };
                run.work = Some(work);
                done
            }
            None => self.alone(evm, transaction),
        };
        self.run = Some(run);
        done
    }

    /// Executes a transaction that no lane has.
    fn alone(
        &mut self,
        evm: &mut Evm,
        transaction: &RecoveredTransaction,
    ) -> Result<Executed, TransactError> {
        self.counts.in_place += 1;
        in_place(evm, &mut self.tips, transaction)
    }

    /// The run with its plan as soon as that is there; `None` where nothing is for lanes to do.
    fn with_plan(&mut self, mut run: Run, at: usize) -> Option<Run> {
        self.paced.point();
        if run.work.is_none() {
            run.progress.reached.store(at, Ordering::Release);
            if let Ok((planner, work)) = self.planned.try_recv() {
                *self.planner = Some(planner);
                if work.is_none() {
                    // The rest of the cut was planned too.
                    self.try_at = usize::MAX;
                    return None;
                }
                run.work = work;
            }
        }
        Some(run)
    }

    /// Executes one transaction that was planned.
    fn planned(
        &mut self,
        evm: &mut Evm,
        (block, transaction): (&BlockEnvironment, &RecoveredTransaction),
        (work, run): (&Work, &mut Run),
    ) -> Result<Executed, TransactError> {
        let place = run.next;
        let (mut conflicted, mut was_ahead) = (false, false);
        let taken = match self.ahead(work, place) {
            Some((port, at)) => {
                let batch = &mut self.lanes[port].taking.0;
                batch.bring(evm.store(), at + 1);
                let fees = (&mut self.tips, block.base_fee);
                take_over(batch, at, evm.store(), (fees, transaction)).map_err(EngineError::from)?
            }
            None => Taken::Nothing,
        };
        let done = match taken {
            Taken::All(executed) => {
                self.counts.ahead += 1;
                was_ahead = true;
                Ok(executed)
            }
            other => {
                self.counts.in_place += 1;
                match other {
                    Taken::Abandoned => self.counts.abandoned += 1,
                    Taken::Conflict(conflict) => {
                        conflicted = true;
                        self.counts.aborted += 1;
                        self.conflicts.note(conflict.address);
                    }
                    Taken::Nothing | Taken::All(_) => {}
                }
                in_place(evm, &mut self.tips, transaction)
            }
        };
        let is_news = match (&done, &mut *self.planner) {
            (Ok(executed), Some(planner)) => {
                planner.learn(work.plan.hints[place], executed.gas_used, conflicted)
            }
            _ => false,
        };
        match (conflicted, was_ahead) {
            // While functions are found out, one after another, the lanes stay.
            (true, _) if is_news => {}
            (true, _) => run.failures += 1,
            (false, true) => run.failures = 0,
            (false, false) => {}
        }
        // Nothing that the lanes do can be taken over: they are sent home.
        if run.failures >= FAILURES_MAX {
            run.progress.closed.store(true, Ordering::Release);
        }
        // Every lane looks at it: not each time anew.
        if (place + 1).is_multiple_of(TOLD_EVERY) {
            tell_committed(work, place + 1);
        }
        done
    }

    /// The committing thread is to execute it, in the EVM. Its place in the plan is not before
    /// `place`, which goes on to it.
    fn is_in_place(
        &self,
        at: usize,
        place: &mut usize,
        transaction: &RecoveredTransaction,
    ) -> bool {
        if !transaction.outline().has_input {
            return false;
        }
        let Some(work) = self.run.as_ref().and_then(|run| run.work.as_ref()) else { return true };
        let Plan { positions, lanes, .. } = &work.plan;
        while positions.get(*place).is_some_and(|it| *it < at) {
            *place += 1;
        }
        positions.get(*place) == Some(&at) && lanes[*place] == 0
    }

    /// What a lane has done of a transaction that it claimed, waited for; `None` where no lane
    /// has claimed it, and none will from now on. The lane's port, and the place in its batch.
    fn ahead(&mut self, work: &Work, place: usize) -> Option<(usize, usize)> {
        if work.plan.lanes[place] == 0 {
            return None;
        }
        let claim = &work.claims[place];
        let (free, mine) = (FREE, COMMITTER);
        let lane = match claim.load(Ordering::Acquire) {
            FREE => {
                claim.compare_exchange(free, mine, Ordering::AcqRel, Ordering::Acquire).err()?
            }
            lane => lane,
        };
        let port = usize::from(lane) - 1;
        let wanted = u32::try_from(place).unwrap_or(u32::MAX);
        loop {
            let (batch, next) = &mut self.lanes[port].taking;
            // Those left out by the block's limits are passed over.
            *next += batch.done[*next..].iter().take_while(|it| it.place < wanted).count();
            if batch.cut == work.cut && *next < batch.done.len() {
                *next += 1;
                let at = *next - 1;
                self.lanes[port].look_for_next();
                return Some((port, at));
            }
            let port = &mut self.lanes[port];
            port.look_for_next();
            let batch = port.coming.take().or_else(|| {
                tell_committed(work, place);
                self.paced.receive(&port.done)
            })?;
            port.take(batch);
        }
    }
}

/// Transactions after which the lanes are told how far the committing thread is.
const TOLD_EVERY: usize = 4;

fn tell_committed(work: &Work, place: usize) {
    let committed = u32::try_from(place).unwrap_or(u32::MAX);
    work.progress.committed.store(committed, Ordering::Release);
}

impl Port {
    /// Goes on with the next batch.
    fn take(&mut self, batch: Box<Batch>) {
        let (taken, next) = &mut self.taking;
        let taken = std::mem::replace(taken, batch);
        *next = 0;
        self.recycle(taken);
    }

    /// Has the next batch, if it is there, brought near.
    fn look_for_next(&mut self) {
        if self.coming.is_none()
            && let Ok(batch) = self.done.try_recv()
        {
            batch.bring_all();
            self.coming = Some(batch);
        }
    }

    fn recycle(&self, batch: Box<Batch>) {
        // Where there is enough room already, it is given back to the allocator.
        drop(self.spare.try_send(batch));
    }
}
