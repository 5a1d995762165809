//! Numbers with a meaning of their own.

/// Height of an Ethereum block; genesis is 0.
pub type BlockNumber = u64;
/// Height of a mini-block, counted over the whole chain; the first is 1, 0 means none yet.
pub type MiniBlockNumber = u64;
/// Microseconds since the Unix epoch.
pub type TimestampUs = u64;
/// Seconds since the Unix epoch, as Ethereum headers carry them.
pub type TimestampS = u64;

/// EIP-155 chain id of a development chain.
pub const DEV_CHAIN_ID: u64 = 31_337;
