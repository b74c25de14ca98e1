//! The files of one machine's run: disks and sockets while it lasts, logs for longer where it failed.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
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
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        sweep();
        // Short, for the path of a socket may have 107 bytes only.
        let folder = env::temp_dir().join(format!("umbra-{}-{number}", process::id()));
        fs::create_dir_all(folder.join("logs")).with_context(|| folder.display().to_string())?;
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

/// Removes what processes that were killed have left: their disks can be large.
fn sweep() {
    for entry in fs::read_dir(env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix("umbra-")?.split_once('-'));
        let owner =
            owner.and_then(|(owner, number)| number.parse::<u32>().ok().and(owner.parse::<u32>().ok()));
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
