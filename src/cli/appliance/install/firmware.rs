//! The firmware's list of what to boot: an entry for the new disk, before all others. Without it
//! the firmware finds `\EFI\BOOT\BOOTX64.EFI` by itself, but may prefer the stick.
//!
//! Layout (UEFI 2.10, 3.1.3): attributes(4) path length(2) description(UTF-16, 0) device path. A
//! variable's file begins with four bytes of attributes of its own.

use crate::cli::appliance::install::gpt::{Entry, shown};
use crate::cli::appliance::reset;
use std::{fs, io, path::Path};

/// UEFI's own variables.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Non-volatile, for boot services and run time.
const ATTRIBUTES: [u8; 4] = [7, 0, 0, 0];
const ACTIVE: [u8; 4] = [1, 0, 0, 0];
/// What is started; on the boot partition under this name in any case.
const LOADER: &str = r"\EFI\BOOT\BOOTX64.EFI";

/// Enters the boot partition (the disk's first) under `description`, in place of an entry that has
/// this description already, and puts it first. Gives the entry's number.
///
/// # Errors
/// Where there are no variables, or the firmware refuses.
pub fn enter(
    variables: &Path,
    description: &str,
    boot: &Entry,
    sector: u64,
) -> Result<u16, String> {
    if !variables.is_dir() {
        return Err(format!("{}: no UEFI variables", variables.display()));
    }
    let option = load_option(description, boot, sector);
    let number = place(variables, description)?;
    let name = format!("Boot{number:04X}-{GLOBAL}");
    put(&variables.join(name), &option)?;
    let order_name = variables.join(format!("BootOrder-{GLOBAL}"));
    let mut order = vec![number];
    order.extend(boot_order(&order_name).into_iter().filter(|other| *other != number));
    let order: Vec<u8> = order.iter().flat_map(|number| number.to_le_bytes()).collect();
    put(&order_name, &order)?;
    Ok(number)
}

fn put(variable: &Path, value: &[u8]) -> Result<(), String> {
    let mut bytes = ATTRIBUTES.to_vec();
    bytes.extend(value);
    let refused = |error: io::Error| format!("{}: {error}", variable.display());
    reset::put(variable, &bytes).map_err(refused)
}

fn boot_order(variable: &Path) -> Vec<u16> {
    let bytes = fs::read(variable).unwrap_or_default();
    let pairs = bytes.get(4..).unwrap_or_default().chunks_exact(2);
    pairs.map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// The number of the entry that is called so, else the first that is free.
fn place(variables: &Path, description: &str) -> Result<u16, String> {
    let wanted: Vec<u8> = utf16(description);
    let mut free = None;
    for number in 0..=0xFFF_u16 {
        let path = variables.join(format!("Boot{number:04X}-{GLOBAL}"));
        match fs::read(path) {
            Ok(bytes) if bytes.get(10..).is_some_and(|rest| rest.starts_with(&wanted)) => {
                return Ok(number);
            }
            Ok(_) => {}
            Err(_) if free.is_none() => free = Some(number),
            Err(_) => {}
        }
    }
    free.ok_or_else(|| "the firmware has no free boot entry".to_owned())
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// The entry: partition 1 of a disk with a GUID partition table, and the file on it.
fn load_option(description: &str, boot: &Entry, sector: u64) -> Vec<u8> {
    let mut path = vec![4, 1, 42, 0];
    path.extend(1_u32.to_le_bytes());
    path.extend((boot.start / sector).to_le_bytes());
    path.extend((boot.bytes / sector).to_le_bytes());
    path.extend(boot.id);
    path.extend([2, 2]);
    let file = utf16(LOADER);
    path.extend([4, 4]);
    path.extend(u16::try_from(file.len() + 4).unwrap_or(u16::MAX).to_le_bytes());
    path.extend(file);
    path.extend([0x7F, 0xFF, 4, 0]);
    let mut option = ACTIVE.to_vec();
    option.extend(u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
    option.extend(utf16(description));
    option.extend(path);
    option
}

/// How a boot partition is told to an operator.
pub fn told(number: u16, boot: &Entry) -> String {
    format!("Boot{number:04X} starts partition {}", shown(&boot.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::appliance::install::gpt::ESP;

    fn boot() -> Entry {
        let name = "esp".to_owned();
        Entry { kind: ESP, id: [0xAB; 16], start: 1 << 20, bytes: 512 << 20, attributes: 0, name }
    }

    /// As `efibootmgr --create --disk … --label B --loader '\EFI\BOOT\BOOTX64.EFI'` writes it.
    #[test]
    fn an_entry_has_the_bytes_that_firmware_expects() {
        let option = load_option("B", &boot(), 512);
        let file: String = LOADER.bytes().map(|byte| format!("{byte:02x}00")).collect();
        let expected = format!(
            "01000000{}42000000{}{}{}{}{}0202{}{file}00007fff0400",
            "5e00",
            "04012a00",
            "01000000",
            "0008000000000000",
            "0000100000000000",
            "ab".repeat(16),
            "04043000",
        );
        assert_eq!(hex::encode(option), expected);
    }

    #[test]
    fn a_second_installation_replaces_the_entry_and_stands_first() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(format!("{name}-{GLOBAL}"));
        fs::write(at("Boot0000"), b"\x07\0\0\0\x01\0\0\0\x04\0C\0\0\0\x7f\xff\x04\0").unwrap();
        fs::write(at("BootOrder"), b"\x07\0\0\0\x00\x00\x05\x00").unwrap();
        assert_eq!(enter(folder.path(), "B", &boot(), 512), Ok(1));
        assert_eq!(enter(folder.path(), "B", &boot(), 4096), Ok(1));
        assert_eq!(fs::read(at("BootOrder")).unwrap(), b"\x07\0\0\0\x01\0\0\0\x05\0");
        assert_eq!(enter(folder.path(), "D", &boot(), 512), Ok(2));
        assert!(fs::read(at("Boot0001")).unwrap().starts_with(b"\x07\0\0\0\x01\0\0\0\x5e\0B\0"));
        assert!(enter(&folder.path().join("none"), "B", &boot(), 512).is_err());
    }
}
