//! The ring as several users share it.

mod common;

use common::{Scratch, read, ring, write};
use io_uring::opcode;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;
use std::time::Duration;
use umbra_store::{BlockStore, Completion};
use umbra_uring::{
    FixedFile, Owner, Ring, RingConfig, RingError, RingFull, StoreLimits, UringStore, host_supports_io_uring,
};

const STORE: Owner = Owner::new(1);
const OTHER: Owner = Owner::new(100);

#[test]
fn this_host_has_io_uring() {
    host_supports_io_uring().unwrap();
}

#[expect(unsafe_code, reason = "the entries point to no memory")]
fn push_nops(ring: &mut Ring, owner: Owner, range: std::ops::Range<u64>) -> Result<(), RingFull> {
    for low in range {
        let entry = opcode::Nop::new().build().user_data(owner.user_data(low));
        // SAFETY: a no-op points to no memory and has no file.
        unsafe { ring.push(&entry) }?;
    }
    Ok(())
}

#[test]
fn pushes_beyond_the_queue_are_submitted_and_none_is_lost() {
    let config = RingConfig { entries: 8, completions: 16, overflow: 1000, ..RingConfig::default() };
    let mut ring = Ring::new(config).unwrap();
    push_nops(&mut ring, OTHER, 0..500).unwrap();
    let mut done = Vec::new();
    while done.len() < 500 {
        ring.submit_and_wait(1, Some(Duration::from_secs(5))).unwrap();
        let before = done.len();
        ring.drain_completions(&mut done);
        assert!(done.len() > before, "progress after {before}");
    }
    let mut lows: Vec<_> = done.iter().map(|done| Owner::low(done.user_data())).collect();
    lows.sort_unstable();
    assert_eq!(lows, (0..500).collect::<Vec<_>>());
    assert!(done.iter().all(|done| done.owner() == OTHER && done.result() == 0));
}

#[test]
fn a_store_waiting_for_itself_keeps_the_completions_of_others() {
    let scratch = Scratch::new(1 << 20);
    let ring = ring();
    let mut store = UringStore::new(ring.clone(), STORE, StoreLimits::default());
    let slot = store.add_device(scratch.device()).unwrap();
    push_nops(&mut ring.borrow_mut(), OTHER, 0..10).unwrap();
    assert_eq!(common::run(&mut store, write(1, slot, 0, &[3; 4096], true)).result, Ok(()));
    let mut done = Vec::new();
    ring.borrow_mut().submit_and_wait(1, None).unwrap();
    ring.borrow_mut().drain_completions(&mut done);
    assert_eq!(done.len(), 10);
    // Nothing of its own, but something of another's, is no reason to spin or to return.
    push_nops(&mut ring.borrow_mut(), OTHER, 0..1).unwrap();
    let mut own = Vec::new();
    store.wait(Duration::from_millis(20), &mut own);
    assert!(own.is_empty());
}

/// The loop that a reactor runs: two stores and somebody else on one ring.
#[test]
fn a_reactor_serves_two_stores_and_another_user() {
    let (one, two) = (Scratch::new(1 << 20), Scratch::new(1 << 20));
    let ring = ring();
    let mut stores: Vec<_> = [(1, &one), (2, &two)]
        .map(|(tag, scratch)| {
            let mut store = UringStore::new(ring.clone(), Owner::new(tag), StoreLimits::default());
            let slot = store.add_device(scratch.device()).unwrap();
            (store, slot)
        })
        .into();
    for (store, slot) in &mut stores {
        for at in 0..50 {
            store.submit(write(at, *slot, at * 4096, &[store.owner().tag(); 4096], false));
        }
    }
    push_nops(&mut ring.borrow_mut(), OTHER, 0..10).unwrap();
    let (mut cqes, mut done, mut others) = (Vec::new(), Vec::<Completion>::new(), 0);
    while done.len() < 100 || others < 10 {
        ring.borrow_mut().submit_and_wait(1, Some(Duration::from_secs(10))).unwrap();
        ring.borrow_mut().drain_completions(&mut cqes);
        for completion in cqes.drain(..) {
            match completion.owner() {
                OTHER => others += 1,
                owner => stores[usize::from(owner.tag()) - 1].0.on_completion(completion),
            }
        }
        stores.iter_mut().for_each(|(store, _)| store.collect(&mut done));
    }
    assert!(done.iter().all(|completion| completion.result == Ok(())));
    assert_eq!((one.bytes()[4096 * 49], two.bytes()[4096 * 49]), (1, 2));
}

/// The entry's user data is what an operation of the store would have, so a store that believed numbers would give
/// a buffer back that the kernel is still writing to.
#[test]
fn a_completion_of_another_ring_is_not_believed() {
    let scratch = Scratch::new(1 << 20);
    let (mut store, slot) = common::store(scratch.device());
    store.submit(read(1, slot, 0, 4096));
    let mut other = Ring::new(RingConfig::default()).unwrap();
    // The first operation of a store has the first place and the first serial number.
    push_nops(&mut other, STORE, 1 << 24..(1 << 24) + 1).unwrap();
    other.submit_and_wait(1, None).unwrap();
    let mut forged = Vec::new();
    other.drain_completions(&mut forged);
    assert_eq!(forged.len(), 1);
    forged.into_iter().for_each(|completion| store.on_completion(completion));
    assert_eq!((store.stats().stray, store.in_flight(slot)), (1, 1));
    assert_eq!(common::complete(&mut store, 1)[0].result, Ok(()));
}

#[test]
fn completions_of_other_owners_and_of_nothing_are_counted_and_ignored() {
    let scratch = Scratch::new(1 << 20);
    let ring = ring();
    let mut store = UringStore::new(ring.clone(), STORE, StoreLimits::default());
    let slot = store.add_device(scratch.device()).unwrap();
    push_nops(&mut ring.borrow_mut(), STORE, 0..1).unwrap();
    push_nops(&mut ring.borrow_mut(), STORE, Owner::LOW_MASK..Owner::LOW_MASK + 1).unwrap();
    push_nops(&mut ring.borrow_mut(), OTHER, 0..1).unwrap();
    let mut cqes = Vec::new();
    ring.borrow_mut().submit_and_wait(3, None).unwrap();
    ring.borrow_mut().drain_completions(&mut cqes);
    cqes.into_iter().for_each(|completion| store.on_completion(completion));
    assert_eq!(store.stats().stray, 3);
    assert_eq!(common::run(&mut store, read(1, slot, 0, 4096)).result, Ok(()));
}

#[test]
#[should_panic(expected = "the tag 1 belongs to another user")]
fn two_stores_cannot_have_one_tag() {
    let ring = ring();
    let _first = UringStore::new(ring.clone(), STORE, StoreLimits::default());
    let _second = UringStore::new(ring, STORE, StoreLimits::default());
}

#[test]
fn a_store_goes_on_when_the_ring_is_smaller_than_its_needs() {
    let scratch = Scratch::new(4 << 20);
    let config = RingConfig { entries: 4, completions: 8, overflow: 1, ..RingConfig::default() };
    let ring = Ring::shared(config).unwrap();
    let mut store = UringStore::new(ring, STORE, StoreLimits::default());
    let slot = store.add_device(scratch.device()).unwrap();
    for at in 0..1000 {
        store.submit(write(at, slot, at * 4096, &[4; 4096], false));
    }
    let done = common::complete(&mut store, 1000);
    assert!(done.iter().all(|completion| completion.result == Ok(())));
}

#[test]
fn a_dropped_store_leaves_the_ring_to_others() {
    let scratch = Scratch::new(1 << 20);
    let ring = ring();
    for round in 0..3 {
        let mut store = UringStore::new(ring.clone(), STORE, StoreLimits::default());
        let slot = store.add_device(scratch.device()).unwrap();
        for at in 0..100 {
            store.submit(write(at, slot, at * 4096, &[round; 4096], false));
        }
        store.poll(&mut Vec::new());
        drop(store);
        assert_eq!(scratch.bytes()[99 * 4096], round, "what was started is finished");
    }
}

#[test]
fn the_file_table_has_an_end() {
    let mut ring = Ring::new(RingConfig { files: 2, ..RingConfig::default() }).unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let first = ring.register_file(file.as_fd()).unwrap();
    ring.register_file(file.as_fd()).unwrap();
    assert!(matches!(ring.register_file(file.as_fd()), Err(RingError::FileTableFull { slots: 2 })));
    let slot = first.index();
    ring.unregister_file(first).unwrap();
    assert_eq!(ring.register_file(file.as_fd()).unwrap().index(), slot);
}

/// An entry that waits for its submission meets the file that it was made for, or none: not the next one in the slot.
#[test]
fn a_slot_is_not_used_again_while_an_unsent_entry_names_it() {
    let mut ring = Ring::new(RingConfig { files: 1, ..RingConfig::default() }).unwrap();
    let (old, new) = (Scratch::new(4096), Scratch::new(4096));
    let open = |scratch: &Scratch| std::fs::File::options().write(true).open(scratch.path()).unwrap();
    let slot = ring.register_file(open(&old).as_fd()).unwrap();
    push_write(&mut ring, &slot);
    ring.unregister_file(slot).unwrap();
    let full = ring.register_file(open(&new).as_fd());
    assert!(
        matches!(full, Err(RingError::FileTableFull { slots: 1 })),
        "the slot is free too early: {full:?}"
    );
    let mut done = Vec::new();
    ring.submit_and_wait(1, None).unwrap();
    ring.drain_completions(&mut done);
    assert_eq!(done[0].result(), -libc::EBADF);
    ring.register_file(open(&new).as_fd()).unwrap();
    assert_eq!((old.bytes()[0], new.bytes()[0]), (0, 0));
}

#[expect(unsafe_code, reason = "the entry points to a constant")]
fn push_write(ring: &mut Ring, file: &FixedFile) {
    static BYTES: [u8; 512] = [7; 512];
    let entry = opcode::Write::new(file.entry(), BYTES.as_ptr(), 512).build().user_data(OTHER.user_data(0));
    // SAFETY: the entry's memory is a constant, and its file a slot of the ring's table.
    unsafe { ring.push(&entry) }.expect("there is room");
}

#[test]
fn a_thread_waits_in_poll_for_the_completions_of_a_ring() {
    let scratch = Scratch::new(1 << 20);
    let ring = ring();
    let mut store = UringStore::new(ring.clone(), STORE, StoreLimits::default());
    let slot = store.add_device(scratch.device()).unwrap();
    for round in 0..20 {
        store.submit(common::op(round, slot, umbra_store::StoreOpKind::Flush));
        ring.borrow_mut().submit_and_wait(0, None).unwrap();
        let start = std::time::Instant::now();
        let ready = |ring: &Ring| {
            let mut polled = [PollFd::new(ring, PollFlags::IN)];
            poll(&mut polled, Some(&Timespec { tv_sec: 10, tv_nsec: 0 }))
        };
        while ready(&ring.borrow()) == Err(rustix::io::Errno::INTR) {}
        assert!(start.elapsed() < Duration::from_secs(5), "it was woken, not timed out");
        let mut done = Vec::new();
        store.poll(&mut done);
        assert_eq!(done.len(), 1, "round {round}");
    }
}

/// A ring that only its own waits serve completes the same.
#[test]
fn a_ring_that_is_not_polled_serves_a_store() {
    let scratch = Scratch::new(1 << 20);
    let ring = Ring::shared(RingConfig { polled: false, ..RingConfig::default() }).unwrap();
    let mut store = UringStore::new(ring, STORE, StoreLimits::default());
    let slot = store.add_device(scratch.device()).unwrap();
    for at in 0..200 {
        store.submit(write(at, slot, at * 4096, &[4; 4096], at % 3 == 0));
        store.submit(common::op(1000 + at, slot, umbra_store::StoreOpKind::Flush));
    }
    let done = common::complete(&mut store, 400);
    assert!(done.iter().all(|completion| completion.result == Ok(())));
}
