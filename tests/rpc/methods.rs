//! The shape of each method's answer, and how each refuses.

use crate::{
    ask,
    mock::{ALICE, CONTRACT, Node, TOPIC, transaction},
    raw, refusal, result,
};
use alloy_primitives::{B256, hex};
use basalt::types::view::CallOutcome;
use serde_json::{Value, json};

fn node_with_blocks() -> Node {
    let node = Node::start();
    node.chain.mini_block(vec![transaction(0), transaction(1)]);
    node.chain.mini_block(vec![transaction(2)]);
    node.chain.seal();
    node.chain.mini_block(vec![transaction(3)]);
    node.chain.mini_block(vec![transaction(4)]);
    node
}

#[test]
fn plain_questions_have_plain_answers() {
    let node = node_with_blocks();
    for (method, params, want) in [
        ("eth_chainId", json!([]), json!("0x7a69")),
        ("eth_blockNumber", json!([]), json!("0x1")),
        ("eth_syncing", json!([]), json!(false)),
        ("eth_accounts", json!([]), json!([])),
        ("eth_gasPrice", json!([]), json!("0x3b9aca00")),
        ("eth_maxPriorityFeePerGas", json!([]), json!("0x0")),
        ("net_version", json!([]), json!("31337")),
        ("net_listening", json!([]), json!(true)),
        ("net_peerCount", json!([]), json!("0x0")),
        ("web3_clientVersion", json!([]), json!("basalt/test")),
        ("eth_getBalance", json!([ALICE, "latest"]), json!("0x3e8")),
        ("eth_getTransactionCount", json!([ALICE, "latest"]), json!("0x5")),
        ("eth_getCode", json!([CONTRACT, "latest"]), json!("0x60")),
        ("eth_getCode", json!([ALICE, "latest"]), json!("0x")),
        ("eth_getStorageAt", json!([CONTRACT, "0x1", "latest"]), json!(B256::with_last_byte(2))),
        ("eth_getBlockTransactionCountByNumber", json!(["0x1"]), json!("0x3")),
        ("eth_getBlockTransactionCountByNumber", json!(["pending"]), json!("0x2")),
        ("eth_getUncleCountByBlockNumber", json!(["0x1"]), json!("0x0")),
        ("eth_getBlockByNumber", json!(["0x99", false]), Value::Null),
        ("eth_getTransactionReceipt", json!([B256::ZERO]), Value::Null),
        ("eth_estimateGas", json!([{ "to": CONTRACT }]), json!("0x5208")),
        ("eth_call", json!([{ "to": CONTRACT, "data": "0x0102" }, "latest"]), json!("0x0102")),
    ] {
        let answer = ask(&node, method, params.clone());
        assert_eq!(answer["result"], want, "{method} {params}: {answer}");
    }
    let empty = "0xc5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470";
    assert_eq!(result(&node, "web3_sha3", json!(["0x"])), empty);
    node.chain.lock().next_nonce = 9;
    assert_eq!(result(&node, "eth_getTransactionCount", json!([ALICE, "pending"])), "0x9");
}

#[test]
fn blocks_have_ethereums_shape() {
    let node = node_with_blocks();
    let block = result(&node, "eth_getBlockByNumber", json!(["latest", false]));
    for field in ["hash", "parentHash", "stateRoot", "logsBloom", "nonce", "mixHash", "extraData"] {
        assert!(block[field].is_string(), "{field} in {block}");
    }
    assert_eq!(block["number"], "0x1");
    assert_eq!(block["uncles"], json!([]));
    assert_eq!(block["withdrawals"], json!([]));
    assert_eq!(block["miniBlockCount"], "0x2");
    assert_eq!(block["transactions"].as_array().unwrap().len(), 3);
    let by_hash = result(&node, "eth_getBlockByHash", json!([block["hash"], true]));
    let tx = &by_hash["transactions"][2];
    assert_eq!(tx["transactionIndex"], "0x2");
    assert_eq!(tx["blockHash"], block["hash"]);
    assert_eq!(tx["from"], json!(ALICE));
    assert_eq!(tx["type"], "0x2");
    assert_eq!(tx["gasPrice"], "0x3b9acde8");
    assert_eq!(result(&node, "eth_getTransactionByHash", json!([tx["hash"]])), *tx);
    let at = json!(["0x1", "0x2"]);
    assert_eq!(result(&node, "eth_getTransactionByBlockNumberAndIndex", at), *tx);
    let sealed = node.chain.lock().blocks[1].clone();
    let body = alloy_consensus::BlockBody {
        transactions: sealed.transactions.iter().map(|tx| tx.envelope.clone()).collect(),
        ommers: Vec::new(),
        withdrawals: Some(Default::default()),
    };
    let whole = alloy_consensus::Block { header: sealed.header.clone(), body };
    assert_eq!(block["size"], format!("{:#x}", alloy_rlp::Encodable::length(&whole)));
}

#[test]
fn the_pending_block_has_neither_hash_nor_nonce() {
    let node = node_with_blocks();
    let latest = result(&node, "eth_getBlockByNumber", json!(["latest", false]));
    let block = result(&node, "eth_getBlockByNumber", json!(["pending", true]));
    assert_eq!(block["hash"], Value::Null);
    assert_eq!(block["nonce"], Value::Null);
    assert_eq!(block["number"], "0x2");
    assert_eq!(block["parentHash"], latest["hash"]);
    assert_eq!(block["transactions"][1]["transactionIndex"], "0x1");
    node.chain.seal();
    let empty = result(&node, "eth_getBlockByNumber", json!(["pending", false]));
    assert_eq!((&empty["number"], &empty["transactions"]), (&json!("0x3"), &json!([])));
}

#[test]
fn a_receipt_shows_ff_until_its_block_is_sealed() {
    let node = node_with_blocks();
    let tx = transaction(4);
    let open = result(&node, "eth_getTransactionReceipt", json!([tx.hash]));
    let ff = json!(B256::repeat_byte(0xff));
    assert_eq!(open["blockHash"], ff);
    assert_eq!(open["logs"][0]["blockHash"], ff);
    assert_eq!((&open["blockNumber"], &open["transactionIndex"]), (&json!("0x2"), &json!("0x1")));
    assert_eq!(open["logs"][0]["logIndex"], "0x1");
    assert_eq!(open["contractAddress"], Value::Null);
    assert_eq!((&open["status"], &open["type"]), (&json!("0x1"), &json!("0x2")));
    let pending = result(&node, "eth_getBlockReceipts", json!(["pending"]));
    assert_eq!(pending[1], open);
    let block = node.chain.seal();
    let mut sealed = result(&node, "eth_getTransactionReceipt", json!([tx.hash]));
    assert_eq!(sealed["blockHash"], json!(block.hash));
    assert_eq!(sealed["logs"][0]["blockHash"], json!(block.hash));
    let all = result(&node, "eth_getBlockReceipts", json!([block.hash]));
    assert_eq!(all[1], sealed);
    sealed["blockHash"] = ff.clone();
    sealed["logs"][0]["blockHash"] = ff;
    assert_eq!(sealed, open, "nothing else changes");
}

#[test]
fn a_proof_has_the_shape_of_eip_1186() {
    let node = Node::start();
    let full = B256::with_last_byte(5);
    let proof = result(&node, "eth_getProof", json!([ALICE, ["0x0", full], "latest"]));
    assert_eq!(
        proof,
        json!({
            "address": ALICE,
            "accountProof": ["0xc0"],
            "balance": "0x3e8",
            "codeHash": "0xc5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470",
            "nonce": "0x5",
            "storageHash": B256::repeat_byte(9),
            "storageProof": [
                { "key": "0x0", "value": "0x3", "proof": ["0xc0"] },
                { "key": full, "value": "0x3", "proof": ["0xc0"] },
            ],
        })
    );
}

#[test]
fn logs_are_found_within_bounds() {
    let node = node_with_blocks();
    let logs = |filter: Value| result(&node, "eth_getLogs", json!([filter]));
    let count = |filter: Value| logs(filter).as_array().unwrap().len();
    assert_eq!(count(json!({ "fromBlock": "0x0", "toBlock": "latest" })), 3);
    assert_eq!(count(json!({ "fromBlock": "0x0", "toBlock": "pending" })), 5);
    assert_eq!(count(json!({ "fromBlock": "0x1", "topics": [[TOPIC, B256::ZERO]] })), 3);
    assert_eq!(count(json!({ "fromBlock": "0x1", "topics": [null, B256::ZERO] })), 0);
    assert_eq!(count(json!({ "fromBlock": "0x1", "address": ALICE })), 0);
    assert_eq!(count(json!({ "fromBlock": "0x2" })), 0);
    let found = logs(json!({ "fromBlock": "0x1", "address": [CONTRACT] }));
    assert_eq!(found[2]["logIndex"], "0x2");
    assert_eq!(found[2]["removed"], false);
    let refused = |filter: Value| refusal(&node, "eth_getLogs", json!([filter]));
    let range = json!({ "fromBlock": "0x0", "toBlock": "0x9" });
    let beyond = "block range extends beyond current head block";
    assert_eq!(refused(range), (-32602, beyond.to_owned()));
    let unknown = json!({ "blockHash": B256::ZERO });
    assert_eq!(refused(unknown), (-32000, "unknown block".to_owned()));
    let both = json!({ "blockHash": B256::ZERO, "fromBlock": "0x0" });
    assert!(refused(both).1.contains("cannot specify both BlockHash and FromBlock/ToBlock"));
    let few = Node::with(|settings| settings.logs_max = 1);
    few.chain.mini_block(vec![transaction(0), transaction(1)]);
    few.chain.seal();
    let (code, text) = refusal(&few, "eth_getLogs", json!([{ "fromBlock": "0x0" }]));
    assert_eq!(code, -32005);
    assert!(text.contains("query returned more than 1 results"), "{text}");
}

#[test]
fn fee_history_has_one_base_fee_more_than_blocks() {
    let node = node_with_blocks();
    let history = result(&node, "eth_feeHistory", json!(["0x5", "latest", [0, 50.5, 100]]));
    assert_eq!(history["oldestBlock"], "0x0");
    assert_eq!(history["baseFeePerGas"].as_array().unwrap().len(), 3);
    assert_eq!(history["gasUsedRatio"].as_array().unwrap().len(), 2);
    assert_eq!(history["reward"], json!([["0x0", "0x0", "0x0"], ["0x3e8", "0x3e8", "0x3e8"]]));
    let refused = |params: Value| refusal(&node, "eth_feeHistory", params);
    assert!(refused(json!([1, "latest", [101]])).1.contains("invalid reward percentile"));
    assert!(refused(json!([1, "latest", [9, 8]])).1.contains("invalid reward percentile"));
    assert!(refused(json!([1, "0x99", []])).1.contains("request beyond head block"));
}

#[test]
fn calls_fail_with_ethereums_codes() {
    let node = Node::start();
    let call = json!([{ "to": CONTRACT }, "latest"]);
    let mut data = hex::decode("08c379a0").unwrap();
    data.extend(B256::with_last_byte(32));
    data.extend(B256::with_last_byte(2));
    data.extend(b"no");
    data.extend([0; 30]);
    let revert = CallOutcome::Revert { output: data.clone().into(), gas_used: 1 };
    node.chain.lock().outcome = Some(revert);
    for method in ["eth_call", "eth_estimateGas"] {
        let error = ask(&node, method, call.clone())["error"].clone();
        assert_eq!(error["code"], 3);
        assert_eq!(error["message"], "execution reverted: no");
        assert_eq!(error["data"], json!(hex::encode_prefixed(&data)));
    }
    let halt = CallOutcome::Halt { reason: "out of gas".to_owned(), gas_used: 1 };
    node.chain.lock().outcome = Some(halt);
    assert_eq!(refusal(&node, "eth_call", call.clone()), (-32000, "out of gas".to_owned()));
    let allowance = "gas required exceeds allowance (50000000)";
    assert_eq!(refusal(&node, "eth_estimateGas", call), (-32000, allowance.to_owned()));
    node.chain.lock().outcome = None;
    let over = json!([{ "to": CONTRACT }, "latest", { ALICE.to_string(): { "balance": "0x1" } }]);
    let (code, text) = refusal(&node, "eth_call", over);
    assert_eq!((code, text.contains("overrides are not supported")), (-32602, true));
    let both = json!([{ "data": "0x01", "input": "0x02" }]);
    assert!(refusal(&node, "eth_call", both).1.contains("both \"data\" and \"input\" are set"));
}

#[test]
fn wrong_parameters_are_named() {
    let node = Node::start();
    for (method, params, code, part) in [
        ("eth_getBalance", json!([]), -32602, "missing value for required argument 0"),
        ("eth_getBalance", json!(["0x12"]), -32602, "want 40 for common.Address"),
        ("eth_getBalance", json!(["12"]), -32602, "hex string without 0x prefix"),
        ("eth_getBalance", json!([ALICE, "0x01"]), -32602, "leading zero digits"),
        ("eth_getBalance", json!([ALICE, "latest", 1]), -32602, "too many arguments"),
        ("eth_getBalance", json!({}), -32602, "non-array args"),
        ("eth_getBalance", json!([ALICE, "0x77"]), -32000, "header not found"),
        ("eth_getBalance", json!([ALICE, B256::ZERO]), -32000, "header for hash not found"),
        ("eth_call", json!([{ "to": CONTRACT }, "0x77"]), -32000, "header not found"),
        ("eth_getBlockByHash", json!(["0x1", true]), -32602, "want 64 for common.Hash"),
        ("eth_getBlockByNumber", json!(["latest", 1]), -32602, "non-boolean"),
        ("eth_nonsense", json!([]), -32601, "the method eth_nonsense does not exist"),
        ("eth_subscribe", json!(["newHeads"]), -32601, "notifications not supported"),
        ("eth_sendRawTransaction", json!(["0x1"]), -32602, "odd length"),
    ] {
        let (got, text) = refusal(&node, method, params.clone());
        assert_eq!(got, code, "{method} {params}: {text}");
        assert!(text.contains(part), "{method} {params}: {text}");
    }
}

#[test]
fn a_panic_is_an_internal_error_and_no_more() {
    let node = Node::start();
    let bug = alloy_primitives::Address::repeat_byte(0xee);
    let (code, text) = refusal(&node, "eth_getProof", json!([bug, [], "latest"]));
    assert_eq!((code, text.as_str()), (-32603, "internal error"));
    assert_eq!(result(&node, "eth_chainId", json!([])), "0x7a69");
}

#[test]
fn browsers_people_and_strangers_get_an_answer() {
    let node = Node::start();
    let at = node.server.local_addr;
    let (head, body) = raw(at, "GET / HTTP/1.1\r\norigin: http://dapp", "");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("access-control-allow-origin: *"), "{head}");
    assert!(body.starts_with("basalt/test: chain 31337, block 0"), "{body}");
    let (head, _) = raw(at, "OPTIONS / HTTP/1.1\r\norigin: http://dapp", "");
    assert!(head.starts_with("HTTP/1.1 204"), "{head}");
    assert!(head.contains("access-control-allow-headers: content-type"), "{head}");
    let (head, body) = raw(at, "POST / HTTP/1.1\r\ncontent-type: text/plain", "{}");
    assert!(head.starts_with("HTTP/1.1 415"), "{head}");
    assert!(body.contains("only application/json is supported"), "{body}");
    let (head, body) = raw(at, "DELETE / HTTP/1.1", "");
    assert!(head.starts_with("HTTP/1.1 405") && body.contains("-32600"), "{head} {body}");
}

#[test]
fn metrics_and_health_have_their_own_port() {
    let node = Node::start();
    result(&node, "eth_chainId", json!([]));
    refusal(&node, "eth_getBalance", json!([]));
    let at = node.server.metrics_addr.unwrap();
    let (head, body) = raw(at, "GET /metrics HTTP/1.1", "");
    assert!(head.contains("openmetrics-text"), "{head}");
    let counted = r#"basalt_rpc_request_seconds_count{method="eth_chainId"} 1"#;
    assert!(body.contains(counted), "{body}");
    assert!(body.contains(r#"basalt_rpc_errors_total{method="eth_getBalance"} 1"#), "{body}");
    assert!(raw(at, "GET /health HTTP/1.1", "").1.contains(r#""status":"ok""#));
    assert!(raw(at, "GET /x HTTP/1.1", "").0.contains("404"));
    assert!(raw(at, "POST /metrics HTTP/1.1", "").0.contains("405"));
}
