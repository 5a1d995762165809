//! Versions as the boot partition has them: one unified kernel image each, whose name counts tries.

use serde::Serialize;
use std::{cmp::Ordering, fs, io, path::Path};

/// A version that can be booted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Of the image.
    pub version: String,
    /// Its name in `/EFI/Linux`.
    pub file: String,
    /// Tries that are left; `None` for one that was found good.
    pub tries_left: Option<u32>,
}

impl Entry {
    /// `basalt_VERSION.efi`, `basalt_VERSION+LEFT.efi` or `basalt_VERSION+LEFT-DONE.efi`.
    fn parse(file: &str) -> Option<Self> {
        let name = file.strip_prefix("basalt_")?.strip_suffix(".efi")?;
        let counted = name.rsplit_once('+').and_then(|(version, counter)| {
            let left = counter.split_once('-').map_or(counter, |(left, _)| left);
            Some((version, left.parse::<u32>().ok()?))
        });
        let (version, tries_left) =
            counted.map_or((name, None), |(version, left)| (version, Some(left)));
        Some(Self { version: version.to_owned(), file: file.to_owned(), tries_left })
    }

    /// The boot loader would take it.
    pub fn is_good(&self) -> bool {
        self.tries_left != Some(0)
    }

    /// In words.
    pub fn state(&self) -> String {
        match self.tries_left {
            None => "good".to_owned(),
            Some(0) => "not tried again".to_owned(),
            Some(1) => "1 try left".to_owned(),
            Some(left) => format!("{left} tries left"),
        }
    }
}

/// All of them, oldest version first.
///
/// # Errors
/// Where the folder cannot be listed.
pub fn entries(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        found.extend(entry?.file_name().to_str().and_then(Entry::parse));
    }
    found.sort_by(|a, b| order(&a.version, &b.version));
    Ok(found)
}

/// Which version is newer: runs of digits by their number, other characters by their code, and a
/// tilde before the end (`2~rc1` is older than `2`).
pub fn order(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (run_a, run_b) = (digits(a), digits(b));
        if !run_a.is_empty() && !run_b.is_empty() {
            let number = |run: &str| run.trim_start_matches('0').to_owned();
            let (x, y) = (number(run_a), number(run_b));
            let by_number = x.len().cmp(&y.len()).then_with(|| x.cmp(&y));
            if by_number != Ordering::Equal {
                return by_number;
            }
            (a, b) = (&a[run_a.len()..], &b[run_b.len()..]);
            continue;
        }
        let rank = |text: &str| match text.chars().next() {
            Some('~') => 0,
            None => 1,
            Some(c) => u32::from(c) + 2,
        };
        match (rank(a).cmp(&rank(b)), a.chars().next()) {
            (Ordering::Equal, None) => return Ordering::Equal,
            (Ordering::Equal, Some(c)) => (a, b) = (&a[c.len_utf8()..], &b[c.len_utf8()..]),
            (other, _) => return other,
        }
    }
}

fn digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_tell_versions_and_tries() {
        let of = |file| Entry::parse(file).map(|entry| (entry.version, entry.tries_left));
        assert_eq!(of("basalt_0.1.0.efi"), Some(("0.1.0".to_owned(), None)));
        assert_eq!(of("basalt_0.1.0+3.efi"), Some(("0.1.0".to_owned(), Some(3))));
        assert_eq!(of("basalt_0.1.0+2-1.efi"), Some(("0.1.0".to_owned(), Some(2))));
        assert_eq!(of("basalt_0.1.0+git.efi"), Some(("0.1.0+git".to_owned(), None)));
        assert_eq!(of("debian_12.efi"), None);
    }

    #[test]
    fn versions_are_ordered_as_people_do() {
        let ordered = ["0.9", "0.9.1", "0.10.0", "1.0~rc1", "1.0", "1.0.1", "1.0.01a", "2"];
        for pair in ordered.windows(2) {
            assert_eq!(order(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(order(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
        assert_eq!(order("1.01", "1.1"), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn any_two_texts_have_an_order(a in "[0-9a-z.+~-]{0,12}", b in "\\PC{0,12}") {
            prop_assert_eq!(order(&a, &b), order(&b, &a).reverse());
            prop_assert_eq!(order(&a, &a), Ordering::Equal);
        }
    }
}
