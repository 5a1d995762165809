//! Keccak-256 of many inputs at once: eight side by side where the processor has AVX-512, four
//! where it has AVX2.

use alloy_primitives::{B256, keccak256};

#[cfg(target_arch = "x86_64")]
mod wide;

/// Inputs that the widest engine takes at once.
pub const LANES: usize = 8;
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
        #[cfg(target_arch = "x86_64")]
        if side_by_side(chunk, EIGHT_MIN, wide::eight::keccak256, out) {
            continue;
        }
        for part in chunk.chunks(LANES / 2) {
            #[cfg(target_arch = "x86_64")]
            if side_by_side(part, FOUR_MIN, wide::four::keccak256, out) {
                continue;
            }
            out.extend(part.iter().map(keccak256));
        }
    }
}

/// Where the inputs together are so many times as long as the longest of them, eight lanes take no
/// more time than one after the other.
#[cfg(target_arch = "x86_64")]
const EIGHT_MIN: usize = 3;
/// The same for four lanes.
#[cfg(target_arch = "x86_64")]
const FOUR_MIN: usize = 2;

/// An engine for so many inputs, where the processor can.
#[cfg(target_arch = "x86_64")]
type Engine<const N: usize> = fn(&[&[u8]; N]) -> Option<[B256; N]>;

/// Hashes up to `N` inputs by `engine` where that pays: with one input that is much longer than its
/// neighbours, most lanes would only wait.
#[cfg(target_arch = "x86_64")]
fn side_by_side<T: AsRef<[u8]>, const N: usize>(
    inputs: &[T],
    least: usize,
    engine: Engine<N>,
    out: &mut Vec<B256>,
) -> bool {
    let blocks = inputs.iter().map(|input| input.as_ref().len() / RATE_BYTES + 1);
    if blocks.clone().sum::<usize>() < least * blocks.max().unwrap_or(1) {
        return false;
    }
    let mut lanes: [&[u8]; N] = [&[]; N];
    for (lane, input) in lanes.iter_mut().zip(inputs) {
        *lane = input.as_ref();
    }
    let Some(hashes) = engine(&lanes) else { return false };
    out.extend_from_slice(&hashes[..inputs.len()]);
    true
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

    /// Hashes each length, in every lane, with an engine for `N` inputs, where there is one.
    fn each_length<const N: usize>(engine: impl Fn(&[&[u8]; N]) -> Option<[B256; N]>) {
        let text: Vec<u8> = (0..700u16).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for len in 0..600 {
            let inputs: [&[u8]; N] = std::array::from_fn(|lane| &text[lane..lane + len]);
            let Some(hashes) = engine(&inputs) else { return };
            assert_eq!(hashes, inputs.map(keccak256), "{len} bytes");
        }
    }

    #[test]
    fn every_length_around_the_blocks_borders_hashes_in_every_lane() {
        each_length::<LANES>(|inputs| {
            let mut out = Vec::new();
            keccak_batch(inputs, &mut out);
            out.try_into().ok()
        });
        #[cfg(target_arch = "x86_64")]
        {
            each_length(wide::eight::keccak256);
            each_length(wide::four::keccak256);
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
