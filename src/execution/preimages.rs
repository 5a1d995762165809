//! Hashes of 64 bytes, the keys of Solidity's mappings: remembered, and computed ahead of time.
//!
//! Calls of one function hash the same words again and again: the sender or an argument beside
//! the mapping's number. What one call hashed is a recipe for those to come, whose preimages are
//! hashed eight side by side, and whose slots are brought near, before they are executed. A hash
//! is found by its whole preimage, so a bad guess costs time and nothing else.

use crate::crypto::keccak::{LANES, keccak_batch};
use crate::execution::{
    call::{Function, argument, contract, function},
    evm::Evm,
    store::ReadError,
    words::word,
};
use crate::types::{map::Map, transaction::RecoveredTransaction};
use alloy_primitives::{Address, B256, U256, keccak256};
use revm::{
    Database,
    bytecode::opcode::KECCAK256,
    context_interface::Host as _,
    handler::{MainnetContext, instructions::InstructionProvider as _},
    interpreter::{
        Instruction, InstructionContext, InstructionExecResult, InstructionResult,
        instructions::system, interpreter::EthInterpreter, interpreter_types::MemoryTr as _,
    },
};

/// Preimages that are remembered; a power of two.
const REMEMBERED: usize = 128;
/// Preimages of one call that are learnt from.
const NOTED_MAX: usize = LANES;
/// Words of call data that are looked at.
const WORDS_MAX: usize = 8;
/// Functions whose recipe is known; with more, all are forgotten.
const RECIPES_MAX: usize = 4_096;
/// Calls after which a recipe is learnt again.
const LEARN_EVERY: u32 = 1_024;

/// A key's or argument's word, then the mapping's number or the hash of an outer mapping.
type Preimage = [u8; 64];

/// A state that remembers preimages.
pub(super) trait Remembers: Database<Error = ReadError> {
    /// What it remembers.
    fn preimages(&mut self) -> &mut Preimages;

    /// Has the senders of calls to come, and the slots that they will read, brought near.
    fn bring(&self, senders: &[Address], expected: &[Expected]);
}

/// A slot that a call will most likely read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub(super) contract: Address,
    pub(super) slot: U256,
}

/// Remembered preimages and recipes for those of calls to come.
pub(super) struct Preimages {
    known: Box<[(Preimage, B256); REMEMBERED]>,
    recipes: Map<Function, Recipe>,
    /// Of the call that is being executed, where it is learnt from.
    noted: Option<Vec<Preimage>>,
    // Room that is used again.
    batch: Vec<Preimage>,
    hashes: Vec<B256>,
    senders: Vec<Address>,
    expected: Vec<Expected>,
}

/// What a function hashes.
#[derive(Default)]
struct Recipe {
    hashed: Vec<(Word, [u8; 32])>,
    /// Calls since it was learnt.
    calls: u32,
}

/// Where the first word of a preimage comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Sender,
    Argument(usize),
}

impl Default for Preimages {
    fn default() -> Self {
        let blank = [0; 64];
        Self {
            known: Box::new([(blank, keccak256(blank)); REMEMBERED]),
            recipes: Map::default(),
            noted: None,
            batch: Vec::new(),
            hashes: Vec::new(),
            senders: Vec::new(),
            expected: Vec::new(),
        }
    }
}

impl Preimages {
    fn hash(&mut self, preimage: &Preimage) -> B256 {
        if let Some(noted) = &mut self.noted
            && noted.len() < NOTED_MAX
            && !noted.contains(preimage)
        {
            noted.push(*preimage);
        }
        let known = &mut self.known[place(preimage)];
        if known.0 != *preimage {
            *known = (*preimage, keccak256(preimage));
        }
        known.1
    }

    /// A call is about to be executed.
    pub(super) fn begin(&mut self, call: &RecoveredTransaction) {
        self.noted = None;
        if !call.outline().has_input {
            return;
        }
        match self.recipes.get_mut(&function(call)) {
            Some(recipe) if recipe.calls < LEARN_EVERY => recipe.calls += 1,
            _ => self.noted = Some(Vec::new()),
        }
    }

    /// The call has been executed.
    pub(super) fn end(&mut self, call: &RecoveredTransaction) {
        let Some(noted) = self.noted.take() else { return };
        if self.recipes.len() >= RECIPES_MAX {
            self.recipes.clear();
        }
        let hashed = noted.iter().filter_map(|preimage| {
            let (first, second) = halves(preimage);
            let source = if first == call.sender.into_word().0 {
                Word::Sender
            } else {
                Word::Argument((0..WORDS_MAX).find(|at| argument(call, *at) == Some(first))?)
            };
            Some((source, second))
        });
        let recipe = Recipe { hashed: hashed.collect(), calls: 0 };
        self.recipes.insert(function(call), recipe);
    }

    /// Hashes what the calls will most likely hash, as many as go side by side, and says which
    /// slots that leads to. Gives how many of the calls it looked at.
    fn foresee<'a>(
        &mut self,
        calls: impl Iterator<Item = Option<&'a RecoveredTransaction>>,
    ) -> usize {
        self.batch.clear();
        self.senders.clear();
        self.expected.clear();
        let mut looked_at = 0;
        for call in calls {
            let Some(call) = call else {
                looked_at += 1;
                continue;
            };
            let of = function(call);
            let recipe = self.recipes.get(&of).map_or(&[][..], |recipe| &recipe.hashed);
            if self.batch.len() + recipe.len() > LANES {
                break;
            }
            looked_at += 1;
            self.senders.push(call.sender);
            for (word, second) in recipe {
                let first = match word {
                    Word::Sender => Some(call.sender.into_word().0),
                    Word::Argument(at) => argument(call, *at),
                };
                let Some(first) = first else { continue };
                self.batch.push(joined(&first, second));
                self.expected.push(Expected { contract: contract(of), slot: U256::ZERO });
            }
        }
        self.hashes.clear();
        keccak_batch(&self.batch, &mut self.hashes);
        for ((preimage, hash), expected) in
            self.batch.iter().zip(&self.hashes).zip(&mut self.expected)
        {
            self.known[place(preimage)] = (*preimage, *hash);
            expected.slot = (*hash).into();
        }
        looked_at
    }
}

/// Prepares for calls that will soon be executed here, `None` among them for what will not; gives
/// how many of them it looked at.
pub(super) fn foresee<'a>(
    state: &mut impl Remembers,
    calls: impl Iterator<Item = Option<&'a RecoveredTransaction>>,
) -> usize {
    let preimages = state.preimages();
    if preimages.recipes.is_empty() {
        return calls.count();
    }
    let looked_at = preimages.foresee(calls);
    let senders = std::mem::take(&mut preimages.senders);
    let expected = std::mem::take(&mut preimages.expected);
    state.bring(&senders, &expected);
    let preimages = state.preimages();
    (preimages.senders, preimages.expected) = (senders, expected);
    looked_at
}

fn place(preimage: &Preimage) -> usize {
    let mixed = (word(preimage, 24) ^ word(preimage, 56).rotate_right(7))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(mixed >> 40).unwrap_or_default() % REMEMBERED
}

fn halves(preimage: &Preimage) -> ([u8; 32], [u8; 32]) {
    let (mut first, mut second) = ([0; 32], [0; 32]);
    first.copy_from_slice(&preimage[..32]);
    second.copy_from_slice(&preimage[32..]);
    (first, second)
}

fn joined(first: &[u8; 32], second: &[u8; 32]) -> Preimage {
    let mut preimage = [0; 64];
    preimage[..32].copy_from_slice(first);
    preimage[32..].copy_from_slice(second);
    preimage
}

/// Has an EVM hash 64 bytes by what its state remembers, at the price that they have.
pub(super) fn remember<S: Remembers>(evm: &mut Evm<S>) {
    let table = &mut evm.inner.instruction;
    let gas = table.gas_table()[usize::from(KECCAK256)];
    table.insert_instruction(KECCAK256, Instruction::new(keccak::<S>), gas);
}

type Context<'a, S> = InstructionContext<'a, MainnetContext<S>, EthInterpreter>;

fn keccak<S: Remembers>(context: Context<'_, S>) -> InstructionExecResult {
    let interpreter = &mut *context.interpreter;
    let word = |at: usize| interpreter.stack.peek(at).ok().and_then(|word| word.try_into().ok());
    let (from, len): (Option<usize>, Option<usize>) = (word(0), word(1));
    let preimage = (len == Some(size_of::<Preimage>()))
        .then(|| from.and_then(|from| from.checked_add(size_of::<Preimage>())))
        .flatten()
        .filter(|end| *end <= interpreter.memory.size());
    let Some(end) = preimage else { return system::keccak256(context) };
    let mut preimage = [0; 64];
    preimage.copy_from_slice(&interpreter.memory.slice(end - size_of::<Preimage>()..end));
    let cost = context.host.gas_params().keccak256_cost(preimage.len());
    if !interpreter.gas.record_regular_cost(cost) {
        return Err(InstructionResult::OutOfGas);
    }
    let hash = context.host.journaled_state.database.preimages().hash(&preimage);
    if let Some(([_], top)) = interpreter.stack.popn_top() {
        *top = hash.into();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::testing::transaction;
    use crate::types::transaction::SharedTransaction;
    use alloy_consensus::TxEip1559;
    use alloy_primitives::TxKind;
    use proptest::prelude::*;

    fn who(at: u8) -> Address {
        Address::repeat_byte(at + 1)
    }

    /// A token's transfer, by its looks.
    fn call(from: u8, to: u8) -> SharedTransaction {
        let argument = B256::left_padding_from(who(to).as_slice());
        let input = [&[1, 2, 3, 4], argument.as_slice(), &[7; 32]].concat();
        let to = TxKind::Call(Address::repeat_byte(0x70));
        transaction(who(from), TxEip1559 { to, input: input.into(), ..TxEip1559::default() })
    }

    fn key(of: u8, mapping: u8) -> Preimage {
        joined(&who(of).into_word().0, &[mapping; 32])
    }

    #[test]
    fn what_one_call_hashed_is_hashed_for_those_to_come() {
        let mut preimages = Preimages::default();
        let first = call(0, 1);
        preimages.begin(&first);
        for preimage in [key(0, 3), key(1, 3), key(9, 3), key(0, 3)] {
            preimages.hash(&preimage);
        }
        preimages.end(&first);
        let list: Vec<_> = (2..12).map(|at| call(at, at + 20)).collect();
        let looked_at = preimages.foresee(list.iter().map(|it| Some(&**it)));
        assert_eq!(looked_at, LANES / 2, "two each, as many as go side by side");
        let slots: Vec<U256> = preimages.expected.iter().map(|it| it.slot).collect();
        let keys = (2..6).flat_map(|at| [key(at, 3), key(at + 20, 3)]);
        let hashes: Vec<U256> = keys.clone().map(|it| keccak256(it).into()).collect();
        assert_eq!(slots, hashes, "the sender's and the argument's, not the stranger's");
        let known = keys.filter(|it| preimages.known[place(it)].0 == *it).count();
        assert!(known > LANES / 2, "most are remembered: {known}");
    }

    proptest! {
        /// Whatever was remembered or foreseen, a hash is the hash.
        #[test]
        fn a_hash_is_the_hash(
            steps in prop::collection::vec((any::<u8>(), 0u8..3, 0u8..3), 1..400)
        ) {
            let mut preimages = Preimages::default();
            for (of, mapping, kind) in steps {
                let (of, next) = (of % 200, call(of % 200, mapping));
                match kind {
                    0 => preimages.begin(&next),
                    1 => preimages.end(&next),
                    _ => drop(preimages.foresee([Some(&*next), None].into_iter())),
                }
                let preimage = key(of, mapping);
                prop_assert_eq!(preimages.hash(&preimage), keccak256(preimage));
            }
        }
    }
}
