//! A thin layer over the kernel's ublk driver: block devices served from user space.
//!
//! What it is: the control commands that make, start, stop and recover a device, and the queue protocol
//! that carries its requests, on the `io-uring` crate and our own mirror of the kernel's structures.
//! What it is not: a block store, an executor or a policy. It owns no data ring: a [`Queue`] makes
//! submission entries and takes completions, and the caller decides which ring carries them.
//!
//! ```text
//!            helper process (own ring, 128-byte entries)
//! Control ── one command at a time, each with a deadline ──> /dev/ublk-control
//!
//!            caller's thread, caller's ring
//! Queue ──── UblkSqe: FETCH, COMMIT_AND_FETCH ────────────┐
//!   ^                                                     v
//!   └─ on_cqe(user_data, result) -> QueueEvent       /dev/ublkcN ── descriptors (mmap, read only)
//!                                                         ^
//! CharDevice ── read_data / write_data (USER_COPY) ───────┘
//! ```
//!
//! # Order of a new device
//! [`Host::probe`], [`Control::open`], [`Control::add_device`], [`Control::set_params`],
//! [`CharDevice::open`], then on each queue's thread [`Queue::new`], [`Queue::start_fetch`] and a submit
//! that enters the kernel, and only then [`Control::start`]: the kernel reads the partition table before
//! `start` returns, so the queue threads must be serving by then.
//!
//! # Order of a recovery
//! Claim every backing device, [`Control::start_recovery`], [`CharDevice::open`], queues as above,
//! [`Control::end_recovery`]. Queue count, depth and parameters are those of `add_device`; read them with
//! [`Control::info`] and [`Control::params`].
//!
//! # A reactor
//! One ring carries the queue's commands and I/O on the backing device; both files are registered, so the
//! ring's last I/O holds up a recovery.
//!
//! ```no_run
//! # use std::{os::fd::AsRawFd, sync::Arc};
//! # use umbra_ublk::*;
//! fn serve(device: Arc<CharDevice>, backing: &std::fs::File, config: &QueueConfig) -> Result<(), Box<dyn std::error::Error>> {
//!     let mut ring: io_uring::IoUring =
//!         io_uring::IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(256)?;
//!     ring.submitter().register_files(&[device.as_raw_fd(), backing.as_raw_fd()])?;
//!     let mut queue = Queue::new(device, config)?; // config.file: RingFile::Fixed(0)
//!     queue.start_fetch();
//!     while !queue.may_leave() {
//!         while queue.push_waiting(&mut ring.submission()) > 0 {
//!             ring.submit()?;
//!         }
//!         ring.submit_and_wait(1)?;
//!         let completions: Vec<_> = ring.completion().map(|cqe| (cqe.user_data(), cqe.result())).collect();
//!         for (user_data, result) in completions {
//!             if RingSlot::of(user_data).is_none() {
//!                 // Our own I/O: finish the request that it belongs to with `queue.complete`.
//!                 continue;
//!             }
//!             match queue.on_cqe(user_data, result) {
//!                 // A real server keeps the request, starts I/O for it, and completes it later.
//!                 Some(QueueEvent::Request(request)) => queue.complete(request, Err(Errno::EIO)),
//!                 Some(QueueEvent::Failed { tag, errno }) => eprintln!("tag {tag}: {errno}"),
//!                 Some(QueueEvent::Refused { .. } | QueueEvent::Aborted { .. }) | None => {}
//!             }
//!         }
//!     }
//!     Ok(()) // dropping the ring ends the commands that are still with the kernel
//! }
//! ```
//!
//! # Data mode
//! USER_COPY only: a request's bytes are read and written at a position of `/dev/ublkcN`. Zero copy
//! (AUTO_BUF_REG) changes two places and no public type of this crate: [`Features::ASKED`], and the one
//! function in `queue` that builds a queue's submission entry.
//!
//! # Threads
//! [`Control`] may be cloned and used from any thread. A [`Queue`] and the ring that carries its entries
//! belong to one thread: the kernel ties a tag to the task that fetched it. Dropping the ring is what ends
//! the queue's commands in the kernel; a ring that has `/dev/ublkcN` registered as a fixed file keeps the
//! device busy (and [`Control::delete`] waiting) until it lets go of the file, or is dropped.

#![allow(unsafe_code, reason = "mmap, prctl and submission entries; every block states its conditions")]

mod command;
mod control;
mod descriptor;
mod device;
mod error;
mod features;
mod helper;
mod host;
mod kernel;
mod params;
mod partitions;
mod process;
mod queue;
mod tag;
mod uapi;

pub use command::{Command, Target};
pub use control::Control;
pub use descriptor::{BadDescriptor, Op};
pub use device::{
    BlockNode, CharDevice, DeviceId, DeviceInfo, DeviceSpec, DeviceState, OwnerTag, block_path, char_path,
    existing_ids, wait_for_block_node,
};
pub use error::{Errno, Error};
pub use features::Features;
pub use helper::serve_helper;
pub use host::{Host, HostError};
pub use kernel::{BadKernelRelease, KernelRefusal, KernelRelease, KernelWarning, judge as judge_kernel};
pub use params::{BadParams, DeviceParams, DiscardParams, presentable_io_opt};
pub use partitions::{PartitionScan, reread_partitions};
pub use process::{ProcessError, become_io_flusher, is_io_flusher, lock_memory, return_freed_memory};
pub use queue::{Queue, QueueConfig, QueueEvent, Request, RingFile, RingSlot, SqePush, UblkSqe};
pub use tag::{Tag, TagCounts};

/// Bytes in the sector that ublk counts in, whatever the device's logical block size is.
pub const SECTOR_BYTES: u32 = 512;
