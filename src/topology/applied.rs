//! Which of the arguments hold on the running kernel, read back from where it tells.

use crate::topology::arguments::{Arguments, numbers, ranges};
use serde::Serialize;
use std::{collections::BTreeSet, fs, path::Path};

/// One thing that was asked for, and what holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// The argument.
    pub argument: String,
    /// What the plan asks for.
    pub required: String,
    /// What the kernel tells.
    pub current: String,
    /// They agree.
    pub holds: bool,
}

/// Reads all of them below `root`, which is `/` but for tests.
pub fn readings(arguments: &Arguments, root: &Path) -> Vec<Reading> {
    let isolated: BTreeSet<usize> = arguments.isolated.iter().copied().collect();
    let told = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let line = told("proc/cmdline");
    let word = |name: &str| {
        let mut words = line.split_whitespace().filter_map(|word| word.strip_prefix(name));
        words.next_back().unwrap_or_default().to_owned()
    };
    let lists = [
        ("isolcpus", told("sys/devices/system/cpu/isolated"), &isolated),
        ("nohz_full", told("sys/devices/system/cpu/nohz_full"), &isolated),
        // The kernel tells this one nowhere but on its command line.
        ("rcu_nocbs", word("rcu_nocbs="), &isolated),
    ];
    let mut all: Vec<_> =
        lists.map(|(name, list, wanted)| list_reading(name, &list, wanted)).into();
    let interrupts = told("proc/irq/default_smp_affinity");
    let housekeeping = arguments.housekeeping.iter().copied().collect();
    all.push(Reading {
        argument: "irqaffinity".to_owned(),
        required: ranges(&arguments.housekeeping),
        current: mask(&interrupts).map_or("unknown".to_owned(), |set| listed(&set)),
        holds: mask(&interrupts).is_some_and(|set| set == housekeeping),
    });
    for pages in &arguments.huge_pages {
        let folder = format!("sys/devices/system/node/node{}/hugepages", pages.node);
        let current = told(&format!("{folder}/hugepages-2048kB/nr_hugepages")).trim().to_owned();
        all.push(Reading {
            argument: format!("hugepages of node {}", pages.node),
            required: pages.count.to_string(),
            holds: current.parse::<u64>().is_ok_and(|count| count >= pages.count),
            current: if current.is_empty() { "unknown".to_owned() } else { current },
        });
    }
    all
}

fn list_reading(name: &str, list: &str, wanted: &BTreeSet<usize>) -> Reading {
    // A kernel without the feature has no file, one without the argument says nothing or "(null)".
    let current = numbers(list).unwrap_or_default();
    Reading {
        argument: name.to_owned(),
        required: listed(wanted),
        current: listed(&current),
        holds: current == *wanted,
    }
}

fn listed(set: &BTreeSet<usize>) -> String {
    let all: Vec<usize> = set.iter().copied().collect();
    if all.is_empty() { "none".to_owned() } else { ranges(&all) }
}

/// The processors of a mask as /proc/irq has it: groups of eight hexadecimal digits, lowest last.
fn mask(text: &str) -> Option<BTreeSet<usize>> {
    let digits: String = text.trim().split(',').collect();
    if digits.is_empty() {
        return None;
    }
    let mut all = BTreeSet::new();
    for (place, digit) in digits.chars().rev().enumerate() {
        let bits = digit.to_digit(16)?;
        all.extend((0..4).filter(|bit| bits >> bit & 1 == 1).map(|bit| place * 4 + bit));
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::arguments::HugePages;

    #[test]
    fn what_holds_is_told_from_what_does_not() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("proc/cmdline", "ro rcu_nocbs=1 rcu_nocbs=2-3\n");
        put("proc/irq/default_smp_affinity", "3\n");
        put("sys/devices/system/cpu/isolated", "2-3\n");
        put("sys/devices/system/cpu/nohz_full", "(null)\n");
        let pages = "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages";
        put(pages, "511\n");
        let arguments = Arguments {
            isolated: vec![2, 3],
            housekeeping: vec![0, 1],
            huge_pages: vec![HugePages { node: 0, count: 512 }],
            notes: Vec::new(),
        };
        let holds = || {
            let all = readings(&arguments, root.path());
            all.into_iter().filter(|it| it.holds).map(|it| it.argument).collect::<Vec<_>>()
        };
        assert_eq!(holds(), ["isolcpus", "rcu_nocbs", "irqaffinity"]);
        put("sys/devices/system/cpu/nohz_full", "2-3\n");
        put(pages, "512\n");
        assert_eq!(holds().len(), 5);
        let bare = tempfile::tempdir().unwrap();
        assert!(readings(&arguments, bare.path()).iter().all(|reading| !reading.holds));
    }

    #[test]
    fn masks_are_read_in_groups() {
        assert_eq!(
            mask("00000001,00000003\n").unwrap().into_iter().collect::<Vec<_>>(),
            [0, 1, 32]
        );
        assert_eq!(mask(""), None);
        assert_eq!(mask("xyz"), None);
    }
}
