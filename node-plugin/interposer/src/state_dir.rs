//! The state directory: what must be known before any volume is read.
//!
//! ```text
//!  lock            held while the process lives: one interposer per directory
//!  node-id         16 random bytes, made once
//!  masters/UUID    one record per master, with its sets
//!  ended/UUID      per set: images up to this epoch have ended (E7)
//!  answers/UUID    the answer to a request, so that a repetition has no second effect
//! ```
//!
//! Every file is written beside its place, synced, renamed over it, and the directory synced: after a crash
//! either the old or the new version is there, whole. The directory must not lie on a device that Umbra
//! presents, since a write there would wait for the record that waits for the write.

use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use thiserror::Error;
use umbra_engine::{Epoch, Id128, OfflineCause};
use umbra_store::EndNote;
use uuid::Uuid;

/// Version of the records.
const VERSION: u32 = 1;
/// Answers kept; a request repeated later than this many others is a new one.
const ANSWERS_MAX: usize = 1024;

/// Why the state directory cannot be used.
#[derive(Debug, Error)]
pub(crate) enum StateDirError {
    /// Another interposer has it.
    #[error("the state directory {} is used by another umbra-io; stop that one or name another directory", .0.display())]
    InUse(PathBuf),
    /// It is on a device that Umbra presents.
    #[error("the state directory {} is on {device}, a ublk device; put it on a file system that Umbra does not interpose", path.display())]
    OnPresentedDevice {
        /// The directory.
        path: PathBuf,
        /// The device.
        device: String,
    },
    /// A file is not what this program writes.
    #[error("{} is damaged or of a later version ({detail}); move it away, and attach again what it described", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The file system.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// A master as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MasterRecord {
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
pub(crate) struct SetRecord {
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
}

/// Limits of a copier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CopyLimitsRecord {
    /// Bytes per second; none: no limit.
    pub bytes_per_second: Option<u64>,
    /// Runs in flight.
    pub in_flight: u16,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    record: T,
}

#[derive(Serialize, Deserialize)]
struct EndRecord {
    epoch: u64,
    shadow_failed: bool,
}

#[derive(Serialize, Deserialize)]
struct AnswerRecord {
    fingerprint: u64,
    answer: Value,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct StateDir {
    root: PathBuf,
    node: [u8; 16],
    /// Held, never read.
    _lock: File,
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateDirError {
    move |source| StateDirError::Io { action, path: path.to_owned(), source }
}

impl StateDir {
    /// Opens the directory, making it if it is not there.
    ///
    /// # Errors
    /// [`StateDirError`].
    pub(crate) fn open(path: &Path) -> Result<Self, StateDirError> {
        let make = |path: &Path| {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("make", path))
        };
        make(path)?;
        refuse_presented(path)?;
        for folder in ["masters", "ended", "answers"] {
            make(&path.join(folder))?;
        }
        let lock_path = path.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(io_error("open", &lock_path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StateDirError::InUse(path.to_owned()));
        }
        let mut state = Self { root: path.to_owned(), node: [0; 16], _lock: lock };
        state.node = state.load_node_id()?;
        Ok(state)
    }

    /// This node, for the sessions of sets.
    pub(crate) fn node_id(&self) -> [u8; 16] {
        self.node
    }

    fn load_node_id(&self) -> Result<[u8; 16], StateDirError> {
        let path = self.root.join("node-id");
        match fs::read_to_string(&path) {
            Ok(text) => Uuid::parse_str(text.trim())
                .map(|id| *id.as_bytes())
                .map_err(|error| StateDirError::Unreadable { path, detail: error.to_string() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = Uuid::new_v4();
                self.write(&path, id.to_string().as_bytes())?;
                Ok(*id.as_bytes())
            }
            Err(source) => Err(io_error("read", &path)(source)),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StateDirError> {
        let temporary = path.with_extension("new");
        let mut file = File::create(&temporary).map_err(io_error("make", &temporary))?;
        file.write_all(bytes).map_err(io_error("write", &temporary))?;
        file.sync_all().map_err(io_error("sync", &temporary))?;
        fs::rename(&temporary, path).map_err(io_error("rename to", path))?;
        self.sync_folder(path)
    }

    fn remove(&self, path: &Path) -> Result<(), StateDirError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(io_error("remove", path)(source)),
            Ok(()) => self.sync_folder(path),
        }
    }

    fn sync_folder(&self, path: &Path) -> Result<(), StateDirError> {
        let folder = path.parent().unwrap_or(&self.root);
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder))
    }

    fn save<T: Serialize>(&self, path: &Path, record: &T) -> Result<(), StateDirError> {
        let text = serde_json::to_vec_pretty(&Versioned { version: VERSION, record });
        let text = text.map_err(|error| io_error("encode", path)(error.into()))?;
        self.write(path, &text)
    }

    fn load<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, StateDirError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io_error("read", path)(source)),
        };
        let unreadable = |detail: String| StateDirError::Unreadable { path: path.to_owned(), detail };
        let found: Versioned<T> =
            serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        if found.version != VERSION {
            return Err(unreadable(format!("version {}", found.version)));
        }
        Ok(Some(found.record))
    }

    /// Keeps a master's record.
    ///
    /// # Errors
    /// [`StateDirError`]; then the older record is still there.
    pub(crate) fn save_master(&self, record: &MasterRecord) -> Result<(), StateDirError> {
        self.save(&self.root.join("masters").join(record.id.to_string()), record)
    }

    /// All masters that were ever attached and not forgotten.
    ///
    /// # Errors
    /// [`StateDirError`], for the first record that cannot be read.
    pub(crate) fn masters(&self) -> Result<Vec<MasterRecord>, StateDirError> {
        let folder = self.root.join("masters");
        let mut records = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io_error("list", &folder))? {
            let path = entry.map_err(io_error("list", &folder))?.path();
            // A temporary file is what a crash left of a record that was never kept.
            if path.extension().is_none() {
                records.extend(self.load::<MasterRecord>(&path)?);
            }
        }
        records.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(records)
    }

    fn ended_path(&self, set: Id128) -> PathBuf {
        self.root.join("ended").join(Uuid::from_bytes(set.0).to_string())
    }

    /// Records that images of a set have ended.
    ///
    /// # Errors
    /// [`StateDirError`]; then nothing is recorded.
    pub(crate) fn record_end(&self, note: &EndNote) -> Result<(), StateDirError> {
        let path = self.ended_path(note.set);
        // Never to an older epoch: what has ended stays ended.
        let before = self.load::<EndRecord>(&path).ok().flatten().map_or(0, |record| record.epoch);
        let epoch = note.epoch.0.max(before);
        self.save(&path, &EndRecord { epoch, shadow_failed: note.cause == OfflineCause::Shadow })
    }

    /// The newest epoch of a set that is recorded as ended.
    ///
    /// # Errors
    /// [`StateDirError`].
    pub(crate) fn ended(&self, set: Id128) -> Result<Option<Epoch>, StateDirError> {
        Ok(self.load::<EndRecord>(&self.ended_path(set))?.map(|record| Epoch(record.epoch)))
    }

    /// Forgets the end: a new image is durable.
    ///
    /// # Errors
    /// [`StateDirError`].
    pub(crate) fn forget_end(&self, set: Id128) -> Result<(), StateDirError> {
        self.remove(&self.ended_path(set))
    }

    /// Keeps the answer to a request.
    ///
    /// # Errors
    /// [`StateDirError`].
    pub(crate) fn remember(
        &self,
        request: &str,
        fingerprint: u64,
        answer: &Value,
    ) -> Result<(), StateDirError> {
        let folder = self.root.join("answers");
        self.save(&folder.join(request), &AnswerRecord { fingerprint, answer: answer.clone() })?;
        let entries = fs::read_dir(&folder).map_err(io_error("list", &folder))?;
        let age = |entry: &fs::DirEntry| {
            entry.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
        };
        let mut kept: Vec<(SystemTime, PathBuf)> =
            entries.flatten().map(|entry| (age(&entry), entry.path())).collect();
        kept.sort();
        let surplus = kept.len().saturating_sub(ANSWERS_MAX);
        for (_, path) in kept.into_iter().take(surplus) {
            self.remove(&path)?;
        }
        Ok(())
    }

    /// The answer that a request got, and what told the call apart.
    ///
    /// # Errors
    /// [`StateDirError`].
    pub(crate) fn recall(&self, request: &str) -> Result<Option<(u64, Value)>, StateDirError> {
        let record = self.load::<AnswerRecord>(&self.root.join("answers").join(request))?;
        Ok(record.map(|record| (record.fingerprint, record.answer)))
    }
}

/// E7: the directory's file system must not be on a ublk device, not even through partitions and mappings.
fn refuse_presented(path: &Path) -> Result<(), StateDirError> {
    let device = fs::metadata(path).map_err(io_error("look at", path))?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let mut to_look = vec![PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))];
    while let Some(node) = to_look.pop() {
        let Ok(real) = fs::canonicalize(&node) else { continue };
        let ublk = real.components().find_map(|part| {
            let part = part.as_os_str().to_string_lossy();
            part.starts_with("ublkb").then(|| part.into_owned())
        });
        if let Some(device) = ublk {
            return Err(StateDirError::OnPresentedDevice { path: path.to_owned(), device });
        }
        let lower = fs::read_dir(real.join("slaves")).into_iter().flatten().flatten();
        to_look.extend(lower.map(|entry| entry.path()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str) -> MasterRecord {
        MasterRecord {
            id: Uuid::new_v4(),
            name: name.to_owned(),
            device: PathBuf::from("/dev/vdb"),
            identity: None,
            size: 4096,
            logical_block: 512,
            physical_block: 4096,
            ublk_id: 3,
            queue_depth: 128,
            fingerprint: None,
            clean: false,
            sets: Vec::new(),
        }
    }

    #[test]
    fn records_come_back_and_a_second_process_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::open(home.path()).unwrap();
        let node = state.node_id();
        let kept = record("a");
        state.save_master(&kept).unwrap();
        assert_eq!(state.masters().unwrap(), [kept]);
        assert!(matches!(StateDir::open(home.path()), Err(StateDirError::InUse(_))));
        drop(state);
        assert_eq!(StateDir::open(home.path()).unwrap().node_id(), node);
    }

    #[test]
    fn an_end_never_goes_back_and_is_forgotten_when_told() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::open(home.path()).unwrap();
        let set = Id128([7; 16]);
        assert_eq!(state.ended(set).unwrap(), None);
        for (epoch, expected) in [(4, 4), (2, 4), (9, 9)] {
            state.record_end(&EndNote { set, epoch: Epoch(epoch), cause: OfflineCause::Bitmap }).unwrap();
            assert_eq!(state.ended(set).unwrap(), Some(Epoch(expected)));
        }
        state.forget_end(set).unwrap();
        assert_eq!(state.ended(set).unwrap(), None);
    }

    #[test]
    fn garbage_and_later_versions_are_named_and_not_believed() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::open(home.path()).unwrap();
        let path = home.path().join("masters").join(Uuid::new_v4().to_string());
        for text in ["", "{", "[]", "{\"version\":2}", "\u{0}\u{1}"] {
            fs::write(&path, text).unwrap();
            let error = state.masters().unwrap_err();
            assert!(
                matches!(&error, StateDirError::Unreadable { path: named, .. } if *named == path),
                "{error}"
            );
        }
    }

    #[test]
    fn only_the_newest_answers_are_kept() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::open(home.path()).unwrap();
        state.remember("one", 5, &Value::from("x")).unwrap();
        assert_eq!(state.recall("one").unwrap(), Some((5, Value::from("x"))));
        assert_eq!(state.recall("two").unwrap(), None);
    }
}
