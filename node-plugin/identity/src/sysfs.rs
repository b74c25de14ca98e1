//! What sysfs says about a block device. Every function takes a directory, so tests make their own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use umbra_store::Capabilities;

/// Major and minor number of a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// Driver.
    pub major: u32,
    /// Device of the driver.
    pub minor: u32,
}

impl std::fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl DeviceNumber {
    /// The number in `st_rdev` or `st_dev`.
    pub fn from_raw(device: u64) -> Self {
        Self { major: rustix::fs::major(device), minor: rustix::fs::minor(device) }
    }

    /// From the kernel's text form, `8:17`.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

/// Where the kernel's views are: other directories in tests, and in containers that mount them elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
    /// `/dev`.
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into(), dev: "/dev".into() }
    }
}

/// The directory of a block device, and that of the disk it is a partition of.
#[derive(Clone, Debug)]
pub struct BlockDir {
    pub(crate) dir: PathBuf,
    /// The same as `dir` unless the device is a partition; has the queue and the hardware's names.
    pub(crate) disk: PathBuf,
    /// Its number, from 1.
    pub(crate) partition: Option<u32>,
}

impl BlockDir {
    /// That of the device `number`.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn of(number: DeviceNumber) -> io::Result<Self> {
        Self::of_in(&Roots::default(), number)
    }

    pub(crate) fn of_in(roots: &Roots, number: DeviceNumber) -> io::Result<Self> {
        Ok(Self::at(fs::canonicalize(roots.sys.join(format!("dev/block/{number}")))?))
    }

    pub(crate) fn at(dir: PathBuf) -> Self {
        let partition = text(&dir, "partition").and_then(|number| number.parse().ok());
        // The kernel puts a partition's directory into that of its disk.
        let disk = match (partition, dir.parent()) {
            (Some(_), Some(parent)) => parent.to_owned(),
            _ => dir.clone(),
        };
        Self { dir, disk, partition }
    }

    /// The attributes of its queue: those of its disk, if it is a partition.
    pub fn queue(&self) -> PathBuf {
        self.disk.join("queue")
    }

    /// Counts the disks of this boot; that of its disk, if it is a partition.
    pub fn diskseq(&self) -> Option<u64> {
        text(&self.disk, "diskseq").and_then(|number| number.parse().ok())
    }

    /// Whether the kernel refuses writes to it.
    pub fn is_read_only(&self) -> bool {
        text(&self.dir, "ro").as_deref() == Some("1")
    }

    /// Capabilities of a device of `size` bytes. What sysfs does not say is taken from the careful side:
    /// a volatile cache, no FUA, no offloads.
    pub fn capabilities(&self, size: u64, read_only: bool) -> Capabilities {
        let queue = self.queue();
        let number = |name| text(&queue, name).and_then(|text| text.parse::<u64>().ok());
        let block =
            |name| number(name).and_then(|bytes| u32::try_from(bytes).ok()).filter(|b| b.is_power_of_two());
        let logical_block = block("logical_block_size").unwrap_or(4096);
        Capabilities {
            size: size - size % u64::from(logical_block),
            logical_block,
            physical_block: block("physical_block_size").unwrap_or(logical_block),
            optimal_io: number("optimal_io_size").and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(0),
            volatile_cache: text(&queue, "write_cache").as_deref() != Some("write through"),
            fua: number("fua") == Some(1),
            rotational: number("rotational") == Some(1),
            discard: number("discard_max_bytes").unwrap_or(0) > 0,
            write_zeroes: number("write_zeroes_max_bytes").unwrap_or(0) > 0,
            read_only: read_only || self.is_read_only(),
        }
    }
}

/// The text of a file, trimmed; none if it is missing, unreadable or empty.
pub(crate) fn text(dir: &Path, file: &str) -> Option<String> {
    let text = fs::read_to_string(dir.join(file)).ok()?;
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A directory that looks like a device's, removed when dropped.
    pub(crate) struct FakeSysfs(pub(crate) PathBuf);

    impl FakeSysfs {
        pub(crate) fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root =
                std::env::temp_dir().join(format!("umbra-identity-sysfs-{}-{name}", std::process::id()));
            for (file, content) in files {
                let path = root.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for FakeSysfs {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_partition_takes_the_queue_of_its_disk() {
        let fake = FakeSysfs::new(
            "partition",
            &[
                ("sda/queue/logical_block_size", "512\n"),
                ("sda/queue/physical_block_size", "4096\n"),
                ("sda/queue/write_cache", "write back\n"),
                ("sda/queue/fua", "1\n"),
                ("sda/queue/discard_max_bytes", "1048576\n"),
                ("sda/queue/write_zeroes_max_bytes", "0\n"),
                ("sda/queue/rotational", "1\n"),
                ("sda/sda2/partition", "2\n"),
                ("sda/sda2/ro", "0\n"),
            ],
        );
        let dir = BlockDir::at(fake.0.join("sda/sda2"));
        assert_eq!(dir.partition, Some(2));
        let expected = Capabilities {
            size: 1_000_448,
            logical_block: 512,
            physical_block: 4096,
            optimal_io: 0,
            volatile_cache: true,
            fua: true,
            rotational: true,
            discard: true,
            write_zeroes: false,
            read_only: false,
        };
        assert_eq!(dir.capabilities(1_000_600, false), expected);
    }

    #[test]
    fn what_sysfs_does_not_say_is_taken_from_the_careful_side() {
        let fake = FakeSysfs::new("silent", &[("sdb/ro", "1\n")]);
        let capabilities = BlockDir::at(fake.0.join("sdb")).capabilities(8192, false);
        assert!(capabilities.volatile_cache);
        assert!(!capabilities.fua);
        assert!(!capabilities.discard);
        assert!(capabilities.read_only, "the device says so itself");
        assert_eq!(capabilities.logical_block, 4096);
    }

    #[test]
    fn only_write_through_counts_as_no_cache() {
        let fake = FakeSysfs::new("cache", &[("sdc/queue/write_cache", "write through\n")]);
        assert!(!BlockDir::at(fake.0.join("sdc")).capabilities(8192, false).volatile_cache);
    }
}
