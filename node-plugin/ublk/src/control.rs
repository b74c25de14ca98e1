//! Control commands, each with a deadline, on a thread of their own.
//!
//! A control command can hang in the kernel and then no signal ends it, so it must never run on a thread
//! that anything else depends on. One thread runs one command at a time: concurrent making and deleting of
//! devices is what the worst reports about the driver have in common.
//!
//! ```text
//! caller ── job ──> queue ──> control thread ── command ──> kernel
//!    ^                            │
//!    └── answer, or the deadline <┘   overdue: later callers are refused until the command returns
//! ```

mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::command::{Command, Prepared, Target};
use crate::device::{DeviceId, DeviceInfo, DeviceSpec, existing_ids};
use crate::params::{DeviceParams, params_len};
use crate::uapi::{DevInfo, Params};
use crate::{Errno, Error, Features};

use worker::Worker;

/// Between two tries of START_USER_RECOVERY. The kernel answers "busy" in microseconds, and the wait is
/// part of what a client sees of a restart.
const RECOVERY_RETRY_INTERVAL: Duration = Duration::from_micros(100);

/// How long to wait for the I/O of a dead server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryWait {
    /// Until it has landed. What the claim rule asks for: giving up would leave the device parked.
    Forever,
    /// At most this long.
    AtMost(Duration),
}

/// A command that holds the control thread past its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wedge {
    /// The command.
    pub command: Command,
    /// What it is about.
    pub target: Target,
    /// Since when it runs.
    pub since: Instant,
}

/// Handle of the control thread. Clones share the thread; each has its own deadline.
///
/// # Guarantees
/// Every call returns by its deadline, whatever the kernel does, except that a full queue of commands of
/// other clones is waited for within that deadline too. A command whose call ended with
/// [`Error::Wedged`] was not sent and will not be.
#[derive(Clone, Debug)]
pub struct Control {
    worker: Arc<Worker>,
    deadline: Duration,
}

impl Control {
    /// Opens `/dev/ublk-control` and starts the control thread. `deadline` bounds each single command.
    ///
    /// The thread inherits the I/O flusher mark, so call
    /// [`become_io_flusher`](crate::become_io_flusher) first.
    ///
    /// # Errors
    /// If the node cannot be opened (see [`Host::probe`](crate::Host::probe) for why) or the thread's ring
    /// cannot be made.
    pub fn open(deadline: Duration) -> Result<Control, Error> {
        Ok(Control { worker: Arc::new(Worker::start()?), deadline })
    }

    /// The same control thread with another deadline.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Control {
        Control { worker: Arc::clone(&self.worker), deadline }
    }

    /// The command that has outlived its deadline and still runs, if any.
    #[must_use]
    pub fn wedge(&self) -> Option<Wedge> {
        self.worker.wedge()
    }

    /// What the driver can do.
    ///
    /// # Errors
    /// As every command: [`Error::Refused`], [`Error::Deadline`], [`Error::Wedged`].
    pub fn features(&self) -> Result<Features, Error> {
        let buffer = [0; size_of::<u64>()];
        let answer = self.run(Prepared::with_buffer(Command::GetFeatures, Target::Driver, &buffer))?;
        Ok(Features::from_bits(bytemuck::pod_read_unaligned(&answer)))
    }

    /// Makes a device, not yet visible to clients, and checks that it can be recovered and its data copied.
    ///
    /// # Errors
    /// [`Error::Ungranted`] if the driver left out a flag of [`Features::REQUIRED`]; the device is then
    /// deleted again. Otherwise as every command.
    pub fn add_device(&self, spec: &DeviceSpec) -> Result<DeviceInfo, Error> {
        let wire = spec.to_wire(pid_wire());
        let answer =
            self.run(Prepared::with_buffer(Command::AddDev, spec.target(), bytemuck::bytes_of(&wire)))?;
        let info = DeviceInfo::from_wire(&bytemuck::pod_read_unaligned(&answer));
        let missing = Features::REQUIRED.missing_from(info.features);
        if missing.is_empty() {
            return Ok(info);
        }
        self.delete(info.id)?;
        Err(Error::Ungranted { device: info.id, missing, granted: info.features })
    }

    /// Sets geometry and limits of a device that is not started.
    ///
    /// # Errors
    /// [`Error::BadParams`] without asking the kernel; otherwise as every command.
    pub fn set_params(&self, device: DeviceId, params: &DeviceParams) -> Result<(), Error> {
        let wire = params.to_wire().map_err(|reason| Error::BadParams { device, reason })?;
        let buffer = bytemuck::bytes_of(&wire);
        self.run(Prepared::with_buffer(Command::SetParams, Target::Device(device), buffer)).map(drop)
    }

    /// Geometry and limits of a device.
    ///
    /// # Errors
    /// [`Error::BadParams`] for a device whose parameters are none of ours; otherwise as every command.
    pub fn params(&self, device: DeviceId) -> Result<DeviceParams, Error> {
        let wire = Params { len: params_len(), ..Params::default() };
        let prepared =
            Prepared::with_buffer(Command::GetParams, Target::Device(device), bytemuck::bytes_of(&wire));
        let answer = self.run(prepared)?;
        DeviceParams::from_wire(&bytemuck::pod_read_unaligned(&answer))
            .map_err(|reason| Error::BadParams { device, reason })
    }

    /// Makes `/dev/ublkbN`. Every tag of every queue must have been fetched, and the queues' threads must
    /// be serving: the kernel reads the partition table before this returns.
    ///
    /// # Errors
    /// As every command; [`Error::Deadline`] if a queue does not serve. The device may come up later.
    pub fn start(&self, device: DeviceId) -> Result<(), Error> {
        self.run(Prepared::plain(Command::StartDev, Target::Device(device), pid_data())).map(drop)
    }

    /// State, server and size of a device.
    ///
    /// # Errors
    /// As every command; [`Error::is_no_such_device`] tells that there is none.
    pub fn info(&self, device: DeviceId) -> Result<DeviceInfo, Error> {
        let buffer = [0; size_of::<DevInfo>()];
        let answer = self.run(Prepared::with_buffer(Command::GetDevInfo, Target::Device(device), &buffer))?;
        Ok(DeviceInfo::from_wire(&bytemuck::pod_read_unaligned(&answer)))
    }

    /// State of every device that exists, for the decision to recover or delete after a restart.
    ///
    /// # Errors
    /// As every command. Devices that vanish meanwhile are left out.
    pub fn devices(&self) -> Result<Vec<DeviceInfo>, Error> {
        let mut found = Vec::new();
        for device in existing_ids()? {
            match self.info(device) {
                Ok(info) => found.push(info),
                Err(error) if error.is_no_such_device() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Removes `/dev/ublkbN`. Waits for I/O in flight, except on a device without a server, whose waiting
    /// I/O fails. Afterwards every tag of the queues ends.
    ///
    /// # Errors
    /// As every command.
    pub fn stop(&self, device: DeviceId) -> Result<(), Error> {
        self.run(Prepared::plain(Command::StopDev, Target::Device(device), 0)).map(drop)
    }

    /// Removes the device. Waits until nothing holds its character node open: drop queues, rings and
    /// [`CharDevice`](crate::CharDevice) first, or the call ends with its deadline.
    ///
    /// # Errors
    /// As every command.
    pub fn delete(&self, device: DeviceId) -> Result<(), Error> {
        self.run(Prepared::plain(Command::DelDev, Target::Device(device), 0)).map(drop)
    }

    /// Takes the device over from a dead server, once it is free: retries every 100 µs while the kernel
    /// says busy. Other commands get their turn between two tries. Returns how long it took.
    ///
    /// # Assumptions
    /// The caller holds the claims on all backing devices: in this data mode the kernel does not wait for
    /// writes that the dead server has in flight.
    ///
    /// # Errors
    /// [`Error::RecoveryBusy`] after the given wait; [`Error::RecoveryGone`] at once if the device does
    /// not exist; otherwise as every command.
    pub fn start_recovery(&self, device: DeviceId, wait: RecoveryWait) -> Result<Duration, Error> {
        let start = Instant::now();
        loop {
            if self.try_start_recovery(device)? {
                return Ok(start.elapsed());
            }
            let waited = start.elapsed();
            if let RecoveryWait::AtMost(limit) = wait
                && waited >= limit
            {
                return Err(Error::RecoveryBusy { device, waited });
            }
            std::thread::sleep(RECOVERY_RETRY_INTERVAL);
        }
    }

    /// One try of [`Control::start_recovery`]: false while the device is busy.
    ///
    /// # Errors
    /// As there, without [`Error::RecoveryBusy`].
    pub fn try_start_recovery(&self, device: DeviceId) -> Result<bool, Error> {
        match self.run(Prepared::plain(Command::StartUserRecovery, Target::Device(device), 0)) {
            Ok(_) => Ok(true),
            Err(Error::Refused { errno: Errno::EBUSY, .. }) => Ok(false),
            Err(Error::Refused { errno: Errno::ENODEV, .. }) => Err(Error::RecoveryGone { device }),
            Err(error) => Err(error),
        }
    }

    /// Lets the device's waiting I/O run again. Every tag must have been fetched.
    ///
    /// # Errors
    /// As every command.
    pub fn end_recovery(&self, device: DeviceId) -> Result<(), Error> {
        self.run(Prepared::plain(Command::EndUserRecovery, Target::Device(device), pid_data())).map(drop)
    }

    fn run(&self, prepared: Prepared) -> Result<Box<[u8]>, Error> {
        self.worker.run(prepared, self.deadline)
    }
}

/// The driver compares it with the process that opened the device's character node.
fn pid_data() -> u64 {
    u64::from(std::process::id())
}

fn pid_wire() -> i32 {
    i32::try_from(std::process::id()).expect("a pid is positive")
}
