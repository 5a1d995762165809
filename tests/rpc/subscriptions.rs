//! Subscriptions over a WebSocket.

use crate::mock::{ALICE, CONTRACT, Node, transaction};
use alloy_primitives::{Address, B256};
use basalt::types::flow::ChainEvent;
use jsonrpsee::{
    core::{
        client::{ClientT as _, Subscription, SubscriptionClientT as _},
        params::ArrayParams,
    },
    rpc_params,
    ws_client::{WsClient, WsClientBuilder},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

async fn connect(node: &Node) -> WsClient {
    WsClientBuilder::default().build(node.ws()).await.unwrap()
}

async fn subscribe(client: &WsClient, params: ArrayParams) -> Subscription<Value> {
    client.subscribe("eth_subscribe", params, "eth_unsubscribe").await.unwrap()
}

async fn next(subscription: &mut Subscription<Value>) -> Value {
    let item = tokio::time::timeout(Duration::from_secs(10), subscription.next()).await;
    item.expect("a notification in time").expect("an open subscription").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn mini_blocks_have_megaeths_shape() {
    let node = Node::start();
    let client = connect(&node).await;
    let mut plain = subscribe(&client, rpc_params!["miniBlocks"]).await;
    let mut second =
        subscribe(&client, rpc_params!["miniBlocks", json!({"heartbeat": true})]).await;
    let mini = node.chain.mini_block(vec![transaction(0), transaction(1)]);
    node.events.publish(ChainEvent::MiniBlock(Arc::clone(&mini)));
    let shown = next(&mut plain).await;
    assert_eq!(shown, next(&mut second).await);
    for (field, want) in [
        ("block_number", json!("0x1")),
        ("block_timestamp", json!("0x6553f101")),
        ("index", json!("0x0")),
        ("mini_block_number", json!("0x64")),
        ("mini_block_timestamp", json!("0x60a24181e4000")),
        ("gas_used", json!("0xa410")),
        ("transaction_root", json!(B256::repeat_byte(1))),
        ("receipt_root", json!(B256::repeat_byte(2))),
        ("signature", json!({ "r": "0x8", "s": "0x9", "yParity": "0x1" })),
    ] {
        assert_eq!(shown[field], want, "{field}");
    }
    assert_eq!(shown.as_object().unwrap().len(), 11);
    assert_eq!(shown["transactions"][1]["hash"], json!(transaction(1).hash));
    assert_eq!(shown["receipts"][1]["blockHash"], json!(B256::repeat_byte(0xff)));
    assert_eq!(shown["receipts"][1]["logs"][0]["logIndex"], "0x1");

    let beat_us = mini.timestamp_us + 2_000_000;
    node.events.publish(ChainEvent::Heartbeat { timestamp_us: beat_us });
    let beat = next(&mut second).await;
    assert_eq!(beat["heartbeat"], true);
    assert_eq!(beat["timestamp"], format!("{beat_us:#x}"));
    // Not to the one who did not ask: the next it hears is a mini-block.
    let mini = node.chain.mini_block(vec![transaction(2)]);
    node.events.publish(ChainEvent::MiniBlock(mini));
    assert_eq!(next(&mut plain).await["index"], "0x1");
}

#[tokio::test(flavor = "multi_thread")]
async fn state_changes_are_of_the_asked_accounts() {
    let node = Node::start();
    let client = connect(&node).await;
    let accounts = json!([Address::ZERO, ALICE]);
    let mut changes = subscribe(&client, rpc_params!["stateChanges", accounts]).await;
    let mini = node.chain.mini_block(vec![transaction(0)]);
    node.events.publish(ChainEvent::MiniBlock(mini));
    let slot = B256::with_last_byte(1).to_string();
    let want =
        json!({ "address": ALICE, "nonce": 5, "balance": "0x3e8", "storage": { slot: "0x1234" } });
    assert_eq!(next(&mut changes).await, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_logs_come_with_sealed_blocks() {
    let node = Node::start();
    let client = connect(&node).await;
    let mut heads = subscribe(&client, rpc_params!["newHeads"]).await;
    let filter = json!({ "address": CONTRACT });
    let mut logs = subscribe(&client, rpc_params!["logs", filter]).await;
    let filter = json!({ "address": CONTRACT, "fromBlock": "pending", "toBlock": "pending" });
    let mut realtime = subscribe(&client, rpc_params!["logs", filter]).await;
    let mini = node.chain.mini_block(vec![transaction(0)]);
    node.events.publish(ChainEvent::MiniBlock(mini));
    let early = next(&mut realtime).await;
    assert_eq!(early["blockHash"], json!(B256::repeat_byte(0xff)));
    let block = node.chain.seal();
    node.events.publish(ChainEvent::Block(Arc::clone(&block)));
    let head = next(&mut heads).await;
    assert_eq!(head["hash"], json!(block.hash));
    assert_eq!(head["miniBlockCount"], "0x1");
    assert!(head.get("transactions").is_none());
    let log = next(&mut logs).await;
    assert_eq!(log["blockHash"], json!(block.hash));
    assert_eq!(log["transactionHash"], early["transactionHash"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn admitted_transactions_come_as_hashes_or_whole() {
    let node = Node::start();
    let client = connect(&node).await;
    let mut hashes = subscribe(&client, rpc_params!["newPendingTransactions"]).await;
    let mut whole = subscribe(&client, rpc_params!["newPendingTransactions", true]).await;
    let tx = transaction(0);
    node.events.publish(ChainEvent::Admitted(tx.clone()));
    assert_eq!(next(&mut hashes).await, json!(tx.hash));
    let shown = next(&mut whole).await;
    assert_eq!(shown["hash"], json!(tx.hash));
    assert_eq!(shown["blockHash"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_subscribed_to_is_refused() {
    let node = Node::with(|settings| settings.subscriptions_max = 2);
    let client = connect(&node).await;
    let refused = |params: ArrayParams| {
        let client = &client;
        async move {
            let answer =
                client.subscribe::<Value, _>("eth_subscribe", params, "eth_unsubscribe").await;
            answer.err().unwrap().to_string()
        }
    };
    let text = refused(rpc_params!["nonsense"]).await;
    assert!(text.contains("nonsense") && text.contains("subscription in eth namespace"), "{text}");
    assert!(refused(rpc_params!["stateChanges"]).await.contains("missing value"));
    assert!(refused(rpc_params!["stateChanges", json!([])]).await.contains("1 to 1000"));
    let held = subscribe(&client, rpc_params!["newHeads"]).await;
    let also_held = subscribe(&client, rpc_params!["newHeads"]).await;
    let text = refused(rpc_params!["newHeads"]).await;
    assert!(text.contains("-32005") && text.contains("too many subscriptions"), "{text}");
    let unknown: bool = client.request("eth_unsubscribe", rpc_params!["0x1"]).await.unwrap();
    assert!(!unknown);
    drop((held, also_held));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_is_too_slow_is_told_and_others_go_on() {
    let node = Node::start();
    // A library with room, so that it is the node which finds the client too slow.
    let slow = WsClientBuilder::default()
        .max_buffer_capacity_per_subscription(1_000_000)
        .build(node.ws())
        .await
        .unwrap();
    let mut behind = subscribe(&slow, rpc_params!["newHeads"]).await;
    let block = node.chain.seal();
    // In one go, without a moment for anybody to read: more than the fan-out keeps.
    for _ in 0..100_000 {
        node.events.publish(ChainEvent::Block(Arc::clone(&block)));
    }
    let mut heard = 0;
    let told = loop {
        match tokio::time::timeout(Duration::from_secs(20), behind.next()).await.unwrap() {
            Some(Ok(_)) => heard += 1,
            Some(Err(error)) => break error.to_string(),
            None => break "closed".to_owned(),
        }
    };
    assert!(heard < 100_000, "{heard} {told}");
    let other = connect(&node).await;
    let mut heads = subscribe(&other, rpc_params!["newHeads"]).await;
    node.events.publish(ChainEvent::Block(block));
    assert_eq!(next(&mut heads).await["number"], "0x1");
}
