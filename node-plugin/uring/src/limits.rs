//! Every bound of this crate, each with its reason.

use std::time::Duration;

/// Size of a ring and of what hangs on it.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Entries of the submission queue; the kernel rounds up to a power of two.
    pub entries: u32,
    /// Entries of the completion queue, at least `entries`. More completions than this are kept by the
    /// kernel and cost a system call, they are not lost.
    pub completions: u32,
    /// Entries that wait in user space when the submission queue is full and the kernel takes none.
    pub overflow: usize,
    /// Slots of the fixed file table.
    pub files: u32,
    /// Kernel workers for operations that block (flush, write-zeroes, discard). The pool belongs to the
    /// *thread*, so a device that hangs must not be able to use it up: at least the sum of
    /// [`StoreLimits::blocking_per_device`] over the devices of the thread.
    pub blocking_workers: u32,
    /// The thread also sleeps elsewhere than in this ring: in `poll(2)` on the ring's descriptor, or in
    /// another ring that polls it. Without this, completions are run only when the thread enters *this*
    /// ring (`DEFER_TASKRUN`), which is cheapest, and the descriptor does **not** become readable.
    pub polled: bool,
}

impl Default for RingConfig {
    fn default() -> Self {
        // 4 devices x (128 + 4) operations and a ublk queue of depth 128 fit the completion queue twice. A master
        // and the two volumes of each of 16 sets, 4 blocking operations each, need 132 workers at the worst.
        Self {
            entries: 256,
            completions: 2048,
            overflow: 1024,
            files: 64,
            blocking_workers: 132,
            polled: true,
        }
    }
}

/// Bounds of one store.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// Devices. Memory for all their operations is allocated at once.
    pub devices: u16,
    /// Reads and writes of one device given to the kernel at a time.
    pub transfers_per_device: u16,
    /// Flushes, discards and write-zeroes of one device given to the kernel at a time. Each holds a
    /// kernel worker for as long as the device takes; see [`RingConfig::blocking_workers`].
    pub blocking_per_device: u16,
    /// Reads and writes of one device that wait for their turn. One more completes with `ENOBUFS`, so this follows what
    /// there can be at a time. Their places are made with the device.
    pub queued_transfers: usize,
    /// The same of flushes, discards and write-zeroes.
    pub queued_blocking: usize,
    /// How long dropping a store waits for operations in flight. After that their memory is leaked.
    pub drop_wait: Duration,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            devices: 16,
            transfers_per_device: 128,
            blocking_per_device: 4,
            // Many times what a start has at a time.
            queued_transfers: 1024,
            queued_blocking: 1024,
            // The default deadline of a shadow or bitmap operation: a device slower than this is offline.
            drop_wait: Duration::from_secs(5),
        }
    }
}

/// The kernel moves at most this much in one operation, less than its own bound of 2 GiB - 4 KiB.
pub(crate) const TRANSFER_BYTES_MAX: u64 = 1 << 30;

/// Zeros written at a time to a device that cannot zero by itself: large enough that the device, not the
/// number of operations, is the limit.
pub(crate) const ZERO_BUFFER_BYTES: usize = 256 << 10;

/// `EAGAIN` and `EINTR` in a row before they are taken as the device's answer.
pub(crate) const RETRIES_MAX: u8 = 16;

/// Between two attempts to claim a device. A released claim is seen this late at most, and recovery
/// waits for it.
pub(crate) const CLAIM_RETRY: Duration = Duration::from_millis(2);

/// Index of an operation in its slab takes 24 of the 56 bits of user data that are ours.
pub(crate) const SLAB_INDEX_BITS: u32 = 24;
