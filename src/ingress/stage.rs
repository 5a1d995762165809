//! The pinned loop of ingress: takes what has arrived, recovers it as a batch, answers each.

use crate::crypto::{
    keccak::keccak_batch,
    recover::{Engine, RecoverError},
};
use crate::ingress::{
    admit::{AdmitError, Rules, check_alone, check_sender},
    decode::{DecodeError, Decoded, decode_hashed, hashed},
    pool::{Entered, Pool, PoolError},
    recipients::Recipients,
    signatures::Signatures,
};
use crate::runtime::{
    clock::Clock,
    metrics::{Metrics, StageMetrics},
    ring::{Consumer, Pop, Producer},
};
use crate::types::{
    flow::{ChainEvent, Refusal, Reply, Submission},
    ids::TimestampUs,
    transaction::{RecoveredTransaction, SharedTransaction},
    view::{PoolReader as _, StateView, ViewError},
};
use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, Bytes};
use prometheus_client::metrics::counter::Counter;
use std::{sync::Arc, time::Duration};

/// Submissions in one batch at most: 64 recoveries take 0.35 ms in lanes, 2.6 ms one by one.
const BATCH_MAX: usize = 64;
/// How often senders with held transactions are looked at again.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// Senders looked at in one sweep.
const SWEEP_SENDERS_MAX: usize = 256;

/// Gives the newest durable state.
pub type NewestState = Arc<dyn Fn() -> Result<Arc<dyn StateView>, ViewError> + Send + Sync>;
/// Told of `ChainEvent::Admitted`; must not block.
pub type Announce = Arc<dyn Fn(ChainEvent) + Send + Sync>;

/// What one ingress seat works with; seats share the rings and the pool.
pub struct Ingress {
    /// rpc → ingress, shared by all seats.
    pub submissions: Consumer<Submission>,
    /// ingress → ordering.
    pub to_ordering: Producer<SharedTransaction>,
    /// Who waits.
    pub pool: Arc<Pool>,
    /// How senders are recovered.
    pub engine: Engine,
    /// Signatures that the lanes left to libsecp256k1.
    pub unsure: Counter,
    /// The newest durable state.
    pub newest: NewestState,
    /// Told of every admitted transaction.
    pub announce: Announce,
    /// What this chain asks of a transaction.
    pub rules: Rules,
    /// Seats that share `submissions`, this one included.
    pub seats: usize,
    /// Time.
    pub clock: Clock,
    /// The stage's numbers.
    pub metrics: StageMetrics,
}

/// Why a submission was refused, whichever step refused it.
#[derive(Debug, thiserror::Error)]
enum IngressError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("invalid sender: {0}")]
    Recover(#[from] RecoverError),
    #[error(transparent)]
    Admit(#[from] AdmitError),
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl From<IngressError> for Refusal {
    fn from(error: IngressError) -> Self {
        let code = match &error {
            IngressError::Decode(DecodeError::Rlp(_) | DecodeError::Empty)
            | IngressError::Decode(DecodeError::Trailing(_) | DecodeError::NotCanonical) => -32_602,
            IngressError::Admit(AdmitError::View(_)) => -32_603,
            IngressError::Recover(RecoverError::Unsure) => -32_005,
            _ => -32_000,
        };
        Self { code, message: error.to_string() }
    }
}

/// Makes ahead what recovery looks up; the counter of signatures that the lanes leave to
/// libsecp256k1, which only those are that are made for it.
pub fn prepare(metrics: &Metrics) -> Counter {
    crate::crypto::recover::prepare();
    let unsure = Counter::default();
    let help = "Signatures that the lanes left to libsecp256k1: made for it.";
    metrics.register("recovery_unsure", help, &unsure);
    unsure
}

/// Serves submissions until their ring closes.
pub fn run(ingress: Ingress) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let mut signatures = Signatures::new(ingress.engine, ingress.unsure.clone());
    let mut recipients = Recipients::new();
    let mut next_sweep_us = 0;
    loop {
        match ingress.submissions.pop_timeout(SWEEP_INTERVAL) {
            Pop::Item(first) => {
                ingress.gather(first, &mut batch);
                ingress.process(&mut batch, &mut signatures, &mut recipients);
            }
            Pop::Empty => {}
            Pop::Closed => return,
        }
        let now_us = ingress.clock.now_us();
        if now_us >= next_sweep_us {
            let interval_us = u64::try_from(SWEEP_INTERVAL.as_micros()).unwrap_or(u64::MAX);
            next_sweep_us = now_us + interval_us;
            ingress.recheck(&ingress.pool.take_listed(SWEEP_SENDERS_MAX));
        }
    }
}

impl Ingress {
    /// What has arrived, never waiting for more, and never more than this seat's share of it.
    fn gather(&self, first: Submission, batch: &mut Vec<Submission>) {
        let share = 1 + self.submissions.len() / self.seats.max(1);
        batch.push(first);
        while batch.len() < share.min(BATCH_MAX) {
            let Pop::Item(next) = self.submissions.pop() else { break };
            batch.push(next);
        }
    }

    fn process(
        &self,
        batch: &mut Vec<Submission>,
        signatures: &mut Signatures,
        recipients: &mut Recipients,
    ) {
        let start_us = self.clock.now_us();
        let count = batch.len();
        let raws: Vec<&[u8]> = batch.iter().map(|submission| hashed(&submission.raw)).collect();
        let mut hashes = Vec::with_capacity(count);
        keccak_batch(&raws, &mut hashes);
        let mut decoded = Vec::with_capacity(count);
        for (Submission { raw, reply }, hash) in batch.drain(..).zip(hashes) {
            match self.decode(raw, hash) {
                Ok(tx) => decoded.push((tx, reply)),
                Err(error) => reply(Err(error.into())),
            }
        }
        if !decoded.is_empty() {
            let mut recovered = Vec::with_capacity(decoded.len());
            for (verdict, reply) in signatures.recover(decoded, start_us) {
                match verdict {
                    Ok(tx) => recovered.push((tx, reply)),
                    Err(error) => reply(Err(IngressError::from(error).into())),
                }
            }
            self.admit_all(recovered, recipients);
        }
        let took_us = self.clock.now_us().saturating_sub(start_us);
        let each_us = took_us / u64::try_from(count).unwrap_or(1).max(1);
        for _ in 0..count {
            self.metrics.item(each_us, self.submissions.len());
        }
    }

    fn decode(&self, raw: Bytes, hash: B256) -> Result<Decoded, IngressError> {
        if self.pool.pending(&hash).is_some() {
            return Err(PoolError::AlreadyKnown.into());
        }
        let decoded = decode_hashed(raw, hash)?;
        check_alone(&decoded, &self.rules)?;
        Ok(decoded)
    }

    fn admit_all(
        &self,
        recovered: Vec<(RecoveredTransaction, Reply)>,
        recipients: &mut Recipients,
    ) {
        let state = match (self.newest)() {
            Ok(state) => state,
            Err(error) => {
                let refusal = Refusal::from(IngressError::from(AdmitError::from(error)));
                for (_, reply) in recovered {
                    reply(Err(refusal.clone()));
                }
                return;
            }
        };
        let now_us = self.clock.now_us();
        let mut held = Vec::new();
        for (tx, reply) in recovered {
            let tx = Arc::new(tx);
            match self.admit(tx.clone(), state.as_ref(), now_us) {
                Ok(entered) => {
                    reply(Ok(tx.hash));
                    if entered == Entered::Held {
                        held.push(tx.sender);
                    }
                    tx.envelope.to().into_iter().for_each(|to| recipients.note(to));
                    (self.announce)(ChainEvent::Admitted(tx));
                }
                Err(error) => reply(Err(error.into())),
            }
        }
        // The nonce before a held one may have become durable between our state and its entry.
        // A state taken after the entry shows that, and what comes later the pool is told of.
        self.recheck(&held);
        recipients.read(state.as_ref());
    }

    fn admit(
        &self,
        tx: SharedTransaction,
        state: &dyn StateView,
        now_us: TimestampUs,
    ) -> Result<Entered, IngressError> {
        let account = check_sender(&tx, state, &self.rules)?;
        Ok(self.pool.enter(tx, &account, now_us, &|tx| self.to_ordering.push(tx))?)
    }

    fn recheck(&self, senders: &[Address]) {
        if senders.is_empty() {
            return;
        }
        let state = match (self.newest)() {
            Ok(state) => state,
            Err(error) => return tracing::warn!(%error, "held transactions not looked at"),
        };
        let now_us = self.clock.now_us();
        for sender in senders {
            match state.account(sender) {
                Ok(account) => {
                    let account = account.unwrap_or_default();
                    let release = |tx| self.to_ordering.push(tx);
                    self.pool.recheck(sender, &account, now_us, &release);
                }
                Err(error) => tracing::warn!(%error, %sender, "account not looked at"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::{
        fixture::{Fixed, RICH, account, plain, raw, signer},
        pool::PoolLimits,
    };
    use crate::runtime::ring::ring;
    use crate::types::ids::DEV_CHAIN_ID;
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    type Verdicts = Arc<Mutex<Vec<Result<B256, Refusal>>>>;

    /// Verdicts, what ordering got, and whose accounts were read.
    struct Served {
        verdicts: Verdicts,
        got: Vec<SharedTransaction>,
        looked_at: Vec<Address>,
    }

    /// Runs `seats` seats over what is submitted.
    fn serve(seats: usize, submitted: Vec<Bytes>) -> Served {
        let (submissions, consumer) = ring(submitted.len().max(1));
        let (to_ordering, ordering) = ring(4_096);
        let pool = Arc::new(Pool::new(PoolLimits::default(), Box::new(Err)));
        let looked_at = Arc::<Mutex<Vec<Address>>>::default();
        let seen = looked_at.clone();
        let newest: NewestState = Arc::new(move || {
            let mut state = Fixed { looked_at: seen.clone(), ..Fixed::default() };
            for byte in 1..5 {
                state.accounts.insert(signer(byte).address(), account(0, RICH));
            }
            Ok(Arc::new(state))
        });
        let announced = Arc::new(AtomicUsize::new(0));
        let count = announced.clone();
        let verdicts = Verdicts::default();
        for raw in submitted {
            let verdicts = verdicts.clone();
            let reply = Box::new(move |verdict| verdicts.lock().unwrap().push(verdict));
            assert!(submissions.push(Submission { raw, reply }).is_ok());
        }
        drop(submissions);
        let metrics = StageMetrics::unregistered();
        std::thread::scope(|scope| {
            for _ in 0..seats {
                let count = count.clone();
                let seat = Ingress {
                    submissions: consumer.clone(),
                    to_ordering: to_ordering.clone(),
                    pool: pool.clone(),
                    engine: Engine::Checked,
                    unsure: Counter::default(),
                    newest: newest.clone(),
                    announce: Arc::new(move |_| {
                        count.fetch_add(1, Ordering::Relaxed);
                    }),
                    rules: Rules::new(DEV_CHAIN_ID, 30_000_000),
                    seats,
                    clock: Clock::system(),
                    metrics: metrics.clone(),
                };
                scope.spawn(|| run(seat));
            }
        });
        drop(to_ordering);
        let got: Vec<_> = std::iter::from_fn(|| ordering.pop_wait()).collect();
        assert_eq!(announced.load(Ordering::Relaxed), pool.pending_count());
        let looked_at = std::mem::take(&mut *looked_at.lock().unwrap());
        Served { verdicts, got, looked_at }
    }

    #[test]
    fn nonces_spread_over_seats_come_out_in_order_and_complete() {
        let key = signer(1);
        let submitted = (0..600).map(|nonce| raw(&key, plain(nonce, 10, 1))).collect();
        let Served { verdicts, got, .. } = serve(3, submitted);
        assert!(verdicts.lock().unwrap().iter().all(Result::is_ok));
        let nonces: Vec<u64> = got.iter().map(|tx| tx.nonce()).collect();
        assert_eq!(nonces, (0..600).collect::<Vec<_>>());
    }

    #[test]
    fn each_submission_gets_its_own_verdict() {
        let good = raw(&signer(1), plain(0, 10, 1));
        let poor = raw(&signer(9), plain(0, 10, 1));
        let garbage = Bytes::from_static(&[0xc1, 0x80]);
        let blob = Bytes::from_static(&[3, 0xc0]);
        let Served { verdicts, got, .. } = serve(1, vec![garbage, good.clone(), poor, good, blob]);
        assert_eq!(got.len(), 1);
        let verdicts = verdicts.lock().unwrap();
        let has = |code: i32, text: &str| {
            let fits = |refusal: &Refusal| refusal.code == code && refusal.message.contains(text);
            assert!(verdicts.iter().any(|v| v.as_ref().is_err_and(fits)), "{text}: {verdicts:?}");
        };
        assert_eq!(verdicts.len(), 5);
        assert_eq!(verdicts.iter().filter(|verdict| verdict.is_ok()).count(), 1);
        has(-32_602, "rlp: input too short");
        has(-32_000, "insufficient funds for gas * price + value: balance 0, tx cost 210001");
        has(-32_000, "already known");
        has(-32_000, "blob transactions are not supported on this chain");
    }

    #[test]
    fn recipients_are_read_ahead_of_execution() {
        let key = signer(1);
        let Served { got, looked_at, .. } = serve(1, vec![raw(&key, plain(0, 10, 1))]);
        let recipient = got[0].envelope.to().unwrap();
        assert_eq!(looked_at, [key.address(), recipient]);
        let Served { looked_at, .. } = serve(1, vec![raw(&signer(9), plain(0, 10, 1))]);
        assert!(!looked_at.contains(&recipient), "nobody executes what was refused");
    }
}
