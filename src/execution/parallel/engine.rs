//! The engine: goes through a cut in order, and takes over what lanes have done ahead of it.

use crate::execution::{
    block::OpenBlock,
    call::function,
    evm::{EngineError, Evm, Executed, TransactError},
    parallel::{
        lane::{Ahead, COMMITTER, FREE, Lane, Work},
        pace::{Pace, Paced},
        plan::{Hints, Plan},
        planted::{Fault, planted},
        speculation::{Conflict, Speculation},
    },
    prefetch::prefetch,
    preimages::{Remembers as _, foresee, remember},
    serial::{self, Engine, Outcome, Steps},
    store::{ReadError, Store},
    transfer::{Parties, plain_recipient, transfer},
};
use crate::types::{
    diff::Account,
    map::Map,
    mini_block::BlockEnvironment,
    transaction::{RecoveredTransaction, SharedTransaction},
};
use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, U256};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
};

/// Lanes beside the committing thread, at most.
pub const LANES_MAX: usize = 63;
/// What a lane may be ahead of the committing thread, transactions.
const AHEAD_MAX: usize = 256;
/// Addresses whose conflicts are counted.
const CONFLICTS_KNOWN_MAX: usize = 4_096;

/// What the engine has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Plain transfers, done in the ledger.
    pub direct: u64,
    /// Executed by a lane and taken over.
    pub ahead: u64,
    /// Executed in place by the committing thread; those below among them.
    pub in_place: u64,
    /// Executed by a lane and again in place, because what was read had changed.
    pub aborted: u64,
    /// Given up by a lane: only the committing thread could execute them.
    pub abandoned: u64,
}

/// How often speculations failed on an account: its balance, nonce, code or a slot had changed.
#[derive(Debug, Default)]
pub struct Conflicts(Map<Address, u64>);

impl Conflicts {
    fn note(&mut self, conflict: Conflict) {
        if self.0.len() < CONFLICTS_KNOWN_MAX || self.0.contains_key(&conflict.address) {
            *self.0.entry(conflict.address).or_default() += 1;
        }
    }

    /// The worst, and everything counts half from now on.
    pub fn top(&mut self, count: usize) -> Vec<(Address, u64)> {
        let mut all: Vec<(Address, u64)> = self.0.iter().map(|(at, times)| (*at, *times)).collect();
        all.sort_unstable_by_key(|(address, times)| (std::cmp::Reverse(*times), *address));
        all.truncate(count);
        self.0.retain(|_, times| {
            *times /= 2;
            *times > 0
        });
        all
    }
}

/// Plain transfers in the ledger, the rest in several EVMs at once, all committed in order.
pub struct Parallel {
    /// Its state stands in here.
    pub evm: Evm,
    /// Since it was made, or since somebody took them.
    pub counts: Counts,
    /// What speculations failed on.
    pub conflicts: Conflicts,
    lanes: Vec<Port>,
    plan: Plan,
    hints: Hints,
    cut: u64,
    paced: Paced,
}

/// The engine's end of a lane.
struct Port {
    work: Sender<Arc<Work>>,
    done: Receiver<Ahead>,
    spare: Sender<Box<Speculation>>,
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
        let rules = *evm.rules();
        let count = lanes.min(LANES_MAX);
        // Room for the cut that it works on and the next one.
        let (wakers, works): (Vec<_>, Vec<_>) = (0..count).map(|_| bounded(2)).unzip();
        let (mut ports, mut lanes) = (Vec::new(), Vec::new());
        for (at, work) in works.into_iter().enumerate() {
            let (done_in, done) = bounded(AHEAD_MAX);
            let (spare_in, spare) = bounded(AHEAD_MAX);
            let who = at + 1;
            lanes.push(Lane {
                number: u8::try_from(who).unwrap_or(COMMITTER),
                rules,
                work,
                // The first wakes the second and third, and so on: waking takes a system call.
                next: wakers.iter().skip(2 * at + 1).take(2).cloned().collect(),
                done: done_in,
                spare,
                paced: Paced { who, pace: pace.clone() },
            });
            ports.push(Port { work: wakers[at].clone(), done, spare: spare_in });
        }
        let engine = Self {
            evm,
            counts: Counts::default(),
            conflicts: Conflicts::default(),
            lanes: ports,
            plan: Plan::default(),
            hints: Hints::default(),
            cut: 0,
            paced: Paced { who: 0, pace },
        };
        (engine, lanes)
    }

    /// Plans a cut and sets the lanes to work, where that is worth it.
    fn begin(&mut self, transactions: &[SharedTransaction]) -> Option<Run> {
        if self.lanes.is_empty() || transactions.len() < 2 {
            return None;
        }
        let chain_id = self.evm.rules().chain_id;
        let needs_evm = |it: &RecoveredTransaction| plain_recipient(it, chain_id).is_none();
        // Most cuts of transfers hold nothing for the lanes: that is found out quickly.
        let is_any = |(at, it): (usize, &SharedTransaction)| {
            if let Some(far) = transactions.get(at + AHEAD) {
                prefetch(&**far);
            }
            needs_evm(it)
        };
        if transactions.iter().enumerate().filter(|it| is_any(*it)).take(2).count() < 2 {
            return None;
        }
        let listed = transactions.iter().map(|it| (&**it, needs_evm(it)));
        if !self.plan.make(listed, &mut self.hints, self.lanes.len()) {
            return None;
        }
        self.cut += 1;
        for port in &self.lanes {
            port.done.try_iter().for_each(|ahead| port.recycle(ahead));
        }
        let plan = &self.plan;
        let work = Arc::new(Work {
            cut: self.cut,
            block: self.evm.block().clone(),
            window: self.evm.store().window(),
            transactions: plan.positions.iter().map(|at| Arc::clone(&transactions[*at])).collect(),
            lanes: plan.lanes.clone(),
            follows: plan.follows.clone(),
            followed: plan.followed.clone(),
            claims: plan.lanes.iter().map(|_| AtomicU8::new(FREE)).collect(),
            committed: AtomicU32::new(0),
            closed: AtomicBool::new(false),
        });
        // Where its queue is full, a lane has more than enough to do.
        drop(self.lanes[0].work.try_send(Arc::clone(&work)));
        Some(Run { work, failures: 0, next: 0 })
    }
}

impl Engine for Parallel {
    fn execute(
        &mut self,
        block: &mut OpenBlock,
        transactions: Vec<SharedTransaction>,
        is_late: &mut dyn FnMut() -> bool,
    ) -> Result<Outcome, EngineError> {
        let run = self.begin(&transactions);
        let Self { evm, counts, conflicts, lanes, plan, hints, paced, .. } = self;
        let chain_id = evm.rules().chain_id;
        let near = [Near::default(); AHEAD];
        let (plan, foreseen) = (&*plan, 0);
        let mut crew =
            Crew { counts, conflicts, lanes, plan, hints, paced, run, near, foreseen, chain_id };
        let outcome = serial::execute(evm, block, transactions, is_late, &mut crew);
        if let Some(run) = crew.run {
            run.work.closed.store(true, Ordering::Release);
        }
        outcome
    }
}

/// Transactions whose memory is asked for before they are executed, in three steps: what they
/// are, where their accounts are listed, the accounts.
const AHEAD: usize = 32;
const LISTED_AHEAD: usize = 16;
const ACCOUNTS_AHEAD: usize = 8;
/// Calls whose hashes are computed side by side before they are executed, at most.
const CALLS_AHEAD: usize = 8;

/// What has been found out about a transaction ahead of its execution.
#[derive(Debug, Clone, Copy, Default)]
struct Near {
    sender: u64,
    recipient: Option<(Address, u64)>,
}

impl Steps for Crew<'_> {
    #[inline]
    fn look_ahead(&mut self, evm: &mut Evm, at: usize, waiting: &[SharedTransaction]) {
        if let Some(far) = waiting.get(AHEAD - 1) {
            prefetch(&**far);
        }
        let store = evm.store();
        if let Some(next) = waiting.get(LISTED_AHEAD) {
            let sender = store.bring_place(next.sender);
            let recipient = next.envelope.to().map(|to| (to, store.bring_place(to)));
            self.near[(at + LISTED_AHEAD) % AHEAD] = Near { sender, recipient };
        }
        if waiting.len() > ACCOUNTS_AHEAD && at + ACCOUNTS_AHEAD >= LISTED_AHEAD {
            let near = &self.near[(at + ACCOUNTS_AHEAD) % AHEAD];
            store.bring_account(near.sender);
            if let Some((_, hash)) = near.recipient {
                store.bring_account(hash);
            }
        }
        if at >= self.foreseen {
            let next = waiting.iter().take(CALLS_AHEAD).enumerate();
            let calls = next.map(|(next, it)| self.is_in_place(at + next, it).then_some(&**it));
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
        let store = evm.store();
        let mut parties = Parties::default();
        if at >= LISTED_AHEAD {
            let near = &self.near[at % AHEAD];
            parties.sender = store.cached_id(transaction.sender, near.sender);
            parties.recipient = near.recipient.and_then(|(to, hash)| store.cached_id(to, hash));
        }
        let done = transfer(store, block, self.chain_id, (transaction, parties));
        if let Some(done) = done.map_err(EngineError::from)? {
            self.counts.direct += 1;
            return Ok(done);
        }
        self.one(evm, at, (block, transaction))
    }
}

/// Speculations in a row that may fail before the lanes are told to leave the rest of a cut: the
/// committing thread waits for each, and executes it all the same.
const FAILURES_MAX: u32 = 12;

/// A cut that lanes work on.
struct Run {
    work: Arc<Work>,
    /// Speculations that failed one after another.
    failures: u32,
    /// The next place.
    next: usize,
}

/// Everything of the engine but its EVM.
struct Crew<'a> {
    counts: &'a mut Counts,
    conflicts: &'a mut Conflicts,
    lanes: &'a [Port],
    plan: &'a Plan,
    hints: &'a mut Hints,
    paced: &'a Paced,
    run: Option<Run>,
    near: [Near; AHEAD],
    /// Transactions before this one have been prepared for.
    foreseen: usize,
    chain_id: u64,
}

impl Crew<'_> {
    /// Executes one transaction that needs the EVM, by what a lane has done, or in place.
    fn one(
        &mut self,
        evm: &mut Evm,
        at: usize,
        (block, transaction): (&BlockEnvironment, &RecoveredTransaction),
    ) -> Result<Executed, TransactError> {
        let place = self.run.as_mut().and_then(|run| {
            run.next += self.plan.positions[run.next..].iter().take_while(|it| **it < at).count();
            let place = (self.plan.positions.get(run.next) == Some(&at)).then_some(run.next)?;
            Some((Arc::clone(&run.work), place))
        });
        let Some((work, place)) = place else {
            self.counts.in_place += 1;
            return in_place(evm, transaction);
        };
        self.paced.point();
        let (mut conflicted, mut was_ahead) = (false, false);
        let taken = match self.ahead(&work, place) {
            Some((port, mut ahead)) => {
                let taken = take_over(&mut ahead, evm.store(), block, transaction);
                let taken = taken.map_err(EngineError::from)?;
                self.lanes[port].put_back(ahead);
                taken
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
                        self.conflicts.note(conflict);
                    }
                    Taken::Nothing | Taken::All(_) => {}
                }
                in_place(evm, transaction)
            }
        };
        self.weigh(&work, (conflicted, was_ahead));
        let committed = u32::try_from(place + 1).unwrap_or(u32::MAX);
        work.committed.store(committed, Ordering::Release);
        if let Ok(executed) = &done {
            self.hints.learn(function(transaction), executed.gas_used, conflicted);
        }
        done
    }

    /// The committing thread is to execute it, in the EVM.
    fn is_in_place(&self, at: usize, transaction: &RecoveredTransaction) -> bool {
        let is_call = !transaction.envelope.input().is_empty();
        let planned = || self.plan.positions.binary_search(&at).map(|place| self.plan.lanes[place]);
        is_call && (self.run.is_none() || planned() == Ok(0))
    }

    /// Sends the lanes home where nothing that they do can be taken over.
    fn weigh(&mut self, work: &Work, (conflicted, was_ahead): (bool, bool)) {
        let Some(run) = &mut self.run else { return };
        match (conflicted, was_ahead) {
            (true, _) => run.failures += 1,
            (false, true) => run.failures = 0,
            (false, false) => {}
        }
        if run.failures >= FAILURES_MAX {
            work.closed.store(true, Ordering::Release);
        }
    }

    /// What a lane has done of a transaction that it claimed, waited for; `None` where no lane
    /// has claimed it, and none will from now on.
    fn ahead(&self, work: &Work, place: usize) -> Option<(usize, Box<Speculation>)> {
        if work.lanes[place] == 0 {
            return None;
        }
        let claim = &work.claims[place];
        let (free, mine) = (FREE, COMMITTER);
        let lane = claim.compare_exchange(free, mine, Ordering::AcqRel, Ordering::Acquire).err()?;
        let port = usize::from(lane) - 1;
        loop {
            let ahead = self.paced.receive(&self.lanes[port].done)?;
            if ahead.cut == work.cut && ahead.place as usize == place {
                return Some((port, ahead.speculation));
            }
            // Of an earlier cut, or left out since by the block's limits.
            self.lanes[port].recycle(ahead);
        }
    }
}

impl Port {
    fn recycle(&self, ahead: Ahead) {
        self.put_back(ahead.speculation);
    }

    fn put_back(&self, speculation: Box<Speculation>) {
        // Where there is enough room already, it is given back to the allocator.
        drop(self.spare.try_send(speculation));
    }
}

fn in_place(evm: &mut Evm, transaction: &RecoveredTransaction) -> Result<Executed, TransactError> {
    evm.store().preimages().begin(transaction);
    let done = evm.transact(transaction);
    evm.store().preimages().end(transaction);
    done
}

/// What became of a speculation.
enum Taken {
    /// There was none.
    Nothing,
    /// It is committed.
    All(Executed),
    /// It cannot be done ahead of time.
    Abandoned,
    /// It does not hold any more.
    Conflict(Conflict),
}

/// Checks a speculation and commits it; without `All` nothing was changed.
fn take_over(
    ahead: &mut Speculation,
    store: &mut Store,
    block: &BlockEnvironment,
    transaction: &RecoveredTransaction,
) -> Result<Taken, ReadError> {
    let (Some(executed), Some(cost)) = (ahead.executed.take(), transaction.checked_cost()) else {
        return Ok(Taken::Abandoned);
    };
    if let Err(conflict) = ahead.check(store, transaction.sender, cost)? {
        return Ok(Taken::Conflict(conflict));
    }
    let tip = transaction.effective_tip(block.base_fee).unwrap_or_default();
    let tip = U256::from(tip) * U256::from(executed.gas_used);
    let recipient = store.account_id(block.fee_recipient)?;
    let account = store.hot(recipient).account;
    // EIP-161 would remove an empty account that is touched: the EVM knows how.
    let is_empty = account.is_some_and(|account| account.is_empty());
    let account = account.unwrap_or_default();
    let Some(balance) = account.balance.checked_add(tip).filter(|_| !is_empty) else {
        return Ok(Taken::Abandoned);
    };
    ahead.apply(store)?;
    if !tip.is_zero() && !planted(Fault::TipDropped) {
        store.set_account(recipient, Some(Account { balance, ..account }));
    }
    Ok(Taken::All(executed))
}
