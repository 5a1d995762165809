//! Hashes of ancestor blocks, of which the newest may not be known yet.

use crate::execution::store::ReadError;
use crate::types::{ids::BlockNumber, view::StateView};
use alloy_primitives::B256;
use std::collections::BTreeMap;

/// Hashes kept in memory: BLOCKHASH sees 256, the rest is slack for a checkpoint that lags.
const KNOWN_MAX: usize = 1_024;

/// Waits for the next sealed block's number and hash; `None` once no more can come.
pub type NextHash = Box<dyn FnMut() -> Option<(BlockNumber, B256)>>;

/// What is known of ancestors' hashes, and where the next ones come from.
///
/// A block executes while the root of its parent is still being computed. So the parent's hash is
/// a late value: whoever reads it waits for it, and nobody else does.
pub struct BlockHashes {
    known: BTreeMap<BlockNumber, B256>,
    next: NextHash,
}

impl BlockHashes {
    /// Hashes that arrive in order of height through `next`.
    pub fn new(next: NextHash) -> Self {
        Self { known: BTreeMap::new(), next }
    }

    /// Only what the state view and `learn` say: for vectors and tools.
    pub fn settled() -> Self {
        Self::new(Box::new(|| None))
    }

    /// Notes a hash.
    pub fn learn(&mut self, number: BlockNumber, hash: B256) {
        self.known.insert(number, hash);
        while self.known.len() > KNOWN_MAX {
            self.known.pop_first();
        }
    }

    /// The hash of block `number`, waiting for it where it is not sealed yet.
    ///
    /// # Errors
    /// Where the view cannot be read, or the hash can no longer come.
    pub fn get(&mut self, number: BlockNumber, view: &dyn StateView) -> Result<B256, ReadError> {
        if let Some(hash) = self.known.get(&number) {
            return Ok(*hash);
        }
        if let Some(hash) = view.block_hash(number)? {
            return Ok(hash);
        }
        // Hashes come in order: a younger one says that this one was never sent.
        while let Some((at, hash)) = (self.next)() {
            self.learn(at, hash);
            if at == number {
                return Ok(hash);
            }
            if at > number {
                break;
            }
        }
        Err(ReadError::NoHash(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::testing::MemoryView;

    #[test]
    fn a_hash_is_waited_for_and_a_missing_one_is_an_error() {
        let mut coming = (5u64..8).map(|n| (n, B256::from(alloy_primitives::U256::from(n))));
        let mut hashes = BlockHashes::new(Box::new(move || coming.next()));
        let view = MemoryView::default();
        assert_eq!(hashes.get(6, &view).unwrap(), B256::with_last_byte(6));
        assert_eq!(hashes.get(5, &view).unwrap(), B256::with_last_byte(5));
        assert!(matches!(hashes.get(3, &view), Err(ReadError::NoHash(3))));
        assert_eq!(hashes.get(7, &view).unwrap(), B256::with_last_byte(7));
        assert!(matches!(hashes.get(8, &view), Err(ReadError::NoHash(8))));
    }
}
