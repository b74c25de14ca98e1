//! The crash store's own promises: what the simulator concludes is worth as much as these.

use super::*;
use crate::buf::AlignedBuf;

fn write(token: u64, device: DeviceSlot, offset: u64, byte: u8, len: usize, fua: bool) -> StoreOp {
    let buf = IoBuf::whole(AlignedBuf::from_bytes(&vec![byte; len]));
    StoreOp { token: Token(token), device, kind: StoreOpKind::Write { offset, fua }, buf: Some(buf) }
}

fn flush(token: u64, device: DeviceSlot) -> StoreOp {
    StoreOp { token: Token(token), device, kind: StoreOpKind::Flush, buf: None }
}

fn run(store: &mut SimStore, op: StoreOp) -> Completion {
    store.submit(op);
    let mut done = Vec::new();
    store.wait(Duration::ZERO, &mut done);
    assert_eq!(done.len(), 1);
    done.remove(0)
}

fn byte_at(world: &SimWorld, device: DeviceSlot, offset: u64) -> u8 {
    let mut sector = [0; SECTOR];
    world.peek(device, offset, &mut sector);
    assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is never torn");
    sector[0]
}

fn world(seed: u64, cache: Cache) -> (SimWorld, DeviceSlot, SimStore) {
    let world = SimWorld::new(seed, Timing::default());
    let device = world.add_device("disk", 64 << 10, cache, Fill::Zero);
    let store = world.claim();
    (world, device, store)
}

/// How many of 200 seeds end with `expected` at offset 0 after a power cut.
fn survivors(cache: Cache, expected: u8, act: impl Fn(&mut SimStore, DeviceSlot)) -> usize {
    let survives = |seed: &u64| {
        let (world, device, mut store) = world(*seed, cache);
        act(&mut store, device);
        world.crash(Crash::PowerCut { granule: 512 });
        byte_at(&world, device, 0) == expected
    };
    (0..200).filter(survives).count()
}

#[test]
fn a_device_refuses_what_is_not_of_whole_blocks() {
    let (world, device, mut store) = world(1, Cache::Volatile);
    world.set_logical_block(device, 4096);
    assert_eq!(store.capabilities(device).logical_block, 4096);
    for (offset, len) in [(512, 4096), (4096, 512), (0, 4096 + 512)] {
        let done = run(&mut store, write(1, device, offset, 7, len, false));
        assert_eq!(done.result, Err(StoreError::Range(ByteRange::new(offset, len as u64))));
    }
    assert_eq!(run(&mut store, write(2, device, 4096, 7, 8192, false)).result, Ok(()));
    assert_eq!([0, 4096].map(|offset| byte_at(&world, device, offset)), [0, 7]);
}

#[test]
fn a_write_that_goes_astray_is_reported_complete_and_is_elsewhere() {
    let (world, device, mut store) = world(3, Cache::Volatile);
    run(&mut store, write(1, device, 4096, 5, 512, true));
    store.submit(write(2, device, 0, 7, 512, false));
    assert_eq!(world.lead_astray(device, 512, |at| at == 8192, 4096), None);
    let stray = world.lead_astray(device, 512, |at| at == 0, 4096).unwrap();
    assert_eq!(stray, Stray { meant: 0, bytes: vec![7; 512] });
    let mut done = Vec::new();
    store.wait(Duration::ZERO, &mut done);
    assert_eq!(done[0].result, Ok(()));
    assert_eq!([0, 4096].map(|offset| byte_at(&world, device, offset)), [0, 7]);
    let mut durable = [0; SECTOR];
    world.peek_durable(device, 4096, &mut durable);
    assert_eq!(durable[0], 5);
    run(&mut store, flush(3, device));
    world.peek_durable(device, 4096, &mut durable);
    assert_eq!(durable[0], 7);
}

#[test]
fn a_device_takes_so_much_at_a_time_and_refuses_what_has_no_room() {
    let (world, device, mut store) = world(5, Cache::Volatile);
    world.set_queue(device, Some(Queue { transfers: 1, blocking: 1, waiting: [2; 2] }));
    (1..5).for_each(|token| store.submit(write(token, device, (token - 1) * 512, 7, 512, false)));
    store.submit(flush(9, device));
    assert_eq!(world.queued(), (2, 1), "a flush has a queue of its own");
    let (mut done, mut order) = (Vec::new(), Vec::new());
    while order.len() < 5 {
        store.poll(&mut done);
        let writes =
            done.iter().filter(|completion| completion.token != Token(9) && completion.result.is_ok());
        assert!(writes.count() <= 1, "one at a time");
        order.extend(done.drain(..).map(|completion| (completion.token.0, completion.result)));
    }
    let refused = order.iter().find(|(token, _)| *token == 4);
    assert_eq!(refused, Some(&(4, Err(StoreError::Device(ENOBUFS)))));
    let written: Vec<u64> = order.iter().map(|(token, _)| *token).filter(|token| *token < 4).collect();
    assert_eq!(written, [1, 2, 3]);
    assert_eq!([0, 512, 1024, 1536].map(|offset| byte_at(&world, device, offset)), [7, 7, 7, 0]);
}

#[test]
fn what_waits_behind_what_hangs_is_stuck_and_never_lands_after_a_kill() {
    let (world, device, mut store) = world(5, Cache::Volatile);
    world.set_queue(device, Some(Queue { transfers: 1, blocking: 1, waiting: [9; 2] }));
    world.set_faults(device, Faults { hang: 1000, ..Faults::default() });
    store.submit(write(1, device, 0, 7, 512, false));
    world.set_faults(device, Faults::default());
    (2..8).for_each(|token| store.submit(write(token, device, 4096, 7, 512, false)));
    let mut done = Vec::new();
    store.wait(Duration::from_millis(50), &mut done);
    assert_eq!((done.len(), world.hanging(), world.in_flight()), (0, 7, 7));
    world.crash(Crash::Kill);
    assert_eq!(byte_at(&world, device, 4096), 0);
}

#[test]
fn what_was_completed_before_a_flush_survives_every_power_cut() {
    let kept = survivors(Cache::Volatile, 7, |store, device| {
        run(store, write(1, device, 0, 7, 4096, false));
        run(store, flush(2, device));
    });
    assert_eq!(kept, 200);
}

#[test]
fn what_was_not_flushed_is_sometimes_lost_and_sometimes_kept() {
    let kept = survivors(Cache::Volatile, 7, |store, device| {
        run(store, write(1, device, 0, 7, 4096, false));
    });
    assert!((20..180).contains(&kept), "{kept} of 200 kept");
}

#[test]
fn a_flush_owes_nothing_to_a_write_that_completed_after_its_submission() {
    let kept = survivors(Cache::Volatile, 7, |store, device| {
        store.submit(write(1, device, 0, 7, 4096, false));
        store.submit(flush(2, device));
        let mut done = Vec::new();
        while done.len() < 2 {
            store.poll(&mut done);
        }
    });
    assert!((1..200).contains(&kept), "{kept} of 200 kept");
}

#[test]
fn fua_and_write_through_need_no_flush() {
    for (cache, fua) in [(Cache::Fua, true), (Cache::Volatile, true), (Cache::WriteThrough, false)] {
        let kept = survivors(cache, 7, |store, device| {
            run(store, write(1, device, 0, 7, 4096, fua));
        });
        assert_eq!(kept, 200, "{cache:?}");
    }
}

#[test]
fn an_older_cached_write_never_comes_back_over_a_durable_one() {
    let kept = survivors(Cache::Volatile, 8, |store, device| {
        run(store, write(1, device, 0, 7, 4096, false));
        run(store, write(2, device, 0, 8, 512, true));
    });
    assert_eq!(kept, 200);
}

#[test]
fn a_kill_keeps_the_cache_and_lets_what_was_in_flight_land_or_not() {
    let mut landed = 0;
    for seed in 0..200 {
        let (world, device, mut store) = world(seed, Cache::Volatile);
        run(&mut store, write(1, device, 4096, 5, 512, false));
        store.submit(write(2, device, 0, 7, 4096, false));
        world.crash(Crash::Kill);
        assert_eq!(byte_at(&world, device, 4096), 5);
        landed += usize::from(byte_at(&world, device, 0) == 7);
        let mut done = Vec::new();
        store.poll(&mut done);
        assert_eq!(done[0].result, Err(StoreError::Crashed));
        // A new process can make durable what the old one had only cached.
        run(&mut world.claim(), flush(3, device));
        world.crash(Crash::PowerCut { granule: 512 });
        assert_eq!(byte_at(&world, device, 4096), 5);
    }
    assert!((40..160).contains(&landed), "{landed} of 200 landed");
}

#[test]
fn a_torn_write_keeps_whole_granules() {
    let mut torn = 0;
    for seed in 0..200 {
        let (world, device, mut store) = world(seed, Cache::Volatile);
        run(&mut store, write(1, device, 0, 7, 8192, false));
        world.crash(Crash::PowerCut { granule: 4096 });
        for page in 0..2 {
            let first = byte_at(&world, device, page * 4096);
            assert!((0..8).all(|n| byte_at(&world, device, page * 4096 + n * 512) == first));
        }
        torn += usize::from(byte_at(&world, device, 0) != byte_at(&world, device, 4096));
    }
    assert!(torn > 0);
}

#[test]
fn writes_in_flight_together_land_in_either_order() {
    let mut first_wins = 0;
    for seed in 0..200 {
        let (world, device, mut store) = world(seed, Cache::Volatile);
        store.submit(write(1, device, 0, 1, 512, false));
        store.submit(write(2, device, 0, 2, 512, false));
        let mut done = Vec::new();
        while done.len() < 2 {
            store.poll(&mut done);
        }
        first_wins += usize::from(byte_at(&world, device, 0) == 1);
    }
    assert!((20..180).contains(&first_wins), "{first_wins} of 200");
}

#[test]
fn a_failed_flush_may_drop_the_cache_for_ever() {
    let mut kept = 0;
    for seed in 0..200 {
        let (world, device, mut store) = world(seed, Cache::Volatile);
        run(&mut store, write(1, device, 0, 7, 512, false));
        world.set_faults(device, Faults { flush: 1000, drop_cache: true, ..Faults::default() });
        assert!(run(&mut store, flush(2, device)).result.is_err());
        assert_eq!(byte_at(&world, device, 0), 7, "reads still see it");
        world.set_faults(device, Faults::default());
        run(&mut store, flush(3, device)).result.unwrap();
        world.crash(Crash::PowerCut { granule: 512 });
        kept += usize::from(byte_at(&world, device, 0) == 7);
    }
    assert!((40..160).contains(&kept), "{kept} of 200 kept");
}

#[test]
fn an_operation_that_hangs_ends_when_it_is_released() {
    let (world, device, mut store) = world(1, Cache::Volatile);
    world.set_faults(device, Faults { hang: 1000, ..Faults::default() });
    store.submit(write(1, device, 0, 7, 512, false));
    let mut done = Vec::new();
    for _ in 0..1000 {
        store.poll(&mut done);
    }
    assert!(done.is_empty());
    assert_eq!(world.hanging(), 1);
    world.release();
    while done.is_empty() {
        store.poll(&mut done);
    }
    assert_eq!((done[0].token, done[0].result), (Token(1), Ok(())));
}

#[test]
fn the_crash_comes_with_the_operation_it_was_set_for() {
    let (world, device, mut store) = world(1, Cache::Volatile);
    world.crash_at(Some((2, Crash::Kill)));
    assert!(run(&mut store, write(1, device, 0, 7, 512, false)).result.is_ok());
    assert_eq!(world.crashed(), None);
    assert_eq!(run(&mut store, flush(2, device)).result, Err(StoreError::Crashed));
    assert_eq!((world.crashed(), world.operations()), (Some(Crash::Kill), 2));
}

#[test]
fn operations_outside_the_device_or_off_its_blocks_are_refused() {
    let (_world, device, mut store) = world(1, Cache::Volatile);
    for (offset, len) in [(64 << 10, 512), ((64 << 10) - 512, 1024), (100, 512), (0, 100)] {
        let refused = run(&mut store, write(1, device, offset, 7, len, false)).result;
        assert_eq!(refused, Err(StoreError::Range(ByteRange::new(offset, len as u64))));
    }
}
