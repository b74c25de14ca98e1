//! Debian's kernels, unmodified, unpacked into the cache.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::{Apt, SUITE};
use crate::toolbox::Toolbox;
use crate::{cache, host, progress};

/// The modules every machine has at hand; what they depend on comes along.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "bridge",
    "veth",
    "ext4",
    "xfs",
    "overlay",
    "loop",
    "nbd",
    "brd",
    "null_blk",
    "ublk_drv",
    "dm_mod",
    "dm_delay",
    "dm_flakey",
    "dm_snapshot",
    "dm_thin_pool",
    "dm_log_writes",
];

/// A kernel line of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kernel {
    /// The long-term 6.12 with `ublk_drv`: recovery and user copy.
    #[default]
    V6_12,
}

impl Kernel {
    fn name(self) -> &'static str {
        match self {
            Kernel::V6_12 => "kernel-6.12",
        }
    }

    fn meta_package(self) -> &'static str {
        match self {
            Kernel::V6_12 => "linux-image-cloud-amd64",
        }
    }

    /// Takes the kernel from the cache, or downloads it; the version found first stays until its folder is removed.
    pub(crate) fn open(self, toolbox: &Toolbox) -> Result<Files> {
        let recipe = [SUITE, "2", self.meta_package(), &MODULES.join(" ")];
        let root = cache::entry(self.name(), &recipe, |into| {
            let apt = Apt::open()?;
            let package = apt.resolve(self.meta_package())?;
            progress::step(format_args!("downloading {package}"), || {
                let version = package.strip_prefix("linux-image-").context("not a kernel package")?;
                let unpacked = into.join("unpacked");
                apt.unpack(&[&package], &unpacked)?;
                host::run(&mut toolbox.depmod(&unpacked.join("usr"), version))?;
                fs::rename(unpacked.join("boot").join(format!("vmlinuz-{version}")), into.join("vmlinuz"))?;
                keep_modules(toolbox, &unpacked.join("usr/lib/modules").join(version), into, version)?;
                fs::write(into.join("version"), version)?;
                fs::remove_dir_all(unpacked).map_err(Into::into)
            })
        })?;
        let version = fs::read_to_string(root.join("version"))?;
        Ok(Files { root, version })
    }
}

/// A kernel in the cache.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    root: PathBuf,
    /// What `uname -r` says.
    pub(crate) version: String,
}

impl Files {
    pub(crate) fn image(&self) -> PathBuf {
        self.root.join("vmlinuz")
    }

    /// A folder to be put into the guest as `/lib/modules`.
    pub(crate) fn modules(&self) -> PathBuf {
        self.root.join("modules")
    }

    /// The block driver alone, decompressed: the RAM disk needs it before it has any tools.
    pub(crate) fn virtio_blk(&self) -> PathBuf {
        self.root.join("virtio_blk.ko")
    }
}

/// Copies the modules of the list, with what they need, and indexes them.
fn keep_modules(toolbox: &Toolbox, from: &Path, into: &Path, version: &str) -> Result<()> {
    let index = fs::read_to_string(from.join("modules.dep"))?;
    let base = into.join("index");
    let to = base.join("lib/modules").join(version);
    for file in closure(&index) {
        let target = to.join(&file);
        fs::create_dir_all(target.parent().context("module without a folder")?)?;
        fs::copy(from.join(&file), &target)?;
        if module_name(&file) == "virtio_blk" {
            let busybox = toolbox.busybox();
            let plain = Command::new(busybox).args(["xz", "-dc"]).arg(&target).output()?;
            anyhow::ensure!(plain.status.success(), "cannot unpack {file}");
            fs::write(into.join("virtio_blk.ko"), plain.stdout)?;
        }
    }
    for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        fs::copy(from.join(list), to.join(list))?;
    }
    host::run(&mut toolbox.depmod(&base, version))?;
    fs::rename(base.join("lib/modules"), into.join("modules"))?;
    fs::remove_dir_all(base).map_err(Into::into)
}

/// Files of the wanted modules and of all they need, from the text of `modules.dep`; built-in ones have none.
fn closure(index: &str) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for (file, needs) in index.lines().filter_map(|line| line.split_once(':')) {
        if MODULES.contains(&module_name(file).as_str()) {
            files.insert(file.to_owned());
            files.extend(needs.split_whitespace().map(str::to_owned));
        }
    }
    files
}

fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_brings_what_it_needs() {
        let index = "kernel/drivers/md/dm-delay.ko.xz: kernel/drivers/md/dm-mod.ko.xz\n\
                     kernel/drivers/md/dm-mod.ko.xz:\nkernel/sound/snd.ko.xz: kernel/sound/core.ko.xz\n";
        let files: Vec<String> = closure(index).into_iter().collect();
        assert_eq!(files, ["kernel/drivers/md/dm-delay.ko.xz", "kernel/drivers/md/dm-mod.ko.xz"]);
    }
}
