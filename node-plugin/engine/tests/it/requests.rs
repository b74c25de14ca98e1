//! What the port does with requests.

use crate::bench::{Bench, CHUNK, LIMITS, Set};
use umbra_engine::{Limits, RequestError, RequestKind, SetIndex, Side};

/// A device would refuse what is not of whole blocks, and the shadow that it was for be given up.
#[test]
fn requests_are_of_whole_blocks() {
    let mut bench = Bench::of(64, [Set::dependent().held(0..64)]);
    let ranges = [512..4608, 4096..4608, 0..CHUNK + 2048];
    for side in [Side::Master, Side::Shadow(SetIndex(0))] {
        for kind in
            [RequestKind::Read, RequestKind::Write { fua: false }, RequestKind::WriteZeroes { fua: true }]
        {
            for range in ranges.clone() {
                bench.request_bytes(1, side, kind, range.clone());
                assert_eq!(bench.result(1), Some(Err(RequestError::Invalid)), "{side:?} {kind:?} {range:?}");
            }
        }
    }
    assert!(bench.open().is_empty(), "{:?}", bench.open());
}

/// A discard of which every other chunk may pass is many operations; they do not fill the ring of the master, where a
/// flush must find room.
#[test]
fn a_discard_has_few_operations_in_flight() {
    let set = (0..64).step_by(2).fold(Set::dependent(), |set, chunk| set.held(chunk..chunk + 1));
    let mut bench = Bench::of(64, [set]);
    bench.request(1, Side::Master, RequestKind::Discard, 0..64);
    assert!(bench.open().len() <= 8, "{:?}", bench.open());
    bench.fail("discard master 2+1");
    bench.rest();
    assert_eq!(bench.seen("discard master"), 32);
    assert!(matches!(bench.result(1), Some(Err(_))));
}

/// A read of a shadow whose chunks are held by turns was as many operations at a time, and many such reads more than a
/// ring takes: what was refused was an error.
#[test]
fn many_reads_have_few_operations_in_flight() {
    let set = (0..512).step_by(2).fold(Set::dependent(), |set, chunk| set.held(chunk..chunk + 1));
    let mut bench = Bench::of(512, [set]);
    for number in 0..8 {
        bench.request(number, Side::Shadow(SetIndex(0)), RequestKind::Read, 0..512);
    }
    assert!(bench.open().len() <= 8 + 64, "{:?}", bench.open());
    bench.rest();
    assert!((0..8).all(|number| bench.result(number) == Some(Ok(()))));
    assert_eq!(bench.seen("read"), 8 * 512);
    // One that fails is not read on, and what it had in flight is given back to the others.
    for round in 0..40 {
        bench.request(0, Side::Shadow(SetIndex(0)), RequestKind::Read, 0..512);
        bench.fail("read");
        bench.rest();
        assert_eq!(bench.result(0), Some(Err(RequestError::Io)), "round {round}");
    }
    bench.request(0, Side::Shadow(SetIndex(0)), RequestKind::Read, 0..512);
    assert_eq!(bench.open().len(), 1 + 64);
    bench.rest();
}

/// A piece that has waited is read from where its chunk is by then.
#[test]
fn a_read_that_waits_for_its_turn_follows_what_was_copied_meanwhile() {
    let set = (0..256).step_by(2).fold(Set::dependent(), |set, chunk| set.held(chunk..chunk + 1));
    let mut bench = Bench::of(256, [set]);
    bench.request(0, Side::Shadow(SetIndex(0)), RequestKind::Read, 0..256);
    assert!(!bench.is_open("read master 201+1"), "{:?}", bench.open());
    let reads: Vec<String> = bench.open().into_iter().map(str::to_owned).collect();
    bench.write(1, 201..202);
    let reads: Vec<&str> = reads.iter().map(String::as_str).collect();
    bench.rest_but(&reads);
    assert_eq!(bench.result(1), Some(Ok(())));
    assert_eq!(bench.result(0), None);
    let before = bench.seen("read master 201+1");
    bench.rest();
    assert_eq!(bench.result(0), Some(Ok(())));
    assert_eq!(bench.seen("read master 201+1"), before, "only the copy has read it there");
}

/// Nor do many discards at a time: beyond the first of each they share a few.
#[test]
fn many_discards_leave_room_for_a_flush() {
    let set = (0..64).step_by(2).fold(Set::dependent(), |set, chunk| set.held(chunk..chunk + 1));
    let mut bench = Bench::of(64, [set]);
    for round in 0..2 {
        for number in 0..7 {
            bench.request(number, Side::Master, RequestKind::Discard, 0..64);
        }
        assert!(bench.open().len() <= 7 + 32, "{:?}", bench.open());
        bench.request(7, Side::Master, RequestKind::Flush, 0..1);
        bench.rest();
        assert!((0..8).all(|number| bench.result(number) == Some(Ok(()))));
        assert_eq!(bench.seen("discard master"), (round + 1) * 7 * 32);
    }
}

/// Every read through every shadow may have to go to the master, in pieces: a store that takes what the limits say refuses
/// none.
#[test]
fn reads_of_all_shadows_have_a_place_at_the_master() {
    let limits = Limits { requests: 17 * 4, ..LIMITS };
    let sets = (0..16).map(|_| Set::dependent().held(1..2).held(3..4));
    let mut bench = Bench::with_limits(8, limits, sets);
    for (number, set) in (0..64).zip((0..16).cycle()) {
        bench.request(number, Side::Shadow(SetIndex(set)), RequestKind::Read, 0..5);
    }
    let reads = bench.open().iter().filter(|name| name.starts_with("read master")).count();
    assert!(reads > 64 && reads <= limits.in_flight_on_master(4).transfers, "{reads}");
}

/// A bitmap volume that is slow has so many journal blocks at a time; what is recorded meanwhile shares the next.
#[test]
fn journal_blocks_in_flight_are_bounded() {
    let limits = Limits { requests: 80, ..LIMITS };
    let mut bench = Bench::with_limits(80 * 64, limits, [Set::complete(80 * 64).ring(256)]);
    for region in 0..80 {
        bench.write(region, u64::from(region) * 64..u64::from(region) * 64 + 1);
    }
    assert_eq!(bench.seen("journal0"), 64);
    bench.ok("journal0");
    assert_eq!(bench.seen("journal0"), 65);
    bench.rest();
    assert!((0..80).all(|number| bench.result(number) == Some(Ok(()))));
}
