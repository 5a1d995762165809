//! Batches run side by side and keep their order; limits hold; garbage disturbs nobody.

use crate::{
    ask,
    mock::{ALICE, Node, transaction},
    post, raw, refusal, result,
};
use basalt::types::flow::Refusal;
use serde_json::{Value, json};
use std::{
    io::Write as _,
    net::TcpStream,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what} did not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_batch_is_submitted_at_once_and_answered_in_order() {
    let node = Node::start();
    node.chain.lock().hold = true;
    let requests: Vec<Value> = (0..100)
        .map(|nonce| {
            let raw = transaction(nonce).raw.clone();
            let (id, method) = (nonce, "eth_sendRawTransaction");
            json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": [raw] })
        })
        .collect();
    let body = serde_json::to_string(&requests).unwrap();
    let chain = Arc::clone(&node.chain);
    let answerer = thread::spawn(move || {
        // All are there before any is answered; the last is answered first.
        until("the whole batch", || chain.lock().held.len() == 100);
        let held = std::mem::take(&mut chain.lock().held);
        for submission in held.into_iter().rev() {
            let hash = alloy_primitives::keccak256(&submission.raw);
            (submission.reply)(Ok(hash));
        }
    });
    let answers = post(node.server.local_addr, &body);
    answerer.join().unwrap();
    for (nonce, answer) in answers.as_array().unwrap().iter().enumerate() {
        assert_eq!(answer["id"], nonce);
        assert_eq!(answer["result"], json!(transaction(nonce as u64).hash), "{answer}");
    }
}

/// Sends of the plain form take a shorter way than all other requests.
#[test]
fn the_short_way_answers_to_the_letter_what_the_long_way_does() {
    let node = Node::with(|settings| {
        settings.batch_max = 4;
        settings.response_bytes_max = 600;
    });
    let at = node.server.local_addr;
    let send = |id: &str, data: &str| {
        let method = "eth_sendRawTransaction";
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":["{data}"]}}"#)
    };
    let same = |body: &str| {
        let head = "POST / HTTP/1.1\r\ncontent-type: application/json";
        let (short_head, short) = raw(at, head, body);
        let (long_head, long) = raw(at, head, &body.replace("eth_send", "eth\\u005fsend"));
        assert_eq!(short, long, "{body}");
        let undated = |head: &str| {
            let mut lines: Vec<String> = head.lines().map(str::to_owned).collect();
            lines.retain(|line| !line.starts_with("date"));
            lines.sort();
            lines
        };
        assert_eq!(undated(&short_head), undated(&long_head), "{body}");
        assert!(!short.is_empty(), "{body}");
    };
    let (good, odd) = (transaction(1).raw.to_string(), "0x123");
    for id in ["1", "0", "18446744073709551615", "\"a b\"", "null", "-1"] {
        same(&send(id, &good));
        same(&format!("[{},{}]", send(id, odd), send("2", &good)));
    }
    for data in ["", "0x", "0X12", "12", "0x0x12", "0xgg", odd] {
        same(&send("1", data));
    }
    let batch = |count: usize| format!("[{}]", vec![send("1", &good); count].join(","));
    // One too many, and more than an answer may hold.
    same(&batch(5));
    same(&batch(4).replace(&good, "0xgg"));
    node.chain.lock().full = true;
    same(&batch(2));
    node.chain.lock().full = false;
    let message = "nonce too low: \"next\" nonce 1, tx nonce 0".to_owned();
    node.chain.lock().refuse = Some(Refusal { code: -32_000, message });
    same(&batch(2));
    same(&send("1", &good));
}

#[test]
fn sends_that_ingress_never_answers_are_answered_when_it_ends() {
    let node = Node::start();
    node.chain.lock().hold = true;
    let raw = transaction(0).raw.clone();
    let chain = Arc::clone(&node.chain);
    let ending = thread::spawn(move || {
        until("the send", || chain.lock().held.len() == 1);
        chain.lock().held.clear();
    });
    let (code, text) = refusal(&node, "eth_sendRawTransaction", json!([raw]));
    ending.join().unwrap();
    assert_eq!((code, text.as_str()), (-32000, "the node is shutting down"));
}

#[test]
fn blocking_entries_of_a_batch_run_side_by_side() {
    let node = Node::with(|settings| settings.blocking_threads = 2);
    node.chain.set_gate(false);
    let proof = json!({
        "jsonrpc": "2.0", "id": 1, "method": "eth_getProof", "params": [ALICE, [], "latest"]
    });
    let chain = json!({ "jsonrpc": "2.0", "id": 2, "method": "eth_blockNumber" });
    let receipt = json!({
        "jsonrpc": "2.0", "id": 3, "method": "eth_getBlockByNumber", "params": ["latest"]
    });
    let body = json!([proof, chain, receipt]).to_string();
    let at = node.server.local_addr;
    let client = thread::spawn(move || post(at, &body));
    // While the proof waits, others are served.
    assert_eq!(result(&node, "eth_chainId", json!([])), "0x7a69");
    assert!(result(&node, "eth_getBlockByNumber", json!(["latest"])).is_object());
    node.chain.set_gate(true);
    let answers = client.join().unwrap();
    let ids: Vec<_> = answers.as_array().unwrap().iter().map(|one| one["id"].clone()).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert!(answers[0]["result"]["accountProof"].is_array(), "{answers}");
}

#[test]
fn a_full_queue_says_so_at_once() {
    let node = Node::with(|settings| {
        settings.blocking_threads = 1;
        settings.blocking_queue_max = 1;
    });
    node.chain.set_gate(false);
    let at = node.server.local_addr;
    let proof = json!({
        "jsonrpc": "2.0", "id": 1, "method": "eth_getProof", "params": [ALICE, [], "latest"]
    });
    // Refused itself where the question below was there first: then it asks again.
    let client = thread::spawn(move || {
        loop {
            let answer = post(at, &proof.to_string());
            if answer["error"]["code"] != -32005 {
                return answer;
            }
        }
    });
    until("a busy server", || {
        let answer = ask(&node, "eth_getBlockByNumber", json!(["latest"]));
        answer["error"]["code"] == -32005
    });
    node.chain.set_gate(true);
    assert!(client.join().unwrap()["result"].is_object());
    node.chain.lock().full = true;
    let raw = transaction(0).raw.clone();
    let (code, text) = refusal(&node, "eth_sendRawTransaction", json!([raw]));
    assert_eq!((code, text.starts_with("txpool is full")), (-32005, true));
}

#[test]
fn every_limit_is_refused_with_its_code() {
    let node = Node::with(|settings| {
        settings.batch_max = 3;
        settings.request_bytes_max = 10_000;
        settings.response_bytes_max = 2_000;
    });
    let at = node.server.local_addr;
    let one = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": [] });
    let answer = post(at, &json!([one, one, one, one]).to_string());
    assert_eq!(answer["error"]["code"], -32005);
    assert!(answer["error"]["message"].as_str().unwrap().contains("batch too large: 4 requests"));
    let long = "0".repeat(20_000);
    let (head, body) =
        raw(at, "POST / HTTP/1.1\r\ncontent-type: application/json", &format!("[{long}]"));
    assert!(head.starts_with("HTTP/1.1 413") && body.contains("-32005"), "{head} {body}");
    let many: Vec<_> = (0..30).map(transaction).collect();
    node.chain.mini_block(many);
    node.chain.seal();
    let (code, text) = refusal(&node, "eth_getBlockByNumber", json!(["latest", true]));
    assert_eq!((code, text.starts_with("response too large")), (-32005, true));
}

#[test]
fn connections_are_bounded() {
    let node = Node::with(|settings| settings.connections_max = 2);
    let at = node.server.local_addr;
    let request = "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let idle: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = TcpStream::connect(at).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    until("a refusal", || {
        let (head, body) = raw(at, "POST / HTTP/1.1\r\ncontent-type: application/json", "{}");
        head.starts_with("HTTP/1.1 503") && body.contains("-32005")
    });
    drop(idle);
    until("room", || {
        let one = r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#;
        let (_, body) = raw(at, "POST / HTTP/1.1\r\ncontent-type: application/json", one);
        body.contains("0x7a69")
    });
}

#[test]
fn garbage_disturbs_nobody() {
    let node = Node::start();
    let at = node.server.local_addr;
    for (garbage, code) in [
        ("", -32700),
        ("x", -32700),
        ("{", -32700),
        ("[", -32700),
        ("[]", -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":1}"#, -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"eth_chainId"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"eth_getLogs","params":[[[[]]]]}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"eth_call","params":"x"}"#, -32602),
    ] {
        assert_eq!(post(at, garbage)["error"]["code"], code, "{garbage}");
        assert_eq!(result(&node, "eth_chainId", json!([])), "0x7a69");
    }
    let mixed = r#"[1, {"jsonrpc":"2.0","id":7,"method":"eth_chainId"}, {"id":8}]"#;
    let answers = post(at, mixed);
    assert_eq!(answers[0]["error"]["code"], -32600, "{answers}");
    assert_eq!(answers[1]["result"], "0x7a69", "{answers}");
    assert_eq!(answers[2]["error"]["code"], -32600, "{answers}");
    drop(raw(at, "NONSENSE", "\u{0}\u{1}"));
    let deep = "[".repeat(100_000);
    assert_eq!(post(at, &deep)["error"]["code"], -32700);
    assert_eq!(result(&node, "eth_chainId", json!([])), "0x7a69");
}

#[test]
fn a_port_in_use_is_named() {
    let node = Node::start();
    let taken = node.server.local_addr;
    let refused = std::panic::catch_unwind(|| Node::with(|settings| settings.address = taken));
    let text = refused.err().unwrap().downcast::<String>().unwrap();
    assert!(text.contains("InUse") && text.contains(&taken.to_string()), "{text}");
    let address = node.server.local_addr;
    node.server.stop();
    assert!(TcpStream::connect(address).is_err(), "a stopped server listens no more");
}
