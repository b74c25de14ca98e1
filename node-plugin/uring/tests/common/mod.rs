//! What the tests of this crate share: scratch files, random numbers, running operations to their end.
#![allow(dead_code, reason = "every test binary uses its own part")]

pub(crate) mod oracle;

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use umbra_store::{AlignedBuf, BlockStore, Completion, DeviceSlot, IoBuf, StoreOp, StoreOpKind, Token};
use umbra_uring::{Device, Fingerprint, Owner, Ring, RingConfig, Role, SharedRing, StoreLimits, UringStore};

/// Longer than any test holds a claim.
pub(crate) const CLAIM_WAIT: Duration = Duration::from_secs(30);

/// A file on a real file system, removed when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A file of `size` zero bytes.
    pub(crate) fn new(size: u64) -> Self {
        Self::new_in(Path::new(env!("CARGO_TARGET_TMPDIR")), size)
    }

    /// As `new`, in a directory of the caller's choice.
    pub(crate) fn new_in(directory: &Path, size: u64) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("uring-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = directory.join(name);
        let file = File::create(&path).expect("create a scratch file");
        file.set_len(size).expect("give it a size");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(&self.0).expect("read the scratch file")
    }

    pub(crate) fn truncate(&self, size: u64) {
        let file = OpenOptions::new().write(true).open(&self.0).expect("open the scratch file");
        file.set_len(size).expect("change its size");
    }

    pub(crate) fn device(&self) -> Device {
        // Not at once: a child of another test has everything open that we have, until it executes.
        Device::open_claimed(&self.0, Role::ReadWrite, Some(CLAIM_WAIT)).expect("open the scratch file")
    }
}

pub(crate) fn fingerprint(device: &Device) -> Fingerprint {
    let sample = device.sampling().expect("duplicate the descriptor");
    sample().expect("read samples")
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// splitmix64: the same numbers for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(len).collect()
    }
}

pub(crate) fn ring() -> SharedRing {
    Ring::shared(RingConfig::default()).expect("make a ring")
}

/// A store of its own ring with one device.
pub(crate) fn store_with(device: Device, limits: StoreLimits) -> (UringStore, DeviceSlot) {
    let mut store = UringStore::new(ring(), Owner::new(1), limits);
    let slot = store.add_device(device).expect("add the device");
    (store, slot)
}

pub(crate) fn store(device: Device) -> (UringStore, DeviceSlot) {
    store_with(device, StoreLimits::default())
}

pub(crate) fn op(token: u64, device: DeviceSlot, kind: StoreOpKind) -> StoreOp {
    StoreOp { token: Token(token), device, kind, buf: None }
}

pub(crate) fn write(token: u64, device: DeviceSlot, offset: u64, bytes: &[u8], fua: bool) -> StoreOp {
    let buf = Some(IoBuf::whole(AlignedBuf::from_bytes(bytes)));
    StoreOp { buf, ..op(token, device, StoreOpKind::Write { offset, fua }) }
}

pub(crate) fn read(token: u64, device: DeviceSlot, offset: u64, len: usize) -> StoreOp {
    let buf = Some(IoBuf::whole(AlignedBuf::zeroed(len)));
    StoreOp { buf, ..op(token, device, StoreOpKind::Read { offset }) }
}

/// Waits for `count` completions; in order of their tokens.
pub(crate) fn complete(store: &mut impl BlockStore, count: usize) -> Vec<Completion> {
    let mut done = Vec::new();
    for _ in 0..1000 {
        if done.len() >= count {
            break;
        }
        store.wait(Duration::from_secs(30), &mut done);
    }
    assert_eq!(done.len(), count, "every operation completes, exactly once");
    done.sort_by_key(|completion| completion.token.0);
    done
}

/// Runs one operation to its end.
pub(crate) fn run(store: &mut impl BlockStore, op: StoreOp) -> Completion {
    store.submit(op);
    complete(store, 1).remove(0)
}
