//! Simulated devices that crash, fail, hang and reorder, all decided by one seed.
//!
//! A [`SimWorld`] is the machine with its disks; [`SimWorld::claim`] gives a [`SimStore`] to a process that runs on
//! it. The world outlives processes: after a crash every old handle only answers [`StoreError::Crashed`], and new
//! ones see what the crash left.
//!
//! What is modelled, each at a random moment: an operation takes effect between submission and completion, so that
//! overlapping ones land in either order; writes stay in the device's cache until a flush that was submitted after
//! their completion; a *kill* leaves the cache alone but lets each operation in flight land or not; a *power cut*
//! keeps, loses or tears every write that is not durable. A write can be made to go *astray*: it is reported complete
//! and has taken effect somewhere else.

mod device;
mod queue;
mod rng;

use crate::block_store::{
    BlockStore, Capabilities, Completion, DeviceSlot, StoreError, StoreOp, StoreOpKind, Token,
};
use crate::buf::IoBuf;
pub use device::Fill;
use device::{Device, Payload, SECTOR, tear};
use queue::Admission;
pub use queue::Queue;
pub use rng::SimRng;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use umbra_engine::ByteRange;

/// Longest time-out that is believed, so that the clock never overflows.
const TIME_OUT_MAX_MS: u64 = 1 << 40;
/// `EIO`: what a broken device answers.
const EIO: i32 = 5;
/// `ENOBUFS`: what a queue without room answers.
const ENOBUFS: i32 = 105;

/// How a device keeps what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// A completed write is durable.
    WriteThrough,
    /// Volatile, with FUA.
    Fua,
    /// Volatile; FUA costs the device a flush.
    Volatile,
}

/// How likely each fault is, per thousand operations of its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A read ends with EIO.
    pub read: u32,
    /// A write ends with EIO; nothing, some or all of it has taken effect.
    pub write: u32,
    /// A flush ends with EIO.
    pub flush: u32,
    /// After a failed flush part of the cache never becomes durable, whatever later flushes say.
    pub drop_cache: bool,
    /// An operation never ends, until [`SimWorld::release`] or a crash.
    pub hang: u32,
}

/// How long operations take, in polls of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Most polls until an operation takes effect.
    pub effect: u64,
    /// Most polls from there to its completion.
    pub completion: u64,
    /// Of a thousand operations so many take ten times as long.
    pub slow: u32,
    /// One that takes more polls than this counts as a fault of its device: it may miss a deadline.
    pub late: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { effect: 2, completion: 2, slow: 20, late: u64::MAX }
    }
}

/// How a machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies; devices and their caches live on.
    Kill,
    /// The power is cut; writes tear at multiples of this many bytes.
    PowerCut {
        /// 512 or 4096.
        granule: u64,
    },
}

#[derive(Debug)]
struct InFlight {
    id: u64,
    handle: u64,
    device: usize,
    token: Token,
    kind: StoreOpKind,
    buf: Option<IoBuf>,
    effect_at: u64,
    complete_at: u64,
    /// Completions counted when it was submitted: what a flush owes.
    submitted: u64,
    effective: bool,
    result: Result<(), StoreError>,
    hung: bool,
    late: bool,
    /// It has not begun: others of its device have to end first.
    waits: bool,
    submitted_at: u64,
}

#[derive(Debug)]
struct World {
    rng: SimRng,
    timing: Timing,
    devices: Vec<Device>,
    in_flight: Vec<InFlight>,
    /// The moment that the clock counts from.
    began: Instant,
    /// Operations of processes that died, to be answered as crashed.
    dead: Vec<(u64, Completion)>,
    clock: u64,
    next_id: u64,
    handles: u64,
    oldest_alive: u64,
    completions: u64,
    operations: u64,
    waited: u64,
    refused: u64,
    crash_at: Option<(u64, Crash)>,
    crashed: Option<Crash>,
    log: Option<Vec<String>>,
}

/// A write that has gone astray.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Where it should have gone.
    pub meant: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct SimWorld(Rc<RefCell<World>>);

/// A process's handle on all devices of a [`SimWorld`].
#[derive(Debug)]
pub struct SimStore {
    world: Rc<RefCell<World>>,
    handle: u64,
}

impl SimWorld {
    /// A machine without disks.
    pub fn new(seed: u64, timing: Timing) -> Self {
        Self(Rc::new(RefCell::new(World {
            rng: SimRng::new(seed),
            timing,
            devices: Vec::new(),
            in_flight: Vec::new(),
            began: Instant::now(),
            dead: Vec::new(),
            clock: 0,
            next_id: 0,
            handles: 0,
            oldest_alive: 0,
            completions: 0,
            operations: 0,
            waited: 0,
            refused: 0,
            crash_at: None,
            crashed: None,
            log: None,
        })))
    }

    /// Adds a disk of `size` bytes, a multiple of 512.
    pub fn add_device(&self, name: &'static str, size: u64, cache: Cache, fill: Fill) -> DeviceSlot {
        let mut world = self.0.borrow_mut();
        world.devices.push(Device::new(name, size, cache, fill));
        DeviceSlot(u16::try_from(world.devices.len() - 1).expect("few devices"))
    }

    /// Gives a disk of so far 512 other logical blocks, a power of two that its size is a multiple of.
    pub fn set_logical_block(&self, device: DeviceSlot, bytes: u32) {
        self.0.borrow_mut().devices[usize::from(device.0)].logical_block = bytes;
    }

    /// Gives a device bounds.
    pub fn set_queue(&self, device: DeviceSlot, queue: Option<Queue>) {
        self.0.borrow_mut().devices[usize::from(device.0)].queue = queue;
    }

    /// Operations that had to wait for others of their device so far, and that were refused.
    pub fn queued(&self) -> (u64, u64) {
        let world = self.0.borrow();
        (world.waited, world.refused)
    }

    /// A handle for a process that starts now, after the last crash.
    pub fn claim(&self) -> SimStore {
        let mut world = self.0.borrow_mut();
        world.crashed = None;
        world.handles += 1;
        SimStore { world: Rc::clone(&self.0), handle: world.handles }
    }

    /// A handle to look at devices with, of nobody.
    pub fn handle(&self) -> SimStore {
        SimStore { world: Rc::clone(&self.0), handle: 0 }
    }

    /// Crashes now.
    pub fn crash(&self, crash: Crash) {
        self.0.borrow_mut().crash(crash);
    }

    /// Crashes when the operation with this number (see [`operations`](Self::operations)) is submitted.
    pub fn crash_at(&self, at: Option<(u64, Crash)>) {
        self.0.borrow_mut().crash_at = at;
    }

    /// The crash that nobody has recovered from yet.
    pub fn crashed(&self) -> Option<Crash> {
        self.0.borrow().crashed
    }

    /// Operations submitted since the beginning.
    pub fn operations(&self) -> u64 {
        self.0.borrow().operations
    }

    /// Sets how long operations take that are submitted from now on.
    pub fn set_timing(&self, timing: Timing) {
        self.0.borrow_mut().timing = timing;
    }

    /// Sets how likely faults of a device are from now on.
    pub fn set_faults(&self, device: DeviceSlot, faults: Faults) {
        self.0.borrow_mut().devices[usize::from(device.0)].faults = faults;
    }

    /// From now on no device forgets what it could not flush. For a process that starts: it cannot know of flushes
    /// that failed before it, and no order of steps helps against a device that then says the next one was good.
    pub fn keep_caches(&self) {
        for device in &mut self.0.borrow_mut().devices {
            device.faults.drop_cache = false;
            device.undoom();
        }
    }

    /// Faults of a device so far; one that shows counts when it is drawn and when it shows.
    pub fn injected(&self, device: DeviceSlot) -> u64 {
        self.0.borrow().devices[usize::from(device.0)].injected
    }

    /// Lets every operation that hangs end.
    pub fn release(&self) {
        let mut world = self.0.borrow_mut();
        let clock = world.clock;
        for op in world.in_flight.iter_mut().filter(|op| op.hung) {
            op.hung = false;
            op.complete_at = op.complete_at.max(clock + 1);
        }
    }

    /// Operations in flight, hanging ones included.
    pub fn in_flight(&self) -> usize {
        self.0.borrow().in_flight.len()
    }

    /// Operations in flight on one device, hanging ones included.
    pub fn in_flight_on(&self, device: DeviceSlot) -> usize {
        let of = |op: &&InFlight| op.device == usize::from(device.0);
        self.0.borrow().in_flight.iter().filter(of).count()
    }

    /// Operations that hang on one device, or wait behind such ones.
    pub fn hanging_on(&self, device: DeviceSlot) -> usize {
        let world = self.0.borrow();
        let of = |op: &&InFlight| op.device == usize::from(device.0) && world.is_stuck(op);
        world.in_flight.iter().filter(of).count()
    }

    /// Operations that hang, or wait behind such ones.
    pub fn hanging(&self) -> usize {
        let world = self.0.borrow();
        world.in_flight.iter().filter(|op| world.is_stuck(op)).count()
    }

    /// Whether to write down what happens, for [`take_log`](Self::take_log).
    pub fn set_log(&self, on: bool) {
        self.0.borrow_mut().log = on.then(Vec::new);
    }

    /// Writes a line of somebody else's down among the operations.
    pub fn note(&self, text: impl FnOnce() -> String) {
        self.0.borrow_mut().note(text);
    }

    /// Moves out what has happened since the last call.
    pub fn take_log(&self) -> Vec<String> {
        self.0.borrow_mut().log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What another program would read from the device now.
    pub fn peek(&self, device: DeviceSlot, offset: u64, out: &mut [u8]) {
        self.0.borrow().devices[usize::from(device.0)].read(offset, out);
    }

    /// As long as this is the same, so is all that [`peek`](Self::peek) shows of a device.
    pub fn changes(&self, device: DeviceSlot) -> u64 {
        self.0.borrow().devices[usize::from(device.0)].changes
    }

    /// What would be left on the device if its cache were lost now.
    pub fn peek_durable(&self, device: DeviceSlot, offset: u64, out: &mut [u8]) {
        self.0.borrow().devices[usize::from(device.0)].read_durable(offset, out);
    }

    /// Lets a write that is in flight and has not taken effect, to one of the places that `of` is true for, take effect
    /// at `to` instead; none if there is no such write of `len` bytes.
    pub fn lead_astray(
        &self,
        device: DeviceSlot,
        len: usize,
        of: impl Fn(u64) -> bool,
        to: u64,
    ) -> Option<Stray> {
        let mut world = self.0.borrow_mut();
        let (at, meant) = world.in_flight.iter().enumerate().find_map(|(at, op)| match op.kind {
            StoreOpKind::Write { offset, .. } => {
                let here = op.device == usize::from(device.0) && of(offset) && offset != to;
                let whole = op.buf.as_ref().is_some_and(|buf| buf.range.len() == len);
                (here && whole && !op.waits && !op.effective && op.result.is_ok()).then_some((at, offset))
            }
            _ => None,
        })?;
        let World { in_flight, devices, .. } = &mut *world;
        let op = &mut in_flight[at];
        op.effective = true;
        let bytes = op.buf.as_ref().expect("a write has a buffer").bytes().to_vec();
        let alive = vec![true; len / SECTOR];
        devices[usize::from(device.0)].land(op.id, to, Payload::Data(bytes.as_slice().into()), alive);
        let id = op.id;
        world.note(|| format!("effect #{id} astray, at {to}"));
        Some(Stray { meant, bytes })
    }

    /// Lets another program write to the device, durably and at once.
    pub fn poke(&self, device: DeviceSlot, offset: u64, bytes: &[u8]) {
        let mut world = self.0.borrow_mut();
        let id = world.next_id();
        let device = &mut world.devices[usize::from(device.0)];
        let alive = vec![true; bytes.len() / SECTOR];
        device.land(id, offset, Payload::Data(bytes.into()), alive);
        device.completed(id, 0, true);
    }
}

impl World {
    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(text());
        }
    }

    fn describe(&self, at: usize) -> String {
        let op = &self.in_flight[at];
        let len = op.buf.as_ref().map_or(0, |buf| buf.range.len() as u64);
        let what = match op.kind {
            StoreOpKind::Read { offset } => format!("read {:?}", ByteRange::new(offset, len)),
            StoreOpKind::Write { offset, fua } => {
                format!("write {:?}{}", ByteRange::new(offset, len), if fua { " fua" } else { "" })
            }
            StoreOpKind::Flush => "flush".to_owned(),
            StoreOpKind::Discard(range) => format!("discard {range:?}"),
            StoreOpKind::WriteZeroes { range, .. } => format!("zero {range:?}"),
        };
        format!("#{} {} {what}", op.id, self.devices[op.device].name)
    }

    fn submit(&mut self, handle: u64, op: StoreOp) {
        let StoreOp { token, device, kind, buf } = op;
        let result = self.check(device, &kind, buf.as_ref());
        if handle <= self.oldest_alive || self.crashed.is_some() {
            let completion = Completion { token, device, result: Err(StoreError::Crashed), buf };
            self.dead.push((handle, completion));
            return;
        }
        self.operations += 1;
        let index = usize::from(device.0);
        let mut effect_at = self.clock + 1 + self.rng.below(self.timing.effect);
        let mut complete_at = effect_at + self.rng.below(self.timing.completion);
        if self.rng.chance(self.timing.slow) {
            effect_at += self.rng.below(self.timing.effect * 10);
            complete_at = effect_at + self.rng.below(self.timing.completion * 10);
        }
        let result = result.and_then(|()| self.draw_fault(index, &kind));
        let hung = self.rng.chance(self.devices[index].faults.hang);
        let admission = self.admit(index, &kind);
        if admission == Admission::Refused {
            self.refused += 1;
            let result = Err(StoreError::Device(ENOBUFS));
            self.dead.push((handle, Completion { token, device, result, buf }));
            return;
        }
        self.waited += u64::from(admission == Admission::Waits);
        let late = complete_at - self.clock > self.timing.late;
        self.devices[index].injected += u64::from(hung) + u64::from(late);
        let (id, submitted) = (self.next_id(), self.completions);
        self.in_flight.push(InFlight {
            id,
            handle,
            device: index,
            token,
            kind,
            buf,
            effect_at,
            complete_at,
            submitted,
            effective: false,
            result,
            hung,
            late,
            waits: admission == Admission::Waits,
            submitted_at: self.clock,
        });
        if self.log.is_some() {
            let line = self.describe(self.in_flight.len() - 1);
            self.note(|| format!("submit {line}{}", if hung { " (hangs)" } else { "" }));
        }
        if let Some((at, crash)) = self.crash_at
            && self.operations >= at
        {
            self.crash(crash);
        }
    }

    fn check(&self, device: DeviceSlot, kind: &StoreOpKind, buf: Option<&IoBuf>) -> Result<(), StoreError> {
        let len = buf.map_or(0, |buf| buf.range.len() as u64);
        let range = match *kind {
            StoreOpKind::Read { offset } | StoreOpKind::Write { offset, .. } => ByteRange::new(offset, len),
            StoreOpKind::Discard(range) | StoreOpKind::WriteZeroes { range, .. } => range,
            StoreOpKind::Flush => return Ok(()),
        };
        let Device { size, logical_block, .. } = self.devices[usize::from(device.0)];
        let block = u64::from(logical_block);
        let aligned = range.start.is_multiple_of(block) && range.len.is_multiple_of(block);
        let inside = range.len > 0 && range.start <= size && range.len <= size - range.start;
        if aligned && inside { Ok(()) } else { Err(StoreError::Range(range)) }
    }

    fn draw_fault(&mut self, device: usize, kind: &StoreOpKind) -> Result<(), StoreError> {
        let faults = self.devices[device].faults;
        let rate = match kind {
            StoreOpKind::Read { .. } => faults.read,
            StoreOpKind::Write { .. } | StoreOpKind::WriteZeroes { .. } => faults.write,
            StoreOpKind::Flush => faults.flush,
            StoreOpKind::Discard(_) => 0,
        };
        if self.rng.chance(rate) {
            self.devices[device].injected += 1;
            return Err(StoreError::Device(EIO));
        }
        Ok(())
    }

    /// Time passes: operations take effect and end. Those of one moment in random order.
    fn advance(&mut self) {
        self.clock += 1;
        self.begin_waiting();
        let clock = self.clock;
        let len = self.in_flight.len();
        let skip = self.rng.index(len.max(1));
        for n in 0..len {
            let at = (n + skip) % len;
            let op = &self.in_flight[at];
            if !op.waits && !op.effective && op.effect_at <= clock {
                self.take_effect(at, None);
            }
        }
    }

    /// The operation takes effect, all of it or a torn part.
    fn take_effect(&mut self, at: usize, torn: Option<u64>) {
        if self.log.is_some() {
            let line = format!("effect #{} {:?}", self.in_flight[at].id, self.in_flight[at].result);
            self.note(|| line);
        }
        let op = &mut self.in_flight[at];
        op.effective = true;
        let device = &mut self.devices[op.device];
        let rng = &mut self.rng;
        if matches!(op.result, Err(StoreError::Range(_))) {
            return;
        }
        let failed = op.result.is_err();
        let (offset, payload) = match op.kind {
            StoreOpKind::Read { offset } => {
                if let (false, Some(buf)) = (failed, &mut op.buf) {
                    device.read(offset, buf.bytes_mut());
                }
                return;
            }
            StoreOpKind::Flush => {
                if !failed {
                    device.flush(op.submitted, rng);
                }
                return;
            }
            StoreOpKind::Write { offset, .. } => {
                let bytes = op.buf.as_ref().expect("checked when it was submitted").bytes();
                (offset, Payload::Data(bytes.into()))
            }
            StoreOpKind::WriteZeroes { range, .. } | StoreOpKind::Discard(range) => {
                let len = usize::try_from(range.len).expect("simulated devices fit in memory");
                (range.start, Payload::Zeros(len))
            }
        };
        let mut alive = vec![true; payload.sectors()];
        let first = offset / SECTOR as u64;
        match op.kind {
            // Advice: some sectors read as zeros afterwards, some as before.
            StoreOpKind::Discard(_) => tear(&mut alive, first, SECTOR as u64, rng),
            _ if failed => match rng.below(3) {
                0 => alive.fill(false),
                1 => tear(&mut alive, first, SECTOR as u64, rng),
                _ => {}
            },
            _ => {}
        }
        if let Some(granule) = torn {
            tear(&mut alive, first, granule, rng);
        }
        device.land(op.id, offset, payload, alive);
    }

    fn take_completed(&mut self, handle: u64, done: &mut Vec<Completion>) {
        let clock = self.clock;
        let mut at = 0;
        while at < self.in_flight.len() {
            let op = &self.in_flight[at];
            if op.handle != handle || op.hung || !op.effective || op.complete_at > clock {
                at += 1;
                continue;
            }
            let op = self.in_flight.swap_remove(at);
            self.completions += 1;
            self.note(|| format!("done #{}", op.id));
            let fua = matches!(
                op.kind,
                StoreOpKind::Write { fua: true, .. } | StoreOpKind::WriteZeroes { fua: true, .. }
            );
            let durable = fua && op.result.is_ok();
            // Somebody learns of the fault only now.
            self.devices[op.device].injected += u64::from(op.result.is_err() || op.late);
            if op.kind == StoreOpKind::Flush
                && op.result.is_err()
                && self.devices[op.device].faults.drop_cache
            {
                // Only now: whoever was told before this that a flush was good was told the truth.
                self.devices[op.device].doom(&mut self.rng);
            }
            // Counted before the next submission sees the new number: owed to every flush from now on.
            self.devices[op.device].completed(op.id, self.completions - 1, durable);
            let device = DeviceSlot(u16::try_from(op.device).expect("few devices"));
            done.push(Completion { token: op.token, device, result: op.result, buf: op.buf });
        }
    }

    fn take_dead(&mut self, handle: u64, done: &mut Vec<Completion>) {
        let mut at = 0;
        while at < self.dead.len() {
            if self.dead[at].0 == handle {
                done.push(self.dead.swap_remove(at).1);
            } else {
                at += 1;
            }
        }
    }

    fn crash(&mut self, crash: Crash) {
        self.note(|| format!("{crash:?}"));
        self.crash_at = None;
        self.crashed = Some(crash);
        self.oldest_alive = self.handles;
        // In flight: each lands now, or later but before anybody claims the device, which is the same, or never.
        let mut order: Vec<usize> = (0..self.in_flight.len()).collect();
        for n in (1..order.len()).rev() {
            order.swap(n, self.rng.index(n + 1));
        }
        for at in order {
            let moves = !matches!(self.in_flight[at].kind, StoreOpKind::Read { .. } | StoreOpKind::Flush);
            let open = !self.in_flight[at].waits && !self.in_flight[at].effective;
            if moves && open && self.rng.chance(500) {
                let torn = self.rng.chance(200).then_some(SECTOR as u64);
                self.take_effect(at, torn);
            }
        }
        for op in self.in_flight.drain(..) {
            let device = DeviceSlot(u16::try_from(op.device).expect("few devices"));
            let result = Err(StoreError::Crashed);
            let completion = Completion { token: op.token, device, result, buf: op.buf };
            self.dead.push((op.handle, completion));
        }
        self.completions += 1;
        for device in &mut self.devices {
            match crash {
                Crash::Kill => device.orphan(self.completions - 1),
                Crash::PowerCut { granule } => device.power_cut(&mut self.rng, granule),
            }
        }
    }
}

impl SimStore {
    /// Lets time pass up to the next completion of this handle; false if there is none to wait for.
    fn advance_to_completion(&mut self, done: &mut Vec<Completion>) -> bool {
        loop {
            let before = done.len();
            self.poll(done);
            if done.len() > before {
                return true;
            }
            let world = self.world.borrow();
            if !world.in_flight.iter().any(|op| op.handle == self.handle && !world.is_stuck(op)) {
                return false;
            }
        }
    }
}

impl BlockStore for SimStore {
    fn capabilities(&self, device: DeviceSlot) -> Capabilities {
        let world = self.world.borrow();
        let device = &world.devices[usize::from(device.0)];
        Capabilities {
            size: device.size,
            logical_block: device.logical_block,
            physical_block: 4096,
            optimal_io: 0,
            volatile_cache: device.cache != Cache::WriteThrough,
            fua: device.cache == Cache::Fua,
            rotational: false,
            discard: true,
            write_zeroes: true,
            read_only: false,
        }
    }

    fn submit(&mut self, op: StoreOp) {
        self.world.borrow_mut().submit(self.handle, op);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        let mut world = self.world.borrow_mut();
        world.advance();
        world.take_dead(self.handle, done);
        world.take_completed(self.handle, done);
    }

    /// Simulated: no time passes outside. Where everything hangs that could end, the time-out passes at once.
    fn wait(&mut self, timeout: Duration, done: &mut Vec<Completion>) {
        if !self.advance_to_completion(done) {
            let passed = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).min(TIME_OUT_MAX_MS);
            let mut world = self.world.borrow_mut();
            world.clock = world.clock.saturating_add(passed);
        }
    }

    /// A poll takes a millisecond.
    fn now(&self) -> Instant {
        let world = self.world.borrow();
        world.began.checked_add(Duration::from_millis(world.clock)).unwrap_or(world.began)
    }
}

#[cfg(test)]
mod tests;
