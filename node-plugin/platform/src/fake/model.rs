//! One set of the fake: four bits per chunk and what they may do, by the engine's state tables.

use crate::call::{AcceptedImages, CopyKind, Direction, EnableSet, SetEpoch};
use crate::error::PlatformError;
use crate::id::{CutId, Epoch, MasterId, SetId, SetName, SetRef};
use crate::platform::Result;
use crate::status::{
    ChunkCounts, CopyLimits, Deadlines, LastCut, Mode, Progress, Role, SetEntry, SetFlags, SetPaths,
    SetState, SetStatus, Unrecordable, Waits,
};
use crate::time::{Millis, WallTime};
use crate::value::{ByteCount, ChunkSize, Detail, DevicePath, Label};
use std::ops::Range;
use std::time::Duration;

/// The presented device of a master or a set.
pub(crate) fn presented(id: impl std::fmt::Display) -> DevicePath {
    format!("/dev/umbra/by-id/{id}").parse().expect("a UUID makes a valid path")
}

#[derive(Clone, Copy, Debug, Default)]
struct Bits {
    held: bool,
    pending: bool,
    lost: bool,
    differs: bool,
}

/// What the set is doing; progress is derived from the bits.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    Idle,
    Copy { direction: Direction, total: u64, running: bool },
    Offline { which: Role, reason: Detail, since: Epoch },
    GivenUp { reason: Detail },
}

#[derive(Debug)]
pub(crate) struct FakeSet {
    pub(crate) id: SetId,
    pub(crate) name: SetName,
    pub(crate) master: MasterId,
    pub(crate) mode: Mode,
    pub(crate) shadow: DevicePath,
    pub(crate) bitmap: DevicePath,
    pub(crate) epoch: Epoch,
    pub(crate) cut: CutId,
    pub(crate) phase: Phase,
    pub(crate) limits: CopyLimits,
    pub(crate) flags: SetFlags,
    /// For how long file systems were let recover their journals through the shadow, call by call. Time ends none.
    pub(crate) recoveries: Vec<Millis>,
    pub(crate) chunk: ChunkSize,
    cut_at: WallTime,
    deadlines: Deadlines,
    unrecordable: Unrecordable,
    size: ByteCount,
    chunks: Vec<Bits>,
}

impl FakeSet {
    pub(crate) fn new(call: &EnableSet, chunk: ChunkSize, master: MasterId, size: ByteCount) -> Self {
        let count = usize::try_from(chunk.chunks_of(size)).expect("the fake is for small masters");
        let mut set = Self {
            id: SetId::random(),
            name: call.name.clone(),
            master,
            mode: call.mode,
            shadow: call.shadow.clone(),
            bitmap: call.bitmap.clone(),
            epoch: Epoch(0),
            cut: CutId::random(),
            cut_at: WallTime::now(),
            phase: Phase::Idle,
            limits: CopyLimits::default(),
            flags: SetFlags { protected: call.protected, ..SetFlags::default() },
            recoveries: Vec::new(),
            chunk,
            deadlines: call.deadlines,
            unrecordable: call.unrecordable,
            size,
            chunks: vec![Bits::default(); count],
        };
        set.flip(Direction::ToShadow, CopyKind::Full, CutId::random());
        set
    }

    pub(crate) fn presented(&self) -> DevicePath {
        presented(self.id)
    }

    fn reference(&self) -> SetRef {
        (&self.name).into()
    }

    fn slots(&mut self, bytes: Range<u64>) -> impl Iterator<Item = &mut Bits> {
        let chunk = self.chunk.bytes();
        let end = bytes.end.min(self.size.0).div_ceil(chunk);
        let index = |at: u64| usize::try_from(at).expect("the fake is for small masters");
        let (first, end) = (index(bytes.start / chunk), index(end));
        self.chunks.get_mut(first..end).unwrap_or_default().iter_mut()
    }

    fn restoring(&self) -> bool {
        self.direction() == Some(Direction::ToMaster)
    }

    /// A write to the master; says how many chunks had to be copied first.
    pub(crate) fn write_master(&mut self, bytes: Range<u64>) -> u64 {
        let (mode, restoring) = (self.mode, self.restoring());
        let mut copies = 0;
        for bits in self.slots(bytes).filter(|b| !b.lost) {
            match mode {
                Mode::Dependent if bits.held => {}
                // What a restore has pending the shadow holds already.
                Mode::Dependent => {
                    copies += u64::from(!bits.pending);
                    (bits.held, bits.pending) = (true, false);
                }
                Mode::Independent => {
                    copies += u64::from(bits.pending && !restoring);
                    (bits.differs, bits.pending) = (true, false);
                }
            }
        }
        self.settle();
        copies
    }

    pub(crate) fn write_shadow(&mut self, bytes: Range<u64>) {
        let mode = self.mode;
        for bits in self.slots(bytes).filter(|b| !b.lost) {
            bits.pending = false;
            match mode {
                Mode::Dependent => bits.held = true,
                Mode::Independent => bits.differs = true,
            }
        }
        if self.recoveries.last().is_some_and(|lasts| *lasts > Millis(0)) {
            self.flags.recovered = true;
        } else {
            self.flags.shadow_written = true;
        }
        self.settle();
    }

    pub(crate) fn lose(&mut self, bytes: Range<u64>) {
        for bits in self.slots(bytes) {
            *bits = Bits { lost: true, ..Bits::default() };
        }
        self.settle();
    }

    /// The master was written past the set, and that was accepted.
    pub(crate) fn written_outside(&mut self, images: AcceptedImages) {
        match images {
            AcceptedImages::Lost => {
                self.phase = Phase::GivenUp { reason: "its master was written outside Umbra".into() };
            }
            AcceptedImages::Changed => {
                for bits in &mut self.chunks {
                    bits.differs = true;
                    // What would still have been read from the master is nowhere any more.
                    bits.lost |= bits.pending || (self.mode == Mode::Dependent && !bits.held);
                    bits.pending = false;
                }
                self.settle();
            }
        }
    }

    /// The copier takes the first pending chunks; says which bytes it copied.
    pub(crate) fn copy_some(&mut self, most: u64) -> Vec<Range<u64>> {
        let (chunk, size) = (self.chunk.bytes(), self.size.0);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let pending = (0_u64..).zip(&mut self.chunks).filter(|(_, bits)| bits.pending).take(most);
        let copied = pending.map(|(at, bits)| {
            bits.pending = false;
            at * chunk..((at + 1) * chunk).min(size)
        });
        let copied = copied.collect();
        self.settle();
        copied
    }

    /// Chunks that the limits let the copier copy in this time.
    pub(crate) fn chunks_in(&self, period: Duration) -> u64 {
        let millis = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        match self.limits.bytes_per_second {
            None => u64::from(self.limits.in_flight.get()) * 64,
            Some(rate) => (rate.get().saturating_mul(millis) / 1000 / self.chunk.bytes()).max(1),
        }
    }

    /// A copy ends when nothing is pending, however that came.
    fn settle(&mut self) {
        if matches!(self.phase, Phase::Copy { .. }) && self.counts(0..self.chunks.len()).pending == 0 {
            self.phase = Phase::Idle;
        }
    }

    /// The cut: planes as in the table of epoch changes.
    pub(crate) fn flip(&mut self, direction: Direction, kind: CopyKind, cut: CutId) {
        for bits in &mut self.chunks {
            let Bits { held, pending, lost, differs } = *bits;
            let old = Bits { lost: lost && direction == Direction::ToMaster, ..Bits::default() };
            *bits = match (self.mode, direction, kind) {
                (Mode::Dependent, Direction::ToShadow, _) => old,
                (Mode::Dependent, Direction::ToMaster, _) => Bits { pending: held, ..old },
                (Mode::Independent, _, CopyKind::Full) => Bits { pending: true, ..old },
                (Mode::Independent, _, CopyKind::Update) => {
                    Bits { pending: pending || differs || lost, ..old }
                }
            };
        }
        (self.epoch, self.cut, self.cut_at) = (Epoch(self.epoch.0 + 1), cut, WallTime::now());
        (self.flags.shadow_written, self.flags.recovered) = (false, false);
        let total = self.counts(0..self.chunks.len()).pending;
        self.phase = Phase::Copy { direction, total, running: true };
        self.settle();
    }

    /// Goes on with an aborted copy.
    pub(crate) fn resume(&mut self) {
        if let Phase::Copy { running, .. } = &mut self.phase {
            *running = true;
        }
    }

    pub(crate) fn stop(&mut self) {
        if let Phase::Copy { running, .. } = &mut self.phase {
            *running = false;
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Copy { running: true, .. })
    }

    pub(crate) fn direction(&self) -> Option<Direction> {
        match self.phase {
            Phase::Copy { direction, .. } => Some(direction),
            Phase::Idle | Phase::Offline { .. } | Phase::GivenUp { .. } => None,
        }
    }

    /// No volume is offline and the image exists.
    pub(crate) fn check_alive(&self) -> Result<()> {
        match &self.phase {
            Phase::Idle | Phase::Copy { .. } => Ok(()),
            Phase::Offline { which, reason, .. } => {
                Err(PlatformError::Offline { set: self.reference(), role: *which, cause: reason.clone() })
            }
            Phase::GivenUp { reason } => {
                Err(PlatformError::GivenUp { set: self.reference(), cause: reason.clone() })
            }
        }
    }

    /// No copy runs and none is unfinished.
    pub(crate) fn check_settled(&self) -> Result<()> {
        let set = self.reference();
        match self.phase {
            Phase::Copy { direction, running: true, .. } => Err(PlatformError::Copying { set, direction }),
            Phase::Copy { direction, .. } => {
                Err(PlatformError::CopyPending { set, direction, pending: self.all().pending })
            }
            Phase::Idle | Phase::Offline { .. } | Phase::GivenUp { .. } => Ok(()),
        }
    }

    /// The set itself allows a copy this way.
    pub(crate) fn check_copy(&self, wanted: Direction) -> Result<()> {
        let set = self.reference();
        self.check_alive()?;
        match self.phase {
            Phase::Copy { direction, running: true, .. } => {
                return Err(PlatformError::Copying { set, direction });
            }
            Phase::Copy { direction, .. } if direction != wanted => {
                return Err(PlatformError::OppositePending { set, direction, pending: self.all().pending });
            }
            Phase::Copy { .. } | Phase::Idle | Phase::Offline { .. } | Phase::GivenUp { .. } => {}
        }
        let lost = self.all().lost;
        match wanted {
            Direction::ToShadow if self.flags.protected => Err(PlatformError::Protected { set }),
            Direction::ToMaster if lost > 0 => Err(PlatformError::Incomplete { set, lost }),
            Direction::ToShadow | Direction::ToMaster => Ok(()),
        }
    }

    fn all(&self) -> ChunkCounts {
        self.counts(0..self.chunks.len())
    }

    pub(crate) fn count(&self) -> u64 {
        self.all().total
    }

    pub(crate) fn counts(&self, run: Range<usize>) -> ChunkCounts {
        self.chunks[run].iter().fold(ChunkCounts::default(), |sum, bits| ChunkCounts {
            total: sum.total + 1,
            held: sum.held + u64::from(bits.held),
            pending: sum.pending + u64::from(bits.pending),
            lost: sum.lost + u64::from(bits.lost),
            differs: sum.differs + u64::from(bits.differs),
        })
    }

    fn state(&self) -> SetState {
        match &self.phase {
            Phase::Idle => SetState::Idle,
            Phase::Copy { direction, total, running } => {
                let speed = match (running, self.limits.bytes_per_second) {
                    (true, Some(rate)) => rate.get(),
                    (true, None) | (false, _) => 0,
                };
                let done = total.saturating_sub(self.all().pending);
                let progress = Progress::new(done, *total, speed).expect("the difference is not larger");
                match (direction, running) {
                    (Direction::ToShadow, true) => SetState::Copying(progress),
                    (Direction::ToShadow, false) => SetState::CopyAborted(progress),
                    (Direction::ToMaster, true) => SetState::Restoring(progress),
                    (Direction::ToMaster, false) => SetState::RestoreAborted(progress),
                }
            }
            Phase::Offline { which, reason, since } => {
                SetState::Offline { which: *which, reason: reason.clone(), since: *since }
            }
            Phase::GivenUp { reason } => SetState::GivenUp { reason: reason.clone() },
        }
    }

    pub(crate) fn set_epoch(&self) -> SetEpoch {
        SetEpoch { id: self.id, name: self.name.clone(), epoch: self.epoch }
    }

    fn paths(&self, master: &DevicePath) -> SetPaths {
        SetPaths { master: master.clone(), shadow: self.shadow.clone(), bitmap: self.bitmap.clone() }
    }

    pub(crate) fn entry(&self, master: &DevicePath) -> SetEntry {
        let (id, mode, paths) = (self.id, self.mode, self.paths(master));
        SetEntry { id, name: self.name.clone(), master: self.master, mode, paths }
    }

    pub(crate) fn status(&self, master_name: &Label, master: &DevicePath) -> SetStatus {
        SetStatus {
            id: self.id,
            name: self.name.clone(),
            master: self.master,
            master_name: master_name.clone(),
            mode: self.mode,
            state: self.state(),
            epoch: self.epoch,
            last_cut: Some(LastCut { id: self.cut, at: self.cut_at }),
            chunk: self.chunk,
            chunks: self.all(),
            shadow_device: self.presented(),
            paths: self.paths(master),
            limits: self.limits,
            deadlines: self.deadlines,
            unrecordable: self.unrecordable,
            waits: Waits::default(),
            flags: self.flags,
            stalled: None,
        }
    }
}
