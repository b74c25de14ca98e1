//! The two sides of a gate: the header that its superblock commits, and the same in memory.

use super::Purpose;
use crate::action::{Action, SetIndex};
use crate::command::{CopyKind, CutMember, Direction};
use crate::ending::Ending;
use crate::mutation::{Rule, is_off};
use crate::owner::{Owner, OwnerOutput};
use crate::port::ToPort;
use crate::record::{Mode, PlaneHeader, PlaneId, SetHeader, SetState};
use crate::set::VolumeSet;
use std::sync::Arc;

impl Owner {
    /// The header on the far side of the gate.
    pub(super) fn gate_header(&self, index: SetIndex, purpose: &Purpose) -> SetHeader {
        let set = self.set(index);
        match purpose {
            Purpose::Cut { members, cut, unix_ms, .. } => {
                let member = members.iter().find(|member| member.set == index).expect("a member of the cut");
                let header = match member.direction {
                    Direction::ToShadow => cut_header(set, member.kind),
                    Direction::ToMaster => restore_header(set),
                };
                SetHeader { cut: *cut, cut_unix_ms: *unix_ms, ..header }
            }
            Purpose::Complete { .. } => {
                SetHeader { state: SetState::Complete, head_moved: false, ..set.header }
            }
            Purpose::Disable { .. } => SetHeader { state: SetState::Disabled, ..set.header },
            // *Differs* is complete in its pages: a clean set's regions read as inactive.
            Purpose::Detach => SetHeader { clean: true, ..set.header },
        }
    }

    /// The cut in memory.
    pub(super) fn flip(&mut self, members: &[CutMember], out: &mut OwnerOutput) {
        self.counters.cuts += 1;
        let maps = Arc::clone(&self.maps);
        // What ports wrote belongs to the past of every set.
        for set in self.sets.iter_mut().flatten() {
            if members.iter().all(|member| member.set != set.index) {
                set.fold_written(&maps);
            }
        }
        for member in members {
            let set = self.set_mut(member.set);
            set.journal.checkpointed(set.header.checkpoint_upto);
            match member.direction {
                Direction::ToShadow => flip_to_shadow(set, member.kind, &maps),
                Direction::ToMaster => {
                    clear_tracking(set);
                    if is_off(Rule::HeldInRestore) {
                        clear_plane(set, PlaneId::Held);
                    }
                }
            }
            if set.ending == Ending::Recorded {
                set.ending = Ending::No;
            }
            set.copier.restart();
            set.publish_maps();
            let (epoch, labelled, shadow) = (set.header.epoch, set.header.head_moved, Arc::clone(&set.maps));
            out.messages.push(ToPort::Maps(member.set, Some(shadow)));
            if labelled {
                out.actions.push(Action::Label { set: member.set, epoch });
            }
            if member.direction == Direction::ToMaster {
                let failed = self.maps.is_source_failed();
                self.begin_restore(member.set);
                if self.set(member.set).header.head_moved {
                    self.head_kept(member.set, true, out);
                }
                if failed {
                    self.source_failed(member.set);
                }
            }
        }
        maps.written.fill(false);
        self.publish_pass();
    }
}

fn flip_to_shadow(set: &mut VolumeSet, kind: CopyKind, maps: &crate::shared::MasterMaps) {
    if set.parameters.mode == Mode::Independent && kind == CopyKind::Update {
        subtract_differing(set, maps);
    } else {
        clear_plane(set, PlaneId::Held);
    }
    clear_plane(set, PlaneId::Lost);
    clear_tracking(set);
}

fn clear_tracking(set: &mut VolumeSet) {
    for plane in [set.differs_plane(), set.region_plane()] {
        clear_plane(set, plane);
    }
}

/// A plane that the new epoch starts empty: the superblock's plane epoch says so on disk.
pub(super) fn clear_plane(set: &mut VolumeSet, id: PlaneId) {
    let plane = set.plane_mut(id);
    plane.fill(false);
    plane.mark_all(false);
}

/// Held := held less everything that may differ, in memory exactly as recovery would compute it (E2).
fn subtract_differing(set: &mut VolumeSet, maps: &crate::shared::MasterMaps) {
    // The header has flipped already: what tracked until now is the other pair.
    let frozen = set.header.tracking.other();
    let differs = PlaneId::differs(frozen);
    set.plane_mut(differs).or_shared(&maps.written);
    let mut next = set.plane(differs).find(0, true);
    while let Some(chunk) = next {
        set.plane_mut(PlaneId::Held).put(chunk, false);
        next = set.plane(differs).find(chunk + 1, true);
    }
    set.plane_mut(PlaneId::Held).mark_all(true);
}

/// The epoch-change table of engine.md for cuts to the shadow.
fn cut_header(set: &VolumeSet, kind: CopyKind) -> SetHeader {
    // An epoch that was given up, though it may never have begun, is not used again.
    let epoch = set.header.epoch.max(set.given_up_epoch).next();
    let mut header = SetHeader {
        epoch,
        state: match set.parameters.mode {
            Mode::Dependent => SetState::Dependent,
            Mode::Independent => SetState::Copying,
        },
        head_moved: true,
        shadow_written: false,
        recovered: false,
        clean: false,
        merging: false,
        ..set.header
    };
    let update = set.parameters.mode == Mode::Independent && kind == CopyKind::Update;
    if update {
        header.tracking = header.tracking.other();
        header.merging = true;
    } else {
        header.planes[PlaneId::Held.index()] = PlaneHeader { epoch };
        // Every plane starts anew, so no record of the past counts. After a reset some of them never arrived,
        // and must not be looked for.
        header.checkpoint_upto = set.journal.confirmed();
    }
    for plane in [PlaneId::Lost, PlaneId::differs(header.tracking), PlaneId::region(header.tracking)] {
        header.planes[plane.index()] = PlaneHeader { epoch };
    }
    header
}

/// The epoch-change table of engine.md for a restore: *pending* is in its pages already, both sides are the same
/// from here on.
fn restore_header(set: &VolumeSet) -> SetHeader {
    let epoch = set.header.epoch.max(set.given_up_epoch).next();
    let mut header = SetHeader {
        epoch,
        state: SetState::Restoring,
        shadow_written: false,
        recovered: false,
        clean: false,
        ..set.header
    };
    for plane in [PlaneId::differs(header.tracking), PlaneId::region(header.tracking)] {
        header.planes[plane.index()] = PlaneHeader { epoch };
    }
    header
}
