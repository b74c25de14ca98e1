//! What the files of the state directory say, and whether that can be true.
//!
//! A record is checked when it is read: what is served is decided by it, and the file may be damaged, of another
//! version, or edited by hand.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use umbra_engine::{CHUNK_BYTES_DEFAULT, Geometry, SETS_MAX};
use umbra_identity::FsGeneration;
use umbra_platform::value::{DevicePath, Label};
use uuid::Uuid;

/// Version of the records.
const VERSION: u32 = 2;

/// Most requests that a presented device may have in flight: with 256 KiB each they bound the locked memory.
pub const QUEUE_DEPTH_MAX: u16 = 128;

/// A master as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterRecord {
    /// Its UUID.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// The physical device.
    pub device: PathBuf,
    /// What the device is recognised by, if anything about it is unique.
    pub identity: Option<String>,
    /// Bytes that are served: those of the first attach.
    pub size: u64,
    /// Logical block in bytes.
    pub logical_block: u32,
    /// Physical block in bytes.
    pub physical_block: u32,
    /// Number that the ublk device was asked to have.
    pub ublk_wanted: Option<u32>,
    /// Requests in flight.
    pub queue_depth: u16,
    /// Sampled content at the last detach (E19).
    pub fingerprint: Option<String>,
    /// Generation of the file system on the device, when it was last looked at.
    pub generation: Option<FsGeneration>,
    /// The device was written outside of Umbra, and nobody has accepted that yet.
    #[serde(default)]
    pub quarantined: bool,
    /// Detached in order: not started again by itself.
    pub clean: bool,
    /// The chunk size that its first set was to have; none: the default.
    #[serde(default)]
    pub chunk: Option<u64>,
    /// The request by which somebody has accepted last that it was written outside.
    #[serde(default)]
    pub accepted: Option<Uuid>,
    /// Its sets.
    pub sets: Vec<SetRecord>,
}

/// How far the making, or the ending, of a set is. It is recorded before the first effect.
///
/// ```text
///   (nothing) ── enable ──> Enabling ── image cut, shadow presented ──> Enabled ── disable ──> Disabling ──> (nothing)
///                              └────────── failed, or killed before its image was cut ───────────^
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SetStage {
    /// Its enable has not ended.
    Enabling,
    /// It is there.
    Enabled,
    /// It is to be gone: what is left of it is taken away.
    Disabling,
}

/// A set as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRecord {
    /// Its UUID.
    pub id: Uuid,
    /// How far it is.
    pub stage: SetStage,
    /// Its place among the sets of its master.
    pub index: u8,
    /// Cluster of its object, or empty.
    pub cluster: String,
    /// Namespace of its object, or empty.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Independent, or dependent.
    pub independent: bool,
    /// The shadow volume.
    pub shadow: VolumeRecord,
    /// The bitmap volume.
    pub bitmap: VolumeRecord,
    /// Bytes of a chunk.
    pub chunk_bytes: u64,
    /// Deadline of shadow operations.
    pub shadow_deadline_ms: u64,
    /// Deadline of bitmap operations.
    pub bitmap_deadline_ms: u64,
    /// How long an unrecordable write waits.
    pub unrecordable_ms: u64,
    /// Then it fails, instead of waiting on.
    pub fail_write: bool,
    /// What would replace the image is refused.
    pub protected: bool,
    /// Limits of the copier.
    pub copy_limits: CopyLimitsRecord,
    /// A restore from this set may be under way, with so many chunks when it began: a part of the master's
    /// data may be on the shadow only, so that nobody may serve the master without the set (E6, E9).
    #[serde(default)]
    pub restoring: Option<u64>,
    /// The master was written outside of Umbra, which was accepted and is not on the bitmap volume yet: every chunk
    /// differs, and what the shadow does not hold itself is lost (rule 5).
    #[serde(default)]
    pub master_changed: bool,
}

/// A volume of a set: where it was, and what it is recognised by (invariant 10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Where it was when the set was enabled.
    pub device: PathBuf,
    /// The UUID that the set gave it.
    pub volume: Uuid,
    /// What the hardware is recognised by, if anything about it is unique.
    pub identity: Option<String>,
}

/// Limits of a copier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyLimitsRecord {
    /// Bytes per second; none: no limit.
    pub bytes_per_second: Option<u64>,
    /// Runs in flight.
    pub in_flight: u16,
}

impl MasterRecord {
    /// The chunk size of the sets; before there is one, the default.
    #[must_use]
    pub fn chunk_bytes(&self) -> u64 {
        let default = self.chunk.unwrap_or(CHUNK_BYTES_DEFAULT);
        self.sets.first().map_or(default, |set| set.chunk_bytes)
    }

    /// Size and chunks; `None` for a record that was not [checked](Self::check).
    #[must_use]
    pub fn geometry(&self) -> Option<Geometry> {
        Geometry::new(self.size, self.chunk_bytes()).ok()
    }

    /// Whether what the record says can be true.
    ///
    /// # Errors
    /// What cannot.
    pub fn check(&self) -> Result<(), String> {
        named(&self.name)?;
        path(&self.device)?;
        let Some(_) = self.geometry() else {
            return Err(format!("no master has {} bytes in chunks of {}", self.size, self.chunk_bytes()));
        };
        let is_block = |block: u32| block.is_power_of_two() && (512..=1 << 20).contains(&block);
        if !is_block(self.logical_block) || !is_block(self.physical_block) {
            return Err(format!(
                "no device has blocks of {} and {}",
                self.logical_block, self.physical_block
            ));
        }
        if !self.size.is_multiple_of(u64::from(self.logical_block)) {
            return Err(format!("{} bytes are no whole number of blocks", self.size));
        }
        if !(1..=QUEUE_DEPTH_MAX).contains(&self.queue_depth) {
            return Err(format!("a queue depth of {}", self.queue_depth));
        }
        let (mut places, mut ids) = (BTreeSet::new(), BTreeSet::from([self.id]));
        for set in &self.sets {
            set.check().map_err(|problem| format!("set {}: {problem}", set.id))?;
            if set.chunk_bytes != self.chunk_bytes() {
                return Err(format!("set {} has chunks of {}", set.id, set.chunk_bytes));
            }
            if !places.insert(set.index) {
                return Err(format!("two sets have place {}", set.index));
            }
            if !ids.insert(set.id) {
                return Err(format!("two things are called {}", set.id));
            }
        }
        Ok(())
    }
}

impl SetRecord {
    fn check(&self) -> Result<(), String> {
        named(&self.name)?;
        for optional in [&self.cluster, &self.namespace] {
            if !optional.is_empty() {
                named(optional)?;
            }
        }
        path(&self.shadow.device)?;
        path(&self.bitmap.device)?;
        if usize::from(self.index) >= SETS_MAX {
            return Err(format!("there is no place {} for a set", self.index));
        }
        if self.copy_limits.in_flight == 0 {
            return Err("a copier with nothing in flight".to_owned());
        }
        Ok(())
    }
}

fn named(name: &str) -> Result<(), String> {
    name.parse::<Label>().map(drop).map_err(|error| error.to_string())
}

fn path(path: &std::path::Path) -> Result<(), String> {
    let text = path.to_str().ok_or_else(|| format!("{} is not a text", path.display()))?;
    text.parse::<DevicePath>().map(drop).map_err(|error| error.to_string())
}

/// Images of a set up to this epoch have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EndRecord {
    pub(super) epoch: u64,
    pub(super) shadow_failed: bool,
    /// A restore from the set had chunks left (E9).
    #[serde(default)]
    pub(super) master_incomplete: bool,
}

/// A cut over several sets, from before the first of them is in doubt until all of them are out of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutRecord {
    /// Its name.
    pub cut: Uuid,
    /// Its members, of this interposer's masters.
    pub members: Vec<Uuid>,
    /// What was decided; none: nothing yet.
    pub decision: Option<Decision>,
}

/// The decision on a cut. It is never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Every member has the new image.
    Commit,
    /// Every member keeps the previous one.
    Void,
}

/// A request that was begun: what it is to make has its name already, so that a repetition makes it no second time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RequestRecord {
    /// Tells calls apart.
    pub(super) fingerprint: u64,
    /// Name of what it makes: a master, a set, a cut.
    pub(super) makes: Uuid,
    /// None until it was answered.
    pub(super) answer: Option<Value>,
}

#[derive(Serialize)]
struct Written<'a, T> {
    version: u32,
    #[serde(flatten)]
    record: &'a T,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// The text of a record.
pub(super) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec_pretty(&Written { version: VERSION, record })
}

/// The record in a text, or what is wrong with it.
pub(super) fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    // The version comes first: the fields of another one may be others.
    let Version { version } = serde_json::from_slice(text).map_err(|error| format!("damaged: {error}"))?;
    if version != VERSION {
        return Err(format!("it has version {version}, and this umbra-io knows version {VERSION}"));
    }
    serde_json::from_slice(text).map_err(|error| format!("damaged: {error}"))
}
