//! `[install]`: what a stick with the image does by itself on a machine that is started from it.

use crate::config::appliance::Complain;
use crate::config::fault::shortened;
use serde::Deserialize;

/// Characters of a serial number or world-wide name at most.
const NAME_CHARS_MAX: usize = 128;

/// `[install]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Install {
    /// Serial number or WWN of the disk to install to. Empty: the console asks.
    pub disk: String,
    /// The same disk again, where what is on it may go.
    pub overwrite: String,
    /// What follows.
    pub then: Then,
    /// Run a node from the stick; install nothing.
    pub run_from_usb: bool,
}

/// What follows an installation without an operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Then {
    /// Start again, from the new disk.
    #[default]
    Reboot,
    /// Switch off.
    Poweroff,
    /// Say so on the console.
    Stay,
}

impl Install {
    /// Complains about names that cannot be one, and about what cannot go together.
    pub fn check(&self, complain: Complain<'_>) {
        for (key, name) in [("install.disk", &self.disk), ("install.overwrite", &self.overwrite)] {
            if name.starts_with("/dev/") {
                complain(
                    key,
                    format!("{key} = \"{}\" is another disk at the next boot", shortened(name)),
                    "name its serial number or WWN, as `lsblk -o NAME,SERIAL,WWN` shows".to_owned(),
                );
            } else if name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
                complain(
                    key,
                    format!("{key} = \"{}\" is no serial number or WWN", shortened(name)),
                    format!("use up to {NAME_CHARS_MAX} printable characters"),
                );
            }
        }
        if self.disk.is_empty() && !self.overwrite.is_empty() {
            complain(
                "install.overwrite",
                format!("install.overwrite = \"{}\" without a disk", shortened(&self.overwrite)),
                "set install.disk to the same, or leave it out".to_owned(),
            );
        }
        if self.run_from_usb && !self.disk.is_empty() {
            complain(
                "install.run_from_usb",
                "install.run_from_usb = true, and install.disk is set".to_owned(),
                "either run from the stick or install to the disk".to_owned(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::appliance::appliance;

    #[test]
    fn names_are_taken_as_they_stand() {
        let text = "[install]\ndisk = \"S1\"\noverwrite = \"S1\"\nthen = \"poweroff\"\n";
        let install = appliance("f", text).unwrap().install;
        assert_eq!((install.disk.as_str(), install.overwrite.as_str()), ("S1", "S1"));
        assert_eq!(install.then, Then::Poweroff);
        assert_eq!(appliance("f", "").unwrap().install.then, Then::Reboot);
    }

    #[test]
    fn what_is_wrong_is_refused_with_line_and_remedy() {
        for (text, expected) in [
            ("[install]\ndisk = \"/dev/sda\"", "f:2: install.disk = \"/dev/sda\" is another disk"),
            ("[install]\ndisk = \"a\\nb\"", "f:2: install.disk = \"a\nb\" is no serial number"),
            ("[install]\n\noverwrite = \"S1\"", "f:3: install.overwrite = \"S1\" without a disk"),
            ("[install]\nthen = \"halt\"", "f:2: unknown variant `halt`, expected one of `reboot`"),
            ("[install]\ndisc = \"S1\"", "f:2: unknown field `disc`"),
            (
                "[install]\ndisk = \"S1\"\nrun_from_usb = true",
                "f:3: install.run_from_usb = true, and install.disk is set; either",
            ),
        ] {
            let refused = appliance("f", text).unwrap_err().to_string();
            assert!(refused.starts_with(expected), "{text:?}: {refused}");
        }
    }
}
