//! NodePublishVolume.

use super::{in_words, is_read_only, is_staged, keep, mode_is_possible, shape};
use crate::handle::VolumeHandle;
use crate::mode::AccessMode;
use crate::record::{Now, Published, Record, Shape, Staged};
use crate::refusal::Refusal;
use crate::request::Publish;
use crate::world::{Device, Effect, Node, Place, Step};

/// What there is when a pod is to get a volume.
pub(crate) struct PublishSeen<'a> {
    pub(crate) now: &'a Now,
    pub(crate) record: &'a Record,
    pub(crate) device: &'a Device,
    /// Where the volume is said to be staged.
    pub(crate) staging: &'a Place,
    /// Where the pod gets it.
    pub(crate) at: &'a Place,
    /// The places of the ledger's entries.
    pub(crate) published: &'a [Place],
}

/// The steps that remain.
pub(crate) fn publish(ask: &Publish, seen: &PublishSeen<'_>) -> Result<Vec<Step>, Refusal> {
    let volume = ask.stage.volume;
    seen.record.admit(volume, seen.now)?;
    mode_is_possible(volume, ask.stage.mode)?;
    let shape = shape(&ask.stage.access);
    let staged = staged(ask, seen, shape)?;
    let read_only = ask.is_read_only || ask.stage.mode.only_reads() || staged.read_only;
    if shape == Shape::Block && is_kept_image(ask) && !(ask.is_read_only || ask.stage.mode.only_reads()) {
        return Err(Refusal::ReadOnlyShadow { volume });
    }
    one_writer(ask, seen)?;
    let old = seen.record.at(&seen.at.path);
    let entry = Published {
        path: seen.at.path.clone(),
        pod: ask.pod.clone().or_else(|| old.and_then(|old| old.pod.clone())),
        read_only,
        mode: ask.stage.mode,
    };
    let mut steps = Vec::from_iter(keep(seen.record, seen.record.staged_as(staged).with(entry)));
    let effects = match seen.at.top() {
        Some(top) if seen.at.holds(seen.device, shape) => {
            // A mount that takes writes until the last step is one that was cut off before it.
            let was_cut_off = read_only && !top.read_only && old.is_some_and(|old| old.read_only);
            if read_only != top.read_only && !was_cut_off {
                let (path, how) = (seen.at.path.clone(), in_words(shape, top.read_only).into());
                return Err(Refusal::PublishedDifferently { volume, path, how });
            }
            if was_cut_off { vec![Effect::ForbidWrites(seen.at.path.clone())] } else { Vec::new() }
        }
        Some(_) => return Err(seen.at.occupied()),
        None => bind(seen, shape, read_only)?,
    };
    steps.extend(effects.into_iter().map(Step::Act));
    Ok(steps)
}

fn is_kept_image(ask: &Publish) -> bool {
    matches!(ask.stage.volume, VolumeHandle::Shadow(_)) && !ask.stage.is_writable_shadow
}

/// How the volume is staged where it is said to be. A mount counts also where the ledger was lost.
fn staged(ask: &Publish, seen: &PublishSeen<'_>, shape: Shape) -> Result<Staged, Refusal> {
    let path = seen.staging.path.clone();
    let recorded = seen.record.staged.as_ref().filter(|staged| staged.path == path);
    match recorded {
        Some(staged) if is_staged(staged, seen.staging, seen.device) => {
            if staged.shape != shape {
                let how = in_words(staged.shape, staged.read_only);
                return Err(Refusal::bad_request("volume_capability", format!("it is staged {how}")));
            }
            Ok(staged.clone())
        }
        None if shape == Shape::FileSystem && seen.staging.holds(seen.device, shape) => {
            let read_only = seen.staging.top().is_some_and(|top| top.read_only) || is_read_only(&ask.stage);
            Ok(Staged { path, shape, read_only, mode: ask.stage.mode })
        }
        Some(_) | None => Err(Refusal::NotStaged { volume: ask.stage.volume, path }),
    }
}

/// Refuses a second pod where only one may write.
fn one_writer(ask: &Publish, seen: &PublishSeen<'_>) -> Result<(), Refusal> {
    let others = seen.published.iter().filter(|place| place.path != seen.at.path && place.top().is_some());
    for place in others {
        let its_mode = seen.record.at(&place.path).map(|entry| entry.mode);
        if [its_mode, Some(ask.stage.mode)].contains(&Some(AccessMode::SingleNodeSingleWriter)) {
            return Err(Refusal::PublishedElsewhere { volume: ask.stage.volume, path: place.path.clone() });
        }
    }
    Ok(())
}

/// The effects that bring the volume to an empty place.
fn bind(seen: &PublishSeen<'_>, shape: Shape, read_only: bool) -> Result<Vec<Effect>, Refusal> {
    let at = || seen.at.path.clone();
    let mut effects = match (shape, seen.at.node) {
        (Shape::FileSystem, Node::Directory) | (Shape::Block, Node::File) => Vec::new(),
        (Shape::FileSystem, Node::Absent) => vec![Effect::MakeDirectory(at())],
        (Shape::Block, Node::Absent) => vec![Effect::MakeFile(at())],
        // Left by a pod that had the volume in the other shape.
        (Shape::FileSystem, Node::File) => vec![Effect::Remove(at()), Effect::MakeDirectory(at())],
        (Shape::Block, Node::Directory) => vec![Effect::Remove(at()), Effect::MakeFile(at())],
        (_, Node::Block(_) | Node::Other) => return Err(seen.at.occupied()),
    };
    let from = match shape {
        Shape::FileSystem => seen.staging.path.as_path().to_owned(),
        Shape::Block => seen.device.path.clone(),
    };
    effects.push(Effect::Bind { from, at: at() });
    if read_only {
        effects.push(Effect::ForbidWrites(at()));
    }
    Ok(effects)
}
