//! What is written to bitmap volumes, and when.

use crate::bench::{Bench, Set};
use umbra_engine::{CopyKind, CutMember, Device, SetIndex};

/// Rot of the newest journal block is found only if something newer says that the block was there: after a second
/// without records the superblock does.
#[test]
fn after_a_second_of_quiet_a_superblock_confirms_what_is_durable() {
    let mut bench = Bench::of(8, [Set::dependent()]);
    bench.write(1, 3..5);
    bench.rest();
    bench.pass(999);
    assert!(bench.open().is_empty());
    bench.pass(1);
    assert_eq!(bench.open(), ["superblock0 A Dependent"]);
    bench.rest();
    assert_eq!(bench.status(0).header.confirmed_upto.0, 1);
    bench.pass(5000);
    assert!(bench.open().is_empty());
}

/// A checkpoint that an ended image has left behind must not come after the superblock of the reset: it would count
/// records of the past as still to be replayed, and those never arrived.
#[test]
fn a_reset_waits_for_the_checkpoint_of_the_image_before() {
    let mut bench = Bench::of(8, [Set::merging(8)]);
    assert!(bench.is_open("page0 held 0 A"), "{:?}", bench.open());
    bench.device_fails(Device::Shadow(SetIndex(0)));
    bench.rest_but(&["page0", "read master"]);
    bench.cut(1, CutMember { reset: true, ..CutMember::to_shadow(SetIndex(0), CopyKind::Full) });
    bench.rest_but(&["page0"]);
    assert_eq!(bench.answer(1), None);
    assert!(!bench.is_open("superblock0 A Copying"));
    bench.rest();
    assert!(matches!(bench.answer(1), Some(Ok(_))));
}

/// Once a restore goes on from memory, its bitmap volume gets nothing more: it has failed.
#[test]
fn a_failed_bitmap_volume_gets_no_superblock_that_was_queued() {
    let mut bench = Bench::of(8, [Set::restoring(0..2).aborted()]);
    bench.device_fails(Device::Bitmap(SetIndex(0)));
    bench.write_shadow(1, 0, 0..1);
    bench.ok("giveup0");
    bench.rest();
    assert_eq!(bench.seen("superblock0"), 0);
}

/// A write that hangs at the volumes of a set that has ended comes back when another set has its place, and fails. It is
/// not the other's, whose first block has the same number.
#[test]
fn what_hangs_at_a_set_that_is_gone_is_not_taken_for_another() {
    let mut bench = Bench::of(8, [Set::dependent()]);
    bench.write(1, 0..1);
    bench.ok("read master");
    bench.device_fails(Device::Bitmap(SetIndex(0)));
    bench.rest_but(&["journal0"]);
    bench.replace_set(0, Set::prepared());
    bench.cut(1, CutMember::to_shadow(SetIndex(0), CopyKind::Full));
    bench.rest_but(&["journal0"]);
    bench.write(2, 0..1);
    bench.ok("read master");
    let blocks = bench.open().into_iter().filter(|name| name.starts_with("journal0")).count();
    assert_eq!(blocks, 2);
    bench.fail("journal0");
    bench.rest();
    assert_eq!((bench.seen("giveup0"), bench.status(0).held), (1, 1));
}
