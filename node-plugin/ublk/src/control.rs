//! Control commands, each with a deadline, sent by a process of their own.
//!
//! A control command can hang in the kernel and then no signal ends the process that sent it: see
//! [`helper`](crate::helper). A thread hands one command at a time to the helper: concurrent making and deleting of
//! devices is what the worst reports about the driver have in common.
//!
//! ```text
//! caller ── job ──> queue ──> control thread ──> helper process ── command ──> kernel
//!    ^                            │
//!    └── answer, or the deadline <┘   overdue: the helper is left behind, the next command gets another
//! ```

mod worker;

use std::fs::OpenOptions;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::command::{Command, Prepared, Target};
use crate::device::{DeviceId, DeviceInfo, DeviceSpec, existing_ids};
use crate::host::CONTROL_PATH;
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

/// Handle of the control thread. Clones share the thread; each has its own deadline.
///
/// # Guarantees
/// Every call returns by its deadline, whatever the kernel does, except that a full queue of commands of
/// other clones is waited for within that deadline too. A command whose call ended with
/// [`Error::NotSent`] was not sent and will not be. Whatever hangs, this process can be killed, and then
/// holds no device.
#[derive(Clone, Debug)]
pub struct Control {
    worker: Arc<Worker>,
    deadline: Duration,
}

impl Control {
    /// Starts the control thread and its helper process. `deadline` bounds each single command.
    ///
    /// The helper is this program once more: its `main` must begin with
    /// [`serve_helper`](crate::serve_helper). Call this before devices are claimed: the process is made by
    /// `posix_spawn`, and until it runs its own program it shares what this one has open.
    ///
    /// # Errors
    /// If the driver's node cannot be opened (see [`Host::probe`](crate::Host::probe) for why) or the thread or
    /// process cannot be started.
    pub fn open(deadline: Duration) -> Result<Control, Error> {
        OpenOptions::new().read(true).write(true).open(CONTROL_PATH).map_err(Error::OpenControl)?;
        Ok(Control { worker: Arc::new(Worker::start()?), deadline })
    }

    /// The same control thread with another deadline.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Control {
        Control { worker: Arc::clone(&self.worker), deadline }
    }

    /// What the driver can do.
    ///
    /// # Errors
    /// As every command: [`Error::Refused`], [`Error::Deadline`], [`Error::NotSent`], [`Error::HelperLost`].
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

    /// Makes `/dev/ublkbN`. Every tag of every queue must have been fetched, and the queues' threads must be
    /// serving: a driver without [`Features::NO_AUTO_PART_SCAN`] reads the partition table before this returns,
    /// one with it does not read it at all (see [`reread_partitions`](crate::reread_partitions)).
    ///
    /// # Errors
    /// As every command; [`Error::Deadline`] if a queue does not serve. The device may come up later; or never,
    /// if its server ends meanwhile: the driver then holds the device's lock while it waits for the partition
    /// table, and no command for that device returns any more. Present the master as another one.
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
