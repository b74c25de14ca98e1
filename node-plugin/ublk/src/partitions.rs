//! Reading a device's partition table again, after what is below it has changed.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::helper::Helper;
use crate::helper::left::{HANGING_MAX, LeftBehind};
use crate::{DeviceId, Errno, Error};

/// Those that wait for devices that do not answer.
static LEFT: Mutex<LeftBehind<Helper, DeviceId>> = Mutex::new(LeftBehind::new());

fn left() -> MutexGuard<'static, LeftBehind<Helper, DeviceId>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionScan {
    /// The kernel knows the partitions that are there now; perhaps none.
    Read,
    /// Somebody has a partition open: the kernel keeps the old table until that is closed, and it is read again.
    PartitionOpen,
    /// It was not read in time, since the device does not answer. It may be read yet, when the device does.
    Late,
}

/// Has the kernel read the partition table of `/dev/ublkbN` again (BLKRRPART), for at most `deadline`.
///
/// The device must be served while this waits, by a thread other than the caller's. A process of its own asks: it
/// waits with the device, also if this process dies, and takes nothing with it. A device for which one waits already
/// gets no second one. Blocks the thread.
///
/// After a restore and after a cut of a shadow the kernel still knows the old partitions, and serves them at their
/// old places: nothing but this makes it look.
///
/// # Errors
/// [`Error::RereadPartitions`], if there is no such device, the kernel refuses, or no process can be started.
pub fn reread_partitions(device: DeviceId, deadline: Duration) -> Result<PartitionScan, Error> {
    let failed = |source| Error::RereadPartitions { device, source };
    {
        let mut left = left();
        if left.unfinished().any(|waits| *waits == device) {
            return Ok(PartitionScan::Late);
        }
        if !left.has_room() {
            let full =
                format!("{HANGING_MAX} processes wait for partition tables of devices that do not answer");
            return Err(failed(io::Error::other(full)));
        }
    }
    let mut helper = Helper::start().map_err(failed)?;
    let scan = judge(helper.reread(device.get(), deadline)).map_err(failed);
    if matches!(scan, Ok(PartitionScan::Late)) {
        helper.dismiss();
        left().push(helper, device);
    }
    scan
}

fn judge(outcome: io::Result<Result<(), Errno>>) -> io::Result<PartitionScan> {
    match outcome {
        Ok(Ok(())) => Ok(PartitionScan::Read),
        Ok(Err(Errno::EBUSY)) => Ok(PartitionScan::PartitionOpen),
        Ok(Err(errno)) => Err(io::Error::from_raw_os_error(errno.raw())),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Ok(PartitionScan::Late)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_meaning() {
        assert_eq!(judge(Ok(Ok(()))).ok(), Some(PartitionScan::Read));
        assert_eq!(judge(Ok(Err(Errno::EBUSY))).ok(), Some(PartitionScan::PartitionOpen));
        assert_eq!(judge(Err(io::ErrorKind::WouldBlock.into())).ok(), Some(PartitionScan::Late));
        let gone = judge(Ok(Err(Errno::ENODEV))).expect_err("no device");
        assert_eq!(gone.raw_os_error(), Some(libc::ENODEV));
        assert!(judge(Err(io::ErrorKind::UnexpectedEof.into())).is_err(), "a helper that died is no answer");
    }
}
