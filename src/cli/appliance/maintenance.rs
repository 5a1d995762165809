//! `basalt maintenance`: says on the console and at the metrics port why no node runs.

use crate::cli::appliance::boot_config::reachable;
use crate::cli::appliance::in_force::{self, InForce, Trouble, Wrong};
use crate::cli::{Output, say};
use clap::Args;
use serde_json::json;
use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

const EXAMPLES: &str = "\
Examples:
  basalt maintenance                       by basalt-maintenance.service, in place of the node
  basalt maintenance --print               what is wrong, and nothing else

Metrics: basalt_maintenance 1, basalt_maintenance_fault with file, line, what and remedy as labels.
/health answers 503 with the same in JSON.";

/// How long a reader may take; they are served one after another.
const READER_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of a request that are read.
const REQUEST_BYTES_MAX: usize = 4096;
/// How often an address that cannot be served is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Arguments of `basalt maintenance`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Maintenance {
    /// Folder of the configuration in force
    #[arg(long, value_name = "DIR", default_value = in_force::FOLDER)]
    run: PathBuf,
    /// Folder where the node leaves the reason of a failure
    #[arg(long, value_name = "DIR", default_value = in_force::NODE_FOLDER)]
    node: PathBuf,
    /// Print and end
    #[arg(long)]
    print: bool,
}

impl Maintenance {
    /// Prints, then serves for ever.
    ///
    /// # Errors
    /// Where the metrics address makes no sense.
    pub fn run(self, output: &mut Output<'_>) -> Result<(), String> {
        let trouble = self.trouble();
        say(output.out, &shown(&trouble));
        if self.print {
            return Ok(());
        }
        // The health gate need not wait for a node any longer.
        if let Err(error) = in_force::put(&self.node.join(in_force::GIVEN_UP), b"") {
            tracing::debug!(%error, "the health gate waits to its limit");
        }
        let Ok(address) = trouble.metrics_address.parse::<SocketAddr>() else {
            say(output.out, "metrics are off: nothing is served\n");
            loop {
                thread::park();
            }
        };
        let listener = listen(address, output);
        for stream in listener.incoming() {
            let served = stream.and_then(|stream| answer(stream, &self.trouble()));
            if let Err(error) = served {
                tracing::debug!(%error, "a reader left early");
            }
        }
        Ok(())
    }

    /// Read anew for each reader: the node may fail again in another way.
    fn trouble(&self) -> Trouble {
        let metrics = metrics_address(&self.run);
        Trouble::read(&self.run, &self.node, &metrics).unwrap_or_else(|| Trouble {
            source: "the node".to_owned(),
            faults: vec![in_force::silent_failure()],
            metrics_address: metrics,
        })
    }
}

/// Where the node would serve metrics.
fn metrics_address(run: &Path) -> String {
    let in_force: Option<InForce> = in_force::read_json(&run.join(in_force::IN_FORCE));
    in_force.map_or_else(|| "127.0.0.1:9545".to_owned(), |in_force| in_force.metrics_address)
}

/// The address may come with the network, later.
fn listen(address: SocketAddr, output: &mut Output<'_>) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => {
                let at = reachable(address);
                say(output.out, &format!("metrics at http://{at}/metrics say the same\n"));
                return listener;
            }
            Err(error) if !told => {
                say(output.err, &format!("{address}: no metrics yet ({error})\n"));
                told = true;
            }
            Err(_) => {}
        }
        thread::sleep(RETRY);
    }
}

fn shown(trouble: &Trouble) -> String {
    let mut text = format!("MAINTENANCE: no node runs, because of {}\n", trouble.source);
    for wrong in &trouble.faults {
        text.push_str(&format!("  {}\n", wrong.text()));
    }
    text
}

fn answer(mut stream: TcpStream, trouble: &Trouble) -> io::Result<()> {
    stream.set_read_timeout(Some(READER_TIMEOUT))?;
    stream.set_write_timeout(Some(READER_TIMEOUT))?;
    let head = head(&mut stream)?;
    let path = head.strip_prefix(b"GET ").and_then(|rest| rest.split(|b| *b == b' ').next());
    let (status, kind, body) = match path {
        Some(b"/metrics") => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ("200 OK", kind, metrics(trouble))
        }
        Some(b"/health") => {
            let body = json!({ "status": "maintenance", "trouble": trouble });
            ("503 Service Unavailable", "application/json", body.to_string())
        }
        _ => ("404 Not Found", "text/plain", "see /metrics and /health\n".to_owned()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// A request up to its empty line.
fn head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read if head.len() + read <= REQUEST_BYTES_MAX => {
                head.extend_from_slice(&buffer[..read]);
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(head)
}

fn metrics(trouble: &Trouble) -> String {
    let mut text = "# HELP basalt_maintenance No node runs.\n# TYPE basalt_maintenance gauge\n\
                    basalt_maintenance 1\n\
                    # HELP basalt_maintenance_fault What is wrong.\n\
                    # TYPE basalt_maintenance_fault gauge\n"
        .to_owned();
    for (index, Wrong { file, line, what, remedy }) in trouble.faults.iter().enumerate() {
        let line = line.map(|line| line.to_string()).unwrap_or_default();
        let labels = [("file", file), ("line", &line), ("what", what), ("remedy", remedy)];
        let labels = labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
        let labels = labels.join(",");
        text.push_str(&format!("basalt_maintenance_fault{{index=\"{index}\",{labels}}} 1\n"));
    }
    text.push_str("# EOF\n");
    text
}

/// A label's value as OpenMetrics wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble() -> Trouble {
        let wrong = Wrong {
            line: Some(4),
            ..Wrong::of("/efi/basalt.toml", "log.level = \"loud\" is wrong", "use info")
        };
        let metrics_address = "127.0.0.1:0".to_owned();
        Trouble { source: "/efi/basalt.toml".to_owned(), faults: vec![wrong], metrics_address }
    }

    #[test]
    fn labels_are_escaped() {
        let text = metrics(&trouble());
        let wanted = "basalt_maintenance_fault{index=\"0\",file=\"/efi/basalt.toml\",line=\"4\",\
                      what=\"log.level = \\\"loud\\\" is wrong\",remedy=\"use info\"} 1\n";
        assert!(text.contains(wanted) && text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn the_console_is_told_file_line_value_and_remedy() {
        let text = shown(&trouble());
        assert!(text.contains("/efi/basalt.toml:4: log.level = \"loud\""), "{text}");
        assert!(text.contains("; use info\n"), "{text}");
    }
}
