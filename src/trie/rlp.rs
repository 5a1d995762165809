//! RLP of trie nodes (Yellow Paper, appendix D). Buffers are the caller's; nothing is hashed here.

use crate::trie::nibbles::Nibbles;

/// How a parent names a child: 32 bytes are its hash, fewer are its RLP itself.
pub(crate) type Reference<'a> = &'a [u8];

const EMPTY: u8 = 0x80;
const HASH_HEADER: u8 = 0xa0;
/// A list header takes at most nine bytes; room for it is kept in front of the payload.
const HEADER_ROOM: usize = 9;

/// Replaces `out` by a leaf's RLP.
pub(crate) fn leaf(out: &mut Vec<u8>, path: &Nibbles, value: &[u8]) {
    list(out, |out| {
        hex_prefix(out, path, 0x20);
        string(out, value);
    });
}

/// Replaces `out` by an extension's RLP.
pub(crate) fn extension(out: &mut Vec<u8>, path: &Nibbles, child: Reference<'_>) {
    list(out, |out| {
        hex_prefix(out, path, 0);
        reference(out, child);
    });
}

/// Replaces `out` by a branch's RLP.
pub(crate) fn branch(out: &mut Vec<u8>, children: &[Option<Reference<'_>>; 16], value: &[u8]) {
    list(out, |out| {
        for child in children {
            match child {
                Some(child) => reference(out, child),
                None => out.push(EMPTY),
            }
        }
        string(out, value);
    });
}

/// Appends a byte string.
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

fn list(out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    out.clear();
    out.resize(HEADER_ROOM, 0);
    payload(out);
    let len = out.len();
    header(out, 0xc0, len - HEADER_ROOM);
    let header_len = out.len() - len;
    out.copy_within(len.., HEADER_ROOM - header_len);
    out.truncate(len);
    out.drain(..HEADER_ROOM - header_len);
}

fn reference(out: &mut Vec<u8>, child: Reference<'_>) {
    if child.len() == 32 {
        out.push(HASH_HEADER);
    }
    out.extend_from_slice(child);
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
