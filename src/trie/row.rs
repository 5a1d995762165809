//! The layout of a row, and parsing it. Writing it is `encode`'s part; nothing is hashed here.
//!
//! ```text
//! row     version(1) kind(1) body                        the row's topmost node
//! entry   kind|short(1) reference(32) [len(2) body]      a child, as it stands in its parent
//! leaf         nibbles(1) path tail(1) value             tail 1: value less its last 66 bytes
//! extension    nibbles(1) path entry
//! branch       mask(2) entry…                            one entry a bit, lowest nibble first
//! value branch mask(2) len(2) value entry…
//! ```
//! Integers are little-endian. The reference comes first and has a fixed width, so that a parent
//! is hashed and an untouched child skipped or copied without parsing it. A reference of fewer
//! than 32 bytes has its length in the first byte. An external child has neither length nor body:
//! it is the branch in the row under its own path.

use crate::trie::nibbles::Nibbles;
use alloy_primitives::hex;

/// First byte of every row.
pub(crate) const VERSION: u8 = 1;
/// Bytes of an entry before its length; all of an external entry.
pub(crate) const REFERENCE_END: usize = 33;
/// Bytes of an entry before its body.
pub(crate) const BODY_START: usize = 35;
/// Marks a reference of fewer than 32 bytes.
pub(crate) const SHORT: u8 = 0x80;

/// How the leaf of an account without storage and code ends: both roots as strings.
pub(crate) const PLAIN_TAIL: [u8; 66] = hex!(
    "a056e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"
    "a0c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
);

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    External = 0,
    Leaf = 1,
    Extension = 2,
    Branch = 3,
    ValueBranch = 4,
}

/// A part of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

/// An entry in its buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) reference: Span,
    /// Empty where external.
    pub(crate) body: Span,
}

/// A node's body in its buffer.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Leaf {
        path: Nibbles,
        value: Span,
        /// `PLAIN_TAIL` follows the value.
        tail: bool,
    },
    Extension {
        path: Nibbles,
        child: Span,
    },
    Branch {
        children: [Option<Span>; 16],
        value: Option<Span>,
    },
}

/// What is wrong with a row.
pub(crate) type Fault = &'static str;

impl Span {
    /// Half as large as two `usize`: a branch has sixteen of them.
    ///
    /// # Panics
    /// Where a buffer is larger than 4 GiB: one path of rows, or one block's values, never is.
    #[inline]
    pub(crate) fn new(start: usize, end: usize) -> Self {
        let place = |at: usize| u32::try_from(at).expect("a trie's buffer is over 4 GiB");
        Self { start: place(start), end: place(end) }
    }

    #[inline]
    pub(crate) fn start(&self) -> usize {
        self.start as usize
    }

    #[inline]
    pub(crate) fn end(&self) -> usize {
        self.end as usize
    }

    #[inline]
    pub(crate) fn of<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        bytes.get(self.start()..self.end()).unwrap_or_default()
    }
}

#[inline]
fn kind(byte: u8) -> Result<Kind, Fault> {
    Ok(match byte {
        0 => Kind::External,
        1 => Kind::Leaf,
        2 => Kind::Extension,
        3 => Kind::Branch,
        4 => Kind::ValueBranch,
        _ => return Err("unknown kind of node"),
    })
}

/// The topmost node of a row: its kind and where its body stands.
pub(crate) fn top(row: &[u8]) -> Result<(Kind, Span), Fault> {
    match row {
        [VERSION, byte, ..] => match kind(*byte)? {
            Kind::External => Err("a row cannot begin with an external node"),
            kind => Ok((kind, Span::new(2, row.len()))),
        },
        [] | [VERSION] => Err("row is too short"),
        _ => Err("unknown version of the row's layout"),
    }
}

/// The entry at the start of `within`, and where it ends.
#[inline]
pub(crate) fn entry(bytes: &[u8], within: Span) -> Result<(Entry, usize), Fault> {
    const CUT: Fault = "entry is cut off";
    let held = bytes.get(within.start()..within.end()).ok_or(CUT)?;
    let field = held.get(..REFERENCE_END).ok_or(CUT)?;
    if field[0] & SHORT != 0 && !(1..32).contains(&field[1]) {
        return Err("length of a short reference is out of range");
    }
    let reference = reference(bytes, within);
    let kind = kind(field[0] & !SHORT)?;
    if kind == Kind::External {
        let end = within.start() + REFERENCE_END;
        return Ok((Entry { kind, reference, body: Span::new(end, end) }, end));
    }
    let len = u16_at(held, REFERENCE_END).ok_or(CUT)?;
    let body = Span::new(within.start() + BODY_START, within.start() + BODY_START + len);
    if body.end() > within.end() {
        return Err(CUT);
    }
    Ok((Entry { kind, reference, body }, body.end()))
}

/// Where the reference of the entry at the start of `within` stands; the entry is a sound one.
#[inline]
pub(crate) fn reference(bytes: &[u8], within: Span) -> Span {
    let start = within.start() + 1;
    match within.of(bytes) {
        [kind, len, ..] if kind & SHORT != 0 => Span::new(start + 1, start + 1 + usize::from(*len)),
        _ => Span::new(start, within.start() + REFERENCE_END),
    }
}

/// The body of a node of `kind`, which takes all of `at`.
pub(crate) fn body(bytes: &[u8], kind: Kind, at: Span) -> Result<Body, Fault> {
    match kind {
        Kind::External => Err("an external node has no body"),
        Kind::Leaf => {
            let (path, rest) = path(bytes, at)?;
            let value = Span::new(rest.start() + 1, rest.end());
            match rest.of(bytes).first() {
                Some(flag @ ..=1) => Ok(Body::Leaf { path, value, tail: *flag == 1 }),
                _ => Err("leaf has no value"),
            }
        }
        Kind::Extension => {
            let (path, child) = path(bytes, at)?;
            if path.as_slice().is_empty() || entry(bytes, child)?.1 != child.end() {
                return Err("extension has no path or more than one child");
            }
            Ok(Body::Extension { path, child })
        }
        Kind::Branch | Kind::ValueBranch => branch(bytes, kind == Kind::ValueBranch, at),
    }
}

fn branch(bytes: &[u8], has_value: bool, at: Span) -> Result<Body, Fault> {
    const CUT: Fault = "branch is cut off";
    let held = at.of(bytes);
    let mask = u16_at(held, 0).ok_or(CUT)?;
    let mut start = at.start() + 2;
    let value = if has_value {
        let len = u16_at(held, 2).ok_or(CUT)?;
        let value = Span::new(at.start() + 4, at.start() + 4 + len);
        start = value.end();
        (value.end() <= at.end()).then_some(value).ok_or(CUT)?.into()
    } else {
        None
    };
    let mut children = [None; 16];
    for (nibble, child) in children.iter_mut().enumerate() {
        if mask >> nibble & 1 == 1 {
            let (_, end) = entry(bytes, Span::new(start, at.end()))?;
            *child = Some(Span::new(start, end));
            start = end;
        }
    }
    if start != at.end() || mask.count_ones() + u32::from(has_value) < 2 {
        return Err("branch has too few children or bytes after the last");
    }
    Ok(Body::Branch { children, value })
}

fn path(bytes: &[u8], at: Span) -> Result<(Nibbles, Span), Fault> {
    const CUT: Fault = "path is cut off or too long";
    let (count, rest) = at.of(bytes).split_first().ok_or(CUT)?;
    let len = usize::from(*count);
    let packed = rest.get(..len.div_ceil(2)).ok_or(CUT)?;
    let path = Nibbles::unpack(packed, len).ok_or(CUT)?;
    Ok((path, Span::new(at.start() + 1 + packed.len(), at.end())))
}

#[inline]
fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    let pair = bytes.get(at..at + 2)?;
    Some(usize::from(u16::from_le_bytes([pair[0], pair[1]])))
}
