//! Events to write: arbitrary ones for the codec, chained ones for the log.

use alloy_consensus::{Signed, TxEip1559, TxEip2930, TxEip7702, TxEnvelope, TxLegacy, TxType};
use alloy_eips::{
    eip2718::Encodable2718 as _,
    eip2930::{AccessList, AccessListItem},
    eip7702::{Authorization, SignedAuthorization},
};
use alloy_primitives::{
    Address, B256, Bytes, KECCAK256_EMPTY, Log, LogData, Signature, TxKind, U256, keccak256,
};
use basalt::types::{
    block::BlockClose,
    diff::{Account, AccountDiff, Diff},
    flow::Event,
    mini_block::{BlockEnvironment, MiniBlock},
    receipt::Receipt,
    transaction::RecoveredTransaction,
};
use proptest::{collection::vec, option, prelude::*};
use std::sync::Arc;

pub(crate) fn hash() -> impl Strategy<Value = B256> {
    any::<[u8; 32]>().prop_map(B256::from)
}

pub(crate) fn address() -> impl Strategy<Value = Address> {
    any::<[u8; 20]>().prop_map(Address::from)
}

/// Of every length, small ones often.
pub(crate) fn number() -> impl Strategy<Value = U256> {
    (any::<[u8; 32]>(), 0..=256usize).prop_map(|(bytes, shift)| {
        U256::from_be_bytes(bytes).checked_shr(shift).unwrap_or_default()
    })
}

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn signature() -> impl Strategy<Value = Signature> {
    (number(), number(), any::<bool>()).prop_map(|(r, s, odd)| Signature::new(r, s, odd))
}

fn recipient() -> impl Strategy<Value = TxKind> {
    option::of(address()).prop_map(|to| to.map_or(TxKind::Create, TxKind::Call))
}

type Fields = (u64, u128, u64, TxKind, U256, Bytes, Signature);

fn envelope(kind: TxType, fields: Fields, others: Vec<Address>) -> TxEnvelope {
    let (nonce, gas_price, gas_limit, to, value, input, signature) = fields;
    let chain_id = 31_337;
    let item = |address: &Address| AccessListItem {
        address: *address,
        storage_keys: vec![keccak256(address); usize::from(address[0] % 3)],
    };
    let access_list = AccessList(others.iter().map(item).collect());
    match kind {
        TxType::Legacy => {
            let chain_id = Some(chain_id);
            let tx = TxLegacy { chain_id, nonce, gas_price, gas_limit, to, value, input };
            Signed::new_unhashed(tx, signature).into()
        }
        TxType::Eip2930 => {
            let tx =
                TxEip2930 { chain_id, nonce, gas_price, gas_limit, to, value, access_list, input };
            Signed::new_unhashed(tx, signature).into()
        }
        TxType::Eip7702 => {
            let authorization_list = others
                .iter()
                .map(|address| {
                    let inner = Authorization { chain_id: value, address: *address, nonce };
                    SignedAuthorization::new_unchecked(inner, 1, value, value)
                })
                .collect();
            let tx = TxEip7702 {
                chain_id,
                nonce,
                gas_limit,
                max_fee_per_gas: gas_price,
                max_priority_fee_per_gas: gas_price / 2,
                to: to.to().copied().unwrap_or_default(),
                value,
                access_list,
                authorization_list,
                input,
            };
            Signed::new_unhashed(tx, signature).into()
        }
        _ => {
            let tx = TxEip1559 {
                chain_id,
                nonce,
                gas_limit,
                max_fee_per_gas: gas_price,
                max_priority_fee_per_gas: gas_price / 2,
                to,
                value,
                access_list,
                input,
            };
            Signed::new_unhashed(tx, signature).into()
        }
    }
}

fn transaction() -> impl Strategy<Value = RecoveredTransaction> {
    let kinds = [TxType::Legacy, TxType::Eip2930, TxType::Eip1559, TxType::Eip7702];
    let fields =
        (any::<u64>(), any::<u128>(), any::<u64>(), recipient(), number(), bytes(300), signature());
    (prop::sample::select(kinds.to_vec()), fields, vec(address(), 0..4), address()).prop_map(
        |(kind, fields, others, sender)| {
            let envelope = envelope(kind, fields, others.clone());
            let raw = Bytes::from(envelope.encoded_2718());
            let authorities = match kind {
                TxType::Eip7702 => others.iter().map(|who| (who[1] > 9).then_some(*who)).collect(),
                _ => Vec::new(),
            };
            RecoveredTransaction::new(envelope, keccak256(&raw), (sender, authorities), raw)
        },
    )
}

fn receipt() -> impl Strategy<Value = Receipt> {
    let log = (address(), vec(hash(), 0..=4), bytes(200)).prop_map(|(address, topics, data)| Log {
        address,
        data: LogData::new_unchecked(topics, data),
    });
    let kinds = [TxType::Legacy, TxType::Eip2930, TxType::Eip1559, TxType::Eip7702];
    let kind = prop::sample::select(kinds.to_vec());
    (kind, any::<bool>(), any::<u64>(), any::<u64>(), vec(log, 0..4)).prop_map(
        |(tx_type, success, gas_used, cumulative_gas_used, logs)| Receipt {
            tx_type,
            success,
            gas_used,
            cumulative_gas_used,
            logs,
        },
    )
}

fn diff() -> impl Strategy<Value = Diff> {
    let code_hash = option::of(hash()).prop_map(|hash| hash.unwrap_or(KECCAK256_EMPTY));
    let account = (any::<u64>(), number(), code_hash)
        .prop_map(|(nonce, balance, code_hash)| Account { nonce, balance, code_hash });
    let change = (option::of(account), any::<bool>(), vec((number(), number()), 0..6)).prop_map(
        |(account, wiped, slots)| AccountDiff {
            account,
            wiped,
            storage: slots.into_iter().collect(),
        },
    );
    (vec((address(), change), 0..8), vec(bytes(400), 0..3)).prop_map(|(accounts, codes)| Diff {
        accounts: accounts.into_iter().collect(),
        codes: codes.into_iter().map(|code| (keccak256(&code), code)).collect(),
    })
}

fn environment() -> impl Strategy<Value = BlockEnvironment> {
    (any::<[u64; 4]>(), address(), hash()).prop_map(
        |([number, timestamp, base_fee, gas_limit], fee_recipient, prev_randao)| BlockEnvironment {
            number,
            timestamp,
            base_fee,
            gas_limit,
            fee_recipient,
            prev_randao,
        },
    )
}

/// Anything that the types can express.
pub(crate) fn any_event() -> impl Strategy<Value = Event> {
    let mini_block = (
        any::<[u64; 5]>(),
        environment(),
        [hash(), hash(), hash(), hash()],
        signature(),
        vec(transaction(), 0..6),
        vec(receipt(), 0..6),
        diff(),
    )
        .prop_map(|(numbers, environment, hashes, signature, transactions, receipts, diff)| {
            Event::MiniBlock(Arc::new(MiniBlock {
                number: numbers[0],
                environment,
                index: numbers[1],
                first_transaction: numbers[2],
                first_log: numbers[2] / 2,
                timestamp_us: numbers[3],
                parent_hash: hashes[0],
                transactions: transactions.into_iter().map(Arc::new).collect(),
                receipts,
                diff: Arc::new(diff),
                gas_used: numbers[4],
                transaction_root: hashes[1],
                receipt_root: hashes[2],
                hash: hashes[3],
                signature,
            }))
        });
    let close = (any::<[u64; 4]>(), environment(), hash(), vec(bytes(99), 0..3), diff()).prop_map(
        |(numbers, environment, parent_hash, requests, diff)| {
            Event::Close(Arc::new(BlockClose {
                environment,
                parent_hash,
                last_mini_block: numbers[0],
                mini_block_count: numbers[1],
                transaction_count: numbers[2],
                gas_used: numbers[3],
                requests,
                diff: Arc::new(diff),
            }))
        },
    );
    prop_oneof![3 => mini_block, 1 => close]
}

/// The first events of a chain with blocks of two mini-blocks, from block 1; the n-th mini-block
/// carries about `code_bytes(n)` bytes.
pub(crate) fn chain(count: usize, code_bytes: impl Fn(usize) -> usize) -> Vec<Event> {
    let mut events = Vec::new();
    let (mut number, mut parent_hash) = (0, B256::ZERO);
    for at in 0..count {
        let block = at as u64 / 3 + 1;
        let environment = BlockEnvironment {
            number: block,
            timestamp: block,
            base_fee: 7,
            gas_limit: 30_000_000,
            fee_recipient: Address::ZERO,
            prev_randao: B256::ZERO,
        };
        if at % 3 == 2 {
            events.push(Event::Close(Arc::new(BlockClose {
                environment,
                parent_hash: B256::repeat_byte(1),
                last_mini_block: number,
                mini_block_count: 2,
                transaction_count: 0,
                gas_used: 0,
                requests: Vec::new(),
                diff: Arc::default(),
            })));
            continue;
        }
        number += 1;
        let seed = keccak256(number.to_be_bytes());
        let code: Bytes = seed.iter().copied().cycle().take(code_bytes(at)).collect();
        let mut diff = Diff::default();
        diff.codes.insert(keccak256(&code), code);
        let mini_block = MiniBlock {
            number,
            environment,
            index: at as u64 % 3,
            first_transaction: 0,
            first_log: 0,
            timestamp_us: number * 10_000,
            parent_hash,
            transactions: Vec::new(),
            receipts: Vec::new(),
            diff: Arc::new(diff),
            gas_used: 0,
            transaction_root: B256::ZERO,
            receipt_root: B256::ZERO,
            hash: seed,
            signature: Signature::new(U256::from(1), U256::from(2), true),
        };
        parent_hash = mini_block.hash;
        events.push(Event::MiniBlock(Arc::new(mini_block)));
    }
    events
}

/// Events do not compare; what they hold does.
pub(crate) fn same(left: &Event, right: &Event) -> bool {
    match (left, right) {
        (Event::MiniBlock(left), Event::MiniBlock(right)) => left == right,
        (Event::Close(left), Event::Close(right)) => left == right,
        _ => false,
    }
}
