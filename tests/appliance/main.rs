//! What systemd runs on the appliance: the configuration of a boot, the words of a node to systemd,
//! maintenance, the status page.
#![expect(clippy::disallowed_methods, reason = "a test owns its threads and its time")]
#![expect(clippy::unwrap_used, reason = "a test: what cannot be is a failure")]

#[path = "../support/client.rs"]
mod client;
#[path = "../support/secured.rs"]
mod secured;
#[path = "../support/serve.rs"]
mod serve;

mod boot;
mod gate;

use boot::Boot;
use client::Node;
use secured::Secured;
use serde_json::Value;
use serve::serve;
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long anything may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const SECURE_BOOT: &str = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
const LOADER_INFO: &str = "LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

#[test]
fn without_configuration_it_is_a_development_chain_on_loopback() {
    let boot = Boot::new();
    let in_force = boot.in_force();
    assert_eq!(in_force["source"], "no configuration");
    assert_eq!(in_force["rpc_address"], "127.0.0.1:8545");
    assert_eq!(in_force["open_tcp_ports"], serde_json::json!([]));
    assert!(in_force["role"].as_str().unwrap().contains("loopback"));
    assert!(!fs::read_to_string(boot.path("run/ports.nft")).unwrap().contains("add rule"));
}

#[test]
fn the_esp_comes_before_a_credential_before_a_kernel_argument() {
    let boot = Boot::new();
    let url = serve("[rpc]\nbatch_max = 3\n");
    let digest = hex::encode(Sha256::digest(b"[rpc]\nbatch_max = 3\n"));
    boot.put("cmdline", &format!("ro basalt.config_url={url} basalt.config_sha256={digest}\n"));
    assert_eq!(boot.in_force()["source"], url);
    boot.put("credentials/basalt.config", "[rpc]\nbatch_max = 2\n");
    let in_force = boot.in_force();
    assert_eq!(in_force["source"], "credential basalt.config");
    assert!(in_force["notes"][0].as_str().unwrap().contains("does not count"));
    let text = "[rpc]\naddress = \"0.0.0.0:18545\"\n";
    boot.put("esp/loader/basalt/basalt.toml", text);
    let in_force = boot.in_force();
    let path = boot.path("esp/loader/basalt/basalt.toml").display().to_string();
    assert_eq!(in_force["source"], path);
    assert_eq!(in_force["sha256"], hex::encode(Sha256::digest(text)));
    assert_eq!(in_force["open_tcp_ports"], serde_json::json!([18_545]));
    assert_eq!(fs::read_to_string(boot.path("run/basalt.toml")).unwrap(), text);
    let ports = fs::read_to_string(boot.path("run/ports.nft")).unwrap();
    assert!(ports.ends_with("add rule inet basalt input tcp dport { 18545 } accept\n"), "{ports}");
    assert!(in_force["notes"].to_string().contains("known to all"), "{in_force}");
}

#[test]
fn data_that_cannot_be_had_keeps_the_node_from_starting_elsewhere() {
    let boot = Boot::new();
    let state = "disk=/dev/vda\nvolatile=yes\nreason=no TPM opens it\n";
    fs::create_dir(boot.path("disk")).unwrap();
    boot.put("disk/state", state);
    assert!(boot.in_force()["notes"].to_string().contains("in memory, until power-off: no TPM"));
    boot.put("disk/state", &format!("{state}fault=/dev/vda6 stays closed\nremedy=give the key\n"));
    let text = boot.refusal();
    assert!(text.contains("/dev/vda: /dev/vda6 stays closed; give the key"), "{text}");
}

#[test]
fn a_wrong_configuration_leaves_file_line_value_and_remedy_and_no_node() {
    let boot = Boot::new();
    boot.put("esp/loader/basalt/basalt.toml", "[rpc]\nbatch_max = 1\n");
    boot.in_force();
    let text = "[metrics]\naddress = \"0.0.0.0:19545\"\n[rpc]\nbatch_max = 0\n";
    boot.put("esp/loader/basalt/basalt.toml", text);
    let text = boot.refusal();
    let path = boot.path("esp/loader/basalt/basalt.toml").display().to_string();
    let wanted = format!("error: {path}:4: rpc.batch_max = 0 is out of range 1..=100000; use");
    assert!(text.starts_with(&wanted), "{text}");
    let left = fs::read(boot.path("run/maintenance.json")).unwrap();
    let left: Value = serde_json::from_slice(&left).unwrap();
    assert_eq!(left["metrics_address"], "0.0.0.0:19545", "where the operator looks");
    assert_eq!(left["faults"][0]["line"], 4);
    assert!(fs::read_to_string(boot.path("run/ports.nft")).unwrap().contains("{ 19545 } accept"));

    for (text, part) in [
        ("[data]\ndirectory = \"/tmp/x\"", ":2: data.directory = \"/tmp/x\" is not on the data"),
        ("[chain]\ngenesis_file = \"none.json\"", ":2: chain.genesis_file = \"none.json\" is no"),
        ("[rpc]\naddress = \"192.0.2.1:8545\"", ":2: rpc.address = \"192.0.2.1:8545\" is no addr"),
        ("[rpc", "no valid TOML"),
    ] {
        boot.put("esp/loader/basalt/basalt.toml", text);
        let refusal = boot.refusal();
        assert!(refusal.contains(part), "{refusal}");
    }
    fs::write(boot.path("esp/loader/basalt/basalt.toml"), b"[rpc]\n# \xff\n").unwrap();
    assert!(boot.refusal().contains("byte 8 is no UTF-8"));
}

#[test]
fn a_genesis_lies_beside_the_configuration() {
    let boot = Boot::new();
    boot.put("esp/loader/basalt/basalt.toml", "[chain]\ngenesis_file = \"genesis.json\"\n");
    boot.put("esp/loader/basalt/genesis.json", "{\"config\": {}}");
    let text = boot.refusal();
    assert!(text.contains("basalt.toml:2: chain.genesis_file = \"genesis.json\": "), "{text}");
    let genesis = "{\"config\": {\"chainId\": 77}, \"gasLimit\": \"0x3b9aca00\", \
                   \"difficulty\": \"0x0\", \"alloc\": {}}";
    boot.put("esp/loader/basalt/genesis.json", genesis);
    assert_eq!(boot.in_force()["role"], "single sequencer");
    assert_eq!(fs::read_to_string(boot.path("run/genesis.json")).unwrap(), genesis);
}

#[test]
fn a_configuration_by_url_needs_its_hash() {
    let boot = Boot::new();
    let wrong = |arguments: &str| {
        boot.put("cmdline", arguments);
        boot.refusal()
    };
    let zeros = "0".repeat(64);
    let text = wrong("basalt.config_url=http://127.0.0.1:1/");
    assert!(text.contains("without basalt.config_sha256="), "{text}");
    let text = wrong("basalt.config_url=http://127.0.0.1:1/ basalt.config_sha256=12");
    assert!(text.contains("is not 64 hexadecimal digits"), "{text}");
    let text = wrong(&format!("basalt.config_url=ftp://a/ basalt.config_sha256={zeros}"));
    assert!(text.contains("is no http:// or https:// URL"), "{text}");
    let text =
        wrong(&format!("basalt.config_url=http://127.0.0.1:1/ basalt.config_sha256={zeros}"));
    assert!(text.contains("cannot be fetched in 1 s"), "{text}");
    let url = serve("[rpc]\nbatch_max = 3\n");
    let text = wrong(&format!("basalt.config_url={url} basalt.config_sha256={zeros}"));
    assert!(text.contains(&format!("wanted {zeros}")), "{text}");
}

#[test]
fn a_configuration_by_https_is_from_a_server_that_an_authority_vouches_for() {
    let boot = Boot::new();
    for folder in ["www", "keys"] {
        fs::create_dir(boot.path(folder)).unwrap();
    }
    let text = "[rpc]\nbatch_max = 3\n";
    boot.put("www/basalt.toml", text);
    let secured = Secured::new(&boot.path("www"), &boot.path("keys"));
    let (url, digest) = (format!("{}/basalt.toml", secured.url), Sha256::digest(text));
    let digest = hex::encode(digest);
    boot.put("cmdline", &format!("ro basalt.config_url={url} basalt.config_sha256={digest}\n"));
    let run = |authorities: &str| {
        boot.command().env("SSL_CERT_FILE", boot.path(authorities)).output().unwrap()
    };
    let good = run("keys/authority.pem");
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert_eq!(fs::read_to_string(boot.path("run/basalt.toml")).unwrap(), text);
    boot.put("nobody.pem", "");
    let refused = run("nobody.pem");
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{error}");
    assert!(error.contains(&url) && error.contains("TLS: "), "{error}");
    assert!(!boot.path("run/basalt.toml").exists(), "a node could start");
}

#[test]
fn under_secure_boot_the_firmwares_tables_need_the_owners_word() {
    let boot = Boot::new();
    fs::write(boot.path(&format!("firmware/{SECURE_BOOT}")), [6, 0, 0, 0, 1]).unwrap();
    assert_eq!(boot.in_force()["source"], "no configuration");
    boot.put("credentials/basalt.config", "[rpc]\nbatch_max = 2\n");
    let text = boot.refusal();
    assert!(text.contains("credential basalt.config: Secure Boot is on"), "{text}");
    boot.put("accept", "");
    assert_eq!(boot.in_force()["source"], "credential basalt.config");
    fs::rename(boot.path("accept"), boot.path("closed")).unwrap();
    assert!(boot.run().status.success(), "boot programs that read no tables leave the owner's");
    fs::remove_file(boot.path("closed")).unwrap();
    boot.put("esp/loader/basalt/basalt.toml", "");
    let path = boot.path("esp/loader/basalt/basalt.toml").display().to_string();
    assert_eq!(boot.in_force()["source"], path, "the ESP is the owner's");
}

#[test]
fn only_the_debug_image_takes_keys_of_people() {
    let boot = Boot::new();
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGr5 me@desk";
    boot.put("esp/loader/basalt/basalt.toml", &format!("[debug]\nauthorized_keys = [\"{key}\"]\n"));
    boot.put("os-release", "ID=debian\nIMAGE_ID=basalt\n");
    let text = boot.refusal();
    assert!(
        text.contains("basalt.toml:2: debug.authorized_keys has keys, but this is the"),
        "{text}"
    );
    assert!(!boot.path("run/authorized_keys").exists());
    boot.put("os-release", "ID=debian\nIMAGE_ID=basalt-debug\nVARIANT_ID=debug\n");
    assert_eq!(boot.in_force()["open_tcp_ports"][0], 22);
    assert_eq!(fs::read_to_string(boot.path("run/authorized_keys")).unwrap(), format!("{key}\n"));
    boot.put("esp/loader/basalt/basalt.toml", "");
    assert_eq!(boot.in_force()["open_tcp_ports"].as_array().unwrap().len(), 0);
    assert!(!boot.path("run/authorized_keys").exists(), "a key that was taken out is gone");
}

#[test]
fn a_stick_without_data_installs_and_starts_no_node() {
    let boot = Boot::new();
    for (path, text) in [
        ("root/sys/block/sda/removable", "1\n"),
        ("root/run/basalt-disk/state", "disk=/dev/sda\nvolatile=yes\n"),
    ] {
        fs::create_dir_all(boot.path(path).parent().unwrap()).unwrap();
        boot.put(path, text);
    }
    // The address is one of the machine to come.
    let text = "[rpc]\naddress = \"192.0.2.7:8545\"\n[install]\ndisk = \"S1\"\nthen = \"stay\"\n";
    boot.put("esp/loader/basalt/basalt.toml", text);
    let output = boot.run();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!boot.path("run/basalt.toml").exists(), "a node could start");
    let left = fs::read(boot.path("run/install.json")).unwrap();
    let left: Value = serde_json::from_slice(&left).unwrap();
    assert_eq!((&left["disk"], &left["then"]), (&"S1".into(), &"stay".into()));
    boot.put("esp/loader/basalt/basalt.toml", "[install]\ndisk = \"/dev/sda\"\n");
    assert!(boot.refusal().contains("basalt.toml:2: install.disk = \"/dev/sda\" is another disk"));
    assert!(!boot.path("run/install.json").exists(), "an installation could start");
    boot.put("esp/loader/basalt/basalt.toml", "[install]\nrun_from_usb = true\n");
    assert_eq!(boot.in_force()["role"], "single sequencer with development accounts");
}

#[test]
fn an_esp_that_is_not_mounted_is_no_missing_configuration() {
    let boot = Boot::new();
    boot.put(&format!("firmware/{LOADER_INFO}"), "");
    boot.in_force();
    fs::remove_dir_all(boot.path("esp/loader")).unwrap();
    assert!(boot.refusal().contains("is not mounted on"));
}

#[test]
fn a_node_tells_systemd_that_it_is_ready_goes_on_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = dev(&folder.path().join("chain"));
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000");
    let node = Node::start(&mut command).unwrap();
    let mut words = String::new();
    let mut until = |word: &str| {
        while !words.contains(word) {
            let mut buffer = [0; 4096];
            let read = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("no {word}: {e}"));
            words.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
        std::mem::take(&mut words)
    };
    let start = until("READY=1\n");
    assert!(start.contains("STATUS=block 0, JSON-RPC on 127.0.0.1:"), "{start}");
    assert!(!start.contains("WATCHDOG=1"), "not before it is ready: {start}");
    until("WATCHDOG=1\n");
    until("STATUS=block 2, ");
    assert!(node.stop().unwrap());
    assert!(until("STOPPING=1\n").contains("STATUS="));
}

#[test]
fn a_node_that_cannot_start_leaves_its_reason_for_maintenance_and_the_console() {
    let folder = tempfile::tempdir().unwrap();
    let (chain, run) = (folder.path().join("chain"), folder.path().join("run"));
    fs::create_dir(&run).unwrap();
    fs::create_dir(&chain).unwrap();
    fs::write(chain.join("thesis.txt"), "").unwrap();
    let failed = dev(&chain).env("RUNTIME_DIRECTORY", &run).output().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    let reason = fs::read_to_string(run.join("failure.txt")).unwrap();
    assert!(reason.contains("holds files but no basalt.lock"), "{reason}");
    let console = basalt(&["console", "--once"], &run).output().unwrap();
    let page = String::from_utf8(console.stdout).unwrap();
    assert!(page.contains("node        down\n") && page.contains("MAINTENANCE\n"), "{page}");
    assert!(page.contains("holds files but"), "{page}");
    fs::remove_file(chain.join("thesis.txt")).unwrap();
    let node = Node::start(dev(&chain).env("RUNTIME_DIRECTORY", &run)).unwrap();
    assert!(!run.join("failure.txt").exists(), "what was wrong is mended");
    node.kill().unwrap();
}

#[test]
fn maintenance_tells_what_is_wrong_at_the_metrics_port() {
    let boot = Boot::new();
    let address = free_address();
    let text = format!("[metrics]\naddress = \"{address}\"\n[log]\nlevel = \"loud\"\n");
    boot.put("esp/loader/basalt/basalt.toml", &text);
    boot.refusal();
    let run = boot.path("run");
    let printed = basalt(&["maintenance", "--print"], &run).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("basalt.toml:4: log.level = \"loud\" is not one of"), "{printed}");
    let mut command = basalt(&["maintenance"], &run);
    let _maintenance = Killed(command.stdout(Stdio::null()).spawn().unwrap());
    let metrics = get(&address, "/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("\nbasalt_maintenance 1\n"));
    assert!(metrics.contains("line=\"4\",what=\"log.level = \\\"loud\\\" is"), "{metrics}");
    let health = get(&address, "/health");
    assert!(health.starts_with("HTTP/1.1 503") && health.contains("\"maintenance\""), "{health}");
    assert!(get(&address, "/").starts_with("HTTP/1.1 404"));
}

#[test]
fn the_console_shows_a_running_chain() {
    let boot = Boot::new();
    let metrics = free_address();
    boot.put(
        "esp/loader/basalt/basalt.toml",
        &format!("[metrics]\naddress = \"{metrics}\"\n[rpc]\naddress = \"127.0.0.1:18546\"\n"),
    );
    boot.in_force();
    let mut command = dev(&boot.path("chain"));
    command.env("BASALT_METRICS_ADDRESS", &metrics);
    let _node = Node::start(&mut command).unwrap();
    let started = Instant::now();
    let page = loop {
        let console = basalt(&["console", "--once"], &boot.path("run")).output().unwrap();
        let page = String::from_utf8(console.stdout).unwrap();
        if page.contains(" ms ago") || started.elapsed() > PATIENCE {
            break page;
        }
        thread::sleep(Duration::from_millis(200));
    };
    assert!(page.contains("\nheight      ") && page.contains(" ms ago\n"), "{page}");
    assert!(page.contains("role        single sequencer with development accounts\n"), "{page}");
    assert!(!page.contains("MAINTENANCE"), "{page}");
}

/// `basalt dev` on free ports.
fn dev(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_basalt"));
    command.env("BASALT_WAL_SEGMENT_BYTES", "4194304").env("BASALT_LOG_LEVEL", "warn");
    command.args(["dev", "--rpc", "127.0.0.1:0", "--data"]).arg(folder);
    command.env("BASALT_METRICS_ADDRESS", "off");
    command
}

/// A command that looks into `run` for what a boot and a node left.
fn basalt(arguments: &[&str], run: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_basalt"));
    command.args(arguments).arg("--run").arg(run).arg("--node").arg(run);
    command
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The answer to a GET, as soon as somebody answers.
fn get(address: &str, path: &str) -> String {
    let started = Instant::now();
    loop {
        if let Ok(mut stream) = TcpStream::connect(address) {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "nobody answers at {address}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A PE program as systemd's addonx64.efi.stub: headers of 1024 bytes, one section.
fn stub() -> Vec<u8> {
    let mut bytes = vec![0_u8; 2048];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"MZ");
    put(0x3c, &[0x40]);
    put(0x40, b"PE\0\0");
    put(0x46, &[1, 0]);
    put(0x54, &[240, 0]);
    put(0x58, &[0x0b, 0x02]);
    for (at, value) in [(0x78, 4096_u32), (0x7c, 512), (0x90, 8192), (0x94, 1024)] {
        put(at, &value.to_le_bytes());
    }
    put(0x148, b".sdmagic");
    for (at, value) in [(0x150, 52_u32), (0x154, 4096), (0x158, 512), (0x15c, 1024)] {
        put(at, &value.to_le_bytes());
    }
    bytes
}

#[test]
fn the_plans_kernel_arguments_become_an_addon() {
    let folder = tempfile::tempdir().unwrap();
    let (stub_file, addon) = (folder.path().join("stub"), folder.path().join("a.addon.efi"));
    let plan = |machine: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_basalt"));
        command.args(["plan", "--kernel-args", "--addon"]).arg(&addon);
        command.arg("--stub").arg(&stub_file).env("HWLOC_SYNTHETIC", machine).output().unwrap()
    };
    let large = "node:2(memory=16GB) core:8 pu:1";
    let refused = plan(large);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("install Debian's package"), "{text}");
    fs::write(&stub_file, stub()).unwrap();
    let refused = plan("node:1(memory=16GB) core:2 pu:1");
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("no add-on is written") && !addon.exists(), "{text}");
    let done = plan(large);
    assert!(done.status.success(), "{done:?}");
    let written = fs::read(&addon).unwrap();
    let wanted = b"isolcpus=managed_irq,domain,";
    assert!(written.windows(wanted.len()).any(|part| part == wanted));
}
