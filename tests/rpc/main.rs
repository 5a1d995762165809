//! The RPC as clients see it: shapes, refusals, batches, subscriptions, over real sockets.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as loudly as the test")]
#![expect(clippy::disallowed_methods, reason = "clients run on threads and watch the clock")]

mod batches;
mod connections;
mod methods;
mod mock;
mod sends;
mod subscriptions;

use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// One HTTP request on a connection of its own: status line and headers, body.
fn raw(address: SocketAddr, head: &str, body: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let length = body.len();
    let request =
        format!("{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A refusal may close the connection before the body was read.
    drop(stream.read_to_end(&mut answer));
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.to_owned(), body.to_owned())
}

/// Any JSON text, and what it is answered with.
fn post(address: SocketAddr, body: &str) -> Value {
    let (head, answer) = raw(address, "POST / HTTP/1.1\r\ncontent-type: application/json", body);
    serde_json::from_str(&answer).unwrap_or_else(|_| panic!("no JSON: {head}\n{answer}"))
}

/// The whole answer to one request.
fn ask(node: &mock::Node, method: &str, params: Value) -> Value {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    post(node.server.local_addr, &request.to_string())
}

/// The result of one request that succeeds.
fn result(node: &mock::Node, method: &str, params: Value) -> Value {
    let answer = ask(node, method, params);
    assert!(answer.get("error").is_none(), "{method}: {answer}");
    answer["result"].clone()
}

/// Code and message of one request that is refused.
fn refusal(node: &mock::Node, method: &str, params: Value) -> (i64, String) {
    let answer = ask(node, method, params);
    let error = &answer["error"];
    let message = error["message"].as_str().unwrap_or_else(|| panic!("{method}: {answer}"));
    (error["code"].as_i64().unwrap(), message.to_owned())
}
