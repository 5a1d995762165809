//! Clients that flood, that do not read, that say nothing: they cost the node nothing, and nobody
//! else notices.

use crate::{
    mock::{Node, transaction},
    raw, result,
};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A WebSocket by hand: no library reads by itself here.
struct Client(TcpStream);

impl Client {
    fn connect(node: &Node) -> Self {
        let mut stream = TcpStream::connect(node.server.local_addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                    sec-websocket-version: 13\r\n\
                    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        Self(stream)
    }

    fn half(&self) -> Self {
        Self(self.0.try_clone().unwrap())
    }

    /// One text message in one frame; a mask of zeros leaves it as it is.
    fn send(&mut self, text: &str) -> std::io::Result<()> {
        let mut frame = vec![0x81, 0xff];
        frame.extend((text.len() as u64).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.0.write_all(&frame)
    }

    fn ask(&mut self, id: usize, method: &str, params: Value) {
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.send(&request.to_string()).unwrap();
    }

    /// The next text message.
    fn take(&mut self) -> Value {
        loop {
            let mut head = [0; 2];
            self.0.read_exact(&mut head).unwrap();
            let length = match head[1] {
                126 => u64::from(u16::from_be_bytes(self.bytes())),
                127 => u64::from_be_bytes(self.bytes()),
                short => u64::from(short),
            };
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.0.read_exact(&mut payload).unwrap();
            if head[0] == 0x81 {
                return serde_json::from_slice(&payload).unwrap();
            }
        }
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }
}

fn connections(node: &Node) -> u64 {
    let metrics = node.server.metrics_addr.unwrap();
    let (_, text) = raw(metrics, "GET /metrics HTTP/1.1", "");
    let line = text.lines().find_map(|line| line.strip_prefix("basalt_rpc_connections "));
    line.unwrap().parse().unwrap()
}

/// Waits until `count` has stood still for a while, and gives it.
fn standstill(count: &AtomicUsize) -> usize {
    let (mut seen, mut since) = (count.load(Ordering::Relaxed), Instant::now());
    while since.elapsed() < Duration::from_secs(1) {
        thread::sleep(Duration::from_millis(10));
        let now = count.load(Ordering::Relaxed);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
    seen
}

/// Sends requests of 64 KiB in a thread, each asking for a block of 50 transactions; gives the
/// count of those that are sent.
fn flood(client: &Client, count: usize) -> (Arc<AtomicUsize>, thread::JoinHandle<()>) {
    let mut client = client.half();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let sender = thread::spawn(move || {
        let padding = " ".repeat(64 * 1024);
        for id in 0..count {
            let method = "eth_getBlockByNumber";
            let request = json!({
                "jsonrpc": "2.0", "id": id, "method": method, "params": ["latest", true]
            });
            if client.send(&format!("{request}{padding}")).is_err() {
                return;
            }
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    (sent, sender)
}

/// More than the sockets' buffers of both sides take.
const FLOOD: usize = 1_000;

fn node_with_a_block() -> Node {
    let node = Node::start();
    node.chain.mini_block((0..50).map(transaction).collect());
    node.chain.seal();
    node
}

#[test]
fn a_client_that_does_not_read_is_not_read_and_loses_nothing() {
    let node = node_with_a_block();
    let mut client = Client::connect(&node);
    let (sent, sender) = flood(&client, FLOOD);
    let held = standstill(&sent);
    assert!(held < FLOOD, "all {held} requests were taken and no answer was read");
    assert_eq!(result(&node, "eth_chainId", json!([])), "0x7a69");
    let mut ids: Vec<u64> = (0..FLOOD)
        .map(|_| {
            let answer = client.take();
            assert_eq!(answer["result"]["transactions"].as_array().unwrap().len(), 50);
            answer["id"].as_u64().unwrap()
        })
        .collect();
    sender.join().unwrap();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..FLOOD as u64), "each request is answered once");
}

#[test]
fn a_client_that_leaves_without_reading_is_forgotten() {
    let node = node_with_a_block();
    let client = Client::connect(&node);
    let (sent, sender) = flood(&client, FLOOD);
    standstill(&sent);
    client.0.shutdown(std::net::Shutdown::Both).unwrap();
    drop(client);
    sender.join().unwrap();
    // The reader of metrics is no client.
    let start = Instant::now();
    while connections(&node) > 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "the connection stays");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn bytes_in_flight_are_given_back_with_their_answers() {
    let node = Node::with(|settings| settings.request_bytes_max = 2_048);
    let mut client = Client::connect(&node);
    client.ask(0, "eth_subscribe", json!(["newHeads"]));
    assert!(client.take()["result"].is_string());
    let mut sender = client.half();
    let sending = thread::spawn(move || {
        for id in 1..2_000 {
            sender.ask(id, "eth_chainId", json!([]));
        }
        for id in 2_000..2_100 {
            sender.ask(id, "eth_getBlockByNumber", json!(["latest"]));
        }
    });
    let mut ids: Vec<u64> = (1..2_100).map(|_| client.take()["id"].as_u64().unwrap()).collect();
    sending.join().unwrap();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(1..2_100));
}

#[test]
fn garbage_without_end_is_answered_in_turn() {
    let node = Node::start();
    let mut client = Client::connect(&node);
    let mut sender = client.half();
    let sending = thread::spawn(move || {
        for _ in 0..5_000 {
            sender.send("garbage").unwrap();
        }
    });
    for _ in 0..5_000 {
        assert_eq!(client.take()["error"]["code"], -32700);
    }
    sending.join().unwrap();
    client.ask(1, "eth_chainId", json!([]));
    assert_eq!(client.take()["result"], "0x7a69");
}

#[test]
fn a_message_that_is_too_large_is_refused_and_the_next_is_served() {
    let node = Node::with(|settings| settings.request_bytes_max = 2_048);
    let mut client = Client::connect(&node);
    client.send(&"[".repeat(10_000)).unwrap();
    let refused = client.take();
    assert_eq!(refused["error"]["message"], "Request is too big", "{refused}");
    assert_eq!(refused["error"]["code"], -32_007, "{refused}");
    client.ask(1, "eth_chainId", json!([]));
    assert_eq!(client.take()["result"], "0x7a69");
}

#[test]
fn a_large_answer_comes_whole() {
    let node = Node::start();
    node.chain.mini_block((0..500).map(transaction).collect());
    node.chain.seal();
    let by_http = result(&node, "eth_getBlockReceipts", json!(["latest"]));
    assert_eq!(by_http.as_array().unwrap().len(), 500);
    assert!(by_http.to_string().len() > 200_000);
    let mut client = Client::connect(&node);
    for id in 0..20 {
        client.ask(id, "eth_getBlockReceipts", json!(["latest"]));
        assert_eq!(client.take()["result"], by_http);
    }
}

#[test]
fn large_answers_beyond_the_budget_are_refused_until_there_is_room() {
    // One answer fits; two of them are the budget; a batch holds its entries at one time.
    let node = Node::with(|settings| settings.response_bytes_max = 1_000_000);
    node.chain.mini_block((0..400).map(transaction).collect());
    node.chain.seal();
    let one = json!({
        "jsonrpc": "2.0", "id": 1, "method": "eth_getBlockReceipts", "params": ["latest"]
    });
    let many = json!(vec![one; 20]).to_string();
    let answer = crate::post(node.server.local_addr, &many);
    assert_eq!(answer["error"]["code"], -32005, "{answer}");
    for _ in 0..10 {
        let answer = result(&node, "eth_getBlockReceipts", json!(["latest"]));
        assert_eq!(answer.as_array().unwrap().len(), 400);
    }
}

#[test]
fn a_connection_that_asks_nothing_ends() {
    let node = Node::with(|settings| settings.ask_timeout = Duration::from_millis(200));
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#;
    let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json";
    let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    for said in ["", head, &request] {
        let mut stream = TcpStream::connect(node.server.local_addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.contains("0x7a69"), said == request, "{answer}");
    }
    // A WebSocket may be silent: it is asked whether it is there.
    let mut client = Client::connect(&node);
    thread::sleep(Duration::from_millis(500));
    client.ask(1, "eth_chainId", json!([]));
    assert_eq!(client.take()["result"], "0x7a69");
}
