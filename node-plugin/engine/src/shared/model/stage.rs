//! Who plays: devices and maps, ports with the loops of their threads, and the owner.

use crate::action::{
    Action, Device, IoKind, OpId, Request, RequestError, RequestId, RequestKind, Route, SetIndex, Side,
};
use crate::bits::{AtomicU64, point};
use crate::geometry::Geometry;
use crate::port::{Port, PortOutput, ToOwner, ToPort};
use crate::shared::{MasterMaps, ShadowMaps};
use crate::units::{ByteRange, Chunk};
use loom::sync::mpsc::{Receiver, Sender, channel};
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

const CHUNK: u64 = 4096;
const CHUNKS: usize = 2;
/// Loom's authors find that two show all but contrived faults; each twin here fails with one.
const PREEMPTIONS: usize = 2;
pub(super) const SET: SetIndex = SetIndex(0);
/// What the image has of every chunk.
pub(super) const OLD: u64 = 1;
/// What a workload writes.
pub(super) const NEW: u64 = 2;
/// What is on the master before it is restored.
pub(super) const BROKEN: u64 = 3;

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// F1: a bit is published before the record is durable.
    PublishBeforeRecord,
    /// Common rule 2: writes may pass before readers are sent to the copy.
    PassBeforeHeld,
    /// E9: a chunk is the master's own again before the master has it.
    ClearBeforeWritten,
    /// F2: the owner flips without waiting for the ports.
    FlipUnacknowledged,
    /// F2: ports acknowledge what they have not drained.
    AcknowledgeUndrained,
}

/// Devices and maps.
pub(super) struct World {
    pub(super) maps: Arc<MasterMaps>,
    shadow: Arc<ShadowMaps>,
    geometry: Geometry,
    master_data: Vec<AtomicU64>,
    shadow_data: Vec<AtomicU64>,
    /// 1 for chunks whose copy is recorded, durably, in the present epoch.
    recorded: Vec<AtomicU64>,
    fault: Option<Fault>,
}

impl World {
    pub(super) fn new(master: u64, shadow: u64, recorded: bool, fault: Option<Fault>) -> Self {
        let geometry = Geometry::new(CHUNKS as u64 * CHUNK, CHUNK).expect("a possible geometry");
        let words = |value| (0..CHUNKS).map(|_| AtomicU64::new(value)).collect::<Vec<_>>();
        let world = Self {
            maps: Arc::new(MasterMaps::new(&geometry)),
            shadow: Arc::new(ShadowMaps::new(&geometry, 0)),
            geometry,
            master_data: words(master),
            shadow_data: words(shadow),
            recorded: words(u64::from(recorded)),
            fault,
        };
        world.maps.wpass.fill(recorded);
        world.shadow.held.fill(recorded);
        world
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn device(&self, device: Device) -> &[AtomicU64] {
        if device == Device::Master {
            return &self.master_data;
        }
        assert!(matches!(device, Device::Shadow(_)), "the head is in its place: {device:?}");
        &self.shadow_data
    }
}

/// To the thread of a port.
enum ToShell {
    Message(ToPort),
    Stop,
}

/// From the thread of a port.
enum FromShell {
    Message(ToOwner),
    /// Its requests are done; it only serves the gate.
    Finished,
}

/// A port with its thread's loop.
pub(super) struct Shell {
    world: Arc<World>,
    port: Port,
    out: PortOutput,
    number: usize,
    inbox: Receiver<ToShell>,
    owner: Sender<(usize, FromShell)>,
    stopped: bool,
}

impl Shell {
    fn new(
        world: &Arc<World>,
        number: usize,
        inbox: Receiver<ToShell>,
        owner: Sender<(usize, FromShell)>,
    ) -> Self {
        let mut port = Port::new(world.geometry, CHUNK, Arc::clone(&world.maps), 1);
        let mut out = PortOutput::default();
        let maps = ToPort::Maps(SET, Some(Arc::clone(&world.shadow)));
        for message in [ToPort::Close { reads: false }, maps, ToPort::Open] {
            port.message(message, &mut out);
        }
        Self {
            world: Arc::clone(world),
            port,
            out: PortOutput::default(),
            number,
            inbox,
            owner,
            stopped: false,
        }
    }

    /// The thread: its requests, then the gate until the owner has finished.
    fn run(mut self, requests: fn(&mut Self)) {
        requests(&mut self);
        self.send(FromShell::Finished);
        while !self.stopped {
            self.receive();
        }
    }

    pub(super) fn write(&mut self, chunk: u64) {
        self.request(Side::Master, RequestKind::Write { fua: false }, chunk);
    }

    pub(super) fn assert_reads(&mut self, side: Side, chunk: u64, expected: &[u64]) {
        let seen = self.request(side, RequestKind::Read, chunk);
        assert!(expected.contains(&seen), "a read through {side:?} got {seen}, not {expected:?}");
    }

    /// One request to the end; returns what was read last.
    fn request(&mut self, side: Side, kind: RequestKind, chunk: u64) -> u64 {
        let request = Request { id: RequestId(0), side, kind, range: ByteRange::new(chunk * CHUNK, CHUNK) };
        self.port.request(request, &mut self.out);
        let mut seen = 0;
        loop {
            self.forward();
            for action in std::mem::take(&mut self.out.actions) {
                match action {
                    Action::Io { op, device, kind, range, .. } => self.io(op, device, kind, range, &mut seen),
                    Action::Complete { result, .. } => {
                        assert_eq!(result, Ok::<(), RequestError>(()));
                        self.forward();
                        return seen;
                    }
                    other => unreachable!("{other:?}"),
                }
            }
            if self.out.actions.is_empty() {
                self.receive();
            }
        }
    }

    fn io(&mut self, op: OpId, device: Device, kind: IoKind, range: ByteRange, seen: &mut u64) {
        // What comes while the operation is under way.
        if let Ok(message) = self.inbox.try_recv() {
            self.take(message);
        }
        let chunk = usize::try_from(range.start / CHUNK).expect("few chunks");
        let word = &self.world.device(device)[chunk];
        point();
        match kind {
            IoKind::Read { .. } => *seen = word.load(Acquire),
            IoKind::Write { .. } => {
                let recorded = self.world.recorded[chunk].load(Acquire) == 1;
                assert!(recorded, "invariant 2: overwritten before the copy is recorded");
                word.store(NEW, Release);
            }
            IoKind::WriteZeroes { .. } | IoKind::Discard => unreachable!("not asked for"),
        }
        let OpId::Request { id, piece, attempt } = op else { unreachable!("a port's own: {op:?}") };
        self.port.done(id, piece, attempt, true, &mut self.out);
    }

    fn receive(&mut self) {
        let message = self.inbox.recv().expect("the owner lives longer");
        self.take(message);
        self.forward();
    }

    fn take(&mut self, message: ToShell) {
        match message {
            ToShell::Message(message) => {
                if matches!(message, ToPort::Close { .. }) && self.world.has(Fault::AcknowledgeUndrained) {
                    self.send(FromShell::Message(ToOwner::Closed));
                }
                self.port.message(message, &mut self.out);
            }
            ToShell::Stop => self.stopped = true,
        }
    }

    fn forward(&mut self) {
        for message in std::mem::take(&mut self.out.messages) {
            self.send(FromShell::Message(message));
        }
    }

    fn send(&self, message: FromShell) {
        self.owner.send((self.number, message)).expect("the owner lives longer");
    }
}

/// The rules of the owner.
pub(super) struct Owner {
    world: Arc<World>,
    ports: Vec<Sender<ToShell>>,
    inbox: Receiver<(usize, FromShell)>,
    closed: usize,
    finished: usize,
    /// What the image has of each chunk.
    image: Vec<u64>,
    /// Chunks that were written before the cut, as far as the owner was told.
    folded: u64,
}

impl Owner {
    /// What a first write needs, unless it is there: old data on the shadow, the record, and only then the bits.
    pub(super) fn copy(&self, chunk: u64) {
        let world = &self.world;
        let index = usize::try_from(chunk).expect("few chunks");
        if world.maps.wpass.get(chunk) {
            return;
        }
        let publish = || {
            let held = || world.shadow.held.set(chunk);
            let pass = || world.maps.wpass.set(chunk);
            if world.has(Fault::PassBeforeHeld) {
                pass();
                held();
            } else {
                held();
                pass();
            }
        };
        point();
        world.shadow_data[index].store(world.master_data[index].load(Acquire), Release);
        if world.has(Fault::PublishBeforeRecord) {
            publish();
        }
        point();
        world.recorded[index].store(1, Release);
        publish();
    }

    /// One chunk of a restore: the master has the data, the record is durable, and only then is it read from there.
    pub(super) fn restore(&self, chunk: u64) {
        let world = &self.world;
        let index = usize::try_from(chunk).expect("few chunks");
        let publish = || {
            world.shadow.held.clear(chunk);
            world.maps.pending.clear(chunk);
        };
        if world.has(Fault::ClearBeforeWritten) {
            publish();
        }
        point();
        world.master_data[index].store(world.shadow_data[index].load(Acquire), Release);
        world.recorded[index].store(0, Release);
        publish();
    }

    /// A cut: close, drain, flip, open.
    pub(super) fn cut(&mut self) {
        self.send(&ToPort::Close { reads: false });
        while self.closed < self.ports.len() && !self.world.has(Fault::FlipUnacknowledged) {
            self.receive();
        }
        let world = &self.world;
        self.image = world.master_data.iter().map(|word| word.load(Acquire)).collect();
        self.folded = world.maps.written.word(0);
        world.maps.written.fill(false);
        for recorded in &world.recorded {
            recorded.store(0, Release);
        }
        world.shadow.held.fill(false);
        world.maps.wpass.fill(false);
        self.send(&ToPort::Open);
    }

    /// What holds when all is quiet: the image reads as it was, and every write counts in the right epoch.
    fn check(&self) {
        let written = self.world.maps.written.word(0);
        for (index, image) in self.image.iter().copied().enumerate() {
            let route = self.world.shadow.route(Chunk(index as u64));
            assert_ne!(route, Route::Lost);
            let device = if route == Route::Held { Device::Shadow(SET) } else { Device::Master };
            let seen = self.world.device(device)[index].load(Acquire);
            assert_eq!(seen, image, "invariant 3: chunk {index} of the image");
            if self.world.master_data[index].load(Acquire) == NEW {
                let before = image == NEW;
                let marks = (self.folded >> index & 1 == 1, written >> index & 1 == 1);
                assert_eq!(marks, (before, !before), "invariant 6: chunk {index} differs");
            }
        }
    }

    fn send(&self, message: &ToPort) {
        for port in &self.ports {
            port.send(ToShell::Message(message.clone())).expect("a port lives as long as its owner");
        }
    }

    fn receive(&mut self) {
        let (port, message) = self.inbox.recv().expect("ports live as long as their owner");
        match message {
            FromShell::Message(ToOwner::Need(request)) => {
                self.world.geometry.chunks_of(request.range).chunks().for_each(|chunk| self.copy(chunk.0));
                self.ports[port].send(ToShell::Message(ToPort::Go(request.id))).expect("the writer waits");
            }
            FromShell::Message(ToOwner::Closed) => self.closed += 1,
            FromShell::Message(other) => unreachable!("{other:?}"),
            FromShell::Finished => self.finished += 1,
        }
    }
}

/// Runs the owner's `script` beside ports with the given requests, in every order, and then looks at what is left.
pub(super) fn play(
    world: impl Fn() -> World + Sync + Send + 'static,
    ports: &'static [fn(&mut Shell)],
    script: impl Fn(&mut Owner) + Sync + Send + 'static,
) {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 10_000;
    builder.preemption_bound = builder.preemption_bound.or(Some(PREEMPTIONS));
    builder.check(move || {
        point();
        let world = Arc::new(world());
        let (to_owner, inbox) = channel();
        let mut owner = Owner {
            world: Arc::clone(&world),
            ports: Vec::new(),
            inbox,
            closed: 0,
            finished: 0,
            image: vec![OLD; CHUNKS],
            folded: 0,
        };
        let mut threads = Vec::new();
        for (number, requests) in ports.iter().enumerate() {
            let (to_port, inbox) = channel();
            owner.ports.push(to_port);
            let (world, to_owner) = (Arc::clone(&world), to_owner.clone());
            threads.push(thread::spawn(move || Shell::new(&world, number, inbox, to_owner).run(*requests)));
        }
        script(&mut owner);
        while owner.finished < owner.ports.len() {
            owner.receive();
        }
        for port in &owner.ports {
            port.send(ToShell::Stop).expect("a port stops last");
        }
        threads.into_iter().for_each(|thread| thread.join().expect("a port that did not panic"));
        owner.check();
    });
}
