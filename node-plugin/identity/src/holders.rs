//! Who keeps us from claiming a device, and who else has it open. Best effort: `/proc` shows this mount
//! namespace's mounts and the processes of this pid namespace, and all of it may change while we look.

use crate::facts::Holder;
use crate::sysfs::{BlockDir, DeviceNumber, text};
use rustix::fs::FileType;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The claimants of the block device `number`, of its disk and of its partitions.
pub fn holders_of_device(number: DeviceNumber) -> Vec<Holder> {
    let Ok(block) = BlockDir::of(number) else { return Vec::new() };
    let family = block.family();
    let numbers: Vec<_> = family.iter().filter_map(|dir| DeviceNumber::parse(&text(dir, "dev")?)).collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let mut holders = mounted(&mounts, &numbers, device_number_of);
    if swapped(&swaps, &numbers, device_number_of) {
        holders.push(Holder::Swap);
    }
    holders.extend(family.iter().flat_map(|dir| stacked(dir)));
    holders
}

/// Who has locked the file with this device and inode number.
pub fn holders_of_file(device: u64, inode: u64) -> Vec<Holder> {
    locked(&fs::read_to_string("/proc/locks").unwrap_or_default(), DeviceNumber::from_raw(device), inode)
}

/// Processes other than this one that have `path` open, claimed or not, through any name of it.
///
/// # Errors
/// If `path` or `/proc` cannot be read. Processes that cannot be looked at are left out.
pub fn openers(path: &Path) -> io::Result<Vec<u32>> {
    let wanted = FileKey::of(&fs::metadata(path)?);
    let own = std::process::id();
    let processes = fs::read_dir("/proc")?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids.filter(|&pid| pid != own && has_open(pid, &wanted)).collect())
}

fn has_open(pid: u32, wanted: &FileKey) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    // The links are followed: their text may be of another mount namespace.
    descriptors.filter_map(|fd| fs::metadata(fd.path()).ok()).any(|meta| FileKey::of(&meta) == *wanted)
}

/// What makes two names the same thing: the device behind a node, else the inode.
#[derive(PartialEq, Eq)]
enum FileKey {
    Device(u64),
    Inode(u64, u64),
}

impl FileKey {
    fn of(meta: &fs::Metadata) -> Self {
        match FileType::from_raw_mode(meta.mode()) {
            FileType::BlockDevice => Self::Device(meta.rdev()),
            _ => Self::Inode(meta.dev(), meta.ino()),
        }
    }
}

fn device_number_of(path: &Path) -> Option<DeviceNumber> {
    match FileKey::of(&fs::metadata(path).ok()?) {
        FileKey::Device(device) => Some(DeviceNumber::from_raw(device)),
        FileKey::Inode(..) => None,
    }
}

fn mounted(
    mountinfo: &str,
    numbers: &[DeviceNumber],
    number_of: impl Fn(&Path) -> Option<DeviceNumber>,
) -> Vec<Holder> {
    let is_ours = |line: &str| -> Option<PathBuf> {
        let mut fields = line.split(' ');
        let number = DeviceNumber::parse(fields.nth(2)?)?;
        let at = unescape(fields.nth(1)?);
        // File systems over several devices have a number of their own: look at the source too.
        let source = line.split_once(" - ")?.1.split(' ').nth(1).map(unescape)?;
        let from_source = || source.starts_with("/").then(|| number_of(&source)).flatten();
        let ours = numbers.contains(&number) || from_source().is_some_and(|number| numbers.contains(&number));
        ours.then_some(at)
    };
    mountinfo.lines().filter_map(is_ours).map(|at| Holder::Mounted { at, by: None }).collect()
}

fn swapped(swaps: &str, numbers: &[DeviceNumber], number_of: impl Fn(&Path) -> Option<DeviceNumber>) -> bool {
    let paths = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    paths.filter_map(|path| number_of(&unescape(path))).any(|number| numbers.contains(&number))
}

fn stacked(dir: &Path) -> Vec<Holder> {
    let entries = fs::read_dir(dir.join("holders")).into_iter().flatten().flatten();
    let name = |entry: fs::DirEntry| {
        text(&entry.path(), "dm/name").unwrap_or_else(|| entry.file_name().to_string_lossy().into_owned())
    };
    entries.map(|entry| Holder::Stacked { name: name(entry) }).collect()
}

fn locked(locks: &str, device: DeviceNumber, inode: u64) -> Vec<Holder> {
    // "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"; waiters have an arrow after the number.
    let holder = |line: &str| -> Option<Holder> {
        let mut fields = line.split_whitespace().skip(1);
        if !matches!(fields.next()?, "FLOCK" | "OFDLCK") {
            return None;
        }
        let pid = fields.nth(2)?.parse().ok()?;
        let mut place = fields.next()?.split(':');
        let major = u32::from_str_radix(place.next()?, 16).ok()?;
        let minor = u32::from_str_radix(place.next()?, 16).ok()?;
        let ours = DeviceNumber { major, minor } == device && place.next()?.parse() == Ok(inode);
        ours.then_some(Holder::Locked { pid })
    };
    locks.lines().filter_map(holder).collect()
}

/// Undoes the kernel's octal escapes of blanks and backslashes in paths.
fn unescape(path: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = path.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(value.unwrap_or(bytes[at]));
        at += if value.is_some() { 4 } else { 1 };
    }
    std::ffi::OsString::from_vec(plain).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 27 8:1 / /mnt/with\\040blank rw,relatime shared:1 - xfs /dev/sda1 rw
31 27 0:44 / /data rw - btrfs /dev/sdb rw
garbage
";

    fn number(major: u32, minor: u32) -> DeviceNumber {
        DeviceNumber { major, minor }
    }

    fn by_name(path: &Path) -> Option<DeviceNumber> {
        (path == Path::new("/dev/sdb")).then(|| number(8, 16))
    }

    #[test]
    fn mounts_are_found_by_number_and_by_source() {
        let at = |path: &str| vec![Holder::Mounted { at: path.into(), by: None }];
        assert_eq!(mounted(MOUNTS, &[number(8, 1)], by_name), at("/mnt/with blank"));
        assert_eq!(mounted(MOUNTS, &[number(8, 16)], by_name), at("/data"));
        assert_eq!(mounted(MOUNTS, &[number(9, 9)], by_name), []);
    }

    #[test]
    fn swap_is_found() {
        let swaps = "Filename Type Size Used Priority\n/dev/sdb partition 8 0 -2\n";
        assert!(swapped(swaps, &[number(8, 16)], by_name));
        assert!(!swapped(swaps, &[number(8, 1)], by_name));
    }

    #[test]
    fn the_locker_of_a_file_is_found() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 11 fe:00:77 0 EOF
2: FLOCK  ADVISORY  WRITE 1234 fe:00:77 0 EOF
2: -> FLOCK  ADVISORY  WRITE 99 fe:00:77 0 EOF
";
        assert_eq!(locked(locks, number(254, 0), 77), [Holder::Locked { pid: 1234 }]);
        assert_eq!(locked(locks, number(254, 0), 78), []);
    }

    #[test]
    fn odd_escapes_stay_as_they_are() {
        assert_eq!(unescape("a\\040b\\"), Path::new("a b\\"));
        assert_eq!(unescape("\\9zz"), Path::new("\\9zz"));
    }
}
