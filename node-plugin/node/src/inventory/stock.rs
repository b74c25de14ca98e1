//! What was seen of the node's devices, made into what is told of them.

use super::rules::Rules;
use super::{denied, names};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use umbra_crds::{DeviceId, NodeDevice, Role};
use umbra_identity::{DeviceFacts, DeviceKey, DeviceKind};

/// Devices that one object names: a limit of the kind.
const DEVICES_MAX: usize = 128;
/// Longest serial number, and longest text of what uses a device, in characters: limits of the kind.
const SERIAL_CHARACTERS_MAX: usize = 128;
const USED_BY_CHARACTERS_MAX: usize = 384;

/// What a device does for Umbra, and what uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) role: Role,
    pub(super) by: String,
}

/// What was seen at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) devices: Vec<DeviceFacts>,
    /// The names that each stays known by.
    pub(super) names: BTreeMap<DeviceKey, Vec<PathBuf>>,
    /// What is configured, where the interposer says so.
    pub(super) uses: BTreeMap<DeviceKey, Use>,
}

/// The devices of a node, as they are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inventory {
    /// In the order of their names.
    pub(crate) devices: Vec<NodeDevice>,
    /// How many there are besides, which one object cannot name.
    pub(crate) left_out: usize,
}

pub(super) fn take_stock(seen: &Seen, rules: &Rules) -> Inventory {
    let of_kind = |kinds: &[DeviceKind]| -> BTreeSet<DeviceKey> {
        let wanted = |device: &&DeviceFacts| kinds.contains(&device.identity.kind);
        seen.devices.iter().filter(wanted).map(|device| device.key).collect()
    };
    let presented = of_kind(&[DeviceKind::Ublk]);
    // Without a name that stays nobody can be given one, and a node may have hundreds.
    let made_up = of_kind(&[DeviceKind::Ublk, DeviceKind::Loop, DeviceKind::Virtual]);
    let mut devices: Vec<NodeDevice> = Vec::new();
    for device in &seen.devices {
        let names = seen.names.get(&device.key).map(|names| names::in_order(names)).unwrap_or_default();
        if names.is_empty() && made_up.iter().any(|key| device.stands_on(*key)) {
            continue;
        }
        let used = seen.uses.get(&device.key);
        let by_kernel = || DeviceId::new(format!("/dev/{}", device.name));
        devices.push(NodeDevice {
            size_bytes: device.capabilities.size.try_into().unwrap_or(i64::MAX),
            serial: device.identity.serial.as_deref().map(|serial| shortened(serial, SERIAL_CHARACTERS_MAX)),
            role: used.map(|used| used.role),
            used_by: used.map(|used| shortened(&used.by, USED_BY_CHARACTERS_MAX)),
            denied: denied::reason(device, &names, &presented, used.is_some(), rules),
            id: names.into_iter().next().unwrap_or_else(by_kernel),
        });
    }
    shortlist(devices)
}

/// Those that fit into one object: what is used, then what can be, then the others.
fn shortlist(mut devices: Vec<NodeDevice>) -> Inventory {
    // Two names of one thing are one entry: the object's list is by name.
    devices.sort_by(|one, other| one.id.cmp(&other.id));
    devices.dedup_by(|one, other| one.id == other.id);
    devices.sort_by_key(|device| (device.role.is_none(), device.denied.is_some()));
    let left_out = devices.len().saturating_sub(DEVICES_MAX);
    devices.truncate(DEVICES_MAX);
    devices.sort_by(|one, other| one.id.cmp(&other.id));
    Inventory { devices, left_out }
}

fn shortened(text: &str, characters_max: usize) -> String {
    text.chars().take(characters_max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbra_crds::DeniedReason;
    use umbra_identity::{DeviceNumber, Holder};

    fn disk(minor: u32) -> DeviceFacts {
        DeviceFacts::disk(&format!("vd{minor}"), DeviceNumber { major: 254, minor }, 1 << 30)
    }

    fn of_kind(minor: u32, kind: DeviceKind) -> DeviceFacts {
        let mut device = disk(minor);
        device.identity.kind = kind;
        device
    }

    fn seen(devices: impl IntoIterator<Item = DeviceFacts>) -> Seen {
        let devices: Vec<_> = devices.into_iter().collect();
        let names = devices.iter().map(|device| (device.key, vec![by_id(device)])).collect();
        Seen { devices, names, uses: BTreeMap::new() }
    }

    fn by_id(device: &DeviceFacts) -> PathBuf {
        format!("/dev/disk/by-id/virtio-{}", device.name).into()
    }

    fn stock(seen: &Seen) -> Inventory {
        take_stock(seen, &Rules { allowed: Vec::new(), system_folders: vec!["/".into()] })
    }

    #[test]
    fn a_device_is_told_with_its_name_size_serial_and_use() {
        let mut seen =
            seen([disk(1), disk(2).with_serial(None), disk(3).with_serial(Some(&"ß".repeat(200)))]);
        let used = Use { role: Role::Shadow, by: "VolumeSet/prod/pg-1".into() };
        seen.uses.insert(disk(2).key, used);
        let told = stock(&seen);
        let free = NodeDevice {
            id: DeviceId::new("/dev/disk/by-id/virtio-vd1"),
            size_bytes: 1 << 30,
            serial: Some("vd1".into()),
            role: None,
            used_by: None,
            denied: None,
        };
        let shadow = NodeDevice {
            id: DeviceId::new("/dev/disk/by-id/virtio-vd2"),
            serial: None,
            role: Some(Role::Shadow),
            used_by: Some("VolumeSet/prod/pg-1".into()),
            ..free.clone()
        };
        assert_eq!((&told.devices[..2], told.left_out), (&[free, shadow][..], 0));
        assert_eq!(told.devices[2].serial, Some("ß".repeat(SERIAL_CHARACTERS_MAX)));
    }

    #[test]
    fn a_disk_without_a_name_is_told_by_the_kernels_and_denied() {
        let mut seen = seen([disk(1), disk(2).used_by(Holder::Mounted { at: "/".into(), by: None })]);
        seen.names.clear();
        let told: Vec<_> =
            stock(&seen).devices.into_iter().map(|device| (device.id, device.denied)).collect();
        let wanted = [("/dev/vd1", DeniedReason::NoStableName), ("/dev/vd2", DeniedReason::System)];
        assert_eq!(told, wanted.map(|(name, reason)| (DeviceId::new(name), Some(reason))));
    }

    #[test]
    fn what_is_made_up_is_left_out_unless_it_has_a_name() {
        let kinds = [DeviceKind::Loop, DeviceKind::Virtual, DeviceKind::Ublk];
        let mut seen = seen((1..).zip(kinds).map(|(minor, kind)| of_kind(minor, kind)));
        let partition = of_kind(9, DeviceKind::Partition).standing_on(&seen.devices[0]);
        seen.devices.push(partition);
        seen.names.retain(|key, _| *key == disk(3).key);
        let told = stock(&seen).devices;
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(
            (told[0].id.as_str(), told[0].denied),
            ("/dev/disk/by-id/virtio-vd3", Some(DeniedReason::Presented))
        );
    }

    #[test]
    fn where_there_are_too_many_the_useless_are_left_out() {
        let swap = |device: DeviceFacts| device.used_by(Holder::Swap);
        let mut seen =
            seen((0..130).map(disk).map(|device| if *device.name < *"vd2" { swap(device) } else { device }));
        // In use, and denied besides.
        seen.uses.insert(disk(1).key, Use { role: Role::Master, by: "MasterVolume/pg".into() });
        let told = stock(&seen);
        assert_eq!((told.devices.len(), told.left_out), (DEVICES_MAX, 2));
        assert!(told.devices.is_sorted_by(|one, other| one.id < other.id));
        let named = |name: &str| told.devices.iter().any(|device| device.id.as_str().ends_with(name));
        assert!(named("-vd1") && named("-vd99") && named("-vd17"));
        assert!(!named("-vd18") && !named("-vd19"), "denied, and last by name");
    }
}
