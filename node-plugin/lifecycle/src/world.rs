//! What lies outside of the decisions in this crate: devices, the ublk driver, the threads that serve masters, the
//! state directory's files. Small on purpose, since it exists twice: on Linux, and in the node simulator, where every
//! call is a point at which the node may be killed, the call may fail, or never end.
//!
//! ```text
//!   changes and starts (this crate)
//!      │ look, claim    │ list, add, recover, stop     │ start, ask        │ read, write
//!   ┌──┴─────────┐   ┌──┴───────┐                   ┌──┴──────┐         ┌──┴─────┐
//!   │ devices    │   │ Driver   │                   │ Reactor │         │ Files  │
//!   └────────────┘   └──────────┘                   └─────────┘         └────────┘
//! ```
//! Time is tokio's clock, which a simulator stops and moves on by itself.

use crate::files::Files;
use crate::state::State;
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use umbra_engine::{
    Command, Counters, Done, Geometry, Refusal, RunCounts, SetImage, SetIndex, SetStatus, Side,
};
use umbra_identity::{DeviceFacts, DeviceNumber};
use umbra_platform::PlatformError;
use umbra_platform::value::DevicePath;
use umbra_store::{BlockStore, Capabilities, DeviceSlot, IoCounts, SetConfig, SetDevices};
use uuid::Uuid;

/// See the module.
pub trait World: fmt::Debug + Sized + Send + Sync + 'static {
    /// The files of the state directory.
    type Files: Files;
    /// A device that is claimed: open for reading and writing, and nobody else can claim it. Dropped, it is free once
    /// all that was in flight on it has landed (E6).
    type Claim: Claim;
    /// Where I/O on claimed devices runs before a reactor has them.
    type Store: BlockStore;
    /// The thread of a master.
    type Reactor: Reactor<Self>;
    /// A claim on a presented device: it keeps others from claiming it as long as it lives.
    type Hold: fmt::Debug + Send + 'static;

    /// What there is to know of the device at a path, without opening it for writing.
    ///
    /// # Errors
    /// What is in the way of looking; a path that leads nowhere is one.
    fn look(&self, path: &Path, depth: Depth) -> impl Future<Output = Result<DeviceFacts, LookError>> + Send;

    /// All block devices of the machine, with what they are, not what lies on them or who uses them.
    ///
    /// # Errors
    /// They cannot be listed.
    fn survey(&self) -> impl Future<Output = Result<Vec<DeviceFacts>, LookError>> + Send;

    /// Claims the device that was looked at, waiting at most so long for what an earlier holder has in flight.
    ///
    /// # Errors
    /// Another one is there now, somebody holds it, or the device failed.
    fn claim(
        &self,
        facts: &DeviceFacts,
        wait: Duration,
    ) -> impl Future<Output = Result<Self::Claim, ClaimError>> + Send;

    /// Runs work on claimed devices, in the order given, and gives them back; none of them, if the work has given
    /// operations up that are still in flight. They stay claimed then until those have landed.
    ///
    /// # Errors
    /// What kept the work from being begun; the devices are free then.
    fn work<T: Send + 'static>(
        &self,
        claims: Vec<Self::Claim>,
        work: impl FnOnce(&mut Self::Store, &[DeviceSlot]) -> T + Send + 'static,
    ) -> impl Future<Output = Result<(T, Vec<Self::Claim>), String>> + Send;

    /// Samples of a claimed device's content, to be compared later (E19).
    ///
    /// # Errors
    /// What the device says.
    fn fingerprint(&self, claim: &Self::Claim) -> impl Future<Output = Result<String, String>> + Send;

    /// All devices that the ublk driver has, ours or not.
    ///
    /// # Errors
    /// What the driver says.
    fn driver_list(&self) -> impl Future<Output = Result<Vec<DriverDevice>, DriverError>> + Send;

    /// Makes a device, which nobody sees yet.
    ///
    /// # Errors
    /// What the driver says; then there is none.
    fn driver_add(&self, spec: &DriverSpec) -> impl Future<Output = Result<u32, DriverError>> + Send;

    /// Makes a served device visible; the node is there when this returns.
    ///
    /// # Errors
    /// What the driver says.
    fn driver_start(&self, number: u32) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Takes a device over from a server that is gone, waiting for as long as that one's I/O is in flight.
    ///
    /// # Errors
    /// What the driver says.
    fn driver_recover(&self, number: u32) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Ends the recovery of a device that is served again: what was parked is sent to the new server.
    ///
    /// # Errors
    /// What the driver says.
    fn driver_recovered(&self, number: u32) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Ends a device; what waits for it fails. One that is not there is no error.
    ///
    /// # Errors
    /// What the driver says.
    fn driver_stop(&self, number: u32) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Removes a device that was stopped and that nobody serves. One that is not there is no error.
    ///
    /// # Errors
    /// What the driver says.
    fn driver_delete(&self, number: u32) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Claims a presented device if nobody has it open, in any way: its partitions, what stands on it, mounts,
    /// mappings. Its page caches are written back and empty when this returns.
    ///
    /// # Errors
    /// [`NotHeld`]: who has it open, or what kept it from being proved.
    fn hold_presented(&self, number: u32) -> impl Future<Output = Result<Self::Hold, NotHeld>> + Send;

    /// Has the kernel read the partition table of a presented device again, whose content has changed.
    fn reread_partitions(&self, number: u32) -> impl Future<Output = ()> + Send;

    /// Makes `/dev/umbra/by-id/UUID` lead to a device.
    ///
    /// # Errors
    /// What the file system says.
    fn publish(&self, id: Uuid, number: u32) -> impl Future<Output = Result<(), String>> + Send;

    /// Takes that name away.
    fn unpublish(&self, id: Uuid) -> impl Future<Output = ()> + Send;

    /// Takes the names away that an earlier process left behind, but for those of `known`.
    fn sweep_names(&self, known: &BTreeSet<Uuid>) -> impl Future<Output = ()> + Send;

    /// Where the names are.
    fn names(&self) -> &Path;

    /// Keeps these devices, and no others any more, out of the way of whoever looks for file systems and volume groups
    /// (rule 5).
    fn hide(&self, sight: Sight) -> impl Future<Output = ()> + Send;

    /// Starts the thread of a master.
    ///
    /// # Errors
    /// What could not be made; the devices are free then.
    fn start_reactor(
        &self,
        setup: ReactorSetup<Self>,
    ) -> impl Future<Output = Result<Self::Reactor, String>> + Send;

    /// The last second (since 1970) in which the process before this one may have served anything: what a file system
    /// says it did later, it did past us.
    fn served_until(&self) -> u64;

    /// The digest of a master's first bytes that its thread has kept, if nothing went through it to them since
    /// ([`umbra_store::Notes::keep_digest`]).
    fn kept_digest(&self, master: Uuid) -> impl Future<Output = Option<u64>> + Send;

    /// Forgets that digest.
    ///
    /// # Errors
    /// What the file system says.
    fn forget_digest(&self, master: Uuid) -> impl Future<Output = Result<(), String>> + Send;

    /// Milliseconds since 1970, for the time of a cut.
    fn unix_ms(&self) -> u64;

    /// A name that was never used: random, but in a simulator.
    fn fresh(&self) -> Uuid;
}

/// A claimed device.
pub trait Claim: fmt::Debug + Send + Sync + 'static {
    /// Where it was found.
    fn path(&self) -> &Path;

    /// What it is and can do.
    fn capabilities(&self) -> Capabilities;
}

/// What is to be found by what lies on it, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Masters, shadows and bitmap volumes: not to be found.
    pub raw: Vec<PathBuf>,
    /// Numbers of presented shadows, whose file systems have the UUIDs of their masters': not to be found.
    pub shadows: Vec<u32>,
    /// Numbers of presented masters: to be found in place of the others.
    pub masters: Vec<u32>,
}

/// How much is to be known of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What it is and what lies on it.
    What,
    /// Also who uses it: that costs a look at every process.
    WhatAndWho,
}

/// Why a device could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LookError {
    /// The path leads nowhere.
    #[error("{} is not there", .0.display())]
    NotThere(PathBuf),
    /// It cannot be a volume.
    #[error("{} is {found}", path.display())]
    NotAVolume {
        /// The path.
        path: PathBuf,
        /// What is there: "a directory".
        found: String,
    },
    /// The device does not answer in time.
    #[error("{} does not answer", .0.display())]
    Hung(PathBuf),
    /// The device failed.
    #[error("{}: {detail}", path.display())]
    Failed {
        /// The path.
        path: PathBuf,
        /// How.
        detail: String,
    },
}

/// Why a presented device could not be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotHeld {
    /// It is open.
    Open {
        /// The device.
        device: DevicePath,
        /// Who has it open, in words.
        openers: String,
        /// Those only read it, as udev and scanners do with every device that they are told of.
        may_pass: bool,
    },
    /// It could not be made sure of.
    Failed(PlatformError),
}

/// Why a device could not be claimed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClaimError {
    /// Between the look and the claim another device came under its name.
    #[error("{} changed while it was looked at", .0.display())]
    Changed(PathBuf),
    /// Somebody holds it.
    #[error("{} is in use: {by}", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
        /// By whom, as far as can be found out.
        by: String,
    },
    /// It cannot be written.
    #[error("{} is read-only", .0.display())]
    ReadOnly(PathBuf),
    /// The device failed.
    #[error("{}: {detail}", path.display())]
    Failed {
        /// The path.
        path: PathBuf,
        /// How.
        detail: String,
    },
}

/// What a ublk device is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverState {
    /// Added and not started, or stopped.
    Dead,
    /// Started; its server may have died a moment ago.
    Live,
    /// Its server is gone, and what was asked of it waits.
    Quiesced,
    /// Something else.
    Other,
    /// A command for it was given up and does not return from the kernel: it is lost until the machine starts anew.
    Stuck,
}

/// A device of the ublk driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverDevice {
    /// Its number.
    pub number: u32,
    /// What it was marked with when it was added: proves whose it is.
    pub tag: u64,
    /// What it is doing.
    pub state: DriverState,
    /// Its block device, if it is there.
    pub block: Option<DeviceNumber>,
    /// The process that serves it, or served it last.
    pub server: Option<u32>,
}

/// What a new device of the driver is to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverSpec {
    /// Its number; none for the first free one.
    pub number: Option<u32>,
    /// Proves whose it is.
    pub tag: u64,
    /// Which side it presents.
    pub side: Side,
    /// Requests in flight.
    pub depth: u16,
    /// Bytes that are presented: the record's, not the device's.
    pub size: u64,
    /// The physical master: both sides present its blocks (E17).
    pub master: Capabilities,
    /// A completed write may be lost by a power cut until a flush.
    pub volatile_cache: bool,
}

/// Why the driver did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DriverError {
    /// The command did not return; it may still take effect.
    #[error("{command} of ublk device {number} does not return")]
    Hung {
        /// Which.
        command: &'static str,
        /// Of which.
        number: u32,
    },
    /// There is no such device.
    #[error("there is no ublk device {0}")]
    NoSuchDevice(u32),
    /// The number is taken.
    #[error("ublk device {0} is somebody else's")]
    Taken(u32),
    /// It was refused.
    #[error("{0}")]
    Refused(String),
}

/// A set that is ready to be served.
#[derive(Debug)]
pub struct ReadySet<C> {
    /// Its place.
    pub index: SetIndex,
    /// What was prepared or recovered; the device slots in it are replaced.
    pub config: SetConfig,
    /// The planes.
    pub image: SetImage,
    /// Its volumes.
    pub volumes: SetVolumes<C>,
}

/// A set's volumes, claimed.
#[derive(Debug)]
pub struct SetVolumes<C> {
    /// The shadow.
    pub shadow: C,
    /// The bitmap volume.
    pub bitmap: C,
}

impl<C> SetVolumes<C> {
    /// In the order of [`slots`](Self::slots).
    #[must_use]
    pub fn into_vec(self) -> Vec<C> {
        vec![self.shadow, self.bitmap]
    }

    /// The volumes in the order of [`into_vec`](Self::into_vec).
    ///
    /// # Panics
    /// If it is not two of them.
    #[must_use]
    pub fn from_vec(claims: Vec<C>) -> Self {
        let mut claims = claims.into_iter();
        let mut next = || claims.next().expect("a set has two volumes");
        Self { shadow: next(), bitmap: next() }
    }

    /// Where they are in a store that has them in this order.
    #[must_use]
    pub fn slots(slots: &[DeviceSlot]) -> SetDevices {
        SetDevices { shadow: slots[0], bitmap: slots[1] }
    }
}

/// What a reactor is started with.
#[derive(Debug)]
pub struct ReactorSetup<W: World> {
    /// The master.
    pub id: Uuid,
    /// Its name, for logs.
    pub name: String,
    /// The device, claimed.
    pub master: W::Claim,
    /// Size and chunks.
    pub geometry: Geometry,
    /// Requests that the presented master may have in flight.
    pub depth: u16,
    /// Sets that were recovered.
    pub sets: Vec<ReadySet<W::Claim>>,
    /// Where the ends of images are recorded.
    pub state: Arc<State<W::Files>>,
}

/// What a reactor knows, for status.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Per set.
    pub sets: Vec<(SetIndex, SetStatus)>,
    /// Of the engine.
    pub counters: Counters,
    /// What the presented master was asked.
    pub master: RequestCounters,
    /// Of the devices.
    pub io: IoCounts,
}

/// What a presented device was asked since its reactor started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounters {
    /// Reads.
    pub reads: u64,
    /// Writes, write-zeroes included.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
    /// Requests that have ended.
    pub completed: u64,
    /// Those that ended with an error.
    pub errors: u64,
    /// Those that waited for a buffer.
    pub buffer_waits: u64,
}

/// How a reactor has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReactorEnd {
    /// It was told to.
    Told,
    /// It died.
    Died,
    /// What it took its devices for holds no longer: one of them has a volatile cache now (E13).
    Outdated,
}

/// The reactor has ended; what it was asked is not known to have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the master's thread has ended")]
pub struct ReactorGone;

/// The thread of a master. Clones are the same thread. Every answer may take as long as the devices do.
pub trait Reactor<W: World>: Clone + fmt::Debug + Send + Sync + 'static {
    /// Takes a prepared set.
    ///
    /// # Errors
    /// [`ReactorGone`], or what could not be made.
    fn add_set(
        &self,
        set: ReadySet<W::Claim>,
    ) -> impl Future<Output = Result<Result<(), String>, ReactorGone>> + Send;

    /// Forgets a set without an image and lets its volumes go.
    ///
    /// # Errors
    /// [`ReactorGone`], or what is still in flight on its volumes.
    fn remove_set(
        &self,
        set: SetIndex,
    ) -> impl Future<Output = Result<Result<(), String>, ReactorGone>> + Send;

    /// Tells the engine.
    ///
    /// # Errors
    /// [`ReactorGone`].
    fn command(
        &self,
        command: Command,
    ) -> impl Future<Output = Result<Result<Done, Refusal>, ReactorGone>> + Send;

    /// Serves a device of the driver, so that it can be started.
    ///
    /// # Errors
    /// [`ReactorGone`], or what the driver says.
    fn serve(
        &self,
        side: Side,
        number: u32,
        spec: DriverSpec,
    ) -> impl Future<Output = Result<Result<(), String>, ReactorGone>> + Send;

    /// Stops serving one that the driver has ended.
    ///
    /// # Errors
    /// [`ReactorGone`].
    fn leave(&self, side: Side) -> impl Future<Output = Result<(), ReactorGone>> + Send;

    /// What is going on.
    ///
    /// # Errors
    /// [`ReactorGone`].
    fn snapshot(&self) -> impl Future<Output = Result<Snapshot, ReactorGone>> + Send;

    /// Chunks by kind, for runs of them; none if there is no such set.
    ///
    /// # Errors
    /// [`ReactorGone`].
    fn map(
        &self,
        set: SetIndex,
        runs: Vec<Range<u64>>,
    ) -> impl Future<Output = Result<Option<Vec<RunCounts>>, ReactorGone>> + Send;

    /// Ends the thread: its devices come to rest in the kernel, its claims fall.
    fn stop(&self) -> impl Future<Output = ()> + Send;

    /// Waits until the thread has ended.
    fn ended(&self) -> impl Future<Output = ReactorEnd> + Send;
}
