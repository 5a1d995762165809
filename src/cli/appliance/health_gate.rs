//! `basalt health-gate`: decides whether a boot of the appliance is a good one.
//!
//! 1. wait until the node is ready  2. measure for a window: blocks, intervals, latency of the log
//! 3. hold it against what the slot before measured  4. leave the numbers or the reason
//!
//! The numbers are bounds for the next version; the reason is for whoever looks after the machine
//! went back. It only decides; that the boot is blessed, or the machine goes back, is systemd's
//! part.

use crate::cli::appliance::console_facts::{Numbers, version};
use crate::cli::appliance::in_force::{self, InForce, Trouble};
use crate::cli::exposition::Exposition;
use crate::cli::{Output, say};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    fs::{self, File},
    path::PathBuf,
    thread,
    time::Duration,
};

const EXAMPLES: &str = "\
Examples:
  basalt health-gate                       in the first boots of an update, before it is blessed
  basalt health-gate --learn               in every other boot: measures, and refuses nothing

Good is: the node answers within --limit-s; in the --window-s after that, blocks are sealed; and
the interval within which nine tenths of the time pass and the 99th percentile of the log's latency
are at most --factor times those of the slot before, or five intervals and 50 ms where that is more.
Without numbers of a slot before, five times these.";

/// Of the time, not of the intervals: a node that stands still for most of it has few long ones and
/// many short ones between.
const TIME_SHARE: f64 = 0.9;
/// Of the writes.
const LOG_SHARE: f64 = 0.99;
/// What the numbers may be in any case.
const INTERVALS_MAX: f64 = 5.0;
const LOG_MAX_MS: f64 = 50.0;
/// How much more where no slot before measured anything.
const UNKNOWN_FACTOR: f64 = 5.0;
/// Blocks that a window has at least.
const BLOCKS_MIN: u64 = 2;
const INTERVAL: &str = "basalt_mini_block_interval_seconds";
const LOG: &str = "basalt_wal_durable_seconds";
const BASELINE: &str = "baseline.json";
const REFUSED: &str = "refused.json";

/// Arguments of `basalt health-gate`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct HealthGate {
    /// Measure and leave the numbers, whatever they are
    #[arg(long)]
    learn: bool,
    /// Seconds until the node must be ready
    #[arg(long, value_name = "N", default_value_t = 300)]
    limit_s: u64,
    /// Seconds to measure, at least three block intervals
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    window_s: u64,
    /// How many times slower than the slot before is still good
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    factor: u32,
    /// Folder of the configuration in force
    #[arg(long, value_name = "DIR", default_value = in_force::FOLDER)]
    run: PathBuf,
    /// Folder where the node leaves the reason of a failure
    #[arg(long, value_name = "DIR", default_value = in_force::NODE_FOLDER)]
    node: PathBuf,
    /// Folder of the numbers and reasons
    #[arg(long, value_name = "DIR", default_value = "/var/lib/basalt-health")]
    state: PathBuf,
    /// Root of the file systems
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

/// What a version measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Which.
    pub version: String,
    /// Blocks in the window.
    pub blocks: u64,
    /// Nine tenths of the time lie in intervals that are no longer.
    pub interval_ms: f64,
    /// 99th percentile of the log's latency.
    pub log_ms: f64,
}

/// Why a version went back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Which.
    pub version: String,
    /// In words.
    pub reason: String,
}

/// One look at the node's numbers.
struct Look {
    height: u64,
    metrics: Exposition,
}

impl HealthGate {
    /// Measures and decides.
    ///
    /// # Errors
    /// The reason of a refusal; it stands in `refused.json` too.
    pub fn run(self, output: &mut Output<'_>) -> Result<(), String> {
        let version = version(&self.root);
        let before: Option<Measured> = in_force::read_json(&self.state.join(BASELINE));
        let interval_ms = self.sequencing_ms("mini_block_interval_ms", 10);
        let decided = self.measure(&version).and_then(|measured| {
            let bounds = Bounds::of(before.as_ref(), self.factor, f64::from(interval_ms));
            match self.learn {
                true => Ok(measured),
                false => bounds.hold(&measured).map(|()| measured),
            }
        });
        match decided {
            Ok(measured) => {
                let Measured { blocks, interval_ms, log_ms, .. } = measured;
                self.leave(BASELINE, &measured)?;
                if !self.learn {
                    in_force::remove(&self.state.join(REFUSED))?;
                }
                let text = format!(
                    "{version}: {blocks} blocks in {} s, interval {interval_ms:.1} ms, log \
                     {log_ms:.1} ms\n",
                    self.window_s()
                );
                say(output.out, &text);
                Ok(())
            }
            Err(reason) if self.learn => Err(reason),
            Err(reason) => {
                let refused = Refused { version, reason: reason.replace('\n', " ") };
                let left = self.leave(REFUSED, &refused);
                let text = format!("{} is not good: {reason}", refused.version);
                left.map_err(|error| format!("{text}\n{error}"))?;
                Err(text)
            }
        }
    }

    /// Waits for the node, then measures a window.
    fn measure(&self, version: &str) -> Result<Measured, String> {
        let (port, start) = self.ready()?;
        thread::sleep(Duration::from_secs(self.window_s()));
        let end = self.look(&port).ok_or("the node went away while it was measured")?;
        let intervals = end.metrics.since(&start.metrics, INTERVAL).by_time(INTERVAL);
        let interval = intervals.quantile(INTERVAL, TIME_SHARE);
        let log = end.metrics.since(&start.metrics, LOG).quantile(LOG, LOG_SHARE);
        Ok(Measured {
            version: version.to_owned(),
            blocks: end.height.saturating_sub(start.height),
            interval_ms: interval.map(milliseconds).ok_or("no interval passed")?,
            log_ms: log.map(milliseconds).ok_or("nothing was written to the log")?,
        })
    }

    /// Where the node's numbers are, once it answers and has sealed a block of its own.
    fn ready(&self) -> Result<(String, Look), String> {
        let mut first = None;
        let given_up = self.node.join(in_force::GIVEN_UP);
        for _ in 0..=self.limit_s {
            if self.run.join(in_force::MAINTENANCE).exists() || given_up.exists() {
                break; // The configuration is refused, or the node failed: there will be no node.
            }
            let in_force: Option<InForce> = in_force::read_json(&self.run.join(in_force::IN_FORCE));
            let port = in_force.map(|it| it.metrics_address);
            if let Some((port, look)) =
                port.and_then(|port| Some((port.clone(), self.look(&port)?)))
            {
                let first = *first.get_or_insert(look.height);
                if look.height > first {
                    return Ok((port, look));
                }
            }
            thread::sleep(Duration::from_secs(1));
        }
        let trouble = Trouble::read(&self.run, &self.node, "off").map(|trouble| trouble.text());
        let trouble = trouble.map(|text| format!(": {text}")).unwrap_or_default();
        if given_up.exists() {
            return Err(format!("the node failed again and again{trouble}"));
        }
        let what = if first.is_some() { "sealed no block" } else { "was not ready" };
        Err(format!("the node {what} within {} s{trouble}", self.limit_s))
    }

    fn look(&self, port: &str) -> Option<Look> {
        let numbers = Numbers { folder: &self.node, port };
        let health: Value = serde_json::from_str(&numbers.get("/health")?).ok()?;
        let metrics = Exposition::parse(&numbers.get("/metrics")?);
        Some(Look { height: health["latest"].as_u64()?, metrics })
    }

    /// Milliseconds of `[sequencing]` in the configuration in force.
    fn sequencing_ms(&self, name: &str, default: u32) -> u32 {
        let text = fs::read_to_string(self.run.join(in_force::CONFIG)).unwrap_or_default();
        let document = toml_edit::Document::parse(text.as_str()).ok();
        let value = document
            .as_ref()
            .and_then(|document| document.as_table().get("sequencing")?.get(name)?.as_integer());
        value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default)
    }

    fn window_s(&self) -> u64 {
        let block_ms = u64::from(self.sequencing_ms("block_interval_ms", 1_000));
        self.window_s.max((3 * block_ms).div_ceil(1_000))
    }

    /// Writes what the machine must still have after it was reset.
    fn leave<T: Serialize>(&self, name: &str, value: &T) -> Result<(), String> {
        let path = self.state.join(name);
        let json = serde_json::to_vec_pretty(value).map_err(|error| error.to_string())?;
        in_force::put(&path, &json)?;
        let synced = File::open(&path).and_then(|file| file.sync_all());
        let synced = synced.and_then(|()| File::open(&self.state)?.sync_all());
        synced.map_err(|error| format!("{}: cannot be made durable ({error})", path.display()))
    }
}

/// What is good.
#[derive(Debug)]
struct Bounds {
    interval_ms: f64,
    log_ms: f64,
}

#[expect(clippy::float_arithmetic, reason = "times of a machine, no consensus data")]
impl Bounds {
    fn of(before: Option<&Measured>, factor: u32, interval_ms: f64) -> Self {
        let (least, log) = (INTERVALS_MAX * interval_ms, LOG_MAX_MS);
        match before {
            None => Self { interval_ms: UNKNOWN_FACTOR * least, log_ms: UNKNOWN_FACTOR * log },
            Some(before) => Self {
                interval_ms: least.max(before.interval_ms * f64::from(factor)),
                log_ms: log.max(before.log_ms * f64::from(factor)),
            },
        }
    }

    fn hold(&self, measured: &Measured) -> Result<(), String> {
        let Measured { blocks, interval_ms, log_ms, .. } = measured;
        let mut faults = Vec::new();
        if *blocks < BLOCKS_MIN {
            faults.push(format!("{blocks} blocks were sealed, at least {BLOCKS_MIN} must be"));
        }
        if *interval_ms > self.interval_ms {
            let bound = self.interval_ms;
            faults.push(format!("an interval takes {interval_ms:.1} ms, above {bound:.1} ms"));
        }
        if *log_ms > self.log_ms {
            let bound = self.log_ms;
            faults.push(format!("the log takes {log_ms:.1} ms, above {bound:.1} ms"));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
    }
}

#[expect(clippy::float_arithmetic, reason = "times of a machine, no consensus data")]
fn milliseconds(seconds: f64) -> f64 {
    seconds * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(blocks: u64, interval_ms: f64, log_ms: f64) -> Measured {
        Measured { version: "1".to_owned(), blocks, interval_ms, log_ms }
    }

    #[test]
    fn bounds_come_from_the_slot_before_but_are_never_petty() {
        let before = measured(20, 30.0, 2.0);
        let bounds = Bounds::of(Some(&before), 3, 10.0);
        bounds.hold(&measured(20, 89.0, 49.0)).unwrap();
        let error = bounds.hold(&measured(20, 91.0, 51.0)).unwrap_err();
        assert_eq!(
            error,
            "an interval takes 91.0 ms, above 90.0 ms; the log takes 51.0 ms, above 50.0 ms"
        );
        assert!(bounds.hold(&measured(1, 10.0, 1.0)).unwrap_err().starts_with("1 blocks"));
        let bounds = Bounds::of(None, 3, 10.0);
        bounds.hold(&measured(20, 250.0, 250.0)).unwrap();
        bounds.hold(&measured(20, 251.0, 1.0)).unwrap_err();
    }

    #[test]
    fn a_node_that_is_not_ready_in_time_is_refused_with_its_own_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        fs::write(path.join(in_force::FAILURE), "the disk is full\n").unwrap();
        let gate = |learn| HealthGate {
            learn,
            limit_s: 0,
            window_s: 1,
            factor: 3,
            run: path.clone(),
            node: path.clone(),
            state: path.clone(),
            root: path.clone(),
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut output = Output { out: &mut out, err: &mut err };
        gate(true).run(&mut output).unwrap_err();
        assert!(!path.join(REFUSED).exists(), "a lesson refuses nothing");
        let error = gate(false).run(&mut output).unwrap_err();
        assert!(
            error.contains("not ready within 0 s: basalt.service: the disk is full"),
            "{error}"
        );
        let refused: Refused = in_force::read_json(&path.join(REFUSED)).unwrap();
        assert!(refused.reason.ends_with("the disk is full"), "{refused:?}");
        assert!(!path.join(BASELINE).exists());
    }
}
