//! What tests need of the real world: virtual machines with a real kernel, for `ublk`, device-mapper, file systems and
//! power cuts, and a real Kubernetes control plane.
//!
//! A machine boots in seconds under software emulation, so it runs anywhere Debian runs, with or without KVM:
//!
//! ```no_run
//! use std::time::Duration;
//! use umbra_lab::{Disk, Signal, Vm};
//!
//! # fn main() -> anyhow::Result<()> {
//! let mut vm = Vm::builder("story").memory_mib(2048).disk(Disk::blank("master", 256 << 20)).boot()?;
//! vm.sh("mkfs.ext4 -q /dev/lab/master && mount /dev/lab/master /mnt").run()?;
//! let load = vm.spawn("fio --name=load --directory=/mnt --size=64m --rw=randwrite --time_based --runtime=60")?;
//! vm.sh("sync").timeout(Duration::from_secs(60)).run()?;
//! load.kill(Signal::KILL)?;
//! vm.reset()?; // the power goes and comes back: same disks, fresh memory
//! vm.sh("fsck.ext4 -fp /dev/lab/master").run()?;
//! vm.finish()
//! # }
//! ```
//!
//! A machine that is dropped without [`Vm::finish`] counts as a failed test: its serial log, the transcript of
//! every command and the files asked for with [`Vm::keep_on_failure`] are kept, and their place is printed.
//!
//! A [`ControlPlane`] is a real etcd and a real API server, as processes of this host, for tests of what is stored
//! there:
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let control_plane = umbra_lab::ControlPlane::start("kinds")?;
//! control_plane.kubectl().args(["get", "namespaces"]).status()?;
//! control_plane.finish();
//! # Ok(())
//! # }
//! ```
//!
//! A [`Kubelet`] on a machine, and the controllers of the control plane, make a cluster that runs pods, on images that are put
//! together here ([`image`]); `examples/pods.rs` is one.
//!
//! A machine with a published port has a network: this host reaches the port at [`Vm::address_of`], and the machine reaches
//! what listens on this host's loopback under [`HOST`].
//!
//! # What is real and what is not
//!
//! * The kernel is Debian's, unmodified, with `ublk_drv`; the root file system is Debian's packages without an
//!   init system and without udev. It is thrown away with every boot: what must survive belongs on a [`Disk`].
//! * A **power cut** ([`Vm::power_cut`], [`Vm::reset`]) ends the emulator at once. The guest loses its memory, page
//!   cache and processes, also in the middle of a write that spans several sectors. What the virtual disk had
//!   acknowledged is in the host's page cache and stays: the disk's *own* volatile cache is not dropped, so a missing
//!   flush does not show here. The simulator covers that.
//! * Times mean little under emulation; counts, and ratios within one run, do.
//!
//! # Cache
//!
//! Everything downloaded or built is below [`cache::root`], one folder per recipe, and later runs need no network.
//! Remove a folder to have it made anew.

pub mod apt;
pub mod artefacts;
pub mod binaries;
pub mod cache;
pub mod control_plane;
mod cpio;
pub mod csi_sanity;
pub mod disk;
mod go;
pub mod guest;
pub mod helm;
pub mod host;
pub mod image;
mod initrd;
pub mod kernel;
pub mod kubelet;
pub mod kubernetes;
mod network;
pub mod postgres;
mod process;
pub mod progress;
pub mod protocol;
mod qemu;
pub mod rootfs;
pub mod serial;
mod settings;
pub mod space;
mod toolbox;
pub mod vm;

pub use binaries::{static_binary, static_binary_with_faults, static_example};
pub use control_plane::{ControlPlane, NodeAccess};
pub use disk::{Cache, Disk};
pub use guest::{Job, Output, Step};
pub use kubelet::Kubelet;
pub use network::HOST;
pub use process::resident_bytes;
pub use rootfs::Root;
pub use rustix::process::Signal;
pub use vm::{Vm, VmBuilder};
