//! Block stores, and the executor that turns the engine's actions into their operations.
#![forbid(unsafe_code)]

mod block_store;
mod buf;

pub use block_store::{BlockStore, Capabilities, Completion, DeviceSlot, StoreError, StoreOp, StoreOpKind, Token};
pub use buf::{AlignedBuf, IoBuf, PAGE_BYTES};
