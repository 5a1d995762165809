//! Which disk may be installed to: what is never allowed, what is only where the disk is named
//! exactly, and whether a name means one disk. Pure.

use crate::cli::appliance::install::content::Kind;
use crate::cli::appliance::install::disk::Disk;

/// What an operator asked for: serial numbers or world-wide names.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The disk to install to.
    pub disk: &'a str,
    /// The disk whose content may go. Empty: none.
    pub overwrite: &'a str,
}

/// A disk, and why it cannot be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freedom {
    /// It can be chosen.
    Free,
    /// Only by naming it a second time.
    IfNamed,
    /// It cannot.
    Never,
}

/// How far a disk can be chosen, with the reasons. `all` is needed to tell whether it has a name of
/// its own, `need` is how many bytes an installation takes.
pub fn freedom(disk: &Disk, all: &[Disk], need: u64) -> (Freedom, Vec<String>) {
    let mut never = barred(disk, need);
    if disk.called().is_empty() {
        never.push("it has neither serial number nor WWN, so it cannot be named".to_owned());
    } else if own_name(disk, all).is_none() {
        never.push(format!("another disk has the names {} too", names(disk)));
    }
    if !never.is_empty() {
        return (Freedom::Never, never);
    }
    match disk.content.kind {
        Kind::Empty | Kind::Unfinished => (Freedom::Free, Vec::new()),
        Kind::Unreadable => (Freedom::Never, vec![disk.content.text()]),
        Kind::Used => {
            (Freedom::IfNamed, vec![format!("it is not empty ({})", disk.content.text())])
        }
        Kind::Member => {
            let what = disk.content.text();
            (Freedom::IfNamed, vec![format!("it is {what}, which other disks may need")])
        }
    }
}

/// A name that no other disk has.
pub fn own_name<'a>(disk: &'a Disk, all: &[Disk]) -> Option<&'a str> {
    let mut names = [&disk.serial, &disk.wwn].into_iter().chain(&disk.also);
    let is_own = |name: &&String| {
        !name.is_empty()
            && all.iter().all(|other| other.name == disk.name || !other.is_called(name))
    };
    names.find(is_own).map(String::as_str)
}

/// What nobody can overrule, each with the remedy.
fn barred(disk: &Disk, need: u64) -> Vec<String> {
    let mut why = Vec::new();
    if let Some(what) = &disk.made_of {
        why.push(format!("it is no whole disk ({what}); choose the disk below it"));
    }
    if disk.is_boot_disk {
        why.push("this system was booted from it".to_owned());
    }
    if !disk.mounts.is_empty() {
        why.push(format!("it is mounted ({}); unmount it", disk.mounts.join(", ")));
    }
    if !disk.swaps.is_empty() {
        why.push(format!("swap is on {}; switch it off", disk.swaps.join(", ")));
    }
    if !disk.holders.is_empty() {
        why.push(format!("{} uses it; stop that", disk.holders.join(", ")));
    }
    if disk.is_read_only {
        why.push("it is read-only; lift its write protection".to_owned());
    }
    if disk.bytes < need {
        why.push(format!("{} bytes are less than the {need} that are needed", disk.bytes));
    }
    why
}

/// The disk that is asked for.
///
/// # Errors
/// Where no disk, or more than one, has that name; where it cannot be chosen; where it is not empty
/// and not named exactly; where another disk is named to be overwritten.
pub fn choose<'a>(disks: &'a [Disk], asked: Asked<'_>, need: u64) -> Result<&'a Disk, String> {
    let Asked { disk: name, overwrite } = asked;
    if name.trim().is_empty() {
        return Err("no disk is named; name one by serial number or WWN".to_owned());
    }
    if name.starts_with("/dev/") {
        return Err(format!(
            "disk \"{name}\": such names change from boot to boot; name its serial number or WWN"
        ));
    }
    let disk = one_called(disks, "disk", name)?;
    let called = format!("disk \"{name}\" ({}, {})", disk.name, disk.model);
    let (freedom, why) = freedom(disk, disks, need);
    if freedom == Freedom::Never {
        return Err(format!("{called}: {}; nothing was written", why.join("; ")));
    }
    if !overwrite.is_empty() {
        let other = one_called(disks, "overwrite", overwrite)?;
        if other.name != disk.name {
            return Err(format!(
                "overwrite \"{overwrite}\" is {}, not the disk \"{name}\" to install to; \
                 nothing was written",
                other.name
            ));
        }
    } else if freedom == Freedom::IfNamed {
        return Err(format!(
            "{called}: {}; choose an empty one, or allow it by naming \"{name}\" as the disk to \
             overwrite too; nothing was written",
            why.join("; ")
        ));
    }
    Ok(disk)
}

fn one_called<'a>(disks: &'a [Disk], what: &str, name: &str) -> Result<&'a Disk, String> {
    let found: Vec<&Disk> = disks.iter().filter(|disk| disk.is_called(name)).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => {
            let all: Vec<&str> =
                disks.iter().map(Disk::called).filter(|name| !name.is_empty()).collect();
            let all = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            Err(format!(
                "{what} \"{name}\": no disk has this serial number or WWN; there are {all}"
            ))
        }
        many => {
            let each: Vec<String> =
                many.iter().map(|disk| format!("{} ({})", disk.name, names(disk))).collect();
            Err(format!(
                "{what} \"{name}\" is ambiguous: {}; name one by what only it has, or take the \
                 others out; nothing was written",
                each.join(" and ")
            ))
        }
    }
}

fn names(disk: &Disk) -> String {
    let own = [&disk.serial, &disk.wwn].into_iter().chain(&disk.also);
    own.filter(|name| !name.is_empty()).map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::appliance::install::content::Content;

    const NEED: u64 = 1000;

    pub(in crate::cli::appliance::install) fn disk(name: &str, serial: &str, wwn: &str) -> Disk {
        Disk {
            name: name.to_owned(),
            model: "M".to_owned(),
            serial: serial.to_owned(),
            wwn: wwn.to_owned(),
            also: Vec::new(),
            bytes: 2000,
            sector: 512,
            is_removable: false,
            is_read_only: false,
            made_of: None,
            mounts: Vec::new(),
            holders: Vec::new(),
            swaps: Vec::new(),
            is_boot_disk: false,
            content: Content { kind: Kind::Empty, what: Vec::new() },
        }
    }

    fn chosen(disks: &[Disk], disk: &str, overwrite: &str) -> Result<String, String> {
        choose(disks, Asked { disk, overwrite }, NEED).map(|disk| disk.name.clone())
    }

    const USED: Change = |disk| {
        disk.content = Content { kind: Kind::Used, what: vec!["ext4".to_owned()] };
    };

    #[test]
    fn a_disk_is_named_by_serial_or_wwn() {
        let disks = [
            disk("sda", "S1", "0x5000c500a1b2c3d4"),
            disk("nvme0n1", "S2", "eui.0025385b01234567"),
        ];
        for (name, found) in [
            ("S1", "sda"),
            ("naa.5000C500A1B2C3D4", "sda"),
            ("wwn-0x5000c500a1b2c3d4", "sda"),
            ("0025385b01234567", "nvme0n1"),
            (" S2 ", "nvme0n1"),
        ] {
            assert_eq!(chosen(&disks, name, "").as_deref(), Ok(found), "{name}");
        }
        for (name, said) in [
            ("s1", "no disk has this serial number or WWN; there are S1, S2"),
            ("", "no disk is named"),
            ("/dev/sda", "such names change from boot to boot"),
        ] {
            let refused = chosen(&disks, name, "").unwrap_err();
            assert!(refused.contains(said), "{name}: {refused}");
        }
    }

    /// What makes a disk unfit.
    type Change = fn(&mut Disk);

    #[test]
    fn what_is_in_use_is_refused_even_when_named_exactly() {
        let cases: [(Change, &str); 8] = [
            (|disk| disk.mounts.push("sda1 on /mnt".to_owned()), "mounted (sda1 on /mnt)"),
            (|disk| disk.swaps.push("sda2".to_owned()), "swap is on sda2"),
            (|disk| disk.holders.push("md0".to_owned()), "md0 uses it"),
            (|disk| disk.is_boot_disk = true, "booted from it"),
            (|disk| disk.is_read_only = true, "read-only"),
            (|disk| disk.bytes = 999, "999 bytes are less than the 1000"),
            (|disk| disk.made_of = Some("made of sda".to_owned()), "no whole disk"),
            (|disk| disk.content.kind = Kind::Unreadable, "cannot be read"),
        ];
        for (change, said) in cases {
            let mut one = disk("sda", "S1", "");
            change(&mut one);
            for overwrite in ["", "S1"] {
                let refused = chosen(std::slice::from_ref(&one), "S1", overwrite).unwrap_err();
                assert!(refused.contains(said), "{refused}");
                assert!(refused.contains("\"S1\""), "{refused}");
            }
        }
    }

    #[test]
    fn what_is_not_empty_is_refused_unless_named_exactly() {
        let mut disks = [disk("sda", "S1", "0x5000c500a1b2c3d4"), disk("sdb", "S2", "")];
        USED(&mut disks[0]);
        let refused = chosen(&disks, "S1", "").unwrap_err();
        assert!(refused.contains("not empty (ext4)") && refused.contains("naming \"S1\""));
        assert_eq!(chosen(&disks, "S1", "S1").as_deref(), Ok("sda"));
        assert_eq!(chosen(&disks, "S1", "0x5000c500a1b2c3d4").as_deref(), Ok("sda"));
        let refused = chosen(&disks, "S1", "S2").unwrap_err();
        assert!(refused.contains("overwrite \"S2\" is sdb, not the disk \"S1\""), "{refused}");
        assert!(chosen(&disks, "S1", "S3").unwrap_err().contains("no disk has this"));
        disks[0].content.kind = Kind::Member;
        assert!(chosen(&disks, "S1", "").unwrap_err().contains("other disks may need"));
        assert!(chosen(&disks, "S1", "S1").is_ok());
        disks[0].content.kind = Kind::Unfinished;
        assert!(chosen(&disks, "S1", "").is_ok());
    }

    #[test]
    fn a_name_that_two_disks_have_is_refused() {
        let mut disks = [disk("sda", "S1", "0x5000c500a1b2c3d4"), disk("sdb", "S1", "")];
        let refused = chosen(&disks, "S1", "S1").unwrap_err();
        assert!(refused.contains("\"S1\" is ambiguous: sda (S1, 0x5000c500a1b2c3d4) and sdb (S1)"));
        // The WWN is one disk's own.
        assert_eq!(chosen(&disks, "0x5000c500a1b2c3d4", "").as_deref(), Ok("sda"));
        assert_eq!(freedom(&disks[0], &disks, NEED).0, Freedom::Free);
        assert_eq!(freedom(&disks[1], &disks, NEED).0, Freedom::Never);
        disks[1].serial.clear();
        let (never, why) = freedom(&disks[1], &disks, NEED);
        assert_eq!((never, why.len()), (Freedom::Never, 1));
        assert!(why[0].contains("neither serial number nor WWN"));
    }
}
