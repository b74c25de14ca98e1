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

/// Shortest time between two tries of START_USER_RECOVERY. The kernel answers "busy" in microseconds, and the wait is
/// part of what a client sees of a restart.
const RECOVERY_RETRY_MIN: Duration = Duration::from_micros(100);
/// Longest: a device that has kept its server for seconds may do so for hours.
const RECOVERY_RETRY_MAX: Duration = Duration::from_millis(250);

/// How long to wait for the next try, after so long in vain: the later a try, the less does a client notice of it.
fn recovery_pause(waited: Duration) -> Duration {
    (waited / 8).clamp(RECOVERY_RETRY_MIN, RECOVERY_RETRY_MAX)
}

/// Handle of the control thread. Clones share the thread.
///
/// # Guarantees
/// Every command ends by the deadline, whatever the kernel does; the time that it waits for those before it counts. A
/// command whose call ended with [`Error::NotSent`] or [`Error::Unfinished`] was not sent and will not be. While a
/// command that changes something has not returned from the kernel, no other one that does is sent for the same target,
/// and so none is executed twice at a time. Whatever hangs, this process can be killed, and then
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

    /// What the driver can do.
    ///
    /// # Errors
    /// As every command: [`Error::Refused`], [`Error::Deadline`], [`Error::NotSent`], [`Error::Unfinished`],
    /// [`Error::HelperLost`].
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
    /// As every command; [`Error::Deadline`] if a queue does not serve. The device may come up later; or never, if its
    /// server ends meanwhile and the driver reads the partition table by itself: it then holds the device's lock while it
    /// waits for that, and no command for that device returns any more. Present the master as another one.
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

    /// Whether a command for the device was given up that has not returned from the kernel, as of the last command that
    /// ended. Where a kill has met START_DEV it never returns, and the device is lost until the machine starts anew.
    pub fn is_unfinished(&self, device: DeviceId) -> bool {
        self.worker.is_unfinished(Target::Device(device))
    }

    /// Takes the device over from a dead server, once it is free: tries for as long as the kernel says busy, at first
    /// every 100 µs and then less often. Other commands get their turn between two tries. Returns how long it took.
    ///
    /// It has no end of its own: to give up would leave the device parked.
    ///
    /// # Assumptions
    /// The caller holds the claims on all backing devices: in this data mode the kernel does not wait for
    /// writes that the dead server has in flight.
    ///
    /// # Errors
    /// [`Error::RecoveryGone`] at once if the device does not exist; otherwise as every command.
    pub fn start_recovery(&self, device: DeviceId) -> Result<Duration, Error> {
        let start = Instant::now();
        while !self.try_start_recovery(device)? {
            std::thread::sleep(recovery_pause(start.elapsed()));
        }
        Ok(start.elapsed())
    }

    fn try_start_recovery(&self, device: DeviceId) -> Result<bool, Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_stays_busy_is_asked_less_and_less_often() {
        let pause = |waited_ms| recovery_pause(Duration::from_millis(waited_ms));
        assert_eq!(pause(0), RECOVERY_RETRY_MIN);
        assert_eq!(pause(80), Duration::from_millis(10));
        assert_eq!(pause(3_600_000), RECOVERY_RETRY_MAX);
    }
}
