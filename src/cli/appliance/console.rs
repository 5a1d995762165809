//! `basalt console`: the status page of an appliance, drawn again each second. Takes no input.

use crate::cli::Output;
use crate::cli::appliance::console_facts::{Facts, Places};
use crate::cli::appliance::request_file::Word;
use crate::cli::appliance::{disk_state, in_force};
use clap::Args;
use std::{io::Write, path::PathBuf, thread, time::Duration};

const EXAMPLES: &str = "\
Examples:
  basalt console                           on a terminal, until it is ended
  basalt console --once                    one page, without colours";

/// Columns and lines of the smallest terminal.
const COLUMNS: usize = 79;
const LINES: usize = 24;
/// Lines of what is wrong, and of what was logged, at most.
const TROUBLE_LINES_MAX: usize = 8;
const ERROR_LINES_MAX: usize = 4;
/// Lines of what became of a request at most.
const REQUEST_LINES_MAX: usize = 4;
/// How many pages the errors on the page may be old: asking the journal costs a process.
const ERRORS_EVERY: u64 = 5;

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[33m";
const GREEN: &str = "\x1b[32m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// Arguments of `basalt console`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Console {
    /// Folder of the configuration in force
    #[arg(long, value_name = "DIR", default_value = in_force::FOLDER)]
    run: PathBuf,
    /// Folder where the node leaves the reason of a failure
    #[arg(long, value_name = "DIR", default_value = in_force::NODE_FOLDER)]
    node: PathBuf,
    /// Folder of what the initrd has decided about disks
    #[arg(long, value_name = "DIR", default_value = disk_state::FOLDER)]
    disk: PathBuf,
    /// Root of the file systems to read the machine from
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Print one page and end
    #[arg(long)]
    once: bool,
    /// Seconds between pages
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
}

impl Console {
    /// Draws until the terminal goes away.
    ///
    /// # Errors
    /// Where it does.
    pub fn run(self, output: &mut Output<'_>) -> Result<(), String> {
        let places = Places { run: self.run, node: self.node, disk: self.disk, root: self.root };
        let (mut pages, mut errors) = (0_u64, Vec::new());
        loop {
            if pages.is_multiple_of(ERRORS_EVERY) {
                errors = places.logged_errors(ERROR_LINES_MAX);
            }
            let facts = places.look(errors.clone());
            let lines = page(&facts);
            let text = if self.once { plain(&lines) } else { drawn(&lines, pages == 0) };
            put(output.out, &text)?;
            if self.once {
                return Ok(());
            }
            pages += 1;
            thread::sleep(Duration::from_secs(self.every));
        }
    }
}

fn put(out: &mut dyn Write, text: &str) -> Result<(), String> {
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| format!("the terminal went away ({error})"))
}

/// A line and its colour.
struct Line {
    colour: &'static str,
    text: String,
}

/// The page, from what is known. Pure.
fn page(facts: &Facts) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut add = |colour, text: String| lines.push(Line { colour, text });
    add(BOLD, format!("Basalt {}  {}", facts.version, facts.hostname));
    if facts.is_debug {
        add(RED, "DEBUG IMAGE: it lets people in. Never put it to work.".to_owned());
    }
    add(PLAIN, String::new());
    let mut row = |name: &str, colour, value: &str| add(colour, format!("{name:<12}{value}"));
    row("addresses", PLAIN, &listed(&facts.addresses));
    row("slot", PLAIN, &facts.slot);
    let (colour, boot) = firmware(facts);
    row("firmware", colour, &boot);
    row("role", PLAIN, &facts.role);
    row("config", PLAIN, &facts.config);
    match &facts.chain {
        Some(chain) => {
            let colour = if chain.is_stale { RED } else { GREEN };
            row("height", PLAIN, &format!("{}, {} on disk", chain.height, chain.steady));
            row("mini-block", colour, &format!("{}, {}", chain.mini_block, chain.age));
            row("memory", PLAIN, &facts.memory);
        }
        None if facts.trouble.is_empty() => row("node", YELLOW, "starting"),
        None => row("node", RED, "down"),
    }
    if facts.trouble.is_empty() {
        row("peers", PLAIN, "none: this version has no peer-to-peer network");
        row("tune", PLAIN, &facts.tune);
    }
    if let Some(arguments) = &facts.arguments {
        let colour = if arguments.is_open { YELLOW } else { PLAIN };
        row("arguments", colour, &arguments.text);
    }
    row("disk", PLAIN, &facts.disk);
    row("time", if facts.time.is_good { PLAIN } else { YELLOW }, &facts.time.text);
    row("up", PLAIN, &facts.up);
    if let Some(update) = &facts.update {
        row("update", PLAIN, update);
    }
    for line in alarms(facts).iter().flat_map(|text| wrapped(text)) {
        add(RED, line);
    }
    if let Some(request) = &facts.request {
        let colour = if request.result == Word::Done { PLAIN } else { RED };
        let mut lines = wrapped(&format!("{:<12}{}", "request", request.line())).into_iter();
        lines.by_ref().take(REQUEST_LINES_MAX).for_each(|line| add(colour, line));
    }
    if !facts.trouble.is_empty() {
        add(PLAIN, String::new());
        add(RED, "MAINTENANCE".to_owned());
        for line in facts.trouble.iter().flat_map(|line| wrapped(line)).take(TROUBLE_LINES_MAX) {
            add(RED, line);
        }
    } else if !facts.errors.is_empty() {
        add(PLAIN, String::new());
        add(BOLD, "last errors".to_owned());
        for line in &facts.errors {
            add(YELLOW, line.clone());
        }
    }
    lines.truncate(LINES - 1);
    lines
}

/// Whether the machine enforces signatures, and whether the image has any.
fn firmware(facts: &Facts) -> (&'static str, String) {
    let (colour, boot) = match facts.secure_boot {
        Some(true) => return (PLAIN, "Secure Boot on".to_owned()),
        Some(false) => (YELLOW, "Secure Boot OFF"),
        None => (YELLOW, "no UEFI"),
    };
    let image = match facts.is_signed {
        Some(true) => ", signed image",
        Some(false) => ", UNSIGNED IMAGE",
        None => "",
    };
    (colour, format!("{boot}{image}"))
}

/// What the health gate and the initrd found out about slots and disks, and somebody has to know.
fn alarms(facts: &Facts) -> Vec<String> {
    let mut all = Vec::new();
    all.extend(facts.refused_update.as_ref().map(|text| format!("UPDATE LEFT: {text}")));
    all.extend(facts.left_slot.as_ref().map(|text| format!("SLOT LEFT: {text}")));
    all.extend(facts.corrupted.as_ref().map(|text| format!("ROOT CORRUPTED: {text}")));
    all.extend(facts.recovery_key.as_ref().map(|key| {
        format!(
            "RECOVERY KEY: {key} -- opens the data where the TPM does not. Write it down now: it \
             is not shown after the next restart."
        )
    }));
    all
}

fn listed(all: &[String]) -> String {
    if all.is_empty() { "none yet".to_owned() } else { all.join(" ") }
}

/// A long line in pieces that fit.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + word.chars().count() > COLUMNS {
            lines.push("  ".to_owned());
        }
        if let Some(line) = lines.last_mut() {
            if !line.trim().is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// What fits on a line. A control character from a log or a name could rewrite the page.
fn fitted(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(COLUMNS).collect()
}

fn plain(lines: &[Line]) -> String {
    lines.iter().map(|line| format!("{}\n", fitted(&line.text))).collect()
}

/// Over the page before, line by line, so that nothing flickers.
fn drawn(lines: &[Line], is_first: bool) -> String {
    let mut text = if is_first { "\x1b[?25l\x1b[2J\x1b[H" } else { "\x1b[H" }.to_owned();
    for Line { colour, text: line } in lines {
        text.push_str(&format!("{colour}{}{PLAIN}\x1b[K\r\n", fitted(line)));
    }
    text.push_str("\x1b[J");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::appliance::console_facts::{Chain, Clock};
    use crate::cli::appliance::kernel_arguments::State;
    use crate::cli::appliance::request_file::Outcome;

    fn facts() -> Facts {
        Facts {
            version: "0.1.0".to_owned(),
            refused_update: Some(format!("0.2.0 went back: {}", "the log lags ".repeat(9))),
            left_slot: Some("basalt_0.1.1: its root is not as promised".to_owned()),
            corrupted: None,
            recovery_key: Some("abcd-efgh".to_owned()),
            update: Some("0.3.0 is available".to_owned()),
            request: Some(Outcome {
                taken: "a".to_owned(),
                ended: "2026-01-02T03:04:05Z".to_owned(),
                result: Word::Refused,
                reason: "another name".to_owned(),
                version: "0.1.0".to_owned(),
                request: "reset = \"node-8\"\n".to_owned(),
            }),
            hostname: "node-7".to_owned(),
            addresses: vec!["10.0.2.15".to_owned()],
            slot: "basalt_0.1.0 on vda2".to_owned(),
            secure_boot: Some(false),
            is_signed: Some(false),
            role: "single sequencer".to_owned(),
            config: "/efi/loader/basalt/basalt.toml".to_owned(),
            chain: Some(Chain {
                height: 42,
                steady: 30,
                mini_block: 4_200,
                age: "8 ms ago".to_owned(),
                is_stale: false,
            }),
            trouble: Vec::new(),
            errors: vec!["12:00 wal: slow\x1b[2J disk".to_owned()],
            tune: "no core isolated".to_owned(),
            arguments: Some(State {
                text: "waiting for a restart".to_owned(),
                is_open: true,
                line: String::new(),
            }),
            memory: "node 200 MiB, at most 300 of 974".to_owned(),
            disk: "3 of 10 GiB used".to_owned(),
            time: Clock::default(),
            up: "1 h".to_owned(),
            is_debug: false,
        }
    }

    #[test]
    fn a_page_tells_all_and_fits() {
        let text = plain(&page(&facts()));
        for part in [
            "node-7",
            "UPDATE LEFT: 0.2.0 went back: the log lags",
            "SLOT LEFT: basalt_0.1.1: its root",
            "RECOVERY KEY: abcd-efgh --",
            "request 2026-01-02T03:04:05Z reset = \"node-8\": refused: another name",
            "10.0.2.15",
            "vda2",
            "42, 30 on disk",
            "8 ms ago",
            "arguments   waiting for a restart",
            "Secure Boot OFF, UNSIGNED IMAGE",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert_eq!(text.matches("lags").count(), 9, "a reason is cut off\n{text}");
        assert!(text.lines().count() < LINES && !text.contains('\x1b'), "{text}");
    }

    #[test]
    fn maintenance_takes_the_place_of_errors_and_keeps_the_page_in_bounds() {
        let mut facts = facts();
        facts.chain = None;
        facts.is_debug = true;
        let fault =
            "/efi/loader/basalt/basalt.toml:4: log.level = \"loud\" is not one of ".repeat(9);
        facts.trouble = vec![fault; 9];
        let text = plain(&page(&facts));
        assert!(text.contains("MAINTENANCE\n/efi/loader/basalt/basalt.toml:4:"), "{text}");
        assert!(text.contains("DEBUG IMAGE") && text.contains("node        down"), "{text}");
        assert!(text.lines().count() < LINES, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
    }

    #[test]
    fn a_page_is_drawn_over_the_one_before() {
        let text = drawn(&page(&facts()), false);
        assert!(text.starts_with("\x1b[H") && text.ends_with("\x1b[J"));
        assert!(!text.contains("slow\x1b[2J"), "the log cannot clear the page");
    }
}
