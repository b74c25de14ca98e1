//! Small files that are there whole or not at all, whatever happens while they are written.

use super::StateDirError;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// How the file beside is called while it is written.
const UNFINISHED: &str = "new";

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateDirError {
    move |cause| StateDirError::Io { action, path: path.to_owned(), cause }
}

/// Writes a file in place of the one that may be there. Nobody else may write the same file meanwhile.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), StateDirError> {
    // 1) write beside the place      crash here: the old version, and leftovers that the next start sweeps
    // 2) sync                        crash here: same
    // 3) rename over the old one     crash here: either version, whole
    // 4) sync the folder             crash here: the new version
    let beside = path.with_extension(UNFINISHED);
    let mut file = File::create(&beside).map_err(io_error("make", &beside))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // A full disk gets the space back; a failure to remove changes nothing.
        let _ = fs::remove_file(&beside);
        return Err(io_error("write", path)(error));
    }
    fs::rename(&beside, path).map_err(io_error("replace", path))?;
    sync_folder_of(path)
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), StateDirError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("remove", path)(error)),
        Ok(()) => sync_folder_of(path),
    }
}

/// Reads a file, if it is there.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StateDirError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

/// The finished files of a folder. What a crash left unfinished is removed.
pub(super) fn list(folder: &Path) -> Result<Vec<fs::DirEntry>, StateDirError> {
    let mut finished = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error("list", folder))? {
        let entry = entry.map_err(io_error("list", folder))?;
        if entry.path().extension() == Some(OsStr::new(UNFINISHED)) {
            remove(&entry.path())?;
        } else {
            finished.push(entry);
        }
    }
    Ok(finished)
}

/// Makes what was made, renamed or removed in the folder of `path` durable.
pub(super) fn sync_folder_of(path: &Path) -> Result<(), StateDirError> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(io_error("sync", folder))
}
