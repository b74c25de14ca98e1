//! The initial RAM disk: finds the root disk, moves into it and leaves the agent running there.
//!
//! The kernel's modules and the agent travel in it, so that the root image, which takes longest to make, depends on
//! neither of them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::binaries;
use crate::cpio::Archive;
use crate::kernel::Files;
use crate::toolbox::Toolbox;

/// Serial number of the root disk, which tells it from the disks under test.
pub(crate) const ROOT_SERIAL: &str = "umbra-root";

const INIT: &str = include_str!("guest/init.sh");
const START: &str = include_str!("guest/start.sh");

/// Writes a RAM disk for `kernel` to `path`. Quick enough to do at every boot, so a fresh agent is always inside.
pub(crate) fn write(toolbox: &Toolbox, kernel: &Files, path: &Path) -> Result<()> {
    let agent = binaries::static_binary("umbra-lab-agent")?;
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "lab", "proc", "sys", "sysroot"] {
        archive.folder(folder);
    }
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("lab/start", 0o755, START.as_bytes());
    archive.file("lab/virtio_blk.ko", 0o644, &fs::read(kernel.virtio_blk())?);
    archive.file("lab/agent", 0o755, &fs::read(agent)?);
    archive.file("bin/busybox", 0o755, &fs::read(toolbox.busybox())?);
    archive.tree("lab/modules", &kernel.modules())?;
    fs::write(path, archive.finish()).with_context(|| path.display().to_string())
}
