//! By which names devices stay known: the links of udev, and the nodes of device-mapper.

use super::{Look, entries};
use crate::facts::DeviceKey;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Where such names are.
const FOLDERS: &[&str] = &["disk/by-id", "disk/by-partuuid", "disk/by-path", "mapper"];
/// What is in the first of them and is read from the content: a copy of a device has it too.
const OF_THE_CONTENT: &str = "lvm-pv-uuid-";

pub(super) fn read(look: &Look) -> io::Result<BTreeMap<DeviceKey, Vec<PathBuf>>> {
    let mut names: BTreeMap<DeviceKey, Vec<PathBuf>> = BTreeMap::new();
    for folder in FOLDERS {
        for found in entries(&look.roots.dev.join(folder))? {
            let Some(name) = found.file_name().and_then(|name| name.to_str()) else { continue };
            // A link whose device is gone, or the control node of device-mapper, is no name of a device.
            let Ok(Some(key @ DeviceKey::Block(_))) = (look.key_of)(&found) else { continue };
            if !name.starts_with(OF_THE_CONTENT) {
                names.entry(key).or_default().push(Path::new("/dev").join(folder).join(name));
            }
        }
    }
    names.values_mut().for_each(|names| names.sort());
    Ok(names)
}
