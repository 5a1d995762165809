//! Every bound that more than one folder relies on. Bounds of one folder stand in that folder.

/// Transactions in one mini-block at most.
pub const TXS_PER_MINI_BLOCK_MAX: usize = 8_192;
/// EIP-7934: bytes of an RLP-encoded block at most (10 MiB less a margin of 2 MiB).
pub const BLOCK_RLP_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What a block's header, lists and prefixes may take of `BLOCK_RLP_BYTES_MAX`.
pub const BLOCK_RLP_OVERHEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of transactions in one block at most.
pub const BLOCK_TRANSACTION_BYTES_MAX: usize = BLOCK_RLP_BYTES_MAX - BLOCK_RLP_OVERHEAD_BYTES_MAX;
/// Bytes of one encoded transaction at most, as geth's pool has it.
pub const TRANSACTION_BYTES_MAX: usize = 128 * 1024;
/// Gas of a plain transfer, the least that a transaction can use.
pub const TRANSFER_GAS: u64 = 21_000;
/// EIP-7825: gas limit of one transaction at most.
pub const TRANSACTION_GAS_MAX: u64 = 1 << 24;
/// Bytes of transactions in one mini-block at most.
pub const MINI_BLOCK_TRANSACTION_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Mini-blocks in one block at most (60 s of 1 ms intervals).
pub const MINI_BLOCKS_PER_BLOCK_MAX: u64 = 60_000;

const _: () = assert!(TRANSACTION_BYTES_MAX < MINI_BLOCK_TRANSACTION_BYTES_MAX);
const _: () = assert!(MINI_BLOCK_TRANSACTION_BYTES_MAX < BLOCK_TRANSACTION_BYTES_MAX);
