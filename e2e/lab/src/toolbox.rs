//! Tools of the lab that run on the host but are not installed there: unpacked with their own C library, started
//! through their own loader, so the host's release does not matter.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::apt::{Apt, SUITE};
use crate::{cache, progress};

/// The emulator, and what it takes to make an initial RAM disk.
const PACKAGES: &[&str] = &["qemu-system-x86", "seabios", "kmod", "busybox-static"];
/// Scripts that run with the host's own perl and apt.
const SCRIPTS: &[&str] = &["mmdebstrap"];

/// The folder of unpacked tools.
#[derive(Debug, Clone)]
pub(crate) struct Toolbox {
    root: PathBuf,
}

impl Toolbox {
    /// Takes the tools from the cache, or downloads them.
    pub(crate) fn open() -> Result<Self> {
        let recipe = [SUITE, "1", &PACKAGES.join(" "), &SCRIPTS.join(" ")];
        let root = cache::entry("toolbox", &recipe, |into| {
            let apt = Apt::open()?;
            progress::step("downloading the emulator", || {
                apt.unpack_closure(PACKAGES, into)?;
                apt.unpack(SCRIPTS, into)
            })
        })?;
        Ok(Self { root })
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// A command line that runs the tool at `below` on its own libraries; arguments can be added.
    pub(crate) fn argv(&self, below: &str) -> Vec<PathBuf> {
        let libraries = self.path("usr/lib/x86_64-linux-gnu");
        let loader = libraries.join("ld-linux-x86-64.so.2");
        vec![loader, "--library-path".into(), libraries, self.path(below)]
    }

    pub(crate) fn busybox(&self) -> PathBuf {
        self.path("usr/bin/busybox")
    }

    /// `depmod` for the modules below `base`, a multi-call binary told by its first word.
    pub(crate) fn depmod(&self, base: &Path, version: &str) -> Command {
        let libraries = self.path("usr/lib/x86_64-linux-gnu");
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(&libraries).args(["--argv0", "depmod"]);
        command.arg(self.path("usr/bin/kmod")).arg("-b").arg(base).arg(version);
        command
    }
}
