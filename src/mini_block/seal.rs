//! What a mini-block's hash commits to: pure, the same for the sequencer and whoever checks it.

use crate::crypto::list_root::list_root;
use crate::types::{
    diff::Diff, ids::MiniBlockNumber, mini_block::MiniBlock, receipt::Receipt,
    transaction::SharedTransaction,
};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{B256, Keccak256, Signature};

/// Signs a mini-block's hash with the sequencer's key.
pub type Sign<'a> = &'a dyn Fn(B256) -> Signature;

/// Keeps these hashes apart from all others that the sequencer's key might ever sign.
const DOMAIN: &[u8; 16] = b"basalt/miniblk/1";
/// The same for the digest of a diff.
const DIFF_DOMAIN: &[u8; 16] = b"basalt/diff/0001";

/// The newest mini-block, on which the next one stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// Its number; 0: there is none yet.
    pub number: MiniBlockNumber,
    /// Its hash; zero: there is none yet.
    pub hash: B256,
}

/// What does not fit in a mini-block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not one receipt a transaction.
    #[error("mini-block {number} has {transactions} transactions but {receipts} receipts")]
    Receipts {
        /// Its number.
        number: MiniBlockNumber,
        /// Transactions in it.
        transactions: usize,
        /// Receipts in it.
        receipts: usize,
    },
    /// A field that does not follow from the rest.
    #[error("mini-block {number}: its {field} is {stated}, its content makes {computed}")]
    Differs {
        /// Its number.
        number: MiniBlockNumber,
        /// Which field.
        field: &'static str,
        /// What it states.
        stated: B256,
        /// What it should state.
        computed: B256,
    },
}

/// Fills in number, parent hash, roots, hash and signature, and gives the link for the next one.
///
/// # Errors
/// Where there is not one receipt a transaction; the mini-block then has its number and no more.
pub fn seal(mini_block: &mut MiniBlock, parent: Link, sign: Sign<'_>) -> Result<Link, SealError> {
    mini_block.number = parent.number + 1;
    mini_block.parent_hash = parent.hash;
    check_count(mini_block)?;
    mini_block.transaction_root = transaction_root(&mini_block.transactions);
    mini_block.receipt_root = receipt_root(&mini_block.receipts);
    mini_block.hash = hash(mini_block);
    mini_block.signature = sign(mini_block.hash);
    Ok(Link { number: mini_block.number, hash: mini_block.hash })
}

/// Computes roots and hash again. The signature is `crypto`'s to check, against the hash.
///
/// # Errors
/// Where a field does not follow from the content.
pub fn verify(mini_block: &MiniBlock) -> Result<(), SealError> {
    check_count(mini_block)?;
    let number = mini_block.number;
    let fields = [
        (
            "transaction root",
            mini_block.transaction_root,
            transaction_root(&mini_block.transactions),
        ),
        ("receipt root", mini_block.receipt_root, receipt_root(&mini_block.receipts)),
        ("hash", mini_block.hash, hash(mini_block)),
    ];
    for (field, stated, computed) in fields {
        if stated != computed {
            return Err(SealError::Differs { number, field, stated, computed });
        }
    }
    Ok(())
}

/// The hash that the sequencer signs: keccak-256 of, in this order, integers big-endian,
///
/// ```text
///   0 domain              16  "basalt/miniblk/1"
///  16 number               8
///  24 parent_hash         32  chains all mini-blocks since the first
///  56 block number         8
///  64 block timestamp      8
///  72 base_fee             8
///  80 gas_limit            8
///  88 fee_recipient       20
/// 108 prev_randao         32
/// 140 index                8
/// 148 first_transaction    8
/// 156 first_log            8
/// 164 timestamp_us         8
/// 172 gas_used             8
/// 180 transaction_root    32  ordered trie of EIP-2718 encodings: hashes, signatures, all
/// 212 receipt_root        32  ordered trie of EIP-2718 receipts: status, cumulative gas, logs
/// 244 diff_digest         32  see `diff_digest`
/// ```
///
/// So it commits to the content and the order of every transaction, to what each did, to the state
/// after it given the state before, and to the whole history of mini-blocks. Not to senders and
/// authorities, which follow from signatures, nor to each receipt's own `gas_used`, which is the
/// difference of cumulative gas. `transaction_root` and `receipt_root` must be those of the
/// content, which `verify` checks.
pub fn hash(mini_block: &MiniBlock) -> B256 {
    let environment = &mini_block.environment;
    let mut hasher = Keccak256::new();
    hasher.update(DOMAIN);
    hasher.update(mini_block.number.to_be_bytes());
    hasher.update(mini_block.parent_hash);
    for value in
        [environment.number, environment.timestamp, environment.base_fee, environment.gas_limit]
    {
        hasher.update(value.to_be_bytes());
    }
    hasher.update(environment.fee_recipient);
    hasher.update(environment.prev_randao);
    for value in [
        mini_block.index,
        mini_block.first_transaction,
        mini_block.first_log,
        mini_block.timestamp_us,
        mini_block.gas_used,
    ] {
        hasher.update(value.to_be_bytes());
    }
    hasher.update(mini_block.transaction_root);
    hasher.update(mini_block.receipt_root);
    hasher.update(diff_digest(&mini_block.diff));
    hasher.finalize()
}

/// Keccak-256 of a diff: domain (16), count of accounts (8), then by address each account:
/// address (20), exists (1), wiped (1), and where it exists nonce (8), balance (32), code hash
/// (32); count of slots (8), by slot each key (32) and value (32). Then count of codes (8) and by
/// hash each code hash, which commits to the code. Integers big-endian.
pub fn diff_digest(diff: &Diff) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(DIFF_DOMAIN);
    hasher.update(count(diff.accounts.len()));
    for (address, change) in diff.sorted_accounts() {
        hasher.update(address);
        hasher.update([u8::from(change.account.is_some()), u8::from(change.wiped)]);
        if let Some(account) = &change.account {
            hasher.update(account.nonce.to_be_bytes());
            hasher.update(account.balance.to_be_bytes::<32>());
            hasher.update(account.code_hash);
        }
        hasher.update(count(change.storage.len()));
        if change.storage.is_empty() {
            continue;
        }
        for (slot, value) in change.sorted_storage() {
            hasher.update(slot.to_be_bytes::<32>());
            hasher.update(value.to_be_bytes::<32>());
        }
    }
    hasher.update(count(diff.codes.len()));
    for (hash, _) in diff.sorted_codes() {
        hasher.update(hash);
    }
    hasher.finalize()
}

/// Root of the ordered trie of EIP-2718 encodings, as a block's header has it.
pub fn transaction_root(transactions: &[SharedTransaction]) -> B256 {
    list_root(transactions.len(), |at, out| out.extend_from_slice(&transactions[at].raw))
}

/// Root of the ordered trie of EIP-2718 receipts. Cumulative gas counts from the start of the
/// block, as in the block's own receipts.
pub fn receipt_root(receipts: &[Receipt]) -> B256 {
    list_root(receipts.len(), |at, out| receipts[at].envelope().encode_2718(out))
}

fn check_count(mini_block: &MiniBlock) -> Result<(), SealError> {
    let (transactions, receipts) = (mini_block.transactions.len(), mini_block.receipts.len());
    if transactions == receipts {
        return Ok(());
    }
    Err(SealError::Receipts { number: mini_block.number, transactions, receipts })
}

fn count(items: usize) -> [u8; 8] {
    u64::try_from(items).unwrap_or(u64::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{diff::AccountDiff, mini_block::BlockEnvironment};
    use alloy_consensus::TxType;
    use alloy_primitives::{Address, Log, U256};
    use alloy_trie::EMPTY_ROOT_HASH;
    use std::sync::Arc;

    fn blank() -> MiniBlock {
        let signature = Signature::new(U256::ZERO, U256::ZERO, false);
        let environment = BlockEnvironment {
            number: 1,
            timestamp: 2,
            base_fee: 3,
            gas_limit: 4,
            fee_recipient: Address::repeat_byte(5),
            prev_randao: B256::repeat_byte(6),
        };
        let mut diff = Diff::default();
        let storage = [(U256::from(1), U256::from(2)), (U256::from(3), U256::from(4))];
        let change = AccountDiff { storage: storage.into_iter().collect(), ..Default::default() };
        diff.accounts.insert(Address::repeat_byte(7), change);
        MiniBlock {
            number: 0,
            environment,
            index: 0,
            first_transaction: 0,
            first_log: 0,
            timestamp_us: 8,
            parent_hash: B256::ZERO,
            transactions: Vec::new(),
            receipts: Vec::new(),
            diff: Arc::new(diff),
            gas_used: 9,
            transaction_root: B256::ZERO,
            receipt_root: B256::ZERO,
            hash: B256::ZERO,
            signature,
        }
    }

    fn sign(hash: B256) -> Signature {
        Signature::new(U256::from_be_bytes(hash.0), U256::from(1), true)
    }

    fn sealed() -> MiniBlock {
        let mut mini_block = blank();
        seal(&mut mini_block, Link::default(), &sign).unwrap();
        mini_block
    }

    #[test]
    fn mini_blocks_chain() {
        let mut first = blank();
        let link = seal(&mut first, Link::default(), &sign).unwrap();
        assert_eq!((first.number, first.parent_hash), (1, B256::ZERO));
        assert_eq!(link, Link { number: 1, hash: first.hash });
        assert_eq!(first.signature.r(), U256::from_be_bytes(first.hash.0));
        assert_eq!(first.transaction_root, EMPTY_ROOT_HASH);
        let mut second = blank();
        let link = seal(&mut second, link, &sign).unwrap();
        assert_eq!((second.number, second.parent_hash), (2, first.hash));
        assert_ne!(link.hash, first.hash);
        verify(&first).and_then(|()| verify(&second)).unwrap();
    }

    #[test]
    fn whatever_is_changed_shows() {
        type Change = fn(&mut MiniBlock);
        let changes: [Change; 19] = [
            |m| m.number += 1,
            |m| m.parent_hash.0[0] ^= 1,
            |m| m.environment.number += 1,
            |m| m.environment.timestamp += 1,
            |m| m.environment.base_fee += 1,
            |m| m.environment.gas_limit += 1,
            |m| m.environment.fee_recipient.0[0] ^= 1,
            |m| m.environment.prev_randao.0[0] ^= 1,
            |m| m.index += 1,
            |m| m.first_transaction += 1,
            |m| m.first_log += 1,
            |m| m.timestamp_us += 1,
            |m| m.gas_used += 1,
            |m| m.transaction_root.0[0] ^= 1,
            |m| m.receipt_root.0[0] ^= 1,
            |m| m.hash.0[0] ^= 1,
            |m| {
                Arc::make_mut(&mut m.diff).accounts.clear();
            },
            |m| {
                Arc::make_mut(&mut m.diff).codes.insert(B256::ZERO, Default::default());
            },
            |m| {
                let accounts = &mut Arc::make_mut(&mut m.diff).accounts;
                accounts.get_or_default(Address::repeat_byte(7)).wiped = true;
            },
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut mini_block = sealed();
            change(&mut mini_block);
            let verdict = verify(&mini_block);
            assert!(
                matches!(verdict, Err(SealError::Differs { number, .. })
                if number == mini_block.number),
                "change {at}: {verdict:?}"
            );
        }
    }

    #[test]
    fn receipts_have_their_root_and_their_count() {
        let receipt = Receipt {
            tx_type: TxType::Eip1559,
            success: true,
            gas_used: 21_000,
            cumulative_gas_used: 21_000,
            logs: vec![Log::default()],
        };
        let encoded = receipt.envelope().encoded_2718();
        let expected = alloy_trie::root::ordered_trie_root_encoded(&[encoded]);
        assert_eq!(receipt_root(std::slice::from_ref(&receipt)), expected);
        let mut mini_block = blank();
        mini_block.receipts.push(receipt);
        let error = seal(&mut mini_block, Link::default(), &sign).unwrap_err();
        let expected = SealError::Receipts { number: 1, transactions: 0, receipts: 1 };
        assert_eq!(error, expected);
    }
}
