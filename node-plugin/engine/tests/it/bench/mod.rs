//! A bench for the engine alone: events go in by name, the actions that come out are named and can be asserted.
//!
//! Nothing is executed. Every operation that the engine asks for stays *open* until the test says how it ended, so
//! a test is the sequence of events that it is about:
//!
//! ```text
//! let mut bench = Bench::of(8, [Set::dependent()]);
//! bench.write(1, 0..2);
//! bench.ok("read master 0+2");
//! bench.fail("write shadow0 0+2");
//! bench.rest();
//! assert_eq!(bench.result(1), Some(Ok(())));
//! ```
//!
//! Names: `read|write|zero|discard DEVICE FIRST+COUNT` in chunks, `flush DEVICE`, `journal0 +held-pending 3+1, …`,
//! `page0 held 0 A`, `superblock0 A Dependent`, `giveup0`, `head0 Back`. Devices are `master`, `shadow0`, `bitmap0` and so
//! on; the head of a shadow is `bitmap0` with the chunks of the shadow, or `memory0` where it is kept. A name may be shortened at its end.

mod names;
mod set;

pub(crate) use set::Set;

use names::Names;
use std::collections::BTreeMap;
use std::ops::Range;
use umbra_engine::{
    Action, ByteRange, Command, CommandId, CopyKind, CutMember, Device, Done, Event, Geometry, Id128, Limits,
    Master, Now, OpId, Place, PlaneId, Refusal, Request, RequestError, RequestId, RequestKind, SetIndex,
    SetStatus, Side,
};

/// Bytes of a chunk on the bench: small, so that a region of the write-intent log has many.
pub(crate) const CHUNK: u64 = 64 << 10;

/// The limits of the bench: a buffer holds eight chunks.
pub(crate) const LIMITS: Limits = Limits {
    requests: 8,
    write_buffers: 2,
    copier_buffers: 4,
    write_buffer_bytes: 8 * CHUNK,
    copier_buffer_bytes: 8 * CHUNK,
    drain_deadline_ms: 60_000,
};

/// An operation that has not ended yet.
#[derive(Clone, Debug)]
struct Open {
    name: String,
    end: End,
}

/// How the end of an operation is told.
#[derive(Clone, Debug)]
enum End {
    Done(OpId, bool),
    GiveUp(SetIndex),
    Head(SetIndex),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Bench {
    master: Master,
    names: Names,
    now: Now,
    open: Vec<Open>,
    seen: Vec<String>,
    results: BTreeMap<u32, Result<(), RequestError>>,
    answers: BTreeMap<u64, Result<Done, Refusal>>,
}

impl Bench {
    /// A master of so many chunks with these sets, as a start would add them.
    pub(crate) fn of(chunks: u64, sets: impl IntoIterator<Item = Set>) -> Self {
        Self::with_limits(chunks, LIMITS, sets)
    }

    /// The same, with limits.
    pub(crate) fn with_limits(chunks: u64, limits: Limits, sets: impl IntoIterator<Item = Set>) -> Self {
        let geometry = Geometry::new(chunks * CHUNK, CHUNK).expect("a possible geometry");
        let mut master = Master::new(geometry, 4096, limits);
        let mut names = Names::default();
        for (set, index) in sets.into_iter().zip(0..) {
            let (parameters, image) = set.build(&geometry);
            names.add_head(parameters.head_offset, parameters.head_bytes);
            master.add_set(SetIndex(index), parameters, image);
        }
        let mut bench = Self {
            master,
            names,
            now: Now(1),
            open: Vec::new(),
            seen: Vec::new(),
            results: BTreeMap::new(),
            answers: BTreeMap::new(),
        };
        bench.turn();
        bench
    }

    /// A request, in chunks.
    pub(crate) fn request(&mut self, number: u32, side: Side, kind: RequestKind, chunks: Range<u64>) {
        self.request_bytes(number, side, kind, chunks.start * CHUNK..chunks.end * CHUNK);
    }

    /// A request, in bytes.
    pub(crate) fn request_bytes(&mut self, number: u32, side: Side, kind: RequestKind, bytes: Range<u64>) {
        self.results.remove(&number);
        let range = ByteRange::new(bytes.start, bytes.end - bytes.start);
        self.event(Event::Request(Request { id: RequestId(number), side, kind, range }));
    }

    /// A write of whole chunks of the master.
    pub(crate) fn write(&mut self, number: u32, chunks: Range<u64>) {
        self.request(number, Side::Master, RequestKind::Write { fua: false }, chunks);
    }

    /// A write of the first 4 KiB of a chunk of the master.
    pub(crate) fn write_part(&mut self, number: u32, chunk: u64) {
        let start = chunk * CHUNK;
        self.request_bytes(number, Side::Master, RequestKind::Write { fua: false }, start..start + 4096);
    }

    /// A write of whole chunks through a shadow.
    pub(crate) fn write_shadow(&mut self, number: u32, set: u8, chunks: Range<u64>) {
        self.request(number, Side::Shadow(SetIndex(set)), RequestKind::Write { fua: false }, chunks);
    }

    /// A read of chunks of the master.
    pub(crate) fn read(&mut self, number: u32, chunks: Range<u64>) {
        self.request(number, Side::Master, RequestKind::Read, chunks);
    }

    /// A command.
    pub(crate) fn command(&mut self, number: u64, command: Command) {
        self.event(Event::Command(CommandId(number), command));
    }

    /// A new point in time of a set, by an update.
    pub(crate) fn update(&mut self, number: u64, set: u8) {
        let member = CutMember::to_shadow(SetIndex(set), CopyKind::Update);
        self.cut(number, member);
    }

    /// A cut of one set.
    pub(crate) fn cut(&mut self, number: u64, member: CutMember) {
        let cut = Id128([u8::try_from(number).expect("a small number"); 16]);
        self.command(number, Command::Cut { member, cut, unix_ms: 0 });
    }

    /// Any event.
    pub(crate) fn event(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.master.apply(self.now, event, &mut actions);
        self.take(actions);
        self.turn();
    }

    /// So many milliseconds pass.
    pub(crate) fn pass(&mut self, ms: u64) {
        self.now = Now(self.now.0 + ms);
        self.event(Event::Tick);
    }

    /// The first open operation of this name succeeds.
    pub(crate) fn ok(&mut self, name: &str) {
        self.end(name, true);
    }

    /// The first open operation of this name fails.
    pub(crate) fn fail(&mut self, name: &str) {
        self.end(name, false);
    }

    /// The last open operation of this name succeeds.
    pub(crate) fn ok_last(&mut self, name: &str) {
        let at = self.open.iter().rposition(|open| open.name.starts_with(name));
        let at = at.unwrap_or_else(|| panic!("no `{name}` among {:#?}", self.open()));
        let open = self.open.remove(at);
        self.finish(open, true);
    }

    /// One of the open operations ends, whichever this number hits; nothing if there is none.
    pub(crate) fn end_nth(&mut self, which: usize, ok: bool) {
        if !self.open.is_empty() {
            let open = self.open.remove(which % self.open.len());
            // What is in memory does not fail.
            let ok = ok || open.name.starts_with("read memory");
            self.finish(open, ok);
        }
    }

    /// A flush that the shell made for itself fails: the device has failed.
    pub(crate) fn device_fails(&mut self, device: Device) {
        self.event(Event::FlushFailed(device));
    }

    fn end(&mut self, name: &str, ok: bool) {
        let at = self.open.iter().position(|open| open.name.starts_with(name));
        let at = at.unwrap_or_else(|| panic!("no `{name}` among {:#?}", self.open()));
        let open = self.open.remove(at);
        self.finish(open, ok);
    }

    fn finish(&mut self, open: Open, ok: bool) {
        self.event(match open.end {
            End::Done(op, hashed) => Event::Done { op, ok, hash: (hashed && ok).then_some(7) },
            End::GiveUp(set) => Event::GiveUpRecorded { set, ok },
            End::Head(set) => Event::HeadMoved { set, ok },
        });
    }

    /// Another set takes the place of one that has ended.
    pub(crate) fn replace_set(&mut self, index: u8, set: Set) {
        let geometry = *self.master.geometry();
        let (parameters, image) = set.build(&geometry);
        self.master.remove_set(SetIndex(index));
        self.master.add_set(SetIndex(index), parameters, image);
    }

    /// Everything that is open succeeds, and everything after it, until nothing is.
    pub(crate) fn rest(&mut self) {
        self.rest_but(&[]);
    }

    /// As [`rest`](Self::rest), but what has one of these names stays open.
    pub(crate) fn rest_but(&mut self, names: &[&str]) {
        for _ in 0..10_000 {
            let free = |open: &Open| !names.iter().any(|name| open.name.starts_with(name));
            let Some(at) = self.open.iter().position(free) else { return };
            let open = self.open.remove(at);
            self.finish(open, true);
        }
        panic!("no end: {:#?}", self.open());
    }

    /// The names of what is open, in the order it was asked for.
    pub(crate) fn open(&self) -> Vec<&str> {
        self.open.iter().map(|open| open.name.as_str()).collect()
    }

    /// Whether an operation of this name is open.
    pub(crate) fn is_open(&self, name: &str) -> bool {
        self.open.iter().any(|open| open.name.starts_with(name))
    }

    /// How many operations of this name were ever asked for.
    pub(crate) fn seen(&self, name: &str) -> usize {
        self.seen.iter().filter(|seen| seen.starts_with(name)).count()
    }

    /// How a request ended, if it has.
    pub(crate) fn result(&self, number: u32) -> Option<Result<(), RequestError>> {
        self.results.get(&number).copied()
    }

    /// How a command ended, if it has.
    pub(crate) fn answer(&self, number: u64) -> Option<Result<Done, Refusal>> {
        self.answers.get(&number).copied()
    }

    /// What a set is doing.
    pub(crate) fn status(&self, set: u8) -> SetStatus {
        self.master.status(SetIndex(set)).expect("a set that exists")
    }

    /// The bits of the first page of a plane, as they would be written.
    pub(crate) fn bits(&self, set: u8, plane: PlaneId) -> u64 {
        self.master.page_words(SetIndex(set), plane, 0)[0]
    }

    /// Turns until nothing comes out, as a shell does.
    fn turn(&mut self) {
        loop {
            let mut actions = Vec::new();
            self.master.end_turn(self.now, &mut actions);
            self.master.self_check();
            if actions.is_empty() {
                return;
            }
            self.take(actions);
        }
    }

    fn take(&mut self, actions: Vec<Action>) {
        for action in actions {
            let name = self.names.of(&action);
            let end = match action {
                Action::Io { op, kind, .. } => {
                    End::Done(op, kind == umbra_engine::IoKind::Read { hash: true })
                }
                Action::Flush { op, .. }
                | Action::Journal { op, .. }
                | Action::Page { op, .. }
                | Action::Superblock { op, .. } => End::Done(op, false),
                Action::GiveUp { set, .. } => End::GiveUp(set),
                Action::MoveHead { set, .. } => End::Head(set),
                Action::Label { .. } | Action::ForgetHead { .. } => continue,
                Action::Complete { id, result } => {
                    self.results.insert(id.0, result);
                    continue;
                }
                Action::Answer { command, result } => {
                    self.answers.insert(command.0, result);
                    continue;
                }
            };
            self.seen.push(name.clone());
            self.open.push(Open { name, end });
        }
    }
}

/// `A` or `B`.
fn place(place: Place) -> &'static str {
    match place {
        Place::A => "A",
        Place::B => "B",
    }
}
