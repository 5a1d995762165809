//! `[update]`: where an appliance looks for updates, and what it does with them by itself.

use crate::config::appliance::Complain;
use crate::config::fault::shortened;
use serde::Deserialize;

/// `[update]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Update {
    /// A folder or a URL; empty: nowhere.
    pub source: String,
    /// What is done with what is found there.
    pub apply: Apply,
    /// Time of day in UTC, `HH:MM`.
    pub at: String,
}

/// What is done with an update that was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Apply {
    /// It is not looked for.
    #[default]
    Never,
    /// It is told.
    Check,
    /// It is applied, and the machine restarted.
    Automatic,
}

impl Default for Update {
    fn default() -> Self {
        Self { source: String::new(), apply: Apply::Never, at: "03:00".to_owned() }
    }
}

impl Update {
    /// Minutes after midnight, UTC, of `at`.
    pub fn minute(&self) -> Option<u32> {
        let (hours, minutes) = self.at.split_once(':')?;
        let number = |text: &str, below: u32| {
            let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u32>().ok().filter(|number| digits && *number < below)
        };
        Some(number(hours, 24)? * 60 + number(minutes, 60)?)
    }

    pub(super) fn check(&self, complain: Complain<'_>) {
        let source = &self.source;
        let is_url = ["http://", "https://"].iter().any(|scheme| source.starts_with(scheme));
        if !(source.is_empty() || is_url || source.starts_with('/')) {
            complain(
                "update.source",
                format!("update.source = \"{}\" is no place of updates", shortened(source)),
                "use an http:// or https:// URL, or a folder from / on".to_owned(),
            );
        }
        if source.is_empty() && self.apply != Apply::Never {
            complain(
                "update.apply",
                "update.apply is set, but update.source is empty".to_owned(),
                "name a source, or leave update.apply out".to_owned(),
            );
        }
        if self.minute().is_none() {
            complain(
                "update.at",
                format!("update.at = \"{}\" is no time of day", shortened(&self.at)),
                "use HH:MM in UTC, such as \"03:00\"".to_owned(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::appliance::appliance;

    #[test]
    fn what_is_wrong_is_refused_with_line_and_remedy() {
        for (text, expected) in [
            ("source = \"ftp://a\"", "f:2: update.source = \"ftp://a\" is no place of updates; "),
            ("apply = \"check\"", "f:2: update.apply is set, but update.source is empty; name"),
            ("apply = \"now\"", "f:2: unknown variant `now`, expected one of"),
            ("at = \"3:00\"", "f:2: update.at = \"3:00\" is no time of day; use HH:MM"),
            ("at = \"24:00\"", "f:2: update.at = \"24:00\" is no time of day"),
            ("window = 1", "f:2: unknown field `window`"),
        ] {
            let refused = appliance("f", &format!("[update]\n{text}")).unwrap_err().to_string();
            assert!(refused.starts_with(expected), "{text:?}: {refused}");
        }
        let text = "[update]\nsource = \"/media/usb\"\napply = \"automatic\"\nat = \"23:59\"";
        assert_eq!(appliance("f", text).unwrap().update.minute(), Some(1_439));
    }
}
