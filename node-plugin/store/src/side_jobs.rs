//! Small jobs of several steps on a set's own volumes: moving the shadow's head, writing its label (E7).
//!
//! One at a time per set, in the order the engine asked for them: a label must not land after the head that
//! replaces it.

use crate::block_store::StoreOpKind;
use crate::buf::{AlignedBuf, IoBuf};
use crate::machine::EndNote;
use crate::recover::SetConfig;
use std::collections::VecDeque;
use umbra_engine::{Device, Epoch, HeadMove, SetIndex};
use umbra_format::{BLOCK_BYTES, ImageEnd, Label};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SideJob {
    /// Read here, write there, flush there.
    MoveHead(HeadMove),
    /// Write, flush.
    Label { epoch: Epoch, end: Option<EndNote> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Start,
    Read,
    /// Of a head that moves back: all but its first block, durable before the label goes.
    WriteRest,
    FlushRest,
    Write,
    Flush,
}

/// The jobs of one set.
#[derive(Debug, Default)]
pub(crate) struct SideJobs {
    queue: VecDeque<SideJob>,
    step: Option<Step>,
    /// The end that is being recorded, and how many records of it may still succeed. Records of an earlier end that come
    /// late say something else.
    end: Option<(EndNote, u8)>,
    /// The shadow's head, while a restore needs it.
    kept_head: Option<IoBuf>,
    /// The set's label is durable at the start of its shadow.
    labelled: bool,
    /// The head that moves back, while a flush is under way.
    head: Option<IoBuf>,
}

type StoreStep = (Device, StoreOpKind, Option<IoBuf>);

impl SideJobs {
    /// Queues a job; true if it is the first, so that somebody must start it.
    pub(crate) fn push(&mut self, job: SideJob) -> bool {
        self.queue.push_back(job);
        self.queue.len() == 1
    }

    /// Whether the set's label is durable at the start of its shadow: superblocks say so, and the next start refuses
    /// a shadow without one.
    pub(crate) fn is_labelled(&self) -> bool {
        let moves = |job: &SideJob| matches!(job, SideJob::MoveHead(HeadMove::Out | HeadMove::Back));
        self.labelled && !self.queue.iter().any(moves)
    }

    pub(crate) fn set_labelled(&mut self, labelled: bool) {
        self.labelled = labelled;
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether the job at the front waits for a flush.
    pub(crate) fn is_flushing(&self) -> bool {
        matches!(self.step, Some(Step::FlushRest | Step::Flush))
    }

    /// The job at the front has ended.
    pub(crate) fn finish(&mut self, ok: bool) -> SideJob {
        (self.step, self.head) = (None, None);
        let job = self.queue.pop_front().expect("a job was in progress");
        match job {
            // Out, the label is still to come; back, the head is in its place.
            SideJob::MoveHead(HeadMove::Out | HeadMove::Back) => self.labelled = false,
            SideJob::MoveHead(HeadMove::Keep) => {}
            SideJob::Label { .. } => self.labelled |= ok,
        }
        job
    }

    /// The next operation of the job at the front; `buf` is what the last one brought.
    pub(crate) fn next_step(
        &mut self,
        set: SetIndex,
        config: &SetConfig,
        buf: Option<IoBuf>,
    ) -> Option<StoreStep> {
        let job = *self.queue.front()?;
        let step = self.step.unwrap_or(Step::Start);
        let (next, operation) = match (job, step) {
            (SideJob::MoveHead(HeadMove::Keep), Step::Read) => {
                self.kept_head = buf;
                return None;
            }
            (SideJob::MoveHead(to), Step::Start) => (Step::Read, read_head(to, set, config)),
            (SideJob::MoveHead(HeadMove::Back), Step::Read) => {
                let mut buf = buf?;
                if buf.range.end > BLOCK_BYTES {
                    buf.range.start = BLOCK_BYTES;
                    (Step::WriteRest, write_head(HeadMove::Back, set, config, buf))
                } else {
                    (Step::Write, write_head(HeadMove::Back, set, config, buf))
                }
            }
            (SideJob::MoveHead(HeadMove::Back), Step::WriteRest) => {
                self.head = buf;
                (Step::FlushRest, (Device::Shadow(set), StoreOpKind::Flush, None))
            }
            (SideJob::MoveHead(HeadMove::Back), Step::FlushRest) => {
                let mut buf = self.head.take()?;
                buf.range = 0..BLOCK_BYTES;
                (Step::Write, write_head(HeadMove::Back, set, config, buf))
            }
            (SideJob::MoveHead(to), Step::Read) => (Step::Write, write_head(to, set, config, buf?)),
            (SideJob::MoveHead(to), Step::Write) => {
                (Step::Flush, (head_place(to, set, config, true).0, StoreOpKind::Flush, None))
            }
            (SideJob::Label { epoch, end }, Step::Start) => {
                (Step::Write, write_label(set, config, epoch, end))
            }
            (SideJob::Label { .. }, Step::Write) => {
                (Step::Flush, (Device::Shadow(set), StoreOpKind::Flush, None))
            }
            (_, Step::Flush) => return None,
            (SideJob::Label { .. } | SideJob::MoveHead(HeadMove::Out | HeadMove::Keep), _) => {
                unreachable!("only a head that moves back goes in two parts")
            }
        };
        self.step = Some(next);
        Some(operation)
    }

    /// The head that is kept in memory.
    pub(crate) fn kept_head(&self) -> Option<&[u8]> {
        self.kept_head.as_ref().map(IoBuf::bytes)
    }

    /// It is not needed any more.
    pub(crate) fn forget_head(&mut self) {
        self.kept_head = None;
    }

    /// So many records of an end are on their way; one is enough.
    pub(crate) fn expect_end_records(&mut self, note: EndNote, count: u8) {
        self.end = Some((note, count));
    }

    /// A record of an end has ended. Says how it all ended, once that is known.
    pub(crate) fn end_record(&mut self, note: &EndNote, ok: bool) -> Option<bool> {
        let (_, count) = self.end.as_mut().filter(|(expected, _)| expected == note)?;
        *count -= 1;
        if ok || *count == 0 {
            self.end = None;
            return Some(ok);
        }
        None
    }
}

/// Source or destination of a head.
fn head_place(to: HeadMove, set: SetIndex, config: &SetConfig, destination: bool) -> (Device, u64) {
    let on_bitmap = (Device::Bitmap(set), config.layout.head_offset());
    let on_shadow = (Device::Shadow(set), 0);
    match (to, destination) {
        (HeadMove::Out, true) | (HeadMove::Back | HeadMove::Keep, false) => on_bitmap,
        (HeadMove::Out, false) | (HeadMove::Back | HeadMove::Keep, true) => on_shadow,
    }
}

fn read_head(to: HeadMove, set: SetIndex, config: &SetConfig) -> StoreStep {
    let len = config.identity.head_bytes.min(config.identity.geometry.master_bytes());
    let buf = AlignedBuf::zeroed(usize::try_from(len).expect("a head fits in memory"));
    let (device, offset) = head_place(to, set, config, false);
    (device, StoreOpKind::Read { offset }, Some(IoBuf::whole(buf)))
}

/// Writes a part of a head where it goes.
fn write_head(to: HeadMove, set: SetIndex, config: &SetConfig, buf: IoBuf) -> StoreStep {
    let (device, start) = head_place(to, set, config, true);
    let offset = start + buf.range.start as u64;
    (device, StoreOpKind::Write { offset, fua: false }, Some(buf))
}

fn write_label(set: SetIndex, config: &SetConfig, epoch: Epoch, end: Option<EndNote>) -> StoreStep {
    let end = end.map(|note| match note.master_incomplete {
        true => ImageEnd::MasterIncomplete,
        false => ImageEnd::GivenUp,
    });
    let identity = &config.identity;
    let label =
        Label { set: identity.set, shadow: identity.shadow.uuid, epoch, session: identity.session, end };
    let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
    label.encode(&mut block);
    (Device::Shadow(set), StoreOpKind::Write { offset: 0, fua: false }, Some(IoBuf::whole(block)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbra_engine::{Id128, OfflineCause};

    /// The label of an end that the state directory has recorded comes late, while the end of the restore that went on
    /// from memory is being recorded: it is not a record of that.
    #[test]
    fn a_record_of_an_earlier_end_does_not_count() {
        let note = |master_incomplete| EndNote {
            set: Id128([1; 16]),
            epoch: Epoch(3),
            cause: OfflineCause::Bitmap,
            master_incomplete,
        };
        let mut jobs = SideJobs::default();
        jobs.expect_end_records(note(true), 2);
        assert_eq!(jobs.end_record(&note(true), true), Some(true));
        jobs.expect_end_records(note(false), 2);
        assert_eq!(jobs.end_record(&note(true), true), None);
        assert_eq!(jobs.end_record(&note(false), false), None);
        assert_eq!(jobs.end_record(&note(false), true), Some(true));
    }
}
