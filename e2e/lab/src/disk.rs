//! Virtual disks: what the guest sees, and where the bytes are on the host.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::host;

/// What the guest is told about the disk's write cache, and what a flush costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cache {
    /// The guest sees a volatile cache and sends flushes; a flush costs nothing on the host. Right for tests: the
    /// host's page cache survives every power cut of the machine anyway.
    #[default]
    Volatile,
    /// As [`Cache::Volatile`], and every flush reaches the host's disk.
    Flushing,
    /// The guest sees no volatile cache and sends no flushes.
    WriteThrough,
}

#[derive(Debug, Clone)]
enum Backing {
    Blank { size: u64 },
    CopyOf(PathBuf),
    File(PathBuf),
}

/// A disk of a machine, seen in the guest as `/dev/lab/<name>`.
#[derive(Debug, Clone)]
pub struct Disk {
    name: String,
    backing: Backing,
    cache: Cache,
    logical_block: u32,
    physical_block: u32,
    read_only: bool,
    discard: bool,
}

impl Disk {
    fn new(name: &str, backing: Backing) -> Self {
        Self {
            name: name.to_owned(),
            backing,
            cache: Cache::default(),
            logical_block: 512,
            physical_block: 512,
            read_only: false,
            discard: true,
        }
    }

    /// An empty disk of `size` bytes that lives as long as its machine, through power cuts.
    #[must_use]
    pub fn blank(name: &str, size: u64) -> Self {
        Self::new(name, Backing::Blank { size })
    }

    /// A disk with the content of the raw image at `path`, which is not changed.
    #[must_use]
    pub fn copy_of(name: &str, path: impl Into<PathBuf>) -> Self {
        Self::new(name, Backing::CopyOf(path.into()))
    }

    /// The raw image at `path` itself: writes change it, and it stays.
    #[must_use]
    pub fn file(name: &str, path: impl Into<PathBuf>) -> Self {
        Self::new(name, Backing::File(path.into()))
    }

    /// Sets the write cache; see [`Cache`].
    #[must_use]
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = cache;
        self
    }

    /// Sets the logical block size in bytes; the physical one follows where it is smaller.
    #[must_use]
    pub fn logical_block(mut self, bytes: u32) -> Self {
        self.logical_block = bytes;
        self.physical_block = self.physical_block.max(bytes);
        self
    }

    /// Sets the physical block size in bytes.
    #[must_use]
    pub fn physical_block(mut self, bytes: u32) -> Self {
        self.physical_block = bytes;
        self
    }

    /// The guest can only read it.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The guest cannot discard.
    #[must_use]
    pub fn no_discard(mut self) -> Self {
        self.discard = false;
        self
    }

    /// The name in `/dev/lab`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file on the host, once the machine has booted for the first time or where it was there before.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.backing {
            Backing::File(path) => Some(path),
            Backing::Blank { .. } | Backing::CopyOf(_) => None,
        }
    }

    /// Makes the file, where there is none yet, in the folder of the machine's run.
    pub(crate) fn materialise(&mut self, folder: &Path) -> Result<()> {
        // Twenty bytes is what a virtio disk's serial number can hold.
        let plain = self.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        ensure!(plain && (1..=20).contains(&self.name.len()), "{:?} is no name for a disk", self.name);
        let path = folder.join(format!("{}.img", self.name));
        match &self.backing {
            Backing::File(_) => return Ok(()),
            Backing::Blank { size } => {
                let file = OpenOptions::new().write(true).create_new(true).open(&path);
                file.with_context(|| path.display().to_string())?.set_len(*size)?;
            }
            Backing::CopyOf(from) => host::copy_sparse(from, &path)?,
        }
        self.backing = Backing::File(path);
        Ok(())
    }

    /// The emulator's arguments for the disk number `index`.
    pub(crate) fn arguments(&self, index: usize) -> Result<Vec<String>> {
        let path = self.path().context("a disk without a file")?;
        let path = fs::canonicalize(path).with_context(|| path.display().to_string())?;
        let node = format!("disk{index}");
        let onoff = |on: bool| if on { "on" } else { "off" };
        let cache = json!({ "direct": false, "no-flush": self.cache == Cache::Volatile });
        let blockdev = json!({
            "driver": "raw", "node-name": node, "read-only": self.read_only, "discard": "unmap", "cache": cache,
            "file": { "driver": "file", "filename": path.to_str().context("path is not text")?, "discard": "unmap",
                "cache": cache, "read-only": self.read_only },
        });
        let device: Value = json!({
            "driver": "virtio-blk-pci", "drive": node, "serial": self.name,
            "logical_block_size": self.logical_block, "physical_block_size": self.physical_block,
            "write-cache": onoff(self.cache != Cache::WriteThrough), "discard": self.discard,
        });
        Ok(vec!["-blockdev".into(), blockdev.to_string(), "-device".into(), device.to_string()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_serial_can_hold_are_refused() {
        for name in ["", "a/b", "a name", "twenty-one-bytes-long"] {
            assert!(Disk::blank(name, 1).materialise(Path::new("/nowhere")).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_cache_mode_reaches_the_guest() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let through = Disk::file("d", file).cache(Cache::WriteThrough).logical_block(4096);
        let text = through.arguments(0).unwrap().join(" ");
        assert!(text.contains("\"write-cache\":\"off\"") && text.contains("\"no-flush\":false"), "{text}");
        assert!(text.contains("\"physical_block_size\":4096"), "{text}");
    }
}
