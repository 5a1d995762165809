//! Hash trees of dm-verity: whether the data of a partition are those that a root hash stands for.
//!
//! The partition of the tree begins with a superblock; from the second block on stand the levels,
//! the one with the root's children first. Salt, data block → digest; digests of a level fill
//! blocks, whose digests are the level above (kernel: Documentation/…/device-mapper/verity.rst).

use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Seek, SeekFrom};

/// Of data and of the tree; the image uses no other.
pub const BLOCK: usize = 4096;
const DIGEST: usize = 32;
const PER_BLOCK: usize = BLOCK / DIGEST;
const SUPERBLOCK_BYTES: usize = 512;
/// Data blocks at most: 1 TiB, so that a wrong superblock does not fill the memory.
const BLOCKS_MAX: u64 = 1 << 28;

/// What a superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// How many blocks of data.
    pub blocks: u64,
    salt: Vec<u8>,
}

impl Superblock {
    /// Reads the first block of a tree's partition.
    ///
    /// # Errors
    /// Where there is none, or one of another kind than the image's.
    pub fn read(tree: &mut (impl Read + Seek)) -> io::Result<Self> {
        let mut head = vec![0; SUPERBLOCK_BYTES];
        tree.seek(SeekFrom::Start(0))?;
        tree.read_exact(&mut head)?;
        Self::decoded(&head).map_err(io::Error::other)
    }

    /// Layout: signature(8) version(4) type(4) uuid(16) algorithm(32) data block(4) hash block(4)
    /// data blocks(8) salt size(2) pad(6) salt(256).
    fn decoded(head: &[u8]) -> Result<Self, String> {
        let small = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap_or([0; 4]));
        if &head[..8] != b"verity\0\0" {
            return Err("no superblock of dm-verity".to_owned());
        }
        let algorithm: Vec<u8> = head[32..64].iter().copied().take_while(|b| *b != 0).collect();
        let found = (small(8), small(12), algorithm.as_slice(), small(64), small(68));
        if found != (1, 1, b"sha256", 4096, 4096) {
            return Err(format!("a hash tree of another kind: {found:?}"));
        }
        let blocks = u64::from_le_bytes(head[72..80].try_into().unwrap_or([0; 8]));
        let salt_bytes = usize::from(u16::from_le_bytes([head[80], head[81]]));
        if blocks == 0 || blocks > BLOCKS_MAX || salt_bytes > 256 {
            return Err(format!("a hash tree over {blocks} blocks, salt of {salt_bytes} bytes"));
        }
        Ok(Self { blocks, salt: head[88..88 + salt_bytes].to_vec() })
    }

    /// Bytes of data.
    pub fn data_bytes(&self) -> u64 {
        self.blocks * BLOCK as u64
    }

    /// Bytes of superblock and tree.
    pub fn tree_bytes(&self) -> u64 {
        let (mut all, mut level) = (1, self.blocks);
        while level > 1 {
            level = level.div_ceil(PER_BLOCK as u64);
            all += level;
        }
        all * BLOCK as u64
    }

    fn digest(&self, block: &[u8]) -> [u8; DIGEST] {
        Sha256::new().chain_update(&self.salt).chain_update(block).finalize().into()
    }

    /// The blocks of the level above the one with these digests.
    fn packed(digests: &[[u8; DIGEST]]) -> Vec<[u8; BLOCK]> {
        let filled = digests.chunks(PER_BLOCK).map(|some| {
            let mut block = [0; BLOCK];
            for (place, digest) in block.chunks_exact_mut(DIGEST).zip(some) {
                place.copy_from_slice(digest);
            }
            block
        });
        filled.collect()
    }

    /// Holds data and tree against the root hash. `progress` is told each block.
    ///
    /// # Errors
    /// Where either cannot be read, a block of the tree is another one, or the root hash is.
    pub fn verify(
        &self,
        data: &mut impl Read,
        tree: &mut (impl Read + Seek),
        root_hash: &[u8],
        progress: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        let mut digests = Vec::new();
        let mut block = vec![0; BLOCK];
        for number in 0..self.blocks {
            data.read_exact(&mut block)?;
            digests.push(self.digest(&block));
            progress(number + 1);
        }
        let mut levels = Vec::new();
        while digests.len() > 1 {
            let level = Self::packed(&digests);
            digests = level.iter().map(|block| self.digest(block)).collect();
            levels.push(level);
        }
        if digests.first().map(<[u8; DIGEST]>::as_slice) != Some(root_hash) {
            let found = hex::encode(digests.first().unwrap_or(&[0; DIGEST]));
            let wanted = hex::encode(root_hash);
            return Err(io::Error::other(format!("root hash {found} is not {wanted}")));
        }
        tree.seek(SeekFrom::Start(BLOCK as u64))?;
        for (at, wanted) in levels.iter().rev().flatten().enumerate() {
            tree.read_exact(&mut block)?;
            if block != wanted {
                return Err(io::Error::other(format!("block {} of the hash tree differs", at + 1)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    //! The root hashes are those that `veritysetup format --salt=…` 2.7 prints for the same data.

    use super::*;
    use std::io::Cursor;

    const KNOWN: &[(u64, &str)] = &[
        (1, "4500db68f334d70f1781746caec47d0a9e8f94564ce2f6bf29360f8aa3a86ad6"),
        (2, "310b0f83c62b0e47b5588f76c2260d2cdf2d4edb061a34ebc30cba39f5342ce7"),
        (129, "38c03fc774baba74be7c52731117e1b382e7fdb76a176e4fa71645afdc82fee5"),
        (300, "14e7192240d7be57bdbf182cfcccc191523086a42d71c53a50faa100382b3a8b"),
    ];

    /// Data and their tree, as the image's build makes them, and the root hash.
    pub fn made(blocks: u64) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let salt = vec![0xAB; 32];
        let words = (0..blocks * BLOCK as u64 / 8).flat_map(u64::to_le_bytes);
        let data: Vec<u8> = words.collect();
        let head = Superblock { blocks, salt: salt.clone() };
        let mut digests: Vec<_> = data.chunks(BLOCK).map(|block| head.digest(block)).collect();
        let mut levels = Vec::new();
        while digests.len() > 1 {
            let level = Superblock::packed(&digests);
            digests = level.iter().map(|block| head.digest(block)).collect();
            levels.push(level);
        }
        let mut tree = Vec::new();
        tree.extend(b"verity\0\0");
        tree.extend([1, 0, 0, 0, 1, 0, 0, 0]);
        tree.extend([7; 16]);
        tree.extend(b"sha256");
        tree.resize(64, 0);
        tree.extend([0, 16, 0, 0, 0, 16, 0, 0]);
        tree.extend(blocks.to_le_bytes());
        tree.extend([32, 0, 0, 0, 0, 0, 0, 0]);
        tree.extend(salt);
        tree.resize(BLOCK, 0);
        tree.extend(levels.iter().rev().flatten().flatten());
        (data, tree, digests[0].to_vec())
    }

    fn verify(data: &[u8], tree: &[u8], root: &[u8]) -> io::Result<()> {
        let mut tree = Cursor::new(tree);
        let head = Superblock::read(&mut tree)?;
        head.verify(&mut Cursor::new(data), &mut tree, root, &mut |_| ())
    }

    #[test]
    fn root_hashes_are_those_of_veritysetup() {
        for (blocks, root) in KNOWN {
            let (data, tree, hash) = made(*blocks);
            assert_eq!(hex::encode(&hash), *root, "{blocks} blocks");
            verify(&data, &tree, &hash).unwrap();
        }
    }

    #[test]
    fn one_flipped_bit_anywhere_is_found() {
        let (data, tree, root) = made(300);
        let head = Superblock::read(&mut Cursor::new(&tree)).unwrap();
        assert_eq!((head.data_bytes(), head.tree_bytes()), (300 * 4096, 5 * 4096));
        assert_eq!(tree.len(), 5 * 4096);
        for at in [0, 4096 * 299 + 4095] {
            let mut data = data.clone();
            data[at] ^= 1;
            assert!(verify(&data, &tree, &root).is_err(), "data {at}");
        }
        for at in [4096, 2 * 4096, 5 * 4096 - 1, 0, 88] {
            let mut tree = tree.clone();
            tree[at] ^= 1;
            assert!(verify(&data, &tree, &root).is_err(), "tree {at}");
        }
        assert!(verify(&data[..4096], &tree, &root).is_err());
    }
}
