//! Multiples of the generator, looked up by the bytes of a multiplier.

use crate::crypto::recover::{ORDER, lanes::field::PRIME};
use alloy_primitives::{U256, uint};
use secp256k1::{PublicKey, SECP256K1, SecretKey};
use std::sync::OnceLock;

/// Bytes of a multiplier.
pub(super) const WINDOWS: usize = 32;
/// Entries of a window: the odd multiples 1, 3 .. 255 of 256^window.
const ENTRIES: usize = 128;
/// 8^-42 modulo n: the ladder doubles 126 times what the table gives.
const SCALE: U256 = uint!(0x42946b20d2e7b0912c37fd995622c4fbab6479e88ebb1c039ab67f0dbf843b47_U256);

/// x and v = 2y of an affine point, four words each, in one line of the cache.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Entry(pub(super) [u64; 8]);

/// 256 KiB of points.
pub(super) struct Table(Vec<Entry>);

impl Table {
    /// Made at the first call, by libsecp256k1, in about 20 ms.
    pub(super) fn get() -> &'static Self {
        static TABLE: OnceLock<Table> = OnceLock::new();
        TABLE.get_or_init(Self::made)
    }

    fn made() -> Self {
        let mut entries = Vec::with_capacity(WINDOWS * ENTRIES);
        let mut scale = SCALE;
        for _ in 0..WINDOWS {
            // The scale times 2, 1, 3, 5 ..
            let twice = times(U256::from(2), scale);
            let mut point = times(U256::ONE, scale);
            for at in 0..ENTRIES {
                entries.push(entry(&point));
                if at + 1 < ENTRIES {
                    point = point.combine(&twice).unwrap_or(point);
                }
            }
            scale = scale.mul_mod(U256::from(256), ORDER);
        }
        Self(entries)
    }

    /// The entry of a digit, and whether it stands for its negative.
    pub(super) fn entry(&self, window: usize, byte: u8) -> (&Entry, bool) {
        let negative = byte < 128;
        let at = usize::from(if negative { 127 - byte } else { byte - 128 });
        (&self.0[window * ENTRIES + at], negative)
    }
}

/// A multiple of the generator by a product of numbers that are not zero modulo n.
fn times(number: U256, scale: U256) -> PublicKey {
    let product = number.mul_mod(scale, ORDER);
    let secret = SecretKey::from_byte_array(product.to_be_bytes()).expect("neither is zero");
    PublicKey::from_secret_key(SECP256K1, &secret)
}

fn entry(point: &PublicKey) -> Entry {
    let bytes = point.serialize_uncompressed();
    let x = U256::from_be_slice(&bytes[1..33]);
    let y = U256::from_be_slice(&bytes[33..]);
    let v = y.add_mod(y, PRIME);
    let mut words = [0; 8];
    words[..4].copy_from_slice(x.as_limbs());
    words[4..].copy_from_slice(v.as_limbs());
    Entry(words)
}
