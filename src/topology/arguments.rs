//! Kernel arguments for a machine, from the plan that seats the threads: cores that nothing else
//! runs on, and memory in huge pages. Pure; which of them hold is read in `applied`.
//!
//! 1. A core is isolated where one loop of a transaction's path sits alone on it, with all of its
//!    SMT siblings. RPC, checkpoints and the archive sleep and call the kernel: theirs are not.
//! 2. The core of processor 0 is never isolated: the kernel keeps the time there.
//! 3. Huge pages are reserved on the node of the path, where they take an eighth of its memory at
//!    most.

use crate::topology::hardware::{Core, Machine};
use crate::topology::plan::Plan;
use crate::topology::seat::{Seat, Stage};
use serde::Serialize;
use std::collections::BTreeSet;

/// Huge pages are reserved in the allocator's unit: it asks for that much at a time or for none.
const HUGE_UNIT_BYTES: u64 = 1 << 30;
/// What x86-64 calls a huge page.
const HUGE_PAGE_BYTES: u64 = 2 << 20;
/// Part of a node's memory that huge pages may take.
const HUGE_SHARE: u64 = 8;

/// What the kernel is to be told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Arguments {
    /// Processors that the scheduler, ticks, RCU and interrupts leave alone.
    pub isolated: Vec<usize>,
    /// All others.
    pub housekeeping: Vec<usize>,
    /// Pages of 2 MiB on each node.
    pub huge_pages: Vec<HugePages>,
    /// Why it is no more.
    pub notes: Vec<String>,
}

/// Huge pages of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HugePages {
    /// As Linux numbers it.
    pub node: usize,
    /// Of 2 MiB.
    pub count: u64,
}

/// The arguments that a plan asks for; `memory_bytes` is what the node is to keep in huge pages.
pub fn arguments(machine: &Machine, plan: &Plan, memory_bytes: u64) -> Arguments {
    let cores = || machine.nodes.iter().flat_map(|node| &node.cores);
    let mut notes = Vec::new();
    let isolated: BTreeSet<usize> = cores()
        .filter(|core| is_isolated(core, plan))
        .flat_map(|core| core.processors.iter().copied())
        .collect();
    let all = cores().flat_map(|core| core.processors.iter().copied());
    let all: BTreeSet<usize> = all.collect();
    let housekeeping: Vec<usize> = all.difference(&isolated).copied().collect();
    if isolated.is_empty() || housekeeping.is_empty() {
        notes.push(format!(
            "nothing is isolated: with {} no loop of the path has a core of its own",
            counted(machine.cores())
        ));
        let housekeeping = all.into_iter().collect();
        return Arguments { housekeeping, notes, ..Arguments::default() };
    }
    let huge_pages = huge_pages(machine, plan.seat(Stage::Execution), memory_bytes, &mut notes);
    Arguments { isolated: isolated.into_iter().collect(), housekeeping, huge_pages, notes }
}

fn is_isolated(core: &Core, plan: &Plan) -> bool {
    let on_path = |stage| !matches!(stage, Stage::Rpc | Stage::Checkpoint | Stage::Archive);
    let mut seats = plan.seats.iter().filter(|seat| core.processors.contains(&seat.core));
    let alone = seats.next().is_some_and(|seat| seat.dedicated && on_path(seat.stage));
    alone && !core.processors.contains(&0)
}

fn huge_pages(
    machine: &Machine,
    hot: Seat,
    memory_bytes: u64,
    notes: &mut Vec<String>,
) -> Vec<HugePages> {
    let bytes = memory_bytes.div_ceil(HUGE_UNIT_BYTES).saturating_mul(HUGE_UNIT_BYTES);
    let node = machine.nodes.iter().find(|node| node.number == hot.node);
    let held = node.map_or(0, |node| node.memory_bytes);
    if bytes > held / HUGE_SHARE {
        notes.push(format!(
            "no huge pages: {} MiB are more than an eighth of the {} MiB of node {}",
            bytes >> 20,
            held >> 20,
            hot.node
        ));
        return Vec::new();
    }
    vec![HugePages { node: hot.node, count: bytes / HUGE_PAGE_BYTES }]
}

impl Arguments {
    /// As they stand on the kernel's command line; nothing where nothing is isolated.
    pub fn line(&self) -> String {
        let mut words = Vec::new();
        if !self.isolated.is_empty() {
            let isolated = ranges(&self.isolated);
            words.push(format!("isolcpus=managed_irq,domain,{isolated}"));
            words.push(format!("nohz_full={isolated}"));
            words.push(format!("rcu_nocbs={isolated}"));
            words.push(format!("irqaffinity={}", ranges(&self.housekeeping)));
        }
        if !self.huge_pages.is_empty() {
            let pages = self.huge_pages.iter().map(|it| format!("{}:{}", it.node, it.count));
            words.push("hugepagesz=2M".to_owned());
            words.push(format!("hugepages={}", pages.collect::<Vec<_>>().join(",")));
        }
        words.join(" ")
    }
}

/// Numbers in ascending order as Linux lists processors: `1-3,7`.
pub fn ranges(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let shown = runs.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    shown.collect::<Vec<_>>().join(",")
}

/// The numbers of such a list; `None` where it is none.
pub fn numbers(list: &str) -> Option<BTreeSet<usize>> {
    let mut all = BTreeSet::new();
    for run in list.trim().split(',').filter(|run| !run.is_empty()) {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        all.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(all)
}

fn counted(cores: usize) -> String {
    if cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::plan::{Wants, plan};
    use proptest::prelude::*;

    const NEEDED: u64 = 448 << 20;

    fn of(description: &str) -> Arguments {
        let machine = Machine::synthetic(description).unwrap();
        let plan = plan(&machine, &Wants::default());
        arguments(&machine, &plan, NEEDED)
    }

    #[test]
    fn on_two_cores_nothing_is_isolated() {
        let arguments = of("node:1 core:2 pu:1");
        assert_eq!(arguments.line(), "");
        assert_eq!(arguments.housekeeping, [0, 1]);
        assert!(arguments.notes[0].starts_with("nothing is isolated: with 2 cores"));
    }

    #[test]
    fn on_sixteen_cores_the_path_is_isolated_with_its_siblings() {
        // hwloc numbers a core's processors next to each other in its synthetic machines.
        let arguments = of("node:1(memory=64GB) core:16 pu:2");
        assert_eq!(
            arguments.line(),
            "isolcpus=managed_irq,domain,6-31 nohz_full=6-31 rcu_nocbs=6-31 irqaffinity=0-5 \
             hugepagesz=2M hugepages=0:512"
        );
    }

    #[test]
    fn huge_pages_are_on_the_node_of_the_path_and_never_most_of_it() {
        let arguments = of("node:2(memory=64GB) core:16 pu:1");
        assert_eq!(arguments.huge_pages, [HugePages { node: 0, count: 512 }]);
        let arguments = of("node:2(memory=4GB) core:16 pu:1");
        assert!(arguments.huge_pages.is_empty());
        assert!(arguments.notes[0].contains("no huge pages: 1024 MiB"), "{:?}", arguments.notes);
    }

    proptest! {
        #[test]
        fn the_arguments_agree_with_the_plan(
            nodes in 1_usize..4, cores in 1_usize..40, threads in 1_usize..3,
            rpc in prop::option::of(1_usize..65), ingress in prop::option::of(1_usize..65),
        ) {
            let description = format!("node:{nodes}(memory=64GB) core:{cores} pu:{threads}");
            let machine = Machine::synthetic(&description).unwrap();
            let plan = plan(&machine, &Wants { rpc, ingress, lanes: None });
            let arguments = arguments(&machine, &plan, NEEDED);
            let isolated: BTreeSet<_> = arguments.isolated.iter().copied().collect();
            let rest: BTreeSet<_> = arguments.housekeeping.iter().copied().collect();
            prop_assert!(isolated.is_disjoint(&rest));
            prop_assert_eq!(isolated.len() + rest.len(), machine.processors());
            prop_assert!(rest.contains(&0), "the kernel keeps time on processor 0");
            for core in machine.nodes.iter().flat_map(|node| &node.cores) {
                let inside = core.processors.iter().filter(|it| isolated.contains(it)).count();
                prop_assert!(inside == 0 || inside == core.processors.len(), "half a core");
            }
            for seat in &plan.seats {
                let spins = seat.dedicated && isolated.contains(&seat.core);
                let sleeps = matches!(seat.stage, Stage::Rpc | Stage::Checkpoint | Stage::Archive);
                prop_assert!(!isolated.contains(&seat.core) || (spins && !sleeps), "{seat:?}");
            }
            prop_assert_eq!(numbers(&ranges(&arguments.isolated)).unwrap(), isolated.clone());
            prop_assert_eq!(arguments.line().is_empty(), isolated.is_empty());
            prop_assert_eq!(arguments.notes.is_empty(), !isolated.is_empty());
        }

        #[test]
        fn any_list_of_processors_is_read_as_it_is_written(
            all in prop::collection::btree_set(0_usize..300, 0..40),
        ) {
            let listed: Vec<_> = all.iter().copied().collect();
            prop_assert_eq!(numbers(&ranges(&listed)), Some(all));
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        assert_eq!(numbers("(null)"), None);
        assert_eq!(numbers("\n").unwrap().len(), 0);
        assert_eq!(numbers("1-3,7\n").unwrap().len(), 4);
    }
}
