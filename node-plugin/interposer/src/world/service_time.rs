//! When this node was served last: a file in `/run` that is touched while the process lives.
//!
//! A file system that was mounted or written later than that was so past Umbra. After a reboot the file is gone, and
//! whatever happened since the boot happened past Umbra.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// File systems count in seconds: more often tells no more.
const PERIOD: Duration = Duration::from_millis(250);

/// Name of the file.
const NAME: &str = "served";

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// When the kernel was started, in seconds since 1970.
fn boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The last second in which an earlier process may have served anything. If nothing can be told, the present one: then
/// nobody is suspected.
pub(crate) fn served_until(folder: &Path) -> u64 {
    let touched = fs::metadata(folder.join(NAME)).and_then(|metadata| metadata.modified());
    let booted = || boot_time(&fs::read_to_string("/proc/stat").unwrap_or_default());
    // It may have served on for as long as it does not touch the file.
    touched
        .ok()
        .map(|touched| seconds(touched) + 1)
        .or_else(booted)
        .unwrap_or_else(|| seconds(SystemTime::now()))
}

fn touch(path: &Path) -> io::Result<()> {
    File::create(path)?.set_modified(SystemTime::now())
}

/// Keeps the file up to date until the process ends.
pub(crate) async fn keep(folder: PathBuf) {
    let path = folder.join(NAME);
    let mut ticks = tokio::time::interval(PERIOD);
    let mut told = false;
    loop {
        ticks.tick().await;
        if let Err(error) = touch(&path)
            && !told
        {
            tracing::warn!(path = %path.display(), %error, "it cannot be kept on record when this node is served");
            told = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_boot_is_found() {
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\nprocesses 5\n"), Some(1_700_000_000));
        assert_eq!(boot_time("cpu 1 2\n"), None);
    }

    #[test]
    fn a_touched_file_says_when() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(NAME);
        touch(&path).unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
        assert_eq!(served_until(home.path()), 1_001);
        touch(&path).unwrap();
        assert!(served_until(home.path()) > 1_000);
    }
}
