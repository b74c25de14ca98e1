//! Block stores, and the executor that turns the engine's actions into their operations.
#![forbid(unsafe_code)]

mod block_store;
mod buf;

pub use block_store::{
    BlockStore, Capabilities, Completion, DeviceSlot, StoreError, StoreOp, StoreOpKind, Token,
};
pub use buf::{AlignedBuf, IoBuf, PAGE_BYTES};

mod blocking;
mod first_bytes;
mod machine;
mod recover;
mod replay;
mod side_jobs;

pub use blocking::{Abandoned, BatchError, Blocking, Job};
pub use first_bytes::FIRST_BYTES;
pub use machine::{EndNote, Finished, IoCounts, Machine, Notes};
pub use recover::{
    Ended, Expected, FoundSet, Known, MemberView, Mismatch, RecoverError, Session, SetConfig, SetDevices,
    SetOptions, Volume, decide, find_set, prepare_set, read_superblock, recover_set,
};

mod crash;
mod file;
mod mem;

pub use crash::{Cache, Crash, Faults, Fill, Queue, SimRng, SimStore, SimWorld, Stray, Timing};
pub use file::{FileError, FileStore};
pub use mem::MemStore;
