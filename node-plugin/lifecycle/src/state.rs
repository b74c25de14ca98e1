//! The state directory: what must be known before any volume is read.
//!
//! ```text
//!  masters/UUID    one record per master, with its sets
//!  ended/UUID      per set: images up to this epoch have ended (E7)
//!  cuts/UUID       cuts over several sets that somebody may be in doubt about (E4)
//!  answers/ID      requests that were begun, and what they were answered
//! ```
//!
//! Any task may call any function; each folder has one writer at a time. All of them may take as long as the disk
//! does, so no reactor waits for them.

mod cuts;
mod record;
#[cfg(test)]
pub(crate) mod tests;

use crate::files::{FileError, FileName, Files, Folder};
use crate::mutation::{Rule, is_off};
pub use record::{
    CopyLimitsRecord, CutRecord, Decision, MasterRecord, QUEUE_DEPTH_MAX, SetRecord, SetStage, VolumeRecord,
};
use record::{EndRecord, RequestRecord};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::Mutex;
use umbra_engine::{Epoch, Id128, OfflineCause};
use umbra_store::{EndNote, Ended};
use uuid::Uuid;

/// Requests kept; one repeated later than this many others is a new one.
const REQUESTS_MAX: usize = 1024;
/// Stands for every epoch of a set: it is to be gone, or nobody can say which images have ended.
pub const EVERY_EPOCH: Epoch = Epoch(u64::MAX);
/// Longest request id, in bytes: it becomes a file name.
const REQUEST_BYTES_MAX: usize = 128;

/// Why the state directory cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// A file is not what this program writes, or what a later version of it wrote.
    #[error("{file} in the state directory cannot be used ({problem}); {remedy}")]
    Unreadable {
        /// The file.
        file: FileName,
        /// What is wrong.
        problem: String,
        /// What can be done.
        remedy: &'static str,
    },
    /// It cannot be the name of a file.
    #[error("request id {0:.64?} is unusable; use at most 128 letters, digits, '-' and '_'")]
    RequestId(String),
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
}

impl StateError {
    /// Whether it may go away by itself: the disk failed, and the file may be good.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Whether a master's record may be behind it: a file whose name is no master's never was one.
    pub(crate) fn hides_a_master(&self) -> bool {
        match self {
            Self::Unreadable { file, .. } => {
                file.folder == Folder::Masters && Uuid::parse_str(&file.name).is_ok()
            }
            Self::RequestId(_) | Self::File(_) => true,
        }
    }
}

/// What to do about a file that cannot be read, by kind.
mod remedy {
    pub(super) const MASTER: &str =
        "use the umbra-io that wrote it; or move it away and attach the master again";
    pub(super) const ENDED: &str = "the set's image counts as ended: reset the set";
    pub(super) const CUT: &str = "put back a copy of it; or move it away: then the members' own superblocks decide, and all must be readable";
    pub(super) const ANSWER: &str = "move it away; the request then counts as a new one";
}

/// A request that is on record.
#[derive(Clone, Debug, PartialEq)]
pub struct Begun {
    /// Tells calls apart.
    pub fingerprint: u64,
    /// Name of what it makes.
    pub makes: Uuid,
    /// What it was answered; none: that is not known.
    pub answer: Option<Value>,
}

/// See the module.
#[derive(Debug)]
pub struct State<F> {
    files: F,
    masters: Mutex<()>,
    ended: Mutex<()>,
    cuts: Mutex<()>,
    answers: Mutex<()>,
}

impl<F: Files> State<F> {
    /// The state directory that consists of `files`.
    pub fn new(files: F) -> Self {
        Self {
            files,
            masters: Mutex::new(()),
            ended: Mutex::new(()),
            cuts: Mutex::new(()),
            answers: Mutex::new(()),
        }
    }

    /// Keeps a master's record.
    ///
    /// # Errors
    /// [`StateError`]; then the older record or the new one is there, whole.
    pub async fn save_master(&self, record: &MasterRecord) -> Result<(), StateError> {
        let _one = self.masters.lock().await;
        self.save(&master_file(record.id), record).await
    }

    /// Forgets a master. One that is not there is no error.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn remove_master(&self, id: Uuid) -> Result<(), StateError> {
        let _one = self.masters.lock().await;
        Ok(self.files.remove(&master_file(id)).await?)
    }

    /// The masters whose records can be used, by name, and what is wrong with the others: one damaged or foreign
    /// file must not keep the other masters from being served.
    ///
    /// # Errors
    /// [`StateError`], if they cannot be listed.
    pub async fn masters(&self) -> Result<(Vec<MasterRecord>, Vec<StateError>), StateError> {
        let _one = self.masters.lock().await;
        let (mut records, mut faults) = (Vec::<MasterRecord>::new(), Vec::new());
        for name in self.files.list(Folder::Masters).await? {
            let file = FileName { folder: Folder::Masters, name };
            let unusable =
                |problem| StateError::Unreadable { file: file.clone(), problem, remedy: remedy::MASTER };
            match self.load::<MasterRecord>(&file, remedy::MASTER).await {
                Ok(Some(record)) if record.id.to_string() != file.name => {
                    faults.push(unusable(format!("it describes master {}", record.id)));
                }
                Ok(Some(record)) => match record.check() {
                    Ok(()) => records.push(record),
                    Err(problem) => faults.push(unusable(problem)),
                },
                Ok(None) => {}
                Err(error) => faults.push(error),
            }
        }
        records.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        Ok((records, faults))
    }

    /// Records that images of a set have ended.
    ///
    /// # Errors
    /// [`StateError`]; then it is not recorded.
    pub async fn record_end(&self, note: &EndNote) -> Result<(), StateError> {
        let file = ended_file(note.set);
        let _one = self.ended.lock().await;
        // Never to an older epoch: what has ended stays ended. A damaged record gives way to a whole one.
        let before = self.load::<EndRecord>(&file, remedy::ENDED).await.ok().flatten();
        let epoch = note.epoch.0.max(before.map_or(0, |record| record.epoch));
        let record = EndRecord {
            epoch,
            shadow_failed: note.cause == OfflineCause::Shadow,
            master_incomplete: note.master_incomplete,
        };
        self.save(&file, &record).await
    }

    /// The newest epoch of a set that is recorded as ended.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn ended(&self, set: Id128) -> Result<Option<Ended>, StateError> {
        let record = self.load::<EndRecord>(&ended_file(set), remedy::ENDED).await?;
        Ok(record
            .map(|record| Ended { epoch: Epoch(record.epoch), master_incomplete: record.master_incomplete }))
    }

    /// Sets that are on record as ended and belong to no master any more: what their labels say counts for nothing.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn retired(&self, masters: &[MasterRecord]) -> Result<Vec<Id128>, StateError> {
        let configured = |id: &Uuid| masters.iter().flat_map(|master| &master.sets).any(|set| set.id == *id);
        let names = self.files.list(Folder::Ended).await?;
        let ids = names.iter().filter_map(|name| Uuid::try_parse(name).ok());
        Ok(ids.filter(|id| !configured(id)).map(|id| Id128(*id.as_bytes())).collect())
    }

    /// Forgets the end of earlier images: that of `epoch` is durable. If it has ended already, that stays.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn forget_end(&self, set: Id128, epoch: Epoch) -> Result<(), StateError> {
        let file = ended_file(set);
        let _one = self.ended.lock().await;
        // The highest of all stands for "whatever it was" and was recorded before the set was served.
        let of_this = |record: EndRecord| record.epoch >= epoch.0 && record.epoch != EVERY_EPOCH.0;
        if self.load::<EndRecord>(&file, remedy::ENDED).await.ok().flatten().is_some_and(of_this) {
            return Ok(());
        }
        Ok(self.files.remove(&file).await?)
    }

    /// Records that a request begins to make `makes`; if it was begun before, what is on record. Lets go of the oldest
    /// requests if there are too many.
    ///
    /// # Errors
    /// [`StateError`]; then the request must have no effect.
    pub async fn begin_request(
        &self,
        request: &str,
        fingerprint: u64,
        makes: Uuid,
    ) -> Result<Begun, StateError> {
        let file = answer_file(request)?;
        let _one = self.answers.lock().await;
        if let Some(record) = self.load::<RequestRecord>(&file, remedy::ANSWER).await? {
            let RequestRecord { fingerprint, makes, answer } = record;
            return Ok(Begun { fingerprint, makes, answer });
        }
        let known = self.files.list(Folder::Answers).await?;
        for name in known.iter().take((known.len() + 1).saturating_sub(REQUESTS_MAX)) {
            self.files.remove(&FileName { folder: Folder::Answers, name: name.clone() }).await?;
        }
        let reserved = self.save(&file, &RequestRecord { fingerprint, makes, answer: None }).await;
        if !is_off(Rule::RequestReserved) {
            reserved?;
        }
        Ok(Begun { fingerprint, makes, answer: None })
    }

    /// A request, if it is on record.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn request(&self, request: &str) -> Result<Option<Begun>, StateError> {
        let record = self.load::<RequestRecord>(&answer_file(request)?, remedy::ANSWER).await?;
        Ok(record.map(|RequestRecord { fingerprint, makes, answer }| Begun { fingerprint, makes, answer }))
    }

    /// Keeps the answer to a request that was begun.
    ///
    /// # Errors
    /// [`StateError`]; then the request is still on record as begun.
    pub async fn answer_request(
        &self,
        request: &str,
        begun: &Begun,
        answer: Value,
    ) -> Result<(), StateError> {
        let file = answer_file(request)?;
        let _one = self.answers.lock().await;
        let record =
            RequestRecord { fingerprint: begun.fingerprint, makes: begun.makes, answer: Some(answer) };
        self.save(&file, &record).await
    }

    async fn save<T: Serialize + Sync>(&self, file: &FileName, record: &T) -> Result<(), StateError> {
        let bytes = record::encode(record).map_err(|error| FileError {
            action: "encode",
            file: file.to_string(),
            problem: error.to_string(),
        })?;
        Ok(self.files.write(file, bytes).await?)
    }

    async fn load<T: DeserializeOwned>(
        &self,
        file: &FileName,
        remedy: &'static str,
    ) -> Result<Option<T>, StateError> {
        let Some(bytes) = self.files.read(file).await? else { return Ok(None) };
        record::decode(&bytes).map(Some).map_err(|problem| StateError::Unreadable {
            file: file.clone(),
            problem,
            remedy,
        })
    }
}

fn master_file(id: Uuid) -> FileName {
    FileName { folder: Folder::Masters, name: id.to_string() }
}

fn ended_file(set: Id128) -> FileName {
    FileName { folder: Folder::Ended, name: Uuid::from_bytes(set.0).to_string() }
}

fn answer_file(request: &str) -> Result<FileName, StateError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if request.is_empty() || request.len() > REQUEST_BYTES_MAX || !request.bytes().all(plain) {
        return Err(StateError::RequestId(request.to_owned()));
    }
    Ok(FileName { folder: Folder::Answers, name: request.to_owned() })
}
