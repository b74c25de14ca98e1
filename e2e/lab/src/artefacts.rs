//! The files of one machine's run: disks and sockets while it lasts, logs for longer where it failed.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::{cache, progress};

/// The folder of a run, removed at its end; what is worth reading is kept unless the run was declared good.
#[derive(Debug)]
pub struct Run {
    name: String,
    folder: PathBuf,
    begin: Instant,
    transcript: Mutex<File>,
    good: bool,
}

impl Run {
    pub(crate) fn new(name: &str) -> Result<Self> {
        sweep();
        // Private, and with a name that nobody can have taken before: disks and sockets are in it, and what runs in the
        // machine is the host's administrator. Short, for the path of a socket may have 107 bytes only.
        let folder = tempfile::Builder::new()
            .prefix(&format!("umbra-{}-", process::id()))
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir();
        let folder = folder.with_context(|| env::temp_dir().display().to_string())?.keep();
        fs::create_dir(folder.join("logs")).with_context(|| folder.display().to_string())?;
        let transcript =
            OpenOptions::new().create(true).append(true).open(folder.join("logs/transcript.log"))?;
        Ok(Self {
            name: name.to_owned(),
            folder,
            begin: Instant::now(),
            transcript: Mutex::new(transcript),
            good: false,
        })
    }

    /// The folder with disks and sockets.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder with what is kept after a failure.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// Adds a line to the transcript, with the seconds since the first boot.
    pub(crate) fn note(&self, text: &str) {
        let mut to = self.transcript.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = self.begin.elapsed().as_secs_f64();
        // A transcript that cannot be written must not fail the test it tells about.
        writeln!(to, "[{seconds:9.3}] {}", text.trim_end().replace('\n', "\n            ")).ok();
    }

    /// Nothing of this run needs to be kept.
    pub(crate) fn declare_good(&mut self) {
        self.good = true;
    }

    fn keep(&self) -> Result<PathBuf> {
        let kept = match env::var_os("UMBRA_ARTEFACTS") {
            Some(folder) => PathBuf::from(folder),
            None => cache::root()?.join("artefacts"),
        };
        fs::create_dir_all(&kept)?;
        let number = (0..).find(|number| !kept.join(format!("{}-{number}", self.name)).exists());
        let target = kept.join(format!("{}-{}", self.name, number.unwrap_or(0)));
        let what = if env::var_os("UMBRA_KEEP_DISKS").is_some() { self.folder.clone() } else { self.logs() };
        crate::host::run(process::Command::new("cp").args(["-r", "--sparse=always"]).arg(what).arg(&target))?;
        Ok(target)
    }
}

/// The process whose folder has this name.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix("umbra-")?.split_once('-')?.0.parse().ok()
}

/// Removes what processes of this user that were killed have left: their disks can be large.
fn sweep() {
    let user = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(env::temp_dir()).into_iter().flatten().flatten() {
        let is_ours = entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == user);
        let owner = entry.file_name().to_str().and_then(owner).filter(|_| is_ours);
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner.to_string()).exists()) {
            // Another process may be sweeping too.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.good {
            match self.keep() {
                Ok(kept) => progress::say(format_args!("{}: logs kept in {}", self.name, kept.display())),
                Err(error) => progress::say(format_args!("{}: logs lost: {error:#}", self.name)),
            }
        }
        fs::remove_dir_all(&self.folder).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_run_is_private_and_swept_by_its_name() {
        let mut run = Run::new("test").unwrap();
        let folder = run.folder().to_owned();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, 0o700);
        assert_eq!(owner(folder.file_name().unwrap().to_str().unwrap()), Some(process::id()));
        assert_eq!(owner("umbra-lab"), None);
        run.declare_good();
        drop(run);
        assert!(!folder.exists());
    }
}
