//! The root image: a Debian with PostgreSQL and fio, without an init system.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::apt::{Apt, SUITE};
use crate::toolbox::Toolbox;
use crate::{cache, host, progress};

const PACKAGES: &[&str] = &[
    "postgresql",
    "postgresql-contrib",
    "fio",
    "e2fsprogs",
    "xfsprogs",
    "util-linux",
    "dmsetup",
    "kmod",
    "procps",
    "iproute2",
    "strace",
    "udev",
    "fdisk",
    "xxd",
];
/// No cluster of its own: tests make theirs on the disks under test. The folders removed are half a million inodes
/// that nobody reads in a test.
const HOOKS: &[&str] = &[
    "--essential-hook=mkdir -p \"$1/etc/postgresql-common\" && \
     echo create_main_cluster = false > \"$1/etc/postgresql-common/createcluster.conf\"",
    "--customize-hook=rm -rf \"$1\"/usr/share/man/* \"$1\"/usr/share/doc/* \"$1\"/usr/share/locale/*",
    // Servers are not in a Debian's PATH, and its clients are scripts that take a second each under emulation.
    "--customize-hook=chroot \"$1\" sh -c 'ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/'",
];
/// Room for tests beside what is installed, in bytes; the file is sparse.
const SIZE: u64 = 2 << 30;

/// The packages in the image, for those whose own images are made with it.
pub(crate) fn recipe() -> [String; 4] {
    [SUITE.into(), PACKAGES.join(" "), HOOKS.join(" "), SIZE.to_string()]
}

/// Takes the image from the cache, or makes it. Machines run on a throw-away layer above it.
///
/// # Errors
/// Without root rights or network, the first time.
pub(crate) fn image(toolbox: &Toolbox) -> Result<PathBuf> {
    let recipe = recipe();
    let recipe: Vec<&str> = recipe.iter().map(String::as_str).collect();
    let entry = cache::entry("root", &recipe, |into| {
        ensure!(rustix::process::geteuid().is_root(), "making the root image needs root, once");
        let apt = Apt::open()?;
        progress::step("making the root image with PostgreSQL and fio", || make(toolbox, &apt, into))
    })?;
    Ok(entry.join("root.ext4"))
}

fn make(toolbox: &Toolbox, apt: &Apt, into: &Path) -> Result<()> {
    let tree = into.join("tree");
    let mut command = Command::new("perl");
    command.arg(toolbox.path("usr/bin/mmdebstrap"));
    command.args(["--mode=root", "--variant=minbase", "--format=directory", "--architectures=amd64"]);
    command.arg(format!("--include={}", PACKAGES.join(",")));
    command.args(["--aptopt=Acquire::Languages \"none\"", "--aptopt=APT::Sandbox::User \"root\""]);
    command.args(HOOKS).arg(SUITE).arg(&tree).arg(apt.sources());
    host::run(&mut command)?;
    let image = into.join("root.ext4");
    File::create(&image)?.set_len(SIZE)?;
    let mkfs = host::find("mkfs.ext4").unwrap_or_else(|| "mkfs.ext4".into());
    let mut command = Command::new(mkfs);
    // The image is never written in place, so a journal would only cost time.
    command.args(["-q", "-O", "^has_journal", "-E", "lazy_itable_init=1,root_owner=0:0", "-d"]);
    host::run(command.arg(&tree).arg(&image))?;
    fs::remove_dir_all(tree)?;
    Ok(())
}
