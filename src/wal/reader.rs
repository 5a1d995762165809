//! Reads a payload field by field: each step checks its bounds, none trusts a length.

use crate::wal::codec::DecodeError;
use alloy_primitives::{Address, B256, Bytes, U256};

/// A place in a payload.
pub(crate) struct Reader<'a> {
    payload: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(payload: &'a [u8]) -> Self {
        Self { payload, at: 0 }
    }

    /// Bytes read so far.
    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    /// Fails where something is left.
    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        match self.payload.len() - self.at {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }

    /// The error for a value just read.
    pub(crate) fn refuse(&self, what: &'static str, value: usize) -> DecodeError {
        DecodeError::Value { what, value: u64::try_from(value).unwrap_or(u64::MAX), at: self.at }
    }

    fn take(&mut self, bytes: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(bytes);
        let taken = end.and_then(|end| self.payload.get(self.at..end));
        let taken = taken.ok_or(DecodeError::Short { what, at: self.payload.len() })?;
        self.at += bytes;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn hash(&mut self, what: &'static str) -> Result<B256, DecodeError> {
        Ok(B256::from(self.array(what)?))
    }

    pub(crate) fn address(&mut self, what: &'static str) -> Result<Address, DecodeError> {
        Ok(Address::from(self.array(what)?))
    }

    pub(crate) fn flag(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.refuse(what, usize::from(other))),
        }
    }

    /// A number of 256 bits in its one shortest form.
    pub(crate) fn u256(&mut self, what: &'static str) -> Result<U256, DecodeError> {
        let length = usize::from(self.u8(what)?);
        if length > 32 {
            return Err(self.refuse(what, length));
        }
        let bytes = self.take(length, what)?;
        if bytes.last() == Some(&0) {
            return Err(self.refuse(what, 0));
        }
        Ok(U256::from_le_slice(bytes))
    }

    /// A count of items of at least `item_bytes` each: what cannot fit into the rest is refused
    /// before memory is reserved for it.
    pub(crate) fn count(
        &mut self,
        what: &'static str,
        item_bytes: usize,
    ) -> Result<usize, DecodeError> {
        let count = u32::from_le_bytes(self.array(what)?);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > (self.payload.len() - self.at) / item_bytes {
            return Err(self.refuse(what, count));
        }
        Ok(count)
    }

    pub(crate) fn list<T>(
        &mut self,
        what: &'static str,
        item_bytes: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.count(what, item_bytes)?;
        // Items in memory are up to some hundred times their smallest encoding: start modestly.
        let mut items = Vec::with_capacity(count.min(8_192));
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    pub(crate) fn bytes(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let length = self.count(what, 1)?;
        Ok(Bytes::copy_from_slice(self.take(length, what)?))
    }
}
