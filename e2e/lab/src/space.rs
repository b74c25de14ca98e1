//! Room on disks, looked at before something fills them: a machine whose disk cannot grow does not fail, it stands still.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Bytes that a machine may write to its disks and to the copy of its root, with room for a test that goes wrong.
pub(crate) const OF_A_MACHINE: u64 = 2 << 30;

/// Makes the folder where it is missing, and looks whether this many bytes can be written to its file system.
///
/// # Errors
/// Where they cannot: with the folder, what is free, and what is needed.
pub fn ensure(folder: &Path, bytes: u64) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let system = rustix::fs::statvfs(folder).with_context(|| folder.display().to_string())?;
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    ensure!(
        free >= bytes,
        "{} has {} MiB free, {} MiB are needed: make room there, or name another place",
        folder.display(),
        free >> 20,
        bytes >> 20
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_what_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        ensure(&folder.path().join("new"), 1).unwrap();
        let error = ensure(folder.path(), u64::MAX).unwrap_err().to_string();
        assert!(error.contains(&format!("{} MiB are needed", u64::MAX >> 20)), "{error}");
    }
}
