//! The engine: point-in-time shadows of a block device, without any I/O of its own.
//!
//! Events go in (requests of the workload, completions, commands, ticks), actions come out (reads, writes,
//! flushes, journal blocks, pages, superblocks, completions). Time, threads, bytes and devices live outside,
//! so the same code runs under ublk, in the simulator and in a crash sweep.
//!
//! ```text
//!   front end ──request──> Port ──Need──> Owner ──actions──> executor ──> devices
//!                           │  <──Go───     │
//!                           └─ data I/O     └─ copies, records, pages, cuts
//! ```
//!
//! # Words
//! **master**: the volume with live data. **shadow**: presents it as it was at the cut. **bitmap volume**: the
//! set's durable state. **chunk**: unit of tracking and copying. **cut**: the act and the instant of taking a
//! point in time; the set's **epoch** counts them. **held**: the shadow side has its own copy (exact).
//! **differs**: the sides may differ since the cut (may say too much). **pending**: not held yet in an
//! independent set; in a restore: still to be copied to the master. **lost**: the old data could not be kept (exact).
//!
//! # Invariants
//! 1. *Master first.* A failing shadow or bitmap volume never fails a master write, and never delays it beyond
//!    its deadlines: it is given up, recorded durably, before the master is overwritten.
//! 2. *Never torn.* No master chunk is overwritten while an image needs it, until old data and record are
//!    durable, or the chunk is durably lost.
//! 3. *Exact image.* A shadow reads what the master held at the cut, but for what was written through it.
//! 4. *A cut is an instant.* In-flight writes are drained and the source flushed before the flip.
//! 5. *Restore is instant and two-sided.* While it runs both sides read their defined content for every chunk.
//! 6. *Bits are never lost.* *Differs* may say too much; *held*, *pending* and *lost* are exact.
//! 7. *Lost is lost*, until a new epoch.
//! 8. *Replay is harmless.*
//! 9. *Write-zeroes is a write; discard is advice.* Flush and FUA mean what the block layer says.
//! 10. *Nobody is confused* (identity: checked by whoever opens the devices).
#![forbid(unsafe_code)]

mod action;
mod bits;
mod buffers;
mod checkpoint;
mod command;
mod copier;
mod copy;
mod durable;
mod ending;
mod failure;
mod flush;
mod gate;
mod geometry;
mod in_flight;
mod journal;
mod master;
pub mod mutation;
mod owner;
mod port;
mod record;
mod regions;
mod requests;
mod restore;
mod set;
mod shared;
mod superblock;
mod units;
mod watch;
mod writes;

pub use action::{
    Action, CopyBuf, CopyId, Device, Durability, Event, FlushTicket, HeadMove, IoKind, Memory, Now, OpId,
    Place, Request, RequestError, RequestId, RequestKind, RestoreStatus, RestoreStop, Route, SETS_MAX,
    SetIndex, SetKey, SetParameters, Side, Unrecordable,
};
pub use bits::{AtomicBits, PAGE_BITS, PAGE_WORDS, Plane};
pub use command::{
    CUT_MEMBERS_MAX, Command, CommandId, CopyKind, CopyLimits, CutMember, Direction, Done, InDoubt, Refusal,
};
pub use copier::COPIES_IN_FLIGHT_DEFAULT;
pub use geometry::{
    CHUNK_BYTES_DEFAULT, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, Geometry, GeometryError, REGION_BYTES,
};
pub use in_flight::InFlight;
pub use master::{Master, RunCounts, SetStatus};
pub use owner::{Counters, Limits};
pub use record::{
    JournalBlock, Mode, OfflineCause, PLANES, PlaneHeader, PlaneId, RECORDS_PER_BLOCK, Record, SetHeader,
    SetState, TrackingPair,
};
pub use set::SetImage;
pub use units::{
    ByteRange, Chunk, ChunkRun, Epoch, Id128, RingGeneration, SECTOR, Sequence, SuperblockGeneration,
};
