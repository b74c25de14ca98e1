//! A bitmap volume, or a copy of one, as the offline commands read it: a block device, a file, or a compressed file.
//!
//! It is claimed for as long as it is open, as `umbra-io` claims it (E6): two programs never look at and write to
//! one volume at once. Nothing is written unless it was opened for that.

use crate::failure::Failure;
use flate2::read::GzDecoder;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Bytes of a compressed copy at most, unpacked: they go to a temporary file.
const UNPACKED_MAX: u64 = 1 << 30;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Bytes at offsets.
pub(crate) trait Volume {
    /// Bytes it has.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`.
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// One that can be written.
pub(crate) trait WriteVolume: Volume {
    /// Writes all of `bytes` to `offset`.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was written durable.
    fn flush(&mut self) -> io::Result<()>;
}

/// Why an image cannot be opened.
#[derive(Debug, Error)]
pub(crate) enum ImageError {
    /// It could not be opened, measured or unpacked.
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// Somebody holds it.
    #[error("{} is in use: an interposer serves it, or it is mounted", .0.display())]
    InUse(PathBuf),
    /// A directory, a pipe.
    #[error("{} is neither a block device nor a file", .0.display())]
    Kind(PathBuf),
    /// It is to be written, but is a compressed copy.
    #[error("{} is compressed and can only be read", .0.display())]
    Packed(PathBuf),
    /// A compressed copy that does not end.
    #[error("{} has more than 1 GiB unpacked", .0.display())]
    TooLarge(PathBuf),
}

impl From<&ImageError> for Failure {
    fn from(error: &ImageError) -> Self {
        let (reason, path, remedy) = match error {
            ImageError::Io { path, .. } => (
                "IO",
                path,
                "look whether the path is right, and in the kernel's log for its device".to_owned(),
            ),
            ImageError::InUse(path) => {
                ("VOLUME_IN_USE", path, "detach its master first, or read a copy of it".to_owned())
            }
            ImageError::Kind(path) => ("NOT_A_VOLUME", path, "name a block device or a file".to_owned()),
            ImageError::Packed(path) | ImageError::TooLarge(path) => {
                ("PACKED", path, format!("unpack it first: gunzip --keep {}", path.display()))
            }
        };
        Self::new(reason, error, remedy).with([("image", path.display().to_string())])
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    size: u64,
    /// Of a compressed copy: a file without a name, which nobody else reads, so that writing it would help nobody.
    is_unpacked: bool,
}

impl Image {
    /// Opens and claims `path`, or fails at once.
    pub(crate) fn open(path: &Path, writable: bool) -> Result<Self, ImageError> {
        let failed = |action, source| ImageError::Io { action, path: path.to_owned(), source };
        let kind = std::fs::metadata(path).map_err(|error| failed("open", error))?.file_type();
        if !kind.is_block_device() && !kind.is_file() {
            return Err(ImageError::Kind(path.to_owned()));
        }
        let exclusive = if kind.is_block_device() { OFlags::EXCL } else { OFlags::empty() };
        let flags = i32::try_from((exclusive | OFlags::CLOEXEC).bits()).unwrap_or_default();
        let mut file = match OpenOptions::new().read(true).write(writable).custom_flags(flags).open(path) {
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                return Err(ImageError::InUse(path.to_owned()));
            }
            other => other.map_err(|error| failed("open", error))?,
        };
        if kind.is_file() {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => return Err(ImageError::InUse(path.to_owned())),
                other => other.map_err(|errno| failed("lock", errno.into()))?,
            }
        }
        let size = file.seek(SeekFrom::End(0)).map_err(|error| failed("measure", error))?;
        let mut magic = [0; 2];
        let packed = size >= 2 && file.read_exact_at(&mut magic, 0).is_ok() && magic == GZIP_MAGIC;
        match (packed, writable) {
            (false, _) => Ok(Self { file, size, is_unpacked: false }),
            (true, true) => Err(ImageError::Packed(path.to_owned())),
            (true, false) => {
                file.rewind().map_err(|error| failed("read", error))?;
                let (file, size) = unpack(file).map_err(|error| failed("unpack", error))?;
                if size > UNPACKED_MAX {
                    return Err(ImageError::TooLarge(path.to_owned()));
                }
                Ok(Self { file, size, is_unpacked: true })
            }
        }
    }
}

/// Unpacks into a file without a name, zeros left out, and stops behind what is allowed. Not into memory: what packs
/// well is large.
fn unpack(packed: File) -> io::Result<(File, u64)> {
    let unpacked = tempfile::tempfile()?;
    let mut from = GzDecoder::new(packed).take(UNPACKED_MAX + 1);
    let mut piece = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let len = from.read(&mut piece)?;
        if len == 0 {
            unpacked.set_len(size)?;
            return Ok((unpacked, size));
        }
        if piece[..len].iter().any(|byte| *byte != 0) {
            unpacked.write_all_at(&piece[..len], size)?;
        }
        size += len as u64;
    }
}

impl Volume for Image {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

impl WriteVolume for Image {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.is_unpacked {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.file.write_all_at(bytes, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_all()
    }
}

#[cfg(test)]
impl Volume for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let part = usize::try_from(offset).ok().and_then(|from| self.get(from..from.checked_add(buf.len())?));
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

#[cfg(test)]
impl WriteVolume for Vec<u8> {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let from = usize::try_from(offset).expect("a test's own offset");
        self[from..from + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
