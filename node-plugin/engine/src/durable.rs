//! What has become durable, and what goes out next: journal blocks and flush tickets. Superblocks and checkpoints have
//! files of their own.

use crate::action::{Action, Device, FlushTicket, OpId, SetIndex};
use crate::ending::Ending;
use crate::journal::Purpose;
use crate::owner::{Owner, OwnerOutput};
use crate::set::Durable;
use crate::units::Sequence;

/// Journal blocks in flight per set. What a store has in hand of one volume at a time is not more, so the next would only
/// wait there, and each with a block of its own; here their records wait together.
pub(crate) const BLOCKS_IN_FLIGHT_MAX: usize = 64;

impl Owner {
    /// Handles everything that has become durable, and lets out everything that is ready, until nothing moves.
    pub(crate) fn settle(&mut self, out: &mut OwnerOutput) {
        for index in self.set_indexes() {
            while let Some(item) = self.next_durable(index) {
                self.became_durable(index, item, out);
            }
            self.seal_journal(index, out);
            self.start_commit(index, out);
            self.run_checkpoint(index, out);
            while let Some(item) = self.next_durable(index) {
                self.became_durable(index, item, out);
            }
            self.issue_flushes(index, out);
        }
    }

    fn next_durable(&mut self, index: SetIndex) -> Option<Durable> {
        let set = self.sets[usize::from(index.0)].as_mut()?;
        set.shadow.pop_ready().or_else(|| set.bitmap.pop_ready())
    }

    fn became_durable(&mut self, index: SetIndex, item: Durable, out: &mut OwnerOutput) {
        match item {
            Durable::CopyData(copy) => self.copy_data_durable(copy, index),
            Durable::Block(sequence) => self.block_durable(index, sequence, out),
            Durable::Pages => self.pages_durable(index, out),
            Durable::Superblock(place) => self.superblock_durable(index, place, out),
            Durable::Gate(round) => self.gate_flushed(round, out),
        }
    }

    fn issue_flushes(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let now = self.now;
        let Some(set) = self.sets[usize::from(index.0)].as_mut() else { return };
        for device in [Device::Shadow(index), Device::Bitmap(index)] {
            let flusher = if device == Device::Shadow(index) { &mut set.shadow } else { &mut set.bitmap };
            if let Some(ticket) = flusher.issue(&mut self.tickets) {
                let op = OpId::Flush(device, ticket);
                set.watch(device).submitted(op, now);
                out.actions.push(Action::Flush { op, device });
                self.counters.flushes += 1;
            }
        }
    }

    /// A flush of a shadow or bitmap volume has ended. A failed flush is a failed device: never retried (E8).
    pub(crate) fn device_flushed(
        &mut self,
        device: Device,
        index: SetIndex,
        ticket: FlushTicket,
        ok: bool,
        out: &mut OwnerOutput,
    ) {
        let set = self.set_mut(index);
        match (ok, device == Device::Shadow(index)) {
            (true, true) => set.shadow.flushed(ticket),
            (true, false) => set.bitmap.flushed(ticket),
            (false, true) => self.shadow_failed(index, out),
            (false, false) => self.bitmap_failed(index, out),
        }
    }

    fn seal_journal(&mut self, index: SetIndex, out: &mut OwnerOutput) {
        let now = self.now;
        loop {
            let Some(set) = self.sets[usize::from(index.0)].as_mut() else { return };
            if matches!(set.ending, Ending::Elsewhere { .. } | Ending::Recorded) {
                set.stalled_since = None;
                return;
            }
            if set.bitmap_watch.journal_blocks() >= BLOCKS_IN_FLIGHT_MAX {
                return;
            }
            let Some(block) = set.journal.seal(set.header.epoch) else {
                let since = set.stalled_since.unwrap_or(now);
                set.stalled_since = set.journal.is_stalled().then_some(since);
                return;
            };
            let sequence = block.sequence;
            set.sealed_at = now;
            let op = OpId::Journal(set.key, sequence);
            set.bitmap_watch.submitted(op, now);
            let fua = set.bitmap.fua();
            let purposes = set.journal.sealed().to_vec();
            self.counters.journal_blocks += 1;
            self.counters.records += block.records.len() as u64;
            out.actions.push(Action::Journal { op, set: index, fua, block });
            for purpose in purposes {
                if let Purpose::Held(copy) = purpose {
                    self.copy_sealed(copy, index, sequence);
                }
            }
        }
    }

    /// A journal block has been written.
    pub(crate) fn journal_written(
        &mut self,
        index: SetIndex,
        sequence: Sequence,
        ok: bool,
        out: &mut OwnerOutput,
    ) {
        if ok {
            self.set_mut(index).bitmap.written(Durable::Block(sequence));
        } else {
            self.bitmap_failed(index, out);
        }
    }

    fn block_durable(&mut self, index: SetIndex, sequence: Sequence, out: &mut OwnerOutput) {
        let mut purposes = Vec::new();
        self.set_mut(index).journal.durable(sequence, &mut purposes);
        for (purpose, _) in purposes {
            match purpose {
                Purpose::Held(copy) => self.copy_record_durable(copy, index),
                Purpose::Lost(copy) => self.copy_lost(copy, index),
                Purpose::Restored(copy) => self.run_restored(copy, out),
                Purpose::RegionActive(region) => {
                    let set = self.set_mut(index);
                    let plane = set.region_plane();
                    set.plane_mut(plane).put(region, true);
                    self.region_settled(region);
                }
            }
        }
        self.wake_confirmed(index);
    }
}
