//! Presenting a master or a shadow as a ublk device: made new, or taken over from a server that died.

use crate::front::{FrontSpec, MAX_IO_BYTES};
use crate::reactor::{Call, Reactor};
use std::sync::Arc;
use std::time::Duration;
use umbra_engine::Side;
use umbra_platform::PlatformError;
use umbra_platform::value::DevicePath;
use umbra_store::Capabilities;
use umbra_ublk::{
    CharDevice, Control, DeviceId, DeviceParams, DeviceSpec, DeviceState, DiscardParams, Features,
    PartitionScan, RecoveryWait, block_path, presentable_io_opt, reread_partitions, wait_for_block_node,
};

/// How long a node may take to appear.
const NODE_PATIENCE: Duration = Duration::from_secs(10);
/// How long the reading of a partition table may hold up a call.
const PARTITIONS_PATIENCE: Duration = Duration::from_secs(5);
/// Largest write-zeroes, in sectors: first writes for all its chunks are made at once, so it is kept small.
const WRITE_ZEROES_SECTORS: u32 = 8 << 10;
/// Largest discard, in sectors.
const DISCARD_SECTORS: u32 = 128 << 10;

/// What is to be presented.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Presentation {
    /// Master or shadow.
    pub side: Side,
    /// Number of the ublk device, if it had one.
    pub id: Option<u32>,
    /// Requests at a time.
    pub depth: u16,
    /// The physical master: both sides present its size and blocks (E17).
    pub master: Capabilities,
    /// A completed write may be lost by a power cut until a flush.
    pub volatile_cache: bool,
}

fn parameters(what: &Presentation) -> DeviceParams {
    let master = what.master;
    let offers_discard = what.side == Side::Master && master.discard;
    let discard = DiscardParams {
        granularity_bytes: master.physical_block,
        max_sectors: if offers_discard { DISCARD_SECTORS } else { 0 },
        max_write_zeroes_sectors: WRITE_ZEROES_SECTORS,
    };
    DeviceParams {
        capacity_sectors: master.size / 512,
        logical_block_bytes: master.logical_block,
        physical_block_bytes: master.physical_block,
        io_min_bytes: master.physical_block,
        io_opt_bytes: presentable_io_opt(master.optimal_io, master.physical_block),
        max_io_bytes: MAX_IO_BYTES,
        read_only: false,
        rotational: master.rotational,
        volatile_cache: what.volatile_cache,
        fua: what.volatile_cache,
        discard: Some(discard),
    }
}

fn refusal(error: &umbra_ublk::Error) -> PlatformError {
    PlatformError::UnsupportedHost { missing: error.to_string().into() }
}

/// Presents a device and serves it. Returns its number.
///
/// # Errors
/// What the driver says.
pub(crate) async fn present(
    control: &Control,
    reactor: &Reactor,
    what: Presentation,
) -> Result<DeviceId, PlatformError> {
    let (id, recovers) = {
        let control = control.clone();
        blocking(move || take_device(&control, &what)).await?
    };
    let device = blocking(move || CharDevice::open(id, NODE_PATIENCE)).await?;
    let spec = FrontSpec {
        side: what.side,
        device: Arc::new(device),
        depth: what.depth,
        capacity_sectors: what.master.size / 512,
    };
    reactor
        .ask(|reply| Call::Serve(spec, reply))
        .await
        .map_err(|error| PlatformError::Stopping { cause: error.to_string().into() })?
        .map_err(|error| refusal(&error))?;
    let control = control.clone();
    blocking(move || {
        if recovers { control.end_recovery(id) } else { control.start(id) }?;
        wait_for_block_node(id, NODE_PATIENCE)?;
        if !recovers && control.info(id)?.features.contains(Features::NO_AUTO_PART_SCAN) {
            read_partitions(id);
        }
        Ok(())
    })
    .await?;
    Ok(id)
}

/// Makes the partitions of what is presented known: after it was started by a driver that does not look, and whenever
/// its content has changed. Blocks the thread; what does not work out costs nobody the device.
pub(crate) fn read_partitions(id: DeviceId) {
    match reread_partitions(id, PARTITIONS_PATIENCE) {
        Ok(PartitionScan::Read) => {}
        Ok(PartitionScan::PartitionOpen) => {
            tracing::warn!(device = %id, "a partition is open, so the kernel keeps the old partition table; close it, then run blockdev --rereadpt");
        }
        Ok(PartitionScan::Late) => {
            tracing::warn!(device = %id, "the partition table could not be read in time; run blockdev --rereadpt");
        }
        Err(error) => tracing::warn!(device = %id, %error, "the partition table was not read"),
    }
}

/// The device to serve: a new one, or the one that a dead server left; true if it must be recovered.
fn take_device(control: &Control, what: &Presentation) -> Result<(DeviceId, bool), umbra_ublk::Error> {
    if let Some(id) = what.id.map(DeviceId::new) {
        match control.info(id) {
            Ok(info)
                if matches!(info.state, DeviceState::Live | DeviceState::Quiesced | DeviceState::FailIo) =>
            {
                // All that the old server had in flight on the master has landed: its claim is ours.
                control.start_recovery(id, RecoveryWait::Forever)?;
                return Ok((id, true));
            }
            Ok(_) => control.delete(id)?,
            Err(error) if error.is_no_such_device() => {}
            Err(error) => return Err(error),
        }
    }
    let spec = DeviceSpec {
        id: what.id.map(DeviceId::new),
        queues: 1,
        depth: what.depth,
        max_io_bytes: MAX_IO_BYTES,
        owner_tag: None,
    };
    let info = control.add_device(&spec)?;
    if let Err(error) = control.set_params(info.id, &parameters(what)) {
        let _ = control.delete(info.id);
        return Err(error);
    }
    Ok((info.id, false))
}

/// Ends a presented device. Nothing has it open.
///
/// # Errors
/// What the driver says.
pub(crate) async fn withdraw(
    control: &Control,
    reactor: &Reactor,
    side: Side,
    id: DeviceId,
) -> Result<(), PlatformError> {
    let stopper = control.clone();
    blocking(move || stopper.stop(id)).await?;
    reactor
        .ask(|reply| Call::Leave(side, reply))
        .await
        .map_err(|error| PlatformError::Stopping { cause: error.to_string().into() })?;
    Ok(())
}

/// Removes a device that was withdrawn and that no ring holds any more.
///
/// # Errors
/// What the driver says.
pub(crate) async fn delete(control: &Control, id: DeviceId) -> Result<(), PlatformError> {
    let control = control.clone();
    blocking(move || control.delete(id)).await
}

/// Ends a presented device that nobody serves any more: what waits for it fails. One that is not there is no error.
///
/// # Errors
/// What the driver says.
pub(crate) async fn end_unserved(control: &Control, id: DeviceId) -> Result<(), PlatformError> {
    let control = control.clone();
    blocking(move || match control.stop(id).and_then(|()| control.delete(id)) {
        Err(error) if error.is_no_such_device() => Ok(()),
        outcome => outcome,
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, umbra_ublk::Error> + Send + 'static,
) -> Result<T, PlatformError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| PlatformError::Stopping { cause: error.to_string().into() })?
        .map_err(|error| refusal(&error))
}

/// Claims presented devices whose content is about to change, and empties their page caches: what they hold now
/// must not be read, or written, later.
///
/// # Errors
/// [`PlatformError::HasOpeners`], or that a cache could not be emptied.
pub(crate) async fn claim_for_change(ids: Vec<DeviceId>) -> Result<Vec<std::fs::File>, PlatformError> {
    let claims = tokio::task::spawn_blocking(move || {
        let claim = |id: DeviceId| {
            let device = claim_presented(id)?;
            umbra_uring::drop_page_cache(&device).map_err(|error| PlatformError::Io {
                device: crate::volumes::device_path(&block_path(id)),
                operation: "flush of the page cache".into(),
                detail: error.to_string().into(),
            })?;
            Ok(device)
        };
        ids.into_iter().map(claim).collect()
    });
    claims.await.map_err(|error| PlatformError::Stopping { cause: error.to_string().into() })?
}

/// Refuses if anything has the presented device open. The claim that is returned keeps others out, as long as
/// it is held, and shows that it was not mounted.
///
/// # Errors
/// [`PlatformError::HasOpeners`].
pub(crate) fn claim_presented(id: DeviceId) -> Result<std::fs::File, PlatformError> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = block_path(id);
    let device: DevicePath = crate::volumes::device_path(&path);
    let openers = umbra_uring::openers(&path).unwrap_or_default();
    if !openers.is_empty() {
        let openers = openers.iter().map(|pid| format!("process {pid}")).collect::<Vec<_>>().join(", ");
        return Err(PlatformError::HasOpeners { device, openers: openers.into() });
    }
    let exclusive = i32::try_from(rustix::fs::OFlags::EXCL.bits()).expect("a small flag");
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(exclusive).open(&path);
    opened.map_err(|error| PlatformError::HasOpeners { device, openers: error.to_string().into() })
}
