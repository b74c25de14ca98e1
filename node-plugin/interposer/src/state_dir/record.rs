//! What the files of the state directory say. The same fields in later versions, or a new version number.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;
use uuid::Uuid;

/// Version of the records.
const VERSION: u32 = 1;

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
    /// Bytes.
    pub size: u64,
    /// Logical block in bytes.
    pub logical_block: u32,
    /// Physical block in bytes.
    pub physical_block: u32,
    /// Number of the ublk device; `u32::MAX`: none yet.
    pub ublk_id: u32,
    /// Requests in flight.
    pub queue_depth: u16,
    /// Sampled content at the last detach.
    pub fingerprint: Option<String>,
    /// Detached in order: not started again by itself.
    pub clean: bool,
    /// Its sets.
    pub sets: Vec<SetRecord>,
}

/// A set as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRecord {
    /// Its UUID.
    pub id: Uuid,
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
    pub shadow: PathBuf,
    /// The bitmap volume.
    pub bitmap: PathBuf,
    /// Bytes of a chunk.
    pub chunk_bytes: u64,
    /// Number of the shadow's ublk device; `u32::MAX`: none yet.
    pub shadow_ublk_id: u32,
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
}

/// Limits of a copier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyLimitsRecord {
    /// Bytes per second; none: no limit.
    pub bytes_per_second: Option<u64>,
    /// Runs in flight.
    pub in_flight: u16,
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

/// The answer that a request got.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct AnswerRecord {
    pub(super) fingerprint: u64,
    pub(super) answer: Value,
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
