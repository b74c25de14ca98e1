//! `/dev/umbra/by-id/<uuid>`: names that stay the same whatever number a ublk device has.
//!
//! Links by our own hand and not by udev: they must be there where no udev runs, as in containers and initial
//! ramdisks.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Where the links that are not in their place yet are made.
fn beside(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!(".{name}"))
}

/// Points the name to a device; an older target is replaced in one step, so that no moment is without the name.
///
/// # Errors
/// What the file system says.
pub(super) fn publish(directory: &Path, name: &str, target: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let beside = beside(directory, name);
    remove_if_there(&beside)?;
    symlink(target, &beside)?;
    fs::rename(&beside, directory.join(name))
}

/// Takes the name away; one that is not there is no error.
///
/// # Errors
/// What the file system says.
pub(super) fn remove(directory: &Path, name: &str) -> io::Result<()> {
    remove_if_there(&directory.join(name))
}

/// Removes the links that an earlier process left behind, but for those of `known` masters and sets: their
/// devices are still there, and are taken over under the same names. Returns the names that were removed.
///
/// Only links called like a UUID, or like one in the making, are touched. For the start, before anything is
/// published.
///
/// # Errors
/// What the file system says.
pub(super) fn sweep(directory: &Path, known: &BTreeSet<Uuid>) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut removed = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let unfinished = name.strip_prefix('.');
        let Ok(id) = Uuid::try_parse(unfinished.unwrap_or(&name)) else { continue };
        let stale = unfinished.is_some() || !known.contains(&id);
        if stale && entry.file_type()?.is_symlink() {
            remove_if_there(&entry.path())?;
            removed.push(name);
        }
    }
    removed.sort();
    Ok(removed)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_name_is_replaced_in_place_and_removed_twice_without_an_error() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("umbra/by-id");
        publish(&directory, "a", Path::new("/dev/ublkb0")).unwrap();
        // What a process that died in the middle has left.
        symlink("/dev/ublkb9", directory.join(".a")).unwrap();
        publish(&directory, "a", Path::new("/dev/ublkb1")).unwrap();
        assert_eq!(fs::read_link(directory.join("a")).unwrap(), Path::new("/dev/ublkb1"));
        assert_eq!(names(&directory), BTreeSet::from(["a".to_owned()]));
        remove(&directory, "a").unwrap();
        remove(&directory, "a").unwrap();
        assert_eq!(names(&directory), BTreeSet::new());
    }

    #[test]
    fn a_name_is_there_at_every_moment_while_it_is_replaced() {
        let home = tempfile::tempdir().unwrap();
        publish(home.path(), "a", Path::new("/dev/ublkb0")).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for number in 0..500 {
                    publish(home.path(), "a", Path::new(&format!("/dev/ublkb{number}"))).unwrap();
                }
            });
            while !writer.is_finished() {
                assert!(fs::read_link(home.path().join("a")).is_ok());
            }
        });
    }

    #[test]
    fn only_stale_links_of_ours_are_swept() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path();
        let (kept, stale, file) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        for id in [kept, stale] {
            publish(directory, &id.to_string(), Path::new("/dev/ublkb0")).unwrap();
        }
        symlink("/dev/ublkb0", directory.join(format!(".{kept}"))).unwrap();
        symlink("/dev/ublkb0", directory.join("somebody-elses")).unwrap();
        fs::write(directory.join(file.to_string()), "no link").unwrap();
        let removed = sweep(directory, &BTreeSet::from([kept])).unwrap();
        assert_eq!(removed, [format!(".{kept}"), stale.to_string()]);
        let left = [kept.to_string(), file.to_string(), "somebody-elses".to_owned()];
        assert_eq!(names(directory), BTreeSet::from(left));
        assert_eq!(sweep(&directory.join("missing"), &BTreeSet::new()).unwrap(), Vec::<String>::new());
    }
}
