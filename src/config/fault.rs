//! Where a value came from, and what was wrong with it.

use std::fmt;

/// The layer that a value came from, lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The manual, `default.toml`.
    Default,
    /// A configuration file.
    File {
        /// Its name as it was given.
        name: String,
        /// From 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// A command-line flag.
    Flag {
        /// With its dashes.
        flag: &'static str,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Environment { variable } => write!(f, "environment {variable}"),
            Self::Flag { flag } => write!(f, "flag {flag}"),
        }
    }
}

/// One thing that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {what}; {remedy}")]
pub struct Fault {
    /// Where it stands.
    pub origin: Origin,
    /// The setting, its value and what is wrong with it.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// All that is wrong with a configuration, one line a fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.faults))]
pub struct ConfigError {
    /// In the order of the layers and of the lines in them; never empty.
    pub faults: Vec<Fault>,
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The number of the line that byte `at` of `text` stands on, from 1.
pub fn line_of(text: &str, at: usize) -> usize {
    let head = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    head.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// `text` cut to a length that fits a message.
pub fn shortened(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
