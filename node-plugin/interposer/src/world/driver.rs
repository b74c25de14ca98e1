//! The ublk driver, and the block devices that it presents.

use super::blocking;
use super::reactor::front::MAX_IO_BYTES;
use std::time::Duration;
use umbra_engine::Side;
use umbra_identity::DeviceNumber;
use umbra_identity::proof::prove_path_free;
use umbra_lifecycle::device_path;
use umbra_lifecycle::world::{DriverDevice, DriverError, DriverSpec, DriverState, NotHeld};
use umbra_platform::PlatformError;
use umbra_platform::value::DevicePath;
use umbra_ublk::{
    Control, DeviceId, DeviceInfo, DeviceParams, DeviceSpec, DeviceState, DiscardParams, Errno, Error,
    OwnerTag, PartitionScan, block_path, presentable_io_opt, wait_for_block_node,
};

/// How long a node may take to appear.
const NODE_PATIENCE: Duration = Duration::from_secs(10);
/// How long the kernel may take to read a partition table.
const SCAN_PATIENCE: Duration = Duration::from_secs(5);
/// Largest write-zeroes, in sectors: first writes for all its chunks are made at once, so it is kept small.
const WRITE_ZEROES_SECTORS: u32 = 8 << 10;
/// Largest discard, in sectors.
const DISCARD_SECTORS: u32 = 128 << 10;

fn parameters(spec: &DriverSpec) -> DeviceParams {
    let master = spec.master;
    let offers_discard = spec.side == Side::Master && master.discard;
    let discard = DiscardParams {
        granularity_bytes: master.physical_block,
        max_sectors: if offers_discard { DISCARD_SECTORS } else { 0 },
        max_write_zeroes_sectors: WRITE_ZEROES_SECTORS,
    };
    DeviceParams {
        capacity_sectors: spec.size / 512,
        logical_block_bytes: master.logical_block,
        physical_block_bytes: master.physical_block,
        io_min_bytes: master.physical_block,
        io_opt_bytes: presentable_io_opt(master.optimal_io, master.physical_block),
        max_io_bytes: MAX_IO_BYTES,
        read_only: false,
        rotational: master.rotational,
        volatile_cache: spec.volatile_cache,
        // Always: a FUA write that the block layer takes apart keeps a recovery from beginning (E24).
        fua: spec.volatile_cache,
        discard: Some(discard),
    }
}

fn driver_error(error: &Error, number: u32, command: &'static str) -> DriverError {
    if error.is_no_such_device() {
        return DriverError::NoSuchDevice(number);
    }
    match error {
        Error::Deadline { .. } => DriverError::Hung { command, number },
        // ADD_DEV alone says this, of a number that was asked for (`ublk_alloc_dev_number` in drivers/block/ublk_drv.c).
        Error::Refused { errno: Errno::EEXIST, .. } => DriverError::Taken(number),
        Error::Unfinished { earlier, .. } => DriverError::Hung { command: earlier.name(), number },
        other => DriverError::Refused(other.to_string()),
    }
}

async fn run<T: Send + 'static>(
    control: &Control,
    number: u32,
    command: &'static str,
    work: impl FnOnce(&Control) -> Result<T, Error> + Send + 'static,
) -> Result<T, DriverError> {
    let control = control.clone();
    let outcome = blocking(move || work(&control)).await.map_err(DriverError::Refused)?;
    outcome.map_err(|error| driver_error(&error, number, command))
}

fn block_number(id: DeviceId) -> Option<DeviceNumber> {
    DeviceNumber::parse(&std::fs::read_to_string(format!("/sys/block/ublkb{id}/dev")).ok()?)
}

fn described(control: &Control, info: &DeviceInfo) -> DriverDevice {
    DriverDevice {
        number: info.id.get(),
        tag: info.owner_tag.map_or(0, OwnerTag::get),
        state: match info.state {
            _ if control.is_unfinished(info.id) => DriverState::Stuck,
            DeviceState::Dead => DriverState::Dead,
            DeviceState::Live => DriverState::Live,
            DeviceState::Quiesced => DriverState::Quiesced,
            DeviceState::FailIo | DeviceState::Unknown(_) => DriverState::Other,
        },
        block: block_number(info.id),
        server: info.server_pid,
    }
}

pub(super) async fn list(control: &Control) -> Result<Vec<DriverDevice>, DriverError> {
    run(control, 0, "a look at its devices", |control| {
        Ok(control.devices()?.iter().map(|info| described(control, info)).collect())
    })
    .await
}

pub(super) async fn add(control: &Control, spec: DriverSpec) -> Result<u32, DriverError> {
    let number = spec.number.unwrap_or_default();
    run(control, number, "ADD_DEV", move |control| {
        let wanted = DeviceSpec {
            id: spec.number.map(DeviceId::new),
            queues: 1,
            depth: spec.depth,
            max_io_bytes: MAX_IO_BYTES,
            owner_tag: OwnerTag::new(spec.tag),
        };
        let info = control.add_device(&wanted)?;
        if let Err(error) = control.set_params(info.id, &parameters(&spec)) {
            let _ = control.delete(info.id);
            return Err(error);
        }
        Ok(info.id.get())
    })
    .await
}

pub(super) async fn start(control: &Control, number: u32) -> Result<(), DriverError> {
    run(control, number, "START_DEV", move |control| {
        let id = DeviceId::new(number);
        control.start(id)?;
        wait_for_block_node(id, NODE_PATIENCE).map(drop)
    })
    .await?;
    // The driver was told not to scan: here a scan that hangs holds up nobody.
    reread_partitions(number).await;
    Ok(())
}

pub(super) async fn recover(control: &Control, number: u32) -> Result<(), DriverError> {
    run(control, number, "START_USER_RECOVERY", move |control| {
        control.start_recovery(DeviceId::new(number)).map(drop)
    })
    .await
}

pub(super) async fn recovered(control: &Control, number: u32) -> Result<(), DriverError> {
    run(control, number, "END_USER_RECOVERY", move |control| {
        let id = DeviceId::new(number);
        control.end_recovery(id)?;
        wait_for_block_node(id, NODE_PATIENCE).map(drop)
    })
    .await
}

fn if_there(outcome: Result<(), DriverError>) -> Result<(), DriverError> {
    match outcome {
        Err(DriverError::NoSuchDevice(_)) => Ok(()),
        outcome => outcome,
    }
}

pub(super) async fn stop(control: &Control, number: u32) -> Result<(), DriverError> {
    let stopped = run(control, number, "STOP_DEV", move |control| control.stop(DeviceId::new(number)));
    if_there(stopped.await)
}

pub(super) async fn delete(control: &Control, number: u32) -> Result<(), DriverError> {
    let deleted = run(control, number, "DEL_DEV", move |control| control.delete(DeviceId::new(number)));
    if_there(deleted.await)
}

pub(super) async fn reread_partitions(number: u32) {
    let id = DeviceId::new(number);
    match blocking(move || umbra_ublk::reread_partitions(id, SCAN_PATIENCE)).await {
        Ok(Ok(PartitionScan::Read)) => {}
        Ok(Ok(scan)) => tracing::warn!(%number, ?scan, "the kernel has not read the partition table again"),
        Ok(Err(error)) => tracing::warn!(%number, %error, "the partition table could not be read again"),
        Err(error) => tracing::warn!(%number, error, "the partition table could not be read again"),
    }
}

pub(super) async fn hold(number: u32) -> Result<std::fs::File, NotHeld> {
    let outcome = blocking(move || hold_now(DeviceId::new(number))).await;
    outcome.map_err(|error| NotHeld::Failed(PlatformError::Stopping { cause: error.as_str().into() }))?
}

/// Refuses if anything has the presented device open. The claim that is returned keeps others out, as long as it is
/// held, and shows that it was not mounted.
fn hold_now(id: DeviceId) -> Result<std::fs::File, NotHeld> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = block_path(id);
    let device: DevicePath = device_path(&path);
    let exclusive = i32::try_from(rustix::fs::OFlags::EXCL.bits()).expect("a small flag");
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(exclusive).open(&path);
    // The claim first: what is found free then stays so, but for mere openers. A refused claim does not say whose it is.
    prove_path_free(&path, std::process::id()).map_err(|users| NotHeld::Open {
        device: device.clone(),
        openers: users.to_string(),
        may_pass: users.may_pass(),
    })?;
    let held = opened.map_err(|error| NotHeld::Open {
        device: device.clone(),
        openers: error.to_string(),
        may_pass: false,
    })?;
    umbra_uring::drop_page_cache(&held).map_err(|error| {
        let (operation, detail) = ("flush of the page cache".into(), error.to_string().into());
        NotHeld::Failed(PlatformError::Io { device, operation, detail })
    })?;
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbra_ublk::{Command, Target};

    #[test]
    fn what_the_driver_says_is_told_apart() {
        let (command, target) = (Command::AddDev, Target::Device(DeviceId::new(4)));
        let said = |error: Error| driver_error(&error, 4, "ADD_DEV");
        let refused = |errno| said(Error::Refused { command, target, errno });
        assert_eq!(refused(Errno::EEXIST), DriverError::Taken(4));
        assert!(matches!(refused(Errno::EINVAL), DriverError::Refused(_)));
        let hung = DriverError::Hung { command: "START_DEV", number: 4 };
        assert_eq!(said(Error::Unfinished { command, target, earlier: Command::StartDev }), hung);
        assert!(matches!(
            said(Error::Deadline { command, target, deadline: NODE_PATIENCE }),
            DriverError::Hung { .. }
        ));
    }
}
