//! What a machine that boots the image runs beside the node. The subcommands meet in
//! `/run/basalt` (`in_force`); an operator calls `update` and `reset`, systemd the others.

pub mod in_force;
pub mod boot_source;
pub mod sysctls;
pub mod boot_config;
pub mod network_files;
pub mod time_files;
pub mod boot_network;
pub mod time_state;
pub mod maintenance;
pub mod health_gate;
pub mod console_facts;
pub mod console;
pub mod reset;
pub mod update_entries;
pub mod update_source;
pub mod update;
pub mod support_redact;
pub mod support_seal;
pub mod support_parts;
pub mod support_bundle;
