//! The gate that a boot has to pass, and what a node tells where no port is open.

use crate::boot::Boot;
use crate::client::Node;
use crate::{Killed, basalt, dev, free_address, get};
use serde_json::Value;
use std::{
    fs,
    process::{Command, Output, Stdio},
    time::Instant,
};

/// `basalt health-gate` on a machine, whose node has its folder there.
fn gate(boot: &Boot, node: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_basalt"));
    command.args(["health-gate", "--window-s", "4"]);
    command.arg("--run").arg(boot.path("run")).arg("--node").arg(boot.path(node));
    command.arg("--state").arg(boot.path("state")).arg("--root").arg(boot.path(""));
    command.args(arguments).output().unwrap()
}

/// What it has left.
fn left(boot: &Boot, name: &str) -> Option<Value> {
    serde_json::from_slice(&fs::read(boot.path(&format!("state/{name}"))).ok()?).ok()
}

#[test]
fn a_good_boot_leaves_its_numbers_and_a_slow_one_is_refused_against_them() {
    let boot = Boot::new();
    let metrics = free_address();
    let text = format!("[metrics]\naddress = \"{metrics}\"\n[rpc]\naddress = \"127.0.0.1:0\"\n");
    boot.put("esp/loader/basalt/basalt.toml", &text);
    boot.in_force();
    let mut command = dev(&boot.path("chain"));
    command.env("BASALT_METRICS_ADDRESS", &metrics);
    let _node = Node::start(&mut command).unwrap();
    let gate = |arguments: &[&str]| gate(&boot, "run", arguments);
    let left = |name: &str| left(&boot, name);
    fs::create_dir(boot.path("etc")).unwrap();
    boot.put("etc/os-release", "IMAGE_VERSION=7\n");
    let learnt = gate(&["--learn"]);
    assert!(learnt.status.success(), "{}", String::from_utf8_lossy(&learnt.stderr));
    let baseline = left("baseline.json").unwrap();
    assert_eq!(baseline["version"], "7");
    assert!(baseline["blocks"].as_u64().unwrap() >= 2, "{baseline}");
    assert!(baseline["interval_ms"].as_f64().unwrap() >= 1.0, "{baseline}");

    // The same node, held to an interval that it cannot keep: 1 ms wanted, so 5 ms allowed.
    let fast = "[sequencing]\nmini_block_interval_ms = 1\n";
    boot.put("run/basalt.toml", fast);
    let slow = serde_json::json!({
        "version": "6", "blocks": 9, "interval_ms": 1.0, "log_ms": 900.0
    });
    boot.put("state/baseline.json", &slow.to_string());
    let refused = gate(&[]);
    assert_eq!(refused.status.code(), Some(1));
    let reason = left("refused.json").unwrap();
    let text = reason["reason"].as_str().unwrap();
    assert!(text.starts_with("an interval takes ") && text.ends_with("above 5.0 ms"), "{text}");
    assert_eq!(left("baseline.json").unwrap(), slow, "a bad boot sets no bounds");

    boot.put("run/basalt.toml", "");
    boot.put("state/baseline.json", &slow.to_string().replace("1.0", "100.0"));
    let good = gate(&[]);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert_eq!(left("refused.json"), None);
    assert_eq!(left("baseline.json").unwrap()["version"], "7");
}

#[test]
fn without_a_metrics_port_the_gate_asks_over_the_nodes_socket() {
    let boot = Boot::new();
    let text = "[metrics]\naddress = \"off\"\n[rpc]\naddress = \"127.0.0.1:0\"\n";
    boot.put("esp/loader/basalt/basalt.toml", text);
    assert_eq!(boot.in_force()["metrics_address"], "off");
    fs::create_dir(boot.path("run-node")).unwrap();
    let mut command = dev(&boot.path("chain"));
    command.env("RUNTIME_DIRECTORY", boot.path("run-node"));
    let node = Node::start(&mut command).unwrap();
    let good = gate(&boot, "run-node", &["--limit-s", "30"]);
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(left(&boot, "baseline.json").unwrap()["blocks"].as_u64().unwrap() >= 2);

    // It is the socket: without it there is nothing to ask.
    fs::remove_file(boot.path("run-node/metrics.sock")).unwrap();
    let refused = gate(&boot, "run-node", &["--limit-s", "1"]);
    assert_eq!(refused.status.code(), Some(1));
    let reason = left(&boot, "refused.json").unwrap()["reason"].to_string();
    assert!(reason.contains("was not ready within 1 s"), "{reason}");
    node.kill().unwrap();
}

#[test]
fn a_node_that_was_given_up_is_not_waited_for() {
    let boot = Boot::new();
    let text = "[metrics]\naddress = \"off\"\n";
    boot.put("esp/loader/basalt/basalt.toml", text);
    boot.in_force();
    boot.put("run/failure.txt", "the disk is full\n");
    let mut command = basalt(&["maintenance"], &boot.path("run"));
    let _maintenance = Killed(command.stdout(Stdio::null()).spawn().unwrap());
    let began = Instant::now();
    let refused = gate(&boot, "run", &["--limit-s", "300"]);
    assert!(began.elapsed().as_secs() < 60, "it has waited {:?}", began.elapsed());
    assert_eq!(refused.status.code(), Some(1));
    let reason = left(&boot, "refused.json").unwrap()["reason"].to_string();
    let wanted = "the node failed again and again: basalt.service: the disk is full";
    assert!(reason.contains(wanted), "{reason}");
}

#[test]
fn the_metrics_page_has_what_a_look_for_updates_has_left() {
    let boot = Boot::new();
    for folder in ["runtime/basalt-node", "runtime/basalt-update"] {
        fs::create_dir_all(boot.path(folder)).unwrap();
    }
    let metrics = free_address();
    let mut command = dev(&boot.path("chain"));
    command.env("BASALT_METRICS_ADDRESS", &metrics);
    command.env("RUNTIME_DIRECTORY", boot.path("runtime/basalt-node"));
    let node = Node::start(&mut command).unwrap();
    assert!(!get(&metrics, "/metrics").contains("basalt_update_available"));
    let line = "basalt_update_available{version=\"1.1\"} 1\n";
    boot.put("runtime/basalt-update/metrics.txt", line);
    let page = get(&metrics, "/metrics");
    assert!(page.ends_with(&format!("{line}# EOF\n")), "{page}");
    node.kill().unwrap();
}
