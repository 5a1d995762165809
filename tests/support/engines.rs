//! The serial and the parallel engine side by side on one block.
#![allow(dead_code, reason = "each program uses its part")]
#![allow(unreachable_pub, reason = "a module of programs")]

use alloy_primitives::B256;
use basalt::{
    execution::{
        block::OpenBlock,
        evm::{Evm, Rules},
        hashes::BlockHashes,
        parallel::{counts::Counts, engine::Parallel},
        serial::{Engine, Outcome, Serial},
        store::{CacheLimits, Store},
    },
    types::{
        diff::Diff, mini_block::BlockEnvironment, overlay::Overlay, receipt::Receipt,
        transaction::SharedTransaction, view::StateView,
    },
};
use std::{fmt::Debug, sync::Arc, thread};

/// Where and under which rules a block is executed.
#[derive(Clone)]
pub struct Setting {
    pub state: Arc<dyn StateView>,
    pub rules: Rules,
    pub environment: BlockEnvironment,
    pub excess_blob_gas: u64,
    pub limits: CacheLimits,
}

/// What both engines agreed on.
pub struct Agreed {
    pub receipts: Vec<Receipt>,
    pub gas_used: u64,
    pub counts: Counts,
    /// What each cut changed, by the serial engine and by the parallel one.
    pub diffs: Vec<[Arc<Diff>; 2]>,
}

impl Setting {
    fn evm(&self) -> Evm {
        let base = Arc::clone(&self.state);
        let hashes = BlockHashes::settled();
        let mut evm =
            Evm::new(self.rules, Store::new(base, Overlay::default(), hashes, self.limits));
        evm.set_block(&self.environment, self.excess_blob_gas);
        evm
    }

    /// Executes `cuts` by both engines, every second one in parts by the parallel one; the first
    /// difference is the error.
    pub fn compare(&self, cuts: &[&[SharedTransaction]], lanes: usize) -> Result<Agreed, String> {
        let mut serial = Serial { evm: self.evm() };
        let (mut parallel, crew) = Parallel::new(self.evm(), lanes);
        let mut block = OpenBlock::new(self.environment);
        let mut same = OpenBlock::new(self.environment);
        let (mut receipts, mut diffs) = (Vec::new(), Vec::new());
        let result = thread::scope(|scope| {
            crew.into_iter().for_each(|lane| drop(scope.spawn(move || lane.run())));
            let result = cuts.iter().enumerate().try_for_each(|(at, cut)| {
                let size = cut.len().div_ceil(1 + 2 * (at % 2)).max(1);
                let expected = run(&mut serial, &mut block, cut.chunks(cut.len().max(1)))?;
                let found = run(&mut parallel, &mut same, cut.chunks(size))?;
                equal(&expected, &found)?;
                receipts.extend(expected.receipts);
                let both = [expected.diff, found.diff].map(Arc::new);
                for (evm, diff) in [&mut serial.evm, &mut parallel.evm].into_iter().zip(&both) {
                    evm.store().overlay_mut().push(1, Arc::clone(diff));
                }
                diffs.push(both);
                Ok::<(), String>(())
            });
            let counts = parallel.counts;
            drop(parallel);
            result.map(|()| counts)
        });
        if block != same {
            return Err(format!("blocks differ: {block:?} and {same:?}"));
        }
        result.map(|counts| Agreed { receipts, gas_used: block.gas_used, counts, diffs })
    }
}

/// Executes a mini-block in these parts.
fn run<'a>(
    engine: &mut impl Engine,
    block: &mut OpenBlock,
    parts: impl Iterator<Item = &'a [SharedTransaction]>,
) -> Result<Outcome, String> {
    let mut outcome = Outcome::default();
    for part in parts {
        let more = engine.extend(block, part.to_vec(), &mut || false);
        outcome.append(more.map_err(|error| error.to_string())?);
    }
    engine.end(block, &mut outcome);
    Ok(outcome)
}

fn equal(expected: &Outcome, found: &Outcome) -> Result<(), String> {
    let hashes = |list: &[SharedTransaction]| list.iter().map(|it| it.hash).collect::<Vec<B256>>();
    let dropped = |outcome: &Outcome| {
        outcome.dropped.iter().map(|(it, why)| (it.hash, why.clone())).collect::<Vec<_>>()
    };
    same("transactions", &hashes(&expected.transactions), &hashes(&found.transactions))?;
    same("left over", &hashes(&expected.left_over), &hashes(&found.left_over))?;
    same("dropped", &dropped(expected), &dropped(found))?;
    for (at, (one, two)) in expected.receipts.iter().zip(&found.receipts).enumerate() {
        same(&format!("receipt {at}"), one, two)?;
    }
    same("gas", &expected.gas_used, &found.gas_used)?;
    same("diffs", &expected.diff, &found.diff)
}

fn same<T: PartialEq + Debug>(what: &str, one: &T, two: &T) -> Result<(), String> {
    if one == two { Ok(()) } else { Err(format!("{what} differ: {one:?} and {two:?}")) }
}
