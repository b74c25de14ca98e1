//! What a call comes to: from what is asked, what umbra-io says, what is mounted and what the ledger says, to the steps that
//! remain, or to a refusal. Nothing here looks or acts, so that every case is a line of a test.
//!
//! The steps of a call are those that are not done yet: the mount table is looked at first. So a call that was cut off
//! is finished by the same call again, and what is done already is no step.

mod leave;
mod publish;
mod stage;

pub(crate) use leave::{LeaveSeen, unpublish, unstage};
pub(crate) use publish::{PublishSeen, publish};
pub(crate) use stage::{StageSeen, stage};

use crate::handle::VolumeHandle;
use crate::mode::AccessMode;
use crate::record::{Record, Shape, Staged};
use crate::refusal::Refusal;
use crate::request::{Access, Stage};
use crate::world::{Device, Mounted, Node, Place, Step};

/// Whether the access mode is one that a volume of this node can keep.
fn mode_is_possible(volume: VolumeHandle, mode: AccessMode) -> Result<(), Refusal> {
    let is_possible = match volume {
        VolumeHandle::Master(_) => mode.is_of_one_node(),
        VolumeHandle::Shadow(_) => mode.is_of_one_node() || mode.only_reads(),
    };
    if is_possible {
        return Ok(());
    }
    Err(Refusal::ModeNotPossible { volume, mode: mode.to_string().into() })
}

/// Whether nobody may write what is staged.
fn is_read_only(ask: &Stage) -> bool {
    let is_kept_image = matches!(ask.volume, VolumeHandle::Shadow(_)) && !ask.is_writable_shadow;
    is_kept_image || ask.mode.only_reads() || crate::content::asks_for_no_writes(&ask.access)
}

fn shape(access: &Access) -> Shape {
    match access {
        Access::FileSystem { .. } => Shape::FileSystem,
        Access::Block => Shape::Block,
    }
}

impl Place {
    fn top(&self) -> Option<&Mounted> {
        self.mounts.last()
    }

    /// Whether the device is there, in this shape.
    fn holds(&self, device: &Device, shape: Shape) -> bool {
        match shape {
            Shape::FileSystem => self.top().is_some_and(|top| top.device == Some(device.number)),
            Shape::Block => self.top().is_some() && self.node == Node::Block(device.number),
        }
    }

    fn occupied(&self) -> Refusal {
        let found = match (self.top(), self.node) {
            (Some(top), _) => format!("{} is mounted there", top.kind),
            (None, Node::Directory) => "a directory".into(),
            (None, Node::File) => "a file".into(),
            (None, Node::Absent) => "nothing".into(),
            (None, Node::Block(_) | Node::Other) => {
                "neither a directory nor a file, or it cannot be looked at".into()
            }
        };
        Refusal::Occupied { path: self.path.clone(), found: found.into() }
    }
}

/// Whether what the ledger says of the staging is so. A device is staged by being recorded; a file system by being mounted.
fn is_staged(staged: &Staged, place: &Place, device: &Device) -> bool {
    match staged.shape {
        Shape::FileSystem => place.holds(device, Shape::FileSystem),
        Shape::Block => true,
    }
}

/// The step to a new record, if it says something new.
fn keep(old: &Record, new: Record) -> Option<Step> {
    (new != *old).then_some(Step::Keep(new))
}

fn in_words(shape: Shape, read_only: bool) -> String {
    let shape = match shape {
        Shape::FileSystem => "as a file system",
        Shape::Block => "as a device",
    };
    format!("{shape}, {}", if read_only { "read-only" } else { "writable" })
}
