//! The root images of machines: Debians without an init system. Machines run on a throw-away layer above them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::apt::{Apt, SUITE};
use crate::toolbox::Toolbox;
use crate::{cache, host, kubernetes, progress, settings};

/// What is installed in a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Root {
    /// PostgreSQL, fio, and tools for disks.
    #[default]
    Workbench,
    /// What runs pods: a kubelet and containerd, as [`Kubelet`](crate::Kubelet) starts them.
    Pods,
}

const WORKBENCH_PACKAGES: &[&str] = &[
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
const PODS_PACKAGES: &[&str] = &[
    "containerd",
    "runc",
    "containernetworking-plugins",
    "e2fsprogs",
    "xfsprogs",
    "util-linux",
    "mount",
    "kmod",
    "procps",
    "iproute2",
    "socat",
    "udev",
];
/// The folders removed are half a million inodes that nobody reads in a test.
const SMALLER: &str =
    "--customize-hook=rm -rf \"$1\"/usr/share/man/* \"$1\"/usr/share/doc/* \"$1\"/usr/share/locale/*";
/// No cluster of its own: tests make theirs on the disks under test.
const WORKBENCH_HOOKS: &[&str] = &[
    "--essential-hook=mkdir -p \"$1/etc/postgresql-common\" && \
     echo create_main_cluster = false > \"$1/etc/postgresql-common/createcluster.conf\"",
    SMALLER,
    // Servers are not in a Debian's PATH, and its clients are scripts that take a second each under emulation.
    "--customize-hook=chroot \"$1\" sh -c 'ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/'",
];
/// Room for tests beside what is installed, in bytes; the file is sparse.
const SIZE: u64 = 2 << 30;

impl Root {
    fn name(self) -> &'static str {
        match self {
            Self::Workbench => "root",
            Self::Pods => "root-pods",
        }
    }

    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Workbench => WORKBENCH_PACKAGES,
            Self::Pods => PODS_PACKAGES,
        }
    }

    fn hooks(self) -> &'static [&'static str] {
        match self {
            Self::Workbench => WORKBENCH_HOOKS,
            Self::Pods => &[SMALLER],
        }
    }

    /// The packages in the image, for those whose own images are made with it.
    pub(crate) fn recipe(self) -> [String; 4] {
        [SUITE.into(), self.packages().join(" "), self.hooks().join(" "), SIZE.to_string()]
    }

    /// Takes the image from the cache, or makes it.
    ///
    /// # Errors
    /// Without root rights or network, the first time.
    pub(crate) fn image(self, toolbox: &Toolbox) -> Result<PathBuf> {
        let mut recipe = self.recipe().to_vec();
        let mut files = Vec::new();
        if self == Self::Pods {
            let programs = kubernetes::pods()?;
            // The folder has the recipe of what is in it in its name.
            recipe.push(programs.file_name().unwrap_or_default().display().to_string());
            recipe.extend(settings::FILES.iter().map(|(path, text)| format!("{path}\n{text}")));
            files.push((programs.join("kubelet"), "usr/bin/kubelet"));
        }
        let recipe: Vec<&str> = recipe.iter().map(String::as_str).collect();
        let entry = cache::entry(self.name(), &recipe, |into| {
            ensure!(rustix::process::geteuid().is_root(), "making the root image needs root, once");
            let apt = Apt::open()?;
            let packages = self.packages();
            progress::step(format_args!("making a root image with {} and others", packages[0]), || {
                let tree = into.join("tree");
                self.install(toolbox, &apt, &tree)?;
                for (from, to) in files {
                    fs::copy(&from, tree.join(to)).with_context(|| from.display().to_string())?;
                }
                if self == Self::Pods {
                    settings::FILES.iter().try_for_each(|(path, text)| write(&tree, path, text))?;
                }
                pack(&tree, &into.join("root.ext4"))?;
                fs::remove_dir_all(tree).map_err(Into::into)
            })
        })?;
        Ok(entry.join("root.ext4"))
    }

    fn install(self, toolbox: &Toolbox, apt: &Apt, tree: &Path) -> Result<()> {
        let mut command = Command::new("perl");
        command.arg(toolbox.path("usr/bin/mmdebstrap"));
        command.args(["--mode=root", "--variant=minbase", "--format=directory", "--architectures=amd64"]);
        command.arg(format!("--include={}", self.packages().join(",")));
        command.args(["--aptopt=Acquire::Languages \"none\"", "--aptopt=APT::Sandbox::User \"root\""]);
        command.args(self.hooks()).arg(SUITE).arg(tree).arg(apt.sources());
        host::run(&mut command)
    }
}

fn write(tree: &Path, path: &str, text: &str) -> Result<()> {
    let to = tree.join(path);
    fs::create_dir_all(to.parent().context("a file without a folder")?)?;
    fs::write(&to, text).with_context(|| to.display().to_string())
}

fn pack(tree: &Path, image: &Path) -> Result<()> {
    File::create(image)?.set_len(SIZE)?;
    let mkfs = host::find("mkfs.ext4").unwrap_or_else(|| "mkfs.ext4".into());
    let mut command = Command::new(mkfs);
    // The image is never written in place, so a journal would only cost time.
    command.args(["-q", "-O", "^has_journal", "-E", "lazy_itable_init=1,root_owner=0:0", "-d"]);
    host::run(command.arg(tree).arg(image))
}
