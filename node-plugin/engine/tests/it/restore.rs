//! Restores, and what happens in them when something fails.

use crate::bench::{Bench, Set};
use umbra_engine::{CopyKind, CutMember, SetIndex, SetState};

/// E9: a page of *pending* that was damaged makes its chunks lost, the ones before it are to be restored: no run may
/// take both, or what nobody knows would be written to the master.
#[test]
fn a_run_ends_where_what_is_pending_is_lost() {
    let bench = Bench::of(8, [Set::restoring(0..8).lost(3..8)]);
    assert_eq!(bench.open(), ["read shadow0 0+3"]);
}

/// A flush of the master that one restore has asked for says nothing about what the next one has written since.
#[test]
fn a_restore_believes_its_own_flushes_only() {
    let mut bench = Bench::of(8, [Set::restoring(0..2).aborted()]);
    bench.write_part(1, 0);
    bench.write_part(2, 1);
    bench.ok("read shadow0 0+1");
    bench.ok("write master 0+1");
    bench.ok("read shadow0 1+1");
    bench.ok("write master 1+1");
    assert_eq!(bench.open(), ["flush master", "flush master"]);
    bench.ok_last("flush master");
    bench.rest_but(&["flush master"]);
    assert_eq!(bench.status(0).header.state, SetState::Dependent);
    bench.cut(1, CutMember::to_master(SetIndex(0), CopyKind::Full));
    while bench.answer(1).is_none() {
        bench.ok_last("flush master");
        bench.rest_but(&["flush master", "read shadow0"]);
    }
    bench.ok("read shadow0");
    bench.ok("write master");
    assert_eq!(bench.open(), ["flush master", "flush master"]);
    bench.ok("flush master");
    assert_eq!(bench.open(), ["flush master"]);
    bench.ok("flush master");
    assert!(bench.is_open("journal0 -held-pending"), "{:?}", bench.open());
}
