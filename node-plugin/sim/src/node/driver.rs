//! The ublk driver of the simulated kernel: devices with numbers and marks, and requests that outlive their server.

use crate::stamp::{SECTOR, Value};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::Notify;
use umbra_engine::RequestKind;
use umbra_identity::DeviceNumber;
use umbra_lifecycle::world::{DriverDevice, DriverError, DriverState};

/// Driver number of presented block devices.
pub(super) const MAJOR: u32 = 259;

/// Names a request of the workload.
pub(super) type IoId = u64;

/// A request of the workload.
#[derive(Clone, Debug)]
pub(super) struct Io {
    pub(super) id: IoId,
    pub(super) kind: RequestKind,
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) values: Vec<Value>,
}

impl Io {
    pub(super) fn bytes(&self) -> u64 {
        self.count * SECTOR as u64
    }
}

/// How a request ended: what was read, if it was a read.
pub(super) type IoResult = Result<Option<Vec<u8>>, String>;

/// A device of the driver.
#[derive(Debug)]
pub(super) struct Ublk {
    pub(super) tag: u64,
    pub(super) state: DriverState,
    /// Another server's: nobody of us may touch it.
    pub(super) foreign: bool,
    /// A thread of ours serves it.
    pub(super) served: bool,
    started: bool,
    recovering: bool,
    /// Its start has not returned: if its server dies now, nothing that is asked of the device returns any more.
    starting: bool,
    stuck: Stuck,
    queue: VecDeque<Io>,
    in_flight: BTreeMap<IoId, Io>,
    pub(super) wake: Arc<Notify>,
}

/// Whether a kill has met the start of a device while its partition table was read (kernel fact 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stuck {
    No,
    /// Nobody has asked it for anything since.
    Unseen,
    /// A command of the present process does not return.
    Seen,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Driver {
    pub(super) devices: BTreeMap<u32, Ublk>,
    pub(super) ended: BTreeMap<IoId, IoResult>,
}

impl Ublk {
    pub(super) fn new(tag: u64, foreign: bool) -> Self {
        let state = if foreign { DriverState::Quiesced } else { DriverState::Dead };
        Self {
            tag,
            state,
            foreign,
            served: false,
            started: foreign,
            recovering: false,
            starting: false,
            stuck: Stuck::No,
            queue: VecDeque::new(),
            in_flight: BTreeMap::new(),
            wake: Arc::default(),
        }
    }

    /// What was in flight is asked again when somebody serves it.
    fn server_gone(&mut self) {
        self.served = false;
        self.recovering = false;
        for (_, io) in std::mem::take(&mut self.in_flight) {
            self.queue.push_back(io);
        }
        if self.starting {
            (self.starting, self.stuck) = (false, Stuck::Unseen);
        }
        if self.stuck != Stuck::No {
            self.stuck = Stuck::Unseen;
        } else if self.state == DriverState::Live {
            self.state = DriverState::Quiesced;
        }
    }
}

fn refused(problem: &str) -> DriverError {
    DriverError::Refused(problem.to_owned())
}

impl Driver {
    pub(super) fn list(&self, server: u32) -> Vec<DriverDevice> {
        let described = |(number, device): (&u32, &Ublk)| DriverDevice {
            number: *number,
            tag: device.tag,
            state: if device.stuck == Stuck::Seen { DriverState::Stuck } else { device.state },
            block: (device.started && device.state != DriverState::Dead).then_some(block(*number)),
            server: Some(if device.foreign { 7 } else { server }),
        };
        self.devices.iter().map(described).collect()
    }

    /// Our devices, but for those that only a reboot ends.
    pub(super) fn left_behind(&self) -> usize {
        self.devices.values().filter(|device| !device.foreign && device.stuck == Stuck::No).count()
    }

    fn device(&mut self, number: u32) -> Result<&mut Ublk, DriverError> {
        self.devices.get_mut(&number).ok_or(DriverError::NoSuchDevice(number))
    }

    pub(super) fn add(&mut self, number: Option<u32>, tag: u64) -> Result<u32, DriverError> {
        let free = (0..).find(|number| !self.devices.contains_key(number)).expect("numbers do not end");
        let number = number.unwrap_or(free);
        if self.devices.contains_key(&number) {
            return Err(DriverError::Taken(number));
        }
        self.devices.insert(number, Ublk::new(tag, false));
        Ok(number)
    }

    pub(super) fn serve(&mut self, number: u32) -> Result<Arc<Notify>, String> {
        let device = self.device(number).map_err(|error| error.to_string())?;
        if device.served {
            return Err("somebody serves it".to_owned());
        }
        device.served = true;
        Ok(Arc::clone(&device.wake))
    }

    pub(super) fn start(&mut self, number: u32) -> Result<(), DriverError> {
        let device = self.device(number)?;
        if !device.served || device.state != DriverState::Dead {
            return Err(refused("nobody serves it, or it is live"));
        }
        (device.state, device.started, device.starting) = (DriverState::Live, true, true);
        Ok(())
    }

    /// The start has returned.
    pub(super) fn is_up(&mut self, number: u32) {
        if let Some(device) = self.devices.get_mut(&number) {
            device.starting = false;
        }
    }

    /// Whether a command for the device hangs. The first one of a process shows that.
    pub(super) fn hangs(&mut self, number: u32) -> Option<Stuck> {
        let device = self.devices.get_mut(&number)?;
        let was = device.stuck;
        if was == Stuck::Unseen {
            device.stuck = Stuck::Seen;
        }
        (was != Stuck::No).then_some(was)
    }

    pub(super) fn recover(&mut self, number: u32) -> Result<(), DriverError> {
        let device = self.device(number)?;
        if device.served || device.state != DriverState::Quiesced {
            return Err(refused("it is not quiesced"));
        }
        device.recovering = true;
        Ok(())
    }

    pub(super) fn recovered(&mut self, number: u32) -> Result<(), DriverError> {
        let device = self.device(number)?;
        if !device.served || !device.recovering {
            return Err(refused("it is not being recovered"));
        }
        (device.state, device.recovering) = (DriverState::Live, false);
        device.wake.notify_one();
        Ok(())
    }

    pub(super) fn stop(&mut self, number: u32) {
        let Some(device) = self.devices.get_mut(&number) else { return };
        device.state = DriverState::Dead;
        let waiting = std::mem::take(&mut device.queue).into_iter();
        let waiting = waiting.chain(std::mem::take(&mut device.in_flight).into_values());
        self.ended.extend(waiting.map(|io| (io.id, Err("the device was stopped".to_owned()))));
    }

    pub(super) fn delete(&mut self, number: u32) -> Result<(), DriverError> {
        match self.devices.get(&number) {
            Some(device) if device.served => Err(refused("it is served")),
            Some(_) => {
                self.stop(number);
                self.devices.remove(&number);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The thread that served this device has let go of it.
    pub(super) fn left(&mut self, number: u32) {
        if let Some(device) = self.devices.get_mut(&number) {
            device.server_gone();
        }
    }

    /// The process has died.
    pub(super) fn server_died(&mut self) {
        self.devices.values_mut().filter(|device| !device.foreign).for_each(Ublk::server_gone);
    }

    /// The machine has stopped: nothing of all that is left.
    pub(super) fn reboot(&mut self) {
        *self = Self::default();
    }

    pub(super) fn ask(&mut self, number: u32, io: Io) {
        match self.devices.get_mut(&number) {
            Some(device) if device.state != DriverState::Dead => {
                device.queue.push_back(io);
                device.wake.notify_one();
            }
            _ => {
                self.ended.insert(io.id, Err("there is no such device".to_owned()));
            }
        }
    }

    /// The next request for whoever serves a device.
    pub(super) fn take(&mut self, number: u32) -> Option<Io> {
        let device = self.devices.get_mut(&number)?;
        if device.state != DriverState::Live {
            return None;
        }
        let io = device.queue.pop_front()?;
        device.in_flight.insert(io.id, io.clone());
        Some(io)
    }

    pub(super) fn finish(&mut self, number: u32, id: IoId, result: IoResult) {
        let Some(device) = self.devices.get_mut(&number) else { return };
        if device.in_flight.remove(&id).is_some() {
            self.ended.insert(id, result);
        }
    }
}

/// The block device of a device of the driver.
pub(super) fn block(number: u32) -> DeviceNumber {
    DeviceNumber { major: MAJOR, minor: number }
}
