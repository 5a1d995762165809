//! What a process costs, from /proc: CPU time by thread name, resident memory.
#![expect(unreachable_pub, reason = "a module of a program")]

use std::{collections::BTreeMap, fs, io};

/// CPU time so far.
#[derive(Clone, Default)]
pub struct Cpu {
    /// Seconds of the whole process, threads that ended included.
    pub total: f64,
    /// Seconds by thread name, of threads that live.
    pub threads: BTreeMap<String, f64>,
}

impl Cpu {
    pub fn of(pid: u32) -> Self {
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let read = |file: &str| fs::read_to_string(task.path().join(file)).ok();
            let (Some(name), Some(times)) = (read("comm"), read("schedstat")) else { continue };
            let nanoseconds: f64 =
                times.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0.0);
            *threads.entry(family(name.trim())).or_default() += nanoseconds / 1e9;
        }
        Self { total: total(pid), threads }
    }

    /// What was used since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let threads = self.threads.iter().map(|(name, seconds)| {
            (name.clone(), seconds - before.threads.get(name).copied().unwrap_or(0.0))
        });
        Self { total: self.total - before.total, threads: threads.collect() }
    }
}

/// Threads of one kind differ by a number at the end.
fn family(name: &str) -> String {
    name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned()
}

/// User and system time from /proc/PID/stat, in seconds.
fn total(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold spaces; user and system time are the 12th and 13th after.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}

/// Resident memory in MiB.
#[derive(Debug, Default, Clone, Copy)]
pub struct Resident {
    /// Now.
    pub now: f64,
    /// Of that, pages of files: the kernel's cache, which it takes back when it needs room.
    pub files: f64,
    /// At its highest since the start or since `forget_peak`.
    pub peak: f64,
}

impl Resident {
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
            kib.unwrap_or(0.0) / 1024.0
        };
        Self { now: field("VmRSS:"), files: field("RssFile:"), peak: field("VmHWM:") }
    }

    /// Lets the peak begin anew with what is resident now.
    pub fn forget_peak(pid: u32) -> io::Result<()> {
        fs::write(format!("/proc/{pid}/clear_refs"), "5")
    }
}
