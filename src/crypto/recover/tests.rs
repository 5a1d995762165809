//! All engines against each other: chosen numbers, random ones, and known answers.

use crate::crypto::{
    recover::{Engine, HALF_ORDER, ORDER, RecoverError, Signed, decide, lanes, one, recover},
    sign::Signer,
};
use alloy_primitives::{Address, B256, Signature, U256, address, b256, keccak256, uint};
use proptest::prelude::*;

/// Signature of the text "Some data" by web3's well-known example key (EIP-191 hash).
fn known() -> (B256, Signature, Address) {
    let hash = b256!("1da44b586eb0729ff70a73c326926f6ed5a25f5b056e7f47fbc6e58d86871655");
    let signature = Signature::new(
        uint!(0xb91467e570a6466aa9e9876cbcd013baba02900b8979d43fe208a4a4f339f5fd_U256),
        uint!(0x6007e74cd82e037b800186422fc2da167c747ef045e5d18a5f5d4300f8e1a029_U256),
        true,
    );
    (hash, signature, address!("2c7536e3605d9c16a7a3d7b1898e529396a65c23"))
}

#[test]
fn a_known_signature_gives_its_known_signer() {
    let (hash, signature, signer) = known();
    assert_eq!(recover(hash, &signature), Ok(signer));
}

#[test]
fn values_out_of_range_are_named() {
    let (hash, good, _) = known();
    let with = |r, s| recover(hash, &Signature::new(r, s, false)).unwrap_err();
    assert_eq!(with(U256::ZERO, good.s()), RecoverError::R(U256::ZERO));
    assert_eq!(with(ORDER, good.s()), RecoverError::R(ORDER));
    assert_eq!(with(U256::MAX, good.s()), RecoverError::R(U256::MAX));
    assert_eq!(with(good.r(), U256::ZERO), RecoverError::S(U256::ZERO));
    assert_eq!(with(good.r(), ORDER), RecoverError::S(ORDER));
    let high = ORDER - good.s();
    assert_eq!(with(good.r(), high), RecoverError::HighS(high));
    let edge = HALF_ORDER + U256::ONE;
    assert_eq!(with(good.r(), edge), RecoverError::HighS(edge));
    // 5 is no x coordinate of the curve.
    let five = U256::from(5);
    assert_eq!(with(five, good.s()), RecoverError::NoKey(five));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_was_signed_is_recovered(secret in any::<[u8; 32]>(), hash in any::<[u8; 32]>()) {
        let Ok(signer) = Signer::from_secret(&B256::from(secret)) else { return Ok(()) };
        let signature = signer.sign(B256::from(hash));
        prop_assert!(signature.s() <= HALF_ORDER);
        let mut out = Vec::new();
        Engine::Lanes.senders(&[(B256::from(hash), signature); 3], &mut 0, &mut out);
        prop_assert_eq!(out, vec![Ok(signer.address()); 3]);
    }
}

/// Random signatures in a test; `BASALT_RECOVER_TESTS=1000000` asks for so many.
fn random_count() -> usize {
    let asked = std::env::var("BASALT_RECOVER_TESTS").ok().and_then(|count| count.parse().ok());
    asked.unwrap_or(if cfg!(debug_assertions) { 1_024 } else { 16_384 })
}

/// SplitMix64: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn number(&mut self) -> U256 {
        U256::from_limbs(std::array::from_fn(|_| self.next()))
    }

    /// Numbers as they come, and numbers at the edges of what is allowed.
    fn edge(&mut self, edges: &[U256]) -> U256 {
        let at = usize::try_from(self.next() % 64).unwrap();
        edges.get(at).copied().unwrap_or_else(|| self.number())
    }
}

/// x of a point whose discrete logarithm is known, and whether its y is odd.
fn point(secret: U256) -> (U256, bool) {
    let key = secp256k1::SecretKey::from_byte_array(secret.to_be_bytes()).unwrap();
    let bytes = secp256k1::PublicKey::from_secret_key(secp256k1::SECP256K1, &key).serialize();
    (U256::from_be_slice(&bytes[1..]), bytes[0] == 3)
}

/// The signature by which Q = u1 G + u2 R, with R = `secret` G.
pub(super) fn crafted(secret: U256, u1: U256, u2: U256) -> Signed {
    let (x, odd) = point(secret);
    let hash = (ORDER - u1.mul_mod(x, ORDER)) % ORDER;
    let s = u2.mul_mod(x, ORDER);
    Signed { hash: B256::from(hash), r: x, s, id: u8::from(odd) }
}

fn less(number: u64) -> U256 {
    ORDER - U256::from(number)
}

/// The model takes its time, so it takes some.
const MODEL_STEP: usize = if cfg!(debug_assertions) { 64 } else { 16 };

/// Finds the same by every engine; returns how many the lanes left to libsecp256k1.
fn agree(signed: &[Signed]) -> usize {
    let expected: Vec<Option<Address>> = signed.iter().map(one::signer).collect();
    let mut unsure = 0;
    for engine in [Engine::Libsecp256k1, Engine::Lanes, Engine::Checked] {
        let mut found = Vec::new();
        unsure = engine.signers(signed, &mut found);
        assert_eq!(found, expected, "{engine:?}");
    }
    left_by_model(&signed.iter().step_by(MODEL_STEP).copied().collect::<Vec<_>>());
    unsure
}

/// What the lanes' model leaves to libsecp256k1; of the rest it finds the same.
fn left_by_model(signed: &[Signed]) -> usize {
    let verdicts = lanes::recover_by_model(signed);
    for (signed, verdict) in signed.iter().zip(&verdicts) {
        let address = verdict.key().map(|key| Address::from_slice(&keccak256(key)[12..]));
        let same = *verdict == lanes::Verdict::Unsure || address == one::signer(signed);
        assert!(same, "{signed:?}");
    }
    verdicts.iter().filter(|verdict| **verdict == lanes::Verdict::Unsure).count()
}

/// Where there are no lanes they leave nothing.
fn left(count: usize) -> usize {
    if Engine::lanes_available() { count } else { 0 }
}

#[test]
fn random_signatures_have_the_same_signer_by_every_engine() {
    let mut random = Random(1);
    let mut left = random_count();
    while left > 0 {
        let count = left.min(1 + usize::try_from(random.next() % 700).unwrap());
        let mut signed = Vec::with_capacity(count);
        for _ in 0..count {
            let secret = Signer::from_secret(&B256::from(random.number())).unwrap();
            let hash = B256::from(random.number());
            let signature = secret.sign(hash);
            let (r, s, mut id) = (signature.r(), signature.s(), u8::from(signature.v()));
            // One of eight is not what was signed: most of those recover to somebody else.
            let s = if random.next().is_multiple_of(16) { ORDER - s } else { s };
            let r = if random.next().is_multiple_of(16) { r + U256::ONE } else { r };
            id |= u8::from(random.next().is_multiple_of(64)) << 1;
            signed.push(Signed { hash, r, s, id });
        }
        assert_eq!(agree(&signed), 0);
        left -= count;
    }
}

#[test]
fn numbers_at_every_edge_have_the_same_verdict_by_every_engine() {
    let p = uint!(0xfffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f_U256);
    let mut edges = vec![U256::ZERO, U256::MAX, HALF_ORDER, HALF_ORDER + U256::ONE];
    for middle in [ORDER, p, p - ORDER] {
        edges.extend([middle - U256::ONE, middle, middle + U256::ONE]);
    }
    edges.extend((1..10).map(U256::from));
    edges.extend((1..6).map(|at| U256::ONE << (52 * at - 1)));
    edges.extend((1..5).map(|at| p - (U256::ONE << (52 * at))));
    let mut signed = Vec::new();
    for r in &edges {
        for s in &edges {
            for id in 0..5 {
                let hash = edges[(signed.len() * 7) % edges.len()];
                signed.push(Signed { hash: B256::from(hash), r: *r, s: *s, id });
            }
        }
    }
    agree(&signed);
    let mut random = Random(2);
    signed.clear();
    for _ in 0..random_count() / 4 {
        let [hash, r, s] = std::array::from_fn(|_| random.edge(&edges));
        let [id, ..] = (random.next() % 5).to_le_bytes();
        signed.push(Signed { hash: B256::from(hash), r, s, id });
    }
    agree(&signed);
}

#[test]
fn additions_of_equal_points_are_left_to_libsecp256k1_and_only_they() {
    let secret = keccak256("secret").into();
    let mut random = Random(3);
    let good = crafted(secret, random.number() % ORDER, random.number() % ORDER);
    // Q is infinity.
    let infinity = crafted(secret, less(7).mul_mod(secret, ORDER), U256::from(7));
    // u1 is zero: the sums of the generator's multiples are not, before the last has joined.
    let no_hash = crafted(secret, U256::ZERO, random.number() % ORDER);
    // Then nothing is left, because of R there is nothing yet either.
    let nothing = crafted(secret, U256::ZERO, U256::from(11));
    // The last addition doubles: u1 G + (u2 - 1) R = R.
    let doubling = crafted(secret, less(8).mul_mod(secret, ORDER), U256::from(9));
    for (bad, count) in [(infinity, 1), (no_hash, 0), (nothing, 1), (doubling, 1)] {
        let mut signed = vec![good; 21];
        signed[13] = bad;
        assert_eq!(agree(&signed), left(count));
        assert_eq!(agree(&[bad, bad]), left(2 * count));
        assert_eq!(left_by_model(&[good, bad]), count);
    }
    assert_eq!(one::signer(&infinity), None);
    assert!(one::signer(&no_hash).is_some());
}

#[test]
fn signatures_made_to_be_slow_are_decided_while_any_are_left_to_be() {
    let secret = keccak256("secret").into();
    let slow = crafted(secret, less(8).mul_mod(secret, ORDER), U256::from(9));
    let infinity = crafted(secret, less(7).mul_mod(secret, ORDER), U256::from(7));
    let signed = [slow, slow, infinity, slow, slow];
    let good = Ok(Address::repeat_byte(1));
    let mut found = vec![good.clone(); 5];
    let mut left = 2;
    decide(&signed, &[1, 2, 4], &mut left, &mut found);
    let signer = one::signer(&slow).unwrap();
    let expected = [
        good.clone(),
        Ok(signer),
        Err(RecoverError::NoKey(infinity.r)),
        good,
        Err(RecoverError::Unsure),
    ];
    assert_eq!(found, expected);
    assert_eq!(left, 0);
}

#[test]
fn senders_count_down_what_is_left_and_no_more() {
    let secret = keccak256("secret").into();
    let slow = crafted(secret, less(8).mul_mod(secret, ORDER), U256::from(9));
    let (s, odd) =
        if slow.s > HALF_ORDER { (ORDER - slow.s, slow.id == 0) } else { (slow.s, slow.id == 1) };
    let (hash, good, signer) = known();
    let mut signed = vec![(hash, good); 9];
    signed[3] = (slow.hash, Signature::new(slow.r, s, odd));
    signed[7] = signed[3];
    let mut out = Vec::new();
    let mut allowed = 1;
    let unsure = Engine::Checked.senders(&signed, &mut allowed, &mut out);
    assert_eq!(unsure, u64::from(Engine::lanes_available()) * 2);
    assert_eq!(allowed, u64::from(!Engine::lanes_available()));
    for (at, verdict) in out.into_iter().enumerate() {
        match at {
            3 => assert_eq!(verdict, one::signer(&slow).ok_or(RecoverError::Unsure)),
            7 if Engine::lanes_available() => assert_eq!(verdict, Err(RecoverError::Unsure)),
            7 => assert_eq!(verdict, one::signer(&slow).ok_or(RecoverError::Unsure)),
            _ => assert_eq!(verdict, Ok(signer)),
        }
    }
}

#[test]
fn small_multipliers_agree() {
    let secret = keccak256("another secret").into();
    let numbers: Vec<U256> = (1..20).map(U256::from).chain((1..20).map(less)).collect();
    let mut signed = Vec::new();
    for u1 in &numbers {
        signed.extend(numbers.iter().map(|u2| crafted(secret, *u1, *u2)));
    }
    assert_eq!(agree(&signed), 0);
}
