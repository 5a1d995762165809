//! Reads the text that a Prometheus endpoint gives: values by name, and quantiles of histograms.

use std::collections::BTreeMap;

/// Samples without labels other than a bucket's bound.
#[derive(Debug, Default)]
pub struct Exposition {
    values: BTreeMap<String, f64>,
    /// Upper bounds and cumulated counts, by name without `_bucket`.
    histograms: BTreeMap<String, Vec<(f64, f64)>>,
}

impl Exposition {
    /// Takes what can be read; other lines are passed over.
    pub fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            // A value may be followed by a time stamp or, after '#', by an exemplar.
            let Some((series, rest)) = split_series(line) else { continue };
            let value = rest.split_whitespace().next().and_then(|value| value.parse().ok());
            let Some(value) = value else { continue };
            match series.split_once('{') {
                None => {
                    all.values.insert(series.to_owned(), value);
                }
                Some((name, labels)) => {
                    if let (Some(name), Some(bound)) = (name.strip_suffix("_bucket"), bound(labels))
                    {
                        let buckets = all.histograms.entry(name.to_owned()).or_default();
                        buckets.push((bound, value));
                    }
                }
            }
        }
        for buckets in all.histograms.values_mut() {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        all
    }

    /// A counter or gauge.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }

    /// What a histogram counted since an earlier look at the same process.
    #[expect(clippy::float_arithmetic, reason = "metrics are no consensus data")]
    pub fn since(&self, before: &Self, histogram: &str) -> Self {
        let empty = Vec::new();
        let earlier = before.histograms.get(histogram).unwrap_or(&empty);
        let buckets = self.histograms.get(histogram).into_iter().flatten();
        let buckets = buckets.map(|(bound, count)| {
            let earlier = earlier.iter().find(|(other, _)| other.total_cmp(bound).is_eq());
            (*bound, count - earlier.map_or(0.0, |(_, count)| *count))
        });
        let histograms = [(histogram.to_owned(), buckets.collect())];
        Self { values: BTreeMap::new(), histograms: histograms.into() }
    }

    /// A histogram of durations in which each counts for as long as it took, for its bucket's lower
    /// bound at least: a wait of a second for more than ninety of ten milliseconds.
    #[expect(clippy::float_arithmetic, reason = "metrics are no consensus data")]
    pub fn by_time(&self, histogram: &str) -> Self {
        let (mut below_bound, mut below_count, mut time) = (0.0, 0.0, 0.0);
        let buckets = self.histograms.get(histogram).into_iter().flatten();
        let buckets = buckets.map(|(bound, count)| {
            time += (count - below_count) * below_bound;
            (below_bound, below_count) = (*bound, *count);
            (*bound, time)
        });
        let histograms = [(histogram.to_owned(), buckets.collect())];
        Self { values: BTreeMap::new(), histograms: histograms.into() }
    }

    /// The value that a share `quantile` of a histogram's observations does not exceed, taken as
    /// evenly spread within its bucket; beyond the last bound, that bound.
    #[expect(clippy::float_arithmetic, reason = "metrics are no consensus data")]
    pub fn quantile(&self, histogram: &str, quantile: f64) -> Option<f64> {
        let buckets = self.histograms.get(histogram)?;
        let total = buckets.last()?.1;
        if total <= 0.0 {
            return None;
        }
        let rank = total * quantile;
        let (mut below_bound, mut below_count) = (0.0, 0.0);
        for (bound, count) in buckets {
            if *count >= rank && *count > below_count {
                if bound.is_infinite() {
                    break;
                }
                let share = (rank - below_count) / (count - below_count);
                return Some(below_bound + (bound - below_bound) * share);
            }
            if bound.is_finite() {
                (below_bound, below_count) = (*bound, *count);
            }
        }
        Some(below_bound)
    }
}

/// Splits after the name, or after the labels where there are any.
fn split_series(line: &str) -> Option<(&str, &str)> {
    match line.find('}') {
        Some(end) => Some((&line[..end], &line[end + 1..])),
        None => line.split_once(' '),
    }
}

fn bound(labels: &str) -> Option<f64> {
    let (_, after) = labels.split_once("le=\"")?;
    match after.split_once('"')?.0 {
        "+Inf" => Some(f64::INFINITY),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# TYPE basalt_wal_items counter
basalt_wal_items_total 7
basalt_wal_item_seconds_bucket{le=\"0.001\"} 50 # {id=\"x\"} 0.0005
basalt_wal_item_seconds_bucket{le=\"0.002\"} 100
basalt_wal_item_seconds_bucket{le=\"+Inf\"} 100
basalt_late_bucket{le=\"0.5\"} 0
basalt_late_bucket{le=\"+Inf\"} 3
nonsense
# EOF
";

    #[test]
    fn values_and_quantiles_are_read() {
        let all = Exposition::parse(TEXT);
        assert_eq!(all.value("basalt_wal_items_total"), Some(7.0));
        assert_eq!(all.quantile("basalt_wal_item_seconds", 0.5), Some(0.001));
        let p99 = all.quantile("basalt_wal_item_seconds", 0.99).unwrap();
        assert!((0.0019..0.002).contains(&p99), "{p99}");
        assert_eq!(all.quantile("basalt_late", 0.5), Some(0.5));
        assert_eq!(all.quantile("basalt_nothing", 0.5), None);
        let text = "a_bucket{le=\"0.01\"} 0\na_bucket{le=\"0.02\"} 990\na_bucket{le=\"1\"} 990\n\
                    a_bucket{le=\"5\"} 998\na_bucket{le=\"+Inf\"} 998\n";
        let stalls = Exposition::parse(text);
        assert!(
            stalls.quantile("a", 0.99).is_some_and(|value| value <= 0.02),
            "eight of a thousand"
        );
        let by_time = stalls.by_time("a").quantile("a", 0.9);
        assert!(
            by_time.is_some_and(|value| value > 1.0),
            "but nearly half of the time: {by_time:?}"
        );
        let name = "basalt_wal_item_seconds";
        assert_eq!(all.since(&all, name).quantile(name, 0.5), None, "nothing since");
        assert_eq!(all.since(&Exposition::default(), name).quantile(name, 0.5), Some(0.001));
    }
}
