//! The EVM's simple instructions in one loop, until one comes that is not simple.
//!
//! revm calls a function for each instruction, and keeps gas, position and stack in memory. Most
//! instructions only move words about: here one loop does them, with all of that in registers.
//! It does an instruction only where that cannot fail, and where nothing changes but the stack,
//! memory that is there already, gas and position. All else (too little gas, a stack too short or
//! too high, a jump to nowhere, memory that has to grow, state, calls) it leaves to revm's own
//! instruction, as if it had never looked at it. The serial engine does without, and so checks it.

use alloy_primitives::U256;
use revm::{
    bytecode::opcode as op,
    interpreter::{
        CallInput, GasTable, Host, InstructionTable, Interpreter, InterpreterAction, Stack,
        instructions::gas::{BASE, HIGH, JUMPDEST, LOW, MID, VERYLOW},
        interpreter::EthInterpreter,
        interpreter_types::{Jumps as _, LoopControl as _},
    },
    primitives::hardfork::SpecId,
};

/// Words that a stack holds at most.
const HEIGHT_MAX: usize = 1_024;
/// The first fork that has each instruction of the loop (PUSH0).
const SINCE: SpecId = SpecId::SHANGHAI;

/// Runs a frame until it calls, creates, returns or fails: the same as revm's own loop.
pub(super) fn run<H: Host + ?Sized>(
    interpreter: &mut Interpreter,
    (instructions, prices): (&InstructionTable<EthInterpreter, H>, &GasTable),
    host: &mut H,
) -> InterpreterAction {
    let is_known = interpreter.runtime_flag.spec_id.is_enabled_in(SINCE);
    let end = loop {
        if is_known {
            simple_ones(interpreter);
        }
        if let Err(end) = interpreter.step(instructions, prices, host) {
            break end;
        }
    };
    if interpreter.bytecode.action().is_none() {
        interpreter.halt(end);
    }
    interpreter.take_next_action()
}

/// Executes up to the first instruction that is not simple.
#[expect(clippy::too_many_lines, reason = "one line an instruction")]
fn simple_ones(interpreter: &mut Interpreter) {
    let Interpreter { bytecode, gas, stack, memory, input, return_data, .. } = interpreter;
    let Some(destinations) = bytecode.legacy_jump_table() else { return };
    let Some(mut words) = Words::of(stack) else { return };
    let code = &bytecode.bytes_ref()[..];
    let mut memory = memory.context_memory_mut();
    let mut here = code[bytecode.pc()..].iter();
    let mut left = gas.remaining();
    // Does an instruction and goes on behind it, or leaves both as they are.
    macro_rules! does {
        ($price:expr, $what:expr, $behind:expr) => {{
            let Some(rest) = left.checked_sub($price) else { break };
            let Some(()) = $what else { break };
            (left, here) = (rest, $behind);
        }};
    }
    // The same, but goes on at a destination, and past that where gas allows.
    macro_rules! jumps {
        ($price:expr, $what:expr, $to:expr) => {{
            let Some(target) = code.get($to..) else { break };
            does!($price, $what, target.iter());
            if let Some(rest) = left.checked_sub(JUMPDEST) {
                left = rest;
                here.next();
            }
        }};
    }
    // A short constant; where a jump follows that goes there, does both at once.
    macro_rules! pushes {
        ($length:literal, $behind:expr) => {{
            let Some((bytes, behind)) = $behind.as_slice().split_first_chunk::<$length>() else {
                break;
            };
            let value = short(bytes);
            match behind.split_first() {
                Some((&op::JUMP, _)) if words.has_room() && destinations.is_valid(value) => {
                    jumps!(VERYLOW + MID, Some(()), value);
                }
                Some((&op::JUMPI, behind)) if words.has_room() && destinations.is_valid(value) => {
                    let Some(condition) = words.peek(1) else { break };
                    if condition.is_zero() {
                        does!(VERYLOW + HIGH, words.pop(), behind.iter());
                    } else {
                        jumps!(VERYLOW + HIGH, words.pop(), value);
                    }
                }
                _ => does!(VERYLOW, words.push(small(value)), behind.iter()),
            }
        }};
    }
    loop {
        let mut next = here.clone();
        let Some(&instruction) = next.next() else { break };
        match instruction {
            op::ADD => does!(VERYLOW, words.merge(|a, b| a.wrapping_add(b)), next),
            op::MUL => does!(LOW, words.merge(|a, b| a.wrapping_mul(b)), next),
            op::SUB => does!(VERYLOW, words.merge(|a, b| a.wrapping_sub(b)), next),
            op::DIV => does!(LOW, words.merge(div), next),
            op::LT => does!(VERYLOW, words.merge(|a, b| truth(a < b)), next),
            op::GT => does!(VERYLOW, words.merge(|a, b| truth(a > b)), next),
            op::SLT => does!(VERYLOW, words.merge(|a, b| truth(unsigned(a) < unsigned(b))), next),
            op::SGT => does!(VERYLOW, words.merge(|a, b| truth(unsigned(a) > unsigned(b))), next),
            op::EQ => does!(VERYLOW, words.merge(|a, b| truth(a == b)), next),
            op::ISZERO => does!(VERYLOW, words.change(|a| truth(a.is_zero())), next),
            op::AND => does!(VERYLOW, words.merge(|a, b| a & b), next),
            op::OR => does!(VERYLOW, words.merge(|a, b| a | b), next),
            op::XOR => does!(VERYLOW, words.merge(|a, b| a ^ b), next),
            op::NOT => does!(VERYLOW, words.change(|a| !a), next),
            op::BYTE => does!(VERYLOW, words.merge(byte), next),
            op::SHL => does!(VERYLOW, words.merge(shift_left), next),
            op::SHR => does!(VERYLOW, words.merge(shift_right), next),
            op::SAR => does!(VERYLOW, words.merge(arithmetic_shift_right), next),
            op::ADDRESS => {
                does!(BASE, words.push(input.target_address.into_word().into()), next);
            }
            op::CALLER => does!(BASE, words.push(input.caller_address.into_word().into()), next),
            op::CALLVALUE => does!(BASE, words.push(input.call_value), next),
            op::CALLDATASIZE => does!(BASE, words.push(small(input.input.len())), next),
            op::CALLDATALOAD => {
                // Inner calls have their input in their caller's memory.
                let CallInput::Bytes(data) = &input.input else { break };
                does!(VERYLOW, words.change(|from| loaded(data, from)), next);
            }
            op::RETURNDATASIZE => does!(BASE, words.push(small(return_data.0.len())), next),
            op::POP => does!(BASE, words.pop(), next),
            op::MLOAD => does!(VERYLOW, words.load(&memory), next),
            op::MSTORE => does!(VERYLOW, words.store(&mut memory), next),
            op::JUMP => {
                let target = words.peek(1).and_then(place);
                let Some(target) = target.filter(|it| destinations.is_valid(*it)) else { break };
                jumps!(MID, words.pop(), target);
            }
            op::JUMPI if words.peek(2).is_some_and(|condition| condition.is_zero()) => {
                does!(HIGH, words.pop_two(), next);
            }
            op::JUMPI => {
                let target = words.peek(1).and_then(place);
                let Some(target) = target.filter(|it| destinations.is_valid(*it)) else { break };
                jumps!(HIGH, words.pop_two(), target);
            }
            op::PC => does!(BASE, words.push(small(code.len() - here.len())), next),
            op::MSIZE => does!(BASE, words.push(small(memory.len())), next),
            op::GAS => {
                let after = left.saturating_sub(BASE);
                does!(BASE, words.push(U256::from_limbs([after, 0, 0, 0])), next);
            }
            op::JUMPDEST => does!(JUMPDEST, Some(()), next),
            op::PUSH0 => does!(BASE, words.push(U256::ZERO), next),
            op::PUSH1 => pushes!(1, next),
            op::PUSH2 => pushes!(2, next),
            op::PUSH3 => pushes!(3, next),
            op::PUSH4 => pushes!(4, next),
            op::PUSH5..=op::PUSH32 => {
                let length = usize::from(instruction - op::PUSH0);
                let Some(behind) = next.as_slice().get(length..) else { break };
                let Some(value) = constant(code, code.len() - behind.len(), length) else { break };
                does!(VERYLOW, words.push(value), behind.iter());
            }
            op::DUP1..=op::DUP16 => {
                does!(VERYLOW, words.duplicate(usize::from(instruction - op::DUP1) + 1), next);
            }
            op::SWAP1..=op::SWAP16 => {
                does!(VERYLOW, words.swap(usize::from(instruction - op::SWAP1) + 1), next);
            }
            _ => break,
        }
    }
    words.put_back();
    drop(memory);
    gas.set_remaining(left);
    let at = code.len() - here.len();
    bytecode.absolute_jump(at);
}

/// Bytes of a word.
const WORD: usize = size_of::<U256>();

/// A stack's words. Its height is written back at the end.
struct Words<'a> {
    stack: &'a mut Vec<U256>,
    bottom: *mut U256,
    /// In bytes.
    height: usize,
}

#[expect(unsafe_code, reason = "the stack's height is to stay in a register")]
impl<'a> Words<'a> {
    /// `None` where the stack has no room for all words that it may hold.
    fn of(stack: &'a mut Stack) -> Option<Self> {
        let stack = stack.data_mut();
        let (bottom, height) = (stack.as_mut_ptr(), stack.len() * WORD);
        (stack.capacity() >= HEIGHT_MAX).then_some(Self { stack, bottom, height })
    }

    fn put_back(self) {
        // SAFETY: `push` keeps the height within the capacity, and wrote each word below it that
        // was not there.
        unsafe { self.stack.set_len(self.height / WORD) };
    }

    fn has_room(&self) -> bool {
        self.height < HEIGHT_MAX * WORD
    }

    /// The word at a depth, the uppermost at 1.
    fn at(&mut self, depth: usize) -> Option<&mut U256> {
        let place = self.height.checked_sub(depth * WORD)?;
        let word = self.bottom.wrapping_byte_add(place);
        // SAFETY: words below the height are there, and nothing else refers to them: the vector
        // is borrowed, and so is `self`.
        Some(unsafe { &mut *word })
    }

    fn peek(&mut self, depth: usize) -> Option<U256> {
        self.at(depth).map(|word| *word)
    }

    fn push(&mut self, word: U256) -> Option<()> {
        if !self.has_room() {
            return None;
        }
        let room = self.bottom.wrapping_byte_add(self.height);
        // SAFETY: `of` made sure that there is room for as many words.
        unsafe { room.write(word) };
        self.height += WORD;
        Some(())
    }

    fn pop(&mut self) -> Option<()> {
        self.height = self.height.checked_sub(WORD)?;
        Some(())
    }

    fn pop_two(&mut self) -> Option<()> {
        self.height = self.height.checked_sub(2 * WORD)?;
        Some(())
    }

    /// Replaces the uppermost word.
    fn change(&mut self, by: impl FnOnce(U256) -> U256) -> Option<()> {
        let word = self.at(1)?;
        *word = by(*word);
        Some(())
    }

    /// Replaces the two uppermost words.
    fn merge(&mut self, by: impl FnOnce(U256, U256) -> U256) -> Option<()> {
        let first = self.peek(1)?;
        let second = self.at(2)?;
        *second = by(first, *second);
        self.pop()
    }

    fn duplicate(&mut self, depth: usize) -> Option<()> {
        let word = self.peek(depth)?;
        self.push(word)
    }

    fn swap(&mut self, depth: usize) -> Option<()> {
        let lower = self.peek(depth + 1)?;
        let upper = std::mem::replace(self.at(1)?, lower);
        *self.at(depth + 1)? = upper;
        Some(())
    }

    /// Replaces a place in memory by what is there.
    fn load(&mut self, memory: &[u8]) -> Option<()> {
        let word = self.at(1)?;
        let bytes = memory.get(place(*word)?..)?.first_chunk::<WORD>()?;
        *word = U256::from_be_bytes(*bytes);
        Some(())
    }

    /// Takes a place in memory and a word, and puts the word there.
    fn store(&mut self, memory: &mut [u8]) -> Option<()> {
        let (to, word) = (self.peek(1)?, self.peek(2)?);
        let bytes = memory.get_mut(place(to)?..)?.first_chunk_mut::<WORD>()?;
        *bytes = word.to_be_bytes();
        self.pop_two()
    }
}

/// A word as a place, where it can be one.
fn place(word: U256) -> Option<usize> {
    let [low, rest @ ..] = word.into_limbs();
    (rest == [0; 3]).then(|| usize::try_from(low).ok()).flatten()
}

fn small(value: usize) -> U256 {
    U256::from_limbs([u64::try_from(value).unwrap_or(u64::MAX), 0, 0, 0])
}

fn truth(it: bool) -> U256 {
    U256::from_limbs([u64::from(it), 0, 0, 0])
}

/// Keeps the order of signed words when they are compared as unsigned ones.
fn unsigned(word: U256) -> U256 {
    let [a, b, c, d] = word.into_limbs();
    U256::from_limbs([a, b, c, d ^ (1 << 63)])
}

/// A constant.
fn short<const LENGTH: usize>(bytes: &[u8; LENGTH]) -> usize {
    let mut value = [0; size_of::<usize>()];
    value[size_of::<usize>() - LENGTH..].copy_from_slice(bytes);
    usize::from_be_bytes(value)
}

/// The constant of so many bytes that ends here.
fn constant(code: &[u8], end: usize, length: usize) -> Option<U256> {
    let bytes = match code.get(..end)?.last_chunk::<WORD>() {
        Some(bytes) => *bytes,
        None => {
            let mut bytes = [0; WORD];
            bytes[WORD - end..].copy_from_slice(&code[..end]);
            bytes
        }
    };
    let [a, b, c, d] = U256::from_be_bytes(bytes).into_limbs();
    let [e, f, g, h] = KEPT.get(length)?;
    Some(U256::from_limbs([a & e, b & f, c & g, d & h]))
}

/// What is kept of a word, by how many bytes are.
const KEPT: [[u64; 4]; WORD + 1] = {
    let mut masks = [[0; 4]; WORD + 1];
    let mut length = 1;
    while length <= WORD {
        masks[length] = masks[length - 1];
        masks[length][(length - 1) / 8] |= 0xff << ((length - 1) % 8 * 8);
        length += 1;
    }
    masks
};

/// Call data from a place on; zeros after its end.
fn loaded(data: &[u8], from: U256) -> U256 {
    let rest = place(from).and_then(|from| data.get(from..)).unwrap_or_default();
    if let Some(bytes) = rest.first_chunk::<WORD>() {
        return U256::from_be_bytes(*bytes);
    }
    let mut word = [0; WORD];
    word[..rest.len()].copy_from_slice(rest);
    U256::from_be_bytes(word)
}

#[inline(never)]
fn div(dividend: U256, divisor: U256) -> U256 {
    dividend.checked_div(divisor).unwrap_or_default()
}

fn byte(at: U256, word: U256) -> U256 {
    match place(at) {
        Some(at @ 0..32) => small(usize::from(word.byte(31 - at))),
        _ => U256::ZERO,
    }
}

/// A shift by less than the word's width, as whole limbs and bits.
fn distance(by: U256) -> Option<(usize, u32)> {
    let by = place(by).filter(|by| *by < 256)?;
    Some((by / 64, u32::try_from(by % 64).ok()?))
}

fn shift_left(by: U256, word: U256) -> U256 {
    let Some((limbs, bits)) = distance(by) else { return U256::ZERO };
    let mut wide = [0; 8];
    wide[4..].copy_from_slice(word.as_limbs());
    let limb = |at: usize| {
        let (high, low) = (wide[4 + at - limbs], wide[3 + at - limbs]);
        high << bits | low >> 1 >> (63 - bits)
    };
    U256::from_limbs([limb(0), limb(1), limb(2), limb(3)])
}

fn shift_right(by: U256, word: U256) -> U256 {
    let Some((limbs, bits)) = distance(by) else { return U256::ZERO };
    let mut wide = [0; 8];
    wide[..4].copy_from_slice(word.as_limbs());
    let limb = |at: usize| {
        let (low, high) = (wide[at + limbs], wide[at + limbs + 1]);
        low >> bits | high << 1 << (63 - bits)
    };
    U256::from_limbs([limb(0), limb(1), limb(2), limb(3)])
}

fn arithmetic_shift_right(by: U256, word: U256) -> U256 {
    place(by).filter(|by| *by < 256).map_or_else(
        || if word.bit(255) { U256::MAX } else { U256::ZERO },
        |by| word.arithmetic_shr(by),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{Address, Bytes};
    use proptest::{prelude::*, sample::select};
    use revm::{
        bytecode::Bytecode,
        context_interface::DummyHost,
        interpreter::{
            InputsImpl, SharedMemory,
            instructions::{gas_table_spec, instruction_table},
            interpreter::ExtBytecode,
        },
    };

    /// A frame that is about to run.
    #[derive(Debug, Clone)]
    struct Frame {
        code: Vec<u8>,
        stack: Vec<U256>,
        input: Vec<u8>,
        /// A caller's memory, in which the input lies.
        is_inner: bool,
        gas: u64,
        fork: SpecId,
    }

    impl Frame {
        fn interpreter(&self) -> Interpreter {
            let mut memory = SharedMemory::new();
            let mut input = CallInput::Bytes(self.input.clone().into());
            if self.is_inner {
                memory.resize(self.input.len());
                memory.set(0, &self.input);
                input = CallInput::SharedBuffer(0..self.input.len());
                memory = memory.new_child_context();
            }
            let inputs = InputsImpl {
                target_address: Address::repeat_byte(0x7a),
                caller_address: Address::repeat_byte(0xca),
                input,
                call_value: U256::from(77),
                ..InputsImpl::default()
            };
            // The host of this test knows no randomness.
            let known = |it: &u8| if *it == op::DIFFICULTY { op::NUMBER } else { *it };
            let code: Vec<u8> = self.code.iter().map(known).collect();
            let code = ExtBytecode::new(Bytecode::new_legacy(code.into()));
            let mut interpreter =
                Interpreter::new(memory, code, inputs, false, self.fork, self.gas);
            interpreter.return_data.0 = Bytes::from_static(&[5; 7]);
            self.stack.iter().for_each(|word| assert!(interpreter.stack.push(*word)));
            interpreter
        }

        /// Runs by both; gives all that is left of it.
        fn both(&self) -> [impl PartialEq + std::fmt::Debug + use<>; 2] {
            let tables = (instruction_table::<EthInterpreter, _>(), gas_table_spec(self.fork));
            [false, true].map(|ours| {
                let (mut it, mut host) = (self.interpreter(), DummyHost::new(self.fork));
                let action = if ours {
                    run(&mut it, (&tables.0, &tables.1), &mut host)
                } else {
                    it.run_plain(&tables.0, &tables.1, &mut host)
                };
                let memory = it.memory.context_memory().to_vec();
                (action, it.stack.data().clone(), memory, it.bytecode.pc(), it.gas)
            })
        }

        #[track_caller]
        fn check(&self) {
            let [theirs, ours] = self.both();
            assert_eq!(ours, theirs, "{self:?}");
        }
    }

    fn words() -> impl Strategy<Value = U256> {
        let top = U256::ONE << 255;
        let edges = [U256::ZERO, U256::ONE, top - U256::ONE, top, top + U256::ONE, U256::MAX];
        prop_oneof![
            3 => (0u64..300).prop_map(U256::from),
            2 => select(edges.to_vec()),
            2 => any::<[u64; 4]>().prop_map(U256::from_limbs),
            1 => any::<u64>().prop_map(U256::from),
        ]
    }

    /// A few instructions that belong together.
    fn phrase() -> impl Strategy<Value = Vec<u8>> {
        let push = |length: u8, word: U256| {
            let bytes = word.to_be_bytes::<32>();
            let mut code = vec![op::PUSH0 + length];
            code.extend_from_slice(&bytes[32 - usize::from(length)..]);
            code
        };
        let jump = select(vec![op::JUMP, op::JUMPI]);
        prop_oneof![
            6 => (0u8..=32, words()).prop_map(move |(length, word)| push(length, word)),
            6 => (op::DUP1..=op::SWAP16).prop_map(|it| vec![it]),
            8 => (op::ADD..=op::SAR).prop_map(|it| vec![it]),
            4 => (op::ADDRESS..=op::CODECOPY).prop_map(|it| vec![it]),
            4 => (op::POP..=op::MCOPY).prop_map(|it| vec![it]),
            4 => Just(vec![op::JUMPDEST]),
            // Most go to places within such codes, some of them destinations.
            4 => (1u8..=4, 0u64..120, jump).prop_map(move |(length, to, jump)| {
                [push(length, U256::from(to)), vec![jump]].concat()
            }),
            3 => (0u64..200, select(vec![op::MLOAD, op::MSTORE, op::CALLDATALOAD])).prop_map(
                move |(at, what)| [push(1, U256::from(at)), vec![what]].concat()
            ),
            1 => any::<u8>().prop_map(|it| vec![it]),
        ]
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let forks = vec![SpecId::MERGE, SpecId::SHANGHAI, SpecId::OSAKA];
        let stack = prop_oneof![
            9 => prop::collection::vec(words(), 0..40),
            1 => (words(), 1_000usize..=1_024).prop_map(|(word, height)| vec![word; height]),
        ];
        let code = prop::collection::vec(phrase(), 1..60).prop_map(|it| it.concat());
        let input = prop::collection::vec(any::<u8>(), 0..120);
        (code, stack, input, any::<bool>(), 0u64..3_000, select(forks)).prop_map(
            |(code, stack, input, is_inner, gas, fork)| Frame {
                code,
                stack,
                input,
                is_inner,
                gas,
                fork,
            },
        )
    }

    /// Each instruction alone, at each height of the stack and each amount of gas that matters.
    #[test]
    fn an_instruction_does_what_it_does_in_revm() {
        let words: Vec<U256> = (0..1_024).map(|at| U256::from(at * at % 257)).collect();
        for fork in [SpecId::MERGE, SpecId::SHANGHAI, SpecId::OSAKA] {
            for instruction in 0..=u8::MAX {
                for height in [0, 1, 2, 3, 4, 15, 16, 17, 18, 1_023, 1_024] {
                    for gas in [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 50_000] {
                        // A constant, then a jump, wherever the instruction takes that.
                        let code = vec![instruction, 4, op::JUMP, op::JUMPI, op::JUMPDEST, 0, 7];
                        let stack = words[..height].to_vec();
                        let input = vec![9; 50];
                        Frame { code, stack, input, is_inner: false, gas, fork }.check();
                    }
                }
            }
        }
    }

    #[test]
    fn code_may_end_anywhere() {
        for instruction in 0..=u8::MAX {
            for behind in 0..=33 {
                let code = [&[op::PC, instruction], &[0x5b; 33][..behind]].concat();
                let (stack, input) = (vec![U256::from(2); 20], Vec::new());
                let fork = SpecId::OSAKA;
                Frame { code, stack, input, is_inner: false, gas: 1_000, fork }.check();
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        /// Stack, memory, gas, position and result are the same as revm's.
        #[test]
        fn a_frame_ends_as_it_does_in_revm(frame in frame()) {
            let [theirs, ours] = frame.both();
            prop_assert_eq!(ours, theirs);
        }
    }
}
