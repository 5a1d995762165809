//! `basalt request`: carries out what an operator without a login asks for in a file on the boot
//! partition, once.
//!
//! 1. `request.toml` becomes `request.running.toml`  2. it is carried out  3. what became of it
//!    goes to `request.done.toml` and, as a line, to `request.log`; the running one is removed
//! 4. a restart, unless the request says no
//!
//! One that is still running at a boot was cut off by the power: it is told, not tried again.

use crate::cli::appliance::in_force;
use crate::cli::appliance::request_file::{Action, Asked, Files, Outcome, Word};
use crate::cli::appliance::reset::Reset;
use crate::cli::appliance::support_bundle;
use crate::cli::appliance::update::Means;
use crate::cli::appliance::update_machine::Machine;
use crate::cli::appliance::update_source::Source;
use crate::cli::{Output, say};
use clap::Args;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const EXAMPLES: &str = "\
Examples:
  basalt request                           at every boot of the appliance, by basalt-request.service

One of these in loader/basalt/request.toml on the ESP:
  update = \"https://mirror.example/basalt\"  the newest version from there, into the other slot
  version = \"1.2.0\"                         with it: this version
  rollback = true                           the version before
  reset = \"HOSTNAME\"                        wipes the data partition; the name is the host's own
  support_bundle = \"age1…\"                 an encrypted support bundle, beside this file
  restart = false                           with any: done, but the machine is not restarted

What became of it stands in loader/basalt/request.done.toml afterwards, and on the console.";

/// Seconds that a mirror may take to answer after a boot.
const NETWORK_WAIT_S: u64 = 120;

/// Arguments of `basalt request`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Request {
    #[command(flatten)]
    means: Means,
    #[command(flatten)]
    machine: Machine,
    /// Folder that the console reads what became of the last request from
    #[arg(long, value_name = "DIR", default_value = in_force::REQUEST_FOLDER)]
    told: PathBuf,
    /// The program that restarts the machine
    #[arg(long, value_name = "FILE", hide = true, default_value = "/usr/bin/systemctl")]
    systemctl: PathBuf,
}

impl Request {
    /// Takes the request, if there is one, and does it.
    ///
    /// # Errors
    /// Where the boot partition cannot be written. A request that is refused is no failure of this
    /// program: it is an outcome.
    pub fn run(self, output: &mut Output<'_>) -> Result<(), String> {
        let Some(files) = Files::find(&self.machine.esp) else { return Ok(()) };
        let before = files.cut_off(&self.machine.running())?;
        if let Some(outcome) = &before {
            self.tell(outcome, output)?;
        }
        let Some(taken) = files.take()? else {
            if let Some(outcome) = files.last().filter(|_| before.is_none()) {
                self.show(&outcome)?;
            }
            return Ok(());
        };
        say(output.out, &format!("taken: {}\n", taken.first_line()));
        let Self { means, machine, told, systemctl } = self;
        let means = means.waiting(NETWORK_WAIT_S);
        let asked = taken.asked();
        let done = asked
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|asked| carry_out(asked, (&means, &machine), files.folder(), output));
        let restarts = done.is_ok() && asked.is_ok_and(|asked| asked.restart);
        let outcome = taken.outcome(done, &machine.running());
        files.finish(&outcome)?;
        let this = Self { means, machine, told, systemctl };
        this.tell(&outcome, output)?;
        if restarts { this.restart() } else { Ok(()) }
    }

    fn tell(&self, outcome: &Outcome, output: &mut Output<'_>) -> Result<(), String> {
        let to = if outcome.result == Word::Done { &mut *output.out } else { &mut *output.err };
        say(to, &format!("{}\n", outcome.line()));
        self.show(outcome)
    }

    /// For the console, which cannot look into the boot partition.
    fn show(&self, outcome: &Outcome) -> Result<(), String> {
        let json = serde_json::to_vec_pretty(outcome).map_err(|error| error.to_string())?;
        fs::create_dir_all(&self.told).map_err(|error| at(&self.told, &error))?;
        in_force::put(&self.told.join(in_force::REQUEST), &json)
    }

    fn restart(&self) -> Result<(), String> {
        let mut command = Command::new(&self.systemctl);
        let status = command.args(["--no-block", "reboot"]).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("the machine is not restarted ({status}): switch it off")),
            Err(error) => Err(format!("{} (switch it off)", at(&self.systemctl, &error))),
        }
    }
}

fn carry_out(
    asked: &Asked,
    (means, machine): (&Means, &Machine),
    folder: &Path,
    output: &mut Output<'_>,
) -> Result<String, String> {
    match &asked.action {
        Action::Update { source, version } => {
            let source: Source = source.parse().unwrap_or_else(|never| match never {});
            let mut tell = |line: &str| say(output.out, line);
            means.apply(&source, version.as_deref(), machine, &mut tell)
        }
        Action::SupportBundle { recipient } => {
            support_bundle::to_esp(&machine.root, recipient, folder)
        }
        Action::Rollback => machine.rollback(),
        Action::Reset { hostname } => {
            let mut said = Vec::new();
            let mut output = Output { out: &mut said, err: &mut std::io::sink() };
            Reset::confirmed(hostname.clone(), machine.root.clone()).run(&mut output)?;
            Ok("the data partition is wiped at the next boot".to_owned())
        }
    }
}

fn at(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
