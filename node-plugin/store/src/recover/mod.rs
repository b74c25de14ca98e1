//! From a bitmap volume to a set that can be served: format a new one, or recover one after whatever happened.
//!
//! Recovery (E8), in this order, with the devices claimed by the caller. What stands in one line goes to the devices
//! at the same time; each line is as long as the slowest of its operations, and each operation has the deadline of
//! its device:
//!
//! ```text
//!  1 flush            what a killed process left in caches is made durable before it is believed
//!  2 superblocks      the valid slot with the higher generation, and the shadow's label; both are compared with
//!                     what is expected, before anything is written
//!  3 pages, journal   of each page the newer valid place; pages older than their plane's epoch read as zero.
//!                     Every valid block of the ring newer than the checkpoint, gaps or not
//!  4 data             unconfirmed records only if the shadow's bytes have their hash (E1)
//!  5 pages back       the worse place of what changed, durably; then the better one
//!  6 superblock       new ring generation, to the worse slot, durably: rejected records are discarded for ever
//!  7 superblock       the better slot
//! ```
//! A crash anywhere before 6 is durable leaves everything that the next recovery needs: only pages were added, and
//! they say no more than pages and journal said together. What is damaged or older is overwritten first: the only
//! good copy of anything is written over when its twin is durable, so that no number of power cuts takes both.

mod error;
mod expected;
mod members;
mod prepare;
mod read;
mod write;

pub use error::RecoverError;
pub use expected::{Expected, Mismatch};
pub use members::{MemberView, decide};
pub use prepare::prepare_set;
pub use read::{FoundSet, find_set, read_superblock};

use crate::block_store::{BlockStore, DeviceSlot};
use crate::blocking::{BatchError, Blocking};
use std::fmt;
use std::time::Duration;
use umbra_engine::{Durability, Epoch, Id128, SetImage, SetParameters, Unrecordable};
use umbra_format::{Layout, SetIdentity};

/// Where a set's volumes are in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetDevices {
    /// The shadow.
    pub shadow: DeviceSlot,
    /// The bitmap volume.
    pub bitmap: DeviceSlot,
}

/// One of a set's own volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volume {
    /// It presents the image.
    Shadow,
    /// It carries the set.
    Bitmap,
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shadow => "shadow",
            Self::Bitmap => "bitmap",
        })
    }
}

/// A set as the executor needs it.
#[derive(Clone, Debug)]
pub struct SetConfig {
    /// Who.
    pub identity: SetIdentity,
    /// Where things are on the bitmap volume.
    pub layout: Layout,
    /// Where the volumes are.
    pub devices: SetDevices,
    /// What the engine is told.
    pub parameters: SetParameters,
    /// The shadow carries the set's label, durably.
    pub labelled: bool,
}

/// Who attaches the set now (E7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// This node.
    pub node: Id128,
    /// Random for each attach.
    pub session: Id128,
}

/// What a person may choose per set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetOptions {
    /// After this long a shadow operation has failed, in milliseconds; while a set starts, too.
    pub shadow_deadline_ms: u64,
    /// The same for the bitmap volume.
    pub bitmap_deadline_ms: u64,
    /// What happens to master writes while nothing at all can be recorded.
    pub unrecordable: Unrecordable,
}

impl Default for SetOptions {
    fn default() -> Self {
        Self { shadow_deadline_ms: 5000, bitmap_deadline_ms: 5000, unrecordable: Unrecordable::Block }
    }
}

/// What is known away from the set's own volumes when it is recovered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The end of an image that the state directory has on record.
    pub ended: Option<Ended>,
    /// Whether a cut that is in doubt is committed: [`decide`] says so.
    pub commit: bool,
    /// The master was written past the set: of a complete image every chunk differs, and of any other what the shadow
    /// does not hold is lost, since it was the master's (E19).
    pub master_changed: bool,
    /// What the set's record says that its volumes are.
    pub expected: Expected,
}

/// The end of an image, on record away from its bitmap volume (E7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Images up to this epoch have ended.
    pub epoch: Epoch,
    /// A restore had chunks left.
    pub master_incomplete: bool,
}

/// Recovers a set; see the module. Who has to look at the superblock before the set is recovered asks [`find_set`].
///
/// # Errors
/// [`RecoverError`]; nothing was written unless a device failed or hung. Where one hung, the store has operations in
/// flight, and the error names them.
pub fn recover_set<S: BlockStore>(
    store: &mut S,
    devices: SetDevices,
    session: Session,
    known: Known,
    options: SetOptions,
) -> Result<(SetConfig, SetImage), RecoverError> {
    find_set(store, devices, options)?.recover(store, session, known)
}

/// The devices of a set, each with its deadline.
fn blocking<S: BlockStore>(store: &mut S, devices: SetDevices, options: SetOptions) -> Blocking<'_, S> {
    let [shadow, bitmap] =
        [options.shadow_deadline_ms, options.bitmap_deadline_ms].map(Duration::from_millis);
    Blocking::new(store, bitmap).with_deadline(devices.shadow, shadow)
}

/// What a batch on the set's devices says, with the name of the volume.
fn failed(devices: SetDevices) -> impl Fn(BatchError) -> RecoverError {
    let volume = move |device| if device == devices.shadow { Volume::Shadow } else { Volume::Bitmap };
    move |error| match error {
        BatchError::Device { device, source } => RecoverError::Device { volume: volume(device), source },
        BatchError::Hung { device, deadline, abandoned } => {
            RecoverError::Hung { volume: volume(device), deadline, abandoned }
        }
    }
}

fn layout_of(identity: &SetIdentity) -> Layout {
    Layout::new(identity.geometry, identity.ring_blocks, identity.head_bytes)
}

fn durability<S: BlockStore>(store: &S, device: DeviceSlot) -> Durability {
    let capabilities = store.capabilities(device);
    match (capabilities.volatile_cache, capabilities.fua) {
        (false, _) => Durability::WriteThrough,
        (true, true) => Durability::Fua,
        (true, false) => Durability::Flush,
    }
}

fn config<S: BlockStore>(
    store: &S,
    devices: SetDevices,
    identity: SetIdentity,
    options: SetOptions,
) -> SetConfig {
    let layout = layout_of(&identity);
    let parameters = SetParameters {
        mode: identity.mode,
        shadow_durability: durability(store, devices.shadow),
        bitmap_durability: durability(store, devices.bitmap),
        ring_blocks: identity.ring_blocks,
        head_bytes: identity.head_bytes,
        head_offset: layout.head_offset(),
        shadow_deadline_ms: options.shadow_deadline_ms,
        bitmap_deadline_ms: options.bitmap_deadline_ms,
        unrecordable: options.unrecordable,
    };
    SetConfig { identity, layout, devices, parameters, labelled: false }
}

fn check_sizes<S: BlockStore>(
    store: &S,
    devices: SetDevices,
    identity: &SetIdentity,
) -> Result<(), RecoverError> {
    let (have, need) = (store.capabilities(devices.bitmap).size, layout_of(identity).total_bytes());
    if have < need {
        return Err(RecoverError::BitmapTooSmall { have, need });
    }
    let (have, need) = (store.capabilities(devices.shadow).size, identity.geometry.master_bytes());
    if have < need {
        return Err(RecoverError::ShadowTooSmall { have, need });
    }
    Ok(())
}
