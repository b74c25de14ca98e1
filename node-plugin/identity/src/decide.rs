//! Whether a device may be used for a role: one pure function, asked by every command and every start (E21).
//!
//! Two questions with one set of checks. *New*: may this device be taken for a role it has not had? Then it must
//! be nobody's: not presented by us, not part of anything configured, not in use, empty or confirmed to be
//! wiped. *Known*: is this the device on record? Then hardware identity, size and what Umbra itself wrote there
//! (superblock, label) must say so, together.
//!
//! A refusal of a known device never ends an image: its set, or master, waits, and the text says for what. Only
//! what the volumes themselves say (a label or superblock that is given up) ends one; that is for the recovery.

mod known;
mod new;
mod refusal;
#[cfg(test)]
mod tests;
mod world;

pub use known::{Grown, Ours, WrittenOutside, candidates, locate};
pub use new::Free;
pub use refusal::{Refusal, Wanted};
pub use world::{Configured, Owner, OwnerKind, Presented, PresentedBy, World};

use crate::facts::DeviceFacts;
use crate::generation::FsGeneration;
use crate::signature::SignatureId;
use std::fmt;
use std::path::{Path, PathBuf};
use umbra_engine::Id128;

/// What a device is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Live data. Its content is the user's, and is never wiped.
    Master,
    /// The volume of an image.
    Shadow,
    /// The volume of a set's durable state.
    Bitmap,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Master => "master",
            Self::Shadow => "shadow",
            Self::Bitmap => "bitmap",
        })
    }
}

/// What a volume must be able to carry (E17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Bytes that it must have.
    pub bytes: u64,
    /// Largest logical block that will do: that of the master, since the shadow's head, which may lie on the
    /// bitmap volume, is read and written in the master's blocks.
    pub logical_block: u32,
}

impl Fit {
    /// Anything fits: the first time a master is attached.
    pub const ANY: Self = Self { bytes: 0, logical_block: u32::MAX };
}

/// What a person has said about the device, in so many words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consent {
    /// Signatures that may be wiped (`--wipe-signature`), exactly as a refusal printed them.
    pub wipe: Vec<SignatureId>,
    /// A master without a unique hardware identity may be attached (`--accept-weak-identity`).
    pub weak_identity: bool,
}

/// What Umbra itself left on a device that is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marks {
    /// Nothing: a master's content is the user's, and so is a shadow's whose image is complete.
    Plain,
    /// The label of a shadow that is dependent or copying, so that its head is on the bitmap volume (E7).
    Label {
        /// The set.
        set: Id128,
        /// The shadow's UUID, from the superblock.
        shadow: Id128,
    },
    /// The superblock of a bitmap volume.
    Superblock {
        /// The set.
        set: Id128,
        /// Its master's UUID.
        master: Id128,
        /// Size of the master that the set was made for.
        master_bytes: u64,
        /// Bytes of a chunk.
        chunk_bytes: u64,
        /// The volume's own UUID, if it is on record.
        bitmap: Option<Id128>,
        /// This node: a session of another one must not be taken over.
        node: Id128,
    },
}

/// A device that is on record.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Whose it is.
    pub owner: Owner,
    /// Where it was. Names change: only a device without a unique identity is looked for here alone.
    pub path: PathBuf,
    /// What it is recognised by ([`Identity::stable_id`](crate::Identity::stable_id)); none: nothing about it is unique.
    pub identity: Option<String>,
    /// Its size, in bytes.
    pub size: u64,
    /// What Umbra left on it.
    pub marks: Marks,
    /// The file system's own count of changes when Umbra last served it; none if it was not recorded, or when
    /// another one may be right.
    pub generation: Option<FsGeneration>,
}

/// What is expected of the device.
#[derive(Clone, Copy, Debug)]
pub enum Expected<'a> {
    /// It becomes something of this owner's, and must be nobody's now.
    New(&'a Owner),
    /// It is the one on record.
    Known(&'a Known),
}

/// Everything that a decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What it is to be used for.
    pub role: Role,
    /// By whom, and since when.
    pub expected: Expected<'a>,
    /// The path that was asked about.
    pub path: &'a Path,
    /// What was found there; none: nothing.
    pub device: Option<&'a DeviceFacts>,
    /// What it has to carry.
    pub fit: Fit,
    /// What a person has agreed to.
    pub consent: &'a Consent,
    /// What else is in use.
    pub world: &'a World,
}

/// What becomes of the device.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is the one on record, and may be used.
    Ours(Ours),
    /// It is nobody's, and may be taken.
    Free(Free),
    /// It is not, or not yet, the one on record. Its owner waits until what the text names is put right; no
    /// image ends for that.
    Wait(Refusal),
    /// It may not be taken.
    Refused(Refusal),
}

impl Verdict {
    /// The device on record.
    ///
    /// # Errors
    /// What it is waited for.
    pub fn ours(self) -> Result<Ours, Refusal> {
        match self {
            Self::Ours(ours) => Ok(ours),
            Self::Wait(refusal) | Self::Refused(refusal) => Err(refusal),
            Self::Free(_) => unreachable!("a device on record is never free"),
        }
    }

    /// A device to be taken.
    ///
    /// # Errors
    /// Why it may not be.
    pub fn free(self) -> Result<Free, Refusal> {
        match self {
            Self::Free(free) => Ok(free),
            Self::Wait(refusal) | Self::Refused(refusal) => Err(refusal),
            Self::Ours(_) => unreachable!("a new device is on no record"),
        }
    }
}

/// What becomes of the device: the only place where that is decided.
pub fn decide(question: &Question<'_>) -> Verdict {
    match question.expected {
        Expected::New(owner) => match new::decide(question, owner) {
            Ok(free) => Verdict::Free(free),
            Err(refusal) => Verdict::Refused(refusal),
        },
        Expected::Known(known) => match known::decide(question, known) {
            Ok(ours) => Verdict::Ours(ours),
            Err(refusal) => Verdict::Wait(refusal),
        },
    }
}

/// Checks that hold for either question: it is not ours to stand on, and not somebody else's part of what is
/// configured. `proved`: it has shown by more than its path whose it is.
fn check_apart(
    question: &Question<'_>,
    device: &DeviceFacts,
    owner: &Owner,
    proved: bool,
) -> Result<(), Refusal> {
    question.world.check_not_presented(question.role, device)?;
    question.world.check_not_configured(question.role, owner, device, proved)
}

/// It can be written, and carries what it has to.
fn check_fit(question: &Question<'_>, device: &DeviceFacts) -> Result<(), Refusal> {
    let (role, capabilities) = (question.role, device.capabilities);
    if capabilities.read_only {
        return Err(Refusal::ReadOnly { role, device: device.to_string(), path: device.path.clone() });
    }
    if capabilities.logical_block > question.fit.logical_block {
        return Err(Refusal::BlockTooLarge {
            role,
            device: device.to_string(),
            block: capabilities.logical_block,
            allowed: question.fit.logical_block,
        });
    }
    if capabilities.size < question.fit.bytes {
        return Err(Refusal::TooSmall {
            role,
            device: device.to_string(),
            actual: capabilities.size,
            needed: question.fit.bytes,
        });
    }
    Ok(())
}

/// Nobody uses it in a way that changes it behind our back, or that we would change under them. Readers do no
/// harm here: udev looks at every device that appears.
fn check_unused(question: &Question<'_>, device: &DeviceFacts) -> Result<(), Refusal> {
    use crate::facts::Holder;
    let harmless = |by: &Holder| {
        matches!(by, Holder::Opened { writes: false, .. } | Holder::Mapped { writes: false, .. })
    };
    let used: Vec<_> = device.used.iter().filter(|used| !harmless(&used.by)).cloned().collect();
    if used.is_empty() {
        return Ok(());
    }
    Err(Refusal::InUse { role: question.role, device: device.to_string(), used })
}
