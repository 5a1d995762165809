//! The state tests of Ethereum's execution specifications, through our admission, executor and
//! trie: Osaka, Prague and Cancun.

mod support;

use alloy_consensus::TxEnvelope;
use alloy_eips::eip2718::Decodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, Log, Signature, U256, hex, keccak256};
use basalt::{
    execution::{
        evm::{Evm, Fork, Rules},
        hashes::BlockHashes,
        store::{CacheLimits, Store},
    },
    ingress::{
        admit::{self, check_alone, check_sender},
        decode::{DecodeError, decode},
    },
    trie::{StateTrie, plain::MemoryRows},
    types::{
        diff::{Account, AccountDiff, Diff},
        ids::BlockNumber,
        mini_block::BlockEnvironment,
        overlay::Overlay,
        transaction::RecoveredTransaction,
        view::{StateView, ViewError},
    },
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use support::vectors::{self, Tally, Vector};

const SUITE: &str = "eest-state";
const TOO_OLD: &str = "fork before Cancun: not one this chain ever ran";
/// revm leaves this rule out. It speaks of accounts that no transaction has been able to make
/// since EIP-161, so only a genesis could hold one.
const STORAGE_COLLISION: &str = "EIP-7610: creation at an account with storage, but neither nonce \
    nor code: none can come into being on this chain";

static REFUSED_BY_ADMISSION: AtomicUsize = AtomicUsize::new(0);
static REFUSED_BY_EXECUTOR: AtomicUsize = AtomicUsize::new(0);

#[test]
fn eest_state() {
    let Some(files) = vectors::suite(SUITE) else { return };
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let work = || {
            let mut tally = Tally::default();
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                run_file(file, &mut tally);
            }
            tally
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let part = worker.join().expect("no case panics");
            tally.ran += part.ran;
            tally.failures.extend(part.failures);
            tally.excluded.extend(part.excluded);
        }
    });
    tally.failures.sort();
    println!(
        "{SUITE}: of the refusals, {} by admission, {} by the executor",
        REFUSED_BY_ADMISSION.load(Ordering::Relaxed),
        REFUSED_BY_EXECUTOR.load(Ordering::Relaxed)
    );
    tally.finish(SUITE);
}

fn run_file(file: &Vector, tally: &mut Tally) {
    let tests: BTreeMap<String, Value> = serde_json::from_slice(&file.bytes).expect("JSON");
    for (name, test) in &tests {
        for (fork_name, cases) in test["post"].as_object().expect("an object") {
            for (at, case) in cases.as_array().expect("an array").iter().enumerate() {
                let title = format!("{} {name} {fork_name} {at}", file.path);
                match fork(fork_name) {
                    Some(_) if is_storage_collision(file, name) => {
                        tally.exclude(&title, STORAGE_COLLISION);
                    }
                    Some(fork) => tally.ran(&title, run_case(test, case, fork, fork_name)),
                    None => tally.exclude(&title, TOO_OLD),
                }
            }
        }
    }
}

fn is_storage_collision(file: &Vector, name: &str) -> bool {
    file.path.ends_with("eip7610_create_collision/test_init_collision_create_opcode.json")
        && name.contains("-non-empty-balance-")
        && (name.contains("-correct-initcode") || name.contains("-revert-initcode"))
}

fn fork(name: &str) -> Option<Fork> {
    match name {
        "Osaka" => Some(Fork::Osaka),
        "Prague" => Some(Fork::Prague),
        "Cancun" => Some(Fork::Cancun),
        _ => None,
    }
}

fn run_case(test: &Value, case: &Value, fork: Fork, fork_name: &str) -> Result<(), String> {
    let mut state = pre_state(&test["pre"]);
    let block = environment(&test["env"]);
    let blobs = &test["config"]["blobSchedule"][fork_name];
    let schedule_max = number(&blobs["max"]).unwrap_or(0);
    let mut rules = Rules::osaka(number(&test["config"]["chainid"]).unwrap_or(1));
    rules.fork = fork;
    if let Some(fraction) = number(&blobs["baseFeeUpdateFraction"]) {
        rules.blob_base_fee_update_fraction = fraction;
    }
    // EIP-7594 bounds the blobs of one transaction from Osaka on; before, the block's bound does.
    rules.blobs_per_transaction_max =
        if fork == Fork::Osaka { schedule_max.min(6) } else { schedule_max };

    let view: Arc<dyn StateView> = Arc::new(state.clone());
    let hashes = BlockHashes::settled();
    let store = Store::new(view, Overlay::default(), hashes, CacheLimits::default());
    let mut evm = Evm::new(rules, store);
    evm.set_block(&block, number(&test["env"]["currentExcessBlobGas"]).unwrap_or(0));

    let refused = !case["expectException"].is_null();
    let outcome = match admitted(test, case, &state, fork) {
        Ok(transaction) => evm.transact(&transaction).map_err(|error| {
            REFUSED_BY_EXECUTOR.fetch_add(1, Ordering::Relaxed);
            error.to_string()
        }),
        Err(error) => {
            REFUSED_BY_ADMISSION.fetch_add(1, Ordering::Relaxed);
            Err(error)
        }
    };
    let logs = match outcome {
        Ok(_) if refused => return Err(format!("was not refused: {}", case["expectException"])),
        Ok(executed) => executed.logs,
        Err(_) if refused => Vec::new(),
        Err(error) => return Err(format!("was refused: {error}")),
    };
    let diff = evm.store().take_diff();
    if refused && !diff.is_empty() {
        return Err(format!("a refused transaction changed {diff:?}"));
    }
    let root = state_root(&state, &diff)?;
    state.apply(&diff);
    equal("logs hash", logs_hash(&logs), &case["logs"])?;
    equal("state root", root, &case["hash"])
}

fn equal(what: &str, ours: B256, theirs: &Value) -> Result<(), String> {
    let theirs: B256 = theirs.as_str().expect("hex").parse().expect("a hash");
    if ours == theirs { Ok(()) } else { Err(format!("{what} is {ours}, expected {theirs}")) }
}

fn logs_hash(logs: &[Log]) -> B256 {
    keccak256(alloy_rlp::encode(logs.to_vec()))
}

// Values

fn number(value: &Value) -> Option<u64> {
    let text = value.as_str()?;
    Some(u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("a number"))
}

fn word(value: &Value) -> U256 {
    value.as_str().expect("hex").parse().expect("a number")
}

fn bytes(value: &Value) -> Bytes {
    hex::decode(value.as_str().expect("hex")).expect("hex").into()
}

fn environment(env: &Value) -> BlockEnvironment {
    BlockEnvironment {
        number: number(&env["currentNumber"]).expect("a number"),
        timestamp: number(&env["currentTimestamp"]).expect("a number"),
        base_fee: number(&env["currentBaseFee"]).expect("a number"),
        gas_limit: number(&env["currentGasLimit"]).expect("a number"),
        fee_recipient: env["currentCoinbase"].as_str().expect("hex").parse().expect("an address"),
        prev_randao: B256::from(word(&env["currentRandom"])),
    }
}

// Transactions

/// What the executor is given: admitted as a client's transaction is. Blobs have no place on this
/// chain, so admission refuses them all; theirs are decoded here, for the executor's sake.
fn admitted(
    test: &Value,
    case: &Value,
    state: &Flat,
    fork: Fork,
) -> Result<RecoveredTransaction, String> {
    let raw = bytes(&case["txbytes"]);
    let decoded = match decode(raw.clone()) {
        Ok(decoded) => decoded,
        Err(DecodeError::Blob) => return with_blobs(raw),
        Err(error) => return Err(error.to_string()),
    };
    let chain_id = number(&test["config"]["chainid"]).unwrap_or(1);
    let mut rules = admit::Rules::new(chain_id, environment(&test["env"]).gas_limit);
    rules.unprotected_allowed = true;
    if fork != Fork::Osaka {
        rules.transaction_gas_max = u64::MAX; // EIP-7825 came with Osaka.
    }
    check_alone(&decoded, &rules).map_err(|error| error.to_string())?;
    let transaction = decoded.recover().map_err(|error| error.to_string())?;
    let sender = test["transaction"]["sender"].as_str().expect("hex");
    assert_eq!(transaction.sender, sender.parse::<Address>().expect("an address"));
    check_sender(&transaction, state, &rules).map_err(|error| error.to_string())?;
    Ok(transaction)
}

fn with_blobs(raw: Bytes) -> Result<RecoveredTransaction, String> {
    let envelope = TxEnvelope::decode_2718_exact(&raw).map_err(|error| error.to_string())?;
    let sender = recover(envelope.signature(), &envelope.signature_hash())
        .ok_or_else(|| "signature recovers no sender".to_owned())?;
    let hash = keccak256(&raw);
    Ok(RecoveredTransaction::new(envelope, hash, (sender, Vec::new()), raw))
}

/// EIP-2: no signature with a large s.
fn recover(signature: &Signature, hash: &B256) -> Option<Address> {
    use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
    if signature.normalize_s().is_some() {
        return None;
    }
    let id = if signature.v() { RecoveryId::One } else { RecoveryId::Zero };
    let signature = RecoverableSignature::from_compact(&signature.as_bytes()[..64], id).ok()?;
    let key = signature.recover(secp256k1::Message::from_digest(hash.0)).ok()?;
    Some(Address::from_raw_public_key(&key.serialize_uncompressed()[1..]))
}

// State

#[derive(Debug, Clone, Default)]
struct Flat {
    accounts: BTreeMap<Address, (Account, BTreeMap<U256, U256>)>,
    codes: BTreeMap<B256, Bytes>,
}

fn pre_state(pre: &Value) -> Flat {
    let mut flat = Flat::default();
    for (address, fields) in pre.as_object().expect("an object") {
        let code = bytes(&fields["code"]);
        let code_hash = keccak256(&code);
        flat.codes.insert(code_hash, code);
        let nonce = number(&fields["nonce"]).expect("a number");
        let account = Account { nonce, balance: word(&fields["balance"]), code_hash };
        let slots = fields["storage"].as_object().expect("an object");
        let slots = slots
            .iter()
            .map(|(slot, value)| (slot.parse().expect("a number"), word(value)))
            .filter(|(_, value)| !value.is_zero())
            .collect();
        flat.accounts.insert(address.parse().expect("an address"), (account, slots));
    }
    flat
}

impl Flat {
    fn apply(&mut self, diff: &Diff) {
        for (address, change) in diff.accounts.iter() {
            let Some(account) = change.account else {
                self.accounts.remove(address);
                continue;
            };
            let (now, slots) = self.accounts.entry(*address).or_default();
            *now = account;
            if change.wiped {
                slots.clear();
            }
            slots.extend(change.storage.iter().map(|(slot, value)| (*slot, *value)));
            slots.retain(|_, value| !value.is_zero());
        }
        // As the node stores it: code that no account has yet must come with the diff.
        self.codes.extend(diff.codes.iter().map(|(hash, code)| (*hash, code.clone())));
        let known = |account: &Account| self.codes.contains_key(&account.code_hash);
        assert!(self.accounts.values().all(
            |(account, _)| known(account) || account.code_hash == Account::default().code_hash
        ));
    }
}

impl StateView for Flat {
    fn account(&self, address: &Address) -> Result<Option<Account>, ViewError> {
        Ok(self.accounts.get(address).map(|(account, _)| *account))
    }

    fn storage(&self, address: &Address, slot: &U256) -> Result<U256, ViewError> {
        let slots = self.accounts.get(address).map(|(_, slots)| slots);
        Ok(slots.and_then(|slots| slots.get(slot)).copied().unwrap_or_default())
    }

    fn code(&self, hash: &B256) -> Result<Option<Bytes>, ViewError> {
        Ok(self.codes.get(hash).cloned())
    }

    /// The convention of state tests: the hash of the number in decimal digits.
    fn block_hash(&self, number: BlockNumber) -> Result<Option<B256>, ViewError> {
        Ok(Some(keccak256(number.to_string())))
    }
}

/// The root after `diff`, by our trie: built from the state before it, then updated from rows that
/// it reads anew, as a node does after a start.
fn state_root(before: &Flat, diff: &Diff) -> Result<B256, String> {
    let mut all = Diff::default();
    for (address, (account, slots)) in &before.accounts {
        let storage = slots.iter().map(|(slot, value)| (*slot, *value)).collect();
        let change = AccountDiff { account: Some(*account), wiped: false, storage };
        all.accounts.insert(*address, change);
    }
    let rows = Arc::new(MemoryRows::default());
    let open = || StateTrie::new(Arc::clone(&rows) as _, 0).map_err(|error| error.to_string());
    let built = open()?.apply(0, &all).map_err(|error| error.to_string())?;
    rows.write(&built.rows);
    open()?.apply(1, diff).map(|update| update.root).map_err(|error| error.to_string())
}
