//! What ports and owner share: bits, and nothing else.

use crate::action::{Device, Route, SetIndex};
use crate::bits::{AtomicBits, AtomicBool, AtomicU64, acquire, release};
use crate::geometry::Geometry;
use crate::units::{ByteRange, Chunk};

/// Bits of a master that its ports read.
#[derive(Debug)]
pub(crate) struct MasterMaps {
    /// The chunk needs nothing for any set: a write may pass.
    pub wpass: AtomicBits,
    /// The region is active in the write-intent log of every set that tracks.
    pub region: AtomicBits,
    /// The chunk was written since the owner last folded this into *differs*.
    pub written: AtomicBits,
    /// The chunk's data is on the shadow that is restored from. From 1 to 0 while ports are open, and only after
    /// the master has the data durably and the record says so; from 0 to 1 under the gate.
    pub pending: AtomicBits,
    /// The set that is restored from, counted from 1; 0: none.
    restored_from: AtomicU64,
    /// What is pending cannot be read: the shadow that it is on has failed.
    source_failed: AtomicBool,
}

impl MasterMaps {
    /// Maps of a master without sets: everything passes.
    pub(crate) fn new(geometry: &Geometry) -> Self {
        Self {
            wpass: AtomicBits::new(geometry.chunk_count(), true),
            region: AtomicBits::new(geometry.region_count(), true),
            written: AtomicBits::new(geometry.chunk_count(), false),
            pending: AtomicBits::new(geometry.chunk_count(), false),
            restored_from: AtomicU64::new(0),
            source_failed: AtomicBool::new(false),
        }
    }

    /// Whether what is pending can be read.
    pub(crate) fn is_source_failed(&self) -> bool {
        self.source_failed.load(acquire())
    }

    /// The shadow that is restored from has failed, or is tried again.
    pub(crate) fn set_source_failed(&self, failed: bool) {
        self.source_failed.store(failed, release());
    }

    /// The set that a restore copies from.
    pub(crate) fn restored_from(&self) -> Option<SetIndex> {
        let number = self.restored_from.load(acquire()).checked_sub(1)?;
        Some(SetIndex(u8::try_from(number).expect("at most 16 sets")))
    }

    /// A restore begins (only under the gate), or nothing is pending any more.
    pub(crate) fn set_restored_from(&self, set: Option<SetIndex>) {
        self.restored_from.store(set.map_or(0, |set| u64::from(set.0) + 1), release());
    }
}

/// Bits of a shadow that ports route by.
#[derive(Debug)]
pub(crate) struct ShadowMaps {
    /// The shadow side has its own copy.
    pub held: AtomicBits,
    /// Reading the chunk is an error.
    pub lost: AtomicBits,
    offline: AtomicBool,
    /// A device of the shadow has failed; that the image ends is not recorded yet.
    failing: AtomicBool,
    head_bytes: AtomicU64,
    head_offset: u64,
}

impl ShadowMaps {
    /// Maps of a shadow that holds nothing; its head is kept at `head_offset` of the bitmap volume.
    pub(crate) fn new(geometry: &Geometry, head_offset: u64) -> Self {
        Self {
            held: AtomicBits::new(geometry.chunk_count(), false),
            lost: AtomicBits::new(geometry.chunk_count(), false),
            offline: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            head_bytes: AtomicU64::new(0),
            head_offset,
        }
    }

    /// Where a chunk is read from. *Lost* wins over everything.
    pub(crate) fn route(&self, chunk: Chunk) -> Route {
        if self.lost.get(chunk.0) {
            Route::Lost
        } else if self.held.get(chunk.0) {
            Route::Held
        } else {
            Route::Master
        }
    }

    /// Whether the image has ended.
    pub(crate) fn is_offline(&self) -> bool {
        self.offline.load(acquire())
    }

    /// The image has ended, or a new one begins (only under the gate).
    pub(crate) fn set_offline(&self, offline: bool) {
        self.offline.store(offline, release());
    }

    /// Whether a flush of the shadow can no longer be believed.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(acquire())
    }

    /// A device has failed, or a new image begins.
    pub(crate) fn set_failing(&self, failing: bool) {
        self.failing.store(failing, release());
    }

    /// Bytes at the start of the shadow that live on the bitmap volume now.
    pub(crate) fn head_bytes(&self) -> u64 {
        self.head_bytes.load(acquire())
    }

    /// Says where the head is. Only while every port is closed.
    pub(crate) fn set_head_bytes(&self, bytes: u64) {
        self.head_bytes.store(bytes, release());
    }

    /// The device and place of bytes that the shadow side holds. The range does not cross the end of the head.
    pub(crate) fn locate(&self, set: SetIndex, range: ByteRange) -> (Device, ByteRange) {
        let head = self.head_bytes();
        if range.start < head {
            assert!(range.end() <= head, "a piece lies on one side of the head's end");
            (Device::Bitmap(set), ByteRange::new(self.head_offset + range.start, range.len))
        } else {
            (Device::Shadow(set), range)
        }
    }
}

#[cfg(all(test, loom))]
mod model;
