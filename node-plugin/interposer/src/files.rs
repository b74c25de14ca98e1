//! Small files that are there whole or not at all, whatever happens while they are written.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How the file beside is called while it is written.
const UNFINISHED: &str = "new";

/// A new version, durable beside the place of the old one. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Written {
    file: File,
    beside: Beside,
    path: PathBuf,
}

#[derive(Debug)]
struct Beside(PathBuf);

impl Drop for Beside {
    fn drop(&mut self) {
        // A full disk gets the space back; a failure to remove changes nothing, and one that is in its place is not here.
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes a new version of a file, for its owner only. Nobody else may write the same file meanwhile.
pub(crate) fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<Written> {
    // 1) write beside the place      crash here: the old version, and leftovers that the next start sweeps
    // 2) sync                        crash here: same
    // 3) rename over the old one     crash here: either version, whole
    // 4) sync the folder             crash here: the new version
    let beside = path.with_extension(UNFINISHED);
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).clone();
    let mut file = options.open(&beside)?;
    let beside = Beside(beside);
    file.write_all(bytes).and_then(|()| file.sync_all())?;
    Ok(Written { file, beside, path: path.to_owned() })
}

impl Written {
    /// Puts it in its place. Returns the file, open for reading and writing.
    ///
    /// # Errors
    /// What the file system says. It may be in its place then, and not there after a power cut.
    pub(crate) fn replace(self) -> io::Result<File> {
        fs::rename(&self.beside.0, &self.path)?;
        sync_folder_of(&self.path)?;
        Ok(self.file)
    }
}

/// Puts a new version of a file in its place.
///
/// # Errors
/// As [`Written::replace`].
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<File> {
    write_beside(path, bytes)?.replace()
}

/// Claims what a file stands for, making the file if it is not there; none if another process has it. The claim falls with
/// the process, and the file stays.
pub(crate) fn lock(path: &Path) -> io::Result<Option<File>> {
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(opened)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_folder_of(path),
    }
}

/// Reads a file, if it is there.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_unfinished(path: &Path) -> bool {
    path.extension() == Some(OsStr::new(UNFINISHED))
}

/// The names of the finished files of a folder, the oldest first. What is no file, or has no name in UTF-8, is none
/// of ours.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<String>> {
    let mut found: Vec<(SystemTime, String)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_unfinished(&entry.path()) || !entry.file_type()?.is_file() {
            continue;
        }
        let written = entry.metadata().and_then(|metadata| metadata.modified());
        found.push((written.unwrap_or(SystemTime::UNIX_EPOCH), name));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

/// Removes what a crash has left unfinished.
pub(crate) fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if is_unfinished(&path) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Makes what was made, renamed or removed in the folder of `path` durable.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|opened| opened.sync_all())
}

/// A fault on demand: waits for as long as the record at `path`, which is there and is to be replaced, is to be kept. That is while a
/// file `hold` lies in the state directory, a folder of which has the record.
#[cfg(feature = "faults")]
pub(crate) fn hold(path: &Path) {
    let asked = path.parent().map(|folder| folder.with_file_name("hold"));
    while path.exists() && asked.as_ref().is_some_and(|file| file.exists()) {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_new_version_takes_the_place_of_the_old_one_or_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("record");
        write(&path, b"old").unwrap();
        drop(write_beside(&path, b"given up").unwrap());
        assert_eq!(
            (fs::read(&path).unwrap(), list(home.path()).unwrap()),
            (b"old".to_vec(), vec!["record".to_owned()])
        );
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "nothing is left beside it");
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_one_has_another_does_not_get() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lock");
        let first = lock(&path).unwrap();
        assert!(first.is_some() && lock(&path).unwrap().is_none());
        drop(first);
        assert!(lock(&path).unwrap().is_some());
        assert!(lock(&home.path().join("missing/lock")).is_err());
    }
}
