//! NodeStageVolume.

use super::{in_words, is_read_only, is_staged, keep, mode_is_possible, shape};
use crate::content::{file_system, refuse_twins};
use crate::record::{Now, Record, Shape, Staged};
use crate::refusal::Refusal;
use crate::request::{Access, Stage};
use crate::volume::Volume;
use crate::world::{Device, Effect, Node, Place, Step};
use umbra_identity::Contents;

/// What there is when a volume is to be staged.
pub(crate) struct StageSeen<'a> {
    pub(crate) now: &'a Now,
    pub(crate) record: &'a Record,
    pub(crate) volume: &'a Volume,
    pub(crate) device: &'a Device,
    /// Read only where it is needed: a device that hangs is not read for a call that has nothing to do.
    pub(crate) contents: &'a dyn Fn() -> Contents,
    /// Where it is to be.
    pub(crate) at: &'a Place,
    /// Where the ledger says that it is.
    pub(crate) recorded_at: Option<&'a Place>,
}

/// The steps that remain.
pub(crate) fn stage(ask: &Stage, seen: &StageSeen<'_>) -> Result<Vec<Step>, Refusal> {
    seen.record.admit(ask.volume, seen.now)?;
    mode_is_possible(ask.volume, ask.mode)?;
    let wanted = Staged {
        path: seen.at.path.clone(),
        shape: shape(&ask.access),
        read_only: is_read_only(ask),
        mode: ask.mode,
    };
    let recorded = seen.record.staged.as_ref().zip(seen.recorded_at);
    let found = recorded.filter(|(staged, place)| is_staged(staged, place, seen.device));
    let found = found.map(|(staged, _)| staged);
    if let Some(elsewhere) = found.filter(|staged| staged.path != wanted.path) {
        return Err(Refusal::StagedElsewhere { volume: ask.volume, path: elsewhere.path.clone() });
    }
    let differently = |shape, read_only| Refusal::StagedDifferently {
        volume: ask.volume,
        path: wanted.path.clone(),
        how: in_words(shape, read_only).into(),
    };
    if let Some(staged) = found.filter(|staged| staged.shape != wanted.shape) {
        return Err(differently(staged.shape, staged.read_only));
    }
    let record = || keep(seen.record, seen.record.staged_as(wanted.clone())).into_iter();
    match (&ask.access, seen.at.top()) {
        (Access::Block, None) => {
            if let Some(staged) = found.filter(|staged| staged.read_only != wanted.read_only) {
                return Err(differently(staged.shape, staged.read_only));
            }
            refuse_block_twins(seen)?;
            Ok(record().collect())
        }
        (_, Some(top)) if top.device == Some(seen.device.number) => {
            let is_same = wanted.shape == Shape::FileSystem && top.read_only == wanted.read_only;
            if is_same { Ok(record().collect()) } else { Err(differently(Shape::FileSystem, top.read_only)) }
        }
        (_, Some(_)) => Err(seen.at.occupied()),
        (Access::FileSystem { kind, options }, None) => {
            let access = (kind.as_deref(), options.as_slice());
            let contents = (seen.contents)();
            let file_system = file_system(seen.volume, seen.device, &contents, access, wanted.read_only)?;
            let at = || wanted.path.clone();
            let make = match seen.at.node {
                Node::Absent => Some(Effect::MakeDirectory(at())),
                Node::Directory => None,
                Node::File | Node::Block(_) | Node::Other => return Err(seen.at.occupied()),
            };
            let mount = Effect::Mount { device: seen.device.path.clone(), file_system, at: at() };
            Ok(record().chain(make.into_iter().chain([mount]).map(Step::Act)).collect())
        }
    }
}

/// A master is whatever its owner made of it, and is not read for that.
fn refuse_block_twins(seen: &StageSeen<'_>) -> Result<(), Refusal> {
    match seen.volume.twin {
        None => Ok(()),
        Some(_) => refuse_twins(seen.volume, seen.device, &(seen.contents)()),
    }
}
