//! Block devices and files behind a shared io_uring.
//!
//! # Why the kernel never writes to freed memory
//! An operation is moved, with its buffer, into a place of a slab that neither grows nor moves, before
//! its entry is made; it leaves the place when the result of its *last* entry has come. There is at most
//! one entry of an operation at a time. Dropping the store waits for all of them, and leaks the slab if a
//! device does not answer. A buffer's bytes are boxed, so moving the operation does not move them.
//!
//! # Isolation
//! Every device has its own bounds and queues: a device that hangs fills its own places and nobody
//! else's, and holds a bounded number of the kernel's workers.

use crate::device::Device;
use crate::limits::{StoreLimits, ZERO_BUFFER_BYTES};
use crate::op::{Class, DiscardWay, Next, Op, Target, range_of};
use crate::owner::Owner;
use crate::ring::{RingCompletion, RingError, RingId, SharedRing};
use crate::slab::{Key, Slab};
use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;
use umbra_engine::ByteRange;
use umbra_store::{
    AlignedBuf, BlockStore, Capabilities, Completion, DeviceSlot, StoreError, StoreOp, StoreOpKind,
};

/// A device cannot be taken out of, or put into, a store.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeviceSlotError {
    /// All slots are taken.
    #[error("the store has room for {devices} devices")]
    Full {
        /// Slots of the store.
        devices: u16,
    },
    /// Nothing is there.
    #[error("no device in slot {0:?}")]
    Empty(DeviceSlot),
    /// Its operations have not ended, also those whose submitter has given them up.
    #[error("{operations} operations of the device in slot {slot:?} have not ended")]
    Busy {
        /// The slot.
        slot: DeviceSlot,
        /// Operations in the kernel or waiting for their turn.
        operations: usize,
    },
    /// The ring's file table.
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// How often a store came to its bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Operations that had to wait for their turn.
    pub queued: u64,
    /// Operations refused with `ENOBUFS`.
    pub refused: u64,
    /// Entries of one operation beyond its first: short transfers, fallbacks, repetitions.
    pub continued: u64,
    /// Completions with this store's tag that belong to none of its operations.
    pub stray: u64,
}

struct Attached {
    device: Device,
    target: Target,
    // Both by class.
    in_flight: [usize; 2],
    backlog: [VecDeque<StoreOp>; 2],
}

impl Attached {
    fn pending(&self) -> usize {
        self.in_flight.iter().sum::<usize>() + self.backlog.iter().map(VecDeque::len).sum::<usize>()
    }
}

/// A [`BlockStore`] on io_uring with direct I/O. See the module for what it promises about memory.
///
/// # Use
/// Either alone, with `submit`, `poll` and `wait`, as code before the reactor does; or in a reactor that
/// drains the ring and dispatches by owner: `submit`, then [`on_completion`](Self::on_completion) for each
/// completion with this store's tag, then [`collect`](Self::collect). Both may be mixed.
pub struct UringStore {
    ring: SharedRing,
    ring_id: RingId,
    owner: Owner,
    limits: StoreLimits,
    devices: Vec<Option<Attached>>,
    slab: Slab<Op>,
    zeros: AlignedBuf,
    // In the slab, but the ring had no room.
    unsent: VecDeque<Key>,
    completed: VecDeque<Completion>,
    drained: Vec<RingCompletion>,
    stats: StoreStats,
}

impl UringStore {
    /// A store without devices on `ring`. `owner` is this store's alone until it is dropped, and for ever if it is
    /// dropped with operations that do not end.
    ///
    /// # Panics
    /// If another store on the ring has the tag.
    pub fn new(ring: SharedRing, owner: Owner, limits: StoreLimits) -> Self {
        assert!(ring.borrow_mut().take_owner(owner), "the tag {} belongs to another user", owner.tag());
        let ring_id = ring.borrow().id();
        let per_device = u32::from(limits.transfers_per_device) + u32::from(limits.blocking_per_device);
        let capacity = per_device * u32::from(limits.devices);
        Self {
            ring,
            ring_id,
            owner,
            limits,
            devices: (0..limits.devices).map(|_| None).collect(),
            slab: Slab::with_capacity(capacity),
            zeros: AlignedBuf::zeroed(ZERO_BUFFER_BYTES),
            unsent: VecDeque::with_capacity(capacity as usize),
            completed: VecDeque::with_capacity(capacity as usize),
            drained: Vec::with_capacity(capacity as usize),
            stats: StoreStats::default(),
        }
    }

    /// Takes a device into the first free slot. From here on its descriptor is a fixed file of the ring.
    ///
    /// # Errors
    /// [`DeviceSlotError::Full`], [`DeviceSlotError::Ring`].
    pub fn add_device(&mut self, device: Device) -> Result<DeviceSlot, DeviceSlotError> {
        let full = DeviceSlotError::Full { devices: self.limits.devices };
        let Some(index) = self.devices.iter().position(Option::is_none) else { return Err(full) };
        let slot = DeviceSlot(u16::try_from(index).map_err(|_| full)?);
        let file = self.ring.borrow_mut().register_file(device.descriptor())?;
        let capabilities = device.capabilities();
        let discard = match (capabilities.discard, device.is_block_device()) {
            (false, _) => DiscardWay::Ignore,
            (true, true) => DiscardWay::Command,
            (true, false) => DiscardWay::PunchHole,
        };
        let logical_block = u64::from(capabilities.logical_block);
        let target = Target { file, logical_block, discard, zero_range: true };
        let backlog = Class::ALL.map(|class| VecDeque::with_capacity(self.queued_max(class)));
        self.devices[index] = Some(Attached { device, target, in_flight: [0; 2], backlog });
        Ok(slot)
    }

    /// Gives a device back, with its claim.
    ///
    /// # Errors
    /// [`DeviceSlotError::Busy`] while operations of it have not ended: the claim must not be given up
    /// before they land.
    pub fn remove_device(&mut self, slot: DeviceSlot) -> Result<Device, DeviceSlotError> {
        let attached = self.attached(slot).ok_or(DeviceSlotError::Empty(slot))?;
        let operations = attached.pending();
        if operations > 0 {
            return Err(DeviceSlotError::Busy { slot, operations });
        }
        let attached = self.devices[usize::from(slot.0)].take().ok_or(DeviceSlotError::Empty(slot))?;
        self.ring.borrow_mut().unregister_file(attached.target.file)?;
        Ok(attached.device)
    }

    /// The device in `slot`.
    pub fn device(&self, slot: DeviceSlot) -> Option<&Device> {
        self.attached(slot).map(|attached| &attached.device)
    }

    /// Reads again what may change while a device is open: its size and its write cache.
    ///
    /// # Errors
    /// [`DeviceSlotError::Empty`]. What cannot be read stays as it was.
    pub fn refresh(&mut self, slot: DeviceSlot) -> Result<Capabilities, DeviceSlotError> {
        let attached = self.attached_mut(slot).ok_or(DeviceSlotError::Empty(slot))?;
        attached.device.refresh();
        Ok(attached.device.capabilities())
    }

    /// Operations of a device that have not ended, in the kernel or waiting for their turn; also those
    /// that their submitter has given up. A device is idle, and may be closed or reused, at 0.
    pub fn in_flight(&self, slot: DeviceSlot) -> usize {
        self.attached(slot).map_or(0, Attached::pending)
    }

    /// This store's tag.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// How often the store came to its bounds.
    pub fn stats(&self) -> StoreStats {
        self.stats
    }

    /// Takes one completion that the reactor drained from the ring. Those of other rings and owners are counted and
    /// ignored.
    pub fn on_completion(&mut self, completion: RingCompletion) {
        let is_own = completion.ring() == self.ring_id && completion.owner() == self.owner;
        let key = Key::from_low_bits(Owner::low(completion.user_data())).filter(|_| is_own);
        let Some((key, op)) = key.and_then(|key| self.slab.get_mut(key).map(|op| (key, op))) else {
            self.stats.stray += 1;
            return;
        };
        let slot = op.op.device;
        let Some(attached) = self.devices[usize::from(slot.0)].as_mut() else {
            unreachable!("a device with operations in flight stays in its slot");
        };
        match op.advance(completion.result(), &mut attached.target) {
            Next::Submit => {
                self.stats.continued += 1;
                self.send(key);
            }
            Next::Finish(result) => self.finish(key, result),
        }
    }

    /// Appends what has completed; neither enters the kernel nor drains the ring.
    pub fn collect(&mut self, done: &mut Vec<Completion>) {
        self.send_unsent();
        done.extend(self.completed.drain(..));
    }

    fn attached(&self, slot: DeviceSlot) -> Option<&Attached> {
        self.devices.get(usize::from(slot.0))?.as_ref()
    }

    fn attached_mut(&mut self, slot: DeviceSlot) -> Option<&mut Attached> {
        self.devices.get_mut(usize::from(slot.0))?.as_mut()
    }

    fn complete(&mut self, op: StoreOp, result: Result<(), StoreError>) {
        self.completed.push_back(Completion { token: op.token, device: op.device, result, buf: op.buf });
    }

    /// Gives `op` to the kernel. The caller has made sure that it is its turn.
    fn start(&mut self, op: StoreOp) {
        let (slot, class) = (op.device, Class::of(&op.kind));
        let attached = self.devices[usize::from(slot.0)].as_mut().expect("the slot was looked at");
        match Op::begin(op, &attached.target) {
            Err(op) => self.complete(op, Ok(())),
            Ok(op) => {
                attached.in_flight[class.index()] += 1;
                let serial = self.ring.borrow_mut().next_serial();
                let key = self.slab.insert(serial, op);
                self.send(key);
            }
        }
    }

    /// Pushes the next entry of an operation, after those that already wait for room in the ring.
    fn send(&mut self, key: Key) {
        self.unsent.push_back(key);
        self.send_unsent();
    }

    fn send_unsent(&mut self) {
        while let Some(&key) = self.unsent.front() {
            let op = self.slab.get_mut(key).expect("an operation stays until its completion");
            let attached = self.devices[usize::from(op.op.device.0)].as_ref().expect("its device too");
            let user_data = self.owner.user_data(key.to_low_bits());
            let entry = op.entry(&attached.target, &self.zeros).user_data(user_data);
            // SAFETY: the entry points into `op.buf` or `self.zeros`. Both are heap memory that does not
            // move with its owner. `op` stays in its place of the slab until this entry's completion is
            // here, nobody touches its buffer there, and `drop` leaks slab and zeros if completions are
            // outstanding. The file is a slot of the ring's table.
            let pushed = unsafe { self.ring.borrow_mut().push(&entry) };
            if pushed.is_err() {
                return;
            }
            self.unsent.pop_front();
        }
    }

    fn finish(&mut self, key: Key, result: Result<(), StoreError>) {
        let op = self.slab.remove(key).expect("the caller found it").op;
        let (slot, class) = (op.device, Class::of(&op.kind));
        self.complete(op, result);
        if let Some(attached) = self.attached_mut(slot) {
            attached.in_flight[class.index()] -= 1;
        }
        self.start_waiting(slot, class);
    }

    fn start_waiting(&mut self, slot: DeviceSlot, class: Class) {
        let limit = self.limit(class);
        while let Some(attached) = self.attached_mut(slot)
            && attached.in_flight[class.index()] < limit
            && let Some(op) = attached.backlog[class.index()].pop_front()
        {
            self.start(op);
        }
    }

    fn limit(&self, class: Class) -> usize {
        usize::from(match class {
            Class::Transfer => self.limits.transfers_per_device,
            Class::Blocking => self.limits.blocking_per_device,
        })
    }

    fn queued_max(&self, class: Class) -> usize {
        match class {
            Class::Transfer => self.limits.queued_transfers,
            Class::Blocking => self.limits.queued_blocking,
        }
    }

    fn process_drained(&mut self) {
        let mut drained = mem::take(&mut self.drained);
        self.ring.borrow_mut().drain_owner(self.owner, &mut drained);
        for completion in drained.drain(..) {
            self.on_completion(completion);
        }
        self.drained = drained;
    }

    /// Submits, then takes what completed, then submits what that allowed.
    ///
    /// # Panics
    /// If the ring is broken: without it no operation of this process can end, and a restart can help.
    fn pump(&mut self) {
        for _ in 0..2 {
            self.send_unsent();
            self.ring.borrow_mut().submit_and_wait(0, None).expect("the ring works");
            self.process_drained();
        }
    }
}

/// What is wrong with an operation before it is started.
fn check(op: &StoreOp, capabilities: Capabilities) -> Result<(), StoreError> {
    let writes = match op.kind {
        StoreOpKind::Read { .. } | StoreOpKind::Flush => false,
        StoreOpKind::Write { .. } | StoreOpKind::Discard(_) | StoreOpKind::WriteZeroes { .. } => true,
    };
    let range = range_of(op);
    let block = u64::from(capabilities.logical_block);
    let inside = range.start.checked_add(range.len).is_some_and(|end| end <= capabilities.size);
    if !inside || !range.start.is_multiple_of(block) || !range.len.is_multiple_of(block) {
        return Err(StoreError::Range(ByteRange::new(range.start, range.len)));
    }
    if writes && capabilities.read_only { Err(StoreError::Device(libc::EROFS)) } else { Ok(()) }
}

impl BlockStore for UringStore {
    /// # Panics
    /// If there is no such device.
    fn capabilities(&self, device: DeviceSlot) -> Capabilities {
        self.attached(device).expect("a slot that add_device gave out").device.capabilities()
    }

    /// # Panics
    /// If a read or write has no buffer, or another operation has one.
    fn submit(&mut self, op: StoreOp) {
        let class = Class::of(&op.kind);
        assert_eq!(op.buf.is_some(), class == Class::Transfer, "transfers have a buffer, and only they");
        let (limit, queued_max) = (self.limit(class), self.queued_max(class));
        let Some(attached) = self.attached_mut(op.device) else {
            return self.complete(op, Err(StoreError::Device(libc::ENODEV)));
        };
        if let Err(error) = check(&op, attached.device.capabilities()) {
            return self.complete(op, Err(error));
        }
        if op.kind != StoreOpKind::Flush && range_of(&op).len == 0 {
            return self.complete(op, Ok(()));
        }
        let backlog = &mut attached.backlog[class.index()];
        if attached.in_flight[class.index()] < limit && backlog.is_empty() {
            self.start(op);
        } else if backlog.len() < queued_max {
            backlog.push_back(op);
            self.stats.queued += 1;
        } else {
            self.stats.refused += 1;
            self.complete(op, Err(StoreError::Device(libc::ENOBUFS)));
        }
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        self.pump();
        self.collect(done);
    }

    fn wait(&mut self, timeout: Duration, done: &mut Vec<Completion>) {
        let start = Instant::now();
        loop {
            self.pump();
            if !self.completed.is_empty() {
                return self.collect(done);
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return;
            }
            self.ring.borrow_mut().wait_for_more(left).expect("the ring works");
        }
    }
}

impl UringStore {
    /// Waits until no operation is in the kernel, for at most `timeout`. Completions stay for `collect`.
    fn settle(&mut self, timeout: Duration) {
        let start = Instant::now();
        while !self.slab.is_empty() {
            // Somebody up the stack of a panic may be holding the ring.
            let Ok(mut ring) = self.ring.try_borrow_mut() else { return };
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() || ring.submit_and_wait(0, None).is_err() {
                return;
            }
            drop(ring);
            self.process_drained();
            if self.slab.is_empty() {
                return;
            }
            self.send_unsent();
            if self.ring.borrow_mut().wait_for_more(left).is_err() {
                return;
            }
        }
    }
}

impl Drop for UringStore {
    fn drop(&mut self) {
        // Nothing new starts; what never reached the ring need not be waited for.
        for attached in self.devices.iter_mut().flatten() {
            attached.backlog.iter_mut().for_each(VecDeque::clear);
        }
        // A thread that panics is to be out of the way at once: its devices are claimed anew by whoever takes its
        // place, and that waits for what is in flight.
        self.settle(if thread::panicking() { Duration::ZERO } else { self.limits.drop_wait });
        if let Ok(mut ring) = self.ring.try_borrow_mut() {
            if self.slab.is_empty() {
                ring.return_owner(self.owner);
            }
            for attached in self.devices.iter_mut().filter_map(Option::take) {
                // A failure leaves the file in the table until the ring goes: later, never earlier.
                let _ = ring.unregister_file(attached.target.file);
            }
        }
        if !self.slab.is_empty() {
            // The kernel may still write to these buffers: they are never freed. The claims of their
            // devices are held by the kernel's operations until those end.
            mem::forget(mem::replace(&mut self.slab, Slab::with_capacity(0)));
            mem::forget(mem::replace(&mut self.zeros, AlignedBuf::zeroed(0)));
        }
    }
}

impl fmt::Debug for UringStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringStore")
            .field("owner", &self.owner)
            .field("devices", &self.devices.iter().flatten().map(|a| &a.device).collect::<Vec<_>>())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
