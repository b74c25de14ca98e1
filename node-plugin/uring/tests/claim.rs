//! Claims: one at a time, on the descriptor, until the last write has landed.

mod common;

use common::{Scratch, fingerprint, op, write};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use umbra_store::{AlignedBuf, BlockStore, StoreOpKind};
use umbra_uring::{
    Device, DeviceKind, Holder, OpenError, Owner, Role, SharedRing, StoreLimits, UringStore, Used,
};

const MIB: usize = 1 << 20;
const SIZE: u64 = 64 << 20;
const OLD: u8 = 0x11;
const NEW: u8 = 0xab;
const LONG: Duration = common::CLAIM_WAIT;

#[test]
fn a_second_open_is_refused_and_names_the_holder() {
    let scratch = Scratch::new(1 << 20);
    let first = scratch.device();
    for role in [Role::ReadWrite, Role::ReadOnly] {
        let error = Device::open(scratch.path(), role).unwrap_err();
        assert!(error.is_in_use());
        let OpenError::InUse { holders, .. } = &error else { unreachable!("just asked") };
        assert_eq!(holders, &[Used { by: Holder::Locked { pid: std::process::id() }, through: None }]);
        assert!(error.to_string().contains(&scratch.path().display().to_string()), "{error}");
    }
    drop(first);
    Device::open_claimed(scratch.path(), Role::ReadOnly, Some(LONG)).unwrap();
}

#[test]
fn a_claim_with_a_deadline_ends_with_it() {
    let scratch = Scratch::new(1 << 20);
    let _first = scratch.device();
    let start = Instant::now();
    let error = Device::open_claimed(scratch.path(), Role::ReadWrite, Some(Duration::from_millis(50)));
    assert!(error.unwrap_err().is_in_use());
    assert!(start.elapsed() >= Duration::from_millis(50));
}

#[test]
fn a_claim_is_got_as_soon_as_it_is_free() {
    let scratch = Scratch::new(1 << 20);
    let first = scratch.device();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| Device::open_claimed(scratch.path(), Role::ReadWrite, None));
        std::thread::sleep(Duration::from_millis(30));
        assert!(!second.is_finished(), "it waits");
        drop(first);
        second.join().expect("the thread ends").unwrap();
    });
}

/// A store that was dropped, after `drop_wait`, with writes of `NEW` in flight over a file full of `OLD`.
fn drop_with_writes_in_flight(ring: SharedRing, scratch: &Scratch, drop_wait: Duration) {
    fs::write(scratch.path(), vec![OLD; usize::try_from(SIZE).expect("small")]).expect("fill the file");
    let limits = StoreLimits { drop_wait, ..StoreLimits::default() };
    let mut store = UringStore::new(ring, Owner::new(1), limits);
    let slot = store.add_device(scratch.device()).expect("add the device");
    let block = vec![NEW; MIB];
    for token in 0..SIZE >> 20 {
        store.submit(write(token, slot, token << 20, &block, true));
    }
    // Given to the kernel, but not waited for.
    store.poll(&mut Vec::new());
    store.submit(op(999, slot, StoreOpKind::Flush));
}

fn read_all(device: &Device) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = AlignedBuf::zeroed(MIB);
    for at in 0..SIZE >> 20 {
        device.read_exact_at(at << 20, &mut buffer).expect("read the file");
        all.extend_from_slice(&buffer);
    }
    all
}

#[test]
fn the_next_claim_sees_every_write_of_a_store_that_was_dropped() {
    for drop_wait in [Duration::ZERO, Duration::from_secs(30)] {
        let scratch = Scratch::new(SIZE);
        let ring = common::ring();
        drop_with_writes_in_flight(ring.clone(), &scratch, drop_wait);
        std::thread::scope(|scope| {
            let next = scope.spawn(|| Device::open_claimed(scratch.path(), Role::ReadWrite, Some(LONG)));
            // The ring's thread goes on, as a reactor does: what landed is let go of when it enters.
            while !next.is_finished() {
                ring.borrow_mut().submit_and_wait(1, Some(Duration::from_millis(1))).unwrap();
                ring.borrow_mut().drain_completions(&mut Vec::new());
            }
            let next = next.join().expect("the thread ends").expect("the claim falls with the last write");
            assert!(read_all(&next).iter().all(|&byte| byte == NEW), "drop_wait {drop_wait:?}");
        });
    }
}

/// When the ring goes too, the kernel cancels what it had not begun. What counts is that nothing lands
/// after the claim.
#[test]
fn nothing_lands_after_the_next_claim_when_ring_and_store_are_dropped() {
    let scratch = Scratch::new(SIZE);
    drop_with_writes_in_flight(common::ring(), &scratch, Duration::ZERO);
    let next = Device::open_claimed(scratch.path(), Role::ReadWrite, Some(LONG)).unwrap();
    let at_claim = read_all(&next);
    assert!(at_claim.iter().all(|byte| [OLD, NEW].contains(byte)));
    std::thread::sleep(Duration::from_millis(300));
    assert!(read_all(&next) == at_claim);
}

#[test]
fn the_ring_keeps_the_claim_of_a_device_in_its_table() {
    let scratch = Scratch::new(1 << 20);
    let ring = common::ring();
    let device = scratch.device();
    let slot = ring.borrow_mut().register_file(device.descriptor()).unwrap();
    drop(device);
    assert!(Device::open(scratch.path(), Role::ReadWrite).unwrap_err().is_in_use());
    ring.borrow_mut().unregister_file(slot).unwrap();
    Device::open_claimed(scratch.path(), Role::ReadWrite, Some(Duration::from_secs(5))).unwrap();
}

#[test]
fn what_is_no_device_or_file_is_named() {
    let found = |path: &str| Device::open(Path::new(path), Role::ReadOnly).unwrap_err();
    assert!(matches!(found("/proc"), OpenError::NotABlockDeviceOrFile { found: "directory", .. }));
    assert!(matches!(found("/dev/null"), OpenError::NotABlockDeviceOrFile { found: "character device", .. }));
    assert!(matches!(found("/nonexistent/thing"), OpenError::NotFound { .. }));
    assert!(found("/nonexistent/thing").to_string().contains("/nonexistent/thing"));
    let empty = Scratch::new(100);
    assert!(matches!(Device::open(empty.path(), Role::ReadWrite), Err(OpenError::Empty { .. })));
}

#[test]
fn a_file_has_a_weak_identity_and_a_volatile_cache() {
    let scratch = Scratch::new(1 << 20);
    let device = scratch.device();
    let identity = device.identity();
    assert_eq!((identity.kind, identity.strong, identity.size), (DeviceKind::File, false, 1 << 20));
    assert_eq!(identity.stable_id(), None);
    let capabilities = device.capabilities();
    assert!(capabilities.volatile_cache && !capabilities.fua && !capabilities.read_only);
    assert!(capabilities.logical_block.is_power_of_two());
}

#[test]
fn a_fingerprint_sees_a_change_at_the_end() {
    let scratch = Scratch::new(8 << 20);
    let device = scratch.device();
    let before = fingerprint(&device);
    assert_eq!(fingerprint(&device), before);
    drop(device);
    let mut bytes = scratch.bytes();
    *bytes.last_mut().unwrap() = 1;
    fs::write(scratch.path(), bytes).unwrap();
    assert_ne!(fingerprint(&scratch.device()), before);
}

#[test]
fn a_sample_under_way_holds_the_claim() {
    let scratch = Scratch::new(1 << 20);
    let device = scratch.device();
    let before = fingerprint(&device);
    let sample = device.sampling().unwrap();
    drop(device);
    assert!(Device::open(scratch.path(), Role::ReadWrite).unwrap_err().is_in_use());
    assert_eq!(sample().unwrap(), before);
    Device::open_claimed(scratch.path(), Role::ReadWrite, Some(LONG)).unwrap();
}
