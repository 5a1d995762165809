//! `basalt plan`: which thread gets which core, without starting anything.

use crate::cli::appliance::addon;
use crate::cli::{ConfigFile, Output, say, with_file};
use crate::config::overlay::{Sources, effective};
use crate::config::schema::Config;
use crate::topology::{
    applied::{Reading, readings},
    arguments::{Arguments, arguments},
    hardware::Machine,
    plan::{Wants, plan},
    show,
};
use clap::Args;
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};

const EXAMPLES: &str = "\
Examples:
  basalt plan
  basalt plan --json --config basalt.toml
  HWLOC_XMLFILE=server.xml basalt plan     the plan of another machine (lstopo --of xml)
  basalt plan --kernel-args                isolated cores and huge pages, for the command line
  basalt plan --kernel-args --check        do they hold on the running kernel?
  basalt plan --kernel-args --addon basalt-plan.addon.efi
                                           as an add-on for /loader/addons on the boot partition";

/// Arguments of `basalt plan`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Plan {
    #[command(flatten)]
    file: ConfigFile,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the kernel arguments that the plan asks for, and nothing else
    #[arg(long)]
    kernel_args: bool,
    /// Read back what holds on the running kernel; fails where it is not what the plan asks for
    #[arg(long, requires = "kernel_args")]
    check: bool,
    /// Write them as an add-on to a unified kernel image, unsigned
    #[arg(long, value_name = "FILE", requires = "kernel_args", conflicts_with = "check")]
    addon: Option<PathBuf>,
    /// The program that an add-on is made of; systemd's addonx64.efi.stub
    #[arg(long, value_name = "FILE", requires = "addon", default_value = addon::STUB)]
    stub: PathBuf,
}

impl Plan {
    /// Draws the plan, or prints what follows from it for the kernel.
    ///
    /// # Errors
    /// Where the configuration or the machine cannot be read, or the kernel does otherwise.
    pub fn run(self, sources: Sources, output: &mut Output<'_>) -> Result<(), String> {
        let sources = with_file(sources, self.file.config.as_deref())?;
        let config = effective(&sources).map_err(|error| error.to_string())?.config;
        let wants = Wants::from(&config.topology);
        if self.kernel_args {
            let machine = Machine::read_whole().map_err(|error| error.to_string())?;
            let arguments = arguments(&machine, &plan(&machine, &wants), in_huge_pages(&config));
            return match (self.check, &self.addon) {
                (true, _) => self.read_back(&arguments, output),
                (false, Some(file)) => self.write_addon(&arguments, file, output),
                (false, None) => self.print_arguments(&arguments, output),
            };
        }
        let machine = Machine::read().map_err(|error| error.to_string())?;
        let plan = plan(&machine, &wants);
        if self.json {
            say(output.out, &format!("{:#}\n", show::json(&machine, &plan)));
        } else {
            say(output.out, &show::text(&machine, &plan));
        }
        Ok(())
    }

    fn print_arguments(&self, it: &Arguments, output: &mut Output<'_>) -> Result<(), String> {
        for note in &it.notes {
            say(output.err, &format!("note: {note}\n"));
        }
        let line = it.line();
        if self.json {
            let value = json!({ "line": line, "arguments": it });
            say(output.out, &format!("{value:#}\n"));
        } else if !line.is_empty() {
            say(output.out, &format!("{line}\n"));
        }
        Ok(())
    }

    fn write_addon(
        &self,
        it: &Arguments,
        file: &Path,
        output: &mut Output<'_>,
    ) -> Result<(), String> {
        for note in &it.notes {
            say(output.err, &format!("note: {note}\n"));
        }
        let line = it.line();
        if line.is_empty() {
            return Err("the plan asks for no kernel arguments: no add-on is written".to_owned());
        }
        let shown = self.stub.display();
        let stub = fs::read(&self.stub).map_err(|error| {
            let remedy = "install Debian's package systemd-boot-efi, or name it with --stub";
            format!("{shown}: cannot be read ({error}); {remedy}")
        })?;
        let bytes = addon::addon(&stub, &line).map_err(|error| format!("{shown}: {error}"))?;
        fs::write(file, bytes)
            .map_err(|error| format!("{}: cannot be written ({error})", file.display()))?;
        say(output.out, &format!("{}: {line}\n", file.display()));
        Ok(())
    }

    fn read_back(&self, it: &Arguments, output: &mut Output<'_>) -> Result<(), String> {
        for note in &it.notes {
            say(output.err, &format!("note: {note}\n"));
        }
        let readings = match it.isolated.is_empty() {
            true => Vec::new(), // Nothing was asked for.
            false => readings(it, Path::new("/")),
        };
        if self.json {
            say(output.out, &format!("{:#}\n", json!(readings)));
        }
        for Reading { argument, required, current, holds } in &readings {
            let mark = if *holds { "holds" } else { "DIFFERS" };
            if !self.json {
                let line = format!("{argument:<20} {mark:<8} want {required}, have {current}\n");
                say(output.out, &line);
            }
        }
        if readings.iter().all(|reading| reading.holds) {
            return Ok(());
        }
        Err("the running kernel does not do what the plan asks for; boot it with the line of \
             `basalt plan --kernel-args`"
            .to_owned())
    }
}

/// What the node holds for long and reads at random: caches and what waits for a checkpoint.
pub(super) fn in_huge_pages(config: &Config) -> u64 {
    let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    // A checkpoint's blocks may gather once more while it is written.
    let waiting = bytes(config.checkpoint.bytes_max).saturating_mul(2);
    let held = bytes(config.trie_cache_bytes).saturating_add(bytes(config.pool.bytes_max));
    held.saturating_add(waiting)
}
