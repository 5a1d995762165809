//! What a support bundle is made of: files of the machine, answers of programs. Each part has a
//! limit; one that cannot be had is named and no failure.

use crate::cli::appliance::console_facts::Numbers;
use crate::cli::appliance::in_force::{self, InForce, Trouble};
use crate::cli::appliance::support_redact::{Counts, Secrets};
use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// One file of the bundle.
#[derive(Debug)]
pub struct Part {
    /// Its path there.
    pub name: String,
    /// What it holds, or why it is not there.
    pub text: Result<String, String>,
    /// What was left out.
    pub cut: Option<String>,
    /// Bytes of it that are kept, the newest.
    pub bytes_max: usize,
}

impl Part {
    /// Takes out what is secret, then what is too much: a torn secret would not be known as one.
    pub fn finish(&mut self, secrets: &Secrets, counts: &mut Counts) {
        let bytes_max = self.bytes_max;
        let Ok(text) = &mut self.text else { return };
        *text = secrets.redact(text, counts);
        if text.len() > bytes_max {
            let from = text.len() - bytes_max;
            let from = (from..text.len()).find(|at| text.is_char_boundary(*at));
            let kept = &text[from.unwrap_or(0)..];
            let kept = &kept[kept.find('\n').map_or(0, |at| at + 1)..];
            self.cut = Some(format!("only the last {} bytes of {}", kept.len(), text.len()));
            *text = kept.to_owned();
        }
    }
}

/// Where to look, and how much to take.
#[derive(Debug)]
pub struct Machine {
    /// Of all files.
    pub root: PathBuf,
    /// Bytes of each journal, of which the newest are kept.
    pub journal_bytes_max: usize,
}

/// Bytes of any other part.
const PART_BYTES_MAX: usize = 1024 * 1024;
/// Files of a folder's walk.
const FILES_MAX: usize = 4_096;
/// Bytes of one file of a walk: settings are short.
const WALKED_BYTES_MAX: u64 = 512;

/// Plain files: name in the bundle, path on the machine.
const FILES: &[(&str, &str)] = &[
    ("versions/os-release", "etc/os-release"),
    ("versions/kernel", "proc/version"),
    ("boot/kernel-arguments", "proc/cmdline"),
    ("boot/in-force.json", "run/basalt/in-force.json"),
    ("boot/maintenance.json", "run/basalt/maintenance.json"),
    ("boot/failure.txt", "run/basalt-node/failure.txt"),
    ("boot/ports.nft", "run/basalt/ports.nft"),
    ("boot/time.json", "run/basalt-machine/time.json"),
    ("boot/time-state.json", "run/basalt-time/state.json"),
    ("health/refused.json", "var/lib/basalt-health/refused.json"),
    ("hardware/cpu", "proc/cpuinfo"),
    ("hardware/memory", "proc/meminfo"),
    ("hardware/interrupts", "proc/interrupts"),
    ("state/mounts", "proc/self/mountinfo"),
    ("state/partitions", "proc/partitions"),
    ("state/uptime", "proc/uptime"),
    ("state/load", "proc/loadavg"),
    ("state/pressure-cpu", "proc/pressure/cpu"),
    ("state/pressure-io", "proc/pressure/io"),
    ("state/pressure-memory", "proc/pressure/memory"),
];

/// Folders of short files: name in the bundle, folder, names of files that count.
const WALKS: &[(&str, &str, &[&str])] = &[
    ("state/sysctls", "proc/sys", &[]),
    ("hardware/processors", "sys/devices/system/cpu", TOPOLOGY),
    ("hardware/numa", "sys/devices/system/node", TOPOLOGY),
    ("hardware/firmware", "sys/class/dmi/id", FIRMWARE),
    ("state/links", "run/systemd/network", &[]),
    ("health/learnt", "var/lib/basalt-health", &[]),
    ("state/crash-reports", "sys/fs/pstore", &["none: names only"]),
];
const TOPOLOGY: &[&str] = &[
    "online",
    "isolated",
    "nohz_full",
    "possible",
    "cpulist",
    "distance",
    "nr_hugepages",
    "free_hugepages",
    "core_id",
    "physical_package_id",
    "thread_siblings_list",
    "scaling_governor",
    "microcode",
    "version",
    "meltdown",
    "spectre_v1",
    "spectre_v2",
    "mds",
    "retbleed",
];
/// Without serial numbers.
const FIRMWARE: &[&str] = &[
    "bios_vendor",
    "bios_version",
    "bios_date",
    "bios_release",
    "board_vendor",
    "board_name",
    "product_name",
    "sys_vendor",
    "chassis_type",
];
const BLOCK: &[&str] = &[
    "size",
    "ro",
    "removable",
    "rotational",
    "model",
    "rev",
    "firmware_rev",
    "uevent",
    "start",
    "partition",
    "logical_block_size",
    "physical_block_size",
    "write_cache",
    "fua",
    "scheduler",
    "name",
    "state",
    "stat",
];
const PCI: &[&str] = &[
    "vendor",
    "device",
    "class",
    "subsystem_vendor",
    "subsystem_device",
    "revision",
    "numa_node",
    "current_link_speed",
    "current_link_width",
];

/// Programs: name in the bundle, command line.
const COMMANDS: &[(&str, &[&str])] = &[
    ("journal/kernel", &["journalctl", "-q", "--no-pager", "-k", "-o", "short-iso-precise"]),
    ("journal/boots", &["journalctl", "-q", "--no-pager", "--list-boots"]),
    ("state/units", &["systemctl", "--no-pager", "--plain", "list-units", "--all"]),
    ("state/units-failed", &["systemctl", "--no-pager", "--plain", "list-units", "--failed"]),
    ("state/addresses", &["ip", "address"]),
    ("state/routes", &["ip", "route", "show", "table", "all"]),
    ("state/firewall", &["nft", "list", "ruleset"]),
    ("state/names", &["resolvectl", "--no-pager", "status"]),
    ("state/entries", &["bootctl", "--no-pager", "list"]),
    ("state/space", &["df", "-k"]),
    ("state/crash-dumps", &["ls", "-l", "/var/lib/systemd/coredump"]),
];

/// Asked of this program itself.
const OWN: &[(&str, &[&str])] = &[
    ("versions/basalt", &["--version"]),
    ("boot/plan", &["plan", "--config", "/run/basalt/basalt.toml"]),
    ("boot/kernel-arguments-check", &["plan", "--kernel-args", "--check"]),
    ("state/slots", &["update", "status"]),
];

/// Boots before this one whose journals are taken.
const BOOTS_BEFORE: usize = 2;

/// Where metrics are, or "off"; `None` where no configuration was looked at.
pub(super) fn metrics_port(root: &Path) -> Option<String> {
    let run = root.join(in_force::FOLDER.trim_start_matches('/'));
    let in_force: Option<InForce> = in_force::read_json(&run.join(in_force::IN_FORCE));
    let trouble: Option<Trouble> = in_force::read_json(&run.join(in_force::MAINTENANCE));
    trouble.map(|it| it.metrics_address).or(in_force.map(|it| it.metrics_address))
}

/// Of the node, or of maintenance.
pub(super) fn metrics_page(root: &Path, port: &str) -> Option<String> {
    let folder = root.join(in_force::NODE_FOLDER.trim_start_matches('/'));
    Numbers { folder: &folder, port }.get("/metrics")
}

impl Machine {
    /// Everything, in the order of the bundle.
    pub fn gather(&self, secrets: &mut Secrets) -> Vec<Part> {
        let mut parts = self.configurations(secrets);
        parts.push(self.metrics());
        parts.extend(FILES.iter().map(|(name, path)| self.file(name, path)));
        for (name, folder, wanted) in WALKS {
            parts.push(self.walk(name, &[self.root.join(folder)], wanted));
        }
        parts.push(self.walk("hardware/disks", &self.entries("sys/block"), BLOCK));
        parts.push(self.walk("hardware/pci", &self.entries("sys/bus/pci/devices"), PCI));
        parts.extend(COMMANDS.iter().map(|(name, words)| self.command(name, words)));
        for boot in 0..=BOOTS_BEFORE {
            parts.push(self.journal(boot));
        }
        let own = std::env::current_exe().unwrap_or_else(|_| "basalt".into());
        let own = own.display().to_string();
        for (name, arguments) in OWN {
            let words: Vec<&str> =
                std::iter::once(own.as_str()).chain(arguments.iter().copied()).collect();
            parts.push(self.command(name, &words));
        }
        parts
    }

    /// The one in force, and the one on the ESP, which may be the wrong one. First of all, because
    /// what is secret in them is secret everywhere.
    fn configurations(&self, secrets: &mut Secrets) -> Vec<Part> {
        let places = [
            ("config/in-force.toml", "run/basalt/basalt.toml"),
            ("config/esp.toml", "efi/loader/basalt/basalt.toml"),
            ("config/boot.toml", "boot/loader/basalt/basalt.toml"),
        ];
        let mut parts = places.map(|(name, path)| self.file(name, path));
        for part in &mut parts {
            if let Ok(text) = &mut part.text {
                *text = secrets.of_config(text);
            }
        }
        parts.into()
    }

    /// Of the node, or of maintenance.
    fn metrics(&self) -> Part {
        let text = match metrics_port(&self.root) {
            Some(port) => metrics_page(&self.root, &port)
                .ok_or_else(|| format!("nobody answers, metrics.address is {port}")),
            None => Err("no configuration was looked at".to_owned()),
        };
        limited("metrics.txt", text, PART_BYTES_MAX)
    }

    fn file(&self, name: &str, path: &str) -> Part {
        let path = self.root.join(path);
        let text = read(&path, u64::MAX).map_err(|error| format!("{}: {error}", path.display()));
        limited(name, text, PART_BYTES_MAX)
    }

    fn journal(&self, before: usize) -> Part {
        let boot = format!("-{before}");
        let lines = (self.journal_bytes_max / 80).to_string(); // Lines are longer than that.
        let words = ["journalctl", "-q", "--no-pager", "-o", "short-iso-precise", "-n", &lines];
        let words = [&words[..], &["-b", if before == 0 { "0" } else { &boot }]].concat();
        let name = format!("journal/boot-{before}-before");
        limited(&name, answer(&words), self.journal_bytes_max)
    }

    fn command(&self, name: &str, words: &[&str]) -> Part {
        limited(name, answer(words), PART_BYTES_MAX)
    }

    fn entries(&self, folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.root.join(folder)).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries.map(|entry| entry.path()).collect();
        found.sort();
        // They are links to folders of devices.
        found.into_iter().filter_map(|path| path.canonicalize().ok()).collect()
    }

    /// One line a file. Links are not followed.
    fn walk(&self, name: &str, folders: &[PathBuf], wanted: &[&str]) -> Part {
        let (mut text, mut files) = (String::new(), 0);
        let mut left: Vec<PathBuf> = folders.iter().rev().cloned().collect();
        while let Some(path) = left.pop() {
            let Ok(entries) = fs::read_dir(&path) else { continue };
            let mut entries: Vec<_> = entries.flatten().collect();
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
            for entry in entries.iter().rev() {
                let file_name = entry.file_name();
                let counts = wanted.is_empty() || wanted.iter().any(|it| file_name == *it);
                if !entry.file_type().is_ok_and(|it| it.is_file()) || !counts || files >= FILES_MAX
                {
                    continue;
                }
                let shown = entry.path();
                let shown = shown.strip_prefix(&self.root).unwrap_or(&shown).display().to_string();
                if let Ok(value) = read(&entry.path(), WALKED_BYTES_MAX) {
                    files += 1;
                    text.push_str(&format!("{shown} = {}\n", value.trim().replace('\n', " | ")));
                }
            }
            let folders = entries.iter().filter(|it| it.file_type().is_ok_and(|it| it.is_dir()));
            left.extend(folders.map(|entry| entry.path()));
        }
        let text = if text.is_empty() { Err("nothing is there".to_owned()) } else { Ok(text) };
        let mut part = limited(name, text, PART_BYTES_MAX);
        if files >= FILES_MAX {
            part.cut = Some(format!("only the first {FILES_MAX} files"));
        }
        part
    }
}

fn read(path: &Path, bytes_max: u64) -> Result<String, String> {
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a program prints, with what it complains about.
fn answer(words: &[&str]) -> Result<String, String> {
    let [program, arguments @ ..] = words else { return Err("no program".to_owned()) };
    let mut command = Command::new(program);
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = format!("{}: {}, {}", words.join(" "), output.status, said.trim());
        if text.trim().is_empty() {
            return Err(said);
        }
        text.push_str(&format!("\n{said}\n"));
    }
    Ok(text)
}

fn limited(name: &str, text: Result<String, String>, bytes_max: usize) -> Part {
    Part { name: name.to_owned(), text, cut: None, bytes_max }
}
