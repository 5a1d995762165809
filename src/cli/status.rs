//! `basalt status`: how a running node does, on one screen, from its JSON-RPC and its metrics.

use crate::cli::exposition::Exposition;
use crate::cli::{Output, say};
use crate::topology::seat::Stage;
use clap::Args;
use serde_json::{Map, Value, json};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a metrics page at most.
const METRICS_BYTES_MAX: u64 = 16 * 1024 * 1024;

const EXAMPLES: &str = "\
Examples:
  basalt status
  basalt status --rpc 10.0.0.7:8545 --metrics 10.0.0.7:9545 --json
  basalt status --metrics off              from JSON-RPC alone";

/// Arguments of `basalt status`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Status {
    /// The node's JSON-RPC; `http://` may be left out
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8545")]
    rpc: String,
    /// The node's metrics, or "off"; `http://` and the path `/metrics` may be left out
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9545/metrics")]
    metrics: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Asks and prints.
    ///
    /// # Errors
    /// Where the node does not answer.
    pub fn run(self, output: &mut Output<'_>) -> Result<(), String> {
        let agent = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT)).build();
        let agent = ureq::Agent::from(agent);
        let mut report = chain(&agent, &url(&self.rpc, ""))?;
        if self.metrics != "off" {
            let text = page(&agent, &url(&self.metrics, "/metrics"))?;
            report.extend(machinery(&Exposition::parse(&text)));
        }
        if self.json {
            say(output.out, &format!("{:#}\n", Value::Object(report)));
        } else {
            say(output.out, &screen(&report));
        }
        Ok(())
    }
}

/// A full URL from one that may lack the scheme, or the path where `path` is the usual one.
fn url(given: &str, path: &str) -> String {
    let (scheme, rest) = given.split_once("://").unwrap_or(("http", given));
    match rest.trim_end_matches('/') {
        address if address.contains('/') => format!("{scheme}://{rest}"),
        address => format!("{scheme}://{address}{path}"),
    }
}

/// Chain id, version and heights.
fn chain(agent: &ureq::Agent, url: &str) -> Result<Map<String, Value>, String> {
    let height = |tag: &str| -> Result<Value, String> {
        let block = ask(agent, url, "eth_getBlockByNumber", json!([tag, false]))?;
        Ok(quantity(&block["number"]))
    };
    let mut report = Map::new();
    report.insert("version".to_owned(), ask(agent, url, "web3_clientVersion", json!([]))?);
    report.insert("chain_id".to_owned(), quantity(&ask(agent, url, "eth_chainId", json!([]))?));
    for tag in ["latest", "pending", "finalized"] {
        report.insert(format!("{tag}_block"), height(tag)?);
    }
    Ok(report)
}

fn ask(agent: &ureq::Agent, url: &str, method: &str, params: Value) -> Result<Value, String> {
    let fault = |why: String| {
        format!("{url}: {method} failed ({why}); is the node up? name its address with --rpc URL")
    };
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let mut response = agent.post(url).send_json(&body).map_err(|e| fault(e.to_string()))?;
    let answer: Value = response.body_mut().read_json().map_err(|e| fault(e.to_string()))?;
    match answer.get("result") {
        Some(result) => Ok(result.clone()),
        None => Err(fault(answer["error"]["message"].to_string())),
    }
}

fn page(agent: &ureq::Agent, url: &str) -> Result<String, String> {
    let fault = |why: ureq::Error| {
        format!("{url}: {why}; name the metrics with --metrics URL, or leave them out with off")
    };
    let mut response = agent.get(url).call().map_err(fault)?;
    let body = response.body_mut().with_config().limit(METRICS_BYTES_MAX);
    body.read_to_string().map_err(fault)
}

/// A JSON-RPC quantity as a number; anything else stays.
fn quantity(value: &Value) -> Value {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x"));
    match digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
        Some(number) => number.into(),
        None => value.clone(),
    }
}

/// What metrics tell, in milliseconds; `null` where a metric is missing.
fn machinery(metrics: &Exposition) -> Map<String, Value> {
    let pair = |histogram: &str| {
        let at = |share| metrics.quantile(histogram, share).map(milliseconds);
        json!({ "p50_ms": at(0.5), "p99_ms": at(0.99) })
    };
    let stages = Stage::ALL.iter().map(|stage| {
        let name = stage.name();
        let of = |what: &str| metrics.value(&format!("basalt_{name}_{what}"));
        let numbers = json!({
            "items": of("items_total").map(whole),
            "busy_seconds": of("busy_seconds_total"),
            "queue": of("queue").map(whole),
        });
        (name.to_owned(), numbers)
    });
    let mut report = Map::new();
    report.insert("mini_block_interval".to_owned(), pair("basalt_mini_block_interval_seconds"));
    report.insert("wal_latency".to_owned(), pair("basalt_wal_durable_seconds"));
    report.insert("root_time".to_owned(), pair("basalt_state_root_seconds"));
    let value = |name: &str| json!(metrics.value(name).map(whole));
    report.insert("pool_transactions".to_owned(), value("basalt_pool_transactions"));
    report.insert("uptime_seconds".to_owned(), value("basalt_uptime_seconds"));
    report.insert("stages".to_owned(), Value::Object(stages.collect()));
    report
}

#[expect(clippy::float_arithmetic, reason = "metrics are no consensus data")]
fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e3
}

/// A count as a whole number; JSON readers expect no `7.0`.
#[expect(clippy::cast_possible_truncation, reason = "counts of one process fit 53 bits")]
fn whole(count: f64) -> i64 {
    count.round() as i64
}

fn screen(report: &Map<String, Value>) -> String {
    let shown = |value: Option<&Value>| match value {
        None | Some(Value::Null) => "–".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let of = |name: &str| shown(report.get(name));
    let mut text = format!("{}  chain {}\n\n", of("version"), of("chain_id"));
    for tag in ["latest", "pending", "finalized"] {
        text.push_str(&format!("{tag:<20}{}\n", of(&format!("{tag}_block"))));
    }
    for (title, name) in [
        ("mini-block interval", "mini_block_interval"),
        ("log write", "wal_latency"),
        ("state root", "root_time"),
    ] {
        if let Some(pair) = report.get(name) {
            let (p50, p99) = (shown(pair.get("p50_ms")), shown(pair.get("p99_ms")));
            text.push_str(&format!("{title:<20}p50 {p50} ms, p99 {p99} ms\n"));
        }
    }
    if report.contains_key("stages") {
        text.push_str(&format!("{:<20}{} transactions\n", "pool", of("pool_transactions")));
        text.push_str(&format!("{:<20}{} s\n", "uptime", of("uptime_seconds")));
    }
    if let Some(Value::Object(stages)) = report.get("stages") {
        text.push_str("\nstage            items      queue    busy s\n");
        for stage in Stage::ALL {
            let numbers = &stages[stage.name()];
            let column = |name: &str| shown(numbers.get(name));
            let busy =
                numbers["busy_seconds"].as_f64().map_or("–".to_owned(), |s| format!("{s:.1}"));
            let (items, queue) = (column("items"), column("queue"));
            text.push_str(&format!("{:<12}{items:>10}{queue:>11}{busy:>10}\n", stage.name()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_screen_tells_heights_times_and_queues() {
        let metrics = Exposition::parse(
            "basalt_wal_items_total 7\nbasalt_wal_queue 2\nbasalt_wal_busy_seconds_total 0.25\n\
             basalt_wal_durable_seconds_bucket{le=\"0.001\"} 7\n\
             basalt_wal_durable_seconds_bucket{le=\"+Inf\"} 7\nbasalt_pool_transactions 3\n",
        );
        let mut report = machinery(&metrics);
        report.insert("latest_block".to_owned(), quantity(&json!("0x2a")));
        let text = screen(&report);
        for part in ["latest              42", "pool                3 tr", "p50 0.5 ms", "–"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert_eq!(report["stages"]["wal"]["queue"], json!(2));
        assert_eq!(report["stages"]["trie"]["queue"], Value::Null);
    }

    #[test]
    fn an_address_without_scheme_or_path_is_enough() {
        for given in ["10.0.0.7:9545", "http://10.0.0.7:9545", "http://10.0.0.7:9545/"] {
            assert_eq!(url(given, "/metrics"), "http://10.0.0.7:9545/metrics", "{given}");
        }
        assert_eq!(
            url("https://node.example/basalt/m", "/metrics"),
            "https://node.example/basalt/m"
        );
        assert_eq!(url("127.0.0.1:8545", ""), "http://127.0.0.1:8545");
    }

    #[test]
    fn a_node_that_does_not_answer_is_named_with_a_remedy() {
        let status =
            Status { rpc: "http://127.0.0.1:1".to_owned(), metrics: "off".to_owned(), json: false };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let error = status.run(&mut Output { out: &mut out, err: &mut err }).unwrap_err();
        assert!(error.contains("127.0.0.1:1") && error.contains("--rpc"), "{error}");
    }
}
