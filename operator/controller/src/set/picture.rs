//! A set in the node's words, as its object shows it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use umbra_crds::Role as Part;
use umbra_crds::conditions::{ImageTrustedReason, IndependentReason, ResynchronizingReason, SetReady};
use umbra_crds::{
    Consistency, CopyDirection, CopyState, CopyStatus, Image, RoleState, RoleStatus, VolumeSetStatus,
};
use umbra_crds::{CutId, SetId};
use umbra_platform::status::{
    ChunkCounts, Direction, MasterStatus, Mode, Progress, Role, SetState, SetStatus,
};

/// Whole percent of a part; 0 of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> i32 {
    let percent = u128::from(part) * 100 / u128::from(whole.max(1));
    i32::try_from(percent.min(100)).unwrap_or(100)
}

/// How much of the master has changed since the cut; whatever has changed is one percent at least.
fn changed_percent(mode: Mode, chunks: &ChunkCounts) -> i32 {
    let changed = match mode {
        Mode::Independent => chunks.differs,
        // Before a chunk of the master changed, it was put aside, or lost.
        Mode::Dependent => chunks.held.saturating_add(chunks.lost),
    };
    percent(changed, chunks.total).max(i32::from(changed > 0))
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Puts what the node says of the set into the status.
///
/// `of_groups` are the last cuts of groups: the image may be of one.
pub(crate) fn describe(
    status: &mut VolumeSetStatus,
    set: &SetStatus,
    master: Option<&MasterStatus>,
    of_groups: &[CutId],
) {
    status.set_id = Some(SetId::new(set.id.0));
    status.image = image(set, master, status.image.as_ref());
    if let Some(image) = &mut status.image
        && of_groups.contains(&image.cut_id)
    {
        image.group_cut_id = Some(image.cut_id);
    }
    status.copy = Some(copy(&set.state));
    status.roles = roles(set);
}

/// The image that the set holds; none where it has none any more.
fn image(set: &SetStatus, master: Option<&MasterStatus>, before: Option<&Image>) -> Option<Image> {
    if matches!(set.state, SetState::GivenUp { .. }) {
        return None;
    }
    let cut = set.last_cut?;
    let cut_id = CutId::new(cut.id.0);
    // The master counts the gate of its last cut only: what it says now was said of this cut while it was the last.
    let known = before.filter(|image| image.cut_id == cut_id);
    let last_gate =
        master.map_or(0, |master| i32::try_from(master.counters.last_gate_ms).unwrap_or(i32::MAX));
    Some(Image {
        cut_id,
        time: Time(Timestamp::from_millisecond(i64::try_from(cut.at.unix_millis()).ok()?).ok()?),
        consistency: known.map_or(Consistency::Crash, |image| image.consistency),
        group_cut_id: known.and_then(|image| image.group_cut_id),
        gate_millis: known.map_or(last_gate, |image| image.gate_millis),
        trusted: set.chunks.lost == 0,
        written: set.flags.shadow_written,
        recovered: set.flags.recovered,
        lost_chunks: count(set.chunks.lost),
        changed_percent: changed_percent(set.mode, &set.chunks),
    })
}

fn copy(state: &SetState) -> CopyStatus {
    let progress = |progress: &Progress| percent(progress.done(), progress.total());
    let of = |direction, state, at: &Progress| CopyStatus {
        direction: Some(direction),
        state,
        percent: progress(at),
        bytes_per_second: (state == CopyState::Running).then(|| count(at.bytes_per_second())),
        estimated_end: None,
    };
    match state {
        SetState::Copying(at) => of(CopyDirection::ToShadow, CopyState::Running, at),
        SetState::Restoring(at) => of(CopyDirection::ToMaster, CopyState::Running, at),
        SetState::CopyAborted(at) => of(CopyDirection::ToShadow, CopyState::Aborted, at),
        SetState::RestoreAborted(at) => of(CopyDirection::ToMaster, CopyState::Aborted, at),
        SetState::Idle | SetState::Offline { .. } | SetState::GivenUp { .. } | SetState::Blocked(_) => {
            CopyStatus { percent: 100, ..CopyStatus::default() }
        }
    }
}

fn roles(set: &SetStatus) -> Vec<RoleStatus> {
    let failed = match &set.state {
        SetState::Offline { which, .. } => Some(*which),
        _ => None,
    };
    let role = |role, part, device: &umbra_platform::value::DevicePath| RoleStatus {
        role,
        device: device.to_string(),
        state: if failed == Some(part) { RoleState::Offline } else { RoleState::Online },
    };
    vec![
        role(Part::Master, Role::Master, &set.paths.master),
        role(Part::Shadow, Role::Shadow, &set.paths.shadow),
        role(Part::Bitmap, Role::Bitmap, &set.paths.bitmap),
    ]
}

/// Whether the set holds its image, and why.
pub(crate) fn readiness(set: &SetStatus) -> (SetReady, String) {
    let none = String::new();
    match &set.state {
        SetState::Idle => match set.mode {
            Mode::Independent => (SetReady::InSync, none),
            Mode::Dependent => (SetReady::Dependent, none),
        },
        SetState::Copying(_) => (SetReady::Copying, none),
        SetState::Restoring(_) => (SetReady::Restoring, none),
        SetState::CopyAborted(_) => (SetReady::Aborted, "its copy to the shadow was broken off".into()),
        SetState::RestoreAborted(_) => (SetReady::Aborted, "its restore was broken off".into()),
        SetState::Offline { which: Role::Bitmap, reason, .. } => {
            (SetReady::BitmapOffline, reason.to_string())
        }
        SetState::Offline { which: Role::Shadow, reason, .. } => {
            (SetReady::ShadowOffline, reason.to_string())
        }
        SetState::Offline { which: Role::Master, reason, .. } => {
            (SetReady::MasterNotReady, reason.to_string())
        }
        SetState::GivenUp { reason } => (SetReady::ImageLost, reason.to_string()),
        SetState::Blocked(wait) => (SetReady::Blocked, wait.what.to_string()),
    }
}

/// Whether the image is what the master was; nothing where it cannot be told.
pub(crate) fn trust(set: &SetStatus) -> Option<(ImageTrustedReason, String)> {
    match &set.state {
        SetState::GivenUp { .. } | SetState::Blocked(_) => None,
        _ if set.chunks.lost > 0 => {
            let message = format!("{} of {} chunks could not be kept", set.chunks.lost, set.chunks.total);
            Some((ImageTrustedReason::LostChunks, message))
        }
        _ => Some((ImageTrustedReason::Exact, String::new())),
    }
}

/// Whether a copy runs, and which way.
pub(crate) fn resynchronizing(set: &SetStatus) -> ResynchronizingReason {
    match set.state.is_running().then(|| set.state.direction()).flatten() {
        Some(Direction::ToShadow) => ResynchronizingReason::ToShadow,
        Some(Direction::ToMaster) => ResynchronizingReason::ToMaster,
        None => ResynchronizingReason::Idle,
    }
}

/// Whether the shadow stands alone; nothing where that is not wanted.
pub(crate) fn independent(set: &SetStatus) -> Option<IndependentReason> {
    let reason = match set.state {
        SetState::Idle if set.chunks.pending == 0 => IndependentReason::CopyDone,
        _ => IndependentReason::LeansOnMaster,
    };
    (set.mode == Mode::Independent).then_some(reason)
}
