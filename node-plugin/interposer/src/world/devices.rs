//! Backing devices: looked at, claimed, and worked on before a reactor has them.
//!
//! A claim proves that whatever an earlier process had in flight has landed (E6), so nothing is read for a decision
//! about content before it is held; what a device *is* is looked at before, without opening it for writing.

use super::at_work::{AtWork, Task};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use umbra_identity::gather::{GatherError, Look, Machine};
use umbra_identity::{BlockDir, DeviceFacts, DeviceKey, DeviceNumber};
use umbra_lifecycle::world::{Claim, ClaimError, Depth, LookError};
use umbra_store::{BlockStore, Capabilities, DeviceSlot};
use umbra_uring::{Device, OpenError, Owner, Ring, RingConfig, Role, StoreLimits, UringStore};

/// How long a device may take to answer a look.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks whether an operation that was given up has ended.
const DRAIN_POLL: Duration = Duration::from_millis(100);

/// A device that is claimed.
#[derive(Debug)]
pub(crate) struct Claimed(pub(super) Device);

impl Claim for Claimed {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}

/// Samples of a claimed device's content.
pub(super) async fn fingerprint(at_work: &AtWork, claim: &Claimed) -> Result<String, String> {
    let sample = claim.0.sampling().map_err(|error| error.to_string())?;
    let sampled = at_work.run(Task::Sample, claim.path(), LOOK_PATIENCE, sample).await;
    let sampled =
        sampled.ok_or_else(|| format!("it does not answer within {} s", LOOK_PATIENCE.as_secs()))?;
    sampled?.map(|fingerprint| format!("{fingerprint:?}")).map_err(|error| error.to_string())
}

pub(super) async fn look(at_work: &AtWork, path: PathBuf, depth: Depth) -> Result<DeviceFacts, LookError> {
    let asked = path.clone();
    match at_work.run(Task::Look, &path, LOOK_PATIENCE, move || look_now(&asked, depth)).await {
        None => Err(LookError::Hung(path)),
        Some(Err(detail)) => Err(LookError::Failed { path, detail }),
        Some(Ok(found)) => found,
    }
}

/// Our own descriptors are claims of ours, and no news.
fn ordinary_look() -> Look {
    Look::default().except_descriptors_of(std::process::id())
}

fn look_now(path: &Path, depth: Depth) -> Result<DeviceFacts, LookError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LookError::NotThere(path.to_owned()));
        }
        Err(error) => return Err(LookError::Failed { path: path.to_owned(), detail: error.to_string() }),
    };
    if let Some(found) = no_volume(metadata.file_type()) {
        return Err(LookError::NotAVolume { path: path.to_owned(), found: found.to_owned() });
    }
    let look = ordinary_look().with_contents();
    let look = if depth == Depth::WhatAndWho { look.with_openers() } else { look };
    let failed = |error: GatherError| LookError::Failed { path: path.to_owned(), detail: error.to_string() };
    let facts = Machine::look(&look, &[path]).and_then(|machine| machine.facts(path)).map_err(failed)?;
    facts.ok_or_else(|| LookError::NotThere(path.to_owned()))
}

fn no_volume(kind: std::fs::FileType) -> Option<&'static str> {
    if kind.is_block_device() || kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_char_device() {
        Some("a character device")
    } else {
        Some("no block device and no file")
    }
}

pub(super) async fn survey(at_work: &AtWork) -> Result<Vec<DeviceFacts>, LookError> {
    let all = || Machine::look(&ordinary_look(), &[]).map(|machine| machine.devices());
    let path = PathBuf::from("/sys/block");
    match at_work.run(Task::Look, &path, LOOK_PATIENCE, all).await {
        None => Err(LookError::Hung(path)),
        Some(Err(detail)) => Err(LookError::Failed { path, detail }),
        Some(Ok(found)) => found.map_err(|error| LookError::Failed { path, detail: error.to_string() }),
    }
}

/// Claims the device that was looked at: the same disk under the same number, not another that came meanwhile.
pub(super) async fn claim(
    at_work: &AtWork,
    facts: DeviceFacts,
    wait: Duration,
) -> Result<Claimed, ClaimError> {
    let path = facts.path.clone();
    let open = move || {
        let device = Device::open_claimed(&facts.path, Role::ReadWrite, Some(wait))
            .map_err(|error| claim_error(&facts.path, &error))?;
        if is_what_was_looked_at(&device, &facts) {
            Ok(Claimed(device))
        } else {
            Err(ClaimError::Changed(facts.path))
        }
    };
    let patience = wait + LOOK_PATIENCE;
    match at_work.run(Task::Claim, &path, patience, open).await {
        None => {
            let detail = format!("it could not be opened within {} s", patience.as_secs());
            Err(ClaimError::Failed { path, detail })
        }
        Some(Err(detail)) => Err(ClaimError::Failed { path, detail }),
        Some(Ok(claimed)) => claimed,
    }
}

/// The claim is on a descriptor: what that leads to cannot change any more.
fn is_what_was_looked_at(device: &Device, facts: &DeviceFacts) -> bool {
    match facts.key {
        DeviceKey::Block(number) => {
            device.number() == Some(number) && (facts.diskseq.is_none() || diskseq(number) == facts.diskseq)
        }
        DeviceKey::File { on, inode } => {
            let found = rustix::fs::fstat(device.descriptor());
            device.number().is_none()
                && found
                    .is_ok_and(|found| (DeviceNumber::from_raw(found.st_dev), found.st_ino) == (on, inode))
        }
    }
}

fn diskseq(number: DeviceNumber) -> Option<u64> {
    BlockDir::of(number).ok()?.diskseq()
}

fn claim_error(path: &Path, error: &OpenError) -> ClaimError {
    let path = path.to_owned();
    match error {
        OpenError::InUse { holders, .. } => {
            let by: Vec<String> = holders.iter().map(ToString::to_string).collect();
            let unknown =
                || "its last user's writes have not landed, or it is held where nobody can see".to_owned();
            ClaimError::InUse { path, by: if by.is_empty() { unknown() } else { by.join("; ") } }
        }
        OpenError::ReadOnly { .. } => ClaimError::ReadOnly(path),
        other => ClaimError::Failed { path, detail: other.to_string() },
    }
}

/// What [`work`] gives: a result, and the devices if they are free of it.
pub(super) type Done<T> = Result<(T, Vec<Claimed>), String>;

/// Runs blocking work on claimed devices in a store of their own, and gives them back.
pub(super) fn work<T>(
    claims: Vec<Claimed>,
    work: impl FnOnce(&mut UringStore, &[DeviceSlot]) -> T,
    done: oneshot::Sender<Done<T>>,
) {
    let (mut store, slots) = match store_of(claims) {
        Ok(made) => made,
        Err(error) => return drop(done.send(Err(error))),
    };
    let result = work(&mut store, &slots);
    if slots.iter().all(|slot| store.in_flight(*slot) == 0) {
        // Nobody may wait for it any more; then the claims fall here.
        return drop(done.send(give_back(store, slots).map(|claims| (result, claims))));
    }
    let _ = done.send(Ok((result, Vec::new())));
    // No device may be claimed by anybody, us included, before what was given up on it has landed (E6).
    for slot in slots {
        settle(&mut store, slot);
        drop(store.remove_device(slot));
    }
}

fn store_of(claims: Vec<Claimed>) -> Result<(UringStore, Vec<DeviceSlot>), String> {
    let ring = Ring::shared(RingConfig::default()).map_err(|error| error.to_string())?;
    let devices = u16::try_from(claims.len()).map_err(|error| error.to_string())?;
    let limits = StoreLimits { devices, ..StoreLimits::default() };
    let mut store = UringStore::new(ring, Owner::new(1), limits);
    let mut slots = Vec::new();
    for claim in claims {
        slots.push(store.add_device(claim.0).map_err(|error| error.to_string())?);
    }
    Ok((store, slots))
}

fn give_back(mut store: UringStore, slots: Vec<DeviceSlot>) -> Result<Vec<Claimed>, String> {
    let mut claims = Vec::new();
    for slot in slots {
        claims.push(Claimed(store.remove_device(slot).map_err(|error| error.to_string())?));
    }
    Ok(claims)
}

fn settle(store: &mut UringStore, slot: DeviceSlot) {
    let (mut late, start) = (Vec::new(), Instant::now());
    let mut told = false;
    while store.in_flight(slot) > 0 {
        store.wait(DRAIN_POLL, &mut late);
        late.clear();
        if !told && start.elapsed() > LOOK_PATIENCE {
            tracing::warn!(
                "an operation that was given up has not ended; its device stays claimed until it does"
            );
            told = true;
        }
    }
}
