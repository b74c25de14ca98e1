//! A set's life on stores that never fail: the shortest way to see each verb work, before the simulator makes it hard.

#![allow(clippy::unwrap_used, reason = "a test that unwraps says where it failed")]

use umbra_engine::{
    ByteRange, Command, CommandId, CopyKind, CopyLimits, CutMember, Done, Geometry, Id128, Limits, Mode, Now,
    Refusal, Request, RequestError, RequestId, RequestKind, SetIndex, SetState, Side,
};
use umbra_format::{SetIdentity, VolumeIdentity};
use umbra_store::{
    AlignedBuf, DeviceSlot, EndNote, IoBuf, Known, Machine, MemStore, Notes, Session, SetDevices, SetOptions,
    prepare_set, recover_set,
};

const CHUNK: u64 = 4096;
const CHUNKS: u64 = 40;
const SIZE: u64 = CHUNK * CHUNKS - 1024;
const SET: SetIndex = SetIndex(0);
const NOW: Now = Now(0);

#[derive(Default)]
struct NoNotes(Vec<EndNote>);

impl Notes for NoNotes {
    fn submit(&mut self, note: EndNote) {
        self.0.push(note);
    }
    fn poll(&mut self, done: &mut Vec<(EndNote, bool)>) {
        done.extend(self.0.drain(..).map(|note| (note, true)));
    }
    fn keep_digest(&mut self, _: u64) {}
    fn withdraw_digest(&mut self) {}
}

struct Bench {
    machine: Machine<MemStore, NoNotes>,
    next: u64,
    now: Now,
}

fn identity(mode: Mode) -> SetIdentity {
    let volume = |n| VolumeIdentity { uuid: Id128([n; 16]), size: SIZE, ..VolumeIdentity::default() };
    SetIdentity {
        set: Id128([1; 16]),
        master: volume(2),
        shadow: volume(3),
        bitmap: Id128([4; 16]),
        tracking: Id128([5; 16]),
        node: Id128([6; 16]),
        session: Id128([7; 16]),
        seal_owner: Id128::default(),
        mode,
        geometry: Geometry::new(SIZE, CHUNK).unwrap(),
        logical_block: 512,
        physical_block: 4096,
        ring_blocks: 8,
        head_bytes: CHUNK * 2,
        protected: false,
        cluster: String::new(),
        namespace: String::new(),
        name: "life".to_owned(),
    }
}

fn limits() -> Limits {
    Limits {
        requests: 8,
        write_buffers: 4,
        copier_buffers: 2,
        write_buffer_bytes: CHUNK * 2,
        copier_buffer_bytes: CHUNK * 4,
        drain_deadline_ms: 1000,
    }
}

fn pattern(seed: u8) -> Vec<u8> {
    (0..SIZE).map(|at| u8::try_from(at / 512 % 251).unwrap() ^ seed).collect()
}

fn devices() -> SetDevices {
    SetDevices { shadow: DeviceSlot(0), bitmap: DeviceSlot(1) }
}

impl Bench {
    fn new(mode: Mode) -> Self {
        let mut master = MemStore::new();
        let slot = master.add_device(pattern(0));
        let mut sides = MemStore::new();
        let whole = usize::try_from(SIZE).unwrap();
        sides.add_device(vec![0xee; whole]);
        sides.add_device(vec![0; 16 << 20]);
        let geometry = Geometry::new(SIZE, CHUNK).unwrap();
        let (config, image) =
            prepare_set(&mut sides, devices(), identity(mode), SetOptions::default(), false).unwrap();
        let mut machine = Machine::new(geometry, limits(), (master, slot), sides, NoNotes::default());
        machine.add_set(SET, config, image);
        Self { machine, next: 0, now: NOW }
    }

    /// Kills the process: what is in the stores is all that is left.
    fn restart(mut self) -> Self {
        let master = std::mem::take(self.machine.master_store());
        let mut sides = std::mem::take(self.machine.sides());
        let session = Session { node: Id128([6; 16]), session: Id128([9; 16]) };
        let (config, image) =
            recover_set(&mut sides, devices(), session, Known::default(), SetOptions::default()).unwrap();
        let geometry = Geometry::new(SIZE, CHUNK).unwrap();
        let mut machine =
            Machine::new(geometry, limits(), (master, DeviceSlot(0)), sides, NoNotes::default());
        machine.add_set(SET, config, image);
        Self { machine, next: self.next, now: self.now }
    }

    fn settle(&mut self) {
        while self.machine.turn(self.now) {}
        self.machine.master().self_check();
    }

    fn request(
        &mut self,
        side: Side,
        kind: RequestKind,
        range: ByteRange,
        data: Option<&[u8]>,
    ) -> (Result<(), RequestError>, Vec<u8>) {
        let len = usize::try_from(range.len).unwrap();
        let buf = match kind {
            RequestKind::Write { .. } => Some(IoBuf::whole(AlignedBuf::from_bytes(data.unwrap()))),
            RequestKind::Read => Some(IoBuf::whole(AlignedBuf::zeroed(len))),
            _ => None,
        };
        self.machine.request(self.now, Request { id: RequestId(0), side, kind, range }, buf);
        self.settle();
        let mut done = Vec::new();
        self.machine.finished(&mut done);
        let done = done.pop().expect("the request ends");
        (done.result, done.buf.map(|buf| buf.bytes().to_vec()).unwrap_or_default())
    }

    fn write(&mut self, side: Side, start: u64, data: &[u8]) {
        let range = ByteRange::new(start, data.len() as u64);
        let (result, _) = self.request(side, RequestKind::Write { fua: false }, range, Some(data));
        result.unwrap();
    }

    fn read(&mut self, side: Side) -> Vec<u8> {
        let mut all = Vec::new();
        let mut at = 0;
        while at < SIZE {
            let len = (SIZE - at).min(CHUNK * 8);
            let (result, bytes) = self.request(side, RequestKind::Read, ByteRange::new(at, len), None);
            result.unwrap();
            all.extend(bytes);
            at += len;
        }
        all
    }

    fn command(&mut self, command: Command) -> Result<Done, Refusal> {
        let id = CommandId(self.next);
        self.next += 1;
        self.machine.command(self.now, id, command);
        self.settle();
        let mut answers = Vec::new();
        self.machine.answers(&mut answers);
        let at = answers.iter().position(|(other, _)| *other == id).expect("the command is answered");
        answers.swap_remove(at).1
    }

    fn cut(&mut self, kind: CopyKind) -> Result<Done, Refusal> {
        let cut = Id128([u8::try_from(self.next).unwrap() + 100; 16]);
        self.command(Command::Cut { member: CutMember::to_shadow(SET, kind), cut, unix_ms: 0 })
    }

    fn state(&self) -> SetState {
        self.machine.master().status(SET).unwrap().header.state
    }
}

#[test]
fn a_dependent_shadow_keeps_the_image_over_writes_and_a_kill() {
    let mut bench = Bench::new(Mode::Dependent);
    bench.cut(CopyKind::Full).unwrap();
    assert_eq!(bench.read(Side::Shadow(SET)), pattern(0));
    let mut expected = pattern(0);
    for (start, len) in [(512, 512), (CHUNK, CHUNK * 3), (CHUNK * 10 + 512, 1024), (SIZE - 512, 512)] {
        let data = vec![0x5a; usize::try_from(len).unwrap()];
        bench.write(Side::Master, start, &data);
        let at = usize::try_from(start).unwrap();
        expected[at..at + data.len()].copy_from_slice(&data);
    }
    assert_eq!(bench.read(Side::Shadow(SET)), pattern(0));
    assert_eq!(bench.read(Side::Master), expected);
    let mut bench = bench.restart();
    assert_eq!(bench.read(Side::Shadow(SET)), pattern(0));
    assert_eq!(bench.read(Side::Master), expected);

    // Written through the shadow: private, on held and on unheld chunks.
    let mut image = pattern(0);
    for start in [512, CHUNK * 20] {
        bench.write(Side::Shadow(SET), start, &[0x33; 512]);
        let at = usize::try_from(start).unwrap();
        image[at..at + 512].fill(0x33);
    }
    assert_eq!(bench.read(Side::Shadow(SET)), image);
    let mut bench = bench.restart();
    assert_eq!(bench.read(Side::Shadow(SET)), image);
    assert_eq!(bench.read(Side::Master), expected);

    bench.cut(CopyKind::Update).unwrap();
    assert_eq!(bench.read(Side::Shadow(SET)), expected);
}

#[test]
fn an_independent_shadow_becomes_a_plain_image_and_an_update_moves_what_changed() {
    let mut bench = Bench::new(Mode::Independent);
    bench.cut(CopyKind::Full).unwrap();
    bench.settle();
    assert_eq!(bench.state(), SetState::Complete);
    assert_eq!(bench.machine.sides().content(DeviceSlot(0)), pattern(0));
    bench.write(Side::Master, CHUNK * 5 + 512, &[1; 512]);
    assert_eq!(bench.read(Side::Shadow(SET)), pattern(0));
    let copied = bench.machine.master().counters().background_bytes;
    let mut bench = bench.restart();
    bench.cut(CopyKind::Update).unwrap();
    bench.settle();
    assert_eq!(bench.state(), SetState::Complete);
    let mut expected = pattern(0);
    let at = usize::try_from(CHUNK * 5 + 512).unwrap();
    expected[at..at + 512].fill(1);
    assert_eq!(bench.machine.sides().content(DeviceSlot(0)), expected);
    assert!(copied > 0);
}

#[test]
fn only_changed_chunks_move_in_an_update() {
    let mut bench = Bench::new(Mode::Independent);
    bench.cut(CopyKind::Full).unwrap();
    let before = bench.machine.master().counters().background_bytes;
    bench.write(Side::Master, 0, &[1; 512]);
    bench.write(Side::Shadow(SET), CHUNK * 7, &[2; 512]);
    bench.cut(CopyKind::Update).unwrap();
    assert_eq!(bench.state(), SetState::Complete);
    let moved = bench.machine.master().counters().background_bytes - before;
    assert_eq!(moved, CHUNK * 2, "two chunks changed, two chunks move");
    let master = bench.read(Side::Master);
    assert_eq!(bench.machine.sides().content(DeviceSlot(0)), master);
}

#[test]
fn a_clean_detach_leaves_nothing_to_copy() {
    let mut bench = Bench::new(Mode::Independent);
    bench.cut(CopyKind::Full).unwrap();
    bench.write(Side::Master, 0, &[1; 512]);
    bench.command(Command::Detach).unwrap();
    let mut bench = bench.restart();
    bench.cut(CopyKind::Update).unwrap();
    assert_eq!(bench.state(), SetState::Complete);
    assert_eq!(
        bench.machine.master().counters().background_bytes,
        CHUNK,
        "one chunk changed, one chunk moves"
    );
}

#[test]
fn a_small_ring_is_checkpointed_again_and_again() {
    let mut bench = Bench::new(Mode::Dependent);
    bench.cut(CopyKind::Full).unwrap();
    for chunk in 0..CHUNKS - 1 {
        bench.write(Side::Master, chunk * CHUNK, &[0x77; 512]);
    }
    assert!(bench.machine.master().counters().pages > 0);
    let mut bench = bench.restart();
    assert_eq!(bench.read(Side::Shadow(SET)), pattern(0));
}

#[test]
fn copies_in_both_directions_keep_to_their_rate() {
    const PER_SECOND: u64 = 2;
    let mut bench = Bench::new(Mode::Independent);
    let limits = CopyLimits { bytes_per_second: Some(CHUNK * PER_SECOND), in_flight: 4 };
    bench.command(Command::SetCopyLimits { set: SET, limits }).unwrap();
    let mut seconds = 0;
    let directions = [CutMember::to_shadow(SET, CopyKind::Full), CutMember::to_master(SET, CopyKind::Full)];
    for (cut, member) in (0..).zip(directions) {
        let now = Now(seconds * 1000);
        bench.machine.command(
            now,
            CommandId(100 + cut),
            Command::Cut { member, cut: Id128([200 + u8::try_from(cut).unwrap(); 16]), unix_ms: cut },
        );
        while bench.machine.turn(now) {}
        // What was saved up before it began, a second's worth at most, comes on top.
        let mut allowed = PER_SECOND;
        while bench.state() != SetState::Complete {
            let pending = bench.machine.master().status(SET).unwrap().pending;
            assert!(CHUNKS - pending <= allowed, "{} copied of {allowed}", CHUNKS - pending);
            assert!(allowed <= CHUNKS + 2 * PER_SECOND, "it goes on as fast as it may");
            seconds += 1;
            allowed += PER_SECOND;
            let now = Now(seconds * 1000);
            bench.machine.tick(now);
            while bench.machine.turn(now) {}
        }
        assert!(allowed >= CHUNKS, "{CHUNKS} chunks in the time of {allowed}");
    }
}

/// A mount that only reads recovers the journal of a file system that was in use at the cut.
#[test]
fn a_recovery_through_the_shadow_does_not_count_as_written() {
    let mut bench = Bench::new(Mode::Dependent);
    let flags = |bench: &Bench| {
        let header = bench.machine.master().status(SET).unwrap().header;
        (header.recovered, header.shadow_written)
    };
    let recovering = |lasts_ms| Command::Recovering { set: SET, lasts_ms };
    let write = |bench: &mut Bench| bench.write(Side::Shadow(SET), 3 * CHUNK, &[0x33; 512]);
    bench.cut(CopyKind::Full).unwrap();
    bench.command(recovering(1000)).unwrap();
    assert_eq!(flags(&bench), (false, false), "nothing was written");
    write(&mut bench);
    assert_eq!(flags(&bench), (true, false));
    let mut bench = bench.restart();
    assert_eq!(flags(&bench), (true, false), "it is on record");
    write(&mut bench);
    assert_eq!(flags(&bench), (true, true), "a process that comes later knows of no recovery");

    // It ends when it is said to, with the image, and by itself.
    for ends in ["said", "cut", "time"] {
        bench.cut(CopyKind::Update).unwrap();
        assert_eq!(flags(&bench), (false, false), "{ends}");
        bench.command(recovering(1000)).unwrap();
        match ends {
            "said" => drop(bench.command(recovering(0)).unwrap()),
            "cut" => drop(bench.cut(CopyKind::Update).unwrap()),
            _ => bench.now = Now(NOW.0 + 1000),
        }
        write(&mut bench);
        assert_eq!(flags(&bench), (false, true), "{ends}");
    }
}
