//! The command line from outside: help, refusals, exit codes, what `config` and `plan` print.

use basalt::cli::{EXIT_DONE, EXIT_FAILED, EXIT_USAGE, Kind, Outcome, Output, run};
use std::ffi::OsString;

struct Answer {
    outcome: Outcome,
    out: String,
    err: String,
}

fn basalt(arguments: &[&str]) -> Answer {
    basalt_in(arguments, &[("HOME", "/home/a")])
}

fn basalt_in(arguments: &[&str], environment: &[(&str, &str)]) -> Answer {
    let arguments = std::iter::once("basalt").chain(arguments.iter().copied());
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let output = Output { out: &mut out, err: &mut err };
    let outcome = run(arguments.map(OsString::from), environment.collect(), output);
    let text = |bytes| String::from_utf8(bytes).expect("answers are UTF-8");
    Answer { outcome, out: text(out), err: text(err) }
}

fn exit(answer: &Answer) -> u8 {
    match answer.outcome {
        Outcome::Exit(code) => code,
        Outcome::Start(_) => panic!("started"),
    }
}

const HELP: &str = "\
An Ethereum layer-2 node: durable mini-blocks every 10 ms, a sealed block every second

Usage: basalt [OPTIONS] <COMMAND>

Commands:
  dev             Run a development chain with funded accounts
  node            Run a node from a configuration file
  plan            Show which thread gets which core
  config          Check a configuration, or show the settings in force
  status          Show how the running node does, on one screen
  update          Bring an appliance to a newer version, or back to the one before
  install         Put a running image on a disk of this machine
  reset           Wipe the data of an appliance at its next boot
  support-bundle  Gather what somebody who helps needs to know, encrypted to your key
  scrub           Read a data folder from the disk itself, to find what rots
  help            Print this message or the help of the given subcommand(s)

Options:
      --log-format <FORM>  Form of the log on standard error [possible values: text, json]
  -h, --help               Print help (see more with '--help')
  -V, --version            Print version

Examples:
  basalt dev                               a chain on 127.0.0.1:8545 with ten funded accounts
";

#[test]
fn help_is_as_it_was() {
    let answer = basalt(&["-h"]);
    assert_eq!(exit(&answer), EXIT_DONE);
    assert!(answer.out.starts_with(HELP), "{}", answer.out);
    assert!(answer.out.contains("Exit codes: 0 done, 1 failed, 2 called wrongly."));
}

#[test]
fn every_subcommand_has_examples() {
    for arguments in [
        &["dev", "--help"][..],
        &["node", "--help"],
        &["plan", "--help"],
        &["config", "check", "--help"],
        &["config", "show", "--help"],
        &["status", "--help"],
        &["reset", "--help"],
        &["update", "apply", "--help"],
        &["scrub", "--help"],
        &["boot-config", "--help"],
        &["kernel-arguments", "--help"],
        &["maintenance", "--help"],
        &["console", "--help"],
        &["health-gate", "--help"],
    ] {
        let answer = basalt(arguments);
        assert_eq!(exit(&answer), EXIT_DONE);
        assert!(answer.out.contains("Examples:\n"), "{arguments:?}: {}", answer.out);
    }
}

#[test]
fn a_wrong_call_is_refused_with_2() {
    for arguments in [&["fly"][..], &["dev", "--speed", "9"], &[], &["node"]] {
        let answer = basalt(arguments);
        assert_eq!(exit(&answer), EXIT_USAGE, "{arguments:?}");
        assert!(!answer.err.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_wrong_value_is_refused_with_flag_and_remedy() {
    let answer = basalt(&["dev", "--mini-block-ms", "0"]);
    assert_eq!(exit(&answer), EXIT_FAILED);
    assert_eq!(
        answer.err,
        "error: flag --mini-block-ms: sequencing.mini_block_interval_ms = 0 is out of range \
         1..=1000; use 1..=1000, such as 10\n"
    );
}

#[test]
fn dev_comes_back_as_the_settings_to_run() {
    let answer = basalt(&["dev", "--fresh", "--data", "/d", "--chain-id", "5", "--accounts", "0"]);
    let Outcome::Start(start) = answer.outcome else { panic!("{}", answer.err) };
    assert!(start.fresh && start.kind == Kind::Dev);
    let config = &start.effective.config;
    assert_eq!(config.data_directory.to_str(), Some("/d"));
    assert_eq!((config.chain.id, config.chain.dev_accounts), (5, 0));
    assert!(!config.chain.id_is_default && !config.log.json);
    let answer = basalt(&["--log-format", "json", "dev"]);
    let Outcome::Start(start) = answer.outcome else { panic!("{}", answer.err) };
    assert!(start.effective.config.log.json);
    let folder = start.effective.config.data_directory;
    assert_eq!(folder.to_str(), Some("/home/a/.local/state/basalt/dev"));
}

#[test]
fn a_file_is_checked_and_shown_with_its_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (good, bad) = (path("good.toml"), path("bad.toml"));
    std::fs::write(&good, "[rpc]\nbatch_max = 7\n").unwrap();
    std::fs::write(&bad, "[rpc]\nbatch_mux = 7\n").unwrap();

    let answer = basalt(&["config", "check", &good]);
    assert_eq!((exit(&answer), answer.out), (EXIT_DONE, format!("{good}: good\n")));
    let answer = basalt(&["config", "check", &bad]);
    assert_eq!(exit(&answer), EXIT_FAILED);
    assert!(answer.err.contains(&format!("{bad}:2: rpc.batch_mux = 7")), "{}", answer.err);
    assert!(answer.err.contains("did you mean rpc.batch_max?"), "{}", answer.err);

    let environment = [("HOME", "/h"), ("BASALT_LOG_LEVEL", "warn")];
    let answer = basalt_in(&["config", "show", "--config", &good], &environment);
    let line = |key: &str| answer.out.lines().find(|line| line.starts_with(key)).unwrap();
    assert!(line("rpc.batch_max ").ends_with(&format!("# {good}:2")), "{}", answer.out);
    assert!(line("log.level").ends_with("# environment BASALT_LOG_LEVEL"), "{}", answer.out);
    assert!(line("rpc.logs_max").ends_with("# default"), "{}", answer.out);

    let answer = basalt_in(&["config", "show", "--json"], &environment);
    let json: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(json["log.level"]["value"], "warn");
    assert_eq!(json["chain.id"]["value"], 31_337);
}

#[test]
fn the_manual_is_a_valid_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manual.toml").display().to_string();
    std::fs::write(&path, basalt(&["config", "show", "--manual"]).out).unwrap();
    assert_eq!(exit(&basalt(&["config", "check", &path])), EXIT_DONE);
    let answer = basalt(&["node", "--config", &path]);
    assert!(matches!(answer.outcome, Outcome::Start(_)), "{}", answer.err);
}

#[test]
fn a_plan_has_every_stage() {
    let answer = basalt(&["plan", "--json"]);
    assert_eq!(exit(&answer), EXIT_DONE, "{}", answer.err);
    let json: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    let seats = json["seats"].as_array().unwrap();
    for stage in basalt::topology::seat::Stage::ALL {
        assert!(seats.iter().any(|seat| seat["stage"] == stage.name()), "{}", stage.name());
    }
    assert!(basalt(&["plan"]).out.contains("node 0"));
}

#[test]
fn kernel_arguments_are_a_line_and_agree_with_their_json() {
    let answer = basalt(&["plan", "--kernel-args"]);
    assert_eq!(exit(&answer), EXIT_DONE, "{}", answer.err);
    let json = basalt(&["plan", "--kernel-args", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(answer.out.trim_end(), value["line"].as_str().unwrap());
    let isolated = value["arguments"]["isolated"].as_array().unwrap().len();
    if isolated == 0 {
        assert!(answer.out.is_empty() && answer.err.contains("nothing is isolated"));
        let check = basalt(&["plan", "--kernel-args", "--check"]);
        assert_eq!(exit(&check), EXIT_DONE, "nothing is asked for: {}", check.err);
    } else {
        assert!(answer.out.starts_with("isolcpus=") && answer.out.lines().count() == 1);
    }
    assert_eq!(exit(&basalt(&["plan", "--check"])), EXIT_USAGE);
}

#[test]
fn a_machine_that_is_no_image_is_not_reset() {
    let answer = basalt(&["reset", "--confirm", "a"]);
    assert_eq!(exit(&answer), EXIT_FAILED);
    assert!(answer.err.contains("does not run the Basalt image"), "{}", answer.err);
}

#[test]
fn a_folder_is_scrubbed_and_one_that_is_not_there_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), vec![1; 5_000]).unwrap();
    let path = folder.path().display().to_string();
    let answer = basalt(&["scrub", &path]);
    assert_eq!((exit(&answer), answer.err), (EXIT_DONE, String::new()));
    assert_eq!(answer.out, format!("{path}: 1 files, 0 MiB, all readable\n"));
    let answer = basalt(&["scrub", "/nowhere"]);
    assert_eq!(exit(&answer), EXIT_FAILED);
    assert!(answer.err.contains("/nowhere: cannot be listed"), "{}", answer.err);
}
