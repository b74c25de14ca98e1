//! The files of the ledger: one per volume, in a folder of its own.
//!
//! ```text
//!   write m-<uuid>.json.new, sync, rename to m-<uuid>.json, sync the folder
//! ```
//! A kill between any two steps leaves the file of before or the new one, whole.

use crate::handle::VolumeHandle;
use crate::record::Record;
use crate::refusal::Refusal;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Longest file that is read: thousands of pods.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The folder.
#[derive(Debug)]
pub(super) struct RecordFiles {
    folder: PathBuf,
    /// Held, never read: two processes would not see each other's calls.
    _lock: File,
}

fn not_kept(file: &Path, action: &str, error: &io::Error) -> Refusal {
    Refusal::LedgerNotKept {
        file: file.display().to_string().into(),
        problem: format!("{action}: {error}").into(),
    }
}

impl RecordFiles {
    pub(super) fn open(folder: &Path) -> Result<Self, Refusal> {
        fs::create_dir_all(folder).map_err(|error| not_kept(folder, "make the folder", &error))?;
        let path = folder.join("lock");
        let lock = OpenOptions::new().create(true).write(true).truncate(false).open(&path);
        let lock = lock.map_err(|error| not_kept(&path, "open it", &error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder: folder.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                Err(not_kept(&path, "lock it", &io::Error::other("another process has it")))
            }
            Err(TryLockError::Error(error)) => Err(not_kept(&path, "lock it", &error)),
        }
    }

    fn path(&self, volume: VolumeHandle) -> PathBuf {
        self.folder.join(volume.file_name())
    }

    pub(super) fn read(&self, volume: VolumeHandle) -> Result<Option<Record>, Refusal> {
        let path = self.path(volume);
        let cannot = |error: io::Error| not_kept(&path, "read it", &error);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot(error)),
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(cannot)?;
        serde_json::from_slice(&bytes).map(Some).map_err(|error| cannot(error.into()))
    }

    pub(super) fn write(&self, volume: VolumeHandle, record: &Record) -> Result<(), Refusal> {
        let path = self.path(volume);
        let write = || {
            let new = path.with_extension("json.new");
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
            file.write_all(&serde_json::to_vec_pretty(record)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            self.sync()
        };
        write().map_err(|error: io::Error| not_kept(&path, "write it", &error))
    }

    pub(super) fn remove(&self, volume: VolumeHandle) -> Result<(), Refusal> {
        let path = self.path(volume);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed.and_then(|()| self.sync()),
        };
        removed.map_err(|error| not_kept(&path, "remove it", &error))
    }

    /// Files of other names are not the ledger's.
    pub(super) fn list(&self) -> Result<Vec<VolumeHandle>, Refusal> {
        let cannot = |error: io::Error| not_kept(&self.folder, "list the folder", &error);
        let mut volumes = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(cannot)? {
            let name = entry.map_err(cannot)?.file_name();
            let handle = name.to_str().and_then(|name| name.strip_suffix(".json"));
            volumes
                .extend(handle.and_then(|handle| handle.replacen('-', "/", 1).parse::<VolumeHandle>().ok()));
        }
        volumes.sort();
        Ok(volumes)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Now;
    use std::time::Duration;
    use umbra_platform::id::{MasterId, RequestId, SetId};

    fn sealed() -> Record {
        let now = Now { boot: "x".into(), uptime: Duration::ZERO };
        Record { seal: Some(now.seal(RequestId::random())), ..Record::unused(&now) }
    }

    #[test]
    fn records_outlive_the_process_and_a_write_that_was_cut_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let master = VolumeHandle::Master(MasterId::random());
        let shadow = VolumeHandle::Shadow(SetId::random());
        let (first, second) = (sealed(), sealed());
        let files = RecordFiles::open(folder.path()).expect("ours");
        assert_eq!(RecordFiles::open(folder.path()).expect_err("taken").reason(), "LEDGER_NOT_KEPT");
        files.write(master, &first).expect("written");
        files.write(shadow, &first).expect("written");
        drop(files);
        // Killed before the rename.
        fs::write(folder.path().join(master.file_name() + ".new"), "{\"boot\":").expect("written");
        let files = RecordFiles::open(folder.path()).expect("ours");
        assert_eq!(files.list().expect("listed"), [master, shadow]);
        assert_eq!(files.read(master).expect("read"), Some(first));
        files.write(master, &second).expect("written");
        assert_eq!(files.read(master).expect("read"), Some(second));
        files.remove(master).expect("removed");
        files.remove(master).expect("gone");
        assert_eq!(files.read(master).expect("read"), None);
        assert_eq!(files.list().expect("listed"), [shadow]);
    }

    #[test]
    fn a_damaged_record_is_said_to_be_one_and_hides_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = RecordFiles::open(folder.path()).expect("ours");
        let volume = VolumeHandle::Master(MasterId::random());
        for damaged in ["", "{", "[]", "{\"boot\":\"x\",\"staged\":{\"path\":\"../x\"}}"] {
            fs::write(folder.path().join(volume.file_name()), damaged).expect("written");
            let refused = files.read(volume).expect_err(damaged);
            assert_eq!(refused.reason(), "LEDGER_NOT_KEPT");
            assert!(refused.to_string().contains(&volume.file_name()), "{refused}");
        }
    }
}
