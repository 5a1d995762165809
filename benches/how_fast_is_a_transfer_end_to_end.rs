//! How fast is a transfer, from JSON-RPC in to receipt seen? Throughput; latency at half of it;
//! CPU time a transaction by stage; memory. Against anvil and against signature recovery alone,
//! on the same cores in the same run.
//!
//! `cargo bench --bench how_fast_is_a_transfer_end_to_end -- [--small] [--rounds N]
//! [--transactions N] [--accounts N] [--block-ms N] [--minutes M] [--no-peer]`. `ANVIL` names the
//! peer's program (default: the one under `tests/clients`), `BASALT_BIN` another build of the node.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock and owns its threads")]
#![expect(clippy::float_arithmetic, reason = "figures for people")]
#![expect(clippy::print_stdout, reason = "the figures are the output")]
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]

#[path = "../tests/support/client.rs"]
mod client;
#[path = "support/load.rs"]
mod load;
#[path = "support/mode.rs"]
mod mode;
#[path = "support/process.rs"]
mod process;
#[path = "support/spread.rs"]
mod spread;

use alloy_primitives::keccak256;
use client::{Key, Node, Random, Terms, dev_keys};
use load::{Accounts, CONNECTIONS, PROBERS, Pace};
use process::{Cpu, Resident};
use secp256k1::{
    Message, SECP256K1, SecretKey,
    ecdsa::{RecoverableSignature, RecoveryId},
};
use serde_json::json;
use spread::Spread;
use std::{
    env, fs,
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Accounts that `basalt dev` derives from the mnemonic at most.
const MNEMONIC_ACCOUNTS_MAX: usize = 100_000;
/// A rate that does not beat with any block interval.
const ODD_RATE: f64 = 23.7;

#[derive(Clone)]
struct Options {
    rounds: usize,
    transactions: usize,
    senders: u32,
    accounts: usize,
    block_ms: Option<u64>,
    minutes: u64,
    latency: Duration,
    peer: bool,
}

/// The figures of one round on one node.
#[derive(Default)]
struct Round {
    /// Recovery alone on all cores, 1/s, around the measurement of `rate`.
    limit: f64,
    rate: f64,
    cpu_us: f64,
    threads_us: Vec<(String, f64)>,
    half: [f64; 3],
    odd: [f64; 3],
    rest: Resident,
    loaded: Resident,
}

fn main() -> Outcome<()> {
    let mode = mode::mode();
    if mode == mode::Mode::Skipped {
        return Ok(());
    }
    let mut options = options()?;
    if !env::args().any(|argument| argument == "--bench") {
        // Under `cargo test`: an unoptimised node, and no time to wait for figures.
        let latency = Duration::from_millis(500);
        let (rounds, transactions, senders, accounts) = (1, 400, 40, 40);
        options =
            Options { rounds, transactions, senders, accounts, latency, peer: false, ..options };
    }
    println!("{}", machine());
    println!(
        "{} rounds of {} transfers from {} senders, {} funded accounts; batches of {} over {} \
         connections",
        options.rounds,
        options.transactions,
        options.senders,
        options.accounts.max(options.senders as usize),
        load::BATCH,
        CONNECTIONS
    );
    let folder = env::temp_dir().join(format!("basalt-bench-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let outcome = run(&options, &folder);
    fs::remove_dir_all(&folder)?;
    outcome
}

fn run(options: &Options, folder: &Path) -> Outcome<()> {
    let keys = dev_keys(options.senders);
    let basalt = Peer::basalt(options, folder, &keys)?;
    let anvil = options.peer.then(|| Peer::anvil(options)).flatten();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        println!("round {round}");
        ours.push(basalt.round(options, &keys)?);
        if let Some(anvil) = &anvil {
            theirs.push(anvil.round(options, &keys)?);
        }
    }
    summary(&ours, &theirs);
    if options.minutes > 0 {
        let rate = Spread::of(ours.iter().map(|round| round.rate)).median / 2.0;
        basalt.soak(options, &keys, rate)?;
    }
    Ok(())
}

/// A program that serves a chain.
struct Peer {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Peer {
    fn basalt(options: &Options, folder: &Path, keys: &[Key]) -> Outcome<Self> {
        let program = env::var_os("BASALT_BIN").unwrap_or(env!("CARGO_BIN_EXE_basalt").into());
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut arguments: Vec<String> =
            ["dev", "--fresh", "--rpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--data"]
                .map(str::to_owned)
                .to_vec();
        arguments.push(text(folder.join("data")));
        if let Some(block_ms) = options.block_ms {
            arguments.extend(["--block-ms".to_owned(), block_ms.to_string()]);
        }
        if options.accounts > MNEMONIC_ACCOUNTS_MAX {
            let path = folder.join("genesis.json");
            write_genesis(&path, keys, options.accounts)?;
            arguments.extend(["--genesis".to_owned(), text(path)]);
        } else {
            let accounts = options.accounts.max(keys.len());
            arguments.extend(["--accounts".to_owned(), accounts.to_string()]);
        }
        Ok(Self { name: "basalt", program: program.into(), arguments })
    }

    /// `None`, with a word, where the program is not there.
    fn anvil(options: &Options) -> Option<Self> {
        let program = env::var_os("ANVIL").map(PathBuf::from).or_else(installed_anvil);
        let Some(program) = program.filter(|program| program.exists()) else {
            println!("anvil is not installed (npm ci in tests/clients, or ANVIL=path): no peer");
            return None;
        };
        let accounts = options.senders.to_string();
        // Mining at once, it leaves part of a burst of batches in its pool until the next
        // transaction comes; with blocks of 0.1 s and room in them it takes all.
        let arguments = [
            ["--port", "0"],
            ["--accounts", &accounts],
            ["--balance", "10000"],
            ["--block-time", "0.1"],
            ["--gas-limit", "1000000000"],
        ];
        let arguments = arguments.concat().into_iter().map(str::to_owned).collect();
        Some(Self { name: "anvil", program, arguments })
    }

    fn start(&self) -> io::Result<Node> {
        Node::start(Command::new(&self.program).args(&self.arguments))
            .map_err(|error| io::Error::other(format!("{}: {error}", self.program.display())))
    }

    /// One round on a fresh chain.
    fn round(&self, options: &Options, keys: &[Key]) -> Outcome<Round> {
        let node = self.start()?;
        thread::sleep(Duration::from_secs(1));
        let mut http = node.connect()?;
        let terms = Terms::of(&mut http);
        let mut accounts = Accounts::new(&mut http, keys);
        let mut round = Round { rest: Resident::of(node.pid()), ..Round::default() };
        Resident::forget_peak(node.pid())?;
        // Before and after, for the machine's speed changes within seconds.
        let before = recovery_alone(options.transactions / 10);
        self.throughput(&node, &mut accounts, (terms, options.transactions), &mut round)?;
        let after = recovery_alone(options.transactions / 10);
        round.limit = f64::midpoint(before, after);
        let (half, odd) = paces(round.rate, options.latency);
        for (pace, figures) in [(half, &mut round.half), (odd, &mut round.odd)] {
            match load::latency(&node, &mut accounts, (terms, pace)) {
                Ok(times) => *figures = percentiles(&times),
                Err(error) if self.name == "anvil" => {
                    println!("  anvil: no latency: {error}");
                    *figures = [f64::NAN; 3];
                }
                Err(error) => return Err(error.into()),
            }
        }
        round.loaded = Resident::of(node.pid());
        round.print(self.name);
        stop(node, self.name);
        Ok(round)
    }

    fn throughput(
        &self,
        node: &Node,
        accounts: &mut Accounts,
        job: (Terms, usize),
        round: &mut Round,
    ) -> Outcome<()> {
        let (terms, transactions) = job;
        let mut http = node.connect()?;
        let each = accounts.keys.len() / CONNECTIONS;
        let per_share = transactions / CONNECTIONS;
        let shares: Vec<_> = (0..CONNECTIONS)
            .map(|at| load::prepare(accounts, at * each..(at + 1) * each, (terms, per_share)))
            .collect();
        let sent: usize = shares.iter().map(|share| share.hashes.len()).sum();
        let (from, before) = (load::head(&mut http), Cpu::of(node.pid()));
        let took = load::burst(node, &shares)?;
        let cpu = Cpu::of(node.pid()).since(&before);
        let included = load::count_included(&mut http, from, sent)?;
        if included != sent {
            return Err(
                format!("{}: {included} of {sent} transfers are in blocks", self.name).into()
            );
        }
        let per_transaction = |seconds: f64| seconds * 1e6 / sent as f64;
        round.rate = sent as f64 / took.as_secs_f64();
        round.cpu_us = per_transaction(cpu.total);
        let threads = cpu.threads.into_iter().map(|(name, spent)| (name, per_transaction(spent)));
        round.threads_us = threads.filter(|(_, spent)| *spent >= 0.05).collect();
        round.threads_us.sort_unstable_by(|(_, a), (_, b)| b.total_cmp(a));
        Ok(())
    }

    /// Half of the throughput for minutes: memory must stay flat.
    fn soak(&self, options: &Options, keys: &[Key], rate: f64) -> Outcome<()> {
        let node = self.start()?;
        let mut http = node.connect()?;
        let terms = Terms::of(&mut http);
        let mut accounts = Accounts::new(&mut http, keys);
        println!("soak: {} at {rate:.0}/s for {} min", self.name, options.minutes);
        for minute in 1..=options.minutes {
            let (pace, _) = paces(rate * 2.0, Duration::from_secs(60));
            let [p50, p90, p99] = percentiles(&load::latency(&node, &mut accounts, (terms, pace))?);
            let Resident { now, files, peak } = Resident::of(node.pid());
            println!(
                "  minute {minute}: {now:.0} MiB resident, {files:.0} of it file pages (highest \
                 {peak:.0}), latency p50 {p50:.1} p90 {p90:.1} p99 {p99:.1} ms"
            );
        }
        stop(node, self.name);
        Ok(())
    }
}

/// Half of a rate, most of it in the background; and an odd trickle alone.
fn paces(rate: f64, duration: Duration) -> (Pace, Pace) {
    let probes = (rate / 20.0).clamp(20.0, 200.0);
    let half = Pace { background: rate / 2.0 - probes, probes, duration };
    (half, Pace { background: 0.0, probes: ODD_RATE, duration })
}

fn stop(node: Node, name: &str) {
    match node.stop() {
        Ok(true) => {}
        Ok(false) if name == "anvil" => {}
        other => println!("  {name} did not end well: {other:?}"),
    }
}

impl Round {
    fn print(&self, name: &str) {
        println!(
            "  {name}: {:.0} transfers/s, {:.1} us of CPU each; recovery alone: {:.0}/s",
            self.rate, self.cpu_us, self.limit
        );
        let threads: Vec<String> =
            self.threads_us.iter().map(|(name, us)| format!("{name} {us:.1}")).collect();
        println!("    us by thread: {}", threads.join(", "));
        let [p50, p90, p99] = self.half;
        println!("    latency at half of it: p50 {p50:.2} p90 {p90:.2} p99 {p99:.2} ms");
        let [p50, p90, p99] = self.odd;
        println!("    latency at {ODD_RATE}/s:    p50 {p50:.2} p90 {p90:.2} p99 {p99:.2} ms");
        println!(
            "    resident: {:.0} MiB at rest (highest before {:.0}); under load {:.0} at the \
             highest, {:.0} after it, {:.0} of that file pages",
            self.rest.now, self.rest.peak, self.loaded.peak, self.loaded.now, self.loaded.files
        );
    }
}

fn summary(ours: &[Round], theirs: &[Round]) {
    println!("median (lowest to highest) over {} rounds", ours.len());
    let line = |what: &str, values: Vec<f64>| {
        println!("  {what:<58} {:.2}", Spread::of(values));
    };
    let of = |rounds: &[Round], figure: fn(&Round) -> f64| rounds.iter().map(figure).collect();
    line("recovery alone, all cores, 1/s", of(ours, |round| round.limit));
    for (name, rounds) in [("basalt", ours), ("anvil", theirs)] {
        if rounds.is_empty() {
            continue;
        }
        line(&format!("{name}: throughput, 1/s"), of(rounds, |round| round.rate));
        line(&format!("{name}: CPU a transfer, us"), of(rounds, |round| round.cpu_us));
        line(&format!("{name}: latency p50 at half, ms"), of(rounds, |round| round.half[0]));
        line(&format!("{name}: latency p90 at half, ms"), of(rounds, |round| round.half[1]));
        line(&format!("{name}: latency p99 at half, ms"), of(rounds, |round| round.half[2]));
        line(&format!("{name}: latency p50 at 23.7/s, ms"), of(rounds, |round| round.odd[0]));
        line(&format!("{name}: latency p99 at 23.7/s, ms"), of(rounds, |round| round.odd[2]));
        line(
            &format!("{name}: resident at the highest, MiB"),
            of(rounds, |round| round.loaded.peak),
        );
    }
    let ratio = |others: Vec<f64>| {
        ours.iter().zip(others).map(|(our, other)| our.rate / other).collect::<Vec<f64>>()
    };
    line("basalt / recovery alone (expected: 0.60)", ratio(of(ours, |round| round.limit)));
    if !theirs.is_empty() {
        line("basalt / anvil (expected: 2.5)", ratio(of(theirs, |round| round.rate)));
    }
}

/// Recovers senders on every core, as many on each: per second over all.
fn recovery_alone(count: usize) -> f64 {
    let secret = SecretKey::from_byte_array([7; 32]).expect("a valid key");
    let signed: Vec<(Message, [u8; 64], RecoveryId)> = (0..256u64)
        .map(|at| {
            let digest = Message::from_digest(keccak256(at.to_be_bytes()).0);
            let (id, bytes) = SECP256K1.sign_ecdsa_recoverable(digest, &secret).serialize_compact();
            (digest, bytes, id)
        })
        .collect();
    let work = || {
        for (digest, bytes, id) in signed.iter().cycle().take(count) {
            let signature = RecoverableSignature::from_compact(bytes, *id).expect("signed above");
            let key = SECP256K1.recover_ecdsa(*digest, &signature).expect("signed above");
            std::hint::black_box(keccak256(&key.serialize_uncompressed()[1..]));
        }
    };
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(work);
        }
    });
    (count * cores()) as f64 / start.elapsed().as_secs_f64()
}

/// A genesis in geth's format: the senders, and accounts that only exist.
fn write_genesis(path: &Path, keys: &[Key], accounts: usize) -> io::Result<()> {
    let forks = [
        "homestead",
        "eip150",
        "eip155",
        "eip158",
        "byzantium",
        "constantinople",
        "petersburg",
        "istanbul",
        "berlin",
        "london",
    ];
    let mut config = json!({
        "chainId": 31_337, "terminalTotalDifficulty": 0, "terminalTotalDifficultyPassed": true,
        "shanghaiTime": 0, "cancunTime": 0, "pragueTime": 0, "osakaTime": 0,
    });
    for fork in forks {
        config[format!("{fork}Block")] = json!(0);
    }
    let mut file = BufWriter::new(fs::File::create(path)?);
    write!(file, r#"{{"config":{config},"gasLimit":"0x3b9aca00","difficulty":"0x0","#)?;
    write!(file, r#""baseFeePerGas":"0x3b9aca00","timestamp":"0x0","alloc":{{"#)?;
    for key in keys {
        write!(file, r#""{:#x}":{{"balance":"0x21e19e0c9bab2400000"}},"#, key.address)?;
    }
    let mut random = Random(1);
    for at in keys.len()..accounts.max(keys.len() + 1) {
        let (high, low) = (random.next(), random.next());
        let comma = if at + 1 == accounts.max(keys.len() + 1) { "" } else { "," };
        write!(
            file,
            r#""0x{high:016x}{low:016x}{at:08x}":{{"balance":"0xde0b6b3a7640000"}}{comma}"#
        )?;
    }
    write!(file, "}}}}")?;
    file.flush()
}

fn installed_anvil() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/node_modules/@foundry-rs");
    let folders = fs::read_dir(root).ok()?.flatten();
    let mut found = folders
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("anvil-"))
        .map(|entry| entry.path().join("bin/anvil"));
    found.next()
}

fn options() -> Outcome<Options> {
    let mut options = Options {
        rounds: 3,
        transactions: 100_000,
        senders: 200,
        accounts: 200,
        block_ms: None,
        minutes: 0,
        latency: Duration::from_secs(10),
        peer: true,
    };
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || -> Outcome<u64> {
            Ok(words.next().ok_or(format!("{word} wants a number"))?.parse()?)
        };
        match word.as_str() {
            "--small" => {
                options.rounds = 1;
                options.transactions = 4_000;
                options.senders = 40;
                options.latency = Duration::from_secs(1);
            }
            "--rounds" => options.rounds = value()?.max(1) as usize,
            "--transactions" => options.transactions = value()? as usize,
            "--senders" => options.senders = u32::try_from(value()?)?,
            "--accounts" => options.accounts = value()? as usize,
            "--block-ms" => options.block_ms = Some(value()?),
            "--minutes" => options.minutes = value()?,
            "--no-peer" => options.peer = false,
            "--bench" => {}
            // What `cargo test -- OPTIONS` gives to every test.
            _ if !env::args().any(|argument| argument == "--bench") => {}
            other => return Err(format!("unknown option {other}; see the head of the file").into()),
        }
    }
    if (options.senders as usize) <= PROBERS {
        return Err(format!("--senders: more than {PROBERS} are needed").into());
    }
    Ok(options)
}

fn percentiles(sorted: &[f64]) -> [f64; 3] {
    [0.5, 0.9, 0.99].map(|part| {
        let at = (sorted.len() as f64 * part) as usize;
        sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    })
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let model = model.unwrap_or("unknown processor").trim();
    format!("{} cores of {model}, Linux {}", cores(), kernel.trim())
}
