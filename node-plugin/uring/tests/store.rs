//! The store on files with direct I/O: what was written is read, and errors say what happened.

mod common;

use common::oracle::run_against_oracle;
use common::{Scratch, complete, op, read, run, store, store_with, write};
use std::time::Duration;
use umbra_engine::ByteRange;
use umbra_store::{BlockStore, Completion, DeviceSlot, StoreError, StoreOpKind};
use umbra_uring::{Device, DeviceSlotError, Role, StoreLimits};

const SIZE: u64 = 4 << 20;
const BLOCK: u64 = 4096;

fn check_against_oracle(seed: u64, limits: StoreLimits) {
    let scratch = Scratch::new(SIZE);
    let oracle = run_against_oracle(scratch.device(), seed, limits);
    assert!(scratch.bytes() == oracle, "seed {seed}: the file holds something else");
}

#[test]
fn random_operations_agree_with_a_byte_array() {
    for seed in 0..8 {
        check_against_oracle(seed, StoreLimits::default());
    }
}

#[test]
fn small_limits_only_make_operations_wait() {
    let limits = StoreLimits { transfers_per_device: 2, blocking_per_device: 1, ..StoreLimits::default() };
    for seed in 100..104 {
        check_against_oracle(seed, limits);
    }
}

#[test]
fn an_operation_beyond_the_queue_is_refused_and_nothing_else() {
    let limits = StoreLimits { transfers_per_device: 1, queued_transfers: 2, ..StoreLimits::default() };
    let scratch = Scratch::new(SIZE);
    let (mut store, slot) = store_with(scratch.device(), limits);
    for token in 0..4 {
        store.submit(write(token, slot, token * BLOCK, &[7; 4096], false));
    }
    let done = complete(&mut store, 4);
    let results: Vec<_> = done.iter().map(|completion| completion.result).collect();
    assert_eq!(results, [Ok(()), Ok(()), Ok(()), Err(StoreError::Device(libc_enobufs()))]);
    assert!(done.iter().all(|completion| completion.buf.is_some()), "a refused buffer comes back");
    assert_eq!(store.stats().refused, 1);
}

fn libc_enobufs() -> i32 {
    rustix::io::Errno::NOBUFS.raw_os_error()
}

#[test]
fn devices_of_one_store_are_apart() {
    let (one, two) = (Scratch::new(SIZE), Scratch::new(SIZE));
    let (mut store, first) = store(one.device());
    let second = store.add_device(two.device()).unwrap();
    assert_ne!(first, second);
    store.submit(write(1, first, 0, &[1; 4096], true));
    store.submit(write(2, second, 0, &[2; 4096], true));
    complete(&mut store, 2);
    assert_eq!(one.bytes()[0], 1);
    assert_eq!(two.bytes()[0], 2);
}

#[test]
fn fua_and_flush_succeed() {
    let scratch = Scratch::new(SIZE);
    let (mut store, slot) = store(scratch.device());
    assert_eq!(run(&mut store, write(1, slot, 0, &[5; 8192], true)).result, Ok(()));
    assert_eq!(run(&mut store, op(2, slot, StoreOpKind::Flush)).result, Ok(()));
    let range = ByteRange::new(4096, 4096);
    assert_eq!(run(&mut store, op(3, slot, StoreOpKind::WriteZeroes { range, fua: true })).result, Ok(()));
    let done = run(&mut store, read(4, slot, 0, 8192));
    let buf = done.buf.unwrap();
    assert!(buf.bytes()[..4096].iter().all(|&byte| byte == 5));
    assert!(buf.bytes()[4096..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_part_of_a_buffer_is_written_and_filled() {
    let scratch = Scratch::new(SIZE);
    let (mut store, slot) = store(scratch.device());
    let mut part = write(1, slot, 0, &[9; 12288], false);
    part.buf.as_mut().unwrap().range = 4096..8192;
    let mut buf = run(&mut store, part).buf.unwrap();
    assert_eq!(scratch.bytes()[4096], 0, "4096 bytes were written");
    buf.buf.fill(1);
    let mut back = read(2, slot, 0, 0);
    back.buf = Some(buf);
    let buf = run(&mut store, back).buf.unwrap();
    assert!(buf.buf[..4096].iter().all(|&byte| byte == 1), "bytes before the range stay");
    assert!(buf.bytes().iter().all(|&byte| byte == 9));
    assert!(buf.buf[8192..].iter().all(|&byte| byte == 1), "bytes after the range stay");
}

#[test]
fn what_is_outside_or_unaligned_is_refused_with_its_range() {
    let scratch = Scratch::new(SIZE);
    let (mut store, slot) = store(scratch.device());
    for (offset, len) in [(SIZE, 4096), (SIZE - 4096, 8192), (100, 4096), (0, 100), (u64::MAX - 4095, 8192)] {
        let Completion { result, buf, .. } = run(&mut store, read(1, slot, offset, len));
        assert_eq!(result, Err(StoreError::Range(ByteRange::new(offset, len as u64))));
        assert!(buf.is_some(), "the buffer comes back");
    }
    let range = ByteRange::new(SIZE - 4096, 8192);
    for kind in [StoreOpKind::Discard(range), StoreOpKind::WriteZeroes { range, fua: false }] {
        assert_eq!(run(&mut store, op(1, slot, kind)).result, Err(StoreError::Range(range)));
    }
}

#[test]
fn a_read_only_device_refuses_writes() {
    let scratch = Scratch::new(SIZE);
    let device = Device::open(scratch.path(), Role::ReadOnly).unwrap();
    assert!(device.capabilities().read_only);
    let (mut store, slot) = store(device);
    let readonly = Err(StoreError::Device(rustix::io::Errno::ROFS.raw_os_error()));
    assert_eq!(run(&mut store, write(1, slot, 0, &[1; 4096], false)).result, readonly);
    let range = ByteRange::new(0, 4096);
    assert_eq!(run(&mut store, op(2, slot, StoreOpKind::Discard(range))).result, readonly);
    assert_eq!(run(&mut store, read(3, slot, 0, 4096)).result, Ok(()));
    assert_eq!(run(&mut store, op(4, slot, StoreOpKind::Flush)).result, Ok(()));
}

#[test]
fn an_operation_on_no_device_completes_with_an_error() {
    let scratch = Scratch::new(SIZE);
    let (mut store, _) = store(scratch.device());
    let done = run(&mut store, read(1, DeviceSlot(7), 0, 4096));
    assert_eq!(done.result, Err(StoreError::Device(rustix::io::Errno::NODEV.raw_os_error())));
}

#[test]
fn a_file_that_shrank_gives_short_reads() {
    let scratch = Scratch::new(SIZE);
    let (mut store, slot) = store(scratch.device());
    scratch.truncate(5000);
    let done = run(&mut store, read(1, slot, 0, 16384));
    assert_eq!(done.result, Err(StoreError::Short { done: 5000, wanted: 16384 }));
    let done = run(&mut store, read(2, slot, 8192, 4096));
    assert_eq!(done.result, Err(StoreError::Short { done: 0, wanted: 4096 }));
    assert_eq!(store.refresh(slot).unwrap().size / 4096, 1);
    let done = run(&mut store, read(3, slot, 8192, 4096));
    assert!(matches!(done.result, Err(StoreError::Range(_))));
}

#[test]
fn an_odd_end_of_a_file_is_not_part_of_the_device() {
    let scratch = Scratch::new(10_000);
    let (mut store, slot) = store(scratch.device());
    let capabilities = store.capabilities(slot);
    let block = u64::from(capabilities.logical_block);
    assert_eq!(capabilities.size, 10_000 - 10_000 % block);
    let last = read(1, slot, capabilities.size - block, usize::try_from(block).unwrap());
    assert_eq!(run(&mut store, last).result, Ok(()));
}

#[test]
fn waiting_for_nothing_ends_with_the_time() {
    let scratch = Scratch::new(SIZE);
    let (mut store, _) = store(scratch.device());
    let mut done = Vec::new();
    let start = std::time::Instant::now();
    store.wait(Duration::from_millis(30), &mut done);
    assert!(done.is_empty());
    assert!(start.elapsed() >= Duration::from_millis(30));
    store.poll(&mut done);
    assert!(done.is_empty());
}

#[test]
fn a_device_leaves_only_when_it_is_idle() {
    let scratch = Scratch::new(SIZE);
    let (mut store, slot) = store(scratch.device());
    store.submit(write(1, slot, 0, &[1; 4096], false));
    assert!(matches!(store.remove_device(slot), Err(DeviceSlotError::Busy { operations: 1, .. })));
    complete(&mut store, 1);
    let device = store.remove_device(slot).unwrap();
    assert!(matches!(store.remove_device(slot), Err(DeviceSlotError::Empty(_))));
    assert_eq!(store.add_device(device).unwrap(), slot, "the slot is free again");
}

#[test]
fn a_large_write_of_zeros_is_one_operation() {
    let scratch = Scratch::new(SIZE);
    let (mut store, slot) = store(scratch.device());
    let all = vec![0xee; usize::try_from(SIZE).unwrap()];
    assert_eq!(run(&mut store, write(1, slot, 0, &all, false)).result, Ok(()));
    let range = ByteRange::new(0, SIZE);
    assert_eq!(run(&mut store, op(2, slot, StoreOpKind::WriteZeroes { range, fua: true })).result, Ok(()));
    assert!(scratch.bytes().iter().all(|&byte| byte == 0));
}

/// tmpfs cannot zero a range: the zeros are written, in more pieces than one, and may be many.
#[test]
fn zeros_are_written_where_the_file_system_cannot_zero() {
    let scratch = Scratch::new_in(std::path::Path::new("/dev/shm"), SIZE);
    let device = match Device::open(scratch.path(), Role::ReadWrite) {
        Ok(device) => device,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    let (mut store, slot) = store(device);
    let all = vec![0xee; usize::try_from(SIZE).unwrap()];
    assert_eq!(run(&mut store, write(1, slot, 0, &all, false)).result, Ok(()));
    for token in 0..2 {
        let range = ByteRange::new(4096, SIZE - 8192);
        let zeroes = op(token, slot, StoreOpKind::WriteZeroes { range, fua: true });
        assert_eq!(run(&mut store, zeroes).result, Ok(()));
    }
    let bytes = scratch.bytes();
    let (end, inner) = (bytes.len() - 4096, &bytes[4096..bytes.len() - 4096]);
    assert!(inner.iter().all(|&byte| byte == 0));
    assert!(bytes[..4096].iter().chain(&bytes[end..]).all(|&byte| byte == 0xee));
    eprintln!("entries beyond the first: {}", store.stats().continued);
}
