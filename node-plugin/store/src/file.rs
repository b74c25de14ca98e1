//! Plain files with positioned reads and writes, for tests and tools; the data plane uses io_uring.
//!
//! Every file is locked with `flock` on the descriptor that all I/O goes through, so that a second process is
//! refused for as long as an operation of the first can still land (E6). Never POSIX locks: those fall when *any*
//! descriptor of the file is closed. Operations are executed when they are submitted and complete at the next poll.

use crate::block_store::{
    BlockStore, Capabilities, Completion, DeviceSlot, StoreError, StoreOp, StoreOpKind,
};
use crate::buf::IoBuf;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use umbra_engine::ByteRange;

const BLOCK: u64 = 512;
/// Zeros are written in pieces of this many bytes: a hole would be one more thing that can fail later.
const ZEROS: usize = 64 << 10;

/// Why a file cannot be a device.
#[derive(Debug, Error)]
pub enum FileError {
    /// It could not be opened or measured.
    #[error("cannot open {path}: {source}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else holds it.
    #[error("{0} is in use by another process (flock); stop that process or name another file")]
    InUse(PathBuf),
    /// Its size is no multiple of a sector.
    #[error("{path} has {size} bytes, which is not a positive multiple of 512")]
    Size {
        /// Which.
        path: PathBuf,
        /// Bytes.
        size: u64,
    },
}

#[derive(Debug)]
struct Opened {
    file: File,
    size: u64,
    read_only: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct FileStore {
    files: Vec<Opened>,
    done: Vec<Completion>,
}

impl FileStore {
    /// A store without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens and locks a file of fixed size.
    ///
    /// # Errors
    /// [`FileError`] says what is wrong with it; [`FileError::InUse`] at once, without waiting.
    pub fn open(&mut self, path: &Path, read_only: bool) -> Result<DeviceSlot, FileError> {
        let failed = |source| FileError::Open { path: path.to_owned(), source };
        let close_on_exec = i32::try_from(rustix::fs::OFlags::CLOEXEC.bits()).unwrap_or_default();
        let file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .custom_flags(close_on_exec)
            .open(path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(FileError::InUse(path.to_owned())),
            other => other.map_err(|errno| failed(errno.into()))?,
        }
        let size = file.metadata().map_err(failed)?.len();
        if size == 0 || !size.is_multiple_of(BLOCK) {
            return Err(FileError::Size { path: path.to_owned(), size });
        }
        self.files.push(Opened { file, size, read_only });
        Ok(DeviceSlot(u16::try_from(self.files.len() - 1).expect("few devices")))
    }

    fn execute(
        &self,
        device: DeviceSlot,
        kind: StoreOpKind,
        buf: Option<&mut IoBuf>,
    ) -> Result<(), StoreError> {
        let opened = &self.files[usize::from(device.0)];
        let check = |range: ByteRange| {
            let aligned = range.start.is_multiple_of(BLOCK) && range.len.is_multiple_of(BLOCK);
            let inside = range.start <= opened.size && range.len <= opened.size - range.start;
            if aligned && inside { Ok(()) } else { Err(StoreError::Range(range)) }
        };
        let outcome = match (kind, buf) {
            (StoreOpKind::Read { offset }, Some(buf)) => {
                check(ByteRange::new(offset, buf.range.len() as u64))?;
                opened.file.read_exact_at(buf.bytes_mut(), offset)
            }
            (StoreOpKind::Write { offset, fua }, Some(buf)) => {
                check(ByteRange::new(offset, buf.range.len() as u64))?;
                let written = opened.file.write_all_at(buf.bytes(), offset);
                written.and_then(|()| if fua { opened.file.sync_data() } else { Ok(()) })
            }
            (StoreOpKind::WriteZeroes { range, fua }, _) => {
                check(range)?;
                let written = write_zeros(&opened.file, range);
                written.and_then(|()| if fua { opened.file.sync_data() } else { Ok(()) })
            }
            (StoreOpKind::Flush, _) => opened.file.sync_data(),
            // Advice is not taken: the bytes stay.
            (StoreOpKind::Discard(range), _) => return check(range),
            (StoreOpKind::Read { .. } | StoreOpKind::Write { .. }, None) => {
                unreachable!("reads and writes come with a buffer")
            }
        };
        outcome.map_err(|error| {
            StoreError::Device(error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()))
        })
    }
}

fn write_zeros(file: &File, range: ByteRange) -> io::Result<()> {
    let zeros = [0; ZEROS];
    let mut at = range.start;
    while at < range.end() {
        let len = (range.end() - at).min(ZEROS as u64);
        file.write_all_at(&zeros[..usize::try_from(len).unwrap_or(ZEROS)], at)?;
        at += len;
    }
    Ok(())
}

impl BlockStore for FileStore {
    fn capabilities(&self, device: DeviceSlot) -> Capabilities {
        let opened = &self.files[usize::from(device.0)];
        Capabilities {
            size: opened.size,
            logical_block: 512,
            physical_block: 4096,
            optimal_io: 0,
            // The page cache, whatever the disk below it says.
            volatile_cache: true,
            fua: false,
            rotational: false,
            discard: false,
            write_zeroes: false,
            read_only: opened.read_only,
        }
    }

    fn submit(&mut self, op: StoreOp) {
        let StoreOp { token, device, kind, mut buf } = op;
        let result = self.execute(device, kind, buf.as_mut());
        self.done.push(Completion { token, device, result, buf });
    }

    fn poll(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.done);
    }

    fn wait(&mut self, _timeout: Duration, done: &mut Vec<Completion>) {
        self.poll(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_store::Token;
    use crate::buf::AlignedBuf;
    use std::io::Write;

    /// A file that is gone when the test ends, failed or not.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, size: usize) -> Self {
            let path = std::env::temp_dir().join(format!("umbra-file-store-{}-{name}", std::process::id()));
            File::create(&path).unwrap().write_all(&vec![1; size]).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _gone = std::fs::remove_file(&self.0);
        }
    }

    fn run(store: &mut FileStore, device: DeviceSlot, kind: StoreOpKind, buf: Option<Vec<u8>>) -> Completion {
        let buf = buf.map(|bytes| IoBuf::whole(AlignedBuf::from_bytes(&bytes)));
        store.submit(StoreOp { token: Token(1), device, kind, buf });
        let mut done = Vec::new();
        store.poll(&mut done);
        done.remove(0)
    }

    #[test]
    fn what_is_written_is_read_and_what_is_outside_is_refused() {
        let scratch = Scratch::new("rw", 128 << 10);
        let mut store = FileStore::new();
        let device = store.open(&scratch.0, false).unwrap();
        let written =
            run(&mut store, device, StoreOpKind::Write { offset: 512, fua: true }, Some(vec![2; 512]));
        written.result.unwrap();
        let zeroed = ByteRange::new(4096, 100 << 10);
        run(&mut store, device, StoreOpKind::WriteZeroes { range: zeroed, fua: false }, None).result.unwrap();
        run(&mut store, device, StoreOpKind::Flush, None).result.unwrap();
        let read = run(&mut store, device, StoreOpKind::Read { offset: 0 }, Some(vec![0; 128 << 10]));
        let bytes = read.buf.unwrap().buf;
        let end = usize::try_from(zeroed.end()).unwrap();
        assert_eq!((bytes[0], bytes[512], bytes[1024], bytes[4096]), (1, 2, 1, 0));
        assert_eq!((bytes[end - 1], bytes[end]), (0, 1));
        let behind = run(&mut store, device, StoreOpKind::Read { offset: 128 << 10 }, Some(vec![0; 512]));
        assert_eq!(behind.result, Err(StoreError::Range(ByteRange::new(128 << 10, 512))));
    }

    #[test]
    fn a_file_in_use_is_refused_and_free_again_when_its_store_is_gone() {
        let scratch = Scratch::new("lock", 4096);
        let mut first = FileStore::new();
        first.open(&scratch.0, false).unwrap();
        let mut second = FileStore::new();
        assert!(matches!(second.open(&scratch.0, true), Err(FileError::InUse(path)) if path == scratch.0));
        drop(first);
        second.open(&scratch.0, true).unwrap();
    }

    #[test]
    fn files_that_are_no_devices_are_refused() {
        let scratch = Scratch::new("size", 1000);
        let mut store = FileStore::new();
        assert!(matches!(store.open(&scratch.0, false), Err(FileError::Size { size: 1000, .. })));
        let missing = scratch.0.with_extension("missing");
        assert!(matches!(store.open(&missing, false), Err(FileError::Open { .. })));
    }
}
