//! The boot partition of the new disk: which of the files of the running one it gets, and how they
//! are written to a fresh FAT32 and compared afterwards.

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use std::{
    fs,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};
use toml_edit::DocumentMut;

/// The operator's configuration, of which the section for the installer stays behind.
pub const CONFIG: &str = "loader/basalt/basalt.toml";
/// What an installation leaves of itself.
pub const RECORD: &str = "loader/basalt/installed.json";
/// Folders and files that are taken along; all else on a stick may be anything.
const TAKEN: &[&str] = &[
    "EFI/BOOT",
    "EFI/systemd",
    "loader/loader.conf",
    "loader/entries.srel",
    "loader/addons",
    "loader/basalt",
    "loader/credentials",
    "loader/keys",
];
/// What the running system has put there for its own machine only.
const LEFT: &[&str] = &[
    RECORD,
    "loader/addons/basalt-plan.addon.efi",
    "loader/basalt/basalt-plan.addon.efi",
    "loader/basalt/left.txt",
    "loader/basalt/recovery-key",
    "loader/basalt/request.toml",
    "loader/basalt/request.done.toml",
];
/// Where the unified kernel images are, of which the running one is taken.
const KERNELS: &str = "EFI/Linux";
/// Folders below each other at most.
const DEPTH_MAX: usize = 8;
/// All files together at most: they are held in memory.
const BYTES_MAX: u64 = 448 << 20;

/// A file of a boot partition.
#[derive(Clone, PartialEq, Eq)]
pub struct EspFile {
    /// Below the partition's root, with `/`.
    pub path: String,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// The files for the new disk, from the mounted boot partition of the running system.
///
/// # Errors
/// Where the running system's kernel image is not there exactly once, or is another root's; where a
/// file cannot be read; where the configuration is no TOML.
pub fn collect(esp: &Path, image: &str, root_hash: &str) -> Result<Vec<EspFile>, String> {
    let mut files = Vec::new();
    for taken in TAKEN {
        gather(esp, taken, DEPTH_MAX, &mut files)?;
    }
    files.retain(|file| !LEFT.contains(&file.path.as_str()) && is_plain(&file.path));
    for file in files.iter_mut().filter(|file| file.path == CONFIG) {
        file.bytes = without_install(&file.bytes)?;
    }
    let (name, blessed) = running_kernel(esp, image)?;
    let bytes = read(&esp.join(KERNELS).join(&name))?;
    if root_hash.is_empty() || !holds(&bytes, format!("roothash={root_hash}").as_bytes()) {
        return Err(format!(
            "{KERNELS}/{name} is not the kernel image of the running root {root_hash}; flash the \
             stick again"
        ));
    }
    files.push(EspFile { path: format!("{KERNELS}/{blessed}"), bytes });
    let beside = format!("{KERNELS}/{blessed}.extra.d");
    gather(esp, &beside, DEPTH_MAX, &mut files)?;
    let loader = |file: &EspFile| file.path.eq_ignore_ascii_case("EFI/BOOT/BOOTX64.EFI");
    if !files.iter().any(loader) {
        return Err(
            "EFI/BOOT/BOOTX64.EFI is not on the boot partition; flash the stick again".to_owned()
        );
    }
    Ok(files)
}

/// Not a file that desktops leave on every stick.
fn is_plain(path: &str) -> bool {
    path.split('/').all(|part| !part.starts_with('.'))
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: cannot be read ({error})", path.display()))
}

/// A file, or all files below a folder; nothing where there is none.
fn gather(esp: &Path, path: &str, depth: usize, files: &mut Vec<EspFile>) -> Result<(), String> {
    let full = esp.join(path);
    if full.is_dir() && depth > 0 {
        let entries = fs::read_dir(&full)
            .map_err(|error| format!("{}: cannot be read ({error})", full.display()))?;
        let mut names: Vec<_> =
            entries.flatten().map(|it| it.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        for name in names {
            gather(esp, &format!("{path}/{name}"), depth - 1, files)?;
        }
    } else if full.is_file() {
        let has: u64 = files.iter().map(|file| file.bytes.len() as u64).sum();
        let size = fs::metadata(&full).map(|data| data.len()).unwrap_or(0);
        if has + size > BYTES_MAX {
            return Err(format!("{path}: the boot partition's files exceed {BYTES_MAX} bytes"));
        }
        files.push(EspFile { path: path.to_owned(), bytes: read(&full)? });
    }
    Ok(())
}

/// The running image's file name, and the name without a counter of boots.
fn running_kernel(esp: &Path, image: &str) -> Result<(String, String), String> {
    let folder = esp.join(KERNELS);
    let entries = fs::read_dir(&folder)
        .map_err(|error| format!("{}: cannot be read ({error})", folder.display()))?;
    let mut names: Vec<_> =
        entries.flatten().map(|it| it.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let wanted = format!("{image}.efi");
    let found: Vec<&String> =
        names.iter().filter(|name| blessed(name).eq_ignore_ascii_case(&wanted)).collect();
    match found.as_slice() {
        [one] => Ok(((*one).clone(), wanted)),
        _ => Err(format!(
            "{KERNELS} has {} files for {wanted}, not one, among {names:?}; flash the stick again",
            found.len()
        )),
    }
}

/// `basalt_1+2-1.efi` without its counter: `basalt_1.efi`.
fn blessed(name: &str) -> String {
    let Some(stem) = name.strip_suffix(".efi") else { return name.to_owned() };
    let is_counter = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
    };
    match stem.rsplit_once('+') {
        Some((version, counter)) if is_counter(counter) => format!("{version}.efi"),
        _ => name.to_owned(),
    }
}

/// A configuration without what the installer was told.
fn without_install(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let text = String::from_utf8_lossy(bytes);
    let mut document: DocumentMut =
        text.parse().map_err(|error| format!("{CONFIG}: no valid TOML: {error}"))?;
    document.remove("install");
    Ok(document.to_string().into_bytes())
}

/// Makes a fresh file system of all of `part` and writes the files to it.
///
/// # Errors
/// Where the disk refuses, or the files do not fit.
pub fn write<P: Read + Write + Seek>(
    part: &mut P,
    sector: u64,
    volume_id: u32,
    files: &[EspFile],
    progress: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let sector = u16::try_from(sector).map_err(io::Error::other)?;
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_sector(sector)
        .volume_id(volume_id)
        .volume_label(*b"ESP        ");
    fatfs::format_volume(&mut *part, options)?;
    part.seek(SeekFrom::Start(0))?;
    let volume = FileSystem::new(part, FsOptions::new())?;
    let mut written = 0;
    for file in files {
        let parts: Vec<&str> = file.path.split('/').collect();
        for depth in 1..parts.len() {
            volume.root_dir().create_dir(&parts[..depth].join("/"))?;
        }
        let mut out = volume.root_dir().create_file(&file.path)?;
        for piece in file.bytes.chunks(1 << 20) {
            out.write_all(piece)?;
            written += piece.len() as u64;
            progress(written);
        }
        out.flush()?;
    }
    volume.unmount()
}

/// Holds each file on the partition against what was to be written.
///
/// # Errors
/// Where one differs or is missing, with its name.
pub fn verify<P: Read + Write + Seek>(
    part: &mut P,
    files: &[EspFile],
    progress: &mut dyn FnMut(u64),
) -> io::Result<()> {
    part.seek(SeekFrom::Start(0))?;
    let volume = FileSystem::new(part, FsOptions::new())?;
    let (mut block, mut done) = (vec![0; 1 << 20], 0);
    for file in files {
        let differs = || io::Error::other(format!("{} differs from what was written", file.path));
        let mut found = volume.root_dir().open_file(&file.path)?;
        for piece in file.bytes.chunks(block.len()) {
            let block = &mut block[..piece.len()];
            found.read_exact(block)?;
            if block != piece {
                return Err(differs());
            }
            done += piece.len() as u64;
            progress(done);
        }
        if found.read(&mut [0])? != 0 {
            return Err(differs());
        }
    }
    Ok(())
}

/// One small file of a boot partition; `None` where there is no such file or file system.
pub fn read_file<P: Read + Write + Seek>(part: &mut P, path: &str) -> Option<Vec<u8>> {
    const FILE_BYTES_MAX: u64 = 64 << 10;
    part.seek(SeekFrom::Start(0)).ok()?;
    let volume = FileSystem::new(part, FsOptions::new()).ok()?;
    let file = volume.root_dir().open_file(path).ok()?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn stick() -> tempfile::TempDir {
        let esp = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("EFI/BOOT/BOOTX64.EFI", "loader"),
            ("EFI/Linux/basalt_2.0+2-1.efi", "kernel roothash=abcd quiet"),
            ("EFI/Linux/basalt_1.0.efi", "older"),
            ("EFI/Linux/basalt_2.0.efi.extra.d/plan.addon.efi", "add-on"),
            ("loader/loader.conf", "timeout 0"),
            ("loader/random-seed", "seed"),
            ("loader/basalt/basalt.toml", "[install]\ndisk = \"S1\"\n\n# ours\n[rpc]\n"),
            ("loader/basalt/genesis.json", "{}"),
            ("loader/basalt/installed.json", "{}"),
            ("loader/basalt/._basalt.toml", "desktop"),
            ("loader/basalt/recovery-key", "another machine's"),
            ("loader/addons/basalt-plan.addon.efi", "another machine's"),
            ("System Volume Information/x", "desktop"),
        ] {
            let path = esp.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        esp
    }

    #[test]
    fn the_running_version_is_taken_under_its_blessed_name_without_the_installers_section() {
        let esp = stick();
        let files = collect(esp.path(), "basalt_2.0", "abcd").unwrap();
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "EFI/BOOT/BOOTX64.EFI",
                "loader/loader.conf",
                "loader/basalt/basalt.toml",
                "loader/basalt/genesis.json",
                "EFI/Linux/basalt_2.0.efi",
                "EFI/Linux/basalt_2.0.efi.extra.d/plan.addon.efi",
            ]
        );
        let config = String::from_utf8(files[2].bytes.clone()).unwrap();
        assert!(config.contains("# ours\n[rpc]") && !config.contains("install"), "{config}");
    }

    #[test]
    fn a_stick_without_the_running_kernel_is_refused() {
        let esp = stick();
        let refused = |image, hash| match collect(esp.path(), image, hash) {
            Ok(_) => "taken".to_owned(),
            Err(refused) => refused,
        };
        assert!(refused("basalt_3.0", "abcd").contains("has 0 files for basalt_3.0.efi"));
        assert!(
            refused("basalt_2.0", "ffff").contains("is not the kernel image of the running root")
        );
        fs::write(esp.path().join("EFI/Linux/basalt_2.0.efi"), "twice").unwrap();
        assert!(refused("basalt_2.0", "abcd").contains("has 2 files"));
        fs::remove_file(esp.path().join("EFI/Linux/basalt_2.0.efi")).unwrap();
        fs::remove_file(esp.path().join("EFI/BOOT/BOOTX64.EFI")).unwrap();
        assert!(refused("basalt_2.0", "abcd").contains("BOOTX64.EFI is not on"));
    }

    #[test]
    fn files_are_read_as_they_were_written_and_a_changed_byte_is_found() {
        let kernel: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
        let files = [
            EspFile { path: "EFI/Linux/basalt_0.1.0.efi".to_owned(), bytes: kernel },
            EspFile { path: "loader/basalt/basalt.toml".to_owned(), bytes: b"[rpc]".to_vec() },
        ];
        for sector in [512, 4096] {
            // FAT32 begins at 65,525 clusters.
            let mut part = Cursor::new(vec![0xFF; 280 << 20]);
            write(&mut part, sector, 7, &files, &mut |_| ()).unwrap();
            verify(&mut part, &files, &mut |_| ()).unwrap();
            assert_eq!(read_file(&mut part, "loader/basalt/basalt.toml").unwrap(), b"[rpc]");
            let at = part.get_ref().windows(5).position(|found| found == b"[rpc]").unwrap();
            part.get_mut()[at] ^= 1;
            let found = verify(&mut part, &files, &mut |_| ()).unwrap_err().to_string();
            assert!(found.contains("loader/basalt/basalt.toml differs"), "{found}");
        }
    }
}
