//! A node's life as its operator sees it: started, ended, started again, refused, damaged.
#![expect(clippy::disallowed_methods, reason = "a test owns its threads and its time")]
#![expect(clippy::unwrap_used, reason = "a test: what cannot be is a failure")]

#[path = "support/client.rs"]
mod client;

use alloy_primitives::{Address, Bytes, TxKind};
use client::{Http, Key, Node, Terms, dev_keys, quantity};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

/// How long anything may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Records lie on multiples of this.
const RECORD_BYTES: usize = 4096;
const SINK: Address = Address::repeat_byte(0x51);

/// `basalt dev` on free ports and small segments, with more arguments.
fn dev(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_basalt"));
    command.env("BASALT_WAL_SEGMENT_BYTES", "4194304").env("BASALT_LOG_LEVEL", "warn");
    command.args(["dev", "--data"]).arg(folder);
    if !arguments.contains(&"--rpc") {
        command.args(["--rpc", "127.0.0.1:0"]);
    }
    command.args(["--metrics", "off"]).args(arguments);
    command
}

fn start(folder: &Path, arguments: &[&str]) -> Node {
    Node::start(&mut dev(folder, arguments)).unwrap()
}

/// What a start that must fail says; it must neither end well nor panic nor name an endpoint.
fn refusal(folder: &Path, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = dev(folder, arguments).output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{arguments:?}: {text}");
    assert!(stdout.is_empty() && !text.contains("panicked"), "{arguments:?}: {text}");
    text
}

/// One sender and what it was told.
struct Sender {
    key: Key,
    terms: Terms,
    nonce: u64,
    receipts: Vec<Value>,
}

impl Sender {
    fn new(http: &mut Http) -> Self {
        Self { key: dev_keys(1)[0], terms: Terms::of(http), nonce: 0, receipts: Vec::new() }
    }

    fn raw(&self) -> Bytes {
        self.key.sign(self.terms.transfer(self.nonce, SINK, 1)).1
    }

    fn send(&mut self, http: &mut Http) {
        let receipt = http.must("eth_sendRawTransactionSync", &json!([self.raw()]));
        self.receipts.push(receipt);
        self.nonce += 1;
    }

    /// Sends until the node hangs up. What it answered counts, nothing else.
    fn send_to_the_end(&mut self, http: &mut Http) {
        while let Ok(Ok(receipt)) = http.call("eth_sendRawTransactionSync", &json!([self.raw()])) {
            self.receipts.push(receipt);
            self.nonce += 1;
        }
    }

    /// Every receipt is given again; nonce and balance are those of as many transfers, or of one
    /// more, whose answer the end of the node cut off. Goes on from there.
    fn check(&mut self, http: &mut Http) {
        for then in &self.receipts {
            let now = http.must("eth_getTransactionReceipt", &json!([then["transactionHash"]]));
            for field in ["transactionIndex", "blockNumber", "status", "cumulativeGasUsed"] {
                assert_eq!(then[field], now[field], "{field} of {then} is now {now}");
            }
        }
        let account = json!([self.key.address, "pending"]);
        let nonce = http.number("eth_getTransactionCount", &account);
        let told = self.receipts.len() as u64;
        assert!((told..=told + 1).contains(&nonce), "{told} receipts, nonce {nonce}");
        assert_eq!(http.number("eth_getBalance", &json!([SINK, "pending"])), nonce);
        self.nonce = nonce;
    }
}

fn height(http: &mut Http) -> u64 {
    http.number("eth_blockNumber", &json!([]))
}

fn genesis(http: &mut Http) -> Value {
    http.must("eth_getBlockByNumber", &json!(["0x0", false]))["hash"].clone()
}

fn await_block(http: &mut Http, wanted: u64) {
    let from = Instant::now();
    while height(http) < wanted {
        assert!(from.elapsed() < PATIENCE, "no block {wanted}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_signal_ends_it_with_status_0_and_a_restart_continues_the_chain() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("chain");
    let key_path = folder.join("sequencer.key");
    let fast = ["--block-ms", "200"];
    let mut node = start(&folder, &fast);
    let mut http = node.connect().unwrap();
    let (first_block, key) = (genesis(&mut http), fs::read(&key_path).unwrap());
    assert_eq!(fs::metadata(&key_path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut sender = Sender::new(&mut http);
    for signal in ["TERM", "INT", "HUP"] {
        let before = sender.receipts.len();
        sender.send(&mut http);
        let block = quantity(&sender.receipts[before]["blockNumber"]);
        await_block(&mut http, block);
        let sealed = http.must("eth_getBlockByNumber", &json!([format!("{block:#x}"), true]));
        let loaded = thread::spawn(move || {
            sender.send_to_the_end(&mut http);
            sender
        });
        thread::sleep(Duration::from_millis(300));
        assert!(node.end_by(signal).unwrap(), "SIG{signal} must end the node with status 0");
        sender = loaded.join().unwrap();
        assert!(sender.receipts.len() > before + 1, "no load");

        node = start(&folder, &fast);
        http = node.connect().unwrap();
        sender.check(&mut http);
        assert_eq!(genesis(&mut http), first_block);
        assert_eq!(fs::read(&key_path).unwrap(), key, "the key stays");
        let again = http.must("eth_getBlockByNumber", &json!([format!("{block:#x}"), true]));
        assert_eq!(again, sealed);
        let newest = height(&mut http);
        assert!(newest >= block, "the chain went back from {block} to {newest}");
        await_block(&mut http, newest + 1);
    }
}

#[test]
fn it_says_where_to_connect_and_what_each_block_holds() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), &["--block-ms", "200", "--accounts", "12"]);
    let mut http = node.connect().unwrap();
    Sender::new(&mut http).send(&mut http);
    let printed = || node.printed.lock().unwrap().clone();
    let from = Instant::now();
    while !printed().iter().any(|line| line.starts_with("block ")) {
        assert!(from.elapsed() < PATIENCE, "no line for the block: {:?}", printed());
        thread::sleep(Duration::from_millis(20));
    }
    let lines = printed();
    let text = lines.join("\n");
    let address = node.address;
    assert!(text.contains(&format!("http://{address}   ws://{address}")), "{text}");
    assert!(text.contains("chain id   31337"), "{text}");
    assert!(text.contains("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266  0xac0974"), "{text}");
    assert!(text.contains("and 2 more"), "{text}");
    assert!(text.contains(&folder.path().display().to_string()), "{text}");
    let blocks: Vec<_> = lines.iter().filter(|line| line.starts_with("block ")).collect();
    assert_eq!(blocks.len(), 1, "only blocks with transactions: {text}");
    assert!(blocks[0].contains("1 transactions in 1 mini-blocks, 21000 gas"), "{text}");
}

/// A node that shows its metrics, and their address.
fn start_measured(folder: &Path, arguments: &[&str]) -> (Node, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_basalt"));
    command.env("BASALT_WAL_SEGMENT_BYTES", "4194304").env("BASALT_LOG_LEVEL", "warn");
    command.env("BASALT_SEQUENCING_EARLY_START_GAS", "50000");
    command.args(["dev", "--rpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--data"]);
    let node = Node::start(command.arg(folder).args(arguments)).unwrap();
    let from = Instant::now();
    loop {
        let printed = node.printed.lock().unwrap().clone();
        let line = printed.iter().find(|line| line.starts_with("metrics"));
        if let Some(at) = line.and_then(|line| line.split("http://").nth(1)) {
            return (node, at.to_owned());
        }
        assert!(from.elapsed() < PATIENCE, "no line for the metrics: {printed:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A counter as the metrics' page says it.
fn counter(metrics: &str, name: &str) -> u64 {
    let address = metrics.trim_end_matches("/metrics");
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("{name} is not in {page}")).parse().unwrap()
}

#[test]
fn mini_blocks_are_begun_before_their_interval_ends_where_calls_come() {
    let folder = tempfile::tempdir().unwrap();
    let (node, metrics) = start_measured(folder.path(), &["--mini-block-ms", "500"]);
    let mut http = node.connect().unwrap();
    let mut sender = Sender::new(&mut http);
    sender.send(&mut http);
    let early = || counter(&metrics, "basalt_ordering_early_cuts_total");
    assert_eq!(early(), 0, "a transfer is not worth it");
    let from = Instant::now();
    while early() == 0 {
        assert!(from.elapsed() < PATIENCE, "none was begun early");
        let call = sender.terms.call(sender.nonce, TxKind::Call(SINK), Bytes::new(), (100_000, 1));
        let (_, raw) = sender.key.sign(call);
        let receipt = http.must("eth_sendRawTransactionSync", &json!([raw]));
        assert_eq!(receipt["status"], "0x1", "{receipt}");
        sender.receipts.push(receipt);
        sender.nonce += 1;
    }
    sender.check(&mut http);
    assert!(node.stop().unwrap());
}

#[test]
fn its_status_is_read_from_its_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let (node, metrics) = start_measured(folder.path(), &[]);
    let metrics = format!("http://{metrics}");
    let mut status = Command::new(env!("CARGO_BIN_EXE_basalt"));
    status.args([
        "status",
        "--json",
        "--rpc",
        &format!("http://{}", node.address),
        "--metrics",
        &metrics,
    ]);
    let output = status.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    for field in ["chain_id", "latest_block", "pool_transactions", "uptime_seconds"] {
        assert!(report[field].is_number(), "{field}: {text}");
    }
}

#[test]
fn a_folder_serves_one_node_of_one_chain() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("chain");
    let node = start(&folder, &["--block-ms", "200"]);
    let mut http = node.connect().unwrap();
    let mut sender = Sender::new(&mut http);
    sender.send(&mut http);
    for arguments in [&[][..], &["--fresh"]] {
        let text = refusal(&folder, arguments);
        assert!(text.contains("is in use by another node") && text.contains("--data"), "{text}");
    }
    sender.send(&mut http);
    assert!(node.stop().unwrap());

    let file = parent.path().join("genesis.json");
    let text = r#"{"config":{"chainId":777},"gasLimit":"0x1c9c380","difficulty":"0x0","alloc":{}}"#;
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    for other in [["--chain-id", "5"], ["--accounts", "11"], ["--genesis", file]] {
        let text = refusal(&folder, &other);
        assert!(text.contains("belongs to chain 31337"), "{text}");
        let named = other[0] != "--genesis" || text.contains("says chain 777");
        assert!(named && text.contains("choose another"), "{text}");
    }

    let node = start(&folder, &["--block-ms", "200"]);
    sender.check(&mut node.connect().unwrap());
    assert!(node.stop().unwrap());
    let node = start(&folder, &["--fresh"]);
    let mut http = node.connect().unwrap();
    assert_eq!(http.number("eth_getTransactionCount", &json!([sender.key.address, "latest"])), 0);
    let hash = &sender.receipts[0]["transactionHash"];
    assert!(http.must("eth_getTransactionReceipt", &json!([hash])).is_null());
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_made() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("chain");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let missing = parent.path().join("missing.json").display().to_string();
    let cases: [(&[&str], &[&str]); 7] = [
        (&["--rpc", &address], &["flag --rpc: rpc.address", &address, "in use", "choose another"]),
        (&["--rpc", "192.0.2.1:8545"], &["flag --rpc", "no address of this machine", "127.0.0.1"]),
        (&["--genesis", &missing], &["flag --genesis", &missing, "name a readable file"]),
        (&["--genesis", ""], &["flag --genesis", "is empty"]),
        (&["--accounts", "-1"], &["flag --accounts", "-1 is out of range", "use 0..=100000"]),
        (&["--mini-block-ms", "1001"], &["flag --mini-block-ms", "1001 is out of range"]),
        (
            &["--mini-block-ms", "1000", "--block-ms", "500"],
            &["flag --mini-block-ms", "is above sequencing.block_interval_ms = 500", "lower"],
        ),
    ];
    for (arguments, wanted) in cases {
        let text = refusal(&folder, arguments);
        for wanted in wanted {
            assert!(text.contains(wanted), "{arguments:?}: {text}");
        }
        assert!(!folder.exists(), "{arguments:?} left a folder behind");
    }
    let text = refusal(Path::new(""), &[]);
    assert!(text.contains("flag --data") && text.contains("is empty"), "{text}");

    let file = parent.path().join("basalt.toml");
    fs::write(&file, format!("[rpc]\naddress = \"{address}\"\n")).unwrap();
    let mut node = Command::new(env!("CARGO_BIN_EXE_basalt"));
    node.env("BASALT_DATA_DIRECTORY", &folder).args(["node", "--config"]).arg(&file);
    let output = node.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let wanted = format!("{}:2: rpc.address = \"{address}\" is in use", file.display());
    assert!(text.contains(&wanted) && !folder.exists(), "{text}");
}

/// Segments of the log, oldest first.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder.join("wal")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        listed.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
    found.sort();
    found
}

/// Turns one bit over; twice is as before.
fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
}

/// A chain whose open block is in the log only, killed; with what a client was told.
fn killed_in_an_open_block(folder: &Path) -> Sender {
    let node = start(folder, &["--block-ms", "60000"]);
    let mut http = node.connect().unwrap();
    let mut sender = Sender::new(&mut http);
    for _ in 0..9 {
        sender.send(&mut http);
    }
    node.kill().unwrap();
    sender
}

#[test]
fn an_open_block_goes_on_and_a_damaged_record_is_refused_with_its_position() {
    let folder = tempfile::tempdir().unwrap();
    let mut sender = killed_in_an_open_block(folder.path());
    let segment = &segments(folder.path())[0];
    let bytes = fs::read(segment).unwrap();
    let records: Vec<usize> = (0..bytes.len())
        .step_by(RECORD_BYTES)
        .filter(|at| bytes[*at..*at + 64].iter().any(|byte| *byte != 0))
        .collect();
    assert!(records.len() >= 9, "one record a mini-block at least: {records:?}");
    // In the header, then in the payload.
    for within in [10, 200] {
        let at = records[records.len() / 2] as u64;
        flip(segment, at + within);
        let before = fs::read(segment).unwrap();
        let text = refusal(folder.path(), &[]);
        assert!(text.contains(&format!("{} at byte {at}", segment.display())), "{text}");
        assert!(text.contains("restore"), "{text}");
        assert_eq!(fs::read(segment).unwrap(), before, "nothing is changed");
        flip(segment, at + within);
    }
    let node = start(folder.path(), &["--block-ms", "1000"]);
    let mut http = node.connect().unwrap();
    sender.check(&mut http);
    let told = sender.receipts[0].clone();
    sender.send(&mut http);
    // Sealed, with the mini-blocks from before the kill in the block that they were told to be in.
    await_block(&mut http, quantity(&told["blockNumber"]));
    sender.check(&mut http);
    let now = http.must("eth_getTransactionReceipt", &json!([told["transactionHash"]]));
    let block = http.must("eth_getBlockByHash", &json!([now["blockHash"], false]));
    assert_eq!(block["transactions"][0], told["transactionHash"]);
}

#[test]
fn lost_files_are_refused_or_spoken_of() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("chain");
    let node = start(&folder, &["--block-ms", "200"]);
    let mut http = node.connect().unwrap();
    let mut sender = Sender::new(&mut http);
    sender.send(&mut http);
    await_block(&mut http, quantity(&sender.receipts[0]["blockNumber"]));
    assert!(node.stop().unwrap());
    let away = parent.path().join("away");

    // Without its state the node must not begin anew over the archive.
    let archive = folder.join("archive/00000000.segment");
    let blocks = fs::read(&archive).unwrap();
    fs::rename(folder.join("state"), &away).unwrap();
    let text = refusal(&folder, &[]);
    assert!(text.contains("holds no chain") && text.contains("--fresh"), "{text}");
    assert_eq!(fs::read(&archive).unwrap(), blocks);
    fs::remove_dir_all(folder.join("state")).unwrap();
    fs::rename(&away, folder.join("state")).unwrap();

    fs::rename(&archive, &away).unwrap();
    let text = refusal(&folder, &[]);
    assert!(text.contains("00000000.segment") && text.contains("restored"), "{text}");
    fs::rename(&away, &archive).unwrap();

    let first = &segments(&folder)[0];
    fs::copy(first, &away).unwrap();
    fs::File::options().write(true).open(first).unwrap().set_len(100).unwrap();
    let text = refusal(&folder, &[]);
    assert!(text.contains("100 bytes") && text.contains("cut off"), "{text}");
    fs::remove_file(first).unwrap();
    let text = refusal(&folder, &[]);
    assert!(text.contains("no record") && text.contains("restore"), "{text}");
    fs::rename(&away, first).unwrap();

    fs::rename(folder.join("wal"), &away).unwrap();
    let log = parent.path().join("log");
    let mut command = dev(&folder, &[]);
    let node = Node::start(command.stderr(fs::File::create(&log).unwrap())).unwrap();
    sender.check(&mut node.connect().unwrap());
    assert!(node.stop().unwrap());
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("the log is empty, though there is a checkpoint"), "{text}");
}
