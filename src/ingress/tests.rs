//! Admission texts, the pool's promises, and seats that share one ring.

use crate::ingress::{
    admit::{AdmitError, Rules, check_alone, check_sender},
    decode::decode,
    fixture::{Fixed, RICH, account, plain, raw, shared, signer},
    pool::{Entered, Pool, PoolError, PoolLimits},
};
use crate::types::{
    diff::Account,
    ids::DEV_CHAIN_ID,
    transaction::SharedTransaction,
    view::{PoolReader as _, Settlement as _},
};
use alloy_consensus::TxEip1559;
use alloy_primitives::{Bytes, TxKind, U256, keccak256};
use proptest::prelude::*;
use std::{cell::RefCell, sync::Arc};

fn alone(change: impl FnOnce(&mut TxEip1559)) -> String {
    let mut tx = plain(0, 10, 1);
    change(&mut tx);
    let rules = Rules { base_fee_floor: 7, tip_min: 1, ..Rules::new(DEV_CHAIN_ID, 10_000_000) };
    let decoded = decode(raw(&signer(1), tx)).unwrap();
    check_alone(&decoded, &rules).map_or_else(|error| error.to_string(), |()| "fine".to_owned())
}

#[test]
fn refusals_have_their_usual_texts() {
    assert_eq!(alone(|_| ()), "fine");
    let wrong_chain = "invalid chain id for signer: have 1 want 31337";
    assert_eq!(alone(|tx| tx.chain_id = 1), wrong_chain);
    let cap = "transaction gas limit too high (cap: 16777216, tx: 16777217)";
    assert_eq!(alone(|tx| tx.gas_limit = 16_777_217), cap);
    let block = "exceeds block gas limit: gas 10000001, block gas limit 10000000";
    assert_eq!(alone(|tx| tx.gas_limit = 10_000_001), block);
    let tip = "max priority fee per gas higher than max fee per gas: \
               maxPriorityFeePerGas: 11, maxFeePerGas: 10";
    assert_eq!(alone(|tx| tx.max_priority_fee_per_gas = 11), tip);
    let tip = "transaction underpriced: gas tip cap 0, minimum needed 1";
    assert_eq!(alone(|tx| tx.max_priority_fee_per_gas = 0), tip);
    let fee = "transaction underpriced: max fee per gas 6, minimum needed 7";
    assert_eq!(alone(|tx| tx.max_fee_per_gas = 6), fee);
    assert!(alone(|tx| tx.nonce = u64::MAX).starts_with("nonce has max value"));
    let gas = "intrinsic gas too low: gas 20999, minimum needed 21000";
    assert_eq!(alone(|tx| tx.gas_limit = 20_999), gas);
    let floor = alone(|tx| {
        tx.input = vec![1; 100].into();
        tx.gas_limit = 22_600;
    });
    assert_eq!(floor, "insufficient gas for floor data gas cost: gas 22600, minimum needed 25000");
    let code = alone(|tx| {
        tx.to = TxKind::Create;
        tx.input = vec![0; 49_153].into();
    });
    assert_eq!(code, "max initcode size exceeded: code size 49153, limit 49152");
    let funds = "insufficient funds for gas * price + value: tx cost exceeds 256 bits";
    assert_eq!(alone(|tx| tx.value = U256::MAX), funds);
}

#[test]
fn the_account_decides_the_rest() {
    let key = signer(1);
    let rules = Rules::new(DEV_CHAIN_ID, 10_000_000);
    let check = |nonce, account: Account, code: &[u8]| {
        let mut state = Fixed::default();
        state.accounts.insert(key.address(), account);
        state.codes.insert(account.code_hash, Bytes::copy_from_slice(code));
        let tx = shared(&key, plain(nonce, 10, 1));
        check_sender(&tx, &state, &rules).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(check(3, account(3, RICH), &[]), Ok(()));
    let low = "nonce too low: next nonce 4, tx nonce 3";
    assert_eq!(check(3, account(4, RICH), &[]), Err(low.into()));
    assert!(check(1_025, account(0, RICH), &[]).unwrap_err().starts_with("nonce too high"));
    let poor = "insufficient funds for gas * price + value: \
                balance 5, tx cost 210001, overshot 209996";
    assert_eq!(check(0, account(0, 5), &[]), Err(poor.into()));
    let with = |code: &[u8]| Account { code_hash: keccak256(code), ..account(0, RICH) };
    let contract = check(0, with(&[0x60, 0x00]), &[0x60, 0x00]).unwrap_err();
    assert_eq!(contract, format!("sender not an eoa: address {}, len(code): 2", key.address()));
    let delegation = [[0xef, 0x01, 0x00].as_slice(), &[9; 20]].concat();
    assert_eq!(check(0, with(&delegation), &delegation), Ok(()));
    let legacy = alloy_consensus::TypedTransaction::Legacy(alloy_consensus::TxLegacy::default());
    let envelope = key.sign_transaction(legacy);
    let decoded = decode(alloy_eips::eip2718::Encodable2718::encoded_2718(&envelope).into());
    let refused = check_alone(&decoded.unwrap(), &rules).unwrap_err();
    assert!(matches!(refused, AdmitError::Unprotected), "{refused}");
}

/// A pool, and what it handed to ordering.
struct Bench {
    pool: Pool,
    released: RefCell<Vec<SharedTransaction>>,
    room: usize,
}

impl Bench {
    fn new(limits: PoolLimits) -> Self {
        let pool = Pool::new(limits, Box::new(Err));
        Self { pool, released: RefCell::default(), room: usize::MAX }
    }

    fn release(&self, tx: SharedTransaction) -> Result<(), SharedTransaction> {
        let mut released = self.released.borrow_mut();
        if released.len() >= self.room {
            return Err(tx);
        }
        released.push(tx);
        Ok(())
    }

    fn enter(&self, tx: TxEip1559, account: &Account) -> Result<Entered, PoolError> {
        let tx = shared(&signer(1), tx);
        self.pool.enter(tx, account, 0, &|tx| self.release(tx))
    }

    fn nonces(&self) -> Vec<u64> {
        self.released.borrow().iter().map(|tx| tx.nonce()).collect()
    }
}

#[test]
fn a_gap_is_held_until_it_closes() {
    let bench = Bench::new(PoolLimits::default());
    let rich = account(5, RICH);
    for nonce in [8, 6, 7] {
        assert_eq!(bench.enter(plain(nonce, 10, 1), &rich), Ok(Entered::Held));
    }
    let address = signer(1).address();
    assert_eq!(bench.pool.pending_nonce(&address), None);
    assert_eq!(bench.enter(plain(5, 10, 1), &rich), Ok(Entered::Released));
    assert_eq!(bench.nonces(), [5, 6, 7, 8]);
    assert_eq!(bench.pool.pending_nonce(&address), Some(9));
    assert_eq!(bench.pool.totals().1, 0);
    assert_eq!(bench.enter(plain(5, 10, 1), &rich), Err(PoolError::AlreadyKnown));
    bench.pool.included(&bench.released.borrow(), &[]);
    assert_eq!(bench.pool.sizes(), (0, 0));
    assert_eq!((bench.pool.pending_count(), bench.pool.totals()), (0, (0, 0, 0)));
}

#[test]
fn a_nonce_that_became_durable_unseen_is_found_on_the_second_look() {
    let bench = Bench::new(PoolLimits::default());
    assert_eq!(bench.enter(plain(6, 10, 1), &account(5, RICH)), Ok(Entered::Held));
    let address = signer(1).address();
    assert_eq!(bench.pool.take_listed(8), [address]);
    bench.pool.recheck(&address, &account(6, RICH), 0, &|tx| bench.release(tx));
    assert_eq!(bench.nonces(), [6]);
    assert!(bench.pool.take_listed(8).is_empty());
}

#[test]
fn a_replacement_must_pay_a_tenth_more_on_both() {
    let bench = Bench::new(PoolLimits::default());
    let rich = account(0, RICH);
    bench.enter(plain(0, 100, 10), &rich).unwrap();
    let low = PoolError::Underpriced { cap_needed: 110, tip_needed: 11 };
    for (cap, tip) in [(109, 11), (110, 10), (100, 10), (90, 50)] {
        let mut tx = plain(0, cap, tip);
        tx.value = U256::from(2);
        assert_eq!(bench.enter(tx, &rich), Err(low.clone()));
    }
    assert!(low.to_string().starts_with("replacement transaction underpriced"));
    assert_eq!(bench.enter(plain(0, 110, 11), &rich), Ok(Entered::Released));
    assert_eq!(bench.nonces(), [0, 0]);
    assert_eq!((bench.pool.pending_count(), bench.pool.sizes()), (1, (1, 1)));
    // The one that was replaced may be included all the same: the nonce is used.
    let old = bench.released.borrow()[0].clone();
    assert!(bench.pool.pending(&old.hash).is_none());
    bench.pool.included(&[old], &[]);
    assert_eq!((bench.pool.pending_count(), bench.pool.sizes()), (0, (0, 0)));
}

#[test]
fn bounds_refuse_and_change_nothing() {
    let limits =
        PoolLimits { transactions_max: 4, per_sender_max: 3, held_max: 1, ..PoolLimits::default() };
    let bench = Bench::new(limits);
    let rich = account(0, RICH);
    assert_eq!(bench.enter(plain(2, 10, 1), &rich), Ok(Entered::Held));
    assert_eq!(bench.enter(plain(3, 10, 1), &rich), Err(PoolError::Full));
    bench.enter(plain(0, 10, 1), &rich).unwrap();
    bench.enter(plain(1, 10, 1), &rich).unwrap();
    assert_eq!(bench.enter(plain(3, 10, 1), &rich), Err(PoolError::SenderFull(3)));
    // Each costs 210,001 wei: two more than the balance pays for.
    let poor = account(0, 210_001 * 3 + 7);
    let other = |byte, nonce| {
        let tx = shared(&signer(byte), plain(nonce, 10, 1));
        bench.pool.enter(tx, &poor, 0, &|tx| bench.release(tx))
    };
    assert_eq!(other(2, 0), Ok(Entered::Released));
    assert_eq!(other(3, 0), Err(PoolError::Full));
    assert_eq!((bench.pool.pending_count(), bench.pool.sizes()), (4, (4, 2)));
    let full = Bench { room: 0, ..Bench::new(PoolLimits::default()) };
    assert_eq!(full.enter(plain(0, 10, 1), &rich), Err(PoolError::Full));
    assert_eq!((full.pool.pending_count(), full.pool.sizes()), (0, (0, 0)));
    assert_eq!(full.pool.totals(), (0, 0, 0));
}

#[test]
fn what_waits_counts_against_the_balance() {
    let bench = Bench::new(PoolLimits::default());
    let poor = account(0, 210_001 * 2 + 7);
    bench.enter(plain(0, 10, 1), &poor).unwrap();
    bench.enter(plain(1, 10, 1), &poor).unwrap();
    let text = bench.enter(plain(2, 10, 1), &poor).unwrap_err().to_string();
    assert_eq!(
        text,
        "insufficient funds for gas * price + value: \
         balance 420009, queued cost 420002, tx cost 210001, overshot 209994"
    );
    // In a state that has nonce 0 behind it, only the second counts.
    let later = account(1, 210_001 * 2 + 7);
    assert_eq!(bench.enter(plain(2, 10, 1), &later), Ok(Entered::Released));
}

#[test]
fn after_a_drop_the_rest_waits_for_that_nonce_again() {
    let bench = Bench::new(PoolLimits::default());
    let rich = account(0, RICH);
    for nonce in 0..3 {
        bench.enter(plain(nonce, 10, 1), &rich).unwrap();
    }
    let [first, second, _] = <[_; 3]>::try_from(bench.released.take()).unwrap();
    bench.pool.dropped(&first, "insufficient funds");
    bench.pool.dropped(&second, "nonce too high");
    assert_eq!((bench.pool.pending_count(), bench.pool.totals().1), (2, 2));
    assert_eq!(bench.enter(plain(0, 20, 2), &rich), Ok(Entered::Released));
    assert_eq!(bench.nonces(), [0, 1, 2]);
    // Held ones expire, or go when the balance no longer pays for them.
    let again = bench.released.take();
    bench.pool.dropped(&again[0], "void");
    let address = signer(1).address();
    bench.pool.recheck(&address, &account(0, 7), 0, &|tx| bench.release(tx));
    assert_eq!((bench.pool.pending_count(), bench.pool.sizes()), (0, (0, 0)));
    bench.enter(plain(9, 10, 1), &rich).unwrap();
    bench.pool.recheck(&address, &rich, u64::MAX, &|tx| bench.release(tx));
    assert_eq!((bench.pool.pending_count(), bench.pool.sizes()), (0, (0, 0)));
}

#[test]
fn a_replacement_that_came_too_late_holds_nothing_back() {
    let bench = Bench::new(PoolLimits::default());
    let rich = account(0, RICH);
    bench.enter(plain(0, 10, 1), &rich).unwrap();
    bench.enter(plain(1, 10, 1), &rich).unwrap();
    bench.enter(plain(0, 20, 2), &rich).unwrap();
    let [old, next, late] = <[_; 3]>::try_from(bench.released.take()).unwrap();
    bench.pool.dropped(&late, "nonce too low: next nonce 1, tx nonce 0");
    assert_eq!(bench.pool.totals().1, 0);
    assert_eq!(bench.enter(plain(2, 10, 1), &rich), Ok(Entered::Released));
    bench.pool.included(&[old, next], &[]);
    bench.pool.included(&bench.released.take(), &[]);
    assert_eq!((bench.pool.pending_count(), bench.pool.sizes()), (0, (0, 0)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever comes in whatever order: bounds hold, each nonce goes out after the one before it,
    /// and when all is included or dropped nothing is left behind.
    #[test]
    fn the_pool_leaks_nothing(
        steps in prop::collection::vec((0u8..3, 0u64..6, 0u128..3, 0u8..8), 1..60),
    ) {
        let limits = PoolLimits { transactions_max: 8, held_max: 3, ..PoolLimits::default() };
        let bench = Bench::new(limits);
        let mut chain = [0u64; 3];
        for (who, ahead, price, kind) in steps {
            let key = signer(who + 1);
            let nonce = &mut chain[usize::from(who)];
            let now = account(*nonce, RICH);
            let cap = 10 + price * 5;
            match kind {
                0 => {
                    let mine = |tx: &&SharedTransaction| {
                        tx.sender == key.address() && tx.nonce() == *nonce
                    };
                    let next = bench.released.borrow().iter().rev().find(mine).cloned();
                    if let Some(tx) = next {
                        bench.pool.included(&[tx], &[]);
                        *nonce += 1;
                    }
                }
                1 => {
                    let tx = shared(&key, plain(*nonce + ahead, cap, cap));
                    bench.pool.dropped(&tx, "for the test");
                }
                2 => bench.pool.recheck(&key.address(), &now, 0, &|tx| bench.release(tx)),
                _ => {
                    let tx = shared(&key, plain(*nonce + ahead, cap, cap));
                    let before = bench.released.borrow().len();
                    let entered = bench.pool.enter(tx, &now, 0, &|tx| bench.release(tx));
                    let grew = bench.released.borrow().len() > before;
                    prop_assert_eq!(grew, entered == Ok(Entered::Released));
                }
            }
            prop_assert!(bench.pool.pending_count() <= 8);
            prop_assert_eq!(bench.pool.sizes().0, bench.pool.pending_count());
        }
        for who in 0..3u8 {
            for nonce in 0..80 {
                let tx = shared(&signer(who + 1), plain(nonce, 10, 10));
                bench.pool.included(&[tx], &[]);
            }
        }
        prop_assert_eq!(bench.pool.sizes(), (0, 0));
        prop_assert_eq!((bench.pool.pending_count(), bench.pool.totals()), (0, (0, 0, 0)));
        let mut out = [0u64; 3];
        for tx in bench.released.borrow().iter() {
            let who = (0..3u8).find(|who| signer(who + 1).address() == tx.sender).unwrap();
            let next = &mut out[usize::from(who)];
            prop_assert!(tx.nonce() <= *next, "nonce {} before {next}", tx.nonce());
            *next = (*next).max(tx.nonce() + 1);
        }
    }
}

#[test]
fn a_submission_goes_where_the_pool_was_told_until_it_closes() {
    let pool = Pool::new(PoolLimits::default(), Box::new(|_| Ok(())));
    let submission =
        || crate::types::flow::Submission { raw: Bytes::new(), reply: Box::new(|_| ()) };
    assert!(pool.submit(submission()).is_ok());
    pool.close();
    assert!(pool.submit(submission()).is_err());
    drop(Arc::new(pool));
}
