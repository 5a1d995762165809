//! RLP of trie nodes (Yellow Paper, appendix D). Buffers are the caller's; nothing is hashed here.

use crate::trie::nibbles::Nibbles;

/// How a parent names a child: 32 bytes are its hash, fewer are its RLP itself.
pub(crate) type Reference<'a> = &'a [u8];

const EMPTY: u8 = 0x80;
const HASH_HEADER: u8 = 0xa0;
const HEADER_BYTES_MAX: usize = 9;

/// Replaces `out` by a leaf's RLP.
pub(crate) fn leaf(out: &mut Vec<u8>, path: &Nibbles, value: &[u8]) {
    list(out, hex_prefix_len(path) + string_len(value));
    hex_prefix(out, path, 0x20);
    string(out, value);
}

/// Replaces `out` by an extension's RLP.
pub(crate) fn extension(out: &mut Vec<u8>, path: &Nibbles, child: Reference<'_>) {
    list(out, hex_prefix_len(path) + reference_len(child));
    hex_prefix(out, path, 0);
    reference(out, child);
}

/// Replaces `out` by a branch's RLP.
pub(crate) fn branch(out: &mut Vec<u8>, children: &[Option<Reference<'_>>; 16], value: &[u8]) {
    let lens = children.iter().map(|child| child.map_or(1, reference_len));
    list(out, lens.sum::<usize>() + string_len(value));
    for child in children {
        match child {
            Some(child) => reference(out, child),
            None => out.push(EMPTY),
        }
    }
    string(out, value);
}

/// Appends a byte string.
#[inline]
pub(crate) fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    if let [byte @ ..0x80] = bytes {
        out.push(*byte);
        return;
    }
    header(out, EMPTY, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends an integer: big-endian without leading zeroes.
pub(crate) fn integer(out: &mut Vec<u8>, big_endian: &[u8]) {
    let zeroes = big_endian.iter().take_while(|byte| **byte == 0).count();
    string(out, &big_endian[zeroes..]);
}

/// Appends the header of a string (`base` 0x80) or list (0xc0) of `len` bytes.
#[inline]
pub(crate) fn header(out: &mut Vec<u8>, base: u8, len: usize) {
    match u8::try_from(len) {
        Ok(short @ ..56) => out.push(base + short),
        _ => {
            let bytes = len.to_be_bytes();
            let zeroes = bytes.iter().take_while(|byte| **byte == 0).count();
            out.push(base + 55 + u8::try_from(bytes.len() - zeroes).unwrap_or(8));
            out.extend_from_slice(&bytes[zeroes..]);
        }
    }
}

/// Replaces `out` by the header of a list whose items take `len` bytes.
#[inline]
fn list(out: &mut Vec<u8>, len: usize) {
    out.clear();
    out.reserve(HEADER_BYTES_MAX + len);
    header(out, 0xc0, len);
}

#[inline]
fn string_len(bytes: &[u8]) -> usize {
    match bytes {
        [..0x80] => 1,
        short if short.len() < 56 => 1 + short.len(),
        long => 1 + (long.len().ilog2() as usize / 8 + 1) + long.len(),
    }
}

#[inline]
fn reference(out: &mut Vec<u8>, child: Reference<'_>) {
    match <&[u8; 32]>::try_from(child) {
        Ok(hash) => {
            let mut field = [HASH_HEADER; 33];
            field[1..].copy_from_slice(hash);
            out.extend_from_slice(&field);
        }
        Err(_) => out.extend_from_slice(child),
    }
}

#[inline]
fn reference_len(child: Reference<'_>) -> usize {
    child.len() + usize::from(child.len() == 32)
}

#[inline]
fn hex_prefix_len(path: &Nibbles) -> usize {
    let packed = path.as_slice().len() / 2;
    1 + packed + usize::from(packed > 0)
}

fn hex_prefix(out: &mut Vec<u8>, path: &Nibbles, flag: u8) {
    let nibbles = path.as_slice();
    let (first, rest) = match nibbles {
        [odd, rest @ ..] if nibbles.len() % 2 == 1 => (flag | 0x10 | odd, rest),
        even => (flag, even),
    };
    if rest.is_empty() {
        out.push(first); // Always under 0x80: its own RLP.
        return;
    }
    header(out, EMPTY, 1 + rest.len() / 2);
    out.push(first);
    out.extend(rest.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]));
}
