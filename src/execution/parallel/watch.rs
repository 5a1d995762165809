//! The instructions that look at a balance, or pay from it: they tell the lane's view whose it
//! was. What is only added to may differ when a speculation is taken over.

use crate::execution::{evm::Evm, parallel::view::View};
use alloy_primitives::Address;
use revm::{
    bytecode::opcode::{BALANCE, CALL, CALLCODE, CREATE, CREATE2, SELFBALANCE, SELFDESTRUCT},
    handler::{MainnetContext, instructions::InstructionProvider as _},
    interpreter::{
        Instruction, InstructionContext, InstructionExecResult,
        instructions::{contract, host},
        interpreter::EthInterpreter,
        interpreter_types::InputsTr as _,
    },
};

type Context<'a> = InstructionContext<'a, MainnetContext<View>, EthInterpreter>;
type Watched = (u8, fn(Context<'_>) -> InstructionExecResult);

/// Where on the stack a call's wei lie, and a creation's.
const CALL_VALUE: usize = 2;
const CREATE_VALUE: usize = 0;

/// Puts the watched instructions into a lane's EVM, at the price that they have.
pub(super) fn watch(evm: &mut Evm<View>) {
    let watched: [Watched; 7] = [
        (BALANCE, balance),
        (SELFBALANCE, self_balance),
        (CALL, call::<CALL>),
        (CALLCODE, call::<CALLCODE>),
        (CREATE, create::<false>),
        (CREATE2, create::<true>),
        (SELFDESTRUCT, self_destruct),
    ];
    let table = &mut evm.inner.instruction;
    for (code, instruction) in watched {
        let gas = table.gas_table()[usize::from(code)];
        table.insert_instruction(code, Instruction::new(instruction), gas);
    }
}

fn looked_at(context: &mut Context<'_>, whose: Address) {
    context.host.journaled_state.database.looked_at(whose);
}

/// The running account pays, if it can, where the word at `at` is not zero.
fn pays(context: &mut Context<'_>, at: usize) {
    if context.interpreter.stack.peek(at).is_ok_and(|wei| !wei.is_zero()) {
        let own = context.interpreter.input.target_address();
        looked_at(context, own);
    }
}

fn balance(mut context: Context<'_>) -> InstructionExecResult {
    if let Ok(word) = context.interpreter.stack.peek(0) {
        looked_at(&mut context, Address::from_word(word.into()));
    }
    host::balance(context)
}

fn self_balance(mut context: Context<'_>) -> InstructionExecResult {
    let own = context.interpreter.input.target_address();
    looked_at(&mut context, own);
    host::selfbalance(context)
}

fn call<const KIND: u8>(mut context: Context<'_>) -> InstructionExecResult {
    pays(&mut context, CALL_VALUE);
    contract::call::<KIND, _, _>(context)
}

fn create<const IS_CREATE2: bool>(mut context: Context<'_>) -> InstructionExecResult {
    pays(&mut context, CREATE_VALUE);
    contract::create::<IS_CREATE2, _, _>(context)
}

fn self_destruct(mut context: Context<'_>) -> InstructionExecResult {
    let own = context.interpreter.input.target_address();
    looked_at(&mut context, own);
    host::selfdestruct(context)
}
