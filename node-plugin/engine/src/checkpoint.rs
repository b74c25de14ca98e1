//! Checkpoints: dirty pages to disk, then a superblock that lets the ring's tail advance (J4).
//!
//! ```text
//!  idle ──wanted──> pages, place A ──flush──> pages, place B ──flush──> committing ──superblock──> idle
//!                     └──────────────────────────┴─ the bitmap volume fails: idle, nothing counts
//! ```
//!
//! The pages are written to one place, flushed, then to the other, flushed: whatever becomes of one place later, the
//! other is as good.

use crate::action::{Action, OpId, Place, SetIndex};
use crate::ending::Ending;
use crate::mutation::{Rule, is_off};
use crate::owner::{Owner, OwnerOutput};
use crate::record::PlaneId;
use crate::set::{Durable, VolumeSet};
use crate::superblock::Commit;
use crate::units::Sequence;
use std::sync::Arc;

/// Bitmap pages in flight per set: a checkpoint is background work.
pub(crate) const PAGES_IN_FLIGHT_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Pages {
        /// Blocks up to here will be in the pages.
        upto: Sequence,
        /// The planes of the last update will be merged.
        merged: bool,
        place: Place,
        /// The first page that is not written there.
        next: usize,
    },
    Committing,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    state: State,
    wanted: bool,
    pages: Vec<(PlaneId, u32)>,
    in_flight: usize,
    /// Counts page writes of the set.
    writes: u64,
}

impl Checkpoint {
    pub(crate) fn new() -> Self {
        Self { state: State::Idle, wanted: false, pages: Vec::new(), in_flight: 0, writes: 0 }
    }

    /// A gate wants one, of everything that is dirty now.
    pub(crate) fn want(&mut self) {
        self.wanted = true;
    }

    /// Whether one is wanted that has not begun.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Whether none is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// Whether pages of this plane are on their way.
    fn carries(&self, plane: PlaneId) -> bool {
        !self.is_idle() && self.pages.iter().any(|(of, _)| *of == plane)
    }

    /// Its superblock is durable.
    pub(crate) fn committed(&mut self) {
        self.state = State::Idle;
    }

    /// The bitmap volume has failed: what was written does not count.
    pub(crate) fn fail(&mut self) {
        (self.state, self.in_flight) = (State::Idle, 0);
    }

    fn begin(&mut self, upto: Sequence, merged: bool) {
        self.wanted = false;
        self.state = State::Pages { upto, merged, place: Place::A, next: 0 };
        self.pages.clear();
    }

    /// The next page to be written, with its number among all page writes of the set.
    fn next_page(&mut self) -> Option<(u64, PlaneId, u32, Place)> {
        let State::Pages { place, next, .. } = &mut self.state else { return None };
        let (plane, page) = *self.pages.get(*next).filter(|_| self.in_flight < PAGES_IN_FLIGHT_MAX)?;
        *next += 1;
        self.in_flight += 1;
        self.writes += 1;
        Some((self.writes, plane, page, *place))
    }

    /// All pages are durable at one place. What is to be committed, if it was the second.
    fn place_durable(&mut self) -> Option<Commit> {
        let State::Pages { upto, merged, place, .. } = self.state else { return None };
        match place {
            Place::A => {
                self.state = State::Pages { upto, merged, place: Place::B, next: 0 };
                None
            }
            Place::B => {
                self.state = State::Committing;
                Some(Commit::Checkpoint { upto, merged })
            }
        }
    }
}

impl Owner {
    /// Starts a checkpoint that is due.
    pub(crate) fn run_checkpoint(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let Some(set) = self.sets[usize::from(index.0)].as_ref() else { return };
        let asked = set.journal.wants_checkpoint() || set.header.merging || set.checkpoint.is_wanted();
        let able = set.ending == Ending::No && set.header.state.is_online() && !self.detached;
        if asked && able && set.checkpoint.is_idle() && !self.gate_is_committing() {
            let maps = Arc::clone(&self.maps);
            let set = self.set_mut(index);
            set.fold_written(&maps);
            if set.is_tracking() {
                set.fold_lost();
            }
            begin(set);
            self.write_pages(index, out);
        }
    }

    /// E2: whether all that is lost is in the pages; where it is not, a checkpoint is asked for. Of a complete image a
    /// block that is missing from the journal means only that everything may differ, so what is lost must not be there.
    pub(crate) fn has_recorded_lost(&mut self, index: SetIndex) -> bool {
        let set = self.set_mut(index);
        let dirty = set.plane(PlaneId::Lost).is_dirty() && !is_off(Rule::LostInPages);
        if dirty {
            set.checkpoint.want();
        }
        !dirty && !set.checkpoint.carries(PlaneId::Lost)
    }

    /// Sends pages out until enough are in flight or none is left for this place.
    fn write_pages(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let now = self.now;
        let set = self.sets[usize::from(index.0)].as_mut().expect("a set that exists");
        let State::Pages { upto: sequence, .. } = set.checkpoint.state else { return };
        while let Some((number, plane, page, place)) = set.checkpoint.next_page() {
            let op = OpId::Page(set.key, number);
            set.bitmap_watch.submitted(op, now);
            let (fua, stamp) = (set.bitmap.fua(), set.superblock.generation());
            out.actions.push(Action::Page { op, set: index, plane, page, place, stamp, fua, sequence });
            self.counters.pages += 1;
        }
        if set.checkpoint.in_flight == 0 {
            set.bitmap.written(Durable::Pages);
        }
    }

    /// A page has been written to one of its places.
    pub(crate) fn page_written(&mut self, index: SetIndex, ok: bool, out: &mut OwnerOutput) {
        if ok {
            self.set_mut(index).checkpoint.in_flight -= 1;
            self.write_pages(index, out);
        } else {
            self.bitmap_failed(index, out);
        }
    }

    /// All pages are durable at one place: now the other, then the superblock.
    pub(crate) fn pages_durable(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let set = self.set_mut(index);
        match set.checkpoint.place_durable() {
            Some(commit) => set.superblock.commit(commit),
            None => self.write_pages(index, out),
        }
    }
}

/// Takes what is dirty now; of a set that merges, everything that the merge has made dirty is among it.
fn begin(set: &mut VolumeSet) {
    set.checkpoint.begin(set.journal.confirmed(), set.header.merging);
    let ids = [PlaneId::Held, PlaneId::Lost, set.differs_plane(), set.region_plane(), PlaneId::Pending];
    for id in ids {
        let mut from = 0;
        while let Some(page) = set.plane_mut(id).take_dirty(from) {
            from = page + 1;
            set.checkpoint.pages.push((id, u32::try_from(page).expect("pages are counted in 32 bits")));
        }
    }
}
