//! What a durable append costs: the log beside what the same disk takes without it.
#![expect(clippy::print_stdout, reason = "a bench reports on standard output")]
#![expect(clippy::float_arithmetic, reason = "a bench computes ratios")]
#![expect(clippy::cast_precision_loss, reason = "microseconds of a bench fit 52 bits")]

#[path = "support/mode.rs"]
mod mode;

use alloy_consensus::{Signed, TxEip1559, TxType};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Signature, TxKind, U256, keccak256};
use basalt::{
    runtime::{
        clock::Clock,
        memory::AlignedBuffer,
        uring::{
            direct,
            writer::{DurableWriter, Form},
        },
    },
    types::{
        diff::{Account, AccountDiff, Diff},
        flow::Event,
        mini_block::{BlockEnvironment, MiniBlock},
        receipt::Receipt,
        transaction::RecoveredTransaction,
    },
    wal::{
        codec,
        log::Log,
        record,
        replay::{Settings, open},
        segment::SEGMENT_BYTES_MIN,
    },
};
use std::{fs::File, os::unix::fs::FileExt as _, path::Path, sync::Arc, thread};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const BLOCK: usize = 4096;
const LARGE: usize = 16 * BLOCK;
/// Scratch files are written over in a circle of this size.
const SCRATCH_BYTES: usize = 1 << 20;

/// One way to append, and what its rounds took in microseconds.
struct Contender {
    name: String,
    bytes: usize,
    append: Box<dyn FnMut(u64) -> Outcome<()>>,
    took_us: Vec<u64>,
}

fn main() -> Outcome<()> {
    let mode = mode::mode();
    if mode == mode::Mode::Skipped {
        return Ok(());
    }
    let small = mode == mode::Mode::Small;
    let (rounds, transfers) = if small { (24, 256) } else { (1_000, 2_048) };
    let folder = tempfile::tempdir()?;
    let clock = Clock::system();
    let mut contenders = contenders(folder.path(), rounds)?;
    for round in 0..rounds {
        // In turns: what slows the disk for a while slows all of them.
        for contender in &mut contenders {
            let start_us = clock.now_us();
            (contender.append)(round)?;
            contender.took_us.push(clock.now_us() - start_us);
        }
    }
    println!("durable append in {}, {rounds} rounds in turns", folder.path().display());
    println!(
        "{:<34} {:>6} {:>8} {:>8} {:>8} {:>7}",
        "", "KiB", "p50 µs", "p99 µs", "p99/p50", "× peer"
    );
    for bytes in [BLOCK, LARGE] {
        let peer = contenders
            .iter()
            .find(|contender| contender.bytes == bytes && contender.name == Form::Plain.name())
            .map_or(1, |contender| quantile(&contender.took_us, 50));
        for contender in contenders.iter().filter(|contender| contender.bytes == bytes) {
            let p50 = quantile(&contender.took_us, 50);
            let p99 = quantile(&contender.took_us, 99);
            println!(
                "{:<34} {:>6} {p50:>8} {p99:>8} {:>8.2} {:>7.2}",
                contender.name,
                bytes / 1024,
                p99 as f64 / p50.max(1) as f64,
                p50 as f64 / peer.max(1) as f64,
            );
        }
    }
    encoding(&clock, transfers, if small { 20 } else { 200 });
    Ok(())
}

fn contenders(folder: &Path, rounds: u64) -> Outcome<Vec<Contender>> {
    let mut contenders = Vec::new();
    for bytes in [BLOCK, LARGE] {
        let mut log = log(&folder.join(format!("log-{bytes}")), bytes, rounds)?;
        let (mut number, mut parent) = (0, B256::ZERO);
        contenders.push(contender("the log, encoding included", bytes, move |_| {
            number += 1;
            let event = padded(number, parent, bytes);
            parent = keccak256(number.to_be_bytes());
            log.add(&event)?;
            Ok(log.flush()?)
        }));
        for form in [Form::Plain, Form::Linked, Form::Dsync] {
            let Ok(mut writer) = DurableWriter::new(form) else {
                println!("{}: not available here", form.name());
                continue;
            };
            let file = scratch(&folder.join(format!("{}-{bytes}", form.name())))?;
            let buffer = AlignedBuffer::zeroed(bytes);
            contenders.push(contender(form.name(), bytes, move |round| {
                Ok(writer.write_durable(&file, place(round, bytes)?, buffer.as_slice())?)
            }));
        }
    }
    let file = scratch(&folder.join("sixteen"))?;
    let buffer = AlignedBuffer::zeroed(BLOCK);
    contenders.push(contender("sixteen 4 KiB writes, one flush", LARGE, move |round| {
        for entry in 0..16 {
            file.write_all_at(buffer.as_slice(), place(round, LARGE)? + entry * 4096)?;
        }
        Ok(file.sync_data()?)
    }));
    Ok(contenders)
}

fn contender(
    name: &str,
    bytes: usize,
    append: impl FnMut(u64) -> Outcome<()> + 'static,
) -> Contender {
    Contender { name: name.to_owned(), bytes, append: Box::new(append), took_us: Vec::new() }
}

/// A log with room for the whole run in two segments, so that none is made meanwhile.
fn log(folder: &Path, bytes: usize, rounds: u64) -> Outcome<Log> {
    let needed = (rounds + 1) * u64::try_from(bytes)?;
    let settings = Settings {
        directory: folder.to_owned(),
        segment_bytes: needed.max(SEGMENT_BYTES_MIN),
        form: None,
        steady: Arc::default(),
    };
    let (log, preparer) = open(settings)?.replay(0)?.finish(&Clock::system())?;
    thread::Builder::new().spawn(|| preparer.run())?;
    Ok(log)
}

/// A file past the page cache, every block of it written.
fn scratch(path: &Path) -> Outcome<File> {
    let (file, access) = direct::open(path, true)?;
    if access == direct::Access::Buffered {
        println!("{}: no O_DIRECT here, through the page cache", path.display());
    }
    file.write_all_at(AlignedBuffer::zeroed(SCRATCH_BYTES).as_slice(), 0)?;
    file.sync_all()?;
    Ok(file)
}

fn place(round: u64, bytes: usize) -> Outcome<u64> {
    Ok(round * u64::try_from(bytes)? % u64::try_from(SCRATCH_BYTES)?)
}

fn quantile(took_us: &[u64], percent: usize) -> u64 {
    let mut sorted = took_us.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() * percent / 100).or(sorted.last()).copied().unwrap_or(0)
}

fn blank(number: u64, parent_hash: B256, diff: Diff) -> MiniBlock {
    MiniBlock {
        number,
        environment: BlockEnvironment {
            number: 1,
            timestamp: 1,
            base_fee: 7,
            gas_limit: 30_000_000,
            fee_recipient: Address::ZERO,
            prev_randao: B256::ZERO,
        },
        index: number - 1,
        first_transaction: 0,
        first_log: 0,
        timestamp_us: number,
        parent_hash,
        transactions: Vec::new(),
        receipts: Vec::new(),
        diff: Arc::new(diff),
        gas_used: 0,
        transaction_root: B256::ZERO,
        receipt_root: B256::ZERO,
        hash: keccak256(number.to_be_bytes()),
        signature: Signature::new(U256::from(1), U256::from(1), false),
    }
}

/// A mini-block whose record fills `bytes` of the disk.
fn padded(number: u64, parent: B256, bytes: usize) -> Event {
    let mut diff = Diff::default();
    diff.codes.insert(B256::ZERO, vec![7; bytes - 1_024].into());
    Event::MiniBlock(Arc::new(blank(number, parent, diff)))
}

/// CPU time to encode and checksum a mini-block of plain transfers.
fn encoding(clock: &Clock, transfers: u64, rounds: u64) {
    let mut diff = Diff::default();
    let mut mini_block = blank(1, B256::ZERO, Diff::default());
    for nonce in 0..transfers {
        let party = |role: &str| Address::from_word(keccak256(format!("{role} {nonce}")));
        let tx = TxEip1559 {
            chain_id: 31_337,
            nonce,
            gas_limit: 21_000,
            max_fee_per_gas: 2_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
            to: TxKind::Call(party("to")),
            value: U256::from(nonce),
            ..TxEip1559::default()
        };
        let word = U256::from_be_bytes(keccak256(nonce.to_be_bytes()).0);
        let envelope = Signed::new_unhashed(tx, Signature::new(word, word, true)).into();
        let envelope: alloy_consensus::TxEnvelope = envelope;
        let raw = envelope.encoded_2718().into();
        let (hash, sender) = (keccak256(&raw), party("from"));
        let transaction = RecoveredTransaction::new(envelope, hash, (sender, vec![]), raw);
        mini_block.transactions.push(Arc::new(transaction));
        mini_block.receipts.push(Receipt {
            tx_type: TxType::Eip1559,
            success: true,
            gas_used: 21_000,
            cumulative_gas_used: 21_000 * (nonce + 1),
            logs: Vec::new(),
        });
        for address in [sender, party("to")] {
            let account = Account { nonce, balance: word >> 180, ..Account::default() };
            let change = AccountDiff { account: Some(account), ..AccountDiff::default() };
            diff.accounts.insert(address, change);
        }
    }
    mini_block.diff = Arc::new(diff);
    let event = Event::MiniBlock(Arc::new(mini_block));
    let mut buffer = AlignedBuffer::with_capacity(1 << 20);
    let (mut encode_us, mut check_us, mut sum) = (0, 0, 0);
    for _ in 0..rounds {
        buffer.clear();
        let start_us = clock.now_us();
        codec::encode(&event, &mut buffer);
        let middle_us = clock.now_us();
        sum ^= record::checksum(buffer.as_slice());
        encode_us += middle_us - start_us;
        check_us += clock.now_us() - middle_us;
    }
    std::hint::black_box(sum);
    let each = |us: u64| us as f64 * 1e3 / (rounds * transfers) as f64;
    println!(
        "a record of {transfers} transfers, {} bytes: encoding {:.0} ns a transfer, \
         checksum {:.1} ns",
        buffer.len(),
        each(encode_us),
        each(check_us),
    );
}
