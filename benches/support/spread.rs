//! What several runs gave: the median, and how far they lie apart.

use std::fmt::{Display, Formatter, Result};

/// Of some values. Written with as many decimals as asked for.
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut all: Vec<f64> = values.into_iter().collect();
        all.sort_unstable_by(f64::total_cmp);
        Self { least: all[0], median: all[all.len() / 2], most: all[all.len() - 1] }
    }
}

impl Display for Spread {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { least, median, most } = self;
        let decimals = f.precision().unwrap_or_default();
        write!(f, "{median:.decimals$} ({least:.decimals$} to {most:.decimals$})")
    }
}
