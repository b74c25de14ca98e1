//! Restores, and what happens in them when something fails.

use crate::bench::{Bench, LIMITS, Set};
use umbra_engine::{
    Command, CopyKind, CutMember, Device, Limits, Refusal, RequestError, RestoreStop, SetIndex, SetState,
};

const SHADOW: Device = Device::Shadow(SetIndex(0));

/// E9: a page of *pending* that was damaged makes its chunks lost, the ones before it are to be restored: no run may
/// take both, or what nobody knows would be written to the master.
#[test]
fn a_run_ends_where_what_is_pending_is_lost() {
    let bench = Bench::of(8, [Set::restoring(0..8).lost(3..8)]);
    assert_eq!(bench.open(), ["read shadow0 0+3"]);
}

/// The shadow fails while the old data of a first write is read: the chunk is lost for the set, the write goes on, and
/// the read may come back whenever it likes.
#[test]
fn a_leg_is_lost_while_its_read_is_under_way() {
    let mut bench = Bench::of(8, [Set::restoring(0..1).aborted()]);
    bench.write(1, 5..6);
    assert_eq!(bench.open(), ["read master 5+1"]);
    bench.device_fails(SHADOW);
    bench.rest_but(&["read master"]);
    bench.ok("read master 5+1");
    bench.rest();
    assert_eq!(bench.result(1), Some(Ok(())));
    assert_eq!(bench.status(0).lost, 1);
}

/// The data of a copy is durable, its record is not, and the shadow fails: lost wins over the record.
#[test]
fn a_leg_is_lost_after_its_data_is_durable() {
    let mut bench = Bench::of(8, [Set::restoring(0..1).aborted()]);
    bench.write(1, 5..6);
    bench.ok("read master 5+1");
    bench.ok("write shadow0 5+1");
    bench.ok("flush shadow0");
    bench.device_fails(SHADOW);
    bench.rest_but(&["journal0 +held"]);
    assert_eq!(bench.open(), ["journal0 +held 5+1"]);
    bench.rest();
    assert_eq!(bench.result(1), Some(Ok(())));
    assert_eq!(bench.status(0).lost, 1);
}

/// A run that is to be restored waits for a buffer to read a sibling's old data; the sibling ends, so no old data is
/// needed any more, and the run has one place in the queue, not two.
#[test]
fn a_restored_run_waits_for_a_buffer_while_a_sibling_ends() {
    let limits = Limits { write_buffers: 1, ..LIMITS };
    let mut bench = Bench::with_limits(8, limits, [Set::restoring(0..4).aborted(), Set::dependent()]);
    bench.write_part(1, 0);
    bench.write_part(2, 2);
    assert_eq!(bench.open(), ["read master 0+1"]);
    bench.device_fails(Device::Shadow(SetIndex(1)));
    bench.rest_but(&["read master 0+1"]);
    assert_eq!(bench.seen("read"), 1);
    bench.rest();
    assert_eq!((bench.result(1), bench.result(2)), (Some(Ok(())), Some(Ok(()))));
    assert_eq!((bench.seen("read shadow0"), bench.seen("read master")), (2, 1));
}

/// A request that holds a chunk to overwrite it fails, by the policy of a sibling. The next request of its number has
/// nothing to do with that chunk: it stays pending, or the master would show what was there before the restore.
#[test]
fn a_request_that_fails_lets_go_of_what_it_was_to_overwrite() {
    let mut bench = Bench::of(8, [Set::restoring(0..2).aborted(), Set::dependent().fail_write()]);
    bench.device_fails(SHADOW);
    bench.write(1, 0..1);
    assert_eq!(bench.open(), ["read master 0+1"]);
    bench.device_fails(Device::Bitmap(SetIndex(1)));
    bench.pass(1);
    assert_eq!(bench.result(1), Some(Err(RequestError::Io)));
    bench.rest();
    bench.write(1, 5..6);
    bench.rest();
    assert_eq!(bench.result(1), Some(Ok(())));
    assert_eq!(bench.status(0).pending, 2);
    bench.write(2, 0..2);
    bench.rest();
    assert_eq!((bench.result(2), bench.status(0).lost), (Some(Ok(())), 3));
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

/// Whoever looks sees that a restore stands still, and why.
#[test]
fn a_restore_that_stands_still_says_why() {
    let mut bench = Bench::of(8, [Set::restoring(0..3)]);
    let status = |bench: &Bench| bench.status(0).restore.map(|restore| (restore.stands, restore.unreadable));
    assert_eq!(status(&bench), Some((None, 0)));
    bench.fail("read shadow0 0+3");
    bench.fail("read shadow0 1+1");
    bench.rest();
    assert_eq!(status(&bench), Some((Some(RestoreStop::Unreadable), 1)));
    bench.device_fails(SHADOW);
    assert_eq!(status(&bench), Some((Some(RestoreStop::Shadow), 1)));
    bench.command(1, Command::Resume { set: SetIndex(0) });
    bench.fail("read shadow0 1+1");
    bench.rest();
    assert_eq!(status(&bench), Some((Some(RestoreStop::Unreadable), 1)));
    bench.command(2, Command::Resume { set: SetIndex(0) });
    bench.ok("read shadow0 1+1");
    bench.fail("write master 1+1");
    assert_eq!(status(&bench), Some((Some(RestoreStop::Master), 0)));
    bench.command(3, Command::Resume { set: SetIndex(0) });
    bench.rest();
    assert_eq!((status(&bench), bench.status(0).header.state), (None, SetState::Dependent));
}

/// The shadow's head is on the bitmap volume, and the bitmap volume fails: the head is in memory, so that the master can
/// be read and written where the head is to come, and the restore goes to its end.
#[test]
fn the_head_is_in_memory_until_it_is_home() {
    let mut bench = Bench::of(8, [Set::restoring(0..4).aborted().head_moved()]);
    bench.ok("head0 Keep");
    bench.device_fails(Device::Bitmap(SetIndex(0)));
    bench.ok("giveup0");
    bench.read(1, 0..3);
    assert_eq!(bench.open(), ["read memory0 0+2", "read shadow0 2+1"]);
    bench.rest();
    bench.write_part(2, 1);
    assert_eq!(bench.open(), ["read memory0 1+1"]);
    bench.rest();
    assert_eq!((bench.result(1), bench.result(2)), (Some(Ok(())), Some(Ok(()))));
    assert_eq!(bench.seen("read bitmap0"), 0);
    bench.command(1, Command::Resume { set: SetIndex(0) });
    bench.rest();
    assert_eq!(bench.status(0).restore, None);
}

/// A cut to the master reads the head into memory before anything durable changes, and is refused if it cannot.
#[test]
fn a_restore_whose_head_cannot_be_read_is_refused() {
    let mut bench = Bench::of(8, [Set::dependent().held(0..4).head_moved()]);
    for (number, fails) in [(1, true), (2, false)] {
        bench.cut(number, CutMember::to_master(SetIndex(0), CopyKind::Full));
        bench.rest_but(&["head0 Keep"]);
        if fails {
            bench.fail("head0 Keep");
            assert_eq!(bench.answer(number), Some(Err(Refusal::LostChunks(2))));
            assert_eq!(bench.seen("superblock0 A Restoring"), 0);
        }
    }
    bench.ok("head0 Keep");
    bench.rest_but(&["read"]);
    assert!(matches!(bench.answer(2), Some(Ok(_))));
    assert_eq!(bench.open(), ["read memory0 0+2", "read shadow0 2+2"]);
}

/// The head comes into memory while a run of it is read from the bitmap volume, which then fails: the run is read again,
/// from memory.
#[test]
fn a_run_of_the_head_that_is_read_when_its_volume_fails_is_read_again() {
    let mut bench = Bench::of(8, [Set::restoring(0..4).head_moved()]);
    assert_eq!(bench.open(), ["head0 Keep", "read bitmap0 0+2", "read shadow0 2+2"]);
    bench.ok("head0 Keep");
    bench.write(1, 0..1);
    bench.device_fails(Device::Bitmap(SetIndex(0)));
    bench.rest();
    assert_eq!((bench.result(1), bench.status(0).restore), (Some(Ok(())), None));
}

/// A write through the shadow is acknowledged, a flush of the shadow fails, and the restore is tried again: the next
/// flush through the shadow cannot say that the write is durable (E8).
#[test]
fn a_flush_after_a_retry_does_not_vouch_for_what_the_failure_took() {
    let mut bench = Bench::of(8, [Set::restoring(0..1).held(5..6).aborted()]);
    bench.write_shadow(1, 0, 5..6);
    bench.rest();
    assert_eq!(bench.result(1), Some(Ok(())));
    bench.device_fails(SHADOW);
    bench.rest();
    bench.command(7, Command::Resume { set: SetIndex(0) });
    bench.rest();
    assert!(matches!(bench.answer(7), Some(Ok(_))));
    bench.request(2, umbra_engine::Side::Shadow(SetIndex(0)), umbra_engine::RequestKind::Flush, 0..1);
    bench.rest();
    assert_eq!(bench.result(2), Some(Err(RequestError::Io)));
}

/// A restore ends while the head is still being read into memory: the next cut waits for that, and is refused only when it
/// is late.
#[test]
fn a_cut_waits_for_the_head_that_a_restore_has_left() {
    for late in [false, true] {
        let mut bench = Bench::of(8, [Set::restoring(4..5).head_moved()]);
        bench.rest_but(&["head0"]);
        bench.cut(1, CutMember::to_shadow(SetIndex(0), CopyKind::Full));
        bench.rest_but(&["head0"]);
        assert_eq!((bench.status(0).restore, bench.answer(1)), (None, None));
        if late {
            bench.pass(1000)
        } else {
            bench.ok("head0 Keep")
        };
        bench.rest_but(&["head0"]);
        let refused = Some(Err(Refusal::AbandonedIo(Device::Bitmap(SetIndex(0)))));
        assert_eq!((bench.answer(1) == refused, matches!(bench.answer(1), Some(Ok(_)))), (late, !late));
    }
}
