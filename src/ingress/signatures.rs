//! All signatures of a batch, those of senders and of EIP-7702's authorities: what was signed is
//! hashed side by side, then the signers are recovered side by side.

use crate::crypto::{
    keccak::{Inputs, keccak_batch},
    recover::{Engine, RecoverError},
};
use crate::ingress::decode::Decoded;
use crate::types::{ids::TimestampUs, transaction::RecoveredTransaction};
use alloy_consensus::{SignableTransaction, TxEnvelope};
use alloy_eips::eip7702::{Authorization, constants::MAGIC};
use alloy_primitives::{Address, B256, Signature};
use alloy_rlp::Encodable as _;
use prometheus_client::metrics::counter::Counter;

/// Signatures that the lanes leave to libsecp256k1, decided in a second at most. Only those are
/// left that are made for it, and each costs what seven others do; these are 1 % of a seat's time.
const UNSURE_PER_S: u64 = 200;
const SECOND_US: u64 = 1_000_000;

/// Recovers batch after batch; one of each seat.
pub struct Signatures {
    engine: Engine,
    unsure: Counter,
    /// The second that `left` belongs to.
    second: u64,
    left: u64,
    texts: Texts,
    hashes: Vec<B256>,
    signed: Vec<(B256, Signature)>,
    verdicts: Vec<Result<Address, RecoverError>>,
}

/// What was signed, and the signatures.
#[derive(Default)]
struct Texts {
    signed: Inputs,
    signatures: Vec<Signature>,
}

impl Signatures {
    /// By this engine; counts the signatures that the lanes leave to libsecp256k1.
    pub fn new(engine: Engine, unsure: Counter) -> Self {
        Self {
            engine,
            unsure,
            second: 0,
            left: UNSURE_PER_S,
            texts: Texts::default(),
            hashes: Vec::new(),
            signed: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    /// Finds the sender and the authorities of each transaction of a batch.
    pub fn recover<T>(
        &mut self,
        batch: Vec<(Decoded, T)>,
        now_us: TimestampUs,
    ) -> impl Iterator<Item = (Result<RecoveredTransaction, RecoverError>, T)> {
        self.texts.clear();
        for (tx, _) in &batch {
            self.texts.take(&tx.envelope);
        }
        self.hashes.clear();
        keccak_batch(&self.texts.signed.all(), &mut self.hashes);
        self.signed.clear();
        self.signed.extend(self.hashes.drain(..).zip(self.texts.signatures.drain(..)));
        if now_us / SECOND_US != self.second {
            self.second = now_us / SECOND_US;
            self.left = UNSURE_PER_S;
        }
        self.verdicts.clear();
        let unsure = self.engine.senders(&self.signed, &mut self.left, &mut self.verdicts);
        self.unsure.inc_by(unsure);
        let mut signers = self.verdicts.drain(..);
        batch.into_iter().map(move |(tx, with)| (with_signers(tx, &mut signers), with))
    }
}

impl Texts {
    fn clear(&mut self) {
        self.signed.clear();
        self.signatures.clear();
    }

    /// Takes what a transaction's sender signed, and its authorities.
    fn take(&mut self, envelope: &TxEnvelope) {
        let bytes = self.signed.open();
        match envelope {
            TxEnvelope::Legacy(signed) => signed.tx().encode_for_signing(bytes),
            TxEnvelope::Eip2930(signed) => signed.tx().encode_for_signing(bytes),
            TxEnvelope::Eip1559(signed) => signed.tx().encode_for_signing(bytes),
            TxEnvelope::Eip4844(signed) => signed.tx().encode_for_signing(bytes),
            TxEnvelope::Eip7702(signed) => signed.tx().encode_for_signing(bytes),
        }
        self.end(*envelope.signature());
        for (authorization, signature) in authorizations(envelope) {
            let Some(signature) = signature else { continue };
            let bytes = self.signed.open();
            bytes.push(MAGIC);
            authorization.encode(bytes);
            self.end(signature);
        }
    }

    fn end(&mut self, signature: Signature) {
        self.signed.end();
        self.signatures.push(signature);
    }
}

/// EIP-7702: what each authority signed, and its signature where that can be one.
fn authorizations(
    envelope: &TxEnvelope,
) -> impl Iterator<Item = (&Authorization, Option<Signature>)> {
    let list = envelope.as_eip7702().map(|signed| signed.tx().authorization_list.as_slice());
    let list = list.unwrap_or_default().iter();
    list.map(|signed| (signed.inner(), signed.signature().ok()))
}

/// A transaction with its signers, who come in the order in which `Texts` took what they signed.
fn with_signers(
    tx: Decoded,
    signers: &mut impl Iterator<Item = Result<Address, RecoverError>>,
) -> Result<RecoveredTransaction, RecoverError> {
    let mut next = || signers.next().unwrap_or(Err(RecoverError::Unsure));
    let sender = next();
    let mut authorities = Vec::new();
    let mut unsure = false;
    for (_, signature) in authorizations(&tx.envelope) {
        let signer = signature.map(|_| next());
        // A signature that was not decided is not void: the transaction cannot go on.
        unsure |= signer == Some(Err(RecoverError::Unsure));
        authorities.push(signer.and_then(Result::ok));
    }
    let sender = sender?;
    if unsure {
        return Err(RecoverError::Unsure);
    }
    let Decoded { envelope, hash, raw } = tx;
    Ok(RecoveredTransaction::new(envelope, hash, (sender, authorities), raw))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::{
        decode::decode,
        fixture::{every_type, plain, raw, signer},
    };
    use alloy_eips::eip2718::Encodable2718 as _;

    fn signatures() -> Signatures {
        Signatures::new(Engine::Checked, Counter::default())
    }

    #[test]
    fn a_batch_of_every_type_gets_the_signers_that_each_gets_alone() {
        let mut batch = Vec::new();
        for at in 0..40 {
            let types = every_type();
            let signed = signer(1 + at).sign_transaction(types[usize::from(at) % 5].clone());
            batch.push((decode(signed.encoded_2718().into()).unwrap(), signed));
        }
        let mut signatures = signatures();
        for _ in 0..2 {
            for (at, (found, signed)) in signatures.recover(batch.clone(), 0).enumerate() {
                let found = found.unwrap();
                assert_eq!(found.sender, signer(1 + u8::try_from(at).unwrap()).address());
                assert_eq!(found.hash, *signed.hash());
                let expected: &[_] =
                    if signed.is_eip7702() { &[Some(signer(2).address()), None] } else { &[] };
                assert_eq!(found.authorities, expected);
                assert_eq!(found, decode(found.raw.clone()).unwrap().recover().unwrap());
            }
        }
    }

    #[test]
    fn a_signature_without_a_signer_takes_none_from_its_neighbours() {
        let mut batch: Vec<_> = (0..9)
            .map(|nonce| (decode(raw(&signer(3), plain(nonce, 10, 1))).unwrap(), ()))
            .collect();
        let TxEnvelope::Eip1559(signed) = batch[4].0.envelope.clone() else { panic!("its type") };
        let (tx, _, hash) = signed.into_parts();
        let void =
            Signature::new(alloy_primitives::U256::from(5), alloy_primitives::U256::ONE, false);
        batch[4].0.envelope = alloy_consensus::Signed::new_unchecked(tx, void, hash).into();
        let mut signatures = signatures();
        for (at, (found, ())) in signatures.recover(batch, 0).enumerate() {
            match found {
                Ok(found) => assert_eq!(found.sender, signer(3).address()),
                Err(error) => assert!(at == 4, "{at}: {error}"),
            }
        }
    }

    #[test]
    fn a_transaction_with_an_undecided_authority_does_not_go_on() {
        let tx = every_type().pop().unwrap();
        let decoded = decode(signer(1).sign_transaction(tx).encoded_2718().into()).unwrap();
        let sender = signer(1).address();
        let with = |authority| {
            let void = Err(RecoverError::R(alloy_primitives::U256::ZERO));
            let found =
                with_signers(decoded.clone(), &mut [Ok(sender), authority, void].into_iter());
            found.map(|tx| tx.authorities[0])
        };
        assert_eq!(with(Err(RecoverError::Unsure)), Err(RecoverError::Unsure));
        assert_eq!(with(Err(RecoverError::HighS(alloy_primitives::U256::MAX))), Ok(None));
        assert_eq!(with(Ok(sender)), Ok(Some(sender)));
    }
}
