//! Block devices and files through io_uring, with direct I/O, claimed as long as any write may land.
//!
//! What it is: [`Ring`], one io_uring that the users of a thread share; [`UringStore`], a
//! [`BlockStore`](umbra_store::BlockStore) on it; [`Device`], an open and claimed device, with what it
//! can do ([`Capabilities`](umbra_store::Capabilities)), what it is recognised by ([`umbra_identity::Identity`]) and a
//! sample of its content ([`Fingerprint`]). What it is not: a scheduler or a policy. It has no deadlines
//! of its own; it keeps what was given up until it lands, and can say so.
//!
//! # Shared ring
//! The thread that serves a ring allots an [`Owner`] to each user and dispatches by it:
//!
//! ```no_run
//! use umbra_store::{BlockStore, Completion};
//! use umbra_uring::{Device, Owner, Ring, RingConfig, Role, StoreLimits, UringStore};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ring = Ring::shared(RingConfig::default())?;
//! let mut store = UringStore::new(ring.clone(), Owner::new(1), StoreLimits::default());
//! let master = store.add_device(Device::open_claimed("/dev/sdb".as_ref(), Role::ReadWrite, None)?)?;
//!
//! let (mut cqes, mut done) = (Vec::with_capacity(2048), Vec::<Completion>::with_capacity(2048));
//! loop {
//!     ring.borrow_mut().submit_and_wait(1, None)?;
//!     ring.borrow_mut().drain_completions(&mut cqes);
//!     for completion in cqes.drain(..) {
//!         match completion.owner().tag() {
//!             1 => store.on_completion(completion),
//!             tag => unreachable!("nobody has the tag {tag}"),
//!         }
//!     }
//!     store.collect(&mut done);
//!     // ... handle `done`, which submits more to `store`; size: store.capabilities(master).size
//! #   let _ = master;
//! }
//! # }
//! ```
//!
//! # Claims
//! A claim proves that the writes of whoever held it before have landed (E6). It is on the only
//! descriptor through which this process does I/O on the device; requests in flight keep it, whether the
//! descriptor is closed, the store dropped or the process killed.

#![allow(unsafe_code, reason = "submission entries point to memory; every block states why it outlives them")]

mod cache;
mod device;
mod fingerprint;
mod host;
mod limits;
mod op;
mod owner;
mod ring;
mod slab;
mod store;
mod write_cache;

pub use cache::drop_page_cache;
pub use device::{Device, OpenError, Role};
pub use fingerprint::{Fingerprint, fingerprint};
pub use host::{IoUringRefusal, host_supports_io_uring};
pub use limits::{RingConfig, StoreLimits};
pub use owner::Owner;
pub use ring::{FixedFile, Ring, RingCompletion, RingError, RingFull, RingStats, SharedRing};
pub use store::{DeviceSlotError, StoreStats, UringStore};
pub use umbra_identity::{DeviceKind, DeviceNumber, Holder, Identity, Used};
pub use write_cache::WriteCacheWatch;
