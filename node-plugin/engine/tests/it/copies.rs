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
