//! Why a device may not be used: both sides, and a remedy.

use super::world::Owner;
use super::{Known, Role};
use crate::facts::Used;
use crate::signature::SignatureId;
use std::fmt;
use std::path::PathBuf;
use thiserror::Error;
use umbra_engine::Id128;

/// A device on record, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted(Box<OnRecord>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct OnRecord {
    role: Role,
    owner: Owner,
    path: PathBuf,
    identity: Option<String>,
    size: u64,
}

impl Wanted {
    pub(super) fn new(role: Role, known: &Known) -> Self {
        let Known { owner, path, identity, size, .. } = known.clone();
        Self(Box::new(OnRecord { role, owner, path, identity, size }))
    }

    /// Its size on record, in bytes.
    pub fn size(&self) -> u64 {
        self.0.size
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OnRecord { role, owner, path, identity, size } = &*self.0;
        match (role, identity) {
            (Role::Master, Some(id)) => write!(f, "{owner}, {id}, {size} bytes, last at {}", path.display()),
            (Role::Master, None) => write!(f, "{owner}, {size} bytes at {}", path.display()),
            (_, Some(id)) => {
                write!(f, "the {role} volume of {owner}, {id}, {size} bytes, last at {}", path.display())
            }
            (_, None) => write!(f, "the {role} volume of {owner}, {size} bytes at {}", path.display()),
        }
    }
}

/// Why the device may not be used. Each text names both sides and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// There is nothing at the path of a new volume.
    #[error("there is no device or file {} for the {role} volume; check the name, and that the device is attached", path.display())]
    Absent {
        /// The role.
        role: Role,
        /// The path.
        path: PathBuf,
    },
    /// A device on record is nowhere.
    #[error(
        "{wanted}, is not there{}; attach the device, under whatever name: it is waited for",
        Instead(found)
    )]
    NotThere {
        /// What is waited for.
        wanted: Wanted,
        /// What is at its path instead.
        found: Option<String>,
    },
    /// Several devices have the identity of the one on record.
    #[error("{wanted}, cannot be told from its copies: {} all have that identity; take the copies away, or use the multipath device if these are paths of one disk: it is waited for", devices.join(" and "))]
    Ambiguous {
        /// What is waited for.
        wanted: Wanted,
        /// The devices.
        devices: Vec<String>,
    },
    /// The device is not the one on record.
    #[error(
        "{device} is not {wanted}: {difference}; put that device back, under whatever name: it is waited for"
    )]
    Swapped {
        /// What is waited for.
        wanted: Wanted,
        /// What was found.
        device: String,
        /// How they differ.
        difference: String,
    },
    /// It is the device on record, but what Umbra wrote there is gone.
    #[error(
        "{device} is {wanted}, but {difference}: somebody has overwritten it; put the content back, or disable the set: until then it is not touched"
    )]
    Overwritten {
        /// What is waited for.
        wanted: Wanted,
        /// What was found.
        device: String,
        /// What is missing.
        difference: String,
    },
    /// It is smaller than it was.
    #[error("{device} has shrunk: {wanted}, now has {found} bytes; give it its size back: it is waited for")]
    Shrunk {
        /// What is waited for.
        wanted: Wanted,
        /// What was found.
        device: String,
        /// Its size in bytes.
        found: u64,
    },
    /// Another node has the set attached (E7).
    #[error(
        "{device} is {wanted}, but node {node} has a session open on it; detach it on that node, or give the shadow up if the node is gone for good"
    )]
    OtherNode {
        /// What is waited for.
        wanted: Wanted,
        /// What was found.
        device: String,
        /// That node.
        node: Id128,
    },
    /// It is presented by us, or stands on something that is.
    #[error(
        "{device} cannot be a {role} volume: it {} {presented}, which Umbra presents for {owner}; use a device of its own",
        relation(device, presented)
    )]
    Presented {
        /// The role.
        role: Role,
        /// The device.
        device: String,
        /// The presented device.
        presented: String,
        /// Whose it is.
        owner: Owner,
    },
    /// It is, or stands on, a ublk device that may be ours.
    #[error(
        "{device} cannot be a {role} volume: nobody can say who serves {presented}; use a device of its own, or end that ublk device"
    )]
    Unattributed {
        /// The role.
        role: Role,
        /// The device.
        device: String,
        /// The ublk device.
        presented: String,
    },
    /// It is a volume on record, or overlaps with one.
    #[error("{device} cannot be a {role} volume: it is the {has} volume of {owner}, or a part of it, recorded as {}; use another device, or take {owner} away first", recorded.display())]
    AlreadyUsed {
        /// The role that it was to have.
        role: Role,
        /// The device.
        device: String,
        /// The role that it has.
        has: Role,
        /// Whose it is.
        owner: Owner,
        /// Its path on record.
        recorded: PathBuf,
    },
    /// A master of this name exists.
    #[error("the name is taken by {owner}; choose another name, or detach that one first")]
    NameTaken {
        /// Who has the name.
        owner: Owner,
    },
    /// Somebody uses it.
    #[error("{device} cannot be a {role} volume: {}", Join(used))]
    InUse {
        /// The role.
        role: Role,
        /// The device.
        device: String,
        /// Who uses it, and how.
        used: Vec<Used>,
    },
    /// It cannot be written.
    #[error("{device} cannot be a {role} volume: it is read-only; make it writable (blockdev --setrw {}), or use another device", path.display())]
    ReadOnly {
        /// The role.
        role: Role,
        /// The device.
        device: String,
        /// Its path.
        path: PathBuf,
    },
    /// Its logical block is too large (E17).
    #[error(
        "{device} cannot be a {role} volume: its logical block is {block} bytes, and the master's is {allowed}; use a device with blocks of at most {allowed} bytes"
    )]
    BlockTooLarge {
        /// The role.
        role: Role,
        /// The device.
        device: String,
        /// Its logical block.
        block: u32,
        /// The largest that will do.
        allowed: u32,
    },
    /// It is too small.
    #[error(
        "{device} cannot be a {role} volume: it has {actual} bytes, and {needed} are needed; use a larger device"
    )]
    TooSmall {
        /// The role.
        role: Role,
        /// The device.
        device: String,
        /// Its size.
        actual: u64,
        /// The size that will do.
        needed: u64,
    },
    /// What lies on it could not be read.
    #[error("{} cannot be a {role} volume: whether it is empty cannot be seen ({why}); use a device that can be read", device.display())]
    Unread {
        /// The role.
        role: Role,
        /// The device.
        device: PathBuf,
        /// Why not.
        why: String,
    },
    /// Something lies on it, and was not, or not exactly, confirmed to be wiped.
    #[error("{} cannot be a {role} volume: {}; {}", device.display(), found_and_asked(found, asked), wipe_remedy(found))]
    NeedsWipe {
        /// The role.
        role: Role,
        /// The device.
        device: PathBuf,
        /// What lies there.
        found: Vec<SignatureId>,
        /// What was confirmed.
        asked: Vec<SignatureId>,
    },
    /// A wipe was confirmed for a master.
    #[error("{device} is to be a master, and a master's content is never wiped; leave --wipe-signature out")]
    MasterIsNotWiped {
        /// The device.
        device: String,
    },
    /// By its content it is a volume of a set on record.
    #[error(
        "{device} cannot be a {role} volume: it says that it is the {has} volume of {owner}; use another device, or disable that set first"
    )]
    VolumeOfSet {
        /// The role that it was to have.
        role: Role,
        /// The device.
        device: String,
        /// The role that it has.
        has: Role,
        /// Whose it is.
        owner: Owner,
    },
    /// It is a shadow or bitmap volume of a set that is not on record (E15).
    #[error("{device} cannot be a master: it is a volume of an Umbra set; if nothing needs that set any more, clear it first (wipefs does not know it: dd if=/dev/zero of={} bs=1M count=2)", path.display())]
    NotAMaster {
        /// The device.
        device: String,
        /// Its path.
        path: PathBuf,
    },
    /// Nothing about it is unique (E19).
    #[error(
        "{device} has nothing that is unique in the world, so that another device may be taken for it; give it a serial number or a GPT partition, or say --accept-weak-identity"
    )]
    WeakIdentity {
        /// The device.
        device: String,
    },
}

struct Instead<'a>(&'a Option<String>);

impl fmt::Display for Instead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(found) => write!(f, " (at its path is {found})"),
            None => Ok(()),
        }
    }
}

struct Join<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Join<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.iter().enumerate() {
            write!(f, "{}{item}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

fn relation(device: &str, presented: &str) -> &'static str {
    if device.starts_with(&format!("/dev/{presented} ")) { "is" } else { "is or stands on" }
}

fn ids(ids: &[SignatureId]) -> String {
    ids.iter().map(SignatureId::to_string).collect::<Vec<_>>().join(", ")
}

fn found_and_asked(found: &[SignatureId], asked: &[SignatureId]) -> String {
    match (found.is_empty(), asked.is_empty()) {
        (false, true) => format!("it holds {}", ids(found)),
        (false, false) => format!("it holds {}, and {} was confirmed", ids(found), ids(asked)),
        (true, _) => format!("it is empty, and {} was confirmed", ids(asked)),
    }
}

fn wipe_remedy(found: &[SignatureId]) -> String {
    if found.is_empty() {
        return "check that it is the device you mean, and leave --wipe-signature out".to_owned();
    }
    let options: Vec<String> = found.iter().map(|id| format!("--wipe-signature {id}")).collect();
    format!("use another device, or, if nothing on it is needed, say {}", options.join(" "))
}
