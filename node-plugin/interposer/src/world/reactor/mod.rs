//! The reactor: one thread per master that serves its presented devices.
//!
//! ```text
//!   calls (channel + eventfd) ─┐
//!   ring A: master I/O and the master's ublk queue ─┼─ poll ─> Machine ─> rings
//!   ring B: shadows, bitmap volumes, shadow queues ─┘
//! ```
//!
//! Ring A has the master's character device among its files: the kernel keeps a new process from taking over
//! until the I/O of this ring has landed (E6). Ring B has not, so that a hung shadow does not hold that up.

mod caches;
pub(crate) mod front;
mod notes;

use crate::heartbeat::Heartbeat;
use crate::world::Linux;
use crate::world::devices::Claimed;
use crate::world::digests::Kept;
use caches::Caches;
use front::{Front, FrontSpec, MAX_IO_BYTES};
use notes::StateNotes;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use umbra_engine::{
    Chunk, Command, CommandId, Done, Geometry, InFlight, Limits, Now, Refusal, RunCounts, SETS_MAX, SetIndex,
    SetStatus, Side,
};
use umbra_lifecycle::world::{
    DriverSpec, ReactorEnd, ReactorGone, ReactorSetup, ReadySet, SetVolumes, Snapshot,
};
use umbra_store::{Finished, Machine, SetConfig, SetDevices};
use umbra_ublk::{CharDevice, DeviceId, RingFile, RingSlot};
use umbra_uring::{FixedFile, Owner, Ring, RingCompletion, RingConfig, SharedRing, StoreLimits, UringStore};

/// Time between ticks, in milliseconds: the precision of deadlines and rate limits.
const TICK_MS: u64 = 100;
/// Memory for first writes, in bytes; for chunks larger than a buffer's share, at least two buffers.
const WRITE_BUFFERS_BYTES: u64 = 5 << 20;
/// Largest run copied for a first write, in bytes. A small write takes a whole buffer, too, so larger runs would mean
/// fewer copies at a time.
const WRITE_RUN_BYTES: u64 = 128 << 10;
/// Largest run of the background copier, in bytes: with several in flight enough for a disk to stream.
const COPIER_RUN_BYTES: u64 = 1 << 20;
/// Buffers of the background copier.
const COPIER_BUFFERS: u16 = 3;
/// Shadows and bitmap volumes of as many sets as a master may have.
const SIDE_DEVICES: u16 = 2 * 16;
const _: () = assert!(SIDE_DEVICES as usize == 2 * SETS_MAX, "room for every set");
/// Stack of the thread, all of which is locked.
const STACK_BYTES: usize = 512 << 10;
/// A cut whose drain takes longer is void, in milliseconds.
const DRAIN_DEADLINE_MS: u64 = 10_000;

/// How often it is looked whether a device has got a volatile cache.
const CACHE_PERIOD: Duration = Duration::from_secs(5);
/// How long a device's node may take to appear.
const NODE_PATIENCE: Duration = Duration::from_secs(10);
/// How long operations that were given up are waited for when a set's volumes are let go.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);

/// Answer to whoever called.
pub(crate) type Reply<T> = oneshot::Sender<T>;

/// What a reactor can be asked.
#[derive(Debug)]
pub(crate) enum Call {
    /// Take a prepared set.
    AddSet(Box<ReadySet<Claimed>>, Reply<Result<(), String>>),
    /// Forget a set without an image and give its volumes back.
    RemoveSet(SetIndex, Reply<Result<(), String>>),
    /// Tell the engine.
    Command(Command, Reply<Result<Done, Refusal>>),
    /// Serve a presented device.
    Serve(FrontSpec, Reply<Result<(), umbra_ublk::Error>>),
    /// Stop serving one that the kernel has ended.
    Leave(Side, Reply<()>),
    /// Tell what is going on.
    Snapshot(Reply<Snapshot>),
    /// Chunks by kind, for runs of them.
    Map(SetIndex, Vec<Range<u64>>, Reply<Option<Vec<RunCounts>>>),
    /// End the thread, for this reason.
    Stop(ReactorEnd),
    /// Panic, to show what that costs.
    #[cfg(feature = "faults")]
    Panic,
}

/// A handle to a reactor thread.
#[derive(Clone, Debug)]
pub(crate) struct Reactor {
    calls: mpsc::Sender<Call>,
    wake: Arc<OwnedFd>,
    end: watch::Receiver<Option<ReactorEnd>>,
    caches: Caches,
}

/// Wakes a reactor that sleeps.
pub(crate) fn wake(descriptor: &OwnedFd) {
    // Full means that it is awake already.
    let _ = rustix::io::write(descriptor, &[1, 0, 0, 0, 0, 0, 0, 0]);
}

impl Reactor {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`ReactorGone`].
    async fn ask<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Result<T, ReactorGone> {
        let (reply, answer) = oneshot::channel();
        self.calls.send(call(reply)).map_err(|_| ReactorGone)?;
        wake(&self.wake);
        answer.await.map_err(|_| ReactorGone)
    }

    async fn has_ended(&self) -> ReactorEnd {
        let mut end = self.end.clone();
        let ended = end.wait_for(Option::is_some).await;
        ended.map_or(ReactorEnd::Died, |end| end.unwrap_or(ReactorEnd::Died))
    }

    fn end(&self, why: ReactorEnd) {
        if self.calls.send(Call::Stop(why)).is_ok() {
            wake(&self.wake);
        }
    }

    /// Ends the thread when a device that was write-through is so no more.
    async fn watch_caches(self) {
        let mut ticks = tokio::time::interval(CACHE_PERIOD);
        loop {
            tokio::select! {
                _ = self.has_ended() => return,
                _ = ticks.tick() => {}
            }
            if self.caches.have_changed().await {
                return self.end(ReactorEnd::Outdated);
            }
        }
    }

    /// Makes the thread panic.
    #[cfg(feature = "faults")]
    pub(crate) fn panic(&self) {
        let _ = self.calls.send(Call::Panic);
        wake(&self.wake);
    }
}

impl umbra_lifecycle::world::Reactor<Linux> for Reactor {
    async fn add_set(&self, set: ReadySet<Claimed>) -> Result<Result<(), String>, ReactorGone> {
        let index = set.index;
        // Before it is served: a caller that gives up must not leave it unwatched.
        self.caches.add_set(&set);
        let added = self.ask(|reply| Call::AddSet(Box::new(set), reply)).await;
        if !matches!(added, Ok(Ok(()))) {
            self.caches.remove_set(index);
        }
        added
    }

    async fn remove_set(&self, set: SetIndex) -> Result<Result<(), String>, ReactorGone> {
        let removed = self.ask(|reply| Call::RemoveSet(set, reply)).await;
        if matches!(removed, Ok(Ok(()))) {
            self.caches.remove_set(set);
        }
        removed
    }

    async fn command(&self, command: Command) -> Result<Result<Done, Refusal>, ReactorGone> {
        self.ask(|reply| Call::Command(command, reply)).await
    }

    async fn serve(
        &self,
        side: Side,
        number: u32,
        spec: DriverSpec,
    ) -> Result<Result<(), String>, ReactorGone> {
        // Waits for the node, so not on the reactor's thread.
        let opened =
            tokio::task::spawn_blocking(move || CharDevice::open(DeviceId::new(number), NODE_PATIENCE));
        let device = match opened.await {
            Ok(Ok(device)) => Arc::new(device),
            Ok(Err(error)) => return Ok(Err(error.to_string())),
            Err(error) => return Ok(Err(error.to_string())),
        };
        let front = FrontSpec { side, device, depth: spec.depth, capacity_sectors: spec.size / 512 };
        let served = self.ask(|reply| Call::Serve(front, reply)).await?;
        Ok(served.map_err(|error| error.to_string()))
    }

    async fn leave(&self, side: Side) -> Result<(), ReactorGone> {
        self.ask(|reply| Call::Leave(side, reply)).await
    }

    async fn snapshot(&self) -> Result<Snapshot, ReactorGone> {
        self.ask(Call::Snapshot).await
    }

    async fn map(&self, set: SetIndex, runs: Vec<Range<u64>>) -> Result<Option<Vec<RunCounts>>, ReactorGone> {
        self.ask(|reply| Call::Map(set, runs, reply)).await
    }

    async fn stop(&self) {
        self.end(ReactorEnd::Told);
        self.has_ended().await;
    }

    async fn ended(&self) -> ReactorEnd {
        self.has_ended().await
    }
}

/// Says how the thread ended, after everything that it had is gone.
struct Epitaph {
    end: watch::Sender<Option<ReactorEnd>>,
    why: ReactorEnd,
}

impl Drop for Epitaph {
    fn drop(&mut self) {
        self.end.send_replace(Some(self.why));
    }
}

/// Starts a reactor.
///
/// # Errors
/// A text that says what could not be made; the devices are free then.
pub(crate) async fn start(
    setup: ReactorSetup<Linux>,
    heartbeat: Heartbeat,
    digest: Kept,
) -> Result<Reactor, String> {
    let (calls, inbox) = mpsc::channel();
    let descriptor =
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|error| error.to_string())?;
    let wake = Arc::new(descriptor);
    let (ready, started) = oneshot::channel();
    let (end, ended) = watch::channel(None);
    let caches = Caches::of(&setup);
    let reactor = Reactor { calls, wake: Arc::clone(&wake), end: ended, caches };
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name(format!("master {}", setup.name))
        .stack_size(STACK_BYTES)
        .spawn(move || {
            // Dropped last, also when what follows panics: rings and claims are gone by then.
            let mut epitaph = Epitaph { end, why: ReactorEnd::Died };
            // What panicked is said by the hook; who serves this master sees that its thread is gone.
            let ended = crate::panics::contain(|| {
                match Loop::new(setup, (heartbeat, digest), inbox, wake, runtime) {
                    Ok(mut reactor) => {
                        let _ = ready.send(Ok(()));
                        reactor.run()
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        ReactorEnd::Told
                    }
                }
            });
            epitaph.why = ended.unwrap_or(ReactorEnd::Died);
        })
        .map_err(|error| error.to_string())?;
    started.await.map_err(|_| "the master's thread died while it started".to_owned())??;
    tokio::spawn(reactor.clone().watch_caches());
    Ok(reactor)
}

/// What the engine may have at a time: of requests, those of the master and of a shadow of each set.
fn limits(geometry: &Geometry, depth: u16) -> Limits {
    let requests = usize::from(depth) * (1 + SETS_MAX);
    let chunk = geometry.chunk_bytes();
    let write_buffer_bytes = chunk.max(WRITE_RUN_BYTES);
    let write_buffers = (WRITE_BUFFERS_BYTES / write_buffer_bytes).max(2);
    Limits {
        requests,
        write_buffers: u16::try_from(write_buffers).expect("a few dozen"),
        copier_buffers: COPIER_BUFFERS,
        write_buffer_bytes,
        copier_buffer_bytes: chunk.max(COPIER_RUN_BYTES),
        drain_deadline_ms: DRAIN_DEADLINE_MS,
    }
}

/// One device, whose queue takes what there can be: to wait there is no error, to find no place is one, of a master that
/// has none.
fn master_store_limits(limits: &Limits, depth: u16) -> StoreLimits {
    let InFlight { transfers, blocking } = limits.in_flight_on_master(usize::from(depth));
    let default = StoreLimits::default();
    StoreLimits { devices: 1, queued_transfers: transfers, queued_blocking: blocking, ..default }
}

/// The volumes of all sets.
fn side_store_limits(limits: &Limits, depth: u16) -> StoreLimits {
    let InFlight { transfers, blocking } = limits.in_flight_on_side(usize::from(depth));
    StoreLimits {
        devices: SIDE_DEVICES,
        transfers_per_device: 64,
        queued_transfers: transfers,
        queued_blocking: blocking,
        ..StoreLimits::default()
    }
}

struct Loop {
    ring_master: SharedRing,
    ring_sides: SharedRing,
    machine: Machine<UringStore, StateNotes>,
    set_slots: HashMap<SetIndex, SetDevices>,
    fronts: Vec<Front>,
    next_slot: u16,
    inbox: mpsc::Receiver<Call>,
    wake: Arc<OwnedFd>,
    heartbeat: Heartbeat,
    commands: HashMap<CommandId, Reply<Result<Done, Refusal>>>,
    next_command: u64,
    started: Instant,
    last_tick: Now,
    depth: u16,
    cqes: Vec<RingCompletion>,
    finished: Vec<Finished>,
    stopped: Option<ReactorEnd>,
}

impl Loop {
    fn new(
        setup: ReactorSetup<Linux>,
        (heartbeat, digest): (Heartbeat, Kept),
        inbox: mpsc::Receiver<Call>,
        wake: Arc<OwnedFd>,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self, String> {
        let ring = || Ring::shared(RingConfig::default()).map_err(|error| error.to_string());
        let (ring_master, ring_sides) = (ring()?, ring()?);
        let limits = limits(&setup.geometry, setup.depth);
        let mut master_store =
            UringStore::new(ring_master.clone(), Owner::new(1), master_store_limits(&limits, setup.depth));
        let slot = master_store.add_device(setup.master.into_device()).map_err(|error| error.to_string())?;
        let mut sides =
            UringStore::new(ring_sides.clone(), Owner::new(1), side_store_limits(&limits, setup.depth));
        let mut ready = Vec::new();
        for set in setup.sets {
            let devices = add_volumes(&mut sides, set.volumes)?;
            ready.push((set.index, SetConfig { devices, ..set.config }, set.image));
        }
        let (state, descriptor) = (setup.state, Arc::clone(&wake));
        let notes = StateNotes::start(state, digest, runtime, move || self::wake(&descriptor));
        let master = (master_store, slot);
        let mut machine = Machine::new(setup.geometry, limits, master, sides, notes);
        let mut set_slots = HashMap::new();
        for (index, config, image) in ready {
            set_slots.insert(index, config.devices);
            machine.add_set(index, config, image);
        }
        Ok(Self {
            ring_master,
            ring_sides,
            machine,
            set_slots,
            fronts: Vec::new(),
            next_slot: 0,
            inbox,
            wake,
            heartbeat,
            commands: HashMap::new(),
            next_command: 0,
            started: Instant::now(),
            last_tick: Now(0),
            depth: setup.depth,
            cqes: Vec::with_capacity(4096),
            finished: Vec::with_capacity(256),
            stopped: None,
        })
    }

    fn now(&self) -> Now {
        Now(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn run(&mut self) -> ReactorEnd {
        loop {
            if let Some(end) = self.stopped {
                return end;
            }
            let mut moved = self.take_calls();
            moved |= self.turn();
            if !moved {
                self.sleep();
            }
        }
    }

    /// Goes round once without taking calls; true if that is worth doing again at once.
    ///
    /// It waits for no device, so a device that hangs does not stop the heartbeat: its requests wait in the kernel.
    fn turn(&mut self) -> bool {
        let mut moved = self.exchange();
        let now = self.now();
        if now.0 >= self.last_tick.0 + TICK_MS {
            self.last_tick = now;
            self.machine.tick(now);
        }
        moved |= self.machine.turn(now);
        moved |= self.answer();
        for front in &mut self.fronts {
            while let Some((request, buf)) = front.next_held_back() {
                self.machine.request(now, request, buf);
                moved = true;
            }
        }
        self.heartbeat.beat(self.fronts.iter().map(|front| front.counters().completed).sum());
        moved || self.fronts.iter().any(Front::has_waiting)
    }

    /// Hands commands of the queues to the rings, and takes in what has completed.
    fn exchange(&mut self) -> bool {
        let mut moved = false;
        for front in &mut self.fronts {
            let ring = if front.side() == Side::Master { &self.ring_master } else { &self.ring_sides };
            ring.borrow_mut().with_submission(|sq| front.push(sq));
        }
        for (ring, is_master) in [(&self.ring_master, true), (&self.ring_sides, false)] {
            ring.borrow_mut().submit_and_wait(0, None).expect("a ring of this thread works");
            ring.borrow_mut().drain_completions(&mut self.cqes);
            for completion in self.cqes.drain(..) {
                moved = true;
                let (user_data, result) = (completion.user_data(), completion.result());
                let Some(slot) = RingSlot::of(user_data) else {
                    let store = if is_master { self.machine.master_store() } else { self.machine.sides() };
                    store.on_completion(completion);
                    continue;
                };
                let on_slot = |front: &&mut Front| front.slot() == slot;
                let Some(front) = self.fronts.iter_mut().find(on_slot) else { continue };
                if let Some((request, buf)) = front.on_cqe(user_data, result) {
                    let now = Now(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX));
                    self.machine.request(now, request, buf);
                }
            }
        }
        moved
    }

    /// Hands back what the engine has ended.
    fn answer(&mut self) -> bool {
        self.machine.finished(&mut self.finished);
        let mut moved = !self.finished.is_empty();
        for finished in self.finished.drain(..) {
            let owns = |front: &&mut Front| front.owns(finished.id);
            let front =
                self.fronts.iter_mut().find(owns).expect("a request's front end stays until it is done");
            front.finish(finished);
        }
        let mut answers = Vec::new();
        self.machine.answers(&mut answers);
        moved |= !answers.is_empty();
        for (id, result) in answers {
            if let Some(reply) = self.commands.remove(&id) {
                let _ = reply.send(result);
            }
        }
        moved
    }

    fn sleep(&self) {
        let (master, sides) = (self.ring_master.borrow(), self.ring_sides.borrow());
        let (master, sides, calls) = (master.as_fd(), sides.as_fd(), self.wake.as_fd());
        let mut fds = [master, sides, calls].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let timeout =
            Timespec { tv_sec: 0, tv_nsec: i64::try_from(TICK_MS * 1_000_000).expect("a tenth of a second") };
        // Interrupted is as good as woken.
        let _ = poll(&mut fds, Some(&timeout));
    }

    fn take_calls(&mut self) -> bool {
        let mut moved = false;
        let mut counter = [0; 8];
        let _ = rustix::io::read(&*self.wake, &mut counter);
        while let Ok(call) = self.inbox.try_recv() {
            moved = true;
            self.call(call);
        }
        moved
    }

    // An answer that nobody waits for any more is dropped: the call has had its effect.
    fn call(&mut self, call: Call) {
        match call {
            Call::AddSet(set, reply) => {
                let outcome = self.add_set(*set);
                let _ = reply.send(outcome);
            }
            Call::RemoveSet(index, reply) => {
                let outcome = self.remove_set(index);
                let _ = reply.send(outcome);
            }
            Call::Command(command, reply) => {
                let id = CommandId(self.next_command);
                self.next_command += 1;
                self.commands.insert(id, reply);
                let now = self.now();
                self.machine.command(now, id, command);
            }
            Call::Serve(spec, reply) => {
                let outcome = self.serve(&spec);
                let _ = reply.send(outcome);
            }
            Call::Leave(side, reply) => {
                self.leave(side);
                let _ = reply.send(());
            }
            Call::Snapshot(reply) => {
                let _ = reply.send(self.snapshot());
            }
            Call::Map(index, runs, reply) => {
                let count =
                    |run: &Range<u64>| self.machine.master().count(index, Chunk(run.start), Chunk(run.end));
                let _ = reply.send(runs.iter().map(count).collect());
            }
            Call::Stop(why) => self.stopped = Some(why),
            #[cfg(feature = "faults")]
            Call::Panic => panic!("somebody asked for it"),
        }
    }

    fn add_set(&mut self, set: ReadySet<Claimed>) -> Result<(), String> {
        let devices = add_volumes(self.machine.sides(), set.volumes)?;
        self.set_slots.insert(set.index, devices);
        self.machine.add_set(set.index, SetConfig { devices, ..set.config }, set.image);
        Ok(())
    }

    /// All of its volumes, or none: a set that keeps one keeps its place.
    fn remove_set(&mut self, index: SetIndex) -> Result<(), String> {
        let Some(devices) = self.set_slots.get(&index).copied() else { return Err("no such set".to_owned()) };
        let slots = [devices.shadow, devices.bitmap];
        let deadline = Instant::now() + RELEASE_PATIENCE;
        // Late completions must be taken in before the volumes can be let go.
        while slots.iter().any(|slot| self.machine.sides().in_flight(*slot) > 0) {
            if Instant::now() >= deadline {
                return Err("an operation on a volume of the set has not ended".to_owned());
            }
            if !self.turn() {
                self.sleep();
            }
        }
        for slot in slots {
            self.machine.sides().remove_device(slot).map_err(|error| error.to_string())?;
        }
        self.machine.remove_set(index);
        self.set_slots.remove(&index);
        Ok(())
    }

    fn serve(&mut self, spec: &FrontSpec) -> Result<(), umbra_ublk::Error> {
        let first_id = match spec.side {
            Side::Master => 0,
            Side::Shadow(set) => (u32::from(set.0) + 1) * u32::from(self.depth),
        };
        let slot = RingSlot::new(self.next_slot);
        self.next_slot = self.next_slot.wrapping_add(1);
        // A shadow's ring carries no master I/O, so its node need not be held by the ring.
        let fixed = match spec.side {
            Side::Master => {
                let registered = self.ring_master.borrow_mut().register_file(spec.device.as_fd());
                registered.inspect_err(|error| {
                    tracing::warn!(%error, "the ring cannot hold the character device; claims alone guard the master");
                }).ok()
            }
            Side::Shadow(_) => None,
        };
        let file = fixed.as_ref().map_or(RingFile::Descriptor, |fixed| RingFile::Fixed(fixed.index()));
        match Front::new(spec, file, slot, first_id) {
            Ok(front) => {
                self.fronts.push(front.with_node(fixed));
                Ok(())
            }
            Err(error) => {
                self.give_back(fixed);
                Err(error)
            }
        }
    }

    fn leave(&mut self, side: Side) {
        while let Some(at) = self.fronts.iter().position(|front| front.side() == side) {
            let node = self.fronts.swap_remove(at).leave();
            self.give_back(node);
        }
    }

    /// The kernel removes no device whose node a ring still holds.
    fn give_back(&mut self, node: Option<FixedFile>) {
        let Some(node) = node else { return };
        if let Err(error) = self.ring_master.borrow_mut().unregister_file(node) {
            tracing::warn!(%error, "the ring holds a character device until the master's thread ends");
        }
    }

    fn snapshot(&self) -> Snapshot {
        let master = self.machine.master();
        let indexes = (0..u8::try_from(SETS_MAX).expect("16")).map(SetIndex);
        let counters = |side: Side| {
            self.fronts.iter().find(|front| front.side() == side).map(Front::counters).unwrap_or_default()
        };
        let sets: Vec<(SetIndex, SetStatus)> =
            indexes.filter_map(|index| Some((index, master.status(index)?))).collect();
        let io = self.machine.io_counts();
        Snapshot { sets, counters: master.counters(), master: counters(Side::Master), io }
    }
}

/// Both, or none.
fn add_volumes(sides: &mut UringStore, volumes: SetVolumes<Claimed>) -> Result<SetDevices, String> {
    let shadow = sides.add_device(volumes.shadow.into_device()).map_err(|error| error.to_string())?;
    match sides.add_device(volumes.bitmap.into_device()) {
        Ok(bitmap) => Ok(SetDevices { shadow, bitmap }),
        Err(error) => {
            drop(sides.remove_device(shadow));
            Err(error.to_string())
        }
    }
}

const _: () = assert!(MAX_IO_BYTES as u64 <= 1 << 20, "a request fits the executor's bounds");

#[cfg(test)]
mod tests {
    use super::*;
    use umbra_engine::CHUNK_BYTES_DEFAULT;
    use umbra_lifecycle::state::QUEUE_DEPTH_MAX;

    /// Nine busy shadows whose reads all go to the master had no place in its queue.
    #[test]
    fn every_request_of_every_presented_device_has_a_place_at_the_master() {
        let geometry = Geometry::new(1 << 40, CHUNK_BYTES_DEFAULT).unwrap();
        for depth in [1, 32, QUEUE_DEPTH_MAX] {
            let limits = limits(&geometry, depth);
            let store = master_store_limits(&limits, depth);
            assert!(store.queued_transfers >= usize::from(depth) * (1 + SETS_MAX));
            assert!(store.queued_blocking >= usize::from(depth));
        }
    }

    /// The places are locked memory: a master with a set has no more of them than 1,024 of each kind for each device.
    #[test]
    fn places_in_queues_are_no_more_than_can_be_needed() {
        let limits = limits(&Geometry::new(1 << 40, CHUNK_BYTES_DEFAULT).unwrap(), QUEUE_DEPTH_MAX);
        let places = |store: StoreLimits| store.queued_transfers + store.queued_blocking;
        let (master, side) =
            (master_store_limits(&limits, QUEUE_DEPTH_MAX), side_store_limits(&limits, QUEUE_DEPTH_MAX));
        assert!(places(master) + 2 * places(side) < 3 * 2 * 1024, "{master:?} {side:?}");
    }
}
