//! `basalt config`: check a file, show the settings in force, print the manual.

use crate::cli::{ConfigFile, Output, say, with_file};
use crate::config::appliance;
use crate::config::chain_spec::ChainSpec;
use crate::config::overlay::{Effective, MANUAL, Sources, effective};
use clap::Subcommand;
use serde_json::{Value, json};

const CHECK_EXAMPLES: &str = "\
Examples:
  basalt config check basalt.toml          prints each fault with line, value and remedy";

const SHOW_EXAMPLES: &str = "\
Examples:
  basalt config show
  basalt config show --config basalt.toml --json
  basalt config show --manual > basalt.toml";

/// `basalt config …`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Say what is wrong with a configuration file
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// The file
        file: String,
    },
    /// Print every setting, its value and where it came from
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// Settings to lay over the defaults.
        #[command(flatten)]
        file: ConfigFile,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Print the commented defaults instead: a file to start from
        #[arg(long, conflicts_with_all = ["json", "config"])]
        manual: bool,
    },
}

impl Config {
    /// Answers.
    ///
    /// # Errors
    /// Lists the faults of the configuration.
    pub fn run(self, sources: Sources, output: &mut Output<'_>) -> Result<(), String> {
        match self {
            Self::Check { file } => check(sources, &file, output),
            Self::Show { manual: true, .. } => {
                say(output.out, MANUAL);
                say(output.out, appliance::MANUAL);
                Ok(())
            }
            Self::Show { file, json, .. } => {
                let effective = layered(sources, file.config.as_deref(), output)?;
                let shown = if json { as_json(&effective) } else { as_table(&effective) };
                say(output.out, &shown);
                Ok(())
            }
        }
    }
}

fn check(sources: Sources, file: &str, output: &mut Output<'_>) -> Result<(), String> {
    let effective = layered(sources, Some(file), output)?;
    let chain = &effective.config.chain;
    if chain.genesis_file.is_some() {
        let spec = ChainSpec::new(chain, &[]).map_err(|error| error.to_string())?;
        for note in &spec.notes {
            say(output.out, &format!("note: {note}\n"));
        }
    }
    say(output.out, &format!("{file}: good\n"));
    Ok(())
}

fn layered(
    sources: Sources,
    file: Option<&str>,
    output: &mut Output<'_>,
) -> Result<Effective, String> {
    let sources = with_file(sources, file)?;
    let effective = effective(&sources).map_err(|error| error.to_string())?;
    for warning in &effective.warnings {
        say(output.err, &format!("warning: {warning}\n"));
    }
    Ok(effective)
}

fn as_table(effective: &Effective) -> String {
    let settings = || effective.settings.iter();
    let keys_wide = settings().map(|setting| setting.key.len()).max().unwrap_or(0);
    let values_wide = settings().map(|setting| setting.value.to_string().len()).max().unwrap_or(0);
    let lines = settings().map(|setting| {
        let (key, value, origin) = (setting.key, setting.value.to_string(), &setting.origin);
        format!("{key:<keys_wide$} = {value:<values_wide$}  # {origin}\n")
    });
    lines.collect()
}

fn as_json(effective: &Effective) -> String {
    let settings = effective.settings.iter().map(|setting| {
        let value = Value::from(&setting.value);
        let origin = setting.origin.to_string();
        (setting.key.to_owned(), json!({ "value": value, "origin": origin }))
    });
    format!("{:#}\n", Value::Object(settings.collect()))
}
