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
    /// None for what has no such attribute: files, and devices that sysfs does not show.
    attribute: Option<File>,
}

impl WriteCacheWatch {
    pub(crate) fn of_device(number: DeviceNumber) -> Self {
        match BlockDir::of(number) {
            Ok(block) => Self::of_queue(&block.queue()),
            Err(_) => Self::of_file(),
        }
    }

    pub(crate) fn of_file() -> Self {
        Self { attribute: None }
    }

    /// Of the device whose queue has this directory in sysfs.
    pub fn of_queue(queue: &Path) -> Self {
        Self { attribute: File::open(queue.join("write_cache")).ok() }
    }

    /// Whether a completed write may be lost by a power cut until a flush. None if that cannot be read, as of a device
    /// that is gone: then nothing is known to have changed, and whatever is asked of the device says the rest.
    pub fn is_volatile(&self) -> Option<bool> {
        let mut bytes = [0; BYTES_MAX];
        let length = self.attribute.as_ref()?.read_at(&mut bytes, 0).ok()?;
        let word = bytes[..length].trim_ascii_end();
        (!word.is_empty()).then_some(word != WRITE_THROUGH.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_is_switched_on_is_seen_and_what_cannot_be_read_is_no_verdict() {
        let home = tempfile::tempdir().unwrap();
        let queue = home.path();
        std::fs::write(queue.join("write_cache"), "write through\n").unwrap();
        let watch = WriteCacheWatch::of_queue(queue);
        assert_eq!(watch.is_volatile(), Some(false));
        std::fs::write(queue.join("write_cache"), "write back\n").unwrap();
        assert_eq!(watch.is_volatile(), Some(true));
        std::fs::write(queue.join("write_cache"), "").unwrap();
        assert_eq!(watch.is_volatile(), None);
        assert_eq!(WriteCacheWatch::of_queue(&queue.join("missing")).is_volatile(), None);
        assert_eq!(WriteCacheWatch::of_file().is_volatile(), None);
        // Opens, and fails to be read, as the attribute of a device that is gone.
        std::fs::create_dir_all(queue.join("gone/write_cache")).unwrap();
        assert_eq!(WriteCacheWatch::of_queue(&queue.join("gone")).is_volatile(), None);
    }
}
