//! What is in use already: configured volumes, and the devices that ublk servers present.

use super::{Refusal, Role};
use crate::facts::{DeviceFacts, DeviceKey, Layer};
use crate::sysfs::DeviceNumber;
use std::fmt;
use std::path::PathBuf;
use umbra_engine::Id128;

/// Kind of owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerKind {
    /// A master.
    Master,
    /// A volume set.
    Set,
}

/// A master or a set, as one that owns a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Which.
    pub kind: OwnerKind,
    /// Its UUID.
    pub id: Id128,
    /// Its name, for messages.
    pub name: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            OwnerKind::Master => "master",
            OwnerKind::Set => "set",
        };
        write!(f, "{kind} {} ({})", self.name, self.id)
    }
}

/// A volume on record.
#[derive(Clone, Debug, PartialEq)]
pub struct Configured {
    /// Its role.
    pub role: Role,
    /// Whose it is.
    pub owner: Owner,
    /// Where it was recorded.
    pub path: PathBuf,
    /// What it is recognised by; none: weak.
    pub identity: Option<String>,
    /// Where it is now, if it was found: decided on, or served. What merely lies at its path is not it.
    pub device: Option<DeviceFacts>,
}

impl Configured {
    /// Whether the device is this volume, or overlaps with it. That both have no unique name and the same path
    /// counts unless the device is `proved` to be something else.
    fn is(&self, device: &DeviceFacts, proved: bool) -> bool {
        if let Some(found) = &self.device {
            return found.overlaps(device);
        }
        // Not found under its record: then only names can tell.
        let found = device.identity.stable_id();
        match &self.identity {
            Some(id) => Some(id) == found.as_ref() || Some(id) == device.identity.disk_id().as_ref(),
            None => !proved && found.is_none() && self.path == device.path,
        }
    }
}

/// Who serves a ublk device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PresentedBy {
    /// We: a master, or a shadow of a set.
    Us(Owner),
    /// Another server.
    Other {
        /// Its process.
        pid: u32,
        /// Its name.
        command: String,
    },
}

/// A ublk device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// The block device's number.
    pub number: DeviceNumber,
    /// Who serves it.
    pub by: PresentedBy,
}

/// What is in use on this machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// Every volume on record, of masters and sets that are served and of those that are not.
    pub configured: Vec<Configured>,
    /// Every ublk device that there is. One that is missing here is refused: nobody can say that it is not ours.
    pub presented: Vec<Presented>,
    /// Sets that were disabled here: their labels say nothing any more.
    pub retired: Vec<Id128>,
}

impl World {
    /// The set or master on record with this UUID.
    pub fn owner(&self, id: Id128) -> Option<&Owner> {
        self.configured.iter().map(|configured| &configured.owner).find(|owner| owner.id == id)
    }

    pub(super) fn check_not_presented(&self, role: Role, device: &DeviceFacts) -> Result<(), Refusal> {
        let own = device.layer();
        let layers = || std::iter::once(&own).chain(&device.below);
        let server = |layer: &Layer| {
            let of = |presented: &&Presented| DeviceKey::Block(presented.number) == layer.key;
            self.presented.iter().find(of).map(|presented| &presented.by)
        };
        let ours = layers().find_map(|layer| match server(layer) {
            Some(PresentedBy::Us(owner)) => Some((layer, owner)),
            Some(PresentedBy::Other { .. }) | None => None,
        });
        if let Some((layer, owner)) = ours {
            let (presented, owner) = (layer.name.clone(), owner.clone());
            return Err(Refusal::Presented { role, device: device.to_string(), presented, owner });
        }
        // A partition is served by whoever serves its disk, which is below it.
        let is_disk = |layer: &&Layer| layer.name.starts_with("ublkb") && !layer.partition;
        match layers().filter(is_disk).find(|layer| server(layer).is_none()) {
            None => Ok(()),
            Some(layer) => {
                let presented = layer.name.clone();
                Err(Refusal::Unattributed { role, device: device.to_string(), presented })
            }
        }
    }

    pub(super) fn check_not_configured(
        &self,
        role: Role,
        owner: &Owner,
        device: &DeviceFacts,
        proved: bool,
    ) -> Result<(), Refusal> {
        let other = |configured: &&Configured| {
            (configured.role != role || configured.owner.id != owner.id) && configured.is(device, proved)
        };
        match self.configured.iter().find(other) {
            None => Ok(()),
            Some(taken) => Err(Refusal::AlreadyUsed {
                role,
                device: device.to_string(),
                has: taken.role,
                owner: taken.owner.clone(),
                recorded: taken.path.clone(),
            }),
        }
    }

    pub(super) fn check_name(&self, owner: &Owner) -> Result<(), Refusal> {
        let masters = self.configured.iter().filter(|configured| configured.role == Role::Master);
        let taken = |other: &Owner| {
            owner.kind == OwnerKind::Master && other.name == owner.name && other.id != owner.id
        };
        match masters.map(|configured| &configured.owner).find(|other| taken(other)) {
            None => Ok(()),
            Some(other) => Err(Refusal::NameTaken { owner: other.clone() }),
        }
    }
}
