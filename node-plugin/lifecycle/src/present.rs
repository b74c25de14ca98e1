//! Presenting a master or a shadow as a ublk device: made new, or taken over from a server that died.
//!
//! Which device of the driver is ours says the tag that it was added with, and nothing else: numbers are given to
//! others after a reboot, and are never recorded. So a device is recovered, stopped or deleted only if it is ours.

use crate::host::Host;
use crate::mutation::{Rule, is_off};
use crate::registry::{Seen, Serving};
use crate::state::{MasterRecord, SetRecord};
use crate::tag::tag;
use crate::words::{device_path, set_name};
use crate::world::{DriverDevice, DriverError, DriverSpec, DriverState, NotHeld, Reactor, World};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use umbra_engine::Side;
use umbra_platform::PlatformError;
use umbra_store::Capabilities;
use uuid::Uuid;

/// What is to be presented.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Presentation {
    pub(crate) id: Uuid,
    pub(crate) side: Side,
    /// Number that a new device is to have.
    pub(crate) number: Option<u32>,
    pub(crate) depth: u16,
    pub(crate) size: u64,
    pub(crate) master: Capabilities,
    pub(crate) volatile_cache: bool,
}

pub(crate) fn driver_refusal(error: &DriverError) -> PlatformError {
    PlatformError::UnsupportedHost { missing: error.to_string().into() }
}

/// The devices of the driver that present the master or set `id`. Those that are stuck in the kernel are nobody's any more:
/// nothing that is asked of them returns, and what they presented gets another number.
pub(crate) async fn devices_of<W: World>(host: &Host<W>, id: Uuid) -> Result<Vec<DriverDevice>, DriverError> {
    Ok(among(host, &host.world.driver_list().await?, id))
}

/// Those of `id` among what the driver has.
fn among<W: World>(host: &Host<W>, all: &[DriverDevice], id: Uuid) -> Vec<DriverDevice> {
    let ours = tag(host.node, id);
    let waits = |device: &DriverDevice| device.state == DriverState::Quiesced;
    let is_of = |device: &DriverDevice| device.tag == ours || is_off(Rule::TagCompared) && waits(device);
    let is_stuck = |device: &DriverDevice| device.state == DriverState::Stuck && !is_off(Rule::StuckLeft);
    let mut devices: Vec<_> =
        all.iter().filter(|device| is_of(device) && !is_stuck(device)).copied().collect();
    devices.sort_by_key(|device| device.number);
    devices
}

/// Presents a device and serves it. Returns its number.
///
/// # Errors
/// What the driver says; then a new device is gone again, and one that was taken over waits in the kernel.
pub(crate) async fn present<W: World>(
    host: &Host<W>,
    reactor: &W::Reactor,
    what: Presentation,
) -> Result<u32, PlatformError> {
    let spec = DriverSpec {
        number: what.number,
        tag: tag(host.node, what.id),
        side: what.side,
        depth: what.depth,
        size: what.size,
        master: what.master,
        volatile_cache: what.volatile_cache,
    };
    let (number, recovers) = take_device(host, &spec, what.id).await.map_err(|e| driver_refusal(&e))?;
    match show(host, reactor, spec, number, recovers).await {
        Ok(()) => {}
        Err(error) => {
            let _ = reactor.leave(what.side).await;
            if !recovers && let Err(left) = end(host, number).await {
                tracing::warn!(%number, error = %left, "a device that was not presented is left");
            }
            return Err(error);
        }
    }
    if let Err(problem) = host.world.publish(what.id, number).await {
        // The device is there under its number; the name is made again at the next start.
        tracing::warn!(id = %what.id, problem, "the device has no name");
    }
    Ok(number)
}

/// The device to serve: a new one, or the one that a dead server left; true if it must be recovered.
async fn take_device<W: World>(
    host: &Host<W>,
    spec: &DriverSpec,
    id: Uuid,
) -> Result<(u32, bool), DriverError> {
    let devices = devices_of(host, id).await?;
    // Never started, so that nobody has it open.
    for device in devices.iter().filter(|device| device.state == DriverState::Dead) {
        end(host, device.number).await?;
    }
    // Two are there when one got stuck while it was started, which only shows when it is asked for something: it keeps
    // the state that it had, and the one that took its place comes to rest.
    let waits = |device: &&DriverDevice| device.state != DriverState::Dead;
    let found = devices.iter().filter(waits).min_by_key(|device| device.state != DriverState::Quiesced);
    match found.map(|device| device.number) {
        Some(number) => {
            // All that the old server had in flight on the master has landed: its claim is ours.
            host.world.driver_recover(number).await?;
            Ok((number, true))
        }
        None => match host.world.driver_add(spec).await {
            // The number that was asked for may be one that is lost.
            Err(DriverError::Taken(number)) if is_stuck(host, number).await => {
                Ok((host.world.driver_add(&DriverSpec { number: None, ..*spec }).await?, false))
            }
            added => Ok((added?, false)),
        },
    }
}

async fn is_stuck<W: World>(host: &Host<W>, number: u32) -> bool {
    let devices = host.world.driver_list().await.unwrap_or_default();
    devices.iter().any(|device| device.number == number && device.state == DriverState::Stuck)
}

async fn show<W: World>(
    host: &Host<W>,
    reactor: &W::Reactor,
    spec: DriverSpec,
    number: u32,
    recovers: bool,
) -> Result<(), PlatformError> {
    let gone = |error: crate::world::ReactorGone| PlatformError::Stopping { cause: error.to_string().into() };
    let served = reactor.serve(spec.side, number, spec).await.map_err(gone)?;
    served.map_err(|missing| PlatformError::UnsupportedHost { missing: missing.into() })?;
    let shown = if recovers {
        host.world.driver_recovered(number).await
    } else {
        host.world.driver_start(number).await
    };
    shown.map_err(|error| driver_refusal(&error))
}

/// Stops and removes a device of the driver that nobody serves. One that is not there is no error.
///
/// # Errors
/// What the driver says.
pub(crate) async fn end<W: World>(host: &Host<W>, number: u32) -> Result<(), DriverError> {
    host.world.driver_stop(number).await?;
    host.world.driver_delete(number).await
}

/// As [`end`]; one that turns out to be stuck is left, since only a reboot ends it.
async fn end_or_leave<W: World>(host: &Host<W>, number: u32) -> Result<(), PlatformError> {
    match end(host, number).await {
        Err(error @ DriverError::Hung { .. }) if is_stuck(host, number).await => {
            tracing::error!(%number, %error, "a ublk device is lost until the machine starts anew");
            Ok(())
        }
        ended => ended.map_err(|error| driver_refusal(&error)),
    }
}

/// Ends whatever presents the master or set `id`, though nobody serves it: who waits for it gets errors.
///
/// # Errors
/// What the driver says.
pub(crate) async fn end_all<W: World>(host: &Host<W>, id: Uuid) -> Result<(), PlatformError> {
    host.world.unpublish(id).await;
    for device in devices_of(host, id).await.map_err(|e| driver_refusal(&e))? {
        end_or_leave(host, device.number).await?;
    }
    Ok(())
}

/// Ends the presented shadow of a served set. `holds` prove that nothing has it open, and go when it has stopped: the
/// driver does not remove a device that anybody has open, us included. It goes by the tags: a step that was given up may
/// have freed the number, which may be another's since.
///
/// # Errors
/// What the driver says.
pub(crate) async fn withdraw_shadow<W: World>(
    host: &Host<W>,
    serving: &Serving<W>,
    side: Side,
    id: Uuid,
    holds: Vec<W::Hold>,
) -> Result<(), PlatformError> {
    host.world.unpublish(id).await;
    let devices = devices_of(host, id).await.map_err(|e| driver_refusal(&e))?;
    let served = serving.presented.get(&id).copied();
    let (served, left): (Vec<_>, Vec<_>) =
        devices.iter().map(|device| device.number).partition(|number| Some(*number) == served);
    for number in left {
        end_or_leave(host, number).await?;
    }
    for number in &served {
        host.world.driver_stop(*number).await.map_err(|e| driver_refusal(&e))?;
    }
    drop(holds);
    let left = serving.reactor.leave(side).await;
    left.map_err(|error| PlatformError::Stopping { cause: error.to_string().into() })?;
    for number in served {
        host.world.driver_delete(number).await.map_err(|e| driver_refusal(&e))?;
    }
    Ok(())
}

/// A device that the driver shows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shown {
    /// Of this master or set.
    pub(crate) id: Uuid,
    pub(crate) number: u32,
    /// Whose it is, for messages: "set nightly".
    pub(crate) what: String,
}

/// What the driver shows of masters and sets, served or left by a server that died, for claims and messages. `serving`:
/// by this process, which knows the one that it serves from one that got stuck.
///
/// # Errors
/// What the driver says.
pub(crate) async fn shown<W: World>(
    host: &Host<W>,
    serving: Option<&Serving<W>>,
    of: impl IntoIterator<Item = (Uuid, String)>,
) -> Result<Vec<Shown>, PlatformError> {
    let all = host.world.driver_list().await.map_err(|e| driver_refusal(&e))?;
    let mut shown = Vec::new();
    for (id, what) in of {
        let devices = among(host, &all, id);
        let is_ours = |device: &DriverDevice| {
            let served = serving.and_then(|serving| serving.presented.get(&id));
            served.is_none_or(|number| *number == device.number) || device.state == DriverState::Quiesced
        };
        let live = devices.iter().filter(|device| device.block.is_some() && is_ours(device));
        shown.extend(live.map(|device| Shown { id, number: device.number, what: what.clone() }));
    }
    Ok(shown)
}

/// A master and its sets, the master last, in the words of messages.
pub(crate) fn all_of(record: &MasterRecord) -> Vec<(Uuid, String)> {
    let sets = record.sets.iter().map(set_of);
    sets.chain([(record.id, format!("master {}", record.name))]).collect()
}

/// A set in the words of messages.
pub(crate) fn set_of(set: &SetRecord) -> (Uuid, String) {
    (set.id, format!("set {}", set_name(set)))
}

/// For how long a presented device that is only read is tried again: udev looks at devices when they appear, when a
/// partition table was read again, and when a rule has changed, and would refuse one cut after another.
const READERS_PATIENCE: Duration = Duration::from_secs(3);
/// Time between two attempts.
const RETRY: Duration = Duration::from_millis(50);

/// Claims presented devices whose content is about to change, or that are about to go.
///
/// # Errors
/// [`PlatformError::HasOpeners`], with what the device presents.
pub(crate) async fn hold<W: World>(host: &Host<W>, shown: &[Shown]) -> Result<Vec<W::Hold>, PlatformError> {
    let mut holds = Vec::new();
    let patience = if is_off(Rule::ReadersAwaited) { Duration::ZERO } else { READERS_PATIENCE };
    let until = Instant::now() + patience;
    for Shown { id, number, what } in shown {
        let hold = loop {
            match host.world.hold_presented(*number).await {
                Ok(hold) => break hold,
                Err(NotHeld::Open { may_pass: true, .. }) if Instant::now() < until => sleep(RETRY).await,
                Err(NotHeld::Open { device, openers, .. }) => {
                    let path = by_id(host.world.names(), *id);
                    let presents = format!("{what}, {path}").into();
                    return Err(PlatformError::HasOpeners { device, presents, openers: openers.into() });
                }
                Err(NotHeld::Failed(error)) => return Err(error),
            }
        };
        holds.push(hold);
    }
    Ok(holds)
}

/// What a master that is served presents, for claims and messages.
pub(crate) fn presented<W: World>(seen: &Seen<W>, serving: &Serving<W>) -> Vec<Shown> {
    let all = all_of(&seen.record).into_iter();
    all.filter_map(|(id, what)| Some(Shown { id, number: *serving.presented.get(&id)?, what })).collect()
}

/// The name of a presented device.
pub(crate) fn by_id(names: &Path, id: Uuid) -> umbra_platform::value::DevicePath {
    device_path(&names.join(id.to_string()))
}
