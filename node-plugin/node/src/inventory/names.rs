//! Which of a device's names it is told by, and which names the cluster understands.

use std::path::PathBuf;
use umbra_crds::{DeviceId, DevicePattern};

/// Longest name that the cluster takes.
const NAME_BYTES_MAX: usize = 256;
/// Folders of names that stay, the ones that people know devices by first.
const FOLDERS: &[&str] =
    &["/dev/mapper/", "/dev/disk/by-id/", "/dev/disk/by-partuuid/", "/dev/disk/by-path/"];
/// What names by numbers begin with, in the folder of those by model and serial.
const BY_NUMBER: &[&str] =
    &["wwn-", "nvme-eui.", "nvme-uuid.", "nvme-nvme.", "scsi-3", "dm-uuid-", "md-uuid-"];
/// Names by model and serial that say a partition's, mapping's or array's name a second time.
const SECOND_HAND: &[&str] = &["dm-name-", "md-name-"];

/// Whether the cluster understands the name: what its schema asks of a device in a spec.
pub(super) fn is_stable(name: &str) -> bool {
    let last = FOLDERS.iter().find_map(|folder| name.strip_prefix(folder));
    let is_one = |last: &str| {
        !last.is_empty()
            && last.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":._+@-".contains(&byte))
            && ![".", ".."].contains(&last)
    };
    // Names of device-mapper have no colon and no at sign there.
    let is_mapping = |last: &str| !last.contains([':', '@']) && last != "control";
    name.len() <= NAME_BYTES_MAX
        && last.is_some_and(is_one)
        && name.strip_prefix(FOLDERS[0]).is_none_or(is_mapping)
}

/// Of the names that a device stays known by, those that the cluster understands, the one that it is told by first.
pub(super) fn in_order(names: &[PathBuf]) -> Vec<DeviceId> {
    let names = names.iter().filter_map(|name| name.to_str()).filter(|name| is_stable(name));
    let mut names: Vec<&str> = names.collect();
    names.sort_by_key(|name| (rank(name), name.len(), *name));
    names.into_iter().map(DeviceId::new).collect()
}

fn rank(name: &str) -> usize {
    let folder = FOLDERS.iter().position(|folder| name.starts_with(folder)).unwrap_or(FOLDERS.len());
    let last = name.rsplit('/').next().unwrap_or(name);
    let begins = |with: &[&str]| with.iter().any(|begin| last.starts_with(begin));
    let of_id = if begins(SECOND_HAND) { 2 } else { usize::from(begins(BY_NUMBER)) };
    folder * 3 + of_id
}

/// A pattern of device names, for an option.
pub(crate) fn device_pattern(text: &str) -> Result<DevicePattern, String> {
    // What stands for one character or for any must not hide what is wrong with the rest.
    let plain = text.replace(['*', '?'], "x");
    if is_stable(&plain) {
        Ok(DevicePattern::new(text))
    } else {
        Err("a pattern begins with /dev/disk/by-id/, by-partuuid/, by-path/ or /dev/mapper/, and * stands for any text \
             without a slash, ? for one character"
            .to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_schema_takes_are_stable() {
        for good in [
            "/dev/disk/by-id/nvme-KIOXIA_S1-part1",
            "/dev/disk/by-path/pci-0000:00:04.0",
            "/dev/disk/by-partuuid/0fc63daf-8483-4772-8e79-3d69d8477de4",
            "/dev/mapper/vg-lv",
        ] {
            assert!(is_stable(good), "{good}");
        }
        for bad in [
            "",
            "/dev/sda",
            "/dev/disk/by-id/",
            "/dev/disk/by-id/..",
            "/dev/disk/by-id/a/b",
            "/dev/disk/by-id/a\\x20b",
            "/dev/disk/by-uuid/0c9f1f0e",
            "/dev/mapper/control",
            "/dev/mapper/a:b",
            "dev/mapper/a",
        ] {
            assert!(!is_stable(bad), "{bad}");
        }
        assert!(!is_stable(&format!("/dev/mapper/{}", "x".repeat(NAME_BYTES_MAX))));
    }

    #[test]
    fn a_device_is_told_by_the_name_that_people_know() {
        let first = |names: &[&str]| {
            let names: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
            in_order(&names).first().map(|id| id.as_str().to_owned())
        };
        let disk = [
            "/dev/disk/by-path/pci-0000:01:00.0-nvme-1",
            "/dev/disk/by-id/nvme-eui.0025385b",
            "/dev/disk/by-id/nvme-Samsung_S5H9_1",
            "/dev/disk/by-id/nvme-Samsung_S5H9",
        ];
        assert_eq!(first(&disk).as_deref(), Some("/dev/disk/by-id/nvme-Samsung_S5H9"));
        assert_eq!(first(&disk[..2]).as_deref(), Some("/dev/disk/by-id/nvme-eui.0025385b"));
        let volume = ["/dev/disk/by-id/dm-name-vg-lv", "/dev/disk/by-id/dm-uuid-LVM-x", "/dev/mapper/vg-lv"];
        assert_eq!(first(&volume).as_deref(), Some("/dev/mapper/vg-lv"));
        assert_eq!(first(&["/dev/disk/by-id/a\\x20b"]), None, "the cluster would refuse it");
    }

    #[test]
    fn a_pattern_that_could_match_nothing_is_refused() {
        for good in ["/dev/disk/by-id/nvme-KIOXIA_*", "/dev/mapper/vg?-*", "/dev/disk/by-path/*"] {
            assert_eq!(device_pattern(good).map(|pattern| pattern.as_str().to_owned()).as_deref(), Ok(good));
        }
        for bad in ["", "*", "/dev/sd?", "/dev/disk/by-uuid/*", "/dev/disk/*/x", "/dev/mapper/a b"] {
            device_pattern(bad).expect_err(bad);
        }
    }
}
