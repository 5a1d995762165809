//! Keccak-256 of many inputs at once: eight side by side where the processor has AVX-512.

use alloy_primitives::{B256, keccak256};

#[cfg(target_arch = "x86_64")]
mod eight;

/// Inputs that the wide engine takes at once.
pub const LANES: usize = 8;
/// Where the inputs together are so many times as long as the longest of them, eight lanes take no
/// more time than one after the other.
const WIDE_MIN: usize = 3;
/// Bytes that one permutation takes in.
const RATE_BYTES: usize = 136;

/// Inputs that are written one after another into one piece of memory.
#[derive(Debug, Default)]
pub struct Inputs {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Inputs {
    /// Forgets all of them and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Where the next one is written, behind the others.
    pub fn open(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What was written since the last end is one input.
    pub fn end(&mut self) {
        self.ends.push(self.bytes.len());
    }

    /// All of them, in order.
    pub fn all(&self) -> Vec<&[u8]> {
        let mut start = 0;
        let each = |end: &usize| &self.bytes[std::mem::replace(&mut start, *end)..*end];
        self.ends.iter().map(each).collect()
    }
}

/// Appends the hash of each input to `out`, in order. Fastest where eight inputs in a row take
/// the same number of 136-byte blocks: the longest of eight keeps the others waiting.
pub fn keccak_batch<T: AsRef<[u8]>>(inputs: &[T], out: &mut Vec<B256>) {
    out.reserve(inputs.len());
    for chunk in inputs.chunks(LANES) {
        if !pays(chunk) || !wide(chunk, out) {
            out.extend(chunk.iter().map(keccak256));
        }
    }
}

/// Whether the lanes would be busy enough: with one input that is much longer than its neighbours
/// they would not.
fn pays<T: AsRef<[u8]>>(inputs: &[T]) -> bool {
    let blocks = inputs.iter().map(|input| input.as_ref().len() / RATE_BYTES + 1);
    blocks.clone().sum::<usize>() >= WIDE_MIN * blocks.max().unwrap_or(1)
}

/// Hashes up to eight inputs side by side, where the processor can.
#[cfg(target_arch = "x86_64")]
fn wide<T: AsRef<[u8]>>(inputs: &[T], out: &mut Vec<B256>) -> bool {
    let mut lanes: [&[u8]; LANES] = [&[]; LANES];
    for (lane, input) in lanes.iter_mut().zip(inputs) {
        *lane = input.as_ref();
    }
    let Some(hashes) = eight::keccak256(&lanes) else { return false };
    out.extend_from_slice(&hashes[..inputs.len()]);
    true
}

#[cfg(not(target_arch = "x86_64"))]
fn wide<T: AsRef<[u8]>>(_inputs: &[T], _out: &mut Vec<B256>) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::b256;
    use proptest::{collection::vec, prelude::*};

    #[test]
    fn a_batch_hashes_each_input() {
        let mut out = Vec::new();
        keccak_batch(&[b"".as_slice(), b"abc"], &mut out);
        let empty = b256!("c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470");
        let abc = b256!("4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45");
        assert_eq!(out, [empty, abc]);
    }

    #[test]
    fn every_length_around_the_blocks_borders_hashes_in_every_lane() {
        let text: Vec<u8> = (0..700u16).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut out = Vec::new();
        for len in 0..600 {
            let inputs: [&[u8]; LANES] = std::array::from_fn(|lane| &text[lane..lane + len]);
            out.clear();
            keccak_batch(&inputs, &mut out);
            assert_eq!(out, inputs.map(keccak256), "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn lanes_of_unlike_lengths_do_not_disturb_each_other(
            inputs in vec(vec(any::<u8>(), 0..600), 0..40)
        ) {
            let mut out = Vec::new();
            keccak_batch(&inputs, &mut out);
            let single: Vec<B256> = inputs.iter().map(keccak256).collect();
            prop_assert_eq!(out, single);
        }
    }
}
