//! Digests of masters' first bytes, kept in `/run`: a file for each master, with the boot it is of.
//!
//! It outlives the process, as after `kill -9`, and not the machine: what a power cut leaves on a disk need not be what
//! was read before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Name of the folder.
const NAME: &str = "digests";

/// All of them.
#[derive(Clone, Debug)]
pub(crate) struct Digests {
    folder: PathBuf,
    boot: String,
}

/// That of one master.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    boot: String,
    /// What went wrong was said.
    told: bool,
}

impl Digests {
    /// Those in a folder that does not outlive the machine, in this boot of it.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn open(run_folder: &Path, boot: String) -> io::Result<Self> {
        let folder = run_folder.join(NAME);
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, boot })
    }

    pub(super) fn of(&self, master: Uuid) -> Kept {
        Kept { path: self.folder.join(master.to_string()), boot: self.boot.clone(), told: false }
    }
}

impl Kept {
    /// The digest, if one is kept that is of this boot. One that cannot be read is none.
    pub(super) fn get(&self) -> Option<u64> {
        let text = fs::read_to_string(&self.path).ok()?;
        let (boot, digest) = text.trim_end().split_once(' ')?;
        u64::from_str_radix(digest, 16).ok().filter(|_| boot == self.boot)
    }

    /// Keeps this one.
    pub(super) fn put(&mut self, digest: u64) {
        // Whole or not at all, for who reads it after a kill. Nothing of it is of use after a power cut, so nothing waits
        // for a disk.
        let beside = self.path.with_extension("new");
        let written = fs::write(&beside, format!("{} {digest:016x}\n", self.boot));
        self.tell("kept", written.and_then(|()| fs::rename(&beside, &self.path)));
    }

    /// Forgets it. If that fails, the master is found written at its next start, and waits for somebody to accept it.
    pub(super) fn withdraw(&mut self) {
        let gone = self.forget();
        self.tell("taken back", gone);
    }

    /// Forgets it.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn forget(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn tell(&mut self, what: &str, outcome: io::Result<()>) {
        if let Err(error) = outcome
            && !std::mem::replace(&mut self.told, true)
        {
            tracing::warn!(path = %self.path.display(), %error, "the digest of a master's first bytes cannot be {what}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_in_its_boot_until_it_is_taken_back() {
        let home = tempfile::tempdir().unwrap();
        let digests = |boot: &str| Digests::open(home.path(), boot.to_owned()).unwrap();
        let (master, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut kept = digests("first").of(master);
        assert_eq!(kept.get(), None);
        kept.put(0x0123);
        kept.put(7);
        assert_eq!((digests("first").of(master).get(), digests("first").of(other).get()), (Some(7), None));
        assert_eq!(digests("second").of(master).get(), None, "the disk may have lost what was read");
        kept.withdraw();
        kept.withdraw();
        assert!(kept.get().is_none() && kept.forget().is_ok() && !kept.told);
    }

    #[test]
    fn a_damaged_file_is_none() {
        let home = tempfile::tempdir().unwrap();
        let digests = Digests::open(home.path(), "boot".to_owned()).unwrap();
        let kept = digests.of(Uuid::nil());
        for text in ["", "boot", "boot ", "boot xyz", "boot 123456789abcdef01", "\u{0}"] {
            fs::write(&kept.path, text).unwrap();
            assert_eq!(kept.get(), None, "{text:?}");
        }
    }
}
