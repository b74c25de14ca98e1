//! When a shadow or a bitmap volume fails or is too slow (E11): the image ends, the master goes on.
//!
//! Invariant 1: the end is recorded durably *before* anything that waited for the set goes on. A failed shadow
//! is recorded on the bitmap volume; a failed bitmap volume in the state directory and the shadow's label (E7).
//! Nothing that was submitted to the device may still be counted on, and nothing of it is reused before it has
//! come back (E6).

use crate::action::Now;
use crate::action::{Action, SetIndex, Unrecordable};
use crate::command::Refusal;
use crate::ending::Ending;
use crate::mutation::{Rule, is_off};
use crate::owner::{Owner, OwnerOutput};
use crate::record::{OfflineCause, SetState};
use crate::superblock::Commit;

/// A record of an end that could not be written is tried again after this long, in milliseconds.
const GIVE_UP_RETRY_MS: u64 = 1000;

impl Owner {
    /// The shadow failed: the superblock is to say so.
    pub(crate) fn shadow_failed(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let set = self.set_mut(index);
        set.shadow_watch.abandon();
        set.shadow.fail();
        set.maps.set_failing(true);
        self.reclaim_buffers(index, out);
        let set = self.set_mut(index);
        if set.ending != Ending::No || !set.header.state.is_online() {
            if self.restores_from(index) {
                // The restore goes on from memory, or is about to, and reads the shadow all the same.
                self.source_failed(index);
            }
            return;
        }
        if self.is_restore_decided(index) {
            // Its superblock may say already that the restore runs: an end behind that would forget what is pending.
            self.maps.set_source_failed(true);
            return;
        }
        if self.set(index).header.state.is_restoring() {
            // E9: the set cannot end while a part of the master's data is on its shadow only.
            self.source_failed(index);
            return;
        }
        if is_off(Rule::LostMark) {
            // The mutant forgets to record the end before it goes on.
            self.end_recorded(index, OfflineCause::Shadow, out);
            return;
        }
        let set = self.set_mut(index);
        set.ending = Ending::Superblock(OfflineCause::Shadow);
        set.superblock.commit(Commit::State(SetState::Offline(OfflineCause::Shadow)));
        self.legs_await_end(index);
    }

    /// The bitmap volume failed: the end is recorded elsewhere.
    pub(crate) fn bitmap_failed(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let now = self.now;
        let doubtful = self.doubtful_epoch(index);
        let set = self.set_mut(index);
        set.bitmap_watch.abandon();
        set.bitmap.fail();
        set.maps.set_failing(true);
        self.reclaim_buffers(index, out);
        let set = self.set_mut(index);
        set.checkpoint.fail();
        let dropped = set.superblock.fail();
        let begun = doubtful.or(dropped.gate_epoch);
        let epoch = begun.unwrap_or(set.header.epoch);
        // An image that has ended already needs no second record, unless a new one may have begun.
        if set.ending.is_elsewhere()
            || (set.ending == Ending::Recorded || !set.header.state.is_online()) && begun.is_none()
        {
            // A gate whose superblock was not even begun has nothing to wait for any more.
            if dropped.gate_waited && !set.ending.is_elsewhere() {
                self.gate_set_ended(index, OfflineCause::Bitmap, out);
            }
            self.head_failed(index);
            return;
        }
        set.ending = Ending::Elsewhere { cause: OfflineCause::Bitmap, since: now, retry_at: None };
        // Never back: a cut whose outcome was unknown may have used a later one, and a record says that it ended.
        set.given_up_epoch = set.given_up_epoch.max(epoch);
        self.give_up(index, OfflineCause::Bitmap, out);
        self.legs_await_end(index);
        self.await_restored(index);
        self.head_failed(index);
    }

    fn give_up(&mut self, index: SetIndex, cause: OfflineCause, out: &mut OwnerOutput) {
        let set = self.set(index);
        let epoch = set.given_up_epoch;
        // Its superblock may say so before the gate flips: then the master has nothing of it yet.
        let master_incomplete = self.restores_from(index);
        out.actions.push(Action::GiveUp { set: index, cause, epoch, master_incomplete });
    }

    /// State directory or label say that the image has ended, or neither could be written.
    pub(crate) fn give_up_recorded(&mut self, index: SetIndex, ok: bool, out: &mut OwnerOutput) {
        let retry = Now(self.now.0 + GIVE_UP_RETRY_MS);
        let set = self.set_mut(index);
        let Ending::Elsewhere { cause, retry_at, .. } = &mut set.ending else { return };
        if ok {
            let cause = *cause;
            self.end_recorded(index, cause, out);
        } else {
            *retry_at = Some(retry);
        }
    }

    /// The end of the image is recorded: everything that waited for the set goes on without it.
    pub(crate) fn end_recorded(&mut self, index: SetIndex, cause: OfflineCause, out: &mut OwnerOutput) {
        let restores = self.restores_from(index);
        let set = self.set_mut(index);
        set.ending = Ending::Recorded;
        if !restores {
            set.header.state = SetState::Offline(cause);
        }
        set.maps.set_offline(true);
        set.journal.forget();
        set.shadow.fail();
        if let Some(command) = set.state_command.take() {
            out.actions.push(Action::Answer { command, result: Err(Refusal::Failed(cause)) });
        }
        self.legs_await_end(index);
        self.legs_ended(index);
        // Bits only go from 0 to 1 here: one set less wants something.
        self.publish_pass();
        self.recount_regions();
        self.wake_confirmed(index);
        if self.restores_from(index) {
            self.restore_unrecorded(out);
        }
        self.gate_set_ended(index, cause, out);
    }

    /// Time has passed: deadlines, retries, rate limits.
    pub(crate) fn tick(&mut self, out: &mut OwnerOutput) {
        self.refill_allowances();
        let Now(now) = self.now;
        for index in self.set_indexes() {
            let set = self.set(index);
            let late = |since: Option<Now>, deadline: u64| since.is_some_and(|Now(at)| now >= at + deadline);
            let shadow_late = late(set.shadow_watch.oldest(), set.parameters.shadow_deadline_ms);
            let stalled = late(set.stalled_since, set.parameters.bitmap_deadline_ms);
            let bitmap_late = late(set.bitmap_watch.oldest(), set.parameters.bitmap_deadline_ms) || stalled;
            if shadow_late {
                self.shadow_failed(index, out);
            }
            if bitmap_late {
                self.bitmap_failed(index, out);
            }
            self.retry_give_up(index, out);
            self.confirm_quiet(index);
        }
        self.gate_tick(out);
    }

    fn retry_give_up(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let Now(now) = self.now;
        let set = self.set_mut(index);
        let policy = set.parameters.unrecordable;
        let Ending::Elsewhere { cause, since, retry_at } = &mut set.ending else { return };
        let (cause, since) = (*cause, *since);
        if retry_at.is_some_and(|Now(at)| now >= at) {
            *retry_at = None;
            self.give_up(index, cause, out);
        }
        if let Unrecordable::FailWrite(after) = policy
            && now >= since.0 + after
        {
            self.fail_waiting(index, out);
        }
    }
}
