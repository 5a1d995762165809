//! `basalt kernel-arguments`: brings the plan's kernel arguments into force on an appliance.
//!
//! 1. what a running kernel takes is set: huge pages of each node, where interrupts go, which
//!    processors all other services keep to
//! 2. what holds is read back
//! 3. what needs a restart is put on the boot partition as an add-on, or removed from there
//!
//! It never restarts the machine, and a plan that is unchanged changes nothing. Under Secure Boot
//! the add-on needs its owner's signature, so it is put where the boot programs do not look.

use crate::cli::appliance::addon::{self, addon, line_of};
use crate::cli::appliance::console_facts::is_secure_boot;
use crate::cli::appliance::in_force::{self, put, read_json};
use crate::cli::plan::in_huge_pages;
use crate::cli::{Output, say, with_file};
use crate::config::appliance::{Appliance, appliance};
use crate::config::overlay::{Sources, effective};
use crate::topology::{
    applied::readings,
    arguments::{Arguments, arguments, ranges},
    hardware::Machine,
    plan::{Wants, plan},
};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

const EXAMPLES: &str = "\
Examples:
  basalt kernel-arguments                  at every boot of the appliance, by its service
  basalt plan --kernel-args                only shows them";

/// The add-on, below the boot partition: there it counts for every version.
const ADDON: &str = "loader/addons/basalt-plan.addon.efi";
/// The same, where its owner finds it to sign it.
const UNSIGNED: &str = "loader/basalt/basalt-plan.addon.efi";
/// What came of it, below the folder of the configuration in force.
pub const STATE: &str = "kernel-arguments.json";
/// Slices of all that is not the node.
const OTHERS: [&str; 3] = ["init.scope", "system.slice", "user.slice"];

/// Arguments of `basalt kernel-arguments`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct KernelArguments {
    /// Folder of the configuration in force
    #[arg(long, value_name = "DIR", default_value = in_force::FOLDER)]
    run: PathBuf,
    /// Where the boot partition may be mounted; the first that has `loader` counts
    #[arg(long, value_name = "DIR", default_values = ["/efi", "/boot"])]
    esp: Vec<PathBuf>,
    /// Root of the file systems to read the machine from and to set it by
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// The program that an add-on is made of
    #[arg(long, value_name = "FILE", default_value = addon::STUB)]
    stub: PathBuf,
}

/// How far the plan's arguments are in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// For a person, such as "in force".
    pub text: String,
    /// Somebody has to do something.
    pub is_open: bool,
    /// What the plan asks for.
    pub line: String,
}

/// What was found, for `judge`.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The kernel was started with the line.
    is_given: bool,
    /// It does what the line says.
    holds: bool,
    /// The boot partition has an add-on with this line.
    is_kept: bool,
    /// It was put there since this boot began.
    is_new: bool,
    secure_boot: bool,
}

impl KernelArguments {
    /// Sets, reads back, and prepares the next boot.
    ///
    /// # Errors
    /// Where the machine cannot be read or the boot partition cannot be written.
    pub fn run(self, sources: Sources, output: &mut Output<'_>) -> Result<(), String> {
        let config_file = self.run.join(in_force::CONFIG);
        let name = config_file.display().to_string();
        let text = fs::read_to_string(&config_file)
            .map_err(|error| format!("{name}: cannot be read ({error}); nothing is set"))?;
        let Appliance { machine, .. } = appliance(&name, &text).map_err(|it| it.to_string())?;
        let state = if machine.kernel_arguments.is_auto() {
            let config = effective(&with_file(sources, Some(&name))?);
            let config = config.map_err(|error| error.to_string())?.config;
            let hardware = Machine::read_whole().map_err(|error| error.to_string())?;
            let plan = plan(&hardware, &Wants::from(&config.topology));
            let wanted = arguments(&hardware, &plan, in_huge_pages(&config));
            self.bring_into_force(&wanted, output)?
        } else {
            self.remove_addon()?;
            let text = "off by machine.kernel_arguments".to_owned();
            State { text, is_open: false, line: String::new() }
        };
        say(output.out, &format!("kernel arguments: {}\n", state.text));
        let json = serde_json::to_vec_pretty(&state).map_err(|error| error.to_string())?;
        put(&self.run.join(STATE), &json)
    }

    fn bring_into_force(
        &self,
        wanted: &Arguments,
        output: &mut Output<'_>,
    ) -> Result<State, String> {
        for note in &wanted.notes {
            say(output.err, &format!("note: {note}\n"));
        }
        let line = wanted.line();
        if line.is_empty() {
            self.remove_addon()?;
            let text = "none: too few cores to isolate any".to_owned();
            return Ok(State { text, is_open: false, line });
        }
        for remark in self.set_running(wanted) {
            say(output.err, &format!("note: {remark}\n"));
        }
        let readings = readings(wanted, &self.root);
        let failed: Vec<_> = readings.iter().filter(|it| !it.holds).collect();
        for it in &failed {
            let text = format!("{}: want {}, have {}", it.argument, it.required, it.current);
            say(output.err, &format!("note: {text}\n"));
        }
        let told = fs::read_to_string(self.root.join("proc/cmdline")).unwrap_or_default();
        let is_given = words_of(&line).all(|word| told.split_whitespace().any(|it| it == word));
        let before: Option<State> = read_json(&self.run.join(STATE));
        let mut seen = Seen {
            is_given,
            holds: failed.is_empty(),
            is_kept: self.kept_line().as_deref() == Some(&line),
            is_new: before.is_some_and(|state| state.line == line && state.is_open),
            secure_boot: is_secure_boot(&self.root) == Some(true),
        };
        if !is_given && !seen.is_kept {
            self.write_addon(&line, seen.secure_boot)?;
            seen.is_new = true;
        }
        let names: Vec<_> = failed.iter().map(|it| it.argument.as_str()).collect();
        Ok(judge(seen, &names.join(", "), line))
    }

    /// Below the boot partition.
    fn on_esp(&self, name: &str) -> Result<PathBuf, String> {
        let mounted = self.esp.iter().find(|esp| esp.join("loader").is_dir());
        let shown = || self.esp.iter().map(|esp| esp.display().to_string()).collect::<Vec<_>>();
        let none = || format!("no boot partition on {}; check its mount", shown().join(" or "));
        Ok(mounted.ok_or_else(none)?.join(name))
    }

    fn kept_line(&self) -> Option<String> {
        line_of(&fs::read(self.on_esp(ADDON).ok()?).ok()?)
    }

    /// A signed add-on with another line stays until its owner replaces it: it was asked for.
    fn write_addon(&self, line: &str, secure_boot: bool) -> Result<(), String> {
        let shown = self.stub.display();
        let stub = fs::read(&self.stub).map_err(|error| {
            format!("{shown}: cannot be read ({error}); name systemd's addonx64.efi.stub")
        })?;
        let bytes = addon(&stub, line).map_err(|error| format!("{shown}: {error}"))?;
        let path = self.on_esp(if secure_boot { UNSIGNED } else { ADDON })?;
        if fs::read(&path).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder)
            .map_err(|error| format!("{}: cannot be made ({error})", folder.display()))?;
        put_for_good(&path, &bytes)
    }

    fn remove_addon(&self) -> Result<(), String> {
        // Without a boot partition there is nothing to remove from it.
        let Ok(path) = self.on_esp(ADDON) else { return Ok(()) };
        remove_for_good(&path)?;
        remove_for_good(&self.on_esp(UNSIGNED)?)
    }

    /// What a running kernel takes; gives what is to be said of it.
    fn set_running(&self, wanted: &Arguments) -> Vec<String> {
        let mut remarks = Vec::new();
        for pages in &wanted.huge_pages {
            let folder = format!("sys/devices/system/node/node{}/hugepages", pages.node);
            let path = self.root.join(folder).join("hugepages-2048kB/nr_hugepages");
            let now = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
            if now.is_none_or(|now: u64| now < pages.count) {
                remarks.extend(set(&path, &pages.count.to_string()));
            }
        }
        let rest = ranges(&wanted.housekeeping);
        let folder = self.root.join("proc/irq");
        remarks.extend(set(&folder.join("default_smp_affinity"), &mask(&wanted.housekeeping)));
        // Interrupts of one processor, and those that the kernel manages, cannot be moved.
        let interrupts = fs::read_dir(&folder).into_iter().flatten().flatten();
        let moved = interrupts
            .map(|entry| entry.path().join("smp_affinity_list"))
            .filter(|path| path.exists() && fs::write(path, &rest).is_ok())
            .count();
        remarks.push(format!("{moved} interrupts go to processors {rest}"));
        if self.root == Path::new("/") {
            remarks.extend(keep_others_to(&rest));
        }
        remarks
    }
}

/// Every other service keeps to these processors; the node's slice is not among them.
fn keep_others_to(processors: &str) -> Option<String> {
    let setting = format!("AllowedCPUs={processors}");
    let failed: Vec<_> = OTHERS
        .into_iter()
        .filter(|unit| {
            let arguments = ["set-property", "--runtime", unit, &setting];
            !Command::new("systemctl").args(arguments).status().is_ok_and(|it| it.success())
        })
        .collect();
    (!failed.is_empty()).then(|| format!("systemctl set {setting} not for {}", failed.join(", ")))
}

/// On the disk before anybody switches the power off.
fn put_for_good(path: &Path, bytes: &[u8]) -> Result<(), String> {
    put(path, bytes)?;
    let folder = path.parent().unwrap_or(path);
    let synced = [path, folder].map(|it| File::open(it).and_then(|it| it.sync_all()));
    let failed = synced.into_iter().find_map(Result::err);
    failed.map_or(Ok(()), |error| Err(format!("{}: is not on the disk ({error})", path.display())))
}

/// Gone from the disk before anybody switches the power off: what came back would be in force.
fn remove_for_good(path: &Path) -> Result<(), String> {
    if !path.exists() {
        return Ok(());
    }
    in_force::remove(path)?;
    let folder = path.parent().unwrap_or(path);
    let synced = File::open(folder).and_then(|it| it.sync_all());
    synced.map_err(|error| format!("{}: cannot be removed for good ({error})", path.display()))
}

fn set(path: &Path, value: &str) -> Option<String> {
    let refused = fs::write(path, value).err()?;
    Some(format!("{}: takes no {value} ({refused})", path.display()))
}

/// As /proc/irq wants it: hexadecimal digits, in groups of eight, lowest last.
fn mask(processors: &[usize]) -> String {
    let groups = processors.iter().max().map_or(1, |last| last / 32 + 1);
    let mut words = vec![0_u32; groups];
    for processor in processors {
        words[processor / 32] |= 1 << (processor % 32);
    }
    words.iter().rev().map(|word| format!("{word:08x}")).collect::<Vec<_>>().join(",")
}

/// What the command line must have; huge pages are set while it runs.
fn words_of(line: &str) -> impl Iterator<Item = &str> {
    line.split(' ').filter(|word| !word.starts_with("hugepages"))
}

/// What to tell of it. Pure.
fn judge(seen: Seen, failed: &str, line: String) -> State {
    let (is_open, text) = match seen {
        Seen { holds: true, is_given: true, .. } => (false, "in force".to_owned()),
        Seen { is_given: true, .. } => (true, format!("given, but the kernel differs: {failed}")),
        Seen { is_kept: false, secure_boot: true, .. } => {
            (true, "need signing: see Kernel arguments in the manual".to_owned())
        }
        Seen { is_new: true, .. } => (true, "waiting for a restart".to_owned()),
        Seen { secure_boot: true, .. } => {
            (true, "waiting for a restart, or their signature was refused".to_owned())
        }
        _ => (true, "the boot loader did not take its add-on".to_owned()),
    };
    State { text, is_open, line }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::arguments::HugePages;

    /// Given, holds, kept, new, Secure Boot.
    fn told(seen: [bool; 5]) -> String {
        let [is_given, holds, is_kept, is_new, secure_boot] = seen;
        let seen = Seen { is_given, holds, is_kept, is_new, secure_boot };
        judge(seen, "nohz_full", "x".to_owned()).text
    }

    #[test]
    fn each_state_has_its_word() {
        const NO: bool = false;
        assert_eq!(told([true, true, true, NO, NO]), "in force");
        assert_eq!(told([true, NO, true, NO, true]), "given, but the kernel differs: nohz_full");
        assert!(told([NO, NO, NO, true, true]).starts_with("need signing"));
        assert_eq!(told([NO, NO, NO, true, NO]), "waiting for a restart");
        assert_eq!(told([NO, NO, true, true, true]), "waiting for a restart");
        assert!(told([NO, NO, true, NO, true]).ends_with("signature was refused"));
        assert!(told([NO, NO, true, NO, NO]).contains("did not take"));
    }

    #[test]
    fn masks_are_written_as_they_are_read() {
        assert_eq!(mask(&[0, 1]), "00000003");
        assert_eq!(mask(&[0, 33]), "00000002,00000001");
    }

    /// A machine in a folder: boot partition, kernel, and the files that it is set by.
    struct Server(tempfile::TempDir);

    impl Server {
        fn new() -> Self {
            let server = Self(tempfile::tempdir().unwrap());
            for folder in ["esp/loader", "run", "proc/irq/5", "sys/node0"] {
                fs::create_dir_all(server.path(folder)).unwrap();
            }
            let pages = "sys/devices/system/node/node0/hugepages/hugepages-2048kB";
            fs::create_dir_all(server.path(pages)).unwrap();
            for (name, text) in [
                ("proc/cmdline", "ro quiet\n"),
                ("proc/irq/default_smp_affinity", "f\n"),
                ("proc/irq/5/smp_affinity_list", "0-3\n"),
                (&format!("{pages}/nr_hugepages"), "0\n"),
            ] {
                fs::write(server.path(name), text).unwrap();
            }
            fs::write(server.path("stub"), addon::stub_for_tests()).unwrap();
            server
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn text(&self, name: &str) -> String {
            fs::read_to_string(self.path(name)).unwrap()
        }

        fn boot(&self, wanted: &Arguments) -> State {
            let command = KernelArguments {
                run: self.path("run"),
                esp: vec![self.path("esp")],
                root: self.0.path().to_owned(),
                stub: self.path("stub"),
            };
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let mut output = Output { out: &mut out, err: &mut err };
            command.bring_into_force(wanted, &mut output).unwrap()
        }
    }

    fn wanted() -> Arguments {
        Arguments {
            isolated: vec![2, 3],
            housekeeping: vec![0, 1],
            huge_pages: vec![HugePages { node: 0, count: 512 }],
            notes: Vec::new(),
        }
    }

    #[test]
    fn an_addon_is_written_once_and_the_plan_then_holds() {
        let server = Server::new();
        assert_eq!(server.boot(&wanted()).text, "waiting for a restart");
        let written = fs::read(server.path("esp").join(ADDON)).unwrap();
        assert_eq!(line_of(&written), Some(wanted().line()));
        let pages = "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages";
        assert_eq!(server.text(pages), "512");
        assert_eq!(server.text("proc/irq/default_smp_affinity"), "00000003");
        assert_eq!(server.text("proc/irq/5/smp_affinity_list"), "0-1");

        // A boot that did not take it does not write it again, and says so.
        assert!(server.boot(&wanted()).text.contains("did not take"));
        // The next boot has the arguments.
        let line = format!("ro quiet {}\n", wanted().line());
        fs::write(server.path("proc/cmdline"), line).unwrap();
        fs::create_dir_all(server.path("sys/devices/system/cpu")).unwrap();
        for name in ["isolated", "nohz_full"] {
            fs::write(server.path("sys/devices/system/cpu").join(name), "2-3\n").unwrap();
        }
        let state = server.boot(&wanted());
        assert_eq!((state.text.as_str(), state.is_open), ("in force", false));

        // No core is isolated any more: nothing is left behind.
        assert!(server.boot(&Arguments::default()).text.starts_with("none"));
        assert!(!server.path("esp").join(ADDON).exists());
    }

    #[test]
    fn under_secure_boot_the_owner_has_to_sign() {
        let server = Server::new();
        let variables = server.path("sys/firmware/efi/efivars");
        fs::create_dir_all(&variables).unwrap();
        let name = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
        fs::write(variables.join(name), [6, 0, 0, 0, 1]).unwrap();
        assert!(server.boot(&wanted()).text.starts_with("need signing"));
        assert!(!server.path("esp").join(ADDON).exists());
        assert!(server.path("esp").join(UNSIGNED).exists());
        fs::create_dir_all(server.path("esp/loader/addons")).unwrap();
        fs::copy(server.path("esp").join(UNSIGNED), server.path("esp").join(ADDON)).unwrap();
        assert!(server.boot(&wanted()).text.starts_with("waiting for a restart"));
    }
}
