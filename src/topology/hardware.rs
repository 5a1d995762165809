//! The machine: its nodes, cores and logical processors, as far as this process may use them.

use hwlocality::{Topology, object::types::ObjectType, topology::builder::BuildFlags};
use serde::Serialize;
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// What of a machine matters for seats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// NUMA nodes with at least one usable core, by number.
    pub nodes: Vec<Node>,
    /// Whole cores' worth of time that a cgroup grants; `None` without a limit.
    pub cores_quota: Option<usize>,
    /// Threads can be bound here; false for a machine read from XML.
    pub is_this_system: bool,
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// As Linux numbers it.
    pub number: usize,
    /// Bytes.
    pub memory_bytes: u64,
    /// In hwloc's order.
    pub cores: Vec<Core>,
}

/// A physical core.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Core {
    /// Counted over the machine, as hwloc does.
    pub number: usize,
    /// Logical processors as Linux numbers them: one, or its SMT siblings.
    pub processors: Vec<usize>,
}

/// Why the machine could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HardwareError {
    /// The file of `HWLOC_XMLFILE` is not a machine.
    #[error("HWLOC_XMLFILE={file}: {error}; name a file of `lstopo --of xml`, or unset it")]
    Xml {
        /// The variable's value.
        file: String,
        /// The library's words.
        error: String,
    },
    /// A synthetic description is not a machine.
    #[error("synthetic machine {description:?}: {error}; see hwloc(7)")]
    Synthetic {
        /// As it was given.
        description: String,
        /// The library's words.
        error: String,
    },
    /// hwloc failed.
    #[error("hwloc cannot read this machine: {0}; set HWLOC_XMLFILE to a description of it")]
    Native(String),
    /// No core may be used.
    #[error("no core may be used; widen the cpuset of this process's cgroup")]
    NoCores,
}

impl Machine {
    /// This machine as far as affinity and cgroups let this process use it, or the one that
    /// `HWLOC_XMLFILE` describes. To be called before any thread is pinned.
    ///
    /// # Errors
    /// Where hwloc cannot read it.
    pub fn read() -> Result<Self, HardwareError> {
        match env::var_os("HWLOC_XMLFILE") {
            Some(file) => Self::from_xml_file(Path::new(&file)),
            None => Self::native(BuildFlags::RESTRICT_CPU_TO_THIS_PROCESS),
        }
    }

    /// The same with all processors that the kernel has, isolated ones too, which a process is not
    /// given unasked.
    ///
    /// # Errors
    /// Where hwloc cannot read it.
    pub fn read_whole() -> Result<Self, HardwareError> {
        match env::var_os("HWLOC_XMLFILE") {
            Some(file) => Self::from_xml_file(Path::new(&file)),
            None => Self::native(BuildFlags::empty()),
        }
    }

    /// The machine that a file of `lstopo --of xml` describes.
    ///
    /// # Errors
    /// Where the file describes none.
    pub fn from_xml_file(file: &Path) -> Result<Self, HardwareError> {
        let name = file.display().to_string();
        let fault = |error: String| HardwareError::Xml { file: name.clone(), error };
        // hwloc itself would fall back to this machine, in silence.
        fs::metadata(file).map_err(|error| fault(error.to_string()))?;
        let builder = Topology::builder();
        let builder = builder.from_xml_file(file).map_err(|error| fault(error.to_string()))?;
        let topology = builder.build().map_err(|error| fault(error.to_string()))?;
        Self::from_topology(&topology, None)
    }

    /// A machine in hwloc's synthetic notation, such as `node:2 core:4 pu:2`.
    ///
    /// # Errors
    /// Where the notation is wrong.
    pub fn synthetic(description: &str) -> Result<Self, HardwareError> {
        let fault = |error: String| {
            let description = description.to_owned();
            HardwareError::Synthetic { description, error }
        };
        let builder = Topology::builder();
        let builder = builder.from_synthetic(description).map_err(|e| fault(e.to_string()))?;
        let topology = builder.build().map_err(|error| fault(error.to_string()))?;
        Self::from_topology(&topology, None)
    }

    fn native(restriction: BuildFlags) -> Result<Self, HardwareError> {
        let fault = |error: &dyn std::fmt::Display| HardwareError::Native(error.to_string());
        let flags = BuildFlags::ASSUME_THIS_SYSTEM | restriction;
        let builder = Topology::builder().with_flags(flags).map_err(|error| fault(&error))?;
        let topology = builder.build().map_err(|error| fault(&error))?;
        Self::from_topology(&topology, cgroup_cores_quota())
    }

    fn from_topology(topology: &Topology, quota: Option<usize>) -> Result<Self, HardwareError> {
        let mut nodes: Vec<Node> = topology
            .objects_with_type(ObjectType::NUMANode)
            .map(|node| Node {
                number: node.os_index().unwrap_or(0),
                memory_bytes: node.total_memory(),
                cores: Vec::new(),
            })
            .collect();
        nodes.sort_by_key(|node| node.number);
        nodes.dedup_by_key(|node| node.number);
        for core in cores(topology) {
            // The first node is the one with the core's ordinary memory.
            let number = core.node.or_else(|| nodes.first().map(|node| node.number)).unwrap_or(0);
            let core = core.core;
            match nodes.iter_mut().find(|node| node.number == number) {
                Some(node) => node.cores.push(core),
                None => nodes.push(Node { number, memory_bytes: 0, cores: vec![core] }),
            }
        }
        nodes.retain(|node| !node.cores.is_empty());
        if nodes.is_empty() {
            return Err(HardwareError::NoCores);
        }
        Ok(Self { nodes, cores_quota: quota, is_this_system: topology.is_this_system() })
    }

    /// Physical cores on all nodes.
    pub fn cores(&self) -> usize {
        self.nodes.iter().map(|node| node.cores.len()).sum()
    }

    /// Logical processors on all nodes.
    pub fn processors(&self) -> usize {
        self.nodes.iter().flat_map(|node| &node.cores).map(|core| core.processors.len()).sum()
    }
}

struct PlacedCore {
    core: Core,
    node: Option<usize>,
}

/// The physical cores; where hwloc knows none (some virtual machines), each processor is one.
fn cores(topology: &Topology) -> Vec<PlacedCore> {
    let mut objects: Vec<_> = topology.objects_with_type(ObjectType::Core).collect();
    if objects.is_empty() {
        objects = topology.objects_with_type(ObjectType::PU).collect();
    }
    let placed = objects.into_iter().enumerate().filter_map(|(number, object)| {
        let processors = numbers(object.cpuset()?.iter_set().map(usize::from));
        let node = object.nodeset().and_then(|set| set.iter_set().map(usize::from).next());
        (!processors.is_empty()).then_some(PlacedCore { core: Core { number, processors }, node })
    });
    placed.collect()
}

fn numbers(all: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut all: Vec<usize> = all.collect();
    all.sort_unstable();
    all
}

/// Whole cores' worth of processor time that cgroups grant this process.
fn cgroup_cores_quota() -> Option<usize> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    let granted = cgroup_folders(&membership).into_iter().filter_map(|folder| {
        let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
        match read("cpu.max") {
            Some(max) => cores_of_cpu_max(&max),
            None => {
                let (quota, period) = (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?);
                cores_of_cpu_max(&format!("{} {}", quota.trim(), period.trim()))
            }
        }
    });
    granted.min()
}

/// The folders of a process's cgroup and of those above it, which limit it as well.
fn cgroup_folders(membership: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let root = match controllers {
            "" => Path::new("/sys/fs/cgroup").to_owned(),
            list if list.split(',').any(|name| name == "cpu") => {
                Path::new("/sys/fs/cgroup").join(list)
            }
            _ => continue,
        };
        let path = Path::new(path.trim_start_matches('/'));
        folders.extend(path.ancestors().map(|above| root.join(above)));
    }
    folders
}

/// The whole cores of `cpu.max`: quota and period in microseconds, `max` or -1 for no limit.
fn cores_of_cpu_max(text: &str) -> Option<usize> {
    let mut parts = text.split_whitespace();
    let quota: u64 = parts.next()?.parse().ok()?;
    let period: u64 = parts.next()?.parse().ok().filter(|period| *period > 0)?;
    // Rounded down: a seat that spins on half a core would be throttled.
    usize::try_from((quota / period).max(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_synthetic_machine_has_its_nodes_cores_and_siblings() {
        let machine = Machine::synthetic("node:2 core:4 pu:2").unwrap();
        assert_eq!((machine.nodes.len(), machine.cores(), machine.processors()), (2, 8, 16));
        assert!(!machine.is_this_system);
        assert_eq!(machine.nodes[1].number, 1);
        assert_eq!(machine.nodes[1].cores.len(), 4);
        assert!(machine.nodes[0].cores.iter().all(|core| core.processors.len() == 2));
        let error = Machine::synthetic("nonsense").unwrap_err().to_string();
        assert!(error.contains("nonsense"), "{error}");
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::native(BuildFlags::RESTRICT_CPU_TO_THIS_PROCESS).unwrap();
        assert!(machine.cores() >= 1 && machine.is_this_system);
        let whole = Machine::native(BuildFlags::empty()).unwrap();
        assert!(whole.processors() >= machine.processors());
    }

    #[test]
    fn a_missing_xml_file_is_named() {
        let error = Machine::from_xml_file(Path::new("/nowhere.xml")).unwrap_err().to_string();
        assert!(error.contains("HWLOC_XMLFILE=/nowhere.xml"), "{error}");
    }

    #[test]
    fn a_quota_is_counted_in_whole_cores() {
        assert_eq!(cores_of_cpu_max("max 100000\n"), None);
        assert_eq!(cores_of_cpu_max("-1 100000"), None);
        assert_eq!(cores_of_cpu_max("250000 100000"), Some(2));
        assert_eq!(cores_of_cpu_max("50000 100000"), Some(1));
        assert_eq!(cores_of_cpu_max("50000 0"), None);
    }

    #[test]
    fn limits_of_all_cgroups_above_count() {
        let folders = cgroup_folders("0::/a/b\n5:memory:/m\n4:cpu,cpuacct:/c\n");
        let shown: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        assert_eq!(
            shown,
            [
                "/sys/fs/cgroup/a/b",
                "/sys/fs/cgroup/a",
                "/sys/fs/cgroup/",
                "/sys/fs/cgroup/cpu,cpuacct/c",
                "/sys/fs/cgroup/cpu,cpuacct/",
            ]
        );
    }
}
