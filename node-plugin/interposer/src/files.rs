//! Small files that are there whole or not at all, whatever happens while they are written.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How the file beside is called while it is written.
const UNFINISHED: &str = "new";

/// A new version, durable beside the place of the old one. Dropped, it is gone.
#[derive(Debug)]
pub(super) struct Written {
    beside: PathBuf,
    path: PathBuf,
    replaced: bool,
}

/// Writes a new version of a file. Nobody else may write the same file meanwhile.
pub(super) fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<Written> {
    // 1) write beside the place      crash here: the old version, and leftovers that the next start sweeps
    // 2) sync                        crash here: same
    // 3) rename over the old one     crash here: either version, whole
    // 4) sync the folder             crash here: the new version
    let beside = path.with_extension(UNFINISHED);
    let written = Written { beside, path: path.to_owned(), replaced: false };
    let mut file = File::create(&written.beside)?;
    file.write_all(bytes).and_then(|()| file.sync_all())?;
    Ok(written)
}

impl Written {
    /// Puts it in its place.
    pub(super) fn replace(mut self) -> io::Result<()> {
        fs::rename(&self.beside, &self.path)?;
        self.replaced = true;
        sync_folder_of(&self.path)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if !self.replaced {
            // A full disk gets the space back; a failure to remove changes nothing.
            let _ = fs::remove_file(&self.beside);
        }
    }
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_folder_of(path),
    }
}

/// Reads a file, if it is there.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
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
pub(super) fn list(folder: &Path) -> io::Result<Vec<String>> {
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
pub(super) fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if is_unfinished(&path) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Makes what was made, renamed or removed in the folder of `path` durable.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|opened| opened.sync_all())
}
