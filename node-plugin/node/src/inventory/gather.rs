//! Looks at the node's devices, and asks nobody.

use super::rules::Rules;
use super::stock::{Inventory, Seen, Use, take_stock};
use std::collections::BTreeMap;
use std::path::Path;
use umbra_crds::Role;
use umbra_identity::gather::{Look, Machine};
use umbra_identity::{Blind, DeviceKey};
use umbra_platform::status::Listing;

pub(crate) use umbra_identity::gather::GatherError;

/// The devices that there are now, and what could not be looked at. `configured` is what the interposer serves, where it
/// says so.
pub(crate) fn gather(
    configured: Option<&Listing>,
    rules: &Rules,
) -> Result<(Inventory, Vec<Blind>), GatherError> {
    let machine = Machine::look(&Look::default().with_openers(), &[])?;
    let devices = machine.devices();
    let blind = devices.first().map(|device| device.blind.clone()).unwrap_or_default();
    let uses = configured.map(|listing| uses(listing, |path| machine.key(path))).unwrap_or_default();
    let seen = Seen { names: machine.names()?, devices, uses };
    Ok((take_stock(&seen, rules), blind))
}

/// What each device is used for. A volume whose device is away, or that is a file, is none of the node's devices.
fn uses(listing: &Listing, key: impl Fn(&Path) -> Option<DeviceKey>) -> BTreeMap<DeviceKey, Use> {
    let masters = listing.masters.iter().map(|master| {
        // The operator names a master NAMESPACE.NAME, for a master has one name and not two.
        let owner = master.name.as_str().replacen('.', "/", 1);
        (&master.device, Use { role: Role::Master, by: format!("MasterVolume/{owner}") })
    });
    let sets = listing.sets.iter().flat_map(|set| {
        let used = |role| Use { role, by: format!("VolumeSet/{}", set.name) };
        [(&set.paths.shadow, used(Role::Shadow)), (&set.paths.bitmap, used(Role::Bitmap))]
    });
    masters.chain(sets).filter_map(|(path, used)| Some((key(Path::new(path.as_str()))?, used))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbra_identity::DeviceNumber;
    use umbra_platform::id::{MasterId, SetId, SetName};
    use umbra_platform::status::{MasterEntry, Mode, SetEntry, SetPaths};

    #[test]
    fn volumes_are_found_by_their_paths_and_told_by_their_owners() {
        let path = |name: &str| format!("/dev/{name}").parse().expect("a path");
        let (master, name) = (MasterId::random(), |name: &str| name.parse().expect("a name"));
        let listing = Listing {
            masters: vec![MasterEntry {
                id: master,
                name: name("prod.pg"),
                device: path("8:0"),
                presented: path("ublkb0"),
            }],
            sets: vec![SetEntry {
                id: SetId::random(),
                name: SetName { cluster: None, namespace: Some(name("prod")), name: name("pg-1") },
                master,
                mode: Mode::Dependent,
                paths: SetPaths { master: path("8:0"), shadow: path("8:16"), bitmap: path("file") },
            }],
            version: None,
        };
        // Here a device's path is its number.
        let key = |path: &Path| DeviceNumber::parse(path.file_name()?.to_str()?).map(DeviceKey::Block);
        let found = uses(&listing, key);
        let number = |minor| DeviceKey::Block(DeviceNumber { major: 8, minor });
        let wanted = [
            (number(0), Use { role: Role::Master, by: "MasterVolume/prod/pg".into() }),
            (number(16), Use { role: Role::Shadow, by: "VolumeSet/prod/pg-1".into() }),
        ];
        assert_eq!(found, BTreeMap::from(wanted));
    }

    #[test]
    fn this_very_host_can_be_looked_at() {
        let rules = Rules { allowed: Vec::new(), system_folders: vec!["/".into()] };
        let (inventory, _) = gather(None, &rules).expect("/sys and /proc");
        for device in inventory.devices {
            let name = device.id.as_str();
            assert!(crate::inventory::names::is_stable(name) || device.denied.is_some(), "{device:?}");
        }
    }
}
