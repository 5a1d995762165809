//! The EVM's simple instructions in one loop, until one comes that is not simple.
//!
//! revm calls a function for each instruction, and keeps gas, position and stack in memory. Most
//! instructions only move words about: here one loop does them, with all of that in registers.
//! It does an instruction only where that cannot fail, and where nothing changes but the stack,
//! memory that is there already, gas and position. All else (too little gas, a stack too short or
//! too high, a jump to nowhere, memory that has to grow, state, calls) it leaves to revm's own
//! instruction, as if it had never looked at it. The serial engine does without, and so checks it.

mod arithmetic;
mod stack;
#[cfg(test)]
mod laws;

use crate::execution::interpreter::{
    arithmetic::{
        arithmetic_shift_right, byte, constant, div, extended, is_zero, loaded, mul_rem, place,
        rem, shift_left, shift_right, short, small, truth, unsigned,
    },
    stack::Words,
};
use alloy_primitives::U256;
use revm::{
    bytecode::opcode as op,
    interpreter::{
        CallInput, GasTable, Host, InstructionTable, Interpreter, InterpreterAction,
        instructions::gas::{BASE, HIGH, JUMPDEST, LOW, MID, VERYLOW},
        interpreter::EthInterpreter,
        interpreter_types::{Jumps as _, LoopControl as _},
    },
    primitives::hardfork::SpecId,
};

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
                    if is_zero(condition) {
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
            op::MOD => does!(LOW, words.merge(rem), next),
            op::MULMOD => does!(MID, words.merge_three(mul_rem), next),
            op::SIGNEXTEND => does!(LOW, words.merge(extended), next),
            op::LT => does!(VERYLOW, words.merge(|a, b| truth(a < b)), next),
            op::GT => does!(VERYLOW, words.merge(|a, b| truth(a > b)), next),
            op::SLT => does!(VERYLOW, words.merge(|a, b| truth(unsigned(a) < unsigned(b))), next),
            op::SGT => does!(VERYLOW, words.merge(|a, b| truth(unsigned(a) > unsigned(b))), next),
            op::EQ => does!(VERYLOW, words.merge(|a, b| truth(a == b)), next),
            op::ISZERO => does!(VERYLOW, words.change(|a| truth(is_zero(&a))), next),
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
            op::JUMPI if words.peek(2).is_some_and(is_zero) => {
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
