//! The devices that nobody is ever given, whatever is granted: what the system lives on, what somebody uses, what
//! Umbra presents itself.

use super::rules::Rules;
use std::collections::BTreeSet;
use std::path::Path;
use umbra_crds::{DeniedReason, DeviceId};
use umbra_identity::{DeviceFacts, DeviceKey, Holder};

/// Why a device cannot be used; none where nothing stands in the way. What lasts comes before what passes, so that a
/// device is not told by another word whenever somebody has it open.
///
/// `presented` are the devices of ublk servers. `is_configured`: it is a volume of Umbra, which has it open itself.
pub(super) fn reason(
    device: &DeviceFacts,
    names: &[DeviceId],
    presented: &BTreeSet<DeviceKey>,
    is_configured: bool,
    rules: &Rules,
) -> Option<DeniedReason> {
    let is_used = |matches: &dyn Fn(&Holder) -> bool| device.used.iter().any(|used| matches(&used.by));
    let found = [
        (DeniedReason::Presented, presented.iter().any(|key| device.stands_on(*key))),
        (
            DeniedReason::System,
            is_used(&|by| matches!(by, Holder::Mounted { at, .. } if carries_the_system(at, rules))),
        ),
        (DeniedReason::Mounted, is_used(&|by| matches!(by, Holder::Mounted { .. } | Holder::Member { .. }))),
        (DeniedReason::Swap, is_used(&|by| matches!(by, Holder::Swap))),
        (DeniedReason::HasHolders, is_used(&|by| matches!(by, Holder::Stacked { .. }))),
        (DeniedReason::ReadOnly, device.capabilities.read_only),
        (DeniedReason::NoStableName, names.is_empty()),
        (DeniedReason::NotAllowed, !rules.allow(names)),
        (DeniedReason::Busy, !is_configured && is_used(&writes)),
    ];
    found.into_iter().find(|(_, is_so)| *is_so).map(|(reason, _)| reason)
}

/// Whether one of the system's folders is on the file system that is mounted there.
fn carries_the_system(at: &Path, rules: &Rules) -> bool {
    rules.system_folders.iter().any(|folder| folder.starts_with(at))
}

/// Readers do no harm: udev looks at every device that appears.
fn writes(by: &Holder) -> bool {
    match by {
        Holder::Opened { writes, .. } | Holder::Mapped { writes, .. } => *writes,
        Holder::Locked { .. } => true,
        Holder::Mounted { .. } | Holder::Member { .. } | Holder::Swap | Holder::Stacked { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbra_crds::DevicePattern;
    use umbra_identity::DeviceNumber;

    const NAME: &str = "/dev/disk/by-id/virtio-umbra1";

    fn disk() -> DeviceFacts {
        DeviceFacts::disk("vdb", DeviceNumber { major: 254, minor: 16 }, 1 << 30)
    }

    fn rules(allowed: &[&str]) -> Rules {
        Rules {
            allowed: allowed.iter().copied().map(DevicePattern::new).collect(),
            system_folders: ["/", "/var/lib/kubelet", "/var/lib/umbra/node"].map(Into::into).into(),
        }
    }

    fn denied(device: &DeviceFacts) -> Option<DeniedReason> {
        reason(device, &[DeviceId::new(NAME)], &BTreeSet::new(), false, &rules(&[]))
    }

    fn mounted(at: &str, by: Option<u32>) -> Holder {
        Holder::Mounted { at: at.into(), by }
    }

    fn opened(writes: bool) -> Holder {
        Holder::Opened { pid: 7, command: "dd".into(), writes }
    }

    #[test]
    fn each_use_has_its_word() {
        for (by, word) in [
            (mounted("/", None), Some(DeniedReason::System)),
            (mounted("/", Some(1)), Some(DeniedReason::System)),
            (mounted("/var", None), Some(DeniedReason::System)),
            (mounted("/var/lib/kubelet", None), Some(DeniedReason::System)),
            (mounted("/var/lib/umbra", None), Some(DeniedReason::System)),
            (mounted("/var/lib/kubelet/pods/x/volumes/y", Some(9)), Some(DeniedReason::Mounted)),
            (mounted("/var/lib/kubelet2", None), Some(DeniedReason::Mounted)),
            (Holder::Member { of: "btrfs:x".into() }, Some(DeniedReason::Mounted)),
            (Holder::Swap, Some(DeniedReason::Swap)),
            (Holder::Stacked { name: "vg-lv".into() }, Some(DeniedReason::HasHolders)),
            (opened(true), Some(DeniedReason::Busy)),
            (opened(false), None),
            (Holder::Mapped { pid: 7, command: String::new(), writes: true }, Some(DeniedReason::Busy)),
        ] {
            assert_eq!(denied(&disk().used_by(by.clone())), word, "{by:?}");
        }
        assert_eq!(denied(&disk()), None);
    }

    #[test]
    fn the_word_that_weighs_most_is_told() {
        let all = disk().used_by(opened(true)).used_by(Holder::Stacked { name: "vg-root".into() });
        assert_eq!(denied(&all), Some(DeniedReason::HasHolders));
        assert_eq!(denied(&all.used_by(mounted("/", None))), Some(DeniedReason::System));
    }

    #[test]
    fn what_cannot_be_written_named_or_is_not_allowed_is_denied() {
        let mut read_only = disk();
        read_only.capabilities.read_only = true;
        assert_eq!(denied(&read_only), Some(DeniedReason::ReadOnly));
        let with = |names: &[DeviceId], allowed: &[&str]| {
            reason(&disk(), names, &BTreeSet::new(), false, &rules(allowed))
        };
        let path = "/dev/disk/by-path/pci-0000:00:04.0";
        let names = [NAME, path].map(DeviceId::new);
        assert_eq!(with(&[], &[]), Some(DeniedReason::NoStableName));
        assert_eq!(with(&names, &["/dev/disk/by-id/nvme-*"]), Some(DeniedReason::NotAllowed));
        assert_eq!(with(&names, &["/dev/disk/by-id/nvme-*", "/dev/disk/by-path/pci-*"]), None, "by any name");
    }

    #[test]
    fn what_umbra_presents_and_what_stands_on_it_is_denied_and_its_own_use_is_not() {
        let ublk = DeviceFacts::disk("ublkb0", DeviceNumber { major: 259, minor: 0 }, 1 << 30);
        let upper = disk().standing_on(&ublk);
        let presented = BTreeSet::from([ublk.key]);
        let names = [DeviceId::new(NAME)];
        let of = |device: &DeviceFacts| reason(device, &names, &presented, false, &rules(&[]));
        assert_eq!(
            (of(&ublk), of(&upper), of(&disk())),
            (Some(DeniedReason::Presented), Some(DeniedReason::Presented), None)
        );
        let served = disk().used_by(opened(true));
        assert_eq!(reason(&served, &names, &presented, true, &rules(&[])), None);
        let written_outside = served.used_by(mounted("/mnt", None));
        assert_eq!(
            reason(&written_outside, &names, &presented, true, &rules(&[])),
            Some(DeniedReason::Mounted),
            "whoever writes past Umbra is told all the same"
        );
    }
}
