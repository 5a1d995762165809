//! The pinned loop: blank mini-blocks in, sealed ones out.

use crate::mini_block::seal::{Link, SealError, seal};
use crate::runtime::{
    clock::Clock,
    metrics::StageMetrics,
    ring::{Consumer, Producer},
};
use crate::types::flow::{Event, Step};
use alloy_primitives::{B256, Signature};
use std::sync::Arc;

/// What the stage starts from.
pub struct Start {
    /// The newest mini-block that is durable.
    pub link: Link,
    /// The sequencer's key, as a function of the hash.
    pub sign: Box<dyn Fn(B256) -> Signature + Send>,
}

/// Seals every mini-block and hands every step on, in order. Ends when the input closes or the
/// output's reader is gone.
///
/// # Errors
/// Where execution broke its contract; the node must stop.
pub fn run(
    start: Start,
    input: &Consumer<Step>,
    output: &Producer<Step>,
    clock: &Clock,
    metrics: &StageMetrics,
) -> Result<(), SealError> {
    let Start { mut link, sign } = start;
    while let Some(mut step) = input.pop_wait() {
        let start_us = clock.now_us();
        if let Event::MiniBlock(mini_block) = &mut step.event {
            // Nobody else holds it yet, so this copies nothing.
            let mini_block = Arc::make_mut(mini_block);
            link = seal(mini_block, link, &*sign)?;
        }
        metrics.item(clock.now_us() - start_us, input.len());
        if output.push_wait(step).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ring::ring;
    use crate::types::{
        block::BlockClose,
        mini_block::{BlockEnvironment, MiniBlock},
    };
    use alloy_primitives::{Address, U256};

    #[test]
    fn mini_blocks_are_sealed_in_order_and_closes_pass() {
        let signature = Signature::new(U256::ZERO, U256::ZERO, false);
        let environment = BlockEnvironment {
            number: 5,
            timestamp: 6,
            base_fee: 7,
            gas_limit: 8,
            fee_recipient: Address::ZERO,
            prev_randao: B256::ZERO,
        };
        let blank = |timestamp_us| {
            Event::MiniBlock(Arc::new(MiniBlock {
                number: 0,
                environment,
                index: 0,
                first_transaction: 0,
                first_log: 0,
                timestamp_us,
                parent_hash: B256::ZERO,
                transactions: Vec::new(),
                receipts: Vec::new(),
                diff: Arc::default(),
                gas_used: 0,
                transaction_root: B256::ZERO,
                receipt_root: B256::ZERO,
                hash: B256::ZERO,
                signature,
            }))
        };
        let close = Event::Close(Arc::new(BlockClose {
            environment,
            parent_hash: B256::ZERO,
            last_mini_block: 42,
            mini_block_count: 1,
            transaction_count: 0,
            gas_used: 0,
            requests: Vec::new(),
            diff: Arc::default(),
        }));
        let (blanks, input) = ring(3);
        let (output, sealed) = ring(3);
        for event in [blank(10_000), close, blank(20_000)] {
            assert!(blanks.push(Step { event, overlay: Default::default() }).is_ok());
        }
        drop(blanks);
        let link = Link { number: 41, hash: B256::repeat_byte(9) };
        let start = Start { link, sign: Box::new(move |_| signature) };
        let metrics = StageMetrics::unregistered();
        run(start, &input, &output, &Clock::manual(0), &metrics).unwrap();
        let take = || sealed.pop_wait().unwrap().event;
        let (Event::MiniBlock(first), Event::Close(_), Event::MiniBlock(second)) =
            (take(), take(), take())
        else {
            panic!("order changed");
        };
        assert_eq!((first.number, first.parent_hash), (42, link.hash));
        assert_eq!((second.number, second.parent_hash), (43, first.hash));
    }
}
