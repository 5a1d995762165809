//! The plan: a seat for every stage, from the machine and what is wanted. Pure.
//!
//! 1. The hot path (ingress to block, and checkpoints) stays on the node with the most cores.
//! 2. With 16 cores there, every loop of the hot path is alone on a physical core. With fewer, as
//!    many as leave half of the cores to the rest; with less than 4, all share.
//! 3. RPC and the archive go to other nodes where there are any, else they take what remains.
//!
//! A seat is `dedicated` when it is alone on its physical core.

use crate::config::schema::Topology as Settings;
use crate::topology::hardware::Machine;
use crate::topology::seat::{Seat, Stage};
use serde::Serialize;
use std::collections::BTreeMap;

/// Numbers of threads that the operator fixed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wants {
    /// Threads that serve RPC.
    pub rpc: Option<usize>,
    /// Threads that recover senders.
    pub ingress: Option<usize>,
    /// Threads that execute ahead of the one that commits.
    pub lanes: Option<usize>,
}

impl From<&Settings> for Wants {
    fn from(settings: &Settings) -> Self {
        Self {
            rpc: settings.rpc_seats,
            ingress: settings.ingress_seats,
            lanes: settings.lane_seats,
        }
    }
}

/// Who sits where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// In the order of a transaction's path; every stage has one or more.
    pub seats: Vec<Seat>,
    /// Why it is no better, for the log.
    pub notes: Vec<String>,
}

impl Plan {
    /// The seats of a stage, by index.
    pub fn seats(&self, stage: Stage) -> impl Iterator<Item = Seat> {
        self.seats.iter().copied().filter(move |seat| seat.stage == stage)
    }

    /// The first seat of a stage.
    ///
    /// # Panics
    /// Never for a plan of `plan`: every stage has a seat.
    pub fn seat(&self, stage: Stage) -> Seat {
        self.seats(stage).next().expect("every stage has a seat")
    }
}

/// Loops with one thread each that gain most from a core of their own, first.
const SINGLES: [Stage; 7] = [
    Stage::Execution,
    Stage::Wal,
    Stage::Ordering,
    Stage::Trie,
    Stage::MiniBlock,
    Stage::State,
    Stage::Block,
];
/// What stays together on a shared core, and its weight in thousandths of a busy core. The stages
/// of one bundle work one after another, so they seldom wait for each other.
const BUNDLES: [(&[Stage], u32); 4] = [
    (&[Stage::Execution, Stage::Ordering, Stage::MiniBlock], 180),
    (&[Stage::Trie, Stage::Block], 170),
    (&[Stage::Checkpoint], 110),
    (&[Stage::Wal, Stage::State], 60),
];
/// Threads of a stage at most, where nobody asked for more.
const SEATS_AUTO_MAX: usize = 16;
const SHARED_RPC_SEATS_MAX: usize = 4;
/// Below this many physical cores SMT siblings count as places.
const FEW_CORES: usize = 4;
/// From here on every loop of the hot path is alone.
const HOT_CORES_FULL: usize = 16;

/// A processor that may be given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    node: usize,
    physical: usize,
    processor: usize,
}

/// Gives every stage its seats. The same input gives the same plan.
pub fn plan(machine: &Machine, wants: &Wants) -> Plan {
    let (hot, far, mut notes) = places(machine);
    let mut taken: Vec<(Stage, Place)> = Vec::new();
    let dedicated = dedicated_count(hot.len());
    let (shared, own) = hot.split_at(hot.len() - dedicated);
    taken.extend(SINGLES.iter().copied().zip(own.iter().copied()));
    if dedicated == SINGLES.len() {
        seat_many_cores(shared, &far, wants, &mut taken);
    } else {
        seat_few_cores(shared, &far, wants, &mut taken);
        notes.push(format!(
            "{} of {} loops of the hot path have a core of their own; all do from {} cores on",
            dedicated,
            SINGLES.len(),
            HOT_CORES_FULL,
        ));
    }
    Plan { seats: numbered(taken), notes }
}

/// Cores for single loops: all of them, or as many as leave half and one for the rest.
fn dedicated_count(hot: usize) -> usize {
    (hot / 2).saturating_sub(1).min(SINGLES.len())
}

const _: () = assert!(HOT_CORES_FULL / 2 - 1 == SINGLES.len());

/// The places on the hot node, those on other nodes, and what limited them.
fn places(machine: &Machine) -> (Vec<Place>, Vec<Place>, Vec<String>) {
    let mut notes = Vec::new();
    let siblings_count = machine.cores() < FEW_CORES;
    let hot_node = machine.nodes.iter().rev().max_by_key(|node| node.cores.len());
    let hot_number = hot_node.map_or(0, |node| node.number);
    let (mut hot, mut far) = (Vec::new(), Vec::new());
    for node in &machine.nodes {
        let side = if node.number == hot_number { &mut hot } else { &mut far };
        for core in &node.cores {
            let used = if siblings_count { core.processors.len() } else { 1 };
            side.extend(core.processors.iter().take(used).map(|processor| Place {
                node: node.number,
                physical: core.number,
                processor: *processor,
            }));
        }
    }
    if let Some(quota) = machine.cores_quota
        && quota < hot.len() + far.len()
    {
        notes.push(format!(
            "a cgroup grants the time of {quota} cores, so {} of {} stay unused",
            hot.len() + far.len() - quota,
            hot.len() + far.len(),
        ));
        hot.truncate(quota);
        far.truncate(quota - hot.len());
    }
    if siblings_count && machine.processors() > machine.cores() {
        notes.push("few cores: SMT siblings are used as places".to_owned());
    }
    (hot, far, notes)
}

/// Ingress and RPC get cores of their own; checkpoints and the archive share one.
fn seat_many_cores(
    shared: &[Place],
    far: &[Place],
    wants: &Wants,
    taken: &mut Vec<(Stage, Place)>,
) {
    let (background, free) = shared.split_at(1);
    taken.push((Stage::Checkpoint, background[0]));
    if far.is_empty() {
        // Recovery of senders costs more than the socket and JSON, and than execution ahead: half
        // of the cores to a quarter each.
        let quarter = (free.len() / 4).clamp(1, SEATS_AUTO_MAX);
        let (rpc_cores, rest) = free.split_at(quarter);
        let (lane_cores, ingress_cores) = rest.split_at(quarter);
        spread(Stage::Rpc, wants.rpc.unwrap_or(quarter), rpc_cores, taken);
        spread(Stage::Lane, wants.lanes.unwrap_or(quarter), lane_cores, taken);
        let ingress = ingress_cores.len().min(SEATS_AUTO_MAX);
        spread(Stage::Ingress, wants.ingress.unwrap_or(ingress), ingress_cores, taken);
        taken.push((Stage::Archive, background[0]));
    } else {
        let lanes = (free.len() / 4).clamp(1, SEATS_AUTO_MAX);
        let (lane_cores, ingress_cores) = free.split_at(lanes);
        spread(Stage::Lane, wants.lanes.unwrap_or(lanes), lane_cores, taken);
        let ingress = ingress_cores.len().min(SEATS_AUTO_MAX);
        spread(Stage::Ingress, wants.ingress.unwrap_or(ingress), ingress_cores, taken);
        seat_far(far, wants, taken);
    }
}

/// What is not alone: one ingress seat a shared core, and the bundles by weight.
fn seat_few_cores(shared: &[Place], far: &[Place], wants: &Wants, taken: &mut Vec<(Stage, Place)>) {
    spread(Stage::Ingress, wants.ingress.unwrap_or(shared.len()), shared, taken);
    let mut loads = vec![0_u32; shared.len()];
    for (stages, weight) in BUNDLES {
        let lightest = loads.iter().enumerate().min_by_key(|(_, load)| **load);
        let index = lightest.map_or(0, |(index, _)| index);
        loads[index] += weight;
        for stage in stages {
            if !taken.iter().any(|(seated, _)| seated == stage) {
                taken.push((*stage, shared[index]));
            }
        }
    }
    seat_few_lanes(shared, wants, taken);
    if far.is_empty() {
        let rpc = shared.len().min(SHARED_RPC_SEATS_MAX);
        spread(Stage::Rpc, wants.rpc.unwrap_or(rpc), shared, taken);
        taken.push((Stage::Archive, shared[shared.len() - 1]));
    } else {
        seat_far(far, wants, taken);
    }
}

/// A lane on each shared core but that of execution; on that where there is no other.
fn seat_few_lanes(shared: &[Place], wants: &Wants, taken: &mut Vec<(Stage, Place)>) {
    let own = taken.iter().find(|(stage, _)| *stage == Stage::Execution).map(|(_, place)| *place);
    let others: Vec<Place> = shared.iter().copied().filter(|place| Some(*place) != own).collect();
    let places = if others.is_empty() { shared } else { &others };
    spread(Stage::Lane, wants.lanes.unwrap_or(places.len()), places, taken);
}

/// The archive on the first core of the other nodes, RPC on the rest.
fn seat_far(far: &[Place], wants: &Wants, taken: &mut Vec<(Stage, Place)>) {
    let rpc_cores = if far.len() > 1 { &far[1..] } else { far };
    let rpc = rpc_cores.len().min(SEATS_AUTO_MAX);
    spread(Stage::Rpc, wants.rpc.unwrap_or(rpc), rpc_cores, taken);
    taken.push((Stage::Archive, far[0]));
}

fn spread(stage: Stage, count: usize, places: &[Place], taken: &mut Vec<(Stage, Place)>) {
    taken.extend(places.iter().cycle().take(count.max(1)).map(|place| (stage, *place)));
}

/// Seats in the order of the stages, each told whether it is alone on its physical core.
fn numbered(mut taken: Vec<(Stage, Place)>) -> Vec<Seat> {
    taken.sort_by_key(|(stage, _)| *stage); // Stable: a stage's places stay in order.
    let mut company = BTreeMap::<(usize, usize), usize>::new();
    for (_, place) in &taken {
        *company.entry((place.node, place.physical)).or_default() += 1;
    }
    let mut counts = BTreeMap::<Stage, usize>::new();
    let seats = taken.into_iter().map(|(stage, place)| {
        let count = counts.entry(stage).or_default();
        let index = *count;
        *count += 1;
        let dedicated = company[&(place.node, place.physical)] == 1;
        Seat { stage, index, core: place.processor, node: place.node, dedicated }
    });
    seats.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::hardware::{Core, Node};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn machine(nodes: &[usize], threads: usize, cores_quota: Option<usize>) -> Machine {
        let mut next = 0;
        let nodes = nodes.iter().enumerate().map(|(number, cores)| {
            let cores = (0..*cores).map(|_| {
                let first = next * threads;
                next += 1;
                Core { number: next - 1, processors: (first..first + threads).collect() }
            });
            Node { number, memory_bytes: 1 << 30, cores: cores.collect() }
        });
        Machine { nodes: nodes.collect(), cores_quota, is_this_system: false }
    }

    fn check(machine: &Machine, wants: &Wants) {
        let plan = plan(machine, wants);
        assert_eq!(plan, super::plan(machine, wants), "deterministic");
        let core_of = |seat: &Seat| {
            let node = machine.nodes.iter().find(|node| node.number == seat.node).unwrap();
            let mut cores = node.cores.iter();
            cores.find(|core| core.processors.contains(&seat.core)).unwrap().number
        };
        for stage in Stage::ALL {
            let indices: Vec<_> = plan.seats(stage).map(|seat| seat.index).collect();
            assert!(!indices.is_empty(), "{stage:?} has no seat");
            assert_eq!(indices, (0..indices.len()).collect::<Vec<_>>());
            let many = matches!(stage, Stage::Rpc | Stage::Ingress | Stage::Lane);
            assert!(many || indices.len() == 1, "{stage:?} has {} seats", indices.len());
        }
        for seat in &plan.seats {
            let company = plan.seats.iter().filter(|other| core_of(other) == core_of(seat)).count();
            assert_eq!(seat.dedicated, company == 1, "{seat:?}");
        }
        let hot = |stage| !matches!(stage, Stage::Rpc | Stage::Archive);
        let hot_nodes: BTreeSet<_> =
            plan.seats.iter().filter(|seat| hot(seat.stage)).map(|seat| seat.node).collect();
        assert_eq!(hot_nodes.len(), 1, "the hot path is on {hot_nodes:?}");
        let used: BTreeSet<_> = plan.seats.iter().map(|seat| seat.core).collect();
        if let Some(quota) = machine.cores_quota {
            assert!(used.len() <= quota, "{} processors of {quota}", used.len());
        }
        if let Some(rpc) = wants.rpc {
            assert_eq!(plan.seats(Stage::Rpc).count(), rpc);
        }
        if let Some(ingress) = wants.ingress {
            assert_eq!(plan.seats(Stage::Ingress).count(), ingress);
        }
        if let Some(lanes) = wants.lanes {
            assert_eq!(plan.seats(Stage::Lane).count(), lanes);
        }
    }

    proptest! {
        #[test]
        fn every_machine_has_a_sound_plan(
            nodes in prop::collection::vec(1_usize..70, 1..5),
            threads in 1_usize..3,
            quota in prop::option::of(1_usize..40),
            rpc in prop::option::of(1_usize..65),
            ingress in prop::option::of(1_usize..65),
            lanes in prop::option::of(1_usize..65),
        ) {
            check(&machine(&nodes, threads, quota), &Wants { rpc, ingress, lanes });
        }
    }

    #[test]
    fn usual_machines_need_no_configuration() {
        let usual = [&[1_usize][..], &[2], &[4], &[8], &[16], &[128], &[64, 64], &[2, 2], &[1, 1]];
        for nodes in usual {
            for threads in [1, 2] {
                check(&machine(nodes, threads, None), &Wants::default());
            }
        }
    }

    #[test]
    fn on_two_cores_all_share_and_both_recover_senders() {
        let plan = plan(&machine(&[2], 1, None), &Wants::default());
        assert!(plan.seats.iter().all(|seat| !seat.dedicated));
        let ingress: Vec<_> = plan.seats(Stage::Ingress).map(|seat| seat.core).collect();
        assert_eq!(ingress, [0, 1]);
        let lanes: Vec<_> = plan.seats(Stage::Lane).map(|seat| seat.core).collect();
        assert_eq!(lanes, [1 - plan.seat(Stage::Execution).core]);
        assert_eq!(plan.seat(Stage::Execution).core, plan.seat(Stage::Ordering).core);
        assert_ne!(plan.seat(Stage::Execution).core, plan.seat(Stage::Trie).core);
    }

    #[test]
    fn one_core_with_two_threads_is_two_places_but_never_dedicated() {
        let plan = plan(&machine(&[1], 2, None), &Wants::default());
        let cores: BTreeSet<_> = plan.seats.iter().map(|seat| seat.core).collect();
        assert_eq!(cores.len(), 2);
        assert!(plan.seats.iter().all(|seat| !seat.dedicated));
    }

    #[test]
    fn on_sixteen_cores_every_loop_of_the_hot_path_is_alone() {
        let plan = plan(&machine(&[16], 2, None), &Wants::default());
        for stage in SINGLES {
            assert!(plan.seat(stage).dedicated, "{stage:?}");
        }
        assert!(plan.seats(Stage::Ingress).all(|seat| seat.dedicated));
        assert!(plan.seats(Stage::Lane).all(|seat| seat.dedicated));
        let count = |stage| plan.seats(stage).count();
        assert_eq!([Stage::Rpc, Stage::Ingress, Stage::Lane].map(count), [2, 4, 2]);
    }

    #[test]
    fn with_two_nodes_rpc_is_on_the_other() {
        let plan = plan(&machine(&[64, 64], 2, None), &Wants::default());
        assert!(plan.seats(Stage::Rpc).all(|seat| seat.node == 1));
        assert_eq!(plan.seat(Stage::Execution).node, 0);
    }

    #[test]
    fn a_quota_counts_as_cores() {
        let plan = plan(&machine(&[16], 1, Some(2)), &Wants::default());
        let cores: BTreeSet<_> = plan.seats.iter().map(|seat| seat.core).collect();
        assert_eq!(cores.len(), 2);
        assert!(plan.notes[0].contains("2 cores"), "{:?}", plan.notes);
    }
}
