//! The load: transfers signed ahead, sent in batches or one by one, confirmed by their receipts.
#![expect(unreachable_pub, reason = "a module of a program")]

use crate::client::{Http, Key, Node, Random, Terms, quantity};
use alloy_primitives::{Address, B256};
use serde_json::{Value, json};
use std::{
    io, thread,
    time::{Duration, Instant},
};

/// Transactions in one JSON-RPC batch.
pub const BATCH: usize = 100;
/// Connections that send batches.
pub const CONNECTIONS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);

/// Senders with their next nonces; each belongs to one thread at a time.
pub struct Accounts {
    pub keys: Vec<Key>,
    pub nonces: Vec<u64>,
    random: Random,
}

impl Accounts {
    pub fn new(http: &mut Http, keys: &[Key]) -> Self {
        let nonces = keys
            .iter()
            .map(|key| http.number("eth_getTransactionCount", &json!([key.address, "pending"])))
            .collect();
        Self { keys: keys.to_vec(), nonces, random: Random(23) }
    }

    /// Signs the next transfer of account `at`, to an address that may or may not exist.
    pub fn next(&mut self, at: usize, terms: Terms) -> (B256, String) {
        let to = self.random.below(100_000) + 0x1_0000;
        let to = Address::left_padding_from(&to.to_be_bytes());
        let (hash, raw) = self.keys[at].sign(terms.transfer(self.nonces[at], to, 1));
        self.nonces[at] += 1;
        (hash, raw.to_string())
    }
}

/// What one connection sends: requests made ahead, and the hashes that prove it all.
pub struct Share {
    requests: Vec<Vec<u8>>,
    /// The last transaction of each sender: its receipt means that all before it have theirs.
    last: Vec<B256>,
    pub hashes: Vec<B256>,
}

/// Signs `count` transfers from the accounts `from`, senders in turn.
pub fn prepare(
    accounts: &mut Accounts,
    from: std::ops::Range<usize>,
    job: (Terms, usize),
) -> Share {
    let (terms, count) = job;
    let mut share = Share { requests: Vec::new(), last: Vec::new(), hashes: Vec::new() };
    let mut items = Vec::with_capacity(BATCH);
    for at in 0..count {
        let sender = from.start + at % from.len();
        let (hash, raw) = accounts.next(sender, terms);
        share.hashes.push(hash);
        items.push(send("eth_sendRawTransaction", at, &raw));
        if items.len() == BATCH || at + 1 == count {
            share.requests.push(Http::request(&format!("[{}]", items.join(","))));
            items.clear();
        }
    }
    let tail = share.hashes.len().saturating_sub(from.len());
    share.last = share.hashes[tail..].to_vec();
    share
}

fn send(method: &str, id: usize, raw: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":["{raw}"]}}"#)
}

/// Sends all shares, one connection each, and waits for the receipts; the time it took.
pub fn burst(node: &Node, shares: &[Share]) -> io::Result<Duration> {
    let start = Instant::now();
    thread::scope(|scope| {
        let sending: Vec<_> = shares
            .iter()
            .map(|share| {
                scope.spawn(move || {
                    let mut http = node.connect()?;
                    for request in &share.requests {
                        send_batch(&mut http, request)?;
                    }
                    share.last.iter().try_for_each(|hash| await_receipt(&mut http, hash))
                })
            })
            .collect();
        sending.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    Ok(start.elapsed())
}

/// Sends a batch; where the pool is full, waits and sends the refused part again.
fn send_batch(http: &mut Http, request: &[u8]) -> io::Result<()> {
    let answer = http.exchange(request)?;
    if !contains(answer, b"\"error\"") {
        return Ok(());
    }
    let refused = refused_ids(answer)?;
    thread::sleep(Duration::from_millis(5));
    resend(http, request, refused)
}

/// Ids whose transaction the pool had no room for; any other error ends the run.
fn refused_ids(answer: &[u8]) -> io::Result<Vec<u64>> {
    let answers: Vec<Value> = serde_json::from_slice(answer)?;
    let mut ids = Vec::new();
    for answer in answers.iter().filter(|answer| !answer["error"].is_null()) {
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        if message.contains("already known") {
            continue;
        }
        let full = ["pool", "full", "busy", "limit", "nonce", "queue", "later"];
        if !full.iter().any(|word| message.contains(word)) {
            return Err(io::Error::other(format!("a good transfer was refused: {answer}")));
        }
        ids.push(answer["id"].as_u64().unwrap_or_default());
    }
    Ok(ids)
}

fn resend(http: &mut Http, request: &[u8], mut ids: Vec<u64>) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    let body = request.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    let items: Vec<Value> = serde_json::from_slice(&request[body..])?;
    while !ids.is_empty() {
        let again: Vec<&Value> = items
            .iter()
            .filter(|item| item["id"].as_u64().is_some_and(|id| ids.contains(&id)))
            .collect();
        let answer = http.exchange(&Http::request(&json!(again).to_string()))?;
        ids = refused_ids(answer)?;
        if Instant::now() > end {
            return Err(io::Error::other("the pool stays full"));
        }
        if !ids.is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Asks for a receipt until it is there.
pub fn await_receipt(http: &mut Http, hash: &B256) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = http.call("eth_getTransactionReceipt", &json!([hash]))?;
        match answer {
            Ok(Value::Null) => {}
            Ok(receipt) if receipt["status"] == "0x1" => return Ok(()),
            other => return Err(io::Error::other(format!("{hash}: {other:?}"))),
        }
        if Instant::now() > end {
            return Err(io::Error::other(format!("{hash} has no receipt after {PATIENCE:?}")));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Successful receipts in all sealed blocks after `from`, to be held against what was sent. By
/// block: one by one, the peer takes minutes to find as many.
pub fn count_included(http: &mut Http, from: u64, expected: usize) -> io::Result<usize> {
    let end = Instant::now() + PATIENCE;
    let (mut next, mut found) = (from + 1, 0);
    while found < expected && Instant::now() < end {
        let latest = head(http);
        while next <= latest {
            let receipts = http.must("eth_getBlockReceipts", &json!([format!("{next:#x}")]));
            let receipts = receipts.as_array().cloned().unwrap_or_default();
            found += receipts.iter().filter(|receipt| receipt["status"] == "0x1").count();
            next += 1;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(found)
}

/// How the steady load runs.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Transfers a second in the background.
    pub background: f64,
    /// Transfers a second that are timed.
    pub probes: f64,
    pub duration: Duration,
}

/// Connections that probe, each with a sender of its own.
pub const PROBERS: usize = 16;

/// Keeps a steady load and times single transfers from when they are due to when their receipt
/// is here; milliseconds, sorted. The background's senders are the accounts after the probes'.
pub fn latency(node: &Node, accounts: &mut Accounts, job: (Terms, Pace)) -> io::Result<Vec<f64>> {
    let (terms, pace) = job;
    let seconds = pace.duration.as_secs_f64();
    let probes = prepare_probes(accounts, terms, (pace.probes * seconds).ceil() as usize);
    let senders = accounts.keys.len();
    let mut times = thread::scope(|scope| {
        let start = Instant::now() + Duration::from_millis(50);
        let probing: Vec<_> = probes
            .into_iter()
            .enumerate()
            .map(|(at, raws)| {
                let mean = PROBERS as f64 / pace.probes;
                scope.spawn(move || probe(node, raws, (start, mean, at as u64)))
            })
            .collect();
        let background =
            scope.spawn(move || background(node, accounts, (terms, pace, PROBERS..senders, start)));
        let mut times = Vec::new();
        for thread in probing {
            times.extend(thread.join().expect("no panic")?);
        }
        background.join().expect("no panic")?;
        io::Result::Ok(times)
    })?;
    times.sort_unstable_by(f64::total_cmp);
    Ok(times)
}

fn prepare_probes(accounts: &mut Accounts, terms: Terms, count: usize) -> Vec<Vec<Vec<u8>>> {
    let each = count.div_ceil(PROBERS).max(2);
    (0..PROBERS)
        .map(|at| {
            (0..each)
                .map(|_| {
                    let (_, raw) = accounts.next(at, terms);
                    Http::request(&send("eth_sendRawTransactionSync", 1, &raw))
                })
                .collect()
        })
        .collect()
}

/// Sends its transfers at moments of a Poisson process. A probe that is late counts from when it
/// was due, so that a stall shows in all that it held up.
fn probe(node: &Node, raws: Vec<Vec<u8>>, when: (Instant, f64, u64)) -> io::Result<Vec<f64>> {
    let (mut due, mean, seed) = when;
    let mut random = Random(seed * 7_919 + 1);
    let mut http = node.connect()?;
    let mut times = Vec::with_capacity(raws.len());
    for request in raws {
        let uniform = (random.below(1 << 53) as f64 + 0.5) / (1u64 << 53) as f64;
        due += Duration::from_secs_f64(-uniform.ln() * mean);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let answer = http.exchange(&request)?;
        // The peer gives up on some; they count with the time that it took to say so.
        if !contains(answer, b"\"status\":\"0x1\"") && !contains(answer, b"timeout") {
            let text = String::from_utf8_lossy(answer).into_owned();
            return Err(io::Error::other(format!("no good receipt: {text}")));
        }
        times.push(due.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// Sends small batches every 7 ms, signed on the way, until the time is over.
fn background(
    node: &Node,
    accounts: &mut Accounts,
    job: (Terms, Pace, std::ops::Range<usize>, Instant),
) -> io::Result<()> {
    let (terms, pace, senders, start) = job;
    let mut http = node.connect()?;
    let (mut sent, mut at) = (0usize, senders.start);
    while start.elapsed() < pace.duration {
        let due = (start.elapsed().as_secs_f64() * pace.background) as usize;
        let items: Vec<String> = (sent..due.min(sent + BATCH))
            .map(|id| {
                let (_, raw) = accounts.next(at, terms);
                at = if at + 1 == senders.end { senders.start } else { at + 1 };
                send("eth_sendRawTransaction", id, &raw)
            })
            .collect();
        sent += items.len();
        if !items.is_empty() {
            send_batch(&mut http, &Http::request(&format!("[{}]", items.join(","))))?;
        }
        thread::sleep(Duration::from_millis(if due > sent { 0 } else { 7 }));
    }
    Ok(())
}

/// The newest sealed block.
pub fn head(http: &mut Http) -> u64 {
    quantity(&http.must("eth_blockNumber", &json!([])))
}
