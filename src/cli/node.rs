//! `basalt node`: a node as a configuration file says.

use crate::cli::{Kind, Start, with_file};
use crate::config::overlay::{Sources, effective};
use clap::Args;

const EXAMPLES: &str = "\
Examples:
  basalt node --config /etc/basalt.toml
  BASALT_RPC_ADDRESS=0.0.0.0:8545 basalt node --config /etc/basalt.toml

Every setting with meaning, unit, default and range: basalt config show --manual";

/// Arguments of `basalt node`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Node {
    /// Settings to lay over the defaults
    #[arg(long, value_name = "FILE")]
    config: String,
}

impl Node {
    /// The settings in force.
    ///
    /// # Errors
    /// Where the file cannot be read or a value is refused.
    pub fn start(self, sources: Sources) -> Result<Start, String> {
        let sources = with_file(sources, Some(&self.config))?;
        let effective = effective(&sources).map_err(|error| error.to_string())?;
        Ok(Start { kind: Kind::Node, effective, fresh: false })
    }
}
