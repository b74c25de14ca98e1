//! The state directory: what must be known before any volume is read.
//!
//! ```text
//!  lock            held while the process lives: one interposer per directory
//!  node-id         16 random bytes, made once
//!  masters/UUID    one record per master, with its sets
//!  ended/UUID      per set: images up to this epoch have ended (E7)
//!  cuts/UUID       cuts over several sets that somebody may be in doubt about (E4)
//!  answers/UUID    the answer to a request, so that a repetition has no second effect
//! ```
//!
//! Every file is written beside its place, synced, renamed over it, and the directory synced: after a crash
//! either the old or the new version is there, whole. The directory must not lie on a device that Umbra
//! presents, since a write there would wait for the record that waits for the write.
//!
//! Any thread may call any function; each folder has one writer at a time. All of them may take as long as
//! the disk does, so no reactor calls them.

mod cuts;
mod file;
mod presented;
mod record;
#[cfg(test)]
mod tests;

use file::io_error;
use presented::Sight;
use record::{AnswerRecord, EndRecord};
pub use record::{CopyLimitsRecord, CutRecord, Decision, MasterRecord, SetRecord};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use thiserror::Error;
use umbra_engine::{Epoch, Id128, OfflineCause};
use umbra_store::{EndNote, Ended};
use uuid::Uuid;

/// Answers kept; a request repeated later than this many others is a new one.
const ANSWERS_MAX: usize = 1024;
/// Longest request id, in bytes: it becomes a file name.
const REQUEST_BYTES_MAX: usize = 128;

/// Why the state directory cannot be used. The texts hold the cause; there is no source beside them.
#[derive(Debug, Error)]
pub enum StateDirError {
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
    /// A file is not what this program writes, or what a later version of it wrote.
    #[error("{} cannot be used ({problem}); {remedy}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What can be done.
        remedy: &'static str,
    },
    /// It cannot be the name of a file.
    #[error("request id {0:.64?} is unusable; use at most 128 letters, digits, '-' and '_'")]
    RequestId(String),
    /// The file system.
    #[error("{action} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        cause: io::Error,
    },
}

/// What to do about a file that cannot be read, by kind.
mod remedy {
    pub(super) const NODE: &str = "put back a copy of it; or move it away, and reset the dependent sets whose bitmap volumes name the old node";
    pub(super) const MASTER: &str =
        "use the umbra-io that wrote it; or move it away and attach the master again, with the same UUID";
    pub(super) const ENDED: &str = "the set's image counts as ended: reset the set";
    pub(super) const CUT: &str = "put back a copy of it; or move it away: then the members' own superblocks decide, and all must be readable";
    pub(super) const ANSWER: &str = "move it away; the request then counts as a new one";
}

/// See the module.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    node: [u8; 16],
    masters: Mutex<()>,
    ended: Mutex<()>,
    cuts: Mutex<()>,
    /// Requests whose answers are kept, the oldest first.
    answers: Mutex<VecDeque<String>>,
    /// Held, never read.
    _lock: File,
}

/// What the locks guard is on disk, whole, whatever became of the thread that held one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateDir {
    /// Opens the directory, making it (mode 0700) if it is not there.
    ///
    /// # Errors
    /// [`StateDirError`].
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        make_folder(path)?;
        if let Some(device) = Sight::host().presented_below(path) {
            return Err(StateDirError::OnPresentedDevice { path: path.to_owned(), device });
        }
        let held = take_lock(path)?;
        for folder in ["masters", "ended", "cuts", "answers"] {
            make_folder(&path.join(folder))?;
        }
        file::list(path)?;
        for folder in ["masters", "ended", "cuts"] {
            file::list(&path.join(folder))?;
        }
        Ok(Self {
            root: path.to_owned(),
            node: node_id(&path.join("node-id"))?,
            masters: Mutex::new(()),
            ended: Mutex::new(()),
            cuts: Mutex::new(()),
            answers: Mutex::new(answered(&path.join("answers"))?),
            _lock: held,
        })
    }

    /// This node, for the sessions of sets.
    pub fn node_id(&self) -> [u8; 16] {
        self.node
    }

    fn master_path(&self, id: Uuid) -> PathBuf {
        self.root.join("masters").join(id.to_string())
    }

    /// Keeps a master's record.
    ///
    /// # Errors
    /// [`StateDirError`]; then the older record is still there, or the new one, whole.
    pub fn save_master(&self, record: &MasterRecord) -> Result<(), StateDirError> {
        let _one = lock(&self.masters);
        save(&self.master_path(record.id), record)
    }

    /// Forgets a master. One that is not there is no error.
    ///
    /// # Errors
    /// [`StateDirError`].
    pub fn remove_master(&self, id: Uuid) -> Result<(), StateDirError> {
        let _one = lock(&self.masters);
        file::remove(&self.master_path(id))
    }

    /// All masters that were ever attached and not forgotten, by name.
    ///
    /// # Errors
    /// [`StateDirError`], for the first record that cannot be read.
    pub fn masters(&self) -> Result<Vec<MasterRecord>, StateDirError> {
        let (records, faults) = self.masters_and_faults()?;
        match faults.into_iter().next() {
            Some(fault) => Err(fault),
            None => Ok(records),
        }
    }

    /// The masters whose records can be read, by name, and what is wrong with the others: one damaged file
    /// must not keep the other masters from being served.
    ///
    /// # Errors
    /// [`StateDirError`], if they cannot be listed.
    pub fn masters_and_faults(&self) -> Result<(Vec<MasterRecord>, Vec<StateDirError>), StateDirError> {
        let _one = lock(&self.masters);
        let (mut records, mut faults) = (Vec::new(), Vec::new());
        for entry in file::list(&self.root.join("masters"))? {
            match load::<MasterRecord>(&entry.path(), remedy::MASTER) {
                Ok(Some(record)) if self.master_path(record.id) == entry.path() => records.push(record),
                Ok(Some(record)) => faults.push(StateDirError::Unreadable {
                    path: entry.path(),
                    problem: format!("it describes master {}", record.id),
                    remedy: remedy::MASTER,
                }),
                Ok(None) => {}
                Err(error) => faults.push(error),
            }
        }
        records.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        Ok((records, faults))
    }

    fn ended_path(&self, set: Id128) -> PathBuf {
        self.root.join("ended").join(Uuid::from_bytes(set.0).to_string())
    }

    /// Records that images of a set have ended.
    ///
    /// # Errors
    /// [`StateDirError`]; then nothing is recorded for sure.
    pub fn record_end(&self, note: &EndNote) -> Result<(), StateDirError> {
        let path = self.ended_path(note.set);
        let _one = lock(&self.ended);
        // Never to an older epoch: what has ended stays ended. A damaged record gives way to a whole one.
        let before = load::<EndRecord>(&path, remedy::ENDED).ok().flatten().map_or(0, |record| record.epoch);
        let epoch = note.epoch.0.max(before);
        save(
            &path,
            &EndRecord {
                epoch,
                shadow_failed: note.cause == OfflineCause::Shadow,
                master_incomplete: note.master_incomplete,
            },
        )
    }

    /// The newest epoch of a set that is recorded as ended.
    ///
    /// # Errors
    /// [`StateDirError`].
    pub fn ended(&self, set: Id128) -> Result<Option<Ended>, StateDirError> {
        let record = load::<EndRecord>(&self.ended_path(set), remedy::ENDED)?;
        Ok(record
            .map(|record| Ended { epoch: Epoch(record.epoch), master_incomplete: record.master_incomplete }))
    }

    /// Forgets the end of earlier images: that of `epoch` is durable. If it has ended already, that stays.
    ///
    /// # Errors
    /// [`StateDirError`].
    pub fn forget_end(&self, set: Id128, epoch: Epoch) -> Result<(), StateDirError> {
        let path = self.ended_path(set);
        let _one = lock(&self.ended);
        // The highest of all stands for "whatever it was" and was recorded before the set was served.
        let of_this = |record: EndRecord| record.epoch >= epoch.0 && record.epoch != u64::MAX;
        if load::<EndRecord>(&path, remedy::ENDED).ok().flatten().is_some_and(of_this) {
            return Ok(());
        }
        file::remove(&path)
    }

    fn answer_path(&self, request: &str) -> Result<PathBuf, StateDirError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if request.is_empty() || request.len() > REQUEST_BYTES_MAX || !request.bytes().all(plain) {
            return Err(StateDirError::RequestId(request.to_owned()));
        }
        Ok(self.root.join("answers").join(request))
    }

    /// Keeps the answer to a request, and lets go of the oldest if there are too many.
    ///
    /// # Errors
    /// [`StateDirError`].
    pub fn remember(&self, request: &str, fingerprint: u64, answer: &Value) -> Result<(), StateDirError> {
        let path = self.answer_path(request)?;
        let mut known = lock(&self.answers);
        save(&path, &AnswerRecord { fingerprint, answer: answer.clone() })?;
        known.retain(|other| other != request);
        known.push_back(request.to_owned());
        while known.len() > ANSWERS_MAX {
            let oldest = known.pop_front().expect("there are more than one");
            if let Err(error) = file::remove(&self.answer_path(&oldest)?) {
                // The answer asked for is kept; one too many does no harm and goes with a later start.
                tracing::warn!(request = %oldest, %error, "an old answer could not be removed");
            }
        }
        Ok(())
    }

    /// The answer that a request got, and what told the call apart.
    ///
    /// # Errors
    /// [`StateDirError`].
    pub fn recall(&self, request: &str) -> Result<Option<(u64, Value)>, StateDirError> {
        let record = load::<AnswerRecord>(&self.answer_path(request)?, remedy::ANSWER)?;
        Ok(record.map(|record| (record.fingerprint, record.answer)))
    }
}

/// Makes a folder and those above it, durably.
fn make_folder(path: &Path) -> Result<(), StateDirError> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|part| !part.as_os_str().is_empty() && !part.exists()).collect();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("make", path))?;
    missing.into_iter().try_for_each(file::sync_folder_of)
}

/// Claims the directory for this process. The lock falls with the process and the file stays.
fn take_lock(root: &Path) -> Result<File, StateDirError> {
    let path = root.join("lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let opened = opened.map_err(io_error("open", &path))?;
    match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(opened),
        Err(Errno::WOULDBLOCK) => Err(StateDirError::InUse(root.to_owned())),
        Err(errno) => Err(io_error("lock", &path)(errno.into())),
    }
}

/// The id of this node, made the first time.
fn node_id(path: &Path) -> Result<[u8; 16], StateDirError> {
    let Some(text) = file::read(path)? else {
        let id = Uuid::new_v4();
        file::write(path, id.to_string().as_bytes())?;
        return Ok(*id.as_bytes());
    };
    match Uuid::try_parse_ascii(text.trim_ascii()) {
        Ok(id) => Ok(*id.as_bytes()),
        Err(error) => Err(StateDirError::Unreadable {
            path: path.to_owned(),
            problem: error.to_string(),
            remedy: remedy::NODE,
        }),
    }
}

/// Requests that have been answered, the oldest first as far as the file system's clock tells.
fn answered(folder: &Path) -> Result<VecDeque<String>, StateDirError> {
    let mut found: Vec<(SystemTime, String)> = Vec::new();
    for entry in file::list(folder)? {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let written = entry.metadata().and_then(|metadata| metadata.modified());
        found.push((written.unwrap_or(SystemTime::UNIX_EPOCH), name));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

fn save<T: Serialize>(path: &Path, record: &T) -> Result<(), StateDirError> {
    let text = record::encode(record).map_err(|error| io_error("encode", path)(error.into()))?;
    file::write(path, &text)
}

fn load<T: DeserializeOwned>(path: &Path, remedy: &'static str) -> Result<Option<T>, StateDirError> {
    let Some(text) = file::read(path)? else { return Ok(None) };
    record::decode(&text).map(Some).map_err(|problem| StateDirError::Unreadable {
        path: path.to_owned(),
        problem,
        remedy,
    })
}
