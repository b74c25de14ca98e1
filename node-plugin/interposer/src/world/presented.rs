//! Whether a file system lies on a device that Umbra presents, at whatever depth (E7).
//!
//! Looked through: partitions, device-mapper and software RAID, loop devices, the upper layer of an overlay,
//! and file systems whose device number is not their device's (btrfs). What is mounted in another namespace
//! cannot be seen.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Name that the kernel gives to every block device of the driver.
const PRESENTED: &str = "ublkb";

/// Where to look; tests make their own.
pub(super) struct Sight {
    /// `/sys/dev/block`: a link to the directory of each block device, by number.
    devices: PathBuf,
    /// The content of `/proc/self/mountinfo`.
    mounts: String,
    /// The number of a block device, or of the device that a file lies on.
    number_of: fn(&Path) -> Option<u64>,
}

/// What is still to be looked at.
#[derive(Default)]
struct Trail {
    /// Directories of devices.
    nodes: Vec<PathBuf>,
    /// Files and device nodes.
    files: Vec<PathBuf>,
}

impl Sight {
    /// This machine.
    pub(super) fn host() -> Self {
        Self {
            devices: PathBuf::from("/sys/dev/block"),
            // Unreadable is as good as empty: device numbers remain.
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(),
            number_of: device_number,
        }
    }

    /// The presented device below the file system of `path`, if there is one.
    pub(super) fn presented_below(&self, path: &Path) -> Option<String> {
        let mut trail = Trail { files: vec![path.to_owned()], ..Trail::default() };
        let mut seen = HashSet::new();
        loop {
            if let Some(node) = trail.nodes.pop() {
                let Ok(real) = fs::canonicalize(&node) else { continue };
                if let Some(device) = presented(&real) {
                    return Some(device);
                }
                if seen.insert(real.clone()) {
                    below(&real, &mut trail);
                }
            } else {
                let file = trail.files.pop()?;
                if seen.insert(file.clone()) {
                    self.under_file(&file, &mut trail);
                }
            }
        }
    }

    /// The device, or the file of another layer, that a file lies on.
    fn under_file(&self, file: &Path, trail: &mut Trail) {
        let Some(number) = (self.number_of)(file) else { return };
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        if major != 0 {
            trail.nodes.push(self.devices.join(format!("{major}:{minor}")));
            return;
        }
        let Ok(real) = fs::canonicalize(file) else { return };
        let Some(mount) = Mount::of(&self.mounts, &real) else { return };
        // A source that is no path, like `tmpfs`, has no number and leads no further.
        trail.files.push(mount.upper.unwrap_or(mount.source));
    }
}

fn device_number(file: &Path) -> Option<u64> {
    let metadata = fs::metadata(file).ok()?;
    Some(if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() })
}

/// The presented device that this directory of sysfs belongs to: itself, or a partition's disk.
fn presented(real: &Path) -> Option<String> {
    let mut names = real.components().rev().map(|part| part.as_os_str().to_string_lossy());
    names.find(|name| name.starts_with(PRESENTED)).map(|name| name.into_owned())
}

/// What the device of this directory is made of.
fn below(real: &Path, trail: &mut Trail) {
    if real.join("partition").exists() {
        trail.nodes.extend(real.parent().map(Path::to_owned));
    }
    let slaves = fs::read_dir(real.join("slaves")).into_iter().flatten().flatten();
    trail.nodes.extend(slaves.map(|entry| entry.path()));
    if let Ok(backing) = fs::read_to_string(real.join("loop/backing_file")) {
        trail.files.push(PathBuf::from(backing.trim_end_matches('\n')));
    }
}

/// A line of mountinfo, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    source: PathBuf,
    upper: Option<PathBuf>,
}

impl Mount {
    /// The mount that a path is on: the deepest, and of those the last, which hides the others.
    fn of(mounts: &str, real: &Path) -> Option<Self> {
        let over = mounts.lines().filter_map(Self::parse).filter(|mount| real.starts_with(&mount.point));
        over.max_by_key(|mount| mount.point.components().count())
    }

    /// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
    fn parse(line: &str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mut system = system.splitn(3, ' ');
        let (kind, source, options) = (system.next()?, system.next()?, system.next().unwrap_or(""));
        let upper = options.split(',').find_map(|option| option.strip_prefix("upperdir="));
        Some(Self {
            point: unescape(mount.split(' ').nth(4)?),
            source: unescape(source),
            upper: upper.filter(|_| kind == "overlay").map(unescape),
        })
    }
}

/// Blanks and backslashes are written as `\040` and the like.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Files called `8-1` lie on device 8:1; the others on none.
    fn number_in_name(file: &Path) -> Option<u64> {
        let name = file.file_name()?.to_str()?;
        let Some((major, minor)) = name.split_once('-') else { return Some(rustix::fs::makedev(0, 9)) };
        Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
    }

    /// A sysfs where device 8:1 has a given directory.
    struct Fake {
        home: tempfile::TempDir,
        sight: Sight,
    }

    impl Fake {
        fn new(first: &str) -> Self {
            let home = tempfile::tempdir().unwrap();
            let devices = home.path().join("block");
            fs::create_dir(&devices).unwrap();
            let sight = Sight { devices, mounts: String::new(), number_of: number_in_name };
            Self { home, sight }.device("8:1", first)
        }

        fn dir(&self, name: &str) -> PathBuf {
            let dir = self.home.path().join("devices").join(name);
            fs::create_dir_all(&dir).unwrap();
            dir
        }

        fn device(self, number: &str, name: &str) -> Self {
            symlink(self.dir(name), self.sight.devices.join(number)).unwrap();
            self
        }

        fn over(self, upper: &str, lower: &str) -> Self {
            let lower = self.dir(lower);
            let slaves = self.dir(&format!("{upper}/slaves"));
            symlink(&lower, slaves.join(lower.file_name().unwrap())).unwrap();
            self
        }

        fn partition(self, name: &str) -> Self {
            fs::write(self.dir(name).join("partition"), "1\n").unwrap();
            self
        }

        fn below(&self, file: &str) -> Option<String> {
            self.sight.presented_below(&self.home.path().join(file))
        }
    }

    #[test]
    fn presented_devices_are_found_through_partitions_and_mappings() {
        let plain = Fake::new("dm-0").over("dm-0", "sda/sda1").partition("sda/sda1");
        assert_eq!(plain.below("8-1"), None);
        assert_eq!(plain.below("no-number"), None);
        assert_eq!(Fake::new("ublkb3").below("8-1").as_deref(), Some("ublkb3"));
        let partition = Fake::new("ublkb3/ublkb3p1").partition("ublkb3/ublkb3p1");
        assert_eq!(partition.below("8-1").as_deref(), Some("ublkb3p1"));
        let stacked = Fake::new("dm-1")
            .over("dm-1", "md0/md0p2")
            .partition("md0/md0p2")
            .over("md0", "sda")
            .over("md0", "ublkb0/ublkb0p1");
        assert_eq!(stacked.below("8-1").as_deref(), Some("ublkb0p1"));
    }

    #[test]
    fn the_file_behind_a_loop_device_is_followed() {
        let looped = |file: &str| {
            let fake = Fake::new("loop7").device("259:4", "ublkb5");
            fs::write(fake.dir("loop7/loop").join("backing_file"), format!("{file}\n")).unwrap();
            fake.below("8-1")
        };
        assert_eq!(looped("/srv/8-2"), None);
        assert_eq!(looped("/srv/a b/259-4").as_deref(), Some("ublkb5"));
        assert_eq!(looped("/srv/8-1"), None, "a circle ends");
    }

    #[test]
    fn a_file_system_without_a_number_is_looked_up_among_the_mounts() {
        let mut fake = Fake::new("sda").device("259:4", "ublkb5");
        fs::create_dir_all(fake.home.path().join("a b/state")).unwrap();
        let home = fs::canonicalize(fake.home.path()).unwrap();
        let point = home.display();
        fake.sight.mounts = format!("1 0 0:9 / {point} rw - btrfs /dev/8-1 rw\n");
        assert_eq!(fake.below("a b/state"), None);
        fake.sight.mounts += &format!("2 1 0:9 / {point}/a\\040b rw - btrfs /dev/259-4 rw\n");
        assert_eq!(fake.below("a b/state").as_deref(), Some("ublkb5"));
        fake.sight.mounts += &format!("3 1 0:9 / {point}/a\\040b rw - overlay overlay rw,upperdir=/x/8-1\n");
        assert_eq!(fake.below("a b/state"), None, "the later mount hides the earlier");
        fake.sight.mounts +=
            &format!("4 1 0:9 / {point}/a\\040b rw - overlay overlay rw,upperdir=/x/259-4\n");
        assert_eq!(fake.below("a b/state").as_deref(), Some("ublkb5"));
    }

    #[test]
    fn the_deepest_mount_counts_and_broken_lines_do_not() {
        let mounts = "22 1 0:20 / / rw shared:1 - btrfs /dev/vda2 rw,subvol=/\n\
                      23 22 8:1 / /var rw - ext4 /dev/sda1 rw,upperdir=/not/an/overlay\n\
                      broken line\n";
        let of = |path: &str| Mount::of(mounts, Path::new(path)).unwrap();
        assert_eq!(of("/var/lib/umbra").source, Path::new("/dev/sda1"));
        assert_eq!(of("/var/lib/umbra").upper, None);
        assert_eq!(of("/variable").source, Path::new("/dev/vda2"), "whole names only");
    }

    #[test]
    fn numbers_in_names_are_undone() {
        assert_eq!(unescape("/a\\040b\\134c\\"), Path::new("/a b\\c\\"));
        assert_eq!(unescape("\\999\\04"), Path::new("\\999\\04"));
    }

    #[test]
    fn this_machine_answers() {
        assert_eq!(Sight::host().presented_below(Path::new("/proc")), None);
    }
}
