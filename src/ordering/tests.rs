//! The policy against a naive model, and the schedule's rules of time.

use crate::ordering::{
    cut::{Intervals, Schedule, Standing},
    policy::{CutLimits, Waiting},
};
use crate::types::transaction::{RecoveredTransaction, SharedTransaction};
use alloy_consensus::{Signed, TxEip1559, TxEnvelope};
use alloy_primitives::{Address, B256, Bytes, Signature, U256, keccak256};
use proptest::prelude::*;
use std::sync::Arc;

/// An unsigned stand-in: ordering looks at sender, nonce, prices and size only.
pub(super) fn transaction(sender: u8, nonce: u64, cap: u128, tip: u128) -> SharedTransaction {
    sized(sender, nonce, (cap, tip), (21_000, 100))
}

pub(super) fn sized(
    sender: u8,
    nonce: u64,
    (cap, tip): (u128, u128),
    (gas_limit, bytes): (u64, usize),
) -> SharedTransaction {
    let tx = TxEip1559 {
        nonce,
        gas_limit,
        max_fee_per_gas: cap,
        max_priority_fee_per_gas: tip,
        ..TxEip1559::default()
    };
    let hash = keccak256(format!("{sender} {nonce} {cap} {tip}"));
    let signature = Signature::new(U256::ONE, U256::ONE, false);
    let envelope = TxEnvelope::Eip1559(Signed::new_unchecked(tx, signature, hash));
    let signers = (Address::repeat_byte(sender), Vec::new());
    Arc::new(RecoveredTransaction::new(envelope, hash, signers, Bytes::from(vec![0; bytes])))
}

fn hashes(transactions: &[SharedTransaction]) -> Vec<B256> {
    transactions.iter().map(|tx| tx.hash).collect()
}

#[test]
fn tip_then_arrival_and_nonces_in_order() {
    let mut waiting = Waiting::new(10);
    let cheap_first = transaction(1, 0, 12, 2);
    let rich_second = transaction(1, 1, 99, 50);
    let early = transaction(2, 0, 100, 5);
    let late = transaction(3, 0, 100, 5);
    let capped = transaction(4, 0, 13, 50);
    for tx in [&cheap_first, &rich_second, &early, &late, &capped] {
        waiting.add(tx.clone(), 0);
    }
    let chosen = waiting.select(&CutLimits::new(0));
    assert_eq!(hashes(&chosen), hashes(&[early, late, capped, cheap_first, rich_second]));
    assert!(waiting.is_empty());
}

#[test]
fn a_fee_cap_under_the_base_fee_waits_for_it_to_fall() {
    let mut waiting = Waiting::new(10);
    waiting.add(transaction(1, 0, 9, 1), 0);
    assert!(!waiting.any_ready());
    assert!(waiting.select(&CutLimits::new(0)).is_empty());
    waiting.set_base_fee(9);
    assert!(waiting.any_ready());
    assert_eq!(waiting.select(&CutLimits::new(0)).len(), 1);
}

#[test]
fn a_cut_keeps_to_count_gas_and_bytes() {
    let limits = CutLimits::new(20_000_000);
    let mut waiting = Waiting::new(0);
    waiting.add(sized(1, 0, (9, 9), (15_000_000, 100)), 0);
    waiting.add(sized(2, 0, (8, 8), (15_000_000, 100)), 0);
    waiting.add(sized(3, 0, (7, 7), (4_000_000, 100)), 0);
    let senders = |cut: &[SharedTransaction]| cut.iter().map(|tx| tx.sender[0]).collect::<Vec<_>>();
    assert_eq!(senders(&waiting.select(&limits)), [1, 3]);
    assert_eq!(senders(&waiting.select(&limits)), [2]);
    for sender in 0..40 {
        waiting.add(sized(sender, 0, (1, 1), (21_000, 100_000)), 0);
    }
    assert_eq!(waiting.select(&limits).len(), 20);
    assert_eq!(waiting.select(&limits.with_count(7)).len(), 7);
    assert_eq!((waiting.select(&limits).len(), waiting.len()), (13, 0));
}

#[test]
fn what_comes_back_goes_first_unless_it_was_replaced() {
    let mut waiting = Waiting::new(0);
    let back = [transaction(1, 0, 5, 5), transaction(2, 0, 1, 1), transaction(1, 1, 2, 2)];
    let newer = transaction(3, 0, 9, 9);
    let replacement = transaction(2, 0, 4, 4);
    waiting.add(newer.clone(), 0);
    waiting.add(replacement.clone(), 0);
    waiting.put_back(back.to_vec(), 0);
    let [first, _, third] = back;
    let chosen = waiting.select(&CutLimits::new(0));
    assert_eq!(hashes(&chosen), hashes(&[first, third, newer, replacement]));
}

#[test]
fn what_waits_too_long_is_returned_once_a_sender() {
    let mut waiting = Waiting::new(10);
    waiting.add(transaction(1, 0, 1, 1), 5);
    waiting.add(transaction(1, 1, 99, 1), 6);
    waiting.add(transaction(2, 0, 1, 1), 7);
    assert_eq!(hashes(&waiting.expire(7)), [transaction(1, 0, 1, 1).hash]);
    assert_eq!(waiting.len(), 1);
    waiting.set_base_fee(0);
    assert_eq!(waiting.select(&CutLimits::new(0)).len(), 1);
}

/// What waits, as a plain list: sender, nonce, cap, tip, rank, serial, hash.
#[derive(Default)]
struct Model {
    waiting: Vec<(u8, u64, u128, u128, u64, u64, B256)>,
    serial: u64,
}

impl Model {
    fn add(&mut self, tx: &SharedTransaction, rank: u64, newest_wins: bool) {
        self.serial += 1;
        let (sender, nonce) = (tx.sender[0], tx.nonce());
        let (cap, tip) = match &tx.envelope {
            TxEnvelope::Eip1559(tx) => (tx.tx().max_fee_per_gas, tx.tx().max_priority_fee_per_gas),
            _ => unreachable!(),
        };
        let same =
            |item: &&mut (u8, u64, u128, u128, u64, u64, B256)| item.0 == sender && item.1 == nonce;
        let new = (sender, nonce, cap, tip, rank, self.serial, tx.hash);
        match self.waiting.iter_mut().find(same) {
            Some(old) if newest_wins && old.6 != tx.hash => *old = new,
            Some(_) => {}
            None => self.waiting.push(new),
        }
    }

    fn select(&mut self, count: usize, base_fee: u128) -> Vec<B256> {
        let mut chosen = Vec::new();
        while chosen.len() < count {
            let heads = self.waiting.iter().enumerate().filter(|(_, item)| {
                item.2 >= base_fee
                    && self.waiting.iter().all(|other| other.0 != item.0 || other.1 >= item.1)
            });
            let best = heads.min_by_key(|(_, item)| {
                (item.4, std::cmp::Reverse((item.2 - base_fee).min(item.3)), item.5)
            });
            let Some((at, _)) = best else { break };
            chosen.push(self.waiting.remove(at).6);
        }
        chosen
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Under random arrivals, replacements, base fees, left-overs and drops, every cut equals the
    /// model's: by tip and arrival among heads, nonces in order, nothing lost, nothing twice.
    #[test]
    fn cuts_equal_those_of_a_naive_model(
        steps in prop::collection::vec((0u8..6, 1u8..5, 0u64..4, 1u128..20, 0usize..6), 1..120),
    ) {
        let (mut waiting, mut model) = (Waiting::new(5), Model::default());
        let mut base_fee = 5;
        let mut next = [0u64; 5];
        let mut flight: Vec<SharedTransaction> = Vec::new();
        for (kind, sender, back, price, count) in steps {
            let known = &mut next[usize::from(sender)];
            match kind {
                0..=2 => {
                    let tx = transaction(sender, *known, price + 4, price);
                    *known += 1;
                    waiting.add(tx.clone(), 0);
                    model.add(&tx, u64::MAX, true);
                }
                3 => {
                    let nonce = known.saturating_sub(back + 1);
                    let tx = transaction(sender, nonce, price + 9, price + 1);
                    *known = (*known).max(nonce + 1);
                    let cut = flight.iter().any(|tx| tx.sender[0] == sender && tx.nonce() >= nonce);
                    if !cut {
                        waiting.add(tx.clone(), 0);
                        model.add(&tx, u64::MAX, true);
                    }
                }
                4 => {
                    base_fee = price;
                    waiting.set_base_fee(u64::try_from(price).unwrap());
                }
                _ => {
                    let left_over = flight.split_off(count.min(flight.len()));
                    for (rank, tx) in (0..).zip(&left_over) {
                        model.add(tx, rank, false);
                    }
                    waiting.put_back(left_over, 0);
                    flight = waiting.select(&CutLimits::new(0).with_count(count.max(1)));
                    prop_assert_eq!(hashes(&flight), model.select(count.max(1), base_fee));
                }
            }
            prop_assert_eq!(waiting.len(), model.waiting.len());
        }
    }
}

const SECOND: u64 = 1_000_000;

fn schedule(block_us: u64, parent: u64, now_us: u64) -> Schedule {
    let intervals = Intervals { mini_block_us: 10_000, block_us, deadline_percent: 80 };
    let standing = Standing { parent_timestamp: parent, open_timestamp: None };
    Schedule::new(intervals, standing, now_us)
}

#[test]
fn intervals_stay_on_the_grid_and_missed_ones_are_skipped() {
    let mut schedule = schedule(SECOND, 0, 100 * SECOND + 1);
    assert_eq!(schedule.due_us(), 100 * SECOND + 10_000);
    assert_eq!(schedule.deadline_us(100 * SECOND), 100 * SECOND + 8_000);
    schedule.passed(100 * SECOND + 10_000);
    assert_eq!(schedule.due_us(), 100 * SECOND + 20_000);
    schedule.passed(100 * SECOND + 54_000);
    assert_eq!(schedule.due_us(), 100 * SECOND + 60_000);
    schedule.passed(100 * SECOND + 67_000);
    assert_eq!(schedule.due_us(), 100 * SECOND + 80_000);
}

#[test]
fn a_block_says_the_second_in_which_it_began() {
    let mut schedule = schedule(SECOND, 90, 100 * SECOND + 300_000);
    assert_eq!(schedule.block_timestamp(), 100);
    assert!(!schedule.closes(101 * SECOND - 1) && schedule.closes(101 * SECOND));
    schedule.closed(101 * SECOND + 2_000);
    assert_eq!(schedule.block_timestamp(), 101);
    // Execution was late by seconds: the next block begins where the clock is.
    schedule.closed(105 * SECOND + 700_000);
    assert_eq!(schedule.block_timestamp(), 105);
    assert!(schedule.closes(106 * SECOND));
}

#[test]
fn a_block_in_its_parents_second_lasts_longer() {
    let mut schedule = schedule(SECOND, 100, 100 * SECOND + 300_000);
    assert_eq!(schedule.block_timestamp(), 101);
    assert!(!schedule.closes(101 * SECOND) && schedule.closes(102 * SECOND));
    schedule.closed(102 * SECOND);
    assert_eq!(schedule.block_timestamp(), 102);
    assert!(schedule.closes(103 * SECOND));
}

#[test]
fn a_parent_in_the_future_is_followed_by_one_second_a_block() {
    let mut schedule = schedule(SECOND, 500, 100 * SECOND);
    assert_eq!(schedule.block_timestamp(), 501);
    assert!(schedule.closes(101 * SECOND));
    schedule.closed(101 * SECOND);
    assert_eq!(schedule.block_timestamp(), 502);
}

#[test]
fn an_open_block_keeps_its_timestamp_after_a_restart() {
    let intervals = Intervals { mini_block_us: 10_000, block_us: SECOND, deadline_percent: 80 };
    let standing = Standing { parent_timestamp: 98, open_timestamp: Some(99) };
    let mut schedule = Schedule::new(intervals, standing, 99 * SECOND + 500_000);
    assert_eq!(schedule.block_timestamp(), 99);
    schedule.closed(100 * SECOND);
    assert_eq!(schedule.block_timestamp(), 100);
}

#[test]
fn a_full_block_closes_early_only_where_timestamps_allow() {
    let second = schedule(SECOND, 0, 100 * SECOND);
    assert!(!second.closes_early(101 * SECOND - 1));
    let mut twelve = schedule(12 * SECOND, 0, 120 * SECOND);
    assert!(!twelve.closes_early(120 * SECOND + 999_999));
    assert!(twelve.closes_early(121 * SECOND));
    twelve.closed(121 * SECOND + 500_000);
    assert_eq!(twelve.block_timestamp(), 121);
    assert!(!twelve.closes(132 * SECOND - 1) && twelve.closes(132 * SECOND));
    let mut quarter = schedule(250_000, 0, 100 * SECOND);
    assert!(quarter.closes_early(100 * SECOND + 10_000));
    quarter.closed(100 * SECOND + 10_000);
    assert_eq!(quarter.block_timestamp(), 100);
    quarter.closed(100 * SECOND + 250_000);
    assert_eq!(quarter.block_timestamp(), 100);
}

proptest! {
    /// However late cuts are and however often blocks fill up, timestamps rise as they must and
    /// never run ahead of the clock by more than a second.
    #[test]
    fn timestamps_rise(
        block_us in prop::sample::select(vec![100_000, 250_000, 1_000_000, 1_500_000, 12_000_000]),
        parent in 95u64..101,
        delays in prop::collection::vec((0u64..40_000, any::<bool>()), 1..400),
    ) {
        let mut now_us = 100 * SECOND + 123_456;
        let mut schedule = schedule(block_us, parent, now_us);
        let step = u64::from(block_us >= SECOND);
        let mut before = parent;
        for (delay, full) in delays {
            prop_assert!(schedule.block_timestamp() >= before + step);
            prop_assert!(schedule.block_timestamp() <= now_us / SECOND + 1);
            now_us = schedule.due_us().max(now_us) + delay;
            if schedule.closes(now_us) || (full && schedule.closes_early(now_us)) {
                before = schedule.block_timestamp();
                schedule.closed(now_us);
            }
            schedule.passed(now_us);
            prop_assert!(schedule.due_us() > now_us);
            prop_assert!(schedule.due_us() <= now_us + 15_000);
        }
    }
}
