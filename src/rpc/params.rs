//! Parameters of a request: taken one by one from the JSON text, strictly, with geth's texts.

use crate::rpc::error::RpcError;
use crate::types::view::BlockId;
use alloy_primitives::{Address, B256, Bytes, U256, hex};
use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The positional parameters of one request.
pub struct Args<'a> {
    values: std::vec::IntoIter<&'a RawValue>,
    count: usize,
    next: usize,
}

impl<'a> Args<'a> {
    /// Splits the parameters; absent and `null` count as none.
    ///
    /// # Errors
    /// Where they are no array.
    pub fn new(params: Option<&'a str>) -> Result<Self, RpcError> {
        let text = params.map_or("", str::trim);
        let values: Vec<&RawValue> = match text.as_bytes().first() {
            None => Vec::new(),
            Some(b'[') => serde_json::from_str(text)
                .map_err(|error| RpcError::params(format!("invalid params: {error}")))?,
            Some(_) if text == "null" => Vec::new(),
            Some(_) => return Err(RpcError::params("non-array args")),
        };
        let count = values.len();
        Ok(Self { values: values.into_iter(), count, next: 0 })
    }

    /// The next parameter, `None` where it is absent or null.
    pub(crate) fn optional<T>(
        &mut self,
        parse: impl FnOnce(&'a RawValue) -> Result<T, String>,
    ) -> Result<Option<T>, RpcError> {
        let at = self.next;
        self.next += 1;
        match self.values.next() {
            None => Ok(None),
            Some(value) if value.get() == "null" => Ok(None),
            Some(value) => parse(value).map(Some).map_err(|reason| invalid(at, &reason)),
        }
    }

    /// The next parameter.
    ///
    /// # Errors
    /// Where it is absent, or `parse` refuses it.
    pub fn required<T>(
        &mut self,
        parse: impl FnOnce(&'a RawValue) -> Result<T, String>,
    ) -> Result<T, RpcError> {
        let at = self.next;
        let missing = || RpcError::params(format!("missing value for required argument {at}"));
        self.optional(parse)?.ok_or_else(missing)
    }

    /// The next parameter as a block, `latest` where it is absent.
    pub(crate) fn block(&mut self) -> Result<BlockId, RpcError> {
        Ok(self.optional(block_id)?.unwrap_or(BlockId::Latest))
    }

    /// Refuses what is left over.
    ///
    /// # Errors
    /// Where more parameters came than the method has.
    pub fn end(&self) -> Result<(), RpcError> {
        if self.values.len() == 0 {
            return Ok(());
        }
        let want = self.count - self.values.len();
        Err(RpcError::params(format!("too many arguments, want at most {want}")))
    }
}

fn invalid(at: usize, reason: &str) -> RpcError {
    RpcError::params(format!("invalid argument {at}: {reason}"))
}

/// The content of a JSON string.
pub(crate) fn text(value: &RawValue) -> Result<Cow<'_, str>, String> {
    let raw = value.get();
    let inner = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner {
        Some(plain) if !plain.contains('\\') => Ok(Cow::Borrowed(plain)),
        Some(_) => serde_json::from_str(raw).map(Cow::Owned).map_err(|error| error.to_string()),
        None => Err("json: cannot unmarshal non-string into Go value of type string".to_owned()),
    }
}

fn wrong(what: &str, of_type: &str) -> String {
    format!("json: cannot unmarshal {what} into Go value of type {of_type}")
}

/// The digits of a hex string with its prefix.
fn digits<'a>(value: &'a str, of_type: &str) -> Result<&'a str, String> {
    if value.is_empty() {
        return Err(wrong("empty hex string", of_type));
    }
    let digits = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
    digits.ok_or_else(|| wrong("hex string without 0x prefix", of_type))
}

fn typed<'a>(value: &'a RawValue, of_type: &str) -> Result<Cow<'a, str>, String> {
    text(value).map_err(|_| wrong("non-string", of_type))
}

/// Bytes of any length.
pub(crate) fn data(value: &RawValue) -> Result<Bytes, String> {
    bytes_of(&typed(value, "hexutil.Bytes")?).map(Bytes::from)
}

/// Hex text with its prefix, of even length.
pub(crate) fn bytes_of(text: &str) -> Result<Vec<u8>, String> {
    let digits = digits(text, "hexutil.Bytes")?;
    if !digits.len().is_multiple_of(2) {
        return Err(wrong("hex string of odd length", "hexutil.Bytes"));
    }
    if digits.starts_with("0x") {
        return Err(wrong("invalid hex string", "hexutil.Bytes"));
    }
    hex::decode(digits).map_err(|_| wrong("invalid hex string", "hexutil.Bytes"))
}

fn fixed<const N: usize>(value: &RawValue, of_type: &str) -> Result<[u8; N], String> {
    let text = typed(value, of_type)?;
    let digits = digits(&text, of_type)?;
    if digits.len() != N * 2 {
        return Err(format!(
            "hex string has length {}, want {} for {of_type}",
            digits.len(),
            N * 2
        ));
    }
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| wrong("invalid hex string", of_type))?;
    Ok(bytes)
}

/// An address, in any case.
pub(crate) fn address(value: &RawValue) -> Result<Address, String> {
    fixed(value, "common.Address").map(Address::from)
}

/// A 32-byte hash.
pub(crate) fn hash(value: &RawValue) -> Result<B256, String> {
    fixed(value, "common.Hash").map(B256::from)
}

/// A hex quantity (EIP-1474): prefix, no leading zeros, at most 256 bits.
pub(crate) fn quantity_of(text: &str, of_type: &str) -> Result<U256, String> {
    let digits = digits(text, of_type)?;
    if digits.is_empty() {
        return Err(wrong("hex string \"0x\"", of_type));
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return Err(wrong("hex number with leading zero digits", of_type));
    }
    if digits.len() > 64 {
        return Err(wrong("hex number > 256 bits", of_type));
    }
    U256::from_str_radix(digits, 16).map_err(|_| wrong("invalid hex string", of_type))
}

/// A hex quantity of 64 bits.
pub(crate) fn quantity_64(value: &RawValue) -> Result<u64, String> {
    let quantity = quantity_of(&typed(value, "hexutil.Uint64")?, "hexutil.Uint64")?;
    u64::try_from(quantity).map_err(|_| wrong("hex number > 64 bits", "hexutil.Uint64"))
}

/// A count as a hex quantity, a decimal string or a JSON number.
pub(crate) fn count(value: &RawValue) -> Result<u64, String> {
    let plain = |text: &str| text.parse().map_err(|_| format!("invalid number {text:?}"));
    match text(value) {
        Ok(text) if text.starts_with("0x") => quantity_64(value),
        Ok(text) => plain(&text),
        Err(_) => plain(value.get()),
    }
}

/// A storage slot as geth takes it: up to 32 bytes of hex, prefix optional.
///
/// The second value says that all 32 bytes were written out.
pub(crate) fn slot(value: &RawValue) -> Result<(U256, bool), String> {
    let fail = |reason: &str| format!("unable to decode storage key: {reason}");
    let text = text(value).map_err(|_| wrong("non-string", "string"))?;
    let digits = text.strip_prefix("0x").unwrap_or(&text);
    if digits.len() > 64 {
        return Err(fail("hex string too long, want at most 32 bytes"));
    }
    if digits.is_empty() {
        return Ok((U256::ZERO, false));
    }
    let slot = U256::from_str_radix(digits, 16).map_err(|_| fail("hex string invalid"))?;
    Ok((slot, digits.len() == 64))
}

/// A block: tag, height, hash, or EIP-1898 object.
pub(crate) fn block_id(value: &RawValue) -> Result<BlockId, String> {
    if !value.get().starts_with('{') {
        return block_tag(&text(value).map_err(|_| wrong("non-string", "rpc.BlockNumber"))?);
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Object<'a> {
        #[serde(borrow)]
        block_number: Option<&'a RawValue>,
        #[serde(borrow)]
        block_hash: Option<&'a RawValue>,
        // There is one chain and no reorganisation: every known block is canonical.
        #[serde(rename = "requireCanonical")]
        _require_canonical: Option<bool>,
    }
    let object: Object<'_> =
        serde_json::from_str(value.get()).map_err(|error| error.to_string())?;
    match (object.block_number, object.block_hash) {
        (Some(_), Some(_)) => {
            Err("cannot specify both BlockHash and BlockNumber, choose one or the other".to_owned())
        }
        (Some(number), None) => block_tag(&text(number)?),
        (None, Some(value)) => hash(value).map(BlockId::Hash),
        (None, None) => Err("neither blockHash nor blockNumber is given".to_owned()),
    }
}

fn block_tag(text: &str) -> Result<BlockId, String> {
    match text {
        "latest" | "" => Ok(BlockId::Latest),
        "pending" => Ok(BlockId::Pending),
        "safe" | "finalized" => Ok(BlockId::Steady),
        "earliest" => Ok(BlockId::Earliest),
        hash if hash.len() == 66 && hash.starts_with("0x") => {
            let mut bytes = [0; 32];
            hex::decode_to_slice(&hash[2..], &mut bytes)
                .map_err(|_| wrong("invalid hex string", "common.Hash"))?;
            Ok(BlockId::Hash(bytes.into()))
        }
        number => {
            let quantity = quantity_of(number, "rpc.BlockNumber")?;
            let number = u64::try_from(quantity).ok().filter(|n| i64::try_from(*n).is_ok());
            number.map(BlockId::Number).ok_or_else(|| "block number larger than int64".to_owned())
        }
    }
}

/// A strict hex quantity inside of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity(pub U256);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        quantity_of(&text, "*hexutil.Big").map(Self).map_err(de::Error::custom)
    }
}

/// A strict hex quantity of 64 bits inside of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity64(pub u64);

impl<'de> Deserialize<'de> for Quantity64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let quantity = quantity_of(&text, "hexutil.Uint64").map_err(de::Error::custom)?;
        let narrow = u64::try_from(quantity).ok();
        narrow.map(Self).ok_or_else(|| de::Error::custom("hex number > 64 bits"))
    }
}

/// Strict hex bytes inside of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data(pub Bytes);

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        bytes_of(&text).map(|bytes| Self(bytes.into())).map_err(de::Error::custom)
    }
}

/// An object of type `T`.
pub(crate) fn object<'a, T: Deserialize<'a>>(value: &'a RawValue) -> Result<T, String> {
    serde_json::from_str(value.get()).map_err(|error| error.to_string())
}

/// Bytes of any length, as the first argument's text.
///
/// # Errors
/// Where it is not hex with its prefix.
pub(crate) fn data_of(text: &str) -> Result<Bytes, RpcError> {
    bytes_of(text).map(Bytes::from).map_err(|reason| invalid(0, &reason))
}

/// The bytes of the only parameter, without a detour through a list of values: the path of
/// `eth_sendRawTransaction`.
///
/// # Errors
/// Where there is not one hex string.
pub fn only_data(params: Option<&str>) -> Result<Bytes, RpcError> {
    let plain = params.and_then(|text| {
        let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?.trim();
        let hex = inner.strip_prefix("\"0x")?.strip_suffix('"')?;
        hex::decode(hex).ok().filter(|_| !hex.starts_with("0x"))
    });
    if let Some(bytes) = plain {
        return Ok(bytes.into());
    }
    let mut args = Args::new(params)?;
    let bytes = args.required(data)?;
    args.end()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first<T>(
        params: &str,
        parse: impl FnOnce(&RawValue) -> Result<T, String>,
    ) -> Result<T, String> {
        let mut args = Args::new(Some(params)).map_err(|error| error.message)?;
        args.required(parse).map_err(|error| error.message)
    }

    #[test]
    fn blocks_come_in_every_form() {
        let hash = B256::repeat_byte(7);
        for (given, want) in [
            (r#"["latest"]"#.to_owned(), BlockId::Latest),
            (r#"["pending"]"#.to_owned(), BlockId::Pending),
            (r#"["finalized"]"#.to_owned(), BlockId::Steady),
            (r#"["earliest"]"#.to_owned(), BlockId::Earliest),
            (r#"["0x10"]"#.to_owned(), BlockId::Number(16)),
            (format!(r#"["{hash}"]"#), BlockId::Hash(hash)),
            (r#"[{"blockNumber":"0x1"}]"#.to_owned(), BlockId::Number(1)),
            (format!(r#"[{{"blockHash":"{hash}","requireCanonical":true}}]"#), BlockId::Hash(hash)),
        ] {
            assert_eq!(first(&given, block_id), Ok(want), "{given}");
        }
        for given in [r#"["0x01"]"#, r#"["16"]"#, r#"[16]"#, r#"[{}]"#, r#"["0x8000000000000000"]"#]
        {
            assert!(first(given, block_id).is_err(), "{given}");
        }
    }

    #[test]
    fn refusals_speak_like_geth() {
        let refused = |params: &str| first(params, address).unwrap_err();
        assert_eq!(
            refused(r#"["12"]"#),
            "invalid argument 0: json: cannot unmarshal hex string without 0x prefix into Go \
             value of type common.Address"
        );
        assert_eq!(
            refused(r#"["0x12"]"#),
            "invalid argument 0: hex string has length 2, want 40 for common.Address"
        );
        assert_eq!(refused("[]"), "missing value for required argument 0");
        assert_eq!(refused("{}"), "non-array args");
        assert!(refused("[1]").contains("non-string"));
    }

    #[test]
    fn the_short_path_equals_the_long_one() {
        for params in [r#"["0x0102"]"#, r#" [ "0x0102" ] "#, r#"["\u0030x0102"]"#] {
            assert_eq!(only_data(Some(params)).unwrap(), Bytes::from_static(&[1, 2]), "{params}");
        }
        for params in [r#"["0x010"]"#, r#"["0x01","0x02"]"#, r#"["0x0x01"]"#, "[]", "[1]", "[\"0x"]
        {
            assert!(only_data(Some(params)).is_err(), "{params}");
        }
        assert!(only_data(None).is_err());
    }
}
