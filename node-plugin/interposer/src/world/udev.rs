//! Keeps the raw devices out of sight: a udev rule of ours, of this boot, for masters, shadows and bitmap volumes.
//!
//! A raw master and its full-size shadow carry the same file system, so udev lets `/dev/disk/by-uuid` lead to one of them,
//! and LVM and systemd find volume groups and mounts there. Whoever follows that writes past Umbra (rule 5). Names by
//! hardware (`by-id`, `by-path`, `by-partuuid`) stay: they are how volumes are named to us. What is mounted by its UUID is
//! found on the presented master instead.
//!
//! The rule is in `/run`, since it goes by the kernel's names, which are others after the next boot. udev notices by itself
//! that it has changed, but looks for that only every three seconds, while it handles events (`udevd.c` of systemd): the
//! devices concerned are told to be looked at again at once, and once more when that time has passed. Where there is no
//! udev there is nothing to do.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use umbra_lifecycle::world::Sight;

/// After the rules that make the links, before those that act on what was found.
const RULE: &str = "61-umbra.rules";

/// After that time udev has certainly noticed a rule that was changed.
pub(super) const RULES_NOTICED: Duration = Duration::from_secs(4);

/// See the module.
#[derive(Debug)]
pub(crate) struct Udev {
    /// `/run/udev`; others in tests.
    run: PathBuf,
    /// `/sys/class/block`.
    devices: PathBuf,
}

/// The kernel's name of a block device; none for a file.
fn kernel_name(path: &Path) -> Option<String> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let metadata = fs::metadata(path).ok().filter(|metadata| metadata.file_type().is_block_device())?;
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let folder = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    folder.file_name()?.to_str().map(str::to_owned)
}

/// Matches a device and its partitions, and no other device: after a digit the kernel puts a `p` before the partition's
/// number (`disk_name` in block/partitions/core.c), so that what begins with `dm-1` may be `dm-10`.
fn pattern(name: &str) -> String {
    let between = if name.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    format!("{name}|{name}{between}[0-9]*")
}

/// The rule that hides devices with these names of the kernel, and their partitions, and shows the masters.
fn rule(names: &BTreeSet<String>, masters: &BTreeSet<u32>) -> String {
    let mut text = String::from(
        "# Made by umbra-io for this boot: what lies under Umbra is found by its hardware only, and its file systems on the \
         presented masters.\n\
         SUBSYSTEM!=\"block\", GOTO=\"umbra_end\"\n\
         KERNEL==\"ublkb*\", OPTIONS+=\"nowatch\"\n",
    );
    let masters = masters.iter().map(|number| (format!("ublkb{number}"), "umbra_master"));
    let raw = names.iter().map(|name| (name.clone(), "umbra_raw"));
    for (name, fate) in masters.chain(raw) {
        let _ = writeln!(text, "KERNEL==\"{}\", GOTO=\"{fate}\"", pattern(&name));
    }
    text.push_str(
        "GOTO=\"umbra_end\"\n\
         LABEL=\"umbra_master\"\n\
         IMPORT{builtin}=\"blkid\"\n\
         ENV{ID_FS_USAGE}==\"filesystem|other|crypto\", ENV{ID_FS_UUID_ENC}==\"?*\", \
         SYMLINK+=\"disk/by-uuid/$env{ID_FS_UUID_ENC}\"\n\
         GOTO=\"umbra_end\"\n\
         LABEL=\"umbra_raw\"\n\
         SYMLINK-=\"disk/by-uuid/$env{ID_FS_UUID_ENC}\"\n\
         SYMLINK-=\"disk/by-label/$env{ID_FS_LABEL_ENC}\"\n\
         ENV{ID_FS_TYPE}=\"\", ENV{ID_FS_USAGE}=\"\", ENV{SYSTEMD_READY}=\"0\", OPTIONS+=\"nowatch\"\n\
         LABEL=\"umbra_end\"\n",
    );
    text
}

/// The devices that a rule is about, each with what becomes of it.
fn concerned(text: &str) -> BTreeSet<(String, String)> {
    let device = |line: &str| {
        let (names, fate) = line.strip_suffix('"')?.strip_prefix("KERNEL==\"")?.split_once("\", GOTO=\"")?;
        Some((names.split('|').next()?.to_owned(), fate.to_owned()))
    };
    text.lines().filter_map(device).collect()
}

impl Udev {
    pub(crate) fn host() -> Self {
        Self { run: "/run/udev".into(), devices: "/sys/class/block".into() }
    }

    /// Hides what is to be hidden, and nothing else any more, and shows the masters. Returns the devices of which the rule
    /// now says something else.
    pub(crate) fn hide(&self, sight: &Sight) -> BTreeSet<String> {
        if !self.run.exists() {
            return BTreeSet::new();
        }
        let raw = sight.raw.iter().filter_map(|path| kernel_name(path));
        let names = raw.chain(sight.shadows.iter().map(|number| format!("ublkb{number}"))).collect();
        let changed = self.hide_names(&names, &sight.masters.iter().copied().collect());
        changed.unwrap_or_else(|error| {
            tracing::warn!(%error, rule = RULE, "raw devices are not hidden from udev's links and from scanners");
            BTreeSet::new()
        })
    }

    fn hide_names(&self, names: &BTreeSet<String>, masters: &BTreeSet<u32>) -> io::Result<BTreeSet<String>> {
        let folder = self.run.join("rules.d");
        let path = folder.join(RULE);
        let before = fs::read_to_string(&path).unwrap_or_default();
        let text = rule(names, masters);
        if before == text || before.is_empty() && names.is_empty() && masters.is_empty() {
            return Ok(BTreeSet::new());
        }
        fs::create_dir_all(&folder)?;
        crate::files::write(&path, text.as_bytes())?;
        let (before, now) = (concerned(&before), concerned(&text));
        let changed = before.symmetric_difference(&now).map(|(name, _)| name.clone()).collect();
        self.look_again(&changed);
        Ok(changed)
    }

    /// Has udev look at devices again, and at their partitions.
    pub(crate) fn look_again(&self, names: &BTreeSet<String>) {
        for folder in names.iter().map(|name| self.devices.join(name)) {
            let partitions = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
            let partitions = partitions.filter(|path| path.join("partition").exists());
            for device in std::iter::once(folder.clone()).chain(partitions) {
                // A device that is gone needs no look.
                let _ = fs::write(device.join("uevent"), "change");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_rule_says_what_it_hides_and_leaves_names_by_hardware() {
        let text = rule(&names(&["vdb", "nvme0n1p2"]), &BTreeSet::from([3]));
        let about = |name: &str, fate: &str| (name.to_owned(), fate.to_owned());
        let raw = ["nvme0n1p2", "vdb"].map(|name| about(name, "umbra_raw"));
        let all: BTreeSet<_> = raw.into_iter().chain([about("ublkb3", "umbra_master")]).collect();
        assert_eq!(concerned(&text), all);
        assert!(text.contains("KERNEL==\"vdb|vdb[0-9]*\", GOTO"), "{text}");
        assert!(!text.contains("by-id") && text.contains("disk/by-uuid/$env{ID_FS_UUID_ENC}"), "{text}");
    }

    #[test]
    fn a_device_whose_name_begins_with_that_of_another_is_not_hidden_with_it() {
        for (name, its, others) in [
            ("vdb", ["vdb", "vdb1", "vdb12"], ["vda", "vdba", "vd"]),
            ("vdb1", ["vdb1"; 3], ["vdb", "vdb10", "vdb2"]),
            ("dm-1", ["dm-1", "dm-1p1", "dm-1p12"], ["dm-10", "dm-11", "dm-2"]),
            ("nvme0n1p1", ["nvme0n1p1"; 3], ["nvme0n1", "nvme0n1p10", "nvme0n1p12"]),
            ("ublkb3", ["ublkb3", "ublkb3p1", "ublkb3p2"], ["ublkb30", "ublkb31", "ublkb2"]),
        ] {
            let matches = |device: &&str| {
                pattern(name).split('|').any(|part| match part.strip_suffix("[0-9]*") {
                    Some(before) => device
                        .strip_prefix(before)
                        .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit())),
                    None => part == *device,
                })
            };
            assert!(its.iter().all(&matches), "{name}: {}", pattern(name));
            assert!(!others.iter().any(matches), "{name}: {}", pattern(name));
        }
    }

    #[test]
    fn only_devices_whose_state_changes_are_looked_at_again() {
        let home = tempfile::tempdir().unwrap();
        let udev = Udev { run: home.path().join("udev"), devices: home.path().join("block") };
        for device in ["vda", "vdb", "vdb/vdb1", "vdc"] {
            fs::create_dir_all(udev.devices.join(device)).unwrap();
            fs::write(udev.devices.join(device).join("uevent"), "").unwrap();
        }
        fs::write(udev.devices.join("vdb/vdb1/partition"), "1").unwrap();
        let told = |device: &str| {
            let path = udev.devices.join(device).join("uevent");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, "").unwrap();
            text == "change"
        };
        udev.hide_names(&names(&[]), &BTreeSet::new()).unwrap();
        assert!(!udev.run.join("rules.d").exists(), "nothing to hide leaves no file");
        udev.hide_names(&names(&["vdb"]), &BTreeSet::new()).unwrap();
        assert_eq!(["vda", "vdb", "vdb/vdb1", "vdc"].map(told), [false, true, true, false]);
        udev.hide_names(&names(&["vdb", "vdc"]), &BTreeSet::from([0])).unwrap();
        assert_eq!(["vda", "vdb", "vdb/vdb1", "vdc"].map(told), [false, false, false, true]);
        udev.hide_names(&names(&["vdc", "gone"]), &BTreeSet::from([0])).unwrap();
        assert_eq!(["vda", "vdb", "vdb/vdb1", "vdc"].map(told), [false, true, true, false]);
    }
}
