//! The command line: one file a subcommand. Nothing here runs a node: `dev` and `node` come back
//! as the configuration to run, everything else is answered at once.
//!
//! Exit codes: 0 done, 1 failed, 2 called wrongly.

pub mod dev;
pub mod node;
pub mod preflight;
pub mod start;
pub mod plan;
pub mod config;
pub mod status;
pub mod exposition;
pub mod data;
pub mod log;
pub mod scrub;
pub mod appliance;

use crate::config::overlay::{Effective, Flag, Sources};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{ffi::OsString, fs, io::Write, path::Path};

/// Done.
pub const EXIT_DONE: u8 = 0;
/// Failed.
pub const EXIT_FAILED: u8 = 1;
/// Called wrongly.
pub const EXIT_USAGE: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  basalt dev                               a chain on 127.0.0.1:8545 with ten funded accounts
  basalt dev --fresh --mini-block-ms 5     the same from genesis, mini-blocks every 5 ms
  basalt node --config basalt.toml         a chain with settings of your own
  basalt plan                              which thread runs on which core
  basalt config show                       every setting, its value and where it came from
  basalt status                            how the running node does

Exit codes: 0 done, 1 failed, 2 called wrongly.";

/// An Ethereum layer-2 node: durable mini-blocks every 10 ms, a sealed block every second.
#[derive(Debug, Parser)]
#[command(name = "basalt", version, after_help = EXAMPLES, term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Form of the log on standard error
    #[arg(long, global = true, value_enum, value_name = "FORM")]
    pub log_format: Option<LogFormat>,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// JSON for machines.
    Json,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a development chain with funded accounts
    Dev(Box<dev::Dev>),
    /// Run a node from a configuration file
    Node(node::Node),
    /// Show which thread gets which core
    Plan(plan::Plan),
    /// Check a configuration, or show the settings in force
    #[command(subcommand)]
    Config(config::Config),
    /// Show how the running node does, on one screen
    Status(status::Status),
    /// Bring an appliance to a newer version, or back to the one before
    #[command(subcommand)]
    Update(appliance::update::Update),
    /// Put a running image on a disk of this machine
    Install(appliance::install::Install),
    /// Wipe the data of an appliance at its next boot
    Reset(appliance::reset::Reset),
    /// Gather what somebody who helps needs to know, encrypted to your key
    SupportBundle(appliance::support_bundle::SupportBundle),
    /// Read a data folder from the disk itself, to find what rots
    Scrub(scrub::Scrub),
    /// Tell the initrd of an appliance what its configuration says about disks
    #[command(hide = true)]
    MachineSettings(appliance::machine_settings::MachineSettings),
    /// Find, check and put in force the configuration of an appliance
    #[command(hide = true)]
    BootConfig(appliance::boot_config::BootConfig),
    /// Put host name, links and time servers of an appliance in force
    #[command(hide = true)]
    BootNetwork(appliance::boot_network::BootNetwork),
    /// Tell how well the clock of an appliance is set
    #[command(hide = true)]
    TimeState(appliance::time_state::AskTime),
    /// Carry out what the operator of an appliance asks for on its boot partition
    #[command(hide = true)]
    Request(Box<appliance::request::Request>),
    /// Bring the plan's kernel arguments into force on an appliance
    #[command(hide = true)]
    KernelArguments(appliance::kernel_arguments::KernelArguments),
    /// Say why the node of an appliance does not run
    #[command(hide = true)]
    Maintenance(appliance::maintenance::Maintenance),
    /// Decide whether a boot of an appliance is a good one
    #[command(hide = true)]
    HealthGate(appliance::health_gate::HealthGate),
    /// Draw the status page of an appliance
    #[command(hide = true)]
    Console(appliance::console::Console),
}

/// What `main` has to do after `run`.
pub enum Outcome {
    /// Nothing: the answer is given.
    Exit(u8),
    /// Run a node.
    Start(Box<Start>),
}

/// A node to run.
pub struct Start {
    /// `basalt dev` or `basalt node`.
    pub kind: Kind,
    /// The settings in force.
    pub effective: Effective,
    /// Empty the data folder first.
    pub fresh: bool,
}

/// Which of the two commands starts the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// With funded accounts and a banner.
    Dev,
    /// As configured.
    Node,
}

/// A configuration file, for the commands that only look at it.
#[derive(Debug, Clone, Args)]
pub struct ConfigFile {
    /// Settings to lay over the defaults
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
}

/// Where answers and complaints go.
pub struct Output<'a> {
    /// Answers.
    pub out: &'a mut dyn Write,
    /// Complaints.
    pub err: &'a mut dyn Write,
}

/// Parses the command line and answers it, or says what node to run.
pub fn run(
    arguments: impl Iterator<Item = OsString>,
    environment: Vec<(String, String)>,
    mut output: Output<'_>,
) -> Outcome {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return Outcome::Exit(refuse_usage(&error, &mut output)),
    };
    let mut sources = Sources { environment, ..Sources::default() };
    if let Some(format) = arguments.log_format {
        let value = if format == LogFormat::Json { "json" } else { "text" };
        let value = value.to_owned();
        sources.flags.push(Flag { flag: "--log-format", key: "log.format", value });
    }
    let done = match arguments.command {
        Command::Dev(dev) => dev.start(sources).map(Some),
        Command::Node(node) => node.start(sources).map(Some),
        Command::Plan(plan) => plan.run(sources, &mut output).map(|()| None),
        Command::Config(config) => config.run(sources, &mut output).map(|()| None),
        Command::Status(status) => status.run(&mut output).map(|()| None),
        Command::Update(update) => update.run(&mut output).map(|()| None),
        Command::Install(install) => install.run(&mut output).map(|()| None),
        Command::Reset(reset) => reset.run(&mut output).map(|()| None),
        Command::SupportBundle(bundle) => bundle.run(&mut output).map(|()| None),
        Command::Scrub(scrub) => scrub.run(&mut output).map(|()| None),
        Command::MachineSettings(settings) => settings.run(&mut output).map(|()| None),
        Command::BootConfig(boot) => boot.run(&sources, &mut output).map(|()| None),
        Command::BootNetwork(boot) => boot.run(&sources, &mut output).map(|()| None),
        Command::TimeState(ask) => ask.run(&mut output).map(|()| None),
        Command::Request(request) => request.run(&mut output).map(|()| None),
        Command::KernelArguments(it) => it.run(sources, &mut output).map(|()| None),
        Command::Maintenance(it) => it.run(&mut output).map(|()| None),
        Command::HealthGate(gate) => gate.run(&mut output).map(|()| None),
        Command::Console(console) => console.run(&mut output).map(|()| None),
    };
    match done {
        Ok(Some(start)) => Outcome::Start(Box::new(start)),
        Ok(None) => Outcome::Exit(EXIT_DONE),
        Err(message) => Outcome::Exit(complain(&message, &mut output)),
    }
}

/// For `main`: the process's arguments and environment, answers on its standard streams.
pub fn run_process() -> Outcome {
    let environment = std::env::vars_os();
    let environment = environment
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    let output = Output { out: &mut out, err: &mut err };
    run(std::env::args_os(), environment.collect(), output)
}

fn refuse_usage(error: &clap::Error, output: &mut Output<'_>) -> u8 {
    let text = error.render();
    if error.use_stderr() {
        say(output.err, &text.to_string());
        EXIT_USAGE
    } else {
        say(output.out, &text.to_string());
        EXIT_DONE
    }
}

fn complain(message: &str, output: &mut Output<'_>) -> u8 {
    for line in message.lines() {
        say(output.err, &format!("error: {line}\n"));
    }
    EXIT_FAILED
}

/// Writes an answer. A reader that went away (`basalt plan | head`) is no failure.
fn say(to: &mut dyn Write, text: &str) {
    if let Err(error) = to.write_all(text.as_bytes()) {
        tracing::debug!(%error, "nobody reads the answer");
    }
}

/// Lays a file under the other sources.
///
/// # Errors
/// Where it cannot be read.
fn with_file(mut sources: Sources, file: Option<&str>) -> Result<Sources, String> {
    if let Some(file) = file {
        let text = fs::read_to_string(Path::new(file)).map_err(|error| {
            format!("{file}: cannot be read ({error}); name a readable configuration file")
        })?;
        sources.file = Some((file.to_owned(), text));
    }
    Ok(sources)
}
