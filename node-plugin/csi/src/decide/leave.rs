//! NodeUnpublishVolume and NodeUnstageVolume. They need nothing of umbra-io, so that pods can end while it is away.

use super::keep;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::request::Leave;
use crate::world::{Effect, Node, Place, Step};

/// What there is when a volume is left.
pub(crate) struct LeaveSeen<'a> {
    pub(crate) record: &'a Record,
    /// Where it is left.
    pub(crate) at: &'a Place,
    /// The ledger says that the place is another volume's.
    pub(crate) is_anothers: bool,
    /// The places of the ledger's entries.
    pub(crate) published: &'a [Place],
}

/// The steps that remain.
pub(crate) fn unpublish(_ask: &Leave, seen: &LeaveSeen<'_>) -> Vec<Step> {
    let is_staging = seen.record.staged.as_ref().is_some_and(|staged| staged.path == seen.at.path);
    if seen.is_anothers || is_staging {
        return Vec::new();
    }
    let mut steps = unmounted(seen.at);
    if seen.at.node != Node::Absent {
        steps.push(Step::Act(Effect::Remove(seen.at.path.clone())));
    }
    steps.extend(keep(seen.record, seen.record.without(&seen.at.path)));
    steps
}

/// The steps that remain. The directory stays: the kubelet made it.
pub(crate) fn unstage(ask: &Leave, seen: &LeaveSeen<'_>) -> Result<Vec<Step>, Refusal> {
    if let Some(place) = seen.published.iter().find(|place| place.top().is_some()) {
        return Err(Refusal::StillPublished { volume: ask.volume, path: place.path.clone() });
    }
    if seen.is_anothers {
        return Ok(Vec::new());
    }
    let mut steps = unmounted(seen.at);
    if seen.record.staged.as_ref().is_some_and(|staged| staged.path == seen.at.path) {
        // Entries whose mounts are gone are of calls that were cut off.
        steps.extend(keep(seen.record, seen.record.unstaged()));
    }
    Ok(steps)
}

fn unmounted(place: &Place) -> Vec<Step> {
    place.mounts.iter().map(|_| Step::Act(Effect::Unmount(place.path.clone()))).collect()
}
