//! Machines made of files: `/sys`, `/proc` and `/dev` of a temporary directory.

use super::*;
use crate::hardware::DeviceKind;
use crate::proof::{NotFree, prove_free};
use proptest::prelude::*;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

/// A device node here is a file with the text `block 8:16`; every other file is on the device 254:0.
fn fake_key(path: &Path) -> io::Result<Option<DeviceKey>> {
    let text = fs::read_to_string(path)?;
    match text.strip_prefix("block ").and_then(DeviceNumber::parse) {
        Some(number) => Ok(Some(DeviceKey::Block(number))),
        None if text == "socket" => Ok(None),
        None => Ok(Some(DeviceKey::File {
            on: DeviceNumber { major: 254, minor: 0 },
            inode: std::os::unix::fs::MetadataExt::ino(&fs::metadata(path)?),
        })),
    }
}

struct Host {
    home: TempDir,
}

impl Host {
    /// `vda` (254:0), on which the root file system is; `sdb` (8:16) with the partitions `sdb1` and `sdb2`; an LV
    /// on `sdb2`, `dm-0` (253:0); our first process.
    fn new() -> Self {
        let host = Self { home: tempfile::tempdir().unwrap() };
        host.disk("vda", "254:0", &[]);
        host.disk("sdb", "8:16", &[("sdb1", "8:17"), ("sdb2", "8:18")]);
        host.disk("dm-0", "253:0", &[]);
        host.write("sys/devices/dm-0/dm/name", "vg-lv\n");
        host.stack("dm-0", "sdb/sdb2");
        host.write("proc/swaps", "Filename Type Size Used Priority\n");
        host.process(1, "init", "4026531841", "22 1 254:0 / / rw - ext4 /dev/vda rw\n");
        symlink("1", host.path("proc/self")).unwrap();
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, path: &str, target: &Path) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn node(&self, dir: &str, name: &str, number: &str) {
        self.write(&format!("sys/devices/{dir}/dev"), &format!("{number}\n"));
        self.write(&format!("sys/devices/{dir}/size"), "16384\n");
        self.link(&format!("sys/dev/block/{number}"), &self.path(&format!("sys/devices/{dir}")));
        self.write(&format!("dev/{name}"), &format!("block {number}"));
    }

    fn disk(&self, name: &str, number: &str, partitions: &[(&str, &str)]) {
        self.node(name, name, number);
        self.write(&format!("sys/devices/{name}/queue/logical_block_size"), "512");
        self.write(&format!("sys/devices/{name}/queue/optimal_io_size"), "131072");
        self.write(&format!("sys/devices/{name}/diskseq"), "7");
        self.write(&format!("sys/devices/{name}/wwid"), &format!("naa.{name}"));
        for (index, (partition, number)) in partitions.iter().enumerate() {
            self.node(&format!("{name}/{partition}"), partition, number);
            self.write(&format!("sys/devices/{name}/{partition}/partition"), &(index + 1).to_string());
        }
    }

    /// `upper` is made of `lower`.
    fn stack(&self, upper: &str, lower: &str) {
        let (up, low) =
            (self.path(&format!("sys/devices/{upper}")), self.path(&format!("sys/devices/{lower}")));
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        self.link(&format!("sys/devices/{lower}/holders/{}", name(&up)), &up);
        self.link(&format!("sys/devices/{upper}/slaves/{}", name(&low)), &low);
    }

    fn process(&self, pid: u32, command: &str, namespace: &str, mounts: &str) {
        self.write(&format!("proc/{pid}/comm"), command);
        self.write(&format!("proc/{pid}/mountinfo"), mounts);
        self.write(&format!("proc/{pid}/maps"), "");
        let _ = fs::remove_file(self.path(&format!("proc/{pid}/ns/mnt")));
        self.link(&format!("proc/{pid}/ns/mnt"), Path::new(&format!("mnt:[{namespace}]")));
        fs::create_dir_all(self.path(&format!("proc/{pid}/fd"))).unwrap();
    }

    fn opens(&self, pid: u32, device: &str) {
        let links = fs::read_dir(self.path(&format!("proc/{pid}/fd"))).unwrap().count();
        self.link(&format!("proc/{pid}/fd/{links}"), &self.path(&format!("dev/{device}")));
    }

    fn machine(&self) -> Machine {
        let roots = Roots { sys: self.path("sys"), proc: self.path("proc"), dev: self.path("dev") };
        let look = Look { key_of: fake_key, ..Look::default().with_roots(roots).with_openers() };
        Machine::look(&look, &[]).unwrap()
    }

    fn facts(&self, device: &str) -> DeviceFacts {
        self.machine().facts(&self.path(&format!("dev/{device}"))).unwrap().unwrap()
    }

    /// Who uses it, in words.
    fn used(&self, device: &str) -> Vec<String> {
        self.facts(device).used.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn a_disk_is_described_with_what_it_is_and_what_stands_on_it() {
    let host = Host::new();
    let disk = host.facts("sdb");
    assert_eq!((disk.name.as_str(), disk.diskseq, disk.capabilities.optimal_io), ("sdb", Some(7), 131_072));
    assert_eq!(disk.capabilities.size, 8 << 20);
    assert_eq!(disk.identity.stable_id().as_deref(), Some("wwid:naa.sdb"));
    let names = |layers: &[Layer]| layers.iter().map(|layer| layer.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&disk.above), ["sdb1", "sdb2", "vg-lv"]);
    let upper = host.facts("dm-0");
    assert_eq!(upper.identity.kind, DeviceKind::DeviceMapper);
    assert_eq!(names(&upper.below), ["sdb", "sdb2"]);
    assert!(upper.overlaps(&disk) && !upper.overlaps(&host.facts("sdb1")));
    assert!(!host.facts("sdb1").overlaps(&host.facts("sdb2")), "two partitions are two devices");
}

#[test]
fn what_is_not_there_is_no_error_and_what_is_no_volume_is() {
    let host = Host::new();
    host.write("dev/log", "socket");
    let machine = host.machine();
    assert_eq!(machine.facts(&host.path("dev/sdz")).unwrap(), None);
    assert!(matches!(machine.facts(&host.path("dev/log")), Err(GatherError::NotAVolume(_))));
    host.write("dev/stale", "block 99:9");
    assert_eq!(machine.facts(&host.path("dev/stale")).unwrap(), None, "a node without a device");
}

#[test]
fn names_that_stay_are_found_and_those_that_go_with_the_content_are_not() {
    let host = Host::new();
    assert!(host.machine().names().unwrap().is_empty(), "udev has made none");
    let link =
        |name: &str, device: &str| host.link(&format!("dev/{name}"), &host.path(&format!("dev/{device}")));
    link("disk/by-path/pci-0000:00:04.0", "sdb");
    link("disk/by-id/wwn-0x5000", "sdb");
    link("disk/by-id/lvm-pv-uuid-Xy", "sdb2");
    link("disk/by-uuid/0c9f1f0e", "sdb1");
    link("disk/by-id/wwn-0x5001", "sdz");
    link("mapper/vg-lv", "dm-0");
    host.write("dev/mapper/control", "socket");
    let machine = host.machine();
    let names = machine.names().unwrap();
    let of = |device: &str| names.get(&host.facts(device).key).cloned().unwrap_or_default();
    let sdb = ["/dev/disk/by-id/wwn-0x5000", "/dev/disk/by-path/pci-0000:00:04.0"];
    assert_eq!(of("sdb"), sdb.map(PathBuf::from));
    assert_eq!(of("dm-0"), [PathBuf::from("/dev/mapper/vg-lv")]);
    assert_eq!((of("sdb1"), of("sdb2"), names.len()), (vec![], vec![], 2));
    assert_eq!(machine.key(&host.path("dev/disk/by-id/wwn-0x5000")), Some(host.facts("sdb").key));
    assert_eq!(machine.key(&host.path("dev/disk/by-id/wwn-0x5001")), None);
}

#[test]
fn an_unused_disk_is_proved_to_be_free() {
    let host = Host::new();
    assert_eq!(prove_free(&host.facts("sdb1")), Ok(()));
}

/// Missed before: only the whole disk's own number was looked for.
#[test]
fn an_open_partition_is_found_from_its_disk_and_the_disk_from_its_partition_but_not_a_sibling() {
    let host = Host::new();
    host.process(40, "dd", "4026531841", "");
    host.opens(40, "sdb1");
    let open = "open for writing in process 40 (dd); stop that";
    assert_eq!(host.used("sdb1"), [format!("it is {open}")]);
    assert!(host.used("sdb").contains(&format!("sdb1 is {open}")));
    assert_eq!(host.used("sdb2"), ["it is part of the device vg-lv; stop that device or use it instead"]);
    host.opens(40, "sdb");
    assert!(host.used("sdb2").contains(&format!("sdb is {open}")));
}

#[test]
fn a_use_is_seen_from_every_layer_below_it() {
    let host = Host::new();
    host.process(1, "init", "4026531841", "30 1 253:0 / /srv rw - ext4 /dev/mapper/vg-lv rw\n");
    for lower in ["sdb", "sdb2"] {
        let used = host.used(lower);
        assert!(used.contains(&"vg-lv is mounted at /srv; unmount it".to_owned()), "{lower}: {used:?}");
    }
    assert_eq!(host.used("dm-0"), ["it is mounted at /srv; unmount it"]);
    assert_eq!(host.used("sdb1"), Vec::<String>::new());
}

/// Missed before: loop devices have no link in `holders`.
#[test]
fn a_mount_through_a_loop_device_on_top_is_found() {
    let host = Host::new();
    host.disk("loop3", "7:3", &[]);
    host.write("sys/devices/loop3/loop/backing_file", "/dev/sdb1\n");
    host.process(1, "init", "4026531841", "30 1 7:3 / /mnt/with\\040blank rw - ext4 /dev/loop3 rw\n");
    let used = host.used("sdb1");
    assert!(used.contains(&"loop3 is mounted at /mnt/with blank; unmount it".to_owned()), "{used:?}");
    assert!(used.iter().any(|line| line.contains("part of the device loop3")), "{used:?}");
    assert!(host.facts("loop3").stands_on(host.facts("sdb").key));
    assert!(matches!(prove_free(&host.facts("sdb")), Err(NotFree::Used { .. })));
}

#[test]
fn a_loop_device_is_known_by_the_host_s_name_of_what_is_behind_it_else_by_its_kernel_name() {
    let host = Host::new();
    host.disk("loop3", "7:3", &[]);
    host.write("sys/devices/loop3/loop/backing_file", "/only/there\n");
    host.write("proc/1/root/only/there", "block 8:17");
    assert!(host.facts("loop3").stands_on(host.facts("sdb1").key));
    host.write("sys/devices/loop3/loop/backing_file", "/elsewhere/dev/sdb2\n");
    assert!(host.facts("loop3").stands_on(host.facts("sdb2").key));
    host.write("sys/devices/loop3/loop/backing_file", "/elsewhere/unknown\n");
    let facts = host.facts("loop3");
    assert!(facts.blind.iter().any(|blind| blind.what == "/elsewhere/unknown"), "{:?}", facts.blind);
    assert!(matches!(prove_free(&host.facts("sdb1")), Err(NotFree::Unproven { .. })));
    host.write("sys/devices/loop3/loop/backing_file", "/tmp/gone (deleted)\n");
    assert_eq!(host.facts("loop3").blind, []);
}

/// Missed before: only our own mount namespace was read.
#[test]
fn a_mount_of_another_namespace_is_found_by_number_and_by_source() {
    let host = Host::new();
    host.process(50, "pause", "4026532000", "30 1 8:17 / /data rw - xfs /dev/sdb1 rw\n");
    assert_eq!(
        host.used("sdb1"),
        ["it is mounted at /data in the mount namespace of process 50; unmount it there"]
    );
    // btrfs has a number of its own; the name is one of that namespace.
    host.process(50, "pause", "4026532000", "30 1 0:44 / /data rw - btrfs /by/another rw\n");
    host.write("proc/50/root/by/another", "block 8:17");
    assert_eq!(host.used("sdb1").len(), 1);
}

impl Host {
    /// A mounted file system has the device.
    fn btrfs(&self, lower: &str) {
        let name = Path::new(lower).file_name().unwrap().to_string_lossy().into_owned();
        self.link(&format!("sys/fs/btrfs/77aa/devices/{name}"), &self.path(&format!("sys/devices/{lower}")));
    }
}

#[test]
fn every_device_of_a_mounted_file_system_is_used_not_only_the_one_that_mountinfo_names() {
    let host = Host::new();
    host.btrfs("sdb/sdb1");
    assert_eq!(host.used("sdb1"), ["it is a device of the mounted file system btrfs:77aa; unmount that"]);
}

#[test]
fn swap_is_found() {
    let host = Host::new();
    host.write("proc/swaps", "Filename Type Size Used Priority\n/dev/sdb1 partition 8 0 -2\n");
    assert_eq!(host.used("sdb1"), ["it is used as swap; run swapoff"]);
}

/// Missed before: a mapping names the inode of the device's node, and its descriptor may be closed.
#[test]
fn a_mapping_is_found_though_its_descriptor_is_closed() {
    let host = Host::new();
    host.process(60, "reader", "4026531841", "");
    host.write("proc/60/maps", "7f00-7f01 r--s 00000000 00:06 94                         /dev/sdb1\n");
    host.link("proc/60/map_files/7f00-7f01", &host.path("dev/sdb1"));
    assert_eq!(host.used("sdb1"), ["it is mapped into process 60 (reader); stop that"]);
    let machine = host.machine();
    let look = Look { except: Some(60), ..machine.look };
    let machine = Machine::look(&look, &[]).unwrap();
    let facts = machine.facts(&host.path("dev/sdb1")).unwrap().unwrap();
    assert_eq!(facts.used.len(), 1, "only descriptors of ours are left out");
}

#[test]
fn descriptors_of_ours_can_be_left_out() {
    let host = Host::new();
    host.opens(1, "sdb1");
    assert_eq!(host.facts("sdb1").used.len(), 1);
    let look = host.machine().look.except_descriptors_of(1);
    let facts = Machine::look(&look, &[]).unwrap().facts(&host.path("dev/sdb1")).unwrap().unwrap();
    assert_eq!(prove_free(&facts), Ok(()));
}

#[test]
fn what_cannot_be_looked_at_is_said() {
    let host = Host::new();
    host.process(70, "odd", "4026532001", "30 1 8:17 / /seen rw - xfs /dev/sdb1 rw\nno mount at all\n");
    host.write("proc/70/maps", "no mapping\n");
    let facts = host.facts("sdb1");
    let blind: Vec<&str> = facts.blind.iter().map(|blind| blind.what.as_str()).collect();
    assert!(blind.iter().any(|what| what.ends_with("70/mountinfo")), "{blind:?}");
    assert!(blind.iter().any(|what| what.ends_with("70/maps")), "{blind:?}");
    assert!(facts.used.iter().any(|used| matches!(used.by, Holder::Mounted { .. })), "the good line counts");
}

#[test]
fn all_devices_are_listed_with_their_nodes() {
    let host = Host::new();
    let names: Vec<String> = host.machine().devices().into_iter().map(|facts| facts.name).collect();
    assert_eq!(names, ["sdb", "sdb1", "sdb2", "dm-0", "vda"]);
    assert_eq!(host.machine().number_of("sdb2"), DeviceNumber::parse("8:18"));
}

#[test]
fn a_file_stands_on_the_device_of_its_file_system_and_its_loop_device_on_both() {
    let host = Host::new();
    host.write("image", "a disk image");
    host.disk("loop3", "7:3", &[]);
    let image = host.path("image");
    host.write("sys/devices/loop3/loop/backing_file", image.to_str().unwrap());
    let file = host.machine().facts(&image).unwrap().unwrap();
    assert_eq!(file.identity.stable_id(), None);
    assert!(file.stands_on(host.facts("vda").key));
    assert!(
        file.used.iter().any(|used| used.by == Holder::Stacked { name: "loop3".to_owned() }),
        "{:?}",
        file.used
    );
    let upper = host.facts("loop3");
    assert!(upper.overlaps(&file) && upper.stands_on(host.facts("vda").key));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Names of mount points and processes are what somebody chose.
    #[test]
    fn no_text_confuses_the_look(
        lines in prop::collection::vec("[ -~\\\\0-9:/éß-]{0,60}", 0..6),
        good in 0usize..6,
    ) {
        let host = Host::new();
        let mut text = lines.clone();
        text.insert(good.min(lines.len()), "30 1 8:17 / /seen rw - xfs /dev/sdb1 rw".to_owned());
        host.process(80, "odd", "4026532001", &text.join("\n"));
        host.write("proc/80/maps", &lines.join("\n"));
        host.write("proc/80/comm", &lines.join("\n"));
        host.write("proc/swaps", &text.join("\n"));
        host.write("proc/locks", &lines.join("\n"));
        let facts = host.facts("sdb1");
        let seen = |used: &Used| matches!(&used.by, Holder::Mounted { at, .. } if at == Path::new("/seen"));
        prop_assert!(facts.used.iter().any(seen), "{:?}", facts.used);
    }
}
