//! Whether a device has a volatile write cache *now*: it can be switched on under a claimed device (E13).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use umbra_identity::{BlockDir, DeviceNumber};

/// The kernel's word for a device without a volatile cache; the other is "write back".
const WRITE_THROUGH: &str = "write through";
/// Longer than either word.
const BYTES_MAX: usize = 64;

/// Reads a device's `write_cache` again and again: one system call each, no path looked up, nothing allocated.
///
/// The kernel takes the queue's lock for it. Who changes another attribute of a queue holds that lock until the
/// queue is empty, for ever if the device hangs: so do not ask on a thread that serves anything.
#[derive(Debug)]
pub struct WriteCacheWatch {
    /// None for what has no such attribute: files, which always need a flush, and devices that sysfs does not show.
    attribute: Option<File>,
}

impl WriteCacheWatch {
    pub(crate) fn of_device(number: DeviceNumber) -> Self {
        match BlockDir::of(number) {
            Ok(block) => Self::at(&block.queue()),
            Err(_) => Self::of_file(),
        }
    }

    pub(crate) fn of_file() -> Self {
        Self { attribute: None }
    }

    fn at(queue: &Path) -> Self {
        Self { attribute: File::open(queue.join("write_cache")).ok() }
    }

    /// Whether a completed write may be lost by a power cut until a flush. What cannot be read is taken from the
    /// careful side: it may.
    pub fn is_volatile(&self) -> bool {
        let mut bytes = [0; BYTES_MAX];
        let read = self.attribute.as_ref().map(|attribute| attribute.read_at(&mut bytes, 0));
        let Some(Ok(length)) = read else { return true };
        bytes[..length].trim_ascii_end() != WRITE_THROUGH.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_is_switched_on_is_seen_and_what_is_unknown_is_volatile() {
        let home = tempfile::tempdir().unwrap();
        let queue = home.path();
        std::fs::write(queue.join("write_cache"), "write through\n").unwrap();
        let watch = WriteCacheWatch::at(queue);
        assert!(!watch.is_volatile());
        std::fs::write(queue.join("write_cache"), "write back\n").unwrap();
        assert!(watch.is_volatile());
        std::fs::write(queue.join("write_cache"), "").unwrap();
        assert!(watch.is_volatile());
        assert!(WriteCacheWatch::at(&queue.join("missing")).is_volatile());
        assert!(WriteCacheWatch::of_file().is_volatile());
    }
}
