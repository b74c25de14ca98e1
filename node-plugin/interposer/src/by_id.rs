//! `/dev/umbra/by-id/<uuid>`: names that stay the same whatever number a ublk device has.

use std::io;
use std::path::Path;

/// Points the name to a device; an older target is replaced in one step.
///
/// # Errors
/// What the file system says.
pub fn publish(directory: &Path, name: &str, target: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let temporary = directory.join(format!(".{name}"));
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(target, &temporary)?;
    std::fs::rename(&temporary, directory.join(name))
}

/// Takes the name away; one that is not there is no error.
///
/// # Errors
/// What the file system says.
pub fn remove(directory: &Path, name: &str) -> io::Result<()> {
    match std::fs::remove_file(directory.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_replaced_in_place_and_removed_twice_without_an_error() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("by-id");
        publish(&directory, "a", Path::new("/dev/ublkb0")).unwrap();
        publish(&directory, "a", Path::new("/dev/ublkb1")).unwrap();
        assert_eq!(std::fs::read_link(directory.join("a")).unwrap(), Path::new("/dev/ublkb1"));
        remove(&directory, "a").unwrap();
        remove(&directory, "a").unwrap();
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    }
}
