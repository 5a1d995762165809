//! A node under test and a load generator's client: process, HTTP, development keys, signing.
//!
//! Plain blocking sockets, so that the generator costs as little of the cores as it can.
#![allow(dead_code, unreachable_pub, reason = "each file that includes it uses a part of it")]

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use hmac::{Hmac, Mac as _};
use secp256k1::{Message, PublicKey, SECP256K1, Scalar, SecretKey};
use serde_json::{Value, json};
use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

/// The mnemonic of every development chain.
pub const MNEMONIC: &str = "test test test test test test test test test test test junk";
/// How long a node may take to print its endpoint.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running node, killed when dropped.
pub struct Node {
    pub child: Child,
    pub address: SocketAddr,
    /// Lines of its standard output so far.
    pub printed: Arc<Mutex<Vec<String>>>,
}

impl Node {
    /// Starts a node and waits for the line with its endpoint (the first address with a port
    /// that does not speak of metrics).
    pub fn start(command: &mut Command) -> io::Result<Self> {
        // What is meant for the tests is no setting of the node.
        command.env_remove("BASALT_CRASH_ROUNDS").env_remove("BASALT_VECTORS");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let (found, endpoint) = mpsc::channel();
        let printed = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&printed);
        thread::spawn(move || drain(stdout, &found, &lines));
        match endpoint.recv_timeout(START_LIMIT) {
            Ok(address) => Ok(Self { child, address, printed }),
            Err(_) => {
                child.kill().ok();
                let status = child.wait()?;
                Err(io::Error::other(format!("no endpoint was printed; ended with {status}")))
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }

    /// SIGTERM, and waits for the end; true where the node ended with status 0.
    pub fn stop(self) -> io::Result<bool> {
        self.end_by("TERM")
    }

    /// The signal of that name, and waits for the end; true where the node ended with status 0.
    pub fn end_by(mut self, signal: &str) -> io::Result<bool> {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-s", signal, &pid]).status()?;
        Ok(self.child.wait()?.success())
    }

    pub fn connect(&self) -> io::Result<Http> {
        Http::connect(self.address)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Reads a node's output to its end, so that the pipe never fills.
fn drain(stdout: ChildStdout, found: &mpsc::Sender<SocketAddr>, printed: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Some(Ok(line)) = lines.next() {
        if std::env::var_os("BASALT_TEST_VERBOSE").is_some() {
            writeln!(io::stderr(), "node: {line}").ok();
        }
        if let Some(address) = endpoint_in(&line) {
            found.send(address).ok();
        }
        printed.lock().expect("nobody panics with it").push(line);
    }
}

fn endpoint_in(line: &str) -> Option<SocketAddr> {
    if line.to_ascii_lowercase().contains("metrics") {
        return None;
    }
    let rest = &line[line.find("127.0.0.1:")?..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
    let address: SocketAddr = rest[..end.unwrap_or(rest.len())].parse().ok()?;
    (address.port() != 0).then_some(address)
}

/// One keep-alive connection that speaks JSON-RPC.
pub struct Http {
    stream: BufReader<TcpStream>,
    head: String,
    body: Vec<u8>,
}

impl Http {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { stream: BufReader::new(stream), head: String::new(), body: Vec::new() })
    }

    /// A whole HTTP request for a body, to be made ahead of time.
    pub fn request(body: &str) -> Vec<u8> {
        let head = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n";
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    /// Sends a whole request and reads the body of the answer.
    pub fn exchange(&mut self, request: &[u8]) -> io::Result<&[u8]> {
        self.stream.get_mut().write_all(request)?;
        let mut length = None;
        let mut chunked = false;
        loop {
            self.head.clear();
            if self.stream.read_line(&mut self.head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = self.head.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok();
            }
            chunked |= line.starts_with("transfer-encoding:") && line.ends_with("chunked");
        }
        self.body.clear();
        if chunked {
            self.read_chunks()?;
        } else {
            let length = length.ok_or_else(|| io::Error::other("answer without a length"))?;
            self.body.resize(length, 0);
            self.stream.read_exact(&mut self.body)?;
        }
        Ok(&self.body)
    }

    fn read_chunks(&mut self) -> io::Result<()> {
        loop {
            self.head.clear();
            self.stream.read_line(&mut self.head)?;
            let size = usize::from_str_radix(self.head.trim(), 16)
                .map_err(|_| io::Error::other("chunk without a size"))?;
            let from = self.body.len();
            self.body.resize(from + size + 2, 0);
            self.stream.read_exact(&mut self.body[from..])?;
            self.body.truncate(from + size);
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// One call: its result, or the error object that the node answered, or why none came.
    pub fn call(&mut self, method: &str, params: &Value) -> io::Result<Result<Value, Value>> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let answer = self.exchange(&Self::request(&body.to_string()))?;
        let mut answer: Value = serde_json::from_slice(answer)?;
        Ok(match answer.get_mut("error") {
            Some(error) if !error.is_null() => Err(error.take()),
            _ => Ok(answer["result"].take()),
        })
    }

    /// One call that must succeed.
    pub fn must(&mut self, method: &str, params: &Value) -> Value {
        match self.call(method, params) {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => panic!("{method} {params}: {error}"),
            Err(error) => panic!("{method} {params}: {error}"),
        }
    }

    /// A number that a call answers as a hex quantity.
    pub fn number(&mut self, method: &str, params: &Value) -> u64 {
        quantity(&self.must(method, params))
    }
}

/// A hex quantity that fits 64 bits.
pub fn quantity(value: &Value) -> u64 {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no quantity"));
    u64::from_str_radix(text.trim_start_matches("0x"), 16)
        .unwrap_or_else(|_| panic!("{value} is no quantity"))
}

/// A hex quantity.
pub fn quantity_256(value: &Value) -> U256 {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no quantity"));
    U256::from_str_radix(text.trim_start_matches("0x"), 16)
        .unwrap_or_else(|_| panic!("{value} is no quantity"))
}

/// A development account.
#[derive(Clone, Copy)]
pub struct Key {
    secret: SecretKey,
    pub address: Address,
}

/// The first accounts of the well-known mnemonic, at `m/44'/60'/0'/0/index`.
pub fn dev_keys(count: u32) -> Vec<Key> {
    let seed = bip39::Mnemonic::parse(MNEMONIC).expect("the mnemonic is valid").to_seed("");
    let mut node = split(&hmac_sha512(b"Bitcoin seed", &[&seed]));
    const HARD: u32 = 1 << 31;
    for index in [44 | HARD, 60 | HARD, HARD, 0] {
        node = child(&node, index);
    }
    (0..count).map(|index| Key::new(child(&node, index).0)).collect()
}

fn child((secret, chain): &(SecretKey, [u8; 32]), index: u32) -> (SecretKey, [u8; 32]) {
    let number = index.to_be_bytes();
    let digest = if index >> 31 == 1 {
        hmac_sha512(chain, &[&[0], &secret.secret_bytes(), &number])
    } else {
        let public = PublicKey::from_secret_key(SECP256K1, secret).serialize();
        hmac_sha512(chain, &[&public, &number])
    };
    let (tweak, chain) = split(&digest);
    (secret.add_tweak(&Scalar::from(tweak)).expect("a valid child key"), chain)
}

fn hmac_sha512(key: &[u8], parts: &[&[u8]]) -> [u8; 64] {
    let mut mac = Hmac::<sha2::Sha512>::new_from_slice(key).expect("any length will do");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn split(digest: &[u8; 64]) -> (SecretKey, [u8; 32]) {
    let (left, right) = digest.split_at(32);
    let left = left.try_into().expect("32 bytes");
    (SecretKey::from_byte_array(left).expect("a valid key"), right.try_into().expect("32 bytes"))
}

impl Key {
    pub fn new(secret: SecretKey) -> Self {
        let public = PublicKey::from_secret_key(SECP256K1, &secret).serialize_uncompressed();
        Self { secret, address: Address::from_slice(&keccak256(&public[1..])[12..]) }
    }

    /// Signs a transaction: its hash and its raw encoding.
    pub fn sign(&self, transaction: TxEip1559) -> (B256, Bytes) {
        let digest = Message::from_digest(transaction.signature_hash().0);
        let (recovery, compact) =
            SECP256K1.sign_ecdsa_recoverable(digest, &self.secret).serialize_compact();
        let (r, s) = compact.split_at(32);
        let odd = i32::from(recovery) & 1 == 1;
        let signature = Signature::new(U256::from_be_slice(r), U256::from_be_slice(s), odd);
        let envelope = TxEnvelope::from(transaction.into_signed(signature));
        (*envelope.tx_hash(), envelope.encoded_2718().into())
    }
}

/// What all transactions of a run share.
#[derive(Clone, Copy)]
pub struct Terms {
    pub chain_id: u64,
    /// Wei per gas at most.
    pub fee_cap: u128,
    /// Wei per gas for the fee recipient.
    pub tip: u128,
}

impl Terms {
    /// Terms with room for the base fee to grow.
    pub fn of(http: &mut Http) -> Self {
        let price = http.number("eth_gasPrice", &json!([]));
        let chain_id = http.number("eth_chainId", &json!([]));
        Self { chain_id, fee_cap: u128::from(price) * 100 + 1_000_000_000_000, tip: 1_000 }
    }

    pub fn transfer(&self, nonce: u64, to: Address, value: u64) -> TxEip1559 {
        self.call(nonce, TxKind::Call(to), Bytes::new(), (21_000, value))
    }

    /// A call or creation with `(gas limit, value)`.
    pub fn call(&self, nonce: u64, to: TxKind, input: Bytes, costs: (u64, u64)) -> TxEip1559 {
        TxEip1559 {
            chain_id: self.chain_id,
            nonce,
            gas_limit: costs.0,
            max_fee_per_gas: self.fee_cap,
            max_priority_fee_per_gas: self.tip,
            to,
            value: U256::from(costs.1),
            access_list: Default::default(),
            input,
        }
    }
}

/// Splitmix64: small, seeded, good enough to choose moments and recipients.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
