//! First writes and the copies they need.

use crate::bench::{Bench, Set};

/// Invariant 2: the write goes when data and record are durable on both volumes, and not before.
#[test]
fn a_first_write_waits_for_data_and_record() {
    let mut bench = Bench::of(8, [Set::dependent()]);
    bench.write(1, 3..5);
    assert_eq!(bench.open(), ["read master 3+2"]);
    bench.ok("read master 3+2");
    assert_eq!(bench.open(), ["write shadow0 3+2", "journal0 +held 3+2"]);
    bench.ok("write shadow0");
    bench.ok("flush shadow0");
    bench.ok("journal0");
    assert_eq!(bench.open(), ["flush bitmap0"]);
    bench.ok("flush bitmap0");
    assert_eq!(bench.open(), ["write master 3+2"]);
    bench.ok("write master");
    assert_eq!(bench.result(1), Some(Ok(())));
}

/// One bad chunk of the master costs the image that chunk, not its neighbours of the same run.
#[test]
fn of_a_run_that_cannot_be_read_only_the_bad_chunk_is_lost() {
    let mut bench = Bench::of(8, [Set::dependent()]);
    bench.write(1, 0..4);
    bench.fail("read master 0+4");
    bench.fail("read master 0+1");
    bench.rest();
    assert_eq!(bench.result(1), Some(Ok(())));
    assert_eq!((bench.status(0).lost, bench.status(0).held), (1, 3));
}

/// The same for a run of the background copier: its bad chunk is lost, its copy goes on.
#[test]
fn of_a_background_run_only_the_bad_chunk_is_lost() {
    let mut bench = Bench::of(8, [Set::copying()]);
    bench.fail("read master 0+8");
    bench.fail("read master 3+1");
    bench.rest();
    assert_eq!((bench.status(0).lost, bench.status(0).held), (1, 7));
}
