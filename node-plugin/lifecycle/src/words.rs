//! Names and paths of records, in the words of the platform API.

use crate::state::{MasterRecord, SetRecord};
use std::path::Path;
use umbra_engine::Id128;
use umbra_platform::PlatformError;
use umbra_platform::id::{DeviceIdentity, IdentityKind, MasterId, MasterRef, SetName, SetRef};
use umbra_platform::value::{DevicePath, Label};
use uuid::Uuid;

/// A path for messages; what cannot be one is shown as the root.
pub fn device_path(path: &Path) -> DevicePath {
    path.to_string_lossy().parse().unwrap_or_else(|_| "/".parse().expect("the root is a path"))
}

/// A name that was checked when its record was read.
pub(crate) fn label(name: &str) -> Label {
    name.parse().unwrap_or_else(|_| "unnamed".parse().expect("a plain word"))
}

/// A set's full name.
pub fn set_name(set: &SetRecord) -> SetName {
    let optional = |text: &str| text.parse().ok();
    SetName { cluster: optional(&set.cluster), namespace: optional(&set.namespace), name: label(&set.name) }
}

/// A set, by its name.
pub(crate) fn set_ref(set: &SetRecord) -> SetRef {
    SetRef::from(&set_name(set))
}

/// A master, by its name.
pub(crate) fn master_ref(master: &MasterRecord) -> MasterRef {
    MasterRef::Name(label(&master.name))
}

/// Whether a caller means this master.
pub(crate) fn is_master(wanted: &MasterRef, record: &MasterRecord) -> bool {
    wanted.matches(MasterId(record.id), &label(&record.name))
}

/// The engine's name of a UUID.
pub(crate) fn id128(uuid: Uuid) -> Id128 {
    Id128(*uuid.as_bytes())
}

/// The identity of a device in the terms of the platform API; of a weak one, its path.
pub(crate) fn device_identity(stable: Option<&str>, path: &Path) -> DeviceIdentity {
    let kinds = [
        ("wwid:", IdentityKind::Wwid),
        ("serial:", IdentityKind::Serial),
        ("partuuid:", IdentityKind::Partition),
        ("uuid:", IdentityKind::DeviceMapper),
    ];
    let strong = stable.and_then(|id| {
        let (kind, value) =
            kinds.iter().find_map(|(prefix, kind)| Some((*kind, id.strip_prefix(prefix)?)))?;
        DeviceIdentity::new(kind, value).ok()
    });
    let weak = || DeviceIdentity::new(IdentityKind::File, &path.to_string_lossy());
    let unnamed = || DeviceIdentity::new(IdentityKind::File, "unnamed").expect("a plain word");
    strong.unwrap_or_else(|| weak().unwrap_or_else(|_| unnamed()))
}

/// An operation on a device that failed.
pub(crate) fn io(path: &Path, operation: &str, error: &dyn std::fmt::Display) -> PlatformError {
    PlatformError::Io {
        device: device_path(path),
        operation: operation.into(),
        detail: error.to_string().into(),
    }
}
