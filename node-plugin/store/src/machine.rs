//! The executor: an engine, its stores, and the memory that moves between them.
//!
//! It turns the engine's actions into store operations and completions into events, encodes journal blocks,
//! pages and superblocks, and decides nothing. The shell calls [`Machine::request`] and the like as things
//! happen and [`Machine::turn`] once per turn of its loop.
//!
//! Master I/O goes to one store, everything else to another: under ublk the ring of the first holds the
//! character device, so that a new process cannot take over before that I/O has landed (E6), and a hung
//! shadow does not hold it up.

use crate::block_store::{BlockStore, Completion, DeviceSlot, StoreError, StoreOp, StoreOpKind, Token};
use crate::buf::{AlignedBuf, IoBuf};
use crate::first_bytes::{Before, FirstBytes};
use crate::recover::SetConfig;
use crate::side_jobs::{SideJob, SideJobs};
use umbra_engine::{
    Action, ByteRange, Command, CommandId, CopyBuf, Device, Done, Epoch, Event, Geometry, HeadMove, Id128,
    InDoubt, IoKind, JournalBlock, Limits, Master, Memory, Now, OfflineCause, OpId, Place, PlaneId, Refusal,
    Request, RequestError, RequestId, SETS_MAX, Sequence, SetHeader, SetImage, SetIndex,
    SuperblockGeneration,
};
use umbra_format::{BLOCK_BYTES, PageHeader, Superblock, data_hash, encode_journal, encode_page};

/// The end of an image, for the state directory (E7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndNote {
    /// Whose.
    pub set: Id128,
    /// Images up to this epoch have ended.
    pub epoch: Epoch,
    /// Why.
    pub cause: OfflineCause,
    /// A restore from the set had chunks left: a part of the master's data is on the shadow only (E9).
    pub master_incomplete: bool,
}

/// The state directory: small durable records away from every volume that Umbra interposes.
pub trait Notes {
    /// Starts writing a note. It is durable when it is polled with `true`.
    fn submit(&mut self, note: EndNote);

    /// Appends the notes whose writing has ended, and whether they are durable.
    fn poll(&mut self, done: &mut Vec<(EndNote, bool)>);

    /// Keeps a digest of the master's [first bytes](crate::FIRST_BYTES) where it outlives the process, and not the machine.
    fn keep_digest(&mut self, digest: u64);

    /// Takes it back: when this returns, none is kept.
    fn withdraw_digest(&mut self);
}

/// A request that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Which.
    pub id: RequestId,
    /// How.
    pub result: Result<(), RequestError>,
    /// The buffer that came with it; filled, if it was a read that succeeded.
    pub buf: Option<IoBuf>,
}

/// What to do with a completion.
#[derive(Debug)]
enum Pending {
    /// The request's own buffer was lent whole.
    RequestWhole { op: OpId, id: RequestId },
    /// A part of a request went through a scratch buffer; for reads, back to this offset.
    RequestPart { op: OpId, id: RequestId, back_to: Option<usize> },
    /// A copy buffer was lent.
    Copy { op: OpId, buf: CopyBuf, hash: bool },
    /// A scratch buffer was lent; nothing to bring back.
    Scratch { op: OpId },
    /// A step of a side job.
    Side { set: SetIndex },
    /// The master's first bytes are read for their digest.
    FirstBytes,
}

/// An operation that a store has.
#[derive(Debug)]
struct Submitted {
    pending: Pending,
    writes_first_bytes: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Machine<S, N> {
    master: Master,
    limits: Limits,
    master_store: S,
    master_device: DeviceSlot,
    sides: S,
    notes: N,
    sets: Vec<Option<SetConfig>>,
    requests: Vec<Option<IoBuf>>,
    copy_bufs: Vec<Option<AlignedBuf>>,
    /// The read that each copy buffer was lent to last.
    copy_reads: Vec<Option<OpId>>,
    scratch: Vec<AlignedBuf>,
    pending: Vec<Option<Submitted>>,
    free_tokens: Vec<usize>,
    side_jobs: Vec<SideJobs>,
    actions: Vec<Action>,
    completions: Vec<Completion>,
    noted: Vec<(EndNote, bool)>,
    finished: Vec<Finished>,
    answers: Vec<(CommandId, Result<Done, Refusal>)>,
    io_counts: IoCounts,
    /// Reads of heads in memory: they have ended.
    head_reads: Vec<OpId>,
    first_bytes: FirstBytes,
}

/// Operations and bytes handed to the stores, to be compared with what the kernel counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounts {
    /// Reads.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes of them.
    pub write_bytes: u64,
    /// Flushes.
    pub flushes: u64,
}

impl<S: BlockStore, N: Notes> Machine<S, N> {
    /// A machine for a master without sets.
    pub fn new(geometry: Geometry, limits: Limits, master: (S, DeviceSlot), sides: S, notes: N) -> Self {
        let bytes = |len: u64| usize::try_from(len).expect("copy buffers fit in memory");
        let write_buf = || Some(AlignedBuf::zeroed(bytes(limits.write_buffer_bytes)));
        let copier_buf = || Some(AlignedBuf::zeroed(bytes(limits.copier_buffer_bytes)));
        let copy_bufs = (0..limits.write_buffers)
            .map(|_| write_buf())
            .chain((0..limits.copier_buffers).map(|_| copier_buf()))
            .collect();
        let block = u64::from(master.0.capabilities(master.1).logical_block);
        let first_bytes = FirstBytes::new(geometry.master_bytes());
        Self {
            master: Master::new(geometry, block, limits),
            limits,
            master_store: master.0,
            master_device: master.1,
            sides,
            notes,
            sets: (0..SETS_MAX).map(|_| None).collect(),
            requests: (0..limits.requests).map(|_| None).collect(),
            copy_reads: vec![None; usize::from(limits.write_buffers + limits.copier_buffers)],
            copy_bufs,
            scratch: Vec::new(),
            pending: Vec::with_capacity(256),
            free_tokens: Vec::with_capacity(256),
            side_jobs: (0..SETS_MAX).map(|_| SideJobs::default()).collect(),
            actions: Vec::with_capacity(256),
            completions: Vec::with_capacity(256),
            noted: Vec::new(),
            finished: Vec::with_capacity(limits.requests),
            answers: Vec::new(),
            io_counts: IoCounts::default(),
            head_reads: Vec::new(),
            first_bytes,
        }
    }

    /// Adds a set that was recovered (before the first request) or prepared (at any time).
    pub fn add_set(&mut self, index: SetIndex, config: SetConfig, image: SetImage) {
        let parameters = config.parameters;
        self.side_jobs[usize::from(index.0)].set_labelled(config.labelled);
        self.sets[usize::from(index.0)] = Some(config);
        self.master.add_set(index, parameters, image);
    }

    /// Forgets a set that has no image.
    pub fn remove_set(&mut self, index: SetIndex) {
        self.master.remove_set(index);
        self.sets[usize::from(index.0)] = None;
    }

    /// A set's configuration.
    pub fn set(&self, index: SetIndex) -> Option<&SetConfig> {
        self.sets[usize::from(index.0)].as_ref()
    }

    /// Takes a request. Reads and writes come with a buffer as long as their range.
    pub fn request(&mut self, now: Now, request: Request, buf: Option<IoBuf>) {
        let slot = &mut self.requests[request.id.0 as usize];
        assert!(slot.is_none(), "request {:?} is in flight already", request.id);
        *slot = buf;
        self.apply(now, Event::Request(request));
    }

    /// Takes a command; the answer comes from [`answers`](Self::answers).
    pub fn command(&mut self, now: Now, id: CommandId, command: Command) {
        self.apply(now, Event::Command(id, command));
    }

    /// Tells the engine the time; a few times per second is enough.
    pub fn tick(&mut self, now: Now) {
        self.apply(now, Event::Tick);
        if let Some(bytes) = self.first_bytes.read_due(now) {
            let len = usize::try_from(bytes).expect("some tens of KiB");
            // Of its own, and not one to be kept: it is needed once in a quiet while.
            let buf = IoBuf::whole(AlignedBuf::zeroed(len));
            self.submit(Device::Master, StoreOpKind::Read { offset: 0 }, Some(buf), Pending::FirstBytes);
        }
    }

    /// Takes in what has completed, ends the engine's turn and sends out what it asks for. True if anything happened.
    pub fn turn(&mut self, now: Now) -> bool {
        let mut completions = std::mem::take(&mut self.completions);
        self.master_store.poll(&mut completions);
        self.sides.poll(&mut completions);
        let mut noted = std::mem::take(&mut self.noted);
        self.notes.poll(&mut noted);
        let mut moved = !completions.is_empty() || !noted.is_empty() || !self.actions.is_empty();
        for completion in completions.drain(..) {
            self.completed(now, completion);
        }
        self.completions = completions;
        for (note, ok) in noted.drain(..) {
            self.noted(now, note, ok);
        }
        self.noted = noted;
        loop {
            self.master.end_turn(now, &mut self.actions);
            moved |= !self.actions.is_empty();
            self.execute();
            if self.head_reads.is_empty() {
                return moved;
            }
            for op in std::mem::take(&mut self.head_reads) {
                self.apply(now, Event::Done { op, ok: true, hash: None });
            }
        }
    }

    /// Moves out the requests that have ended.
    pub fn finished(&mut self, out: &mut Vec<Finished>) {
        out.append(&mut self.finished);
    }

    /// Moves out the answers of commands.
    pub fn answers(&mut self, out: &mut Vec<(CommandId, Result<Done, Refusal>)>) {
        out.append(&mut self.answers);
    }

    /// The engine, to be looked at.
    pub fn master(&self) -> &Master {
        &self.master
    }

    /// What was handed to the stores so far.
    pub fn io_counts(&self) -> IoCounts {
        self.io_counts
    }

    /// The store of the master, for a shell that shares its ring.
    pub fn master_store(&mut self) -> &mut S {
        &mut self.master_store
    }

    /// The store of shadows and bitmap volumes.
    pub fn sides(&mut self) -> &mut S {
        &mut self.sides
    }

    /// The state directory.
    pub fn notes(&mut self) -> &mut N {
        &mut self.notes
    }

    fn apply(&mut self, now: Now, event: Event) {
        self.master.apply(now, event, &mut self.actions);
    }

    fn noted(&mut self, now: Now, note: EndNote, ok: bool) {
        let named = |config: &Option<SetConfig>| config.as_ref().is_some_and(|c| c.identity.set == note.set);
        let Some(at) = self.sets.iter().position(named) else { return };
        let set = SetIndex(u8::try_from(at).expect("at most 16 sets"));
        if let Some(ok) = self.side_jobs[at].end_record(&note, ok) {
            self.apply(now, Event::GiveUpRecorded { set, ok });
        }
    }

    fn completed(&mut self, now: Now, completion: Completion) {
        let token = usize::try_from(completion.token.0).expect("tokens are indexes");
        let submitted = self.pending[token].take().expect("an operation completes once");
        self.free_tokens.push(token);
        let Submitted { pending, writes_first_bytes } = submitted;
        // What was given up may still land.
        if writes_first_bytes && completion.result != Err(StoreError::Hung) {
            self.first_bytes.write_ends();
        }
        let ok = completion.result.is_ok();
        let buf = completion.buf;
        let (op, hash) = match pending {
            Pending::RequestWhole { op, id } => {
                self.requests[id.0 as usize] = buf;
                (op, None)
            }
            Pending::RequestPart { op, id, back_to } => {
                if let Some(part) = buf {
                    if let (Some(at), Some(whole)) = (back_to, &mut self.requests[id.0 as usize])
                        && ok
                    {
                        whole.bytes_mut()[at..at + part.range.len()].copy_from_slice(part.bytes());
                    }
                    self.scratch.push(part.buf);
                }
                (op, None)
            }
            Pending::Copy { op, buf: number, hash } => {
                let buf = buf.expect("a lent buffer comes back");
                let hash = (hash && ok).then(|| data_hash(buf.bytes()));
                let number = usize::from(number.0);
                let slot = &mut self.copy_bufs[number];
                // What was given up comes back when its number may be in use for another copy already: what that one
                // has read stays.
                if self.copy_reads[number] == Some(op) || slot.is_none() {
                    *slot = Some(buf.buf);
                }
                (op, hash)
            }
            Pending::Scratch { op } => {
                self.scratch.extend(buf.map(|buf| buf.buf));
                (op, None)
            }
            Pending::Side { set } => {
                self.side_step(now, set, completion.result, buf);
                return;
            }
            Pending::FirstBytes => {
                if self.first_bytes.was_read(ok) {
                    let buf = buf.expect("a lent buffer comes back");
                    self.notes.keep_digest(data_hash(buf.bytes()));
                }
                return;
            }
        };
        self.apply(now, Event::Done { op, ok, hash });
    }

    /// Executes the engine's actions in order.
    fn execute(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        for at in 0..actions.len() {
            // A copy buffer that several shadows are written from is lent to the last of them only.
            let shared = match &actions[at] {
                Action::Io { kind: IoKind::Write { .. }, memory: memory @ Memory::Copy(_), .. } => {
                    let same = |other: &Action| matches!(other, Action::Io { memory: m, .. } if m == memory);
                    actions[at + 1..].iter().any(same)
                }
                _ => false,
            };
            let action =
                std::mem::replace(&mut actions[at], Action::Label { set: SetIndex(0), epoch: Epoch(0) });
            self.execute_one(action, shared);
        }
        actions.clear();
        if self.actions.is_empty() {
            self.actions = actions;
        }
    }

    fn execute_one(&mut self, action: Action, shared: bool) {
        match action {
            Action::Io { op, device, kind, range, memory } => {
                self.io(op, device, kind, range, memory, shared)
            }
            Action::Flush { op, device } => {
                self.submit(device, StoreOpKind::Flush, None, Pending::Scratch { op });
            }
            Action::Journal { op, set, fua, block } => self.write_journal(op, set, fua, &block),
            Action::Page { op, set, plane, page, place, stamp, fua, sequence } => {
                self.write_page(op, set, (plane, page, place), (stamp, sequence), fua);
            }
            Action::Superblock { op, set, header, doubt, fua } => {
                self.write_superblock(op, set, header, doubt, fua);
            }
            Action::Complete { id, result } => {
                let buf = self.requests[id.0 as usize].take();
                self.finished.push(Finished { id, result, buf });
            }
            Action::GiveUp { set, cause, epoch, master_incomplete } => {
                let set_id = self.config(set).identity.set;
                self.give_up(set, EndNote { set: set_id, epoch, cause, master_incomplete });
            }
            Action::MoveHead { set, to } => self.side_job(set, SideJob::MoveHead(to)),
            Action::Label { set, epoch } => self.side_job(set, SideJob::Label { epoch, end: None }),
            Action::ForgetHead { set } => self.side_jobs[usize::from(set.0)].forget_head(),
            Action::Answer { command, result } => self.answers.push((command, result)),
        }
    }

    fn io(&mut self, op: OpId, device: Device, kind: IoKind, range: ByteRange, memory: Memory, shared: bool) {
        let offset = range.start;
        let store_kind = match kind {
            IoKind::Read { .. } => StoreOpKind::Read { offset },
            IoKind::Write { fua } => StoreOpKind::Write { offset, fua },
            IoKind::WriteZeroes { fua } => StoreOpKind::WriteZeroes { range, fua },
            IoKind::Discard => StoreOpKind::Discard(range),
        };
        let len = usize::try_from(range.len).expect("requests fit in memory");
        if let Device::Head(set) = device {
            self.read_head(op, set, range, memory);
            return;
        }
        let reads = matches!(kind, IoKind::Read { .. });
        match memory {
            Memory::None => self.submit(device, store_kind, None, Pending::Scratch { op }),
            Memory::Copy(number) => {
                let bytes = self.copy_buf_bytes(number);
                let slot = &mut self.copy_bufs[usize::from(number.0)];
                if shared {
                    let bytes = &slot.as_ref().expect("the copy's buffer is here")[..len];
                    let part = AlignedBuf::from_bytes(bytes);
                    self.submit(device, store_kind, Some(IoBuf::whole(part)), Pending::Scratch { op });
                } else {
                    // The one before hangs at a device that was given up: it is not had back for this copy.
                    let replaced = || reads.then(|| AlignedBuf::zeroed(bytes));
                    let buf = slot.take().or_else(replaced).expect("the copy's buffer is here");
                    if reads {
                        self.copy_reads[usize::from(number.0)] = Some(op);
                    }
                    let hash = matches!(kind, IoKind::Read { hash: true });
                    let pending = Pending::Copy { op, buf: number, hash };
                    self.submit(device, store_kind, Some(IoBuf::head(buf, len)), pending);
                }
            }
            Memory::Request(id, at) => {
                let slot = &mut self.requests[id.0 as usize];
                let at = usize::try_from(at).expect("requests fit in memory");
                let whole = slot.as_ref().is_some_and(|buf| buf.range.len() == len);
                if whole {
                    let buf = slot.take();
                    self.submit(device, store_kind, buf, Pending::RequestWhole { op, id });
                    return;
                }
                let mut part = self.scratch_buf(len);
                if !reads {
                    let buf =
                        self.requests[id.0 as usize].as_ref().expect("a request with data has a buffer");
                    part[..len].copy_from_slice(&buf.bytes()[at..at + len]);
                }
                let pending = Pending::RequestPart { op, id, back_to: reads.then_some(at) };
                self.submit(device, store_kind, Some(IoBuf::head(part, len)), pending);
            }
        }
    }

    /// Reads from the head that is kept in memory.
    fn read_head(&mut self, op: OpId, set: SetIndex, range: ByteRange, memory: Memory) {
        let bytes = |len: u64| usize::try_from(len).expect("a head fits in memory");
        let (from, len) = (bytes(range.start), bytes(range.len));
        let head = self.side_jobs[usize::from(set.0)].kept_head().expect("the engine knows what is kept");
        let source = &head[from..from + len];
        match memory {
            Memory::Copy(number) => {
                let whole = self.copy_buf_bytes(number);
                let slot = &mut self.copy_bufs[usize::from(number.0)];
                // As for a read of a device: what was lent and hangs is replaced.
                slot.get_or_insert_with(|| AlignedBuf::zeroed(whole))[..len].copy_from_slice(source);
                self.copy_reads[usize::from(number.0)] = Some(op);
            }
            Memory::Request(id, at) => {
                let buf = self.requests[id.0 as usize].as_mut().expect("a read has a buffer");
                buf.bytes_mut()[bytes(at)..bytes(at) + len].copy_from_slice(source);
            }
            Memory::None => unreachable!("a read has memory"),
        }
        self.head_reads.push(op);
    }

    fn copy_buf_bytes(&self, number: CopyBuf) -> usize {
        let bytes = match number.0 < self.limits.write_buffers {
            true => self.limits.write_buffer_bytes,
            false => self.limits.copier_buffer_bytes,
        };
        usize::try_from(bytes).expect("copy buffers fit in memory")
    }

    fn scratch_buf(&mut self, len: usize) -> AlignedBuf {
        let fits = |buf: &AlignedBuf| buf.len() >= len;
        match self.scratch.iter().rposition(fits) {
            Some(at) => self.scratch.swap_remove(at),
            None => AlignedBuf::zeroed(len.next_multiple_of(BLOCK_BYTES)),
        }
    }

    fn submit(&mut self, device: Device, kind: StoreOpKind, buf: Option<IoBuf>, pending: Pending) {
        let len = buf.as_ref().map_or(0, |buf| buf.range.len() as u64);
        match kind {
            StoreOpKind::Read { .. } => {
                self.io_counts.reads += 1;
                self.io_counts.read_bytes += len;
            }
            StoreOpKind::Write { .. } => {
                self.io_counts.writes += 1;
                self.io_counts.write_bytes += len;
            }
            StoreOpKind::Flush => self.io_counts.flushes += 1,
            StoreOpKind::Discard(_) | StoreOpKind::WriteZeroes { .. } => {}
        }
        let token = self.free_tokens.pop().unwrap_or_else(|| {
            self.pending.push(None);
            self.pending.len() - 1
        });
        let writes_first_bytes = device == Device::Master
            && kind.writes(len).is_some_and(|range| self.first_bytes.includes(range));
        if writes_first_bytes && self.first_bytes.write_begins() == Before::Withdraw {
            self.notes.withdraw_digest();
        }
        self.pending[token] = Some(Submitted { pending, writes_first_bytes });
        let token = Token(token as u64);
        let devices =
            |set: SetIndex| self.sets[usize::from(set.0)].as_ref().expect("a set that exists").devices;
        let (store, device) = match device {
            Device::Master => (&mut self.master_store, self.master_device),
            Device::Shadow(set) => {
                let device = devices(set).shadow;
                (&mut self.sides, device)
            }
            Device::Bitmap(set) => {
                let device = devices(set).bitmap;
                (&mut self.sides, device)
            }
            Device::Head(_) => unreachable!("what is in memory needs no device"),
        };
        store.submit(StoreOp { token, device, kind, buf });
    }

    fn config(&self, set: SetIndex) -> &SetConfig {
        self.sets[usize::from(set.0)].as_ref().expect("a set that exists")
    }

    fn write_block(&mut self, op: OpId, set: SetIndex, offset: u64, fua: bool, block: AlignedBuf) {
        let buf = IoBuf::head(block, BLOCK_BYTES);
        let kind = StoreOpKind::Write { offset, fua };
        self.submit(Device::Bitmap(set), kind, Some(buf), Pending::Scratch { op });
    }

    fn write_journal(&mut self, op: OpId, set: SetIndex, fua: bool, journal: &JournalBlock) {
        let mut block = self.scratch_buf(BLOCK_BYTES);
        let config = self.config(set);
        encode_journal(config.identity.set, journal, &mut block);
        let offset = config.layout.journal_block(journal.sequence);
        self.write_block(op, set, offset, fua, block);
    }

    fn write_page(
        &mut self,
        op: OpId,
        set: SetIndex,
        (plane, index, place): (PlaneId, u32, Place),
        (stamp, sequence): (SuperblockGeneration, Sequence),
        fua: bool,
    ) {
        let mut block = self.scratch_buf(BLOCK_BYTES);
        let config = self.config(set);
        let epoch = self.master.status(set).expect("a set that exists").header.epoch;
        let header = PageHeader { set: config.identity.set, plane, index, epoch, sequence, stamp };
        encode_page(&header, self.master.page_words(set, plane, index), &mut block);
        let offset = config.layout.page(plane, index, place);
        self.write_block(op, set, offset, fua, block);
    }

    fn write_superblock(
        &mut self,
        op: OpId,
        set: SetIndex,
        header: SetHeader,
        doubt: Option<InDoubt>,
        fua: bool,
    ) {
        let OpId::Superblock(_, generation, place) = op else { unreachable!("named so by the engine") };
        let mut block = self.scratch_buf(BLOCK_BYTES);
        let config = self.config(set);
        let mut identity = config.identity.clone();
        if header.clean {
            (identity.node, identity.session) = (Id128::default(), Id128::default());
        }
        let labelled = self.side_jobs[usize::from(set.0)].is_labelled();
        Superblock { generation, identity, header, doubt, labelled }.encode(&mut block);
        let offset = config.layout.superblock(place);
        self.write_block(op, set, offset, fua, block);
    }

    fn give_up(&mut self, set: SetIndex, note: EndNote) {
        let epoch = note.epoch;
        // A plain image keeps its first bytes: only a moved head leaves room for a label.
        let labelled = self.master.status(set).is_some_and(|status| status.header.head_moved);
        self.side_jobs[usize::from(set.0)].expect_end_records(note, 1 + u8::from(labelled));
        self.notes.submit(note);
        if labelled {
            self.side_job(set, SideJob::Label { epoch, end: Some(note) });
        }
    }

    fn side_job(&mut self, set: SetIndex, job: SideJob) {
        if self.side_jobs[usize::from(set.0)].push(job) {
            self.start_side_job(set);
        }
    }

    fn start_side_job(&mut self, set: SetIndex) {
        let config = self.sets[usize::from(set.0)].as_ref().expect("a set that exists");
        if let Some((device, kind, buf)) = self.side_jobs[usize::from(set.0)].next_step(set, config, None) {
            self.submit(device, kind, buf, Pending::Side { set });
        }
    }

    fn side_step(&mut self, now: Now, set: SetIndex, result: Result<(), StoreError>, buf: Option<IoBuf>) {
        let Some(config) = self.sets[usize::from(set.0)].as_ref() else {
            // The last step of a set that is gone. Its volumes were busy until now, so no other has its place yet (E6).
            self.side_jobs[usize::from(set.0)] = SideJobs::default();
            return;
        };
        let jobs = &mut self.side_jobs[usize::from(set.0)];
        if result.is_ok()
            && let Some((device, kind, buf)) = jobs.next_step(set, config, buf)
        {
            self.submit(device, kind, buf, Pending::Side { set });
            return;
        }
        let ok = result.is_ok();
        let flush_failed = !ok && jobs.is_flushing();
        match jobs.finish(ok) {
            SideJob::MoveHead(HeadMove::Out | HeadMove::Back | HeadMove::Keep) => {
                self.apply(now, Event::HeadMoved { set, ok })
            }
            SideJob::Label { end: Some(note), .. } => {
                if let Some(ok) = self.side_jobs[usize::from(set.0)].end_record(&note, ok) {
                    self.apply(now, Event::GiveUpRecorded { set, ok });
                }
            }
            // Nobody waits for the label, but its flush was for everything that the shadow had cached.
            SideJob::Label { end: None, .. } if flush_failed => {
                self.apply(now, Event::FlushFailed(Device::Shadow(set)));
            }
            SideJob::Label { end: None, .. } => {}
        }
        if self.side_jobs[usize::from(set.0)].has_work() {
            self.start_side_job(set);
        }
    }
}
