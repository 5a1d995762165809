//! Which lane gets which transaction: a guess at who will conflict with whom, never trusted.
//!
//! At first only transactions of one sender are kept together. Where speculations fail, the calls
//! of that function to that contract are taken to conflict where they share an address among
//! their arguments (a token's recipient, the tokens of a pool), and where they still fail, all of
//! them with each other. What has not failed for long is trusted a little more again.

use crate::execution::{
    call::{Function, contract, function},
    parallel::lane::NOBODY,
    words::account_key,
};
use crate::types::{
    map::{Hasher, Map},
    transaction::RecoveredTransaction,
};
use alloy_primitives::Address;
use std::hash::{BuildHasher as _, Hasher as _};

/// Functions that are remembered; with more, all are forgotten before the next plan.
const KNOWN_MAX: usize = 8_192;
/// Gas of a call that was never seen, where it allows more.
const GAS_GUESS: u64 = 60_000;
/// Conflicts of a function in one cut from which on more of its calls are kept together.
const CONFLICTS_TOLERATED: u32 = 3;
/// Transactions without a conflict after which a function is trusted more.
const CALM: u32 = 20_000;
/// Words of call data that are looked at for addresses.
const WORDS_MAX: usize = 8;
/// What taking over a speculation costs the committing thread, in sixteenths of executing it.
const TAKING_OVER: u64 = 3;
/// Calls of less gas are done before the lanes are awake.
const GAS_WORTH_WAKING: u64 = 200_000;

/// Makes plans by what earlier runs say of functions.
#[derive(Default)]
pub(super) struct Planner {
    known: Vec<Hint>,
    /// Where among them each function's stands.
    places: Map<Function, u32>,
    /// The one looked up last: calls of a function mostly come in flocks.
    newest: Option<(Function, u32)>,
    /// Counts the cuts that were planned.
    cut: u64,
    /// The last transaction with a token; `NOBODY` where it needs no EVM.
    last: Map<u64, u32>,
    /// Gas planned for each lane.
    loads: Vec<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Hint {
    gas: u64,
    caution: Caution,
    /// Transactions since the last conflict.
    calm: u32,
    /// The cut in which its caution grew: the plan of that cut did not know.
    since: u64,
    /// Conflicts in the cut `seen`.
    conflicts: u32,
    seen: u64,
}

/// Which calls of a function are kept together, beside those of one sender.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Caution {
    #[default]
    None,
    /// Those that share an address among sender and arguments.
    Arguments,
    /// All.
    Contract,
}

/// The transactions of a cut that need the EVM, by their place among them.
#[derive(Default)]
pub(super) struct Plan {
    /// Where each stands in the cut.
    pub(super) positions: Vec<usize>,
    /// The lane of each; 0 executes in place.
    pub(super) lanes: Vec<u8>,
    /// The one before it that it depends on.
    pub(super) follows: Vec<u32>,
    /// Whether another, on a lane, depends on it.
    pub(super) followed: Vec<bool>,
    /// The place of its function's hint.
    pub(super) hints: Vec<u32>,
}

impl Hint {
    /// Gas that a call will most likely use.
    fn gas(&self, limit: u64) -> u64 {
        if self.gas == 0 { limit.min(GAS_GUESS) } else { self.gas.min(limit) }
    }
}

impl Planner {
    /// Whether to wake lanes for these calls: they may well be done before those are awake.
    pub(super) fn is_worthwhile<'a>(
        &self,
        calls: impl Iterator<Item = &'a RecoveredTransaction>,
    ) -> bool {
        let gas = calls.map(|call| {
            let place = self.places.get(&function(call));
            let hint = place.map_or_else(Hint::default, |at| self.known[*at as usize]);
            hint.gas(call.gas_limit())
        });
        let mut sum = 0;
        // One alone cannot be done beside another.
        gas.enumerate().any(|(at, gas)| {
            sum += gas;
            at > 0 && sum >= GAS_WORTH_WAKING
        })
    }

    /// The place of a function's hint, good until the next plan.
    fn place(&mut self, of: Function) -> u32 {
        if let Some((newest, place)) = self.newest
            && newest == of
        {
            return place;
        }
        let place = *self.places.entry(of).or_insert_with(|| {
            self.known.push(Hint::default());
            u32::try_from(self.known.len() - 1).unwrap_or(u32::MAX)
        });
        self.newest = Some((of, place));
        place
    }

    /// Notes how a call went, of the function whose hint has that place. True where the plans to
    /// come may still learn from it: a conflict, and its caution has not grown in this cut.
    pub(super) fn learn(&mut self, place: u32, gas_used: u64, conflicted: bool) -> bool {
        let cut = self.cut;
        let hint = &mut self.known[place as usize];
        hint.gas = if hint.gas == 0 { gas_used } else { hint.gas - hint.gas / 8 + gas_used / 8 };
        hint.calm += 1;
        let is_news = conflicted && hint.since != cut;
        if conflicted {
            hint.calm = 0;
            hint.conflicts = if hint.seen == cut { hint.conflicts + 1 } else { 1 };
            hint.seen = cut;
            if is_news && hint.conflicts >= CONFLICTS_TOLERATED {
                hint.since = cut;
                hint.caution = match hint.caution {
                    Caution::None => Caution::Arguments,
                    _ => Caution::Contract,
                };
            }
        } else if hint.calm > CALM {
            hint.calm = 0;
            hint.caution = match hint.caution {
                Caution::Contract => Caution::Arguments,
                _ => Caution::None,
            };
        }
        is_news
    }

    /// Gives each transaction that needs the EVM (true, beside its place in the cut) a lane of 1 to
    /// `lanes`, or 0. `None` where all of them are done in place.
    pub(super) fn plan<'a>(
        &mut self,
        transactions: impl Iterator<Item = (usize, &'a RecoveredTransaction, bool)>,
        lanes: usize,
    ) -> Option<Plan> {
        self.cut += 1;
        if self.known.len() > KNOWN_MAX {
            self.known.clear();
            self.places.clear();
            self.newest = None;
        }
        self.last.clear();
        self.loads.clear();
        self.loads.resize(lanes + 1, 0);
        let mut plan = Plan::with_capacity(transactions.size_hint().0);
        for (position, transaction, needs_evm) in transactions {
            if needs_evm {
                self.add(&mut plan, position, transaction);
            } else {
                // In place, so whatever its sender does next must wait for it.
                self.last.insert(token(transaction.sender, &[]), NOBODY);
            }
        }
        plan.lanes.iter().any(|lane| *lane != 0).then_some(plan)
    }

    fn add(&mut self, plan: &mut Plan, position: usize, transaction: &RecoveredTransaction) {
        let of = function(transaction);
        let to = contract(of);
        let hint_at = self.place(of);
        let hint = self.known[hint_at as usize];
        let gas = hint.gas(transaction.gas_limit());
        let mut tokens = [0; WORDS_MAX + 2];
        let count = tokens_of(transaction, to, hint.caution, &mut tokens);
        let place = u32::try_from(plan.lanes.len()).unwrap_or(NOBODY);
        // All that it depends on may matter to it, not only the last: they stand on its lane.
        let mut found = [NOBODY; WORDS_MAX + 2];
        let mut before: Option<(u32, u8)> = None;
        let mut agrees = true;
        for (token, found) in tokens[..count].iter().zip(&mut found) {
            let Some(at) = self.last.insert(*token, place).filter(|at| *at != place) else {
                continue;
            };
            *found = at;
            let lane = plan.lanes.get(at as usize).copied().unwrap_or(0);
            agrees &= before.is_none_or(|(_, other)| other == lane);
            if before.is_none_or(|(other, _)| other < at) {
                before = Some((at, lane));
            }
        }
        let lane = match before {
            Some((_, lane)) if agrees => lane,
            // It depends on two lanes: in place both are done.
            Some(_) => 0,
            None => self.lightest(),
        };
        self.loads[usize::from(lane)] += gas;
        if lane != 0 {
            self.loads[0] += gas * TAKING_OVER / 16;
        }
        plan.hints.push(hint_at);
        plan.positions.push(position);
        plan.lanes.push(lane);
        for before in &found[..count] {
            if let Some(followed) = plan.followed.get_mut(*before as usize) {
                *followed |= lane != 0;
            }
        }
        plan.followed.push(false);
        plan.follows.push(before.filter(|_| lane != 0).map_or(NOBODY, |(place, _)| place));
    }

    fn lightest(&self) -> u8 {
        let lightest = self.loads.iter().enumerate().min_by_key(|(_, load)| **load);
        lightest.map_or(0, |(lane, _)| u8::try_from(lane).unwrap_or(0))
    }
}

impl Plan {
    fn with_capacity(transactions: usize) -> Self {
        Self {
            positions: Vec::with_capacity(transactions),
            lanes: Vec::with_capacity(transactions),
            follows: Vec::with_capacity(transactions),
            followed: Vec::with_capacity(transactions),
            hints: Vec::with_capacity(transactions),
        }
    }
}

/// What a transaction may share with others.
fn tokens_of(
    transaction: &RecoveredTransaction,
    to: Address,
    caution: Caution,
    into: &mut [u64; WORDS_MAX + 2],
) -> usize {
    into[0] = token(transaction.sender, &[]);
    match caution {
        Caution::None => 1,
        Caution::Contract => {
            into[1] = token(to, &[1]);
            2
        }
        Caution::Arguments => {
            into[1] = token(to, transaction.sender.as_slice());
            let arguments = transaction.input.get(4..).unwrap_or_default();
            let mut count = 2;
            for word in arguments.chunks_exact(32).take(WORDS_MAX) {
                let (high, address) = word.split_at(12);
                // An address, not a small number.
                if high.iter().all(|byte| *byte == 0) && address[..8] != [0; 8] {
                    into[count] = token(to, address);
                    count += 1;
                }
            }
            count
        }
    }
}

fn token(of: Address, what: &[u8]) -> u64 {
    let mut hasher = Hasher::default().build_hasher();
    account_key(of).iter().for_each(|word| hasher.write_u64(*word));
    hasher.write(what);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::testing::transaction;
    use crate::types::transaction::SharedTransaction;
    use alloy_consensus::TxEip1559;
    use alloy_primitives::{B256, TxKind};

    const TOKEN: Address = Address::repeat_byte(0x70);

    fn who(at: u8) -> Address {
        Address::repeat_byte(at + 1)
    }

    /// A token's transfer, by its looks.
    fn call(from: u8, to: u8) -> SharedTransaction {
        let argument = B256::left_padding_from(who(to).as_slice());
        let input = [&[1, 2, 3, 4], argument.as_slice(), &[0; 32]].concat();
        let to = TxKind::Call(TOKEN);
        let tx = TxEip1559 { to, gas_limit: 60_000, input: input.into(), ..TxEip1559::default() };
        transaction(who(from), tx)
    }

    /// Lane and what it follows of each; nothing where all are done in place.
    fn planned(planner: &mut Planner, pairs: &[(u8, u8)]) -> Vec<(u8, u32)> {
        let list: Vec<_> = pairs.iter().map(|(from, to)| call(*from, *to)).collect();
        let plan = planner.plan(list.iter().enumerate().map(|(at, it)| (at, &**it, true)), 3);
        let Plan { lanes, follows, .. } = plan.unwrap_or_default();
        lanes.into_iter().zip(follows).collect()
    }

    /// Families of two that pay each other.
    const FAMILIES: [(u8, u8); 8] =
        [(0, 1), (2, 3), (4, 5), (6, 7), (1, 0), (3, 2), (5, 4), (7, 6)];

    #[test]
    fn caution_grows_with_conflicts_and_goes_with_calm() {
        let mut planner = Planner::default();
        let fail = |planner: &mut Planner, times: u32| {
            for _ in 0..times {
                planner.learn(0, 40_000, true);
            }
        };
        planned(&mut planner, &FAMILIES);
        fail(&mut planner, CONFLICTS_TOLERATED - 1);
        assert_eq!(planner.known[0].caution, Caution::None, "a few are tolerated");
        fail(&mut planner, 50);
        assert_eq!(planner.known[0].caution, Caution::Arguments, "one step in one cut");
        let lanes = planned(&mut planner, &FAMILIES);
        for at in 0..4 {
            assert_eq!(lanes[at].0, lanes[at + 4].0, "a family is on one lane: {lanes:?}");
            let expected = if lanes[at].0 == 0 { NOBODY } else { u32::try_from(at).unwrap() };
            assert_eq!(lanes[at + 4].1, expected);
        }
        fail(&mut planner, CONFLICTS_TOLERATED);
        assert_eq!(planner.known[0].caution, Caution::Contract);
        let lanes = planned(&mut planner, &FAMILIES);
        assert!(lanes.is_empty(), "one chain is done in place: {lanes:?}");
        for _ in 0..=2 * (CALM + 1) {
            planner.learn(0, 40_000, false);
        }
        assert_eq!(planner.known[0].caution, Caution::None);
    }

    #[test]
    fn conflicts_are_news_until_caution_has_grown_in_a_cut() {
        let mut planner = Planner::default();
        for _ in 0..2 {
            planned(&mut planner, &FAMILIES);
            let learn = |_| planner.learn(0, 40_000, true);
            let news = (0..2 * CONFLICTS_TOLERATED).map(learn).filter(|is_news| *is_news).count();
            assert_eq!(news, CONFLICTS_TOLERATED as usize);
            assert!(!planner.learn(0, 40_000, false), "what goes well is none");
        }
    }

    #[test]
    fn lanes_are_woken_for_enough_gas_of_two_calls_or_more() {
        let mut planner = Planner::default();
        let list: Vec<_> = (0..40).map(|from| call(from, 41)).collect();
        let enough = |planner: &Planner, count: usize| {
            planner.is_worthwhile(list[..count].iter().map(|it| &**it))
        };
        let least = usize::try_from(GAS_WORTH_WAKING.div_ceil(GAS_GUESS)).unwrap();
        assert!(!enough(&planner, 0) && !enough(&planner, least - 1));
        assert!(enough(&planner, least) && enough(&planner, 40));
        planned(&mut planner, &FAMILIES);
        planner.learn(0, GAS_WORTH_WAKING / 20, false);
        assert!(!enough(&planner, 19) && enough(&planner, 20), "calls turned out to be small");
        let big = TxEip1559 { gas_limit: 1 << 24, ..TxEip1559::default() };
        let big = transaction(who(0), big);
        assert!(!planner.is_worthwhile([&*big].into_iter()), "one has nobody beside it");
    }

    #[test]
    fn what_is_independent_is_spread_and_a_senders_own_stay_together() {
        let mut planner = Planner::default();
        let lanes = planned(&mut planner, &FAMILIES);
        let used: std::collections::BTreeSet<_> = lanes.iter().map(|(lane, _)| *lane).collect();
        assert!(used.len() > 2, "{lanes:?}");
        let lanes = planned(&mut planner, &[(0, 1), (0, 2), (1, 3), (0, 4)]);
        assert_eq!((lanes[0].0, lanes[0].0), (lanes[1].0, lanes[3].0), "{lanes:?}");
    }
}
