//! Keys and paths in nibbles. A key is packed and whole, a path is a part of one, unpacked.

/// Nibbles of the longest key: a Keccak hash.
pub(crate) const NIBBLES_MAX: usize = 64;

/// A whole key of at most 32 bytes, ordered as the trie orders it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Zeroes after its end.
    bytes: [u8; 32],
    /// In nibbles; after `bytes`, so that a prefix sorts before what it begins.
    len: u8,
}

impl Key {
    /// `None` where the key is longer than 32 bytes.
    pub(crate) fn new(key: &[u8]) -> Option<Self> {
        let mut bytes = [0; 32];
        bytes.get_mut(..key.len())?.copy_from_slice(key);
        Some(Self { bytes, len: u8::try_from(key.len() * 2).ok()? })
    }

    /// In nibbles.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// The nibble at a place before `len`.
    #[inline]
    pub(crate) fn nibble(&self, at: usize) -> u8 {
        let byte = self.bytes[at / 2];
        if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
    }

    /// The nibbles from a place to the end.
    pub(crate) fn path_from(&self, at: usize) -> Nibbles {
        (at..self.len()).map(|at| self.nibble(at)).collect()
    }

    /// The first nibbles, at most 15 and not more than `len`, as a number.
    #[inline]
    pub(crate) fn first_nibbles(&self, count: usize) -> u64 {
        let first = u64::from_be_bytes(std::array::from_fn(|at| self.bytes[at]));
        if count == 0 { 0 } else { first >> (64 - 4 * count) }
    }

    /// How many nibbles from `at` on agree with `path`.
    #[inline]
    pub(crate) fn common(&self, at: usize, path: &Nibbles) -> usize {
        let own = (at..self.len()).map(|at| self.nibble(at));
        own.zip(path.as_slice()).take_while(|(a, b)| a == *b).count()
    }

    /// How many nibbles from `at` on agree with another key.
    pub(crate) fn common_with(&self, at: usize, other: &Self) -> usize {
        let end = self.len().min(other.len());
        (at..end).take_while(|at| self.nibble(*at) == other.nibble(*at)).count()
    }
}

/// A path of at most 64 nibbles.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nibbles {
    len: usize,
    /// Zeroes after its end.
    nibbles: [u8; NIBBLES_MAX],
}

impl Nibbles {
    /// One nibble, then a path; what does not fit is cut, which no valid key reaches.
    pub(crate) fn joined(first: &[u8], rest: &[u8]) -> Self {
        first.iter().chain(rest).copied().collect()
    }

    /// One nibble a byte.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.nibbles[..self.len]
    }

    /// Writes it two nibbles a byte; the last byte's low half is zero where the count is odd.
    #[inline]
    pub(crate) fn pack(&self, out: &mut Vec<u8>) {
        // All of it, so that the loop has a fixed length; what is after the path is zero.
        let mut packed = [0; NIBBLES_MAX / 2];
        for (byte, pair) in packed.iter_mut().zip(self.nibbles.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        out.extend_from_slice(&packed[..self.len.div_ceil(2)]);
    }

    /// Reads what `pack` wrote.
    #[inline]
    pub(crate) fn unpack(packed: &[u8], len: usize) -> Option<Self> {
        if len > NIBBLES_MAX || packed.len() != len.div_ceil(2) {
            return None;
        }
        let mut bytes = [0; NIBBLES_MAX / 2];
        bytes[..packed.len()].copy_from_slice(packed);
        let mut nibbles = [0; NIBBLES_MAX];
        for (pair, byte) in nibbles.chunks_exact_mut(2).zip(bytes) {
            pair[0] = byte >> 4;
            pair[1] = byte & 15;
        }
        if let Some(after) = nibbles.get_mut(len) {
            *after = 0; // The low half of an odd path's last byte.
        }
        Some(Self { len, nibbles })
    }
}

impl FromIterator<u8> for Nibbles {
    fn from_iter<I: IntoIterator<Item = u8>>(from: I) -> Self {
        let mut path = Self { len: 0, nibbles: [0; NIBBLES_MAX] };
        for (place, nibble) in path.nibbles.iter_mut().zip(from) {
            *place = nibble;
            path.len += 1;
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_pack_and_unpack() {
        for len in [0usize, 1, 2, 5, 63, 64] {
            let path: Nibbles = (0..16u8).cycle().take(len).collect();
            let mut packed = Vec::new();
            path.pack(&mut packed);
            assert_eq!(Nibbles::unpack(&packed, len).unwrap().as_slice(), path.as_slice());
            assert!(Nibbles::unpack(&packed, len + 2).is_none());
        }
    }

    #[test]
    fn a_prefix_sorts_first_and_keys_over_32_bytes_are_refused() {
        assert!(Key::new(b"do").unwrap() < Key::new(b"do\0").unwrap());
        assert!(Key::new(b"do\0").unwrap() < Key::new(b"dog").unwrap());
        assert_eq!(Key::new(b"do").unwrap().common(1, &[4, 6, 1].into_iter().collect()), 2);
        assert!(Key::new(&[0; 33]).is_none());
    }
}
