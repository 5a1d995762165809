//! SIGKILL at random moments under load: whatever a client was told is there after the restart.
//!
//! `BASALT_CRASH_ROUNDS` kills (5 by default, 50 nightly), `BASALT_CRASH_SEED` repeats a run,
//! `BASALT_BIN` tries another program, `BASALT_TEST_VERBOSE=1` shows the node's own output.
#![expect(clippy::disallowed_methods, reason = "a load generator owns its threads and its time")]
#![expect(clippy::unwrap_used, reason = "a test: what cannot be is a failure")]

#[path = "support/client.rs"]
mod client;

use alloy_primitives::{Address, B256, Bytes, KECCAK256_EMPTY, TxKind, U256, address, keccak256};
use alloy_trie::{EMPTY_ROOT_HASH, HashBuilder, Nibbles};
use client::{Http, Key, Node, Random, Terms, dev_keys, quantity, quantity_256};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    env, fs, io,
    path::Path,
    process::Command,
    sync::Mutex,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const SENDERS: u32 = 6;
const DEV_ACCOUNTS: u32 = 10;
/// Calls in one JSON-RPC batch.
const BATCH: usize = 50;
/// How long anything may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const UNSEALED: B256 = B256::repeat_byte(0xff);

/// Counts its calls in slot 0, notes the count under the caller's slot, logs it.
const COUNTER: &[u8] = &[
    0x60, 0x15, 0x80, 0x60, 0x09, 0x5f, 0x39, 0x5f, 0xf3, // Returns the 21 bytes that follow.
    0x5f, 0x54, 0x60, 0x01, 0x01, 0x5f, 0x55, // slot[0] += 1
    0x5f, 0x54, 0x33, 0x55, // slot[caller] = slot[0]
    0x5f, 0x54, 0x5f, 0x52, 0x33, 0x60, 0x20, 0x5f, 0xa1, 0x00, // log1(slot[0], caller)
];

/// Accounts of genesis besides the development accounts, present or not.
const KNOWN: [Address; 6] = [
    address!("000F3df6D732807Ef1319fB7B8bB8522d0Beac02"), // EIP-4788
    address!("0000F90827F1C53a10cb7A02335B175320002935"), // EIP-2935
    address!("00000961Ef480Eb55e80D19ad83579A64c007002"), // EIP-7002
    address!("0000BBdDc7CE488642fb579F8B00f3a590007251"), // EIP-7251
    address!("4e59b44847b379578588920cA78FbF26c0B4956C"), // The usual CREATE2 deployer.
    Address::ZERO,
];

/// What the run knows, from outside only.
struct Witness {
    keys: Vec<Key>,
    counter: Address,
    /// Every receipt that a client was given, by transaction hash.
    seen: BTreeMap<String, Value>,
    /// Hash of each sealed block that was walked, by height.
    blocks: Vec<String>,
    /// What the chain's transactions make of each balance; nonces and calls likewise.
    balances: BTreeMap<Address, U256>,
    nonces: BTreeMap<Address, u64>,
    callers: BTreeMap<Address, u64>,
    calls: u64,
    included: BTreeMap<String, u64>,
}

#[test]
fn every_receipt_a_client_was_given_survives_sigkill() {
    let rounds = number("BASALT_CRASH_ROUNDS").unwrap_or(5);
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let clock = u64::from(since_epoch.subsec_nanos()) ^ since_epoch.as_secs();
    let seed = number("BASALT_CRASH_SEED").unwrap_or(clock);
    println!("{rounds} kills, BASALT_CRASH_SEED={seed}");
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut node = start(folder.path(), 0);
    let mut witness = Witness::new(&node);
    for round in 0..rounds {
        let before = witness.seen.len();
        let alive = Duration::from_millis(100 + random.below(2_500));
        load_until_killed(node, alive, &mut witness);
        if random.below(3) == 0 {
            kill_during_start(folder.path(), Duration::from_millis(random.below(200)));
        }
        let restart = Instant::now();
        node = start(folder.path(), round + 1);
        let restarted = restart.elapsed();
        witness.check(&node, false);
        println!(
            "round {round}: killed after {alive:?}, {} receipts seen, back in {restarted:?}, \
             {} blocks",
            witness.seen.len() - before,
            witness.blocks.len(),
        );
        assert!(witness.seen.len() > before || alive < Duration::from_millis(300), "no load");
    }
    witness.check(&node, true);
    assert!(node.stop().unwrap(), "SIGTERM must end the node with status 0");
    let node = start(folder.path(), 0);
    witness.check(&node, true);
    println!("{} receipts kept over {rounds} kills", witness.seen.len());
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().expect("a number is wanted"))
}

fn command(folder: &Path, round: u64) -> Command {
    let program = env::var_os("BASALT_BIN").unwrap_or(env!("CARGO_BIN_EXE_basalt").into());
    // Mini-blocks that are begun before their interval ends, and such that are not.
    let (block_ms, early) = if round.is_multiple_of(2) { ("1000", "1") } else { ("250", "0") };
    let mut command = Command::new(program);
    command.env("BASALT_SEQUENCING_EARLY_START_GAS", early);
    command.args(["dev", "--rpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    command.args(["--block-ms", block_ms, "--data"]).arg(folder.join("data"));
    command
}

fn start(folder: &Path, round: u64) -> Node {
    Node::start(&mut command(folder, round)).expect("the node starts on what the last one left")
}

/// Replay is no safer a moment than any other.
fn kill_during_start(folder: &Path, after: Duration) {
    let output = fs::File::create(folder.join("killed_start.log")).unwrap();
    let mut child = command(folder, 0).stdout(output).spawn().unwrap();
    thread::sleep(after);
    assert!(child.try_wait().unwrap().is_none(), "the node ended by itself at the start");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Sends from all senders at once; kills the node after `alive`.
fn load_until_killed(node: Node, alive: Duration, witness: &mut Witness) {
    let address = node.address;
    let terms = Terms::of(&mut node.connect().unwrap());
    let seen = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for (at, key) in witness.keys.iter().take(SENDERS as usize).enumerate() {
            let (seen, counter) = (&seen, witness.counter);
            scope.spawn(move || {
                let mut sender = Sender { key, terms, counter, sink: sink(at), seen };
                let mut http = Http::connect(address).unwrap();
                // Ends with the connection: what it had seen until then is what counts.
                let end = if at.is_multiple_of(2) {
                    sender.send_synchronously(&mut http)
                } else {
                    sender.send_and_poll(&mut http)
                };
                assert!(end.is_err(), "senders go on until the node dies");
            });
        }
        thread::sleep(alive);
        node.kill().unwrap();
    });
    for receipt in seen.into_inner().unwrap() {
        let hash = receipt["transactionHash"].as_str().unwrap().to_owned();
        witness.seen.insert(hash, receipt);
    }
}

fn sink(at: usize) -> Address {
    Address::left_padding_from(&[0x51, u8::try_from(at).unwrap()])
}

struct Sender<'a> {
    key: &'a Key,
    terms: Terms,
    counter: Address,
    sink: Address,
    seen: &'a Mutex<Vec<Value>>,
}

impl Sender<'_> {
    fn next(&self, nonce: u64) -> (B256, Bytes) {
        let call = TxKind::Call(self.counter);
        self.key.sign(match nonce % 3 {
            0 => self.terms.call(nonce, call, Bytes::new(), (200_000, 0)),
            _ => self.terms.transfer(nonce, self.sink, nonce + 1),
        })
    }

    fn nonce(&self, http: &mut Http) -> io::Result<u64> {
        let answer = http.call("eth_getTransactionCount", &json!([self.key.address, "pending"]))?;
        Ok(quantity(&answer.expect("nonces can be read")))
    }

    fn send_synchronously(&mut self, http: &mut Http) -> io::Result<()> {
        for nonce in self.nonce(http)?.. {
            let (_, raw) = self.next(nonce);
            match http.call("eth_sendRawTransactionSync", &json!([raw]))? {
                Ok(receipt) => self.seen.lock().unwrap().push(receipt),
                Err(error) => panic!("a good transaction was refused: {error}"),
            }
        }
        Ok(())
    }

    fn send_and_poll(&mut self, http: &mut Http) -> io::Result<()> {
        let mut nonce = self.nonce(http)?;
        loop {
            let mut hashes = Vec::new();
            for _ in 0..10 {
                let (hash, raw) = self.next(nonce);
                let answer = http.call("eth_sendRawTransaction", &json!([raw]))?;
                assert_eq!(answer, Ok(json!(hash)), "a good transaction was refused");
                hashes.push(hash);
                nonce += 1;
            }
            for hash in hashes {
                let receipt = loop {
                    let answer = http.call("eth_getTransactionReceipt", &json!([hash]))?;
                    match answer.expect("receipts can be read") {
                        Value::Null => thread::sleep(Duration::from_millis(2)),
                        receipt => break receipt,
                    }
                };
                self.seen.lock().unwrap().push(receipt);
            }
        }
    }
}

impl Witness {
    /// Deploys the counter on a fresh chain.
    fn new(node: &Node) -> Self {
        let keys = dev_keys(DEV_ACCOUNTS);
        let mut http = node.connect().unwrap();
        let terms = Terms::of(&mut http);
        let balances = keys.iter().map(|key| (key.address, U256::from(10).pow(U256::from(22))));
        let mut witness = Self {
            balances: balances.collect(),
            counter: keys[0].address.create(0),
            keys,
            seen: BTreeMap::new(),
            blocks: Vec::new(),
            nonces: BTreeMap::new(),
            callers: BTreeMap::new(),
            calls: 0,
            included: BTreeMap::new(),
        };
        if env::var_os("BASALT_PEER").is_none() {
            witness.check(node, true); // The stand-in's genesis header has no state root.
        }
        let deploy = terms.call(0, TxKind::Create, Bytes::from_static(COUNTER), (500_000, 0));
        let (_, raw) = witness.keys[0].sign(deploy);
        let receipt = http.must("eth_sendRawTransactionSync", &json!([raw]));
        let hash = receipt["transactionHash"].as_str().unwrap().to_owned();
        witness.seen.insert(hash, receipt);
        witness.check(node, false);
        witness
    }

    /// Holds the whole chain against all that was seen of it; `whole` walks it from genesis.
    fn check(&mut self, node: &Node, whole: bool) {
        let mut http = node.connect().unwrap();
        let kept = self.check_receipts(&mut http);
        await_block(&mut http, kept);
        if whole {
            self.restart_walk();
        }
        let latest = http.number("eth_blockNumber", &json!([]));
        self.walk_to(&mut http, latest);
        for hash in self.seen.keys() {
            assert_eq!(self.included.get(hash), Some(&1), "{hash} must be in one block, once");
        }
        self.check_state(&mut http);
    }

    /// Every receipt that a client was given is given again; returns the highest block of them.
    fn check_receipts(&self, http: &mut Http) -> u64 {
        let hashes: Vec<&String> = self.seen.keys().collect();
        let mut highest = 0;
        for some in hashes.chunks(BATCH) {
            let calls = some.iter().map(|hash| ("eth_getTransactionReceipt", json!([hash])));
            for (hash, now) in some.iter().zip(batch(http, calls).unwrap()) {
                let then = &self.seen[*hash];
                assert!(!now.is_null(), "{hash} was acknowledged and is gone: {then}");
                let (old, new) = (&then["blockHash"], &now["blockHash"]);
                assert!(old == &json!(UNSEALED) || old == new, "{hash} moved: {then} {now}");
                assert_eq!(without_hash(then), without_hash(&now), "{hash} changed");
                highest = highest.max(quantity(&now["blockNumber"]));
            }
        }
        highest
    }

    fn restart_walk(&mut self) {
        let genesis = U256::from(10).pow(U256::from(22));
        self.balances = self.keys.iter().map(|key| (key.address, genesis)).collect();
        self.nonces.clear();
        self.callers.clear();
        self.included.clear();
        self.calls = 0;
        let walked = std::mem::take(&mut self.blocks);
        // What was sealed stays sealed: the next walk must meet the same hashes.
        self.blocks.reserve(walked.len());
        self.blocks.splice(.., walked.into_iter().map(|hash| format!("={hash}")));
    }

    /// Follows sealed blocks by parent hash, and does the sums that their receipts speak of.
    fn walk_to(&mut self, http: &mut Http, latest: u64) {
        let mut parent: Option<String> = None;
        for height in 0..=latest {
            let at = usize::try_from(height).unwrap();
            let before = self.blocks.get(at).cloned();
            if before.as_ref().is_some_and(|hash| !hash.starts_with('=')) {
                parent = before;
                continue;
            }
            let tag = format!("{height:#x}");
            let block = http.must("eth_getBlockByNumber", &json!([tag, true]));
            let receipts = http.must("eth_getBlockReceipts", &json!([tag]));
            let hash = block["hash"].as_str().expect("a sealed block has a hash").to_owned();
            if let Some(parent) = &parent {
                assert_eq!(&block["parentHash"], parent, "block {height} has another parent");
            }
            match before {
                Some(before) => {
                    assert_eq!(before[1..], hash, "sealed block {height} was replaced");
                    self.blocks[at].clone_from(&hash);
                }
                None => self.blocks.push(hash.clone()),
            }
            self.add(&block, receipts.as_array().expect("receipts of a sealed block"));
            parent = Some(hash);
        }
    }

    fn add(&mut self, block: &Value, receipts: &[Value]) {
        let transactions = block["transactions"].as_array().unwrap();
        assert_eq!(transactions.len(), receipts.len(), "one receipt a transaction");
        let base_fee = quantity_256(&block["baseFeePerGas"]);
        let miner: Address = block["miner"].as_str().unwrap().parse().unwrap();
        let mut gas = 0;
        for (at, (transaction, receipt)) in transactions.iter().zip(receipts).enumerate() {
            let hash = transaction["hash"].as_str().unwrap();
            assert_eq!(receipt["transactionHash"], hash);
            assert_eq!(receipt["blockHash"], block["hash"]);
            assert_eq!(quantity(&receipt["transactionIndex"]), at as u64);
            assert_eq!(receipt["status"], "0x1", "{receipt}");
            gas += quantity(&receipt["gasUsed"]);
            assert_eq!(quantity(&receipt["cumulativeGasUsed"]), gas);
            *self.included.entry(hash.to_owned()).or_default() += 1;
            self.add_transaction(transaction, receipt, (miner, base_fee));
        }
        assert_eq!(quantity(&block["gasUsed"]), gas);
    }

    fn add_transaction(&mut self, transaction: &Value, receipt: &Value, fees: (Address, U256)) {
        let from: Address = transaction["from"].as_str().unwrap().parse().unwrap();
        let nonce = self.nonces.entry(from).or_default();
        assert_eq!(quantity(&transaction["nonce"]), *nonce, "{from} has a gap or a duplicate");
        *nonce += 1;
        let gas = quantity_256(&receipt["gasUsed"]);
        let price = quantity_256(&receipt["effectiveGasPrice"]);
        let value = quantity_256(&transaction["value"]);
        *self.balances.get_mut(&from).unwrap() -= gas * price + value;
        *self.balances.entry(fees.0).or_default() += gas * (price - fees.1);
        if let Some(to) = transaction["to"].as_str() {
            let to: Address = to.parse().unwrap();
            *self.balances.entry(to).or_default() += value;
            if to == self.counter {
                self.calls += 1;
                self.callers.insert(from, self.calls);
                assert_eq!(quantity(&receipt["logs"][0]["data"]), self.calls, "logged count");
            }
        }
    }

    /// Balances, nonces and slots are what the walked transactions make of them, and the root
    /// built from nothing over all accounts is the header's.
    fn check_state(&mut self, http: &mut Http) {
        let end = Instant::now() + PATIENCE;
        loop {
            let latest = http.must("eth_getBlockByNumber", &json!(["latest", false]));
            self.walk_to(http, quantity(&latest["number"]));
            match self.root(http, latest["number"].as_str().unwrap()) {
                Ok(root) => {
                    assert_eq!(json!(root), latest["stateRoot"], "root of {}", latest["number"]);
                    return;
                }
                // The block's state fell out of what is kept: take a newer one.
                Err(error) => assert!(Instant::now() < end, "state cannot be read: {error}"),
            }
        }
    }

    fn root(&self, http: &mut Http, tag: &str) -> Result<B256, Value> {
        let mut all: Vec<Address> = self.balances.keys().copied().chain(KNOWN).collect();
        all.push(self.counter);
        all.sort_unstable();
        all.dedup();
        let mut leaves = BTreeMap::new();
        for some in all.chunks(BATCH / 4) {
            let calls = some.iter().flat_map(|account| {
                let plain = json!([account, tag]);
                [
                    ("eth_getBalance", plain.clone()),
                    ("eth_getTransactionCount", plain.clone()),
                    ("eth_getCode", plain),
                    ("eth_getProof", json!([account, [], tag])),
                ]
            });
            let answers = batch(http, calls)?;
            for (account, fields) in some.iter().zip(answers.chunks(4)) {
                if let Some(leaf) = self.leaf(*account, fields) {
                    leaves.insert(keccak256(account), leaf);
                }
            }
        }
        Ok(root_of(leaves))
    }

    /// The account's RLP from flat state, `None` where it is empty.
    fn leaf(&self, account: Address, fields: &[Value]) -> Option<Vec<u8>> {
        let (balance, nonce) = (quantity_256(&fields[0]), quantity(&fields[1]));
        let expected = self.balances.get(&account).copied().unwrap_or_default();
        assert_eq!(balance, expected, "balance of {account}");
        if let Some(expected) = self.nonces.get(&account) {
            assert_eq!(nonce, *expected, "nonce of {account}");
        }
        let code: Bytes = fields[2].as_str().unwrap().parse().unwrap();
        let code_hash = keccak256(&code);
        let mut storage: B256 = fields[3]["storageHash"].as_str().unwrap().parse().unwrap();
        if account == self.counter && !code.is_empty() {
            assert_eq!(storage, self.counter_root(), "storage root of the counter");
        } else if code.is_empty() {
            storage = EMPTY_ROOT_HASH;
        }
        if balance.is_zero() && nonce == 0 && code_hash == KECCAK256_EMPTY {
            return None;
        }
        let account = alloy_trie::TrieAccount { nonce, balance, storage_root: storage, code_hash };
        Some(alloy_rlp::encode(account))
    }

    fn counter_root(&self) -> B256 {
        let own = (U256::ZERO, self.calls);
        let callers = self.callers.iter().map(|(who, count)| (who.into_word().into(), *count));
        let slots = callers.chain([own]).filter(|(_, count)| *count != 0);
        root_of(
            slots
                .map(|(slot, count)| {
                    (keccak256(slot.to_be_bytes::<32>()), alloy_rlp::encode(U256::from(count)))
                })
                .collect(),
        )
    }
}

/// A trie's root from nothing.
fn root_of(leaves: BTreeMap<B256, Vec<u8>>) -> B256 {
    let mut builder = HashBuilder::default();
    for (key, value) in &leaves {
        builder.add_leaf(Nibbles::unpack(key), value);
    }
    builder.root()
}

fn await_block(http: &mut Http, height: u64) {
    let end = Instant::now() + PATIENCE;
    while http.number("eth_blockNumber", &json!([])) < height {
        assert!(Instant::now() < end, "block {height} is never sealed after the restart");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Several calls in one request, answers in the order of the calls, the first error instead.
fn batch(
    http: &mut Http,
    calls: impl Iterator<Item = (&'static str, Value)>,
) -> Result<Vec<Value>, Value> {
    let body: Vec<Value> = calls
        .enumerate()
        .map(|(id, (method, params))| {
            json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
        })
        .collect();
    let request = Http::request(&Value::from(body).to_string());
    let mut answers: Vec<Value> =
        serde_json::from_slice(http.exchange(&request).expect("the node answers")).unwrap();
    answers.sort_by_key(|answer| answer["id"].as_u64());
    answers
        .into_iter()
        .map(|mut answer| match answer.get_mut("error") {
            Some(error) if !error.is_null() => Err(error.take()),
            _ => Ok(answer["result"].take()),
        })
        .collect()
}

/// A receipt less the hash of its block, which is known only once the block is sealed.
fn without_hash(receipt: &Value) -> Value {
    let mut receipt = receipt.clone();
    receipt.as_object_mut().unwrap().remove("blockHash");
    for log in receipt["logs"].as_array_mut().unwrap() {
        log.as_object_mut().unwrap().remove("blockHash");
    }
    receipt
}
