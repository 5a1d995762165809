//! What a machine that boots the image runs beside the node. The subcommands meet in
//! `/run/basalt` (`in_force`); an operator calls `update` and `reset`, systemd the
//! others; a request on the boot partition stands in for an operator who cannot log in.

pub mod in_force;
pub mod disk_state;
pub mod machine_settings;
pub mod boot_source;
pub mod sysctls;
pub mod boot_config;
pub mod network_files;
pub mod time_files;
pub mod boot_network;
pub mod time_state;
pub mod addon;
pub mod kernel_arguments;
pub mod maintenance;
pub mod health_gate;
pub mod console_facts;
pub mod console;
pub mod reset;
pub mod install;
pub mod fetch;
pub mod uki;
pub mod update_entries;
pub mod update_source;
pub mod update_machine;
pub mod update_schedule;
pub mod update;
pub mod support_redact;
pub mod support_seal;
pub mod support_parts;
pub mod support_bundle;
pub mod request_file;
pub mod request;
