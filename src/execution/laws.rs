//! What must hold for every execution, whatever the transactions: conservation, independence from
//! cuts and restarts, and the late parent hash.

use crate::execution::{
    block::{Begun, OpenBlock},
    evm::Rules,
    fees::{FeeRules, ParentBlock, environment_after},
    store::CacheLimits,
    testing::{MemoryView, transaction, transfer},
    worker::{ExecutionConfig, ExecutionStart, Worker},
};
use crate::types::{
    block::BlockClose,
    flow::{Credit, Cut, Ends, Event, Step},
    limits::{MINI_BLOCK_TRANSACTION_BYTES_MAX, TXS_PER_MINI_BLOCK_MAX},
    mini_block::MiniBlock,
    overlay::Overlay,
    transaction::SharedTransaction,
    view::StateView as _,
};
use alloy_consensus::TxEip1559;
use alloy_eips::eip2935::HISTORY_STORAGE_ADDRESS;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256, hex};
use proptest::prelude::*;
use std::{cell::Cell, rc::Rc, sync::Arc};

const GENESIS_HASH: B256 = B256::repeat_byte(0x77);
const FUNDS: u64 = 10_000_000_000_000_000;

fn config() -> ExecutionConfig {
    let fees = FeeRules {
        chain_id: 31_337,
        base_fee_floor: 1_000,
        gas_limit: 30_000_000,
        fee_recipient: Address::repeat_byte(0xfe),
    };
    // A cache that forgets between any two mini-blocks.
    let cache = CacheLimits { entries_max: 4, code_bytes_max: 64 };
    ExecutionConfig { rules: Rules::osaka(31_337), fees, cache }
}

fn genesis() -> ParentBlock {
    ParentBlock {
        number: 0,
        hash: Some(GENESIS_HASH),
        timestamp: 100,
        gas_used: 0,
        base_fee: 1_000_000_000,
        gas_limit: 30_000_000,
    }
}

fn start(base: &MemoryView, parent: ParentBlock) -> ExecutionStart {
    ExecutionStart {
        overlay: Overlay::default(),
        base: Arc::new(base.clone()),
        parent,
        hashes: Vec::new(),
        open: None,
        last_mini_block: 0,
    }
}

fn worker(base: &MemoryView) -> Worker {
    Worker::new(&config(), start(base, genesis()), Box::new(|| None)).unwrap()
}

fn who(at: u8) -> Address {
    Address::repeat_byte(at + 1)
}

fn funded() -> MemoryView {
    let mut view = MemoryView::with_contracts();
    for at in 0..5 {
        view.put(who(at), 0, U256::from(FUNDS), Bytes::new());
    }
    view
}

fn cut(transactions: Vec<SharedTransaction>, ends: Ends) -> Cut {
    Cut { timestamp_us: 5, deadline_us: 9, block_timestamp: 101, transactions, ends }
}

/// Executes without a deadline.
fn work(worker: &mut Worker, cut: Cut) -> (Credit, Vec<Step>) {
    let mut steps = Vec::new();
    let done = worker.work(cut, &mut || false, &mut |step| steps.push(step)).unwrap();
    (done.credit, steps)
}

/// The mini-blocks, the close, and the state with all of them applied.
fn applied(
    base: &MemoryView,
    steps: &[Step],
) -> (Vec<Arc<MiniBlock>>, Option<Arc<BlockClose>>, MemoryView) {
    let (mut mini_blocks, mut close, mut state) = (Vec::new(), None, base.clone());
    for step in steps {
        match &step.event {
            Event::MiniBlock(mini_block) => {
                state.apply(&mini_block.diff);
                mini_blocks.push(Arc::clone(mini_block));
            }
            Event::Close(end) => {
                state.apply(&end.diff);
                close = Some(Arc::clone(end));
            }
        }
    }
    (mini_blocks, close, state)
}

fn wei(state: &MemoryView) -> U256 {
    state.accounts.values().map(|account| account.balance).sum()
}

/// Transfers by five senders, mostly with the next nonce, sometimes with a gap or one used.
fn transfers() -> impl Strategy<Value = Vec<SharedTransaction>> {
    let one =
        (0u8..5, 0u8..8, prop_oneof![8 => Just(0i64), 1 => Just(1), 1 => Just(-1)], 0u64..FUNDS);
    prop::collection::vec(one, 1..60).prop_map(|list| {
        let mut nonces = [0i64; 5];
        let make = |(from, to, slip, wei): (u8, u8, i64, u64)| {
            let nonce = (nonces[usize::from(from)] + slip).max(0);
            nonces[usize::from(from)] += i64::from(slip == 0);
            transfer(who(from), nonce.unsigned_abs(), who(to), wei / 16)
        };
        list.into_iter().map(make).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Balances change hands and lose the base fee, nothing else; every transaction is accounted
    /// for; the overlay says what the diffs say.
    #[test]
    fn wei_is_conserved_less_the_base_fee(list in transfers()) {
        let base = funded();
        let mut worker = worker(&base);
        let (credit, steps) = work(&mut worker, cut(list.clone(), Ends::Block));
        let (mini_blocks, close, state) = applied(&base, &steps);
        let close = close.unwrap();
        let executed: usize = mini_blocks.iter().map(|m| m.transactions.len()).sum();
        prop_assert_eq!(executed + credit.left_over.len() + credit.dropped.len(), list.len());
        let burnt = U256::from(close.gas_used) * U256::from(close.environment.base_fee);
        prop_assert_eq!(wei(&state) + burnt, wei(&base));
        let overlay = &steps.last().unwrap().overlay;
        for at in 0..8 {
            let ours = overlay.account(&who(at)).unwrap_or(base.account(&who(at)).unwrap());
            prop_assert_eq!(ours, state.account(&who(at)).unwrap());
        }
    }

    /// However a block is cut, it ends the same.
    #[test]
    fn cuts_do_not_change_a_block(list in transfers(), size in 1usize..9) {
        let base = funded();
        let mut whole = worker(&base);
        let (_, steps) = work(&mut whole, cut(list.clone(), Ends::Block));
        let (ones, close, state) = applied(&base, &steps);
        let mut parts = worker(&base);
        let (mut steps, mut waiting) = (Vec::new(), Vec::new());
        // What is left over is not offered again, as in the whole.
        for chunk in list.chunks(size) {
            let (credit, more) = work(&mut parts, cut(chunk.to_vec(), Ends::MiniBlock));
            steps.extend(more);
            waiting.extend(credit.left_over);
        }
        let (_, more) = work(&mut parts, cut(Vec::new(), Ends::Block));
        steps.extend(more);
        let (many, parts_close, parts_state) = applied(&base, &steps);
        let receipts = |list: &[Arc<MiniBlock>]| -> Vec<_> {
            list.iter().flat_map(|m| m.receipts.clone()).collect()
        };
        prop_assert_eq!(receipts(&ones), receipts(&many));
        prop_assert_eq!(&state, &parts_state);
        let (close, parts_close) = (close.unwrap(), parts_close.unwrap());
        prop_assert_eq!(close.gas_used, parts_close.gas_used);
        prop_assert_eq!(close.transaction_count, parts_close.transaction_count);
        prop_assert_eq!(parts_close.mini_block_count, many.len() as u64);
    }

    /// However a mini-block is cut, it is the same, and so is the state that a checkpoint puts
    /// under it before it ends.
    #[test]
    fn a_mini_block_is_the_same_in_parts(
        list in transfers(),
        early in 0usize..60,
        size in 1usize..9,
        checkpoint in 0usize..9,
    ) {
        let base = funded();
        let (early, late) = list.split_at(early.min(list.len()));
        let (mut whole, mut parts) = (worker(&base), worker(&base));
        let (_, steps) = work(&mut whole, cut(early.to_vec(), Ends::Block));
        work(&mut parts, cut(early.to_vec(), Ends::Block));
        let (_, _, below) = applied(&base, &steps);
        let hash = B256::repeat_byte(1);
        whole.store().learn_hash(1, hash);
        parts.store().learn_hash(1, hash);
        let (credit, steps) = work(&mut whole, cut(late.to_vec(), Ends::MiniBlock));
        let mut same = Credit::default();
        for (at, chunk) in late.chunks(size).enumerate() {
            if at == checkpoint {
                parts.store().rebase(1, Arc::new(below.clone()));
            }
            let (credit, none) = work(&mut parts, cut(chunk.to_vec(), Ends::Nothing));
            prop_assert!(none.is_empty());
            same.left_over.extend(credit.left_over);
            same.dropped.extend(credit.dropped);
        }
        let (_, same_steps) = work(&mut parts, cut(Vec::new(), Ends::MiniBlock));
        prop_assert_eq!(applied(&below, &steps), applied(&below, &same_steps));
        prop_assert_eq!(credit.left_over, same.left_over);
        prop_assert_eq!(credit.dropped, same.dropped);
        let (_, steps) = work(&mut whole, cut(Vec::new(), Ends::Block));
        let (_, same_steps) = work(&mut parts, cut(Vec::new(), Ends::Block));
        prop_assert_eq!(applied(&below, &steps).1, applied(&below, &same_steps).1);
    }

    /// A worker that takes up an open block ends it as the one would have that opened it.
    #[test]
    fn a_restart_within_a_block_changes_nothing(list in transfers(), at in 0usize..60) {
        let (base, at) = (funded(), at.min(list.len()));
        let (early, late) = list.split_at(at);
        let mut first = worker(&base);
        let (_, steps) = work(&mut first, cut(early.to_vec(), Ends::MiniBlock));
        let (mini_blocks, _, _) = applied(&base, &steps);
        let open = OpenBlock::resumed(&mini_blocks, &config().rules).unwrap();
        let mut begun = start(&base, genesis());
        begun.open = open;
        begun.last_mini_block = mini_blocks.len() as u64;
        for mini_block in &mini_blocks {
            begun.overlay.push(1, Arc::clone(&mini_block.diff));
        }
        let mut second = Worker::new(&config(), begun, Box::new(|| None)).unwrap();
        let (credit, steps) = work(&mut first, cut(late.to_vec(), Ends::Block));
        let (credit_again, steps_again) = work(&mut second, cut(late.to_vec(), Ends::Block));
        let (minis, close, state) = applied(&base, &steps);
        let (minis_again, close_again, state_again) = applied(&base, &steps_again);
        prop_assert_eq!(minis, minis_again);
        prop_assert_eq!(close, close_again);
        prop_assert_eq!(state, state_again);
        prop_assert_eq!(credit.left_over, credit_again.left_over);
        prop_assert_eq!(credit.dropped, credit_again.dropped);
    }
}

/// Stores BLOCKHASH(number - 1) in slot 0 and what the history contract says of it in slot 1.
fn reader_code() -> Bytes {
    let history = hex::encode(HISTORY_STORAGE_ADDRESS);
    let code = format!(
        "60014303405f55 600143035f52 602060206020 5f 73{history} 5a fa 50 602051 600155 00"
    );
    hex::decode(code.replace(' ', "")).unwrap().into()
}

fn call(sender: Address, nonce: u64, to: Address) -> SharedTransaction {
    let tx = TxEip1559 {
        chain_id: 31_337,
        nonce,
        gas_limit: 300_000,
        max_fee_per_gas: 10_000_000_000,
        to: TxKind::Call(to),
        ..TxEip1559::default()
    };
    transaction(sender, tx)
}

#[test]
fn only_who_reads_the_parents_hash_waits_for_it() {
    let (reader, mut base) = (Address::repeat_byte(0xaa), funded());
    base.put(reader, 1, U256::ZERO, reader_code());
    let asked = Rc::new(Cell::new(0u64));
    let count = Rc::clone(&asked);
    let next_hash = Box::new(move || {
        count.set(count.get() + 1);
        Some((count.get(), B256::from(U256::from(count.get()))))
    });
    let mut worker = Worker::new(&config(), start(&base, genesis()), next_hash).unwrap();
    let mut state = base.clone();
    let mut run = |cut, asked_then| {
        let (credit, steps) = work(&mut worker, cut);
        assert!(credit.left_over.is_empty() && credit.dropped.is_empty(), "{credit:?}");
        assert_eq!(asked.get(), asked_then);
        let (mini_blocks, close, after) = applied(&state, &steps);
        assert!(mini_blocks.iter().all(|m| m.receipts.iter().all(|r| r.success)));
        state = after;
        (close, state.clone())
    };
    let slot = |state: &MemoryView, address, slot: u64| {
        B256::from(state.storage(&address, &U256::from(slot)).unwrap())
    };
    // Block 1: its parent is genesis, whose hash is known.
    let (close, state) = run(cut(vec![call(who(0), 0, reader)], Ends::Block), 0);
    assert_eq!(close.unwrap().parent_hash, GENESIS_HASH);
    assert_eq!(slot(&state, reader, 0), GENESIS_HASH);
    assert_eq!(slot(&state, reader, 1), GENESIS_HASH);
    assert_eq!(slot(&state, HISTORY_STORAGE_ADDRESS, 0), GENESIS_HASH);
    // Block 2: a transfer does not wait for block 1's hash, the reader does, once.
    run(cut(vec![transfer(who(1), 0, who(2), 1)], Ends::MiniBlock), 0);
    let (_, state) = run(cut(vec![call(who(0), 1, reader)], Ends::MiniBlock), 1);
    assert_eq!(slot(&state, reader, 0), B256::with_last_byte(1));
    assert_eq!(slot(&state, reader, 1), B256::with_last_byte(1));
    assert_eq!(slot(&state, HISTORY_STORAGE_ADDRESS, 1), B256::ZERO, "written at the close");
    let (close, state) = run(cut(Vec::new(), Ends::Block), 1);
    assert_eq!(close.unwrap().parent_hash, B256::with_last_byte(1));
    assert_eq!(slot(&state, HISTORY_STORAGE_ADDRESS, 1), B256::with_last_byte(1));
    // Block 3: nobody reads it, its close waits.
    run(cut(vec![transfer(who(1), 1, who(2), 1)], Ends::MiniBlock), 1);
    let (close, _) = run(cut(Vec::new(), Ends::Block), 2);
    assert_eq!(close.unwrap().parent_hash, B256::with_last_byte(2));
}

#[test]
fn what_cannot_stand_here_is_left_over_or_dropped_with_the_usual_words() {
    let base = funded();
    let mut worker = worker(&base);
    let cheap = TxEip1559 {
        chain_id: 31_337,
        gas_limit: 21_000,
        to: TxKind::Call(who(1)),
        ..TxEip1559::default()
    };
    let (base_fee, _) = work(&mut worker, cut(Vec::new(), Ends::MiniBlock));
    let base_fee = base_fee.base_fee;
    let cheap = TxEip1559 { max_fee_per_gas: u128::from(base_fee) - 1, ..cheap };
    let list = vec![
        transfer(who(0), 0, who(1), 5),
        transfer(who(0), 0, who(1), 6),
        transfer(who(0), 2, who(1), 7),
        transaction(who(1), cheap),
        transfer(who(9), 0, who(1), 8),
        transfer(who(2), 0, who(1), FUNDS),
    ];
    let (credit, _) = work(&mut worker, cut(list.clone(), Ends::MiniBlock));
    assert_eq!(credit.left_over, [Arc::clone(&list[2]), Arc::clone(&list[3])]);
    let words: Vec<_> = credit.dropped.iter().map(|(_, why)| why.as_str()).collect();
    assert_eq!(words[0], "nonce too low: next nonce 1, tx nonce 0");
    let want = list[4].cost();
    assert_eq!(
        words[1],
        format!(
            "insufficient funds for gas * price + value: address {} have 0 want {want}",
            who(9)
        )
    );
    assert!(words[2].ends_with(&format!("have {FUNDS} want {}", list[5].cost())), "{}", words[2]);
    assert_eq!(words.len(), 3);
}

#[test]
fn a_late_cut_makes_progress_and_gives_the_rest_back() {
    let base = funded();
    let mut worker = worker(&base);
    let list: Vec<_> = (0..20).map(|nonce| transfer(who(0), nonce, who(1), 5)).collect();
    let mut steps = Vec::new();
    let cut = cut(list.clone(), Ends::MiniBlock);
    let done = worker.work(cut, &mut || true, &mut |step| steps.push(step)).unwrap();
    assert_eq!(done.transactions, 5);
    assert_eq!(done.credit.left_over, list[5..]);
}

#[test]
fn a_full_block_says_so_and_leaves_over_what_does_not_fit() {
    let base = funded();
    let mut begun = start(&base, genesis());
    let environment = environment_after(&genesis(), 101, &config().fees);
    let mut open = OpenBlock::new(environment);
    open.gas_used = environment.gas_limit - 50_000;
    begun.open = Some(open);
    let mut worker = Worker::new(&config(), begun, Box::new(|| None)).unwrap();
    let list: Vec<_> = (0..3).map(|nonce| transfer(who(0), nonce, who(1), 5)).collect();
    let (credit, steps) = work(&mut worker, cut(list.clone(), Ends::MiniBlock));
    assert!(credit.block_full);
    assert_eq!(credit.left_over, list[2..]);
    let (mini_blocks, _, _) = applied(&base, &steps);
    assert_eq!(mini_blocks[0].receipts[1].cumulative_gas_used, environment.gas_limit - 8_000);
    let (credit, _) = work(&mut worker, cut(credit.left_over, Ends::Block));
    assert!(!credit.block_full);
    assert!(credit.base_fee > environment.base_fee);
}

#[test]
fn the_parts_of_a_mini_block_share_its_bounds() {
    let base = funded();
    let list: Vec<_> = (0..4).map(|nonce| transfer(who(0), nonce, who(1), 5)).collect();
    let bytes = list[0].block_bytes();
    let cases = [
        Begun { transactions: TXS_PER_MINI_BLOCK_MAX - 3, bytes: 0 },
        Begun { transactions: 0, bytes: MINI_BLOCK_TRANSACTION_BYTES_MAX - 3 * bytes },
    ];
    for case in cases {
        let environment = environment_after(&genesis(), 101, &config().fees);
        let mut start = start(&base, genesis());
        start.open = Some(OpenBlock { begun: case, ..OpenBlock::new(environment) });
        let mut worker = Worker::new(&config(), start, Box::new(|| None)).unwrap();
        let (early, late) = list.split_at(2);
        let (credit, _) = work(&mut worker, cut(early.to_vec(), Ends::Nothing));
        assert!(credit.left_over.is_empty());
        let (credit, _) = work(&mut worker, cut(late.to_vec(), Ends::MiniBlock));
        assert_eq!(credit.left_over, list[3..]);
        let (credit, _) = work(&mut worker, cut(credit.left_over, Ends::MiniBlock));
        assert!(credit.left_over.is_empty(), "the next one has room");
    }
}

/// Not a promise, a number: CPU time of a plain transfer, with its diff.
#[test]
fn what_a_transfer_costs() {
    const ROUNDS: u64 = 40;
    const SENDERS: u64 = 1_000;
    let address = |n: u64| Address::left_padding_from(&(0x1_0000 + n).to_be_bytes());
    let mut base = MemoryView::with_contracts();
    for n in 0..2 * SENDERS {
        base.put(address(n), 0, U256::from(u64::MAX), Bytes::new());
    }
    let mut config = config();
    (config.cache, config.fees.gas_limit) = (CacheLimits::default(), 10_000_000_000);
    let parent = ParentBlock { gas_limit: 10_000_000_000, ..genesis() };
    let mut worker = Worker::new(&config, start(&base, parent), Box::new(|| None)).unwrap();
    let clock = crate::execution::testing::cpu_clock();
    let mut took_us = 0;
    for nonce in 0..ROUNDS {
        let to = |n: u64| address(SENDERS + (n * 7 + nonce) % SENDERS);
        let list = (0..SENDERS).map(|n| transfer(address(n), nonce, to(n), 5)).collect();
        let ends = if nonce == ROUNDS - 1 { Ends::Block } else { Ends::MiniBlock };
        let began = clock();
        let (credit, steps) = work(&mut worker, cut(list, ends));
        took_us += clock() - began;
        assert!(credit.left_over.is_empty() && credit.dropped.is_empty());
        drop(steps);
    }
    println!("a plain transfer: {} ns", took_us * 1_000 / (ROUNDS * SENDERS));
}
