//! A frame ends as it does in revm, whatever its code.

use crate::execution::interpreter::run;
use alloy_primitives::{Address, Bytes, U256};
use proptest::{prelude::*, sample::select};
use revm::{
    bytecode::{Bytecode, opcode as op},
    context_interface::DummyHost,
    interpreter::{
        CallInput, InputsImpl, Interpreter, SharedMemory,
        instructions::{gas_table_spec, instruction_table},
        interpreter::{EthInterpreter, ExtBytecode},
        interpreter_types::Jumps as _,
    },
    primitives::hardfork::SpecId,
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
        let mut interpreter = Interpreter::new(memory, code, inputs, false, self.fork, self.gas);
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

/// Words at which something changes.
fn edges() -> Vec<U256> {
    let top = U256::ONE << 255;
    let limbs = (1..4).map(|at| (U256::ONE << (64 * at)) - U256::from(at % 2));
    [U256::ZERO, U256::ONE, top - U256::ONE, top, U256::MAX].into_iter().chain(limbs).collect()
}

fn words() -> impl Strategy<Value = U256> {
    prop_oneof![
        3 => (0u64..300).prop_map(U256::from),
        2 => select(edges()),
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
fn words_give_what_they_give_in_revm() {
    let all: Vec<U256> = (0..=257).map(U256::from).chain(edges()).collect();
    let pairs = all.iter().flat_map(|one| edges().into_iter().map(|other| [*one, other]));
    for [one, other] in pairs {
        for instruction in op::ADD..=op::CLZ {
            for stack in [vec![one, one, other], vec![other, other, one], vec![other, one, other]] {
                let (code, input, fork) = (vec![instruction], Vec::new(), SpecId::OSAKA);
                Frame { code, stack, input, is_inner: false, gas: 1_000, fork }.check();
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
