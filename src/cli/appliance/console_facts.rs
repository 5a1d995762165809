//! What the status page shows, read from the machine and asked of the running node.

use crate::cli::appliance::boot_config::reachable;
use crate::cli::appliance::boot_network;
use crate::cli::appliance::disk_state::DiskState;
use crate::cli::appliance::health_gate::Refused;
use crate::cli::appliance::in_force::{self, InForce, Trouble};
use crate::cli::appliance::kernel_arguments;
use crate::cli::appliance::request_file::Outcome;
use crate::cli::appliance::time_state::{self, TimeState};
use crate::cli::appliance::update_schedule::Last;
use crate::cli::exposition::Exposition;
use serde_json::Value;
use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Control group of the node's service.
const NODE_GROUP: &str = "sys/fs/cgroup/basalt.slice/basalt.service";
/// How long the node may take to answer.
const TIMEOUT: Duration = Duration::from_millis(800);
/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// A mini-block or heartbeat that is older than this: the chain stands still.
const STALE_MS: i64 = 3_000;
/// Where the health gate says why it refused a version.
const REFUSED: &str = "var/lib/basalt-health/refused.json";
/// What became of the last request.
const REQUEST: &str = "run/basalt-request/outcome.json";
/// The image build leaves it where it signs.
const SIGNED: &str = "usr/lib/basalt/signed";
const SECURE_BOOT: &str =
    "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Where to look.
#[derive(Debug)]
pub struct Places {
    /// Of the configuration in force.
    pub run: PathBuf,
    /// Of the node's failures.
    pub node: PathBuf,
    /// Of what the initrd has decided about disks.
    pub disk: PathBuf,
    /// Of everything else.
    pub root: PathBuf,
}

/// What is on the page.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Of the image, else of this program.
    pub version: String,
    /// What the last look for updates found.
    pub update: Option<String>,
    /// What became of the operator's last request.
    pub request: Option<Outcome>,
    /// The machine's name.
    pub hostname: String,
    /// An update that did not prove itself, and why.
    pub refused_update: Option<String>,
    /// A slot that was left because of what it holds, and why.
    pub left_slot: Option<String>,
    /// What is corrupted in the slot that runs.
    pub corrupted: Option<String>,
    /// Of the encrypted data, shown during the boot that made it.
    pub recovery_key: Option<String>,
    /// Without loopback's.
    pub addresses: Vec<String>,
    /// Which root partition runs.
    pub slot: String,
    /// `None` without UEFI.
    pub secure_boot: Option<bool>,
    /// Whether the image was signed for Secure Boot; `None` where this is no image.
    pub is_signed: Option<bool>,
    /// What the machine is.
    pub role: String,
    /// Where the configuration came from.
    pub config: String,
    /// `None` where the node does not answer.
    pub chain: Option<Chain>,
    /// Why no node runs.
    pub trouble: Vec<String>,
    /// Of the journal.
    pub errors: Vec<String>,
    /// What is isolated.
    pub tune: String,
    /// Whether the plan's kernel arguments are in force.
    pub arguments: Option<kernel_arguments::State>,
    /// Of the data partition.
    pub disk: String,
    /// How well the clock is set.
    pub time: Clock,
    /// Of the node, now and at most since its start, and of the machine.
    pub memory: String,
    /// Since the boot.
    pub up: String,
    /// The image lets people in.
    pub is_debug: bool,
}

/// How well the clock is set.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// For people.
    pub text: String,
    /// By an authenticated server.
    pub is_good: bool,
}

/// How the chain does.
#[derive(Debug, Clone)]
pub struct Chain {
    /// Newest sealed block.
    pub height: u64,
    /// Newest block under a steady checkpoint.
    pub steady: u64,
    /// Newest durable mini-block.
    pub mini_block: u64,
    /// Since the newest mini-block or heartbeat.
    pub age: String,
    /// It stands still.
    pub is_stale: bool,
}

impl Places {
    /// Everything but the errors, which cost a process.
    pub fn look(&self, errors: Vec<String>) -> Facts {
        let in_force: Option<InForce> = in_force::read_json(&self.run.join(in_force::IN_FORCE));
        let metrics = in_force.as_ref().map_or("off", |it| it.metrics_address.as_str());
        let chain = chain(&Numbers { folder: &self.node, port: metrics });
        let trouble = match chain {
            Some(_) => Vec::new(),
            None => Trouble::read(&self.run, &self.node, metrics)
                .map(|trouble| trouble.text().lines().map(str::to_owned).collect())
                .unwrap_or_default(),
        };
        let release = self.text("etc/os-release");
        let disk = DiskState::read(&self.disk);
        let role = in_force.as_ref().map_or("none yet", |it| it.role.as_str()).to_owned();
        Facts {
            version: version(&self.root),
            refused_update: refused_update(&self.root),
            disk: self.disk() + &disk.words(),
            memory: self.memory().unwrap_or_else(|| "no service of the node".to_owned()),
            left_slot: disk.left,
            corrupted: disk.corrupted,
            recovery_key: disk.recovery_key,
            update: Last::read(&self.root).map(|last| last.line(&version(&self.root))),
            request: in_force::read_json(&self.root.join(REQUEST)),
            hostname: self.text("proc/sys/kernel/hostname").trim().to_owned(),
            addresses: self.addresses(),
            slot: self.slot().unwrap_or_else(|| "not an image: no verified root".to_owned()),
            secure_boot: is_secure_boot(&self.root),
            is_signed: assigned(&release, "IMAGE_ID").map(|_| self.root.join(SIGNED).exists()),
            role,
            config: in_force.map_or("not checked yet".to_owned(), |it| it.source),
            chain,
            trouble,
            errors,
            tune: self.tune(),
            time: self.time(),
            arguments: in_force::read_json(&self.run.join(kernel_arguments::STATE)),
            up: up(&self.text("proc/uptime")),
            is_debug: assigned(&release, "VARIANT_ID").is_some_and(|it| it.contains("debug")),
        }
    }

    /// The newest errors of the journal; none where there is no journal.
    pub fn logged_errors(&self, count_max: usize) -> Vec<String> {
        let count = count_max.to_string();
        let mut command = Command::new("journalctl");
        command.args(["-q", "--no-pager", "-b", "-p", "err", "-o", "short-iso", "-n", &count]);
        let text = command.output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().take(count_max).map(str::to_owned).collect()
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_default()
    }

    /// IPv4 from the routing tables, IPv6 from the list of interfaces.
    fn addresses(&self) -> Vec<String> {
        let mut all = local_v4(&self.text("proc/net/fib_trie"));
        all.extend(global_v6(&self.text("proc/net/if_inet6")));
        all
    }

    /// Name and device of the partition below the verified root.
    fn slot(&self) -> Option<String> {
        let blocks = self.root.join("sys/block");
        let mut maps = fs::read_dir(blocks).ok()?.flatten().map(|entry| entry.path());
        let root = maps.find(|path| {
            fs::read_to_string(path.join("dm/name")).is_ok_and(|name| name.trim() == "root")
        })?;
        let mut parts = fs::read_dir(root.join("slaves")).ok()?.flatten();
        let named = parts.find_map(|entry| {
            let event = fs::read_to_string(entry.path().join("uevent")).ok()?;
            let name = assigned(&event, "PARTNAME").filter(|name| !name.ends_with("_verity"))?;
            Some(format!("{name} on {}", entry.file_name().to_string_lossy()))
        });
        named.or_else(|| Some("verified root".to_owned()))
    }

    fn tune(&self) -> String {
        let read = |name: &str| {
            let text = self.text(&format!("sys/devices/system/cpu/{name}"));
            Some(text.trim().to_owned()).filter(|text| !text.is_empty() && !text.contains("null"))
        };
        match (read("isolated"), read("nohz_full")) {
            (None, None) => "no core isolated".to_owned(),
            (isolated, full) => format!(
                "isolated {}, no ticks on {}",
                isolated.unwrap_or_else(|| "none".to_owned()),
                full.unwrap_or_else(|| "none".to_owned()),
            ),
        }
    }

    /// From what `time-state` left, else from the configuration.
    fn time(&self) -> Clock {
        let read = |path: &str| self.root.join(path.trim_start_matches('/'));
        let state: Option<TimeState> = in_force::read_json(&read(time_state::FILE));
        let named: Option<Value> =
            in_force::read_json(&read(boot_network::FOLDER).join(boot_network::TIME));
        let authenticated = |is: bool| if is { "authenticated" } else { "not authenticated" };
        let text = match &state {
            Some(state) if state.is_synchronised => format!(
                "{} us off, {}, by {}",
                state.offset_ns / 1_000,
                authenticated(state.is_authenticated),
                state.server
            ),
            _ => {
                let is = named.is_some_and(|it| it["authenticated"] == Value::Bool(true));
                format!("not synchronised yet, servers {}", authenticated(is))
            }
        };
        let is_good = state.is_some_and(|it| it.is_synchronised && it.is_authenticated);
        Clock { text, is_good }
    }

    /// What the node's control group is charged: its own memory, and pages of its files.
    fn memory(&self) -> Option<String> {
        let charged = |name: &str| {
            let bytes = self.text(&format!("{NODE_GROUP}/memory.{name}"));
            Some(bytes.trim().parse::<u64>().ok()? >> 20)
        };
        let machine = self.text("proc/meminfo");
        let kib = machine.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let all = kib.trim().strip_suffix(" kB")?.parse::<u64>().ok()? >> 10;
        Some(format!("node {} MiB, at most {} of {all}", charged("current")?, charged("peak")?))
    }

    fn disk(&self) -> String {
        let path = self.root.join("var/lib");
        let read_only = match is_read_only(&self.text("proc/self/mountinfo"), "/var") {
            true => ", READ-ONLY",
            false => "",
        };
        match space(&path) {
            Ok(text) => format!("{text}{read_only}"),
            Err(error) => format!("unknown ({error})"),
        }
    }
}

/// Asks the node.
fn chain(numbers: &Numbers<'_>) -> Option<Chain> {
    let health: Value = serde_json::from_str(&numbers.get("/health")?).ok()?;
    let metrics = Exposition::parse(&numbers.get("/metrics")?);
    let age = metrics.value("basalt_interval_timestamp_ms").and_then(age_ms);
    Some(Chain {
        height: health["latest"].as_u64()?,
        steady: health["steady"].as_u64()?,
        mini_block: health["mini_block"].as_u64()?,
        age: age.map_or("none yet".to_owned(), |ms| format!("{ms} ms ago")),
        is_stale: age.is_none_or(|ms| ms > STALE_MS),
    })
}

/// Where a node on this machine tells its numbers: the socket, which is there whatever the
/// configuration says, else the port.
pub(super) struct Numbers<'a> {
    /// Of the node.
    pub folder: &'a Path,
    /// As configured; "off" is none.
    pub port: &'a str,
}

impl Numbers<'_> {
    /// A page; `None` where the node does not answer, or not well.
    pub(super) fn get(&self, path: &str) -> Option<String> {
        let over_socket = UnixStream::connect(self.folder.join(in_force::METRICS));
        if let Some(page) = over_socket.ok().and_then(|stream| ask(stream, path).ok()?) {
            return Some(page);
        }
        let address = reachable(self.port.parse().ok()?);
        let agent = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).build();
        let agent = ureq::Agent::from(agent);
        let mut answer = agent.get(format!("http://{address}{path}")).call().ok()?;
        answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().ok()
    }
}

/// One request over a socket; the node closes it after the answer.
fn ask(mut stream: UnixStream, path: &str) -> io::Result<Option<String>> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: node\r\n\r\n").as_bytes())?;
    let answer = io::read_to_string(stream.take(ANSWER_BYTES_MAX))?;
    let page = answer.strip_prefix("HTTP/1.1 200 ").and_then(|rest| rest.split_once("\r\n\r\n"));
    Ok(page.map(|(_, page)| page.to_owned()))
}

#[expect(clippy::cast_possible_truncation, reason = "milliseconds since 1970 fit 53 bits")]
fn age_ms(at_ms: f64) -> Option<i64> {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis();
    let at_ms = at_ms as i64;
    (at_ms > 0).then(|| (i64::try_from(now_ms).unwrap_or(i64::MAX) - at_ms).max(0))
}

/// What the health gate wrote of a version that is not the running one.
fn refused_update(root: &Path) -> Option<String> {
    let refused: Refused = in_force::read_json(&root.join(REFUSED))?;
    (refused.version != version(root))
        .then(|| format!("{} went back: {}", refused.version, refused.reason))
}

/// Whether the firmware enforces signatures; `None` without UEFI. Firmware that cannot do it has no
/// variable that says so.
pub(super) fn is_secure_boot(root: &Path) -> Option<bool> {
    let is_uefi = root.join("sys/firmware/efi").is_dir();
    let told = fs::read(root.join(SECURE_BOOT));
    is_uefi.then(|| told.is_ok_and(|bytes| bytes.get(4) == Some(&1)))
}

/// The image's version, else this program's.
pub(super) fn version(root: &Path) -> String {
    let release = fs::read_to_string(root.join("etc/os-release")).unwrap_or_default();
    assigned(&release, "IMAGE_VERSION").unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned())
}

/// The value of `NAME=value` or `NAME="value"` in a text of such lines.
pub(super) fn assigned(text: &str, name: &str) -> Option<String> {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.next().map(|value| value.trim_matches('"').to_owned())
}

/// Addresses that `fib_trie` has as local hosts, each once, without loopback.
fn local_v4(table: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut last = "";
    for line in table.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address;
        } else if line.starts_with("/32 host LOCAL")
            && !last.starts_with("127.")
            && !found.iter().any(|known| known == last)
        {
            found.push(last.to_owned());
        }
    }
    found
}

/// Addresses of global scope in `if_inet6`.
fn global_v6(table: &str) -> Vec<String> {
    let addresses = table.lines().filter_map(|line| {
        let mut columns = line.split_whitespace();
        let (digits, scope) = (columns.next()?, columns.nth(2)?);
        let bits = u128::from_str_radix(digits, 16).ok().filter(|_| scope == "00")?;
        Some(std::net::Ipv6Addr::from_bits(bits).to_string())
    });
    addresses.collect()
}

fn up(uptime: &str) -> String {
    let seconds = uptime.split('.').next().and_then(|text| text.parse::<u64>().ok());
    let Some(seconds) = seconds else { return "unknown".to_owned() };
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min {} s", seconds % 60),
        (0, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Used and all space of the file system below a path.
fn space(path: &Path) -> Result<String, String> {
    let (all, free) = sizes(path)?;
    Ok(format!("{} MiB free of {}", free >> 20, all >> 20))
}

/// Bytes that are left on the file system below a path.
pub(super) fn free_bytes(path: &Path) -> Result<u64, String> {
    sizes(path).map(|(_, free)| free).map_err(|error| format!("{}: {error}", path.display()))
}

/// Bytes of a file system, and those that are left.
#[expect(unsafe_code, reason = "the standard library cannot ask a file system for its space")]
fn sizes(path: &Path) -> Result<(u64, u64), String> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: statvfs is plain numbers, for which zero is a value.
    let mut state: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call; the kernel writes one statvfs.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut state) } != 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    let bytes = |blocks: u64| blocks.saturating_mul(state.f_frsize);
    Ok((bytes(state.f_blocks), bytes(state.f_bavail)))
}

/// Whether the file system on a mount point takes no writes from anybody, as after an error. The
/// mount alone says nothing: this process's own view of it is read-only.
fn is_read_only(mountinfo: &str, point: &str) -> bool {
    let mut lines = mountinfo.lines().filter(|line| line.split(' ').nth(4) == Some(point));
    let options = lines.next().and_then(|line| line.split_once(" - ")?.1.split(' ').nth(2));
    options.is_some_and(|options| options.split(',').any(|option| option == "ro"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_once_and_without_loopback() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.2.15\n        /32 host LOCAL\n\
                     |-- 10.0.2.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        \
                     /32 host LOCAL\nLocal:\n     |-- 10.0.2.15\n        /32 host LOCAL\n";
        assert_eq!(local_v4(table), ["10.0.2.15"]);
        let table = "fec0000000000000505400fffe123456 02 40 40 80 enp0s3\n\
                     20010db8000000000000000000000007 02 40 00 80 enp0s3\n\
                     00000000000000000000000000000001 01 80 10 80 lo\n";
        assert_eq!(global_v6(table), ["2001:db8::7"]);
    }

    #[test]
    fn a_slot_is_the_partition_below_the_verified_root() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("sys/block/dm-0/dm/name", "root\n");
        put("sys/block/dm-0/slaves/vda3/uevent", "DEVNAME=vda3\nPARTNAME=basalt_1_verity\n");
        put("sys/block/dm-0/slaves/vda2/uevent", "DEVNAME=vda2\nPARTNAME=basalt_1\n");
        put("etc/os-release", "ID=debian\nIMAGE_VERSION=\"1.2\"\nVARIANT_ID=debug\n");
        put("proc/sys/kernel/hostname", "node-7\n");
        put("sys/devices/system/cpu/isolated", "2-3\n");
        put("sys/devices/system/cpu/nohz_full", "(null)\n");
        put("var/lib/x", "");
        put(
            "run/basalt-time/state.json",
            "{\"is_synchronised\":true,\"is_authenticated\":true,\"server\":\"192.0.2.1\",\
             \"offset_ns\":-12345}",
        );
        let folder = root.path().to_owned();
        put("proc/meminfo", "MemTotal:        1000000 kB\nMemFree: 1 kB\n");
        put("sys/fs/cgroup/basalt.slice/basalt.service/memory.current", "104857600\n");
        put("sys/fs/cgroup/basalt.slice/basalt.service/memory.peak", "209715200\n");
        put("state", "disk=/dev/vda\ndata=/dev/vda6\nencrypted=yes\n");
        let disk = folder.clone();
        let places = Places { run: folder.clone(), node: folder.clone(), disk, root: folder };
        let facts = places.look(Vec::new());
        assert_eq!(facts.slot, "basalt_1 on vda2");
        assert_eq!((facts.version.as_str(), facts.hostname.as_str()), ("1.2", "node-7"));
        assert!(facts.is_debug && facts.chain.is_none() && facts.secure_boot.is_none());
        assert_eq!(facts.is_signed, None);
        put("etc/os-release", "IMAGE_ID=basalt\n");
        assert_eq!(places.look(Vec::new()).is_signed, Some(false));
        put(SIGNED, "");
        assert_eq!(places.look(Vec::new()).is_signed, Some(true));
        assert_eq!(facts.tune, "isolated 2-3, no ticks on none");
        assert!(facts.disk.contains("MiB free of"), "{}", facts.disk);
        assert_eq!(facts.memory, "node 100 MiB, at most 200 of 976");
        assert!(facts.disk.ends_with(" on /dev/vda6, encrypted"), "{}", facts.disk);
        assert!(facts.time.is_good);
        assert_eq!(facts.time.text, "-12 us off, authenticated, by 192.0.2.1");
        fs::remove_dir_all(places.root.join("run")).unwrap();
        let time = places.look(Vec::new()).time;
        assert_eq!((time.is_good, time.text.contains("not synchronised")), (false, true));
    }

    #[test]
    fn a_file_system_is_read_only_where_its_superblock_says_so() {
        let line = |mount: &str, superblock: &str| {
            format!("40 30 254:5 / /var {mount},noatime shared:1 - ext4 /dev/vda6 {superblock}\n")
        };
        assert!(!is_read_only(&line("ro", "rw,errors=remount-ro"), "/var"));
        assert!(is_read_only(&line("rw", "ro"), "/var"));
        assert!(!is_read_only(&line("rw", "ro"), "/") && !is_read_only("", "/var"));
    }

    #[test]
    fn times_are_for_people() {
        assert_eq!(up("59.3 1"), "0 min 59 s");
        assert_eq!(up("7260.0 1"), "2 h 1 min");
        assert_eq!(up("180000.0 1"), "2 d 2 h");
        assert_eq!(age_ms(0.0), None);
    }
}
