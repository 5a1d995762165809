//! The data-flow diagram in code: every ring, named producer_consumer, and every thread, once.
//!
//! ```text
//! rpc ─▶ ingress ─▶ ordering ─▶ execution ─▶ mini_block ─▶ wal ─▶ state ─▶ trie ─▶ block ─▶ state
//!     ─▶ checkpoint
//! ```

use crate::block;
use crate::execution;
use crate::execution::{
    block::OpenBlock,
    evm::Rules,
    fees::{FeeRules, ParentBlock, next_base_fee},
    simulate::CallSimulator,
    stage::{ExecutionMetrics, FreshBase, LaneThread},
    store::CacheLimits,
    worker::{ExecutionConfig, ExecutionStart},
};
use crate::ingress;
use crate::ingress::pool::{Pool, PoolLimits};
use crate::mini_block;
use crate::node::{
    NodeError, Settings, keys, recover,
    recover::Recovered,
    shutdown::End,
    supervise::{Patience, Progress},
    threads::{self, Started, Threads},
};
use crate::ordering;
use crate::ordering::{
    cut::{Intervals, Standing},
    policy::CutLimits,
    stage::{OrderingConfig, OrderingMetrics},
};
use crate::rpc;
use crate::rpc::{server::RunningServer, subscribe::Events};
use crate::runtime::{
    clock::Clock,
    metrics::{Metrics, StageMetrics},
    pin,
    ring::{Consumer, Producer, ring},
};
use crate::state;
use crate::state::{
    policy::CheckpointPolicy,
    published::Published,
    stage::{CheckpointSeat, Outlet},
};
use crate::topology::seat::{Seat, Stage};
use crate::trie;
use crate::trie::{
    root::{RootedBlock, StateTrie},
    service::{Checkpoint, ProofService},
    stage::TrieMetrics,
};
use crate::types::{
    block::SealedBlock,
    flow::{ChainEvent, ClosedBlock, Credit, Cut, Step, Submission},
    ids::BlockNumber,
    limits::TRANSACTION_GAS_MAX,
    transaction::SharedTransaction,
    view::{BlockId, ChainReader as _, Settlement},
};
use crate::wal;
use crate::wal::{log::Log, segment::Preparer, stage::WalMetrics};
use alloy_primitives::{Address, B256, Bytes};
use crossbeam_channel::{Receiver, Sender};
use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// Submissions that wait for ingress; what comes beyond is refused at once. 8,192 take an
/// ingress seat a third of a second.
const RPC_INGRESS: usize = 8_192;
/// Admitted transactions that ordering has not seen; the pool's bound keeps it from filling.
const INGRESS_ORDERING: usize = 65_536;
/// One cut is in flight, one credit answers it.
const ORDERING_EXECUTION: usize = 1;
/// Steps between stages: 64 mini-blocks of 10 ms are more than half a second of slack; a full
/// ring holds execution, and so ordering, back.
const STEPS: usize = 64;
/// Blocks between stages. Execution waits for its parent's hash: two blocks are under way at most.
const BLOCKS: usize = 4;
/// Sealed blocks that wait for a checkpoint; their weight is bounded by the checkpoint's policy.
const BLOCK_CHECKPOINT: usize = 16;
/// Hashes on their way back to execution, which takes them at every cut.
const BLOCK_EXECUTION: usize = 64;
/// Part of an interval that execution may take, percent: the rest is for the log and for noise.
const DEADLINE_PERCENT: u64 = 90;
/// Threads that read state beside ingress and RPC: execution, trie, checkpoint, proofs.
const OTHER_READERS: usize = 4;

/// A node that runs.
pub struct Running {
    /// Where JSON-RPC is served.
    pub rpc_address: SocketAddr,
    /// Where metrics are served.
    pub metrics_address: Option<SocketAddr>,
    /// EIP-155.
    pub chain_id: u64,
    /// Whose signature mini-blocks carry.
    pub sequencer: Address,
    server: RunningServer,
    pool: Arc<Pool>,
    threads: Vec<Started>,
}

/// What several stages share.
struct Shared {
    rules: Rules,
    fees: FeeRules,
    pool: Arc<Pool>,
    proofs: Arc<ProofService>,
    fresh_base: Arc<FreshBase>,
    events: Events,
    emit: Arc<dyn Fn(ChainEvent) + Send + Sync>,
}

/// Where a stage takes from, and where it puts to.
type Link<T> = (Consumer<T>, Producer<T>);
/// Both ends of a ring.
type Ring<T> = (Producer<T>, Consumer<T>);
/// Height and hash of a sealed block.
type SealedHash = (BlockNumber, B256);

/// The ends of all rings.
struct Rings {
    rpc_ingress: Consumer<Submission>,
    ingress_ordering: Ring<SharedTransaction>,
    ordering_execution: Ring<Cut>,
    execution_ordering: Ring<Credit>,
    execution_mini_block: Ring<Step>,
    mini_block_wal: Ring<Step>,
    wal_state: Ring<Step>,
    state_trie: Ring<ClosedBlock>,
    trie_block: Ring<RootedBlock>,
    block_state: Ring<SealedBlock>,
    state_checkpoint: Ring<SealedBlock>,
    block_execution: Ring<SealedHash>,
}

/// Recovers the chain, starts the servers, then every stage; `None` where the end came first.
///
/// # Errors
/// Where the chain cannot be taken up or an address not be served.
pub fn start(
    settings: Settings,
    (end, ends): (Sender<End>, &Receiver<End>),
    progress: &Progress,
) -> Result<Option<Running>, NodeError> {
    let clock = Clock::system();
    let metrics = Arc::new(Metrics::default());
    let had_key = settings.folder.join(keys::KEY_FILE).exists();
    let signer = keys::load_or_create(&settings.folder).map_err(NodeError::of)?;
    let sequencer = signer.address();
    let readers =
        settings.plan.seats.len() + settings.config.rpc.calls_in_flight_max + OTHER_READERS;
    let patience = Patience::default();
    let ended = || {
        patience.goes_on(clock.now_us());
        !ends.is_empty()
    };
    let recovered = recover::recover(&settings, (&clock, &metrics, readers), &ended)?;
    let Some(recovered) = recovered.filter(|_| ends.is_empty()) else { return Ok(None) };
    if !had_key && recovered.link.number > 0 {
        tracing::warn!(%sequencer, "the chain goes on with a new sequencer: its key was missing");
    }
    let (submissions, rings) = rings();
    progress.show(&metrics, recovered.head.number);
    let shared = share(&settings, &recovered, submissions);
    let server = serve(&settings, &recovered, &shared, (&clock, &metrics))?;
    let chain_id = shared.rules.chain_id;
    let pool = Arc::clone(&shared.pool);
    let mut threads =
        Threads { plan: settings.plan.clone(), end, clock, metrics, started: Vec::new() };
    let sign: Sign = Box::new(move |hash| signer.sign(hash));
    run_stages(&mut threads, &settings, recovered, shared, (rings, sign, readers))?;
    Ok(Some(Running {
        rpc_address: server.local_addr,
        metrics_address: server.metrics_addr,
        chain_id,
        sequencer,
        server,
        pool,
        threads: threads.started,
    }))
}

fn rings() -> (Producer<Submission>, Rings) {
    let (submissions, rpc_ingress) = ring(RPC_INGRESS);
    let rings = Rings {
        rpc_ingress,
        ingress_ordering: ring(INGRESS_ORDERING),
        ordering_execution: ring(ORDERING_EXECUTION),
        execution_ordering: ring(ORDERING_EXECUTION),
        execution_mini_block: ring(STEPS),
        mini_block_wal: ring(STEPS),
        wal_state: ring(STEPS),
        state_trie: ring(BLOCKS),
        trie_block: ring(BLOCKS),
        block_state: ring(BLOCKS),
        state_checkpoint: ring(BLOCK_CHECKPOINT),
        block_execution: ring(BLOCK_EXECUTION),
    };
    (submissions, rings)
}

fn share(settings: &Settings, recovered: &Recovered, submissions: Producer<Submission>) -> Shared {
    let config = &settings.config;
    let genesis = &recovered.spec.genesis;
    let interval_us = config.sequencing.mini_block_interval_ms * 1_000;
    let events = Events::new(interval_us, config.rpc.subscription_buffer);
    let (to_clients, watch) = (events.clone(), Arc::clone(&settings.watch));
    let limits = PoolLimits {
        transactions_max: config.pool.transactions_max,
        bytes_max: config.pool.bytes_max,
        per_sender_max: config.pool.transactions_per_sender_max,
        price_bump_percent: config.pool.replacement_bump_percent,
        ..PoolLimits::default()
    };
    let base =
        Checkpoint { block: recovered.head.number, source: Arc::clone(&recovered.snapshot) as _ };
    Shared {
        rules: Rules::osaka(recovered.spec.chain_id),
        fees: FeeRules {
            chain_id: recovered.spec.chain_id,
            base_fee_floor: config.chain.base_fee_floor_wei,
            gas_limit: genesis.gas_limit,
            fee_recipient: config.chain.fee_recipient,
        },
        pool: Arc::new(Pool::new(limits, Box::new(move |it| submissions.push(it)))),
        proofs: Arc::new(ProofService::new(base, recovered.head.hash)),
        fresh_base: Arc::default(),
        events,
        emit: Arc::new(move |event| {
            watch(&event);
            to_clients.publish(event);
        }),
    }
}

fn serve(
    settings: &Settings,
    recovered: &Recovered,
    shared: &Shared,
    (clock, metrics): (&Clock, &Arc<Metrics>),
) -> Result<RunningServer, NodeError> {
    let (config, limits) = (&settings.config, &settings.config.rpc);
    let capped = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let parts = rpc::server::Parts {
        settings: rpc::Settings {
            address: limits.address,
            metrics_address: config.metrics,
            metrics_socket: settings.metrics_socket.clone(),
            metrics_more: settings.metrics_more.clone(),
            seats: settings.plan.seats(Stage::Rpc).collect(),
            request_bytes_max: capped(limits.request_bytes_max),
            response_bytes_max: capped(limits.response_bytes_max),
            batch_max: limits.batch_max,
            connections_max: capped(limits.connections_max),
            subscriptions_max: capped(limits.subscriptions_per_connection_max),
            blocking_threads: limits.calls_in_flight_max,
            sync_timeout_ms: limits.sync_timeout_ms,
            sync_timeout_max_ms: limits.sync_timeout_max_ms,
            logs_max: limits.logs_max,
            logs_blocks_max: limits.logs_blocks_max,
            ..rpc::Settings::default()
        },
        facts: rpc::Facts {
            chain_id: shared.rules.chain_id,
            client_version: concat!("basalt/v", env!("CARGO_PKG_VERSION"), "/linux/rust").into(),
            block_gas_limit: shared.fees.gas_limit,
            fee_floor: shared.fees.base_fee_floor,
            call_gas_max: limits.call_gas_max,
            mini_block_interval_us: config.sequencing.mini_block_interval_ms * 1_000,
            block_interval_s: config.sequencing.block_interval_ms.div_ceil(1_000),
        },
        backend: rpc::Backend {
            chain: Arc::clone(&recovered.published) as _,
            proofs: Arc::clone(&shared.proofs) as _,
            pool: Arc::clone(&shared.pool) as _,
            simulator: Arc::new(CallSimulator {
                rules: shared.rules,
                gas_max: limits.call_gas_max,
                transaction_gas_max: TRANSACTION_GAS_MAX,
            }),
        },
        events: shared.events.clone(),
        clock: clock.clone(),
        metrics: Arc::clone(metrics),
        stage: metrics.stage(Stage::Rpc),
    };
    rpc::server::start(parts).map_err(NodeError::of)
}

type Sign = Box<dyn Fn(B256) -> alloy_primitives::Signature + Send>;

/// One call a part of the path, in a transaction's order.
fn run_stages(
    threads: &mut Threads,
    settings: &Settings,
    recovered: Recovered,
    shared: Shared,
    (rings, sign, readers): (Rings, Sign, usize),
) -> Result<(), NodeError> {
    let open = OpenBlock::resumed(&recovered.open, &shared.rules).map_err(NodeError::of)?;
    let parent = recovered.parent();
    let (admitted, to_ordering) = (rings.ingress_ordering.1, rings.ingress_ordering.0);
    run_ingress(threads, settings, &recovered, &shared, (rings.rpc_ingress, to_ordering))?;
    let ports = (admitted, rings.ordering_execution.0, rings.execution_ordering.1);
    run_ordering(threads, settings, &shared, (&parent, open.as_ref()), ports)?;
    let ports = execution::stage::Rings {
        cuts: rings.ordering_execution.1,
        credits: rings.execution_ordering.0,
        steps: rings.execution_mini_block.0,
        hashes: rings.block_execution.1,
        fresh_base: Arc::clone(&shared.fresh_base),
    };
    run_execution(threads, &recovered, &shared, (parent, open), ports)?;
    let start = mini_block::stage::Start { link: recovered.link, sign };
    let steps = (rings.execution_mini_block.1, rings.mini_block_wal.0);
    run_mini_block(threads, start, steps)?;
    let steps = (rings.mini_block_wal.1, rings.wal_state.0);
    run_log(threads, (recovered.log, recovered.preparer), steps)?;
    let published = &recovered.published;
    let state_metrics = threads.metrics.stage(Stage::State);
    let outlet = outlet(threads, &shared, &state_metrics);
    let ports = (rings.wal_state.1, rings.state_trie.0);
    run_publish(threads, published, &shared, outlet, ports)?;
    let ports = trie::stage::Ports { closed: rings.state_trie.1, rooted: rings.trie_block.0 };
    run_trie(threads, recovered.trie, &shared, ports)?;
    let start = block::stage::Start {
        parent: recovered.head,
        extra_data: Bytes::copy_from_slice(&settings.config.chain.extra_data),
        proofs: Arc::clone(&shared.proofs),
    };
    let ports = block::stage::Ports {
        rooted: rings.trie_block.1,
        sealed: rings.block_state.0,
        hashes: rings.block_execution.0,
    };
    run_block(threads, start, ports)?;
    let outlet = self::outlet(threads, &shared, &state_metrics);
    run_seal(threads, published, outlet, (rings.block_state.1, rings.state_checkpoint.0))?;
    let checkpoint = CheckpointSeat {
        environment: recovered.environment,
        archive: recovered.archive,
        published: recovered.published,
        policy: policy(settings),
        readers,
        on_checkpoint: on_checkpoint(recovered.steady, &shared),
        clock: threads.clock.clone(),
        metrics: threads.metrics.stage(Stage::Checkpoint),
    };
    let sealed = rings.state_checkpoint.1;
    threads.run(Stage::Checkpoint, "checkpoint", move |_| {
        state::stage::run_checkpoint(&sealed, &checkpoint)
    })
}

fn run_mini_block(
    threads: &mut Threads,
    start: mini_block::stage::Start,
    (blank, sealed): Link<Step>,
) -> Result<(), NodeError> {
    threads.run(Stage::MiniBlock, "mini_block", move |at| {
        let metrics = at.metrics.stage(Stage::MiniBlock);
        let blank = blank.seated(&at.seat);
        mini_block::stage::run(start, &blank, &sealed, &at.clock, &metrics)
    })
}

/// The log, and beside it the thread that makes its segments ready.
fn run_log(
    threads: &mut Threads,
    (log, preparer): (Log, Preparer),
    (sealed, durable): Link<Step>,
) -> Result<(), NodeError> {
    threads.run(Stage::Checkpoint, "segments", move |_| -> Result<(), NodeError> {
        preparer.run();
        Ok(())
    })?;
    threads.run(Stage::Wal, "wal", move |at| {
        let metrics = WalMetrics::new(&at.metrics, at.metrics.stage(Stage::Wal));
        let sealed = sealed.seated(&at.seat);
        wal::stage::run(log, &sealed, &durable, &at.clock, &metrics)
    })
}

fn outlet(threads: &Threads, shared: &Shared, metrics: &StageMetrics) -> Outlet {
    let emit = Arc::clone(&shared.emit);
    Outlet {
        emit: Box::new(move |event| emit(event)),
        clock: threads.clock.clone(),
        metrics: metrics.clone(),
    }
}

fn run_publish(
    threads: &mut Threads,
    published: &Arc<Published>,
    shared: &Shared,
    outlet: Outlet,
    (durable, closed): (Consumer<Step>, Producer<ClosedBlock>),
) -> Result<(), NodeError> {
    let (published, pool) = (Arc::clone(published), Arc::clone(&shared.pool));
    threads.run(Stage::State, "state", move |at| {
        let durable = durable.seated(&at.seat);
        let closed = closed;
        state::stage::run_publish(&durable, &closed, &published, &*pool, &outlet)
    })
}

fn run_trie(
    threads: &mut Threads,
    trie: StateTrie,
    shared: &Shared,
    ports: trie::stage::Ports,
) -> Result<(), NodeError> {
    let proofs = Arc::clone(&shared.proofs);
    threads.run(Stage::Trie, "trie", move |at| {
        let metrics = TrieMetrics::new(&at.metrics, at.metrics.stage(Stage::Trie));
        trie::stage::run(trie, &proofs, ports, &at.clock, &metrics)
    })
}

fn run_block(
    threads: &mut Threads,
    start: block::stage::Start,
    mut ports: block::stage::Ports,
) -> Result<(), NodeError> {
    threads.run(Stage::Block, "block", move |at| {
        ports.rooted = ports.rooted.seated(&at.seat);
        let metrics = at.metrics.stage(Stage::Block);
        block::stage::run(start, &ports, &at.clock, &metrics)
    })
}

/// Shares the seat of `state`, so it must park.
fn run_seal(
    threads: &mut Threads,
    published: &Arc<Published>,
    outlet: Outlet,
    (sealed, to_checkpoint): Link<SealedBlock>,
) -> Result<(), NodeError> {
    let published = Arc::clone(published);
    threads.run(Stage::State, "seal", move |_| {
        let (sealed, to_checkpoint) = (sealed, to_checkpoint);
        state::stage::run_seal(&sealed, &to_checkpoint, &published, &outlet)
    })
}

fn run_ingress(
    threads: &mut Threads,
    settings: &Settings,
    recovered: &Recovered,
    shared: &Shared,
    (submissions, to_ordering): (Consumer<Submission>, Producer<SharedTransaction>),
) -> Result<(), NodeError> {
    let config = &settings.config;
    let rules = ingress::admit::Rules {
        tip_min: config.pool.tip_floor_wei.into(),
        base_fee_floor: config.chain.base_fee_floor_wei,
        nonce_window: config.pool.nonce_gap_max,
        ..ingress::admit::Rules::new(shared.rules.chain_id, shared.fees.gas_limit)
    };
    let metrics = threads.metrics.stage(Stage::Ingress);
    let unsure = ingress::stage::prepare(&threads.metrics);
    let seats: Vec<Seat> = settings.plan.seats(Stage::Ingress).collect();
    for seat in &seats {
        let published = Arc::clone(&recovered.published);
        let ingress = ingress::stage::Ingress {
            submissions: submissions.clone().seated(seat),
            to_ordering: to_ordering.clone(),
            pool: Arc::clone(&shared.pool),
            engine: config.recovery,
            unsure: unsure.clone(),
            newest: Arc::new(move || published.state(BlockId::Pending)),
            announce: Arc::clone(&shared.emit),
            rules,
            seats: seats.len(),
            clock: threads.clock.clone(),
            metrics: metrics.clone(),
        };
        threads.run_on(*seat, "ingress", move |_| -> Result<(), NodeError> {
            ingress::stage::run(ingress);
            Ok(())
        })?;
    }
    Ok(())
}

fn run_ordering(
    threads: &mut Threads,
    settings: &Settings,
    shared: &Shared,
    (parent, open): (&ParentBlock, Option<&OpenBlock>),
    ports: (Consumer<SharedTransaction>, Producer<Cut>, Consumer<Credit>),
) -> Result<(), NodeError> {
    let sequencing = &settings.config.sequencing;
    let next = next_base_fee(parent, shared.fees.base_fee_floor);
    let config = OrderingConfig {
        intervals: Intervals {
            mini_block_us: sequencing.mini_block_interval_ms * 1_000,
            block_us: sequencing.block_interval_ms * 1_000,
            deadline_percent: DEADLINE_PERCENT,
        },
        limits: CutLimits::new(sequencing.mini_block_gas_limit),
        early_gas: sequencing.early_start_gas,
        standing: Standing {
            parent_timestamp: parent.timestamp,
            open_timestamp: open.map(|open| open.environment.timestamp),
        },
        base_fee: open.map_or(next, |open| open.environment.base_fee),
    };
    let ordering = ordering::stage::Ordering {
        admitted: ports.0,
        to_execution: ports.1,
        credits: ports.2,
        settlement: Arc::clone(&shared.pool) as Arc<dyn Settlement>,
        announce: Arc::clone(&shared.emit),
        config,
        clock: threads.clock.clone(),
        metrics: OrderingMetrics::new(&threads.metrics, threads.metrics.stage(Stage::Ordering)),
    };
    threads.run(Stage::Ordering, "ordering", move |_| ordering::stage::run(ordering))
}

fn run_execution(
    threads: &mut Threads,
    recovered: &Recovered,
    shared: &Shared,
    (parent, open): (ParentBlock, Option<OpenBlock>),
    mut ports: execution::stage::Rings,
) -> Result<(), NodeError> {
    let config =
        ExecutionConfig { rules: shared.rules, fees: shared.fees, cache: CacheLimits::default() };
    let start = ExecutionStart {
        overlay: recovered.overlay.clone(),
        base: Arc::clone(&recovered.snapshot) as _,
        parent,
        hashes: Vec::new(),
        open,
        last_mini_block: recovered.link.number,
    };
    // A lane on the core of the committing thread would only be in its way.
    let own = threads.plan.seat(Stage::Execution).core;
    let seats: Vec<Seat> = threads.plan.seats(Stage::Lane).filter(|it| it.core != own).collect();
    threads.run(Stage::Execution, "execution", move |at| {
        ports.cuts = ports.cuts.seated(&at.seat);
        let metrics = ExecutionMetrics::new(&at.metrics, at.metrics.stage(Stage::Execution));
        let mut start_lane = |number: usize, lane: LaneThread| {
            // Without its thread the lane claims nothing, and the work is done in place.
            if let Err(error) = pin::spawn(seats[number], lane) {
                tracing::error!(number, %error, "a lane does not start: execution is slower");
            }
        };
        let lanes = execution::stage::Lanes { count: seats.len(), start: &mut start_lane };
        execution::stage::run(ports, &at.clock, &metrics, (&config, lanes), start)
    })
}

fn policy(settings: &Settings) -> CheckpointPolicy {
    let checkpoint = &settings.config.checkpoint;
    CheckpointPolicy {
        blocks_max: usize::try_from(checkpoint.blocks_max).unwrap_or(usize::MAX),
        weight_max: checkpoint.weight_max,
        bytes_max: checkpoint.bytes_max,
        ..CheckpointPolicy::default()
    }
}

/// A durable checkpoint lets go of what it covers: in the log, under execution, in the tries.
fn on_checkpoint(
    steady: Arc<std::sync::atomic::AtomicU64>,
    shared: &Shared,
) -> state::stage::OnCheckpoint {
    let (fresh_base, proofs) = (Arc::clone(&shared.fresh_base), Arc::clone(&shared.proofs));
    Box::new(move |block, snapshot| {
        fresh_base.put(block, Arc::clone(snapshot) as _);
        proofs.checkpointed(&Checkpoint { block, source: Arc::clone(snapshot) as _ });
        steady.store(block, Ordering::Release);
    })
}

impl Running {
    /// Closes the door and waits until everything accepted is under a checkpoint.
    ///
    /// # Errors
    /// Where a stage stops on a fault, or they do not end within `limit`.
    pub fn stop(self, ends: &Receiver<End>, limit: Duration) -> Result<(), NodeError> {
        self.server.stop();
        self.pool.close();
        threads::join(self.threads, ends, limit)?;
        tracing::info!("ended: everything accepted is durable");
        Ok(())
    }
}
