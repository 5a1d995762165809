//! Synchronous sends (EIP-7966) and MegaETH's form of them.

use crate::{
    ask,
    mock::{Node, transaction},
    refusal, result,
};
use alloy_primitives::B256;
use basalt::types::flow::{ChainEvent, Refusal};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

fn in_background(
    node: &Arc<Node>,
    method: &'static str,
    params: Value,
) -> thread::JoinHandle<Value> {
    let node = Arc::clone(node);
    thread::spawn(move || ask(&node, method, params))
}

/// Makes a transaction durable once the server waits for it.
fn include(node: &Node, nonce: u64) {
    // The send may be on its way still: both orders must work.
    thread::sleep(Duration::from_millis(50));
    let mini = node.chain.mini_block(vec![transaction(nonce)]);
    node.events.publish(ChainEvent::MiniBlock(mini));
}

#[test]
fn a_synchronous_send_returns_the_receipt_of_a_durable_transaction() {
    let node = Arc::new(Node::start());
    for (nonce, method) in [(0, "eth_sendRawTransactionSync"), (1, "realtime_sendRawTransaction")] {
        let tx = transaction(nonce);
        let client = in_background(&node, method, json!([tx.raw]));
        include(&node, nonce);
        let receipt = client.join().unwrap()["result"].clone();
        assert_eq!(receipt["transactionHash"], json!(tx.hash));
        assert_eq!(receipt["blockHash"], json!(B256::repeat_byte(0xff)));
        assert_eq!(receipt["blockNumber"], "0x1");
        assert_eq!(receipt["transactionIndex"], format!("{nonce:#x}"));
    }
}

#[test]
fn time_that_runs_out_is_code_4_with_the_hash() {
    let node = Node::start();
    let tx = transaction(0);
    let start = Instant::now();
    let error = ask(&node, "eth_sendRawTransactionSync", json!([tx.raw, "0x64"]))["error"].clone();
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(error["code"], 4);
    assert_eq!(error["data"], json!(tx.hash));
    assert!(error["message"].as_str().unwrap().contains("added to the mempool"), "{error}");
}

#[test]
fn what_is_durable_already_is_answered_at_once() {
    let node = Node::start();
    let tx = transaction(0);
    node.chain.mini_block(vec![tx.clone()]);
    let low = Refusal { code: -32000, message: "nonce too low".to_owned() };
    node.chain.lock().refuse = Some(low);
    let receipt = result(&node, "eth_sendRawTransactionSync", json!([tx.raw]));
    assert_eq!(receipt["transactionHash"], json!(tx.hash));
    let other = transaction(1).raw.clone();
    let refused = refusal(&node, "eth_sendRawTransactionSync", json!([other]));
    assert_eq!(refused, (-32000, "nonce too low".to_owned()));
    let refused = refusal(&node, "eth_sendRawTransaction", json!([other]));
    assert_eq!(refused, (-32000, "nonce too low".to_owned()));
}

#[test]
fn a_missing_nonce_is_code_6_with_the_expected_one() {
    let node = Node::start();
    let tx = transaction(9);
    node.chain.lock().waiting.push(tx.clone());
    let error = ask(&node, "eth_sendRawTransactionSync", json!([tx.raw]))["error"].clone();
    assert_eq!((&error["code"], &error["data"]), (&json!(6), &json!("0x5")), "{error}");
}

#[test]
fn what_becomes_durable_while_the_nonce_is_looked_up_is_no_gap() {
    let node = Node::start();
    let tx = transaction(5);
    node.chain.lock().waiting.push(tx.clone());
    node.chain.lock().included_when_asked = true;
    let error = ask(&node, "eth_sendRawTransactionSync", json!([tx.raw, "0x64"]))["error"].clone();
    // Nobody tells this server of the mini-block: it waits, as it would for any other.
    assert_eq!(error["code"], 4, "{error}");
}

#[test]
fn waiting_is_bounded() {
    let node = Arc::new(Node::with(|settings| settings.sync_waiters_max = 1));
    let first = transaction(0).raw.clone();
    let client = in_background(&node, "eth_sendRawTransactionSync", json!([first, 2000]));
    thread::sleep(Duration::from_millis(100));
    let second = transaction(1).raw.clone();
    assert_eq!(refusal(&node, "eth_sendRawTransactionSync", json!([second])).0, -32005);
    include(&node, 0);
    assert!(client.join().unwrap()["result"].is_object());
}
