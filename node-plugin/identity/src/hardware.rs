//! What a device is recognised by when it comes back under another name (E19).

use crate::sysfs::{BlockDir, DeviceNumber, Roots, text};
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What is behind the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// A whole disk with hardware, or a hypervisor, behind it.
    Disk,
    /// A partition of a disk.
    Partition,
    /// Device-mapper: LVM, multipath, dm-crypt.
    DeviceMapper,
    /// Linux software RAID.
    Md,
    /// A file that looks like a disk.
    Loop,
    /// A ublk device, ours or that of another server.
    Ublk,
    /// A block device without hardware: RAM disks, network block devices.
    Virtual,
    /// A regular file.
    File,
}

/// How a device is recognised. Two devices with equal [`stable_id`](Self::stable_id) are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What it is.
    pub kind: DeviceKind,
    /// World-wide name: NVMe, SCSI. Of a partition, that of its disk.
    pub wwid: Option<String>,
    /// Serial number: virtio, NVMe. Of a partition, that of its disk.
    pub serial: Option<String>,
    /// UUID of the partition table's entry.
    pub partuuid: Option<String>,
    /// UUID that device-mapper or md keeps.
    pub upper_uuid: Option<String>,
    /// Number of the partition.
    pub partition: Option<u32>,
    /// Size in bytes.
    pub size: u64,
    /// Whether something in here is unique in the world. If not, a volume set needs the operator's word.
    pub strong: bool,
}

impl Identity {
    /// That of a regular file: files have no name of their own that is unique.
    pub fn of_file(size: u64) -> Self {
        Self {
            kind: DeviceKind::File,
            wwid: None,
            serial: None,
            partuuid: None,
            upper_uuid: None,
            partition: None,
            size,
            strong: false,
        }
    }

    /// That of a block device, as sysfs shows it.
    pub fn of_device(number: DeviceNumber, size: u64) -> Self {
        Self::of_device_in(&Roots::default(), number, size)
    }

    pub(crate) fn of_device_in(roots: &Roots, number: DeviceNumber, size: u64) -> Self {
        match BlockDir::of_in(roots, number) {
            Ok(block) => {
                let partuuid = block.partition.and_then(|_| partuuid_from_links(roots, number));
                Self::from_sysfs(&block, partuuid, size)
            }
            Err(_) => Self { kind: DeviceKind::Virtual, ..Self::of_file(size) },
        }
    }

    fn from_sysfs(block: &BlockDir, partuuid_link: Option<String>, size: u64) -> Self {
        let disk = &block.disk;
        let first = |names: &[&str]| names.iter().find_map(|name| text(disk, name));
        let wwid = first(&["wwid", "device/wwid"]);
        let serial = first(&["serial", "device/serial"]);
        let upper_uuid = first(&["dm/uuid", "md/uuid"]);
        let partuuid = block.partition.and_then(|_| partuuid_from_uevent(&block.dir).or(partuuid_link));
        let disk_kind = kind_of_disk(disk);
        // The signature of a DOS partition table has 32 bits, and is copied with the disk.
        let own_uuid = upper_uuid.is_some() || partuuid.as_ref().is_some_and(|uuid| uuid.len() == 36);
        let named = wwid.is_some() || serial.is_some() || own_uuid;
        Self {
            kind: if block.partition.is_some() { DeviceKind::Partition } else { disk_kind },
            wwid,
            serial,
            partuuid,
            upper_uuid,
            partition: block.partition,
            size,
            strong: named && disk_kind != DeviceKind::Loop,
        }
    }

    /// The strongest name, such as `wwid:naa.5000…` or `serial:ABC/part2`; none for a weak identity.
    /// Stays the same over reboots and on other nodes.
    pub fn stable_id(&self) -> Option<String> {
        if !self.strong {
            return None;
        }
        // A partition's own UUID first: its number changes when the table is edited.
        let own =
            self.partuuid.as_ref().filter(|uuid| uuid.len() == 36).map(|uuid| format!("partuuid:{uuid}"));
        let by_number = || {
            let name = self.disk_id()?;
            Some(self.partition.map_or(name.clone(), |number| format!("{name}/part{number}")))
        };
        own.or_else(by_number)
    }

    /// The strongest name of the disk: of a partition, that of the disk that it is a part of. Not for loop
    /// devices, whose names are those of nothing.
    pub fn disk_id(&self) -> Option<String> {
        if !self.strong {
            return None;
        }
        let names = [("uuid", &self.upper_uuid), ("wwid", &self.wwid), ("serial", &self.serial)];
        names.into_iter().find_map(|(key, value)| Some(format!("{key}:{}", value.as_ref()?)))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stable_id() {
            Some(id) => write!(f, "{id}, {} bytes", self.size),
            None => write!(f, "{:?} without a unique id, {} bytes", self.kind, self.size),
        }
    }
}

fn kind_of_disk(disk: &Path) -> DeviceKind {
    let name = disk.file_name().unwrap_or_default().to_string_lossy();
    if disk.join("dm").exists() {
        DeviceKind::DeviceMapper
    } else if disk.join("md").exists() {
        DeviceKind::Md
    } else if disk.join("loop").exists() || name.starts_with("loop") {
        DeviceKind::Loop
    } else if name.starts_with("ublkb") {
        DeviceKind::Ublk
    } else if disk.join("device").exists() {
        DeviceKind::Disk
    } else if disk.join("wwid").exists() {
        // A multipath NVMe namespace hangs under its subsystem, without a device of its own.
        DeviceKind::Disk
    } else {
        DeviceKind::Virtual
    }
}

/// The kernel's own word, in the partition's uevent since 6.10.
fn partuuid_from_uevent(partition: &Path) -> Option<String> {
    let uevent = text(partition, "uevent")?;
    let uuid = uevent.lines().find_map(|line| line.strip_prefix("PARTUUID="))?;
    Some(uuid.trim().to_ascii_lowercase()).filter(|uuid| !uuid.is_empty())
}

/// On older kernels, udev's links.
fn partuuid_from_links(roots: &Roots, number: DeviceNumber) -> Option<String> {
    let links = fs::read_dir(roots.dev.join("disk/by-partuuid")).ok()?.flatten();
    let ours = |link: &fs::DirEntry| {
        fs::metadata(link.path()).is_ok_and(|meta| DeviceNumber::from_raw(meta.rdev()) == number)
    };
    let link = links.into_iter().find(ours)?;
    Some(link.file_name().to_string_lossy().to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::tests::FakeSysfs;

    const GPT: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

    fn identity(name: &str, device: &str, files: &[(&str, &str)]) -> Identity {
        let fake = FakeSysfs::new(name, files);
        Identity::from_sysfs(&BlockDir::at(fake.0.join(device)), None, 1 << 30)
    }

    #[test]
    fn a_scsi_disk_is_known_by_its_wwid() {
        let disk = identity("scsi", "sda", &[("sda/device/wwid", "naa.5000c500a1b2c3d4\n")]);
        assert_eq!(disk.kind, DeviceKind::Disk);
        assert_eq!(disk.stable_id().as_deref(), Some("wwid:naa.5000c500a1b2c3d4"));
    }

    #[test]
    fn a_virtio_disk_is_known_by_its_serial_and_nameless_ones_are_weak() {
        let disk = identity("virtio", "vda", &[("vda/device/x", ""), ("vda/serial", "umbra-1")]);
        assert_eq!(disk.stable_id().as_deref(), Some("serial:umbra-1"));
        let nameless = identity("nameless", "vdb", &[("vdb/device/x", ""), ("vdb/serial", "")]);
        assert!(!nameless.strong);
        assert_eq!(nameless.stable_id(), None);
    }

    #[test]
    fn a_partition_is_known_by_its_own_uuid_or_its_disk_and_number() {
        let uevent = format!("DEVTYPE=partition\nPARTN=1\nPARTUUID={GPT}\n");
        let gpt =
            [("sda/wwid", "eui.1"), ("sda/sda1/partition", "1\n"), ("sda/sda1/uevent", uevent.as_str())];
        let gpt = identity("gpt", "sda/sda1", &gpt);
        assert_eq!(gpt.kind, DeviceKind::Partition);
        assert_eq!(gpt.stable_id(), Some(format!("partuuid:{GPT}")));
        let dos =
            [("sdb/wwid", "eui.2"), ("sdb/sdb2/partition", "2"), ("sdb/sdb2/uevent", "PARTUUID=1234abcd-02")];
        assert_eq!(identity("dos", "sdb/sdb2", &dos).stable_id().as_deref(), Some("wwid:eui.2/part2"));
        let bare = [("sdc/sdc2/partition", "2"), ("sdc/sdc2/uevent", "PARTUUID=1234abcd-02")];
        assert!(!identity("bare", "sdc/sdc2", &bare).strong, "a DOS signature is not unique");
    }

    #[test]
    fn upper_devices_are_known_by_their_uuid() {
        let lvm = identity("lvm", "dm-0", &[("dm-0/dm/uuid", "LVM-abc\n"), ("dm-0/dm/name", "vg-lv\n")]);
        assert_eq!(lvm.kind, DeviceKind::DeviceMapper);
        assert_eq!(lvm.stable_id().as_deref(), Some("uuid:LVM-abc"));
        assert!(!identity("table", "dm-1", &[("dm-1/dm/uuid", "\n")]).strong);
    }

    #[test]
    fn loop_devices_and_files_are_weak_whatever_is_on_them() {
        let uevent = format!("PARTUUID={GPT}");
        let files = [
            ("loop0/loop/backing_file", "/x"),
            ("loop0/loop0p1/partition", "1"),
            ("loop0/loop0p1/uevent", &uevent),
        ];
        assert!(!identity("loop", "loop0/loop0p1", &files).strong);
        assert!(!Identity::of_file(4096).strong);
    }
}
