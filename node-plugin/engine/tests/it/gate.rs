//! Cuts and everything else under the closed gate.

use crate::bench::{Bench, Set};
use umbra_engine::{Command, Device, Done, PlaneId, SetIndex};

/// What was lost is not held by an image that comes after: an update copies it anew, also where *held* was left set (as
/// recovery leaves it where it cannot tell).
#[test]
fn an_update_copies_what_was_lost() {
    let mut bench = Bench::of(8, [Set::complete(8).lost(3..4)]);
    bench.update(1, 0);
    bench.rest_but(&["read master"]);
    assert!(matches!(bench.answer(1), Some(Ok(_))));
    assert_eq!(bench.open(), ["read master 3+1"]);
    assert_eq!(bench.bits(0, PlaneId::Differs0), 1 << 3, "recovery must see the same");
}

/// A detach whose set ends starts again with the others, and waits for flushes of its own.
#[test]
fn a_gate_counts_its_own_flushes_only() {
    let mut bench = Bench::of(8, [Set::dependent(), Set::dependent()]);
    bench.command(1, Command::Detach);
    bench.ok("flush master");
    bench.ok("flush master");
    assert_eq!(bench.open(), ["flush shadow0", "flush bitmap0", "flush shadow1", "flush bitmap1"]);
    bench.device_fails(Device::Shadow(SetIndex(0)));
    bench.rest_but(&["flush shadow1", "flush bitmap1"]);
    let first = ["flush shadow1", "flush bitmap1"];
    assert_eq!(bench.open(), [first, first].concat());
    bench.ok("flush shadow1");
    bench.ok("flush bitmap1");
    assert_eq!(bench.open(), first);
    bench.rest();
    assert!(bench.answer(1).is_some());
}

/// The shadow fails while the superblock of a disable is written: the set is disabled, and no later superblock says
/// anything else.
#[test]
fn a_shadow_that_fails_during_a_disable_leaves_the_set_disabled() {
    let mut bench = Bench::of(8, [Set::complete(8)]);
    bench.command(1, Command::Disable { set: SetIndex(0), force: false });
    bench.rest_but(&["superblock"]);
    bench.device_fails(Device::Shadow(SetIndex(0)));
    bench.rest();
    assert_eq!(bench.answer(1), Some(Ok(Done::Ok)));
    assert_eq!((bench.seen("superblock0"), bench.seen("superblock0 B Disabled")), (2, 1));
}
