//! Suite `rlp`: the decoder under our transaction decoder (alloy-rlp) is strict.
//!
//! `ingress::decode` has no RLP code of its own: it decodes by alloy-rlp and refuses what does not
//! re-encode to the same bytes. So this runs alloy-rlp itself, item by item, to the leaves.

mod support;

use alloy_primitives::{U256, hex};
use alloy_rlp::{Encodable as _, Header, PayloadView};
use serde_json::Value;
use support::vectors::{Tally, suite};

/// An RLP item.
#[derive(Debug, PartialEq)]
enum Item {
    Bytes(Vec<u8>),
    List(Vec<Item>),
}

impl Item {
    fn of(value: &Value) -> Self {
        match value {
            Value::Array(items) => Self::List(items.iter().map(Self::of).collect()),
            Value::Number(number) => {
                Self::integer(U256::from(number.as_u64().expect("fits 64 bits")))
            }
            Value::String(text) => match text.strip_prefix('#') {
                Some(digits) => Self::big_integer(digits),
                None => Self::Bytes(text.as_bytes().to_vec()),
            },
            other => panic!("no RLP value: {other}"),
        }
    }

    fn integer(value: U256) -> Self {
        Self::Bytes(value.to_be_bytes_trimmed_vec())
    }

    fn big_integer(digits: &str) -> Self {
        type Wide = alloy_primitives::Uint<320, 5>;
        Self::Bytes(Wide::from_str_radix(digits, 10).expect("digits").to_be_bytes_trimmed_vec())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bytes(bytes) => bytes.as_slice().encode(out),
            Self::List(items) => {
                let mut payload = Vec::new();
                items.iter().for_each(|item| item.encode(&mut payload));
                Header { list: true, payload_length: payload.len() }.encode(out);
                out.extend(payload);
            }
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let rest = &mut &bytes[..];
        let view = Header::decode_raw(rest).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err(format!("{} bytes after the item", rest.len()));
        }
        match view {
            PayloadView::String(bytes) => Ok(Self::Bytes(bytes.to_vec())),
            PayloadView::List(items) => {
                items.into_iter().map(Self::decode).collect::<Result<_, _>>().map(Self::List)
            }
        }
    }
}

fn check(case: &Value) -> Result<(), String> {
    let out = case["out"].as_str().ok_or("no `out`")?;
    let bytes = hex::decode(out).map_err(|error| error.to_string())?;
    let decoded = Item::decode(&bytes);
    match case["in"].as_str() {
        Some("VALID") => decoded.map(drop),
        Some("INVALID") => match decoded {
            Ok(item) => Err(format!("decodes to {item:?}")),
            Err(_) => Ok(()),
        },
        _ => {
            let item = Item::of(&case["in"]);
            let mut encoded = Vec::new();
            item.encode(&mut encoded);
            if encoded != bytes {
                return Err(format!("encodes to {}", hex::encode(encoded)));
            }
            (decoded? == item).then_some(()).ok_or_else(|| "decodes to something else".to_owned())
        }
    }
}

#[test]
fn rlp() {
    let Some(files) = suite("rlp") else { return };
    let mut tally = Tally::default();
    for file in files.iter().filter(|file| file.path.ends_with(".json")) {
        let cases: Value = serde_json::from_slice(&file.bytes).unwrap();
        for (name, case) in cases.as_object().unwrap() {
            tally.ran(&format!("{}::{name}", file.path), check(case));
        }
    }
    tally.finish("rlp");
}
