//! secp256k1 and keccak: senders, signatures, keys from words, roots of lists. Pure; nothing here
//! does I/O.
//!
//! Input: hashes, signatures, secrets, mnemonics, lists. Output: addresses, signatures, keys,
//! roots. Limit: none
//! of its own, callers bound their batches. Failure: an error that names the value. Seat: the
//! caller's (`ingress` for recovery, `mini_block` for signing).

pub mod keccak;
pub mod list_root;
pub mod recover;
pub mod sign;
pub mod derive;
