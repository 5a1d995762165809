//! `basalt plan`: which thread gets which core, without starting anything.

use crate::cli::{ConfigFile, Output, say, with_file};
use crate::config::overlay::{Sources, effective};
use crate::topology::{
    hardware::Machine,
    plan::{Wants, plan},
    show,
};
use clap::Args;

const EXAMPLES: &str = "\
Examples:
  basalt plan
  basalt plan --json --config basalt.toml
  HWLOC_XMLFILE=server.xml basalt plan     the plan of another machine (lstopo --of xml)";

/// Arguments of `basalt plan`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Plan {
    #[command(flatten)]
    file: ConfigFile,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Plan {
    /// Draws the plan.
    ///
    /// # Errors
    /// Where the configuration or the machine cannot be read.
    pub fn run(self, sources: Sources, output: &mut Output<'_>) -> Result<(), String> {
        let sources = with_file(sources, self.file.config.as_deref())?;
        let effective = effective(&sources).map_err(|error| error.to_string())?;
        let machine = Machine::read().map_err(|error| error.to_string())?;
        let plan = plan(&machine, &Wants::from(&effective.config.topology));
        if self.json {
            say(output.out, &format!("{:#}\n", show::json(&machine, &plan)));
        } else {
            say(output.out, &show::text(&machine, &plan));
        }
        Ok(())
    }
}
