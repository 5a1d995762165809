//! `basalt scrub`: reads a data folder from the disk itself, to find what rots.

use crate::cli::{Output, say};
use crate::node::scrub::scrub;
use clap::Args;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  basalt scrub /var/lib/basalt             each week, by basalt-scrub.timer

Reads every byte past the page cache, changes nothing, and names what cannot be read. It does not
check what the bytes mean: the node does that as it reads them.";

/// Arguments of `basalt scrub`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Scrub {
    /// The data folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Scrub {
    /// Reads and tells.
    ///
    /// # Errors
    /// Lists what cannot be read.
    pub fn run(self, output: &mut Output<'_>) -> Result<(), String> {
        let shown = self.folder.display();
        let scrubbed = scrub(&self.folder)
            .map_err(|error| format!("{shown}: cannot be listed ({error}); name a data folder"))?;
        let (files, mib) = (scrubbed.files, scrubbed.bytes >> 20);
        if scrubbed.faults.is_empty() {
            say(output.out, &format!("{shown}: {files} files, {mib} MiB, all readable\n"));
            return Ok(());
        }
        let remedy = "look at the disk's health, and replace it before the rest goes";
        Err(format!("{}\n{} unreadable; {remedy}", scrubbed.faults.join("\n"), shown))
    }
}
