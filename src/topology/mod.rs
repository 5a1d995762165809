//! Which thread runs on which core: the machine as hwlocality sees it, and a plan made from it.
//!
//! Input: the machine (or `HWLOC_XMLFILE`), cgroup limits and the config. Output: a `Plan`, one
//! seat a stage. `plan` is pure: any machine can be planned on any other.

pub mod seat;
pub mod hardware;
pub mod plan;
pub mod show;
pub mod arguments;
pub mod applied;
