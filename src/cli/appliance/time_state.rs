//! `basalt time-state`: asks chronyd how well the clock is set, and leaves it where the status page
//! and the node's metrics find it. Runs as chronyd's user, the only one that it answers.

use crate::cli::appliance::in_force;
use crate::cli::appliance::time_files::{self, DHCP_FOLDER};
use crate::cli::{Output, say};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

const EXAMPLES: &str = "\
Examples:
  basalt time-state                        for ever, by basalt-time-state.service
  basalt time-state --once                 ask once and print";

/// Where the answer is left.
pub const FILE: &str = "/run/basalt-time/state.json";
/// Leases of systemd-networkd, one file an interface.
const LEASES: &str = "/run/systemd/netif/leases";
const EVERY: Duration = Duration::from_secs(30);
/// chronyd has just started: its first answers come soon.
const EVERY_AT_FIRST: Duration = Duration::from_secs(5);
const FIRST: u32 = 12;

/// How well the clock is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeState {
    /// A server was chosen, and the clock follows it.
    pub is_synchronised: bool,
    /// The chosen server is authenticated.
    pub is_authenticated: bool,
    /// Its address or name.
    pub server: String,
    /// Nanoseconds that the clock is wrong by, as chronyd estimates.
    pub offset_ns: i64,
}

/// Arguments of `basalt time-state`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct AskTime {
    /// Print the answer and end
    #[arg(long)]
    once: bool,
    /// Where to leave it
    #[arg(long, value_name = "FILE", default_value = FILE)]
    into: PathBuf,
    /// What asks chronyd
    #[arg(long, value_name = "FILE", default_value = "/usr/bin/chronyc")]
    chronyc: PathBuf,
}

impl AskTime {
    /// Asks again and again.
    ///
    /// # Errors
    /// Where the answer cannot be left.
    pub fn run(self, output: &mut Output<'_>) -> Result<(), String> {
        let mut named = String::new();
        for asked in 0_u32.. {
            let state = self.ask();
            let json = serde_json::to_string(&state).map_err(|error| error.to_string())?;
            if self.once {
                say(output.out, &format!("{json}\n"));
                break;
            }
            in_force::put(&self.into, json.as_bytes())?;
            self.tell_dhcp(&mut named)?;
            thread::sleep(if asked < FIRST { EVERY_AT_FIRST } else { EVERY });
        }
        Ok(())
    }

    /// What is not answered is not synchronised.
    fn ask(&self) -> TimeState {
        let tracking = self.chronyc("tracking").unwrap_or_default();
        let authentication = self.chronyc("authdata").unwrap_or_default();
        read(&tracking, &authentication)
    }

    fn chronyc(&self, question: &str) -> Option<String> {
        let mut command = Command::new(&self.chronyc);
        let answer = command.args(["-n", "-c", question]).output().ok()?;
        answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    /// Puts the servers of the network's leases where chronyd looks, if its configuration does.
    fn tell_dhcp(&self, named: &mut String) -> Result<(), String> {
        let leases: Vec<String> = fs::read_dir(LEASES)
            .map(|all| all.flatten().filter_map(|it| fs::read_to_string(it.path()).ok()).collect())
            .unwrap_or_default();
        let sources = time_files::dhcp_sources(&leases);
        if sources == *named {
            return Ok(());
        }
        let folder = Path::new(DHCP_FOLDER);
        fs::create_dir_all(folder).map_err(|error| format!("{DHCP_FOLDER}: {error}"))?;
        in_force::put(&folder.join("dhcp.sources"), sources.as_bytes())?;
        let done = Command::new(&self.chronyc).args(["reload", "sources"]).output();
        if done.is_ok_and(|answer| answer.status.success()) {
            *named = sources; // Else chronyd is told again, the next time.
        }
        Ok(())
    }
}

/// From the answers of `chronyc -n -c tracking` and `authdata`. Columns of the first: 0 reference,
/// 1 address, 4 offset in seconds, 13 leap status; of the second: 0 address, 1 mode, 3 type of the
/// key (0 where there is none), as chronyc prints them.
fn read(tracking: &str, authentication: &str) -> TimeState {
    let columns: Vec<&str> = tracking.trim().split(',').collect();
    let column = |at: usize| columns.get(at).copied().unwrap_or_default();
    let is_synchronised = columns.len() >= 14 && column(13) != "Not synchronised";
    if !is_synchronised || column(1).is_empty() {
        return TimeState::default();
    }
    let server = column(1).to_owned();
    let is_authenticated = authentication.lines().any(|line| {
        let mut columns = line.split(',');
        columns.next() == Some(&server) && columns.next() == Some("NTS")
    });
    TimeState { is_synchronised, is_authenticated, server, offset_ns: nanoseconds(column(4)) }
}

/// Of a decimal number of seconds, such as `-0.000012345`.
fn nanoseconds(text: &str) -> i64 {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let part: String = part.chars().chain(std::iter::repeat('0')).take(9).collect();
    let whole = whole.parse::<i64>().unwrap_or(0).saturating_mul(1_000_000_000);
    sign * whole.saturating_add(part.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_chronyc_are_read() {
        // As chronyc 4.3 printed them beside a server of its own.
        let tracking = "7F000001,127.0.0.1,3,1795296820.547891093,-0.000002546,-0.000000791,\
                        0.000000791,0.059,-0.000,1.271,0.000008040,0.000004040,2.0,Normal\n";
        let authentication = "127.0.0.1,NTS,1,15,256,6,0,0,8,100\n10.0.0.1,-,0,0,0,-1,0,0,0,0\n";
        let state = read(tracking, authentication);
        assert!(state.is_synchronised && state.is_authenticated);
        assert_eq!((state.server.as_str(), state.offset_ns), ("127.0.0.1", -2_546));
        let other = tracking.replace(",127.0.0.1,", ",10.0.0.1,");
        assert!(!read(&other, authentication).is_authenticated);
        let none = "00000000,,0,0.000000000,0.000000000,0.000000000,0.000000000,0.000,0.000,0.000,\
                    1.000000000,1.000000000,0.0,Not synchronised\n";
        assert_eq!(read(none, authentication), TimeState::default());
        assert_eq!(read("", ""), TimeState::default());
        assert_eq!(nanoseconds("1.5"), 1_500_000_000);
    }
}
