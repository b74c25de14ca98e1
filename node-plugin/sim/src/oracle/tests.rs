//! The oracle must allow what may happen and refuse what must not: each rule from both sides.

use super::*;
use crate::stamp::original;

fn issue(oracle: &mut Oracle, request: Request, first: u64, fua: bool) -> Value {
    let values = oracle.fresh_values(1);
    let now = oracle.now();
    oracle.master.issue(request, first, &values, fua, now);
    values[0]
}

fn end(oracle: &mut Oracle, request: Request, ok: bool) {
    let now = oracle.now();
    oracle.master.end(request, ok, now);
}

fn write(oracle: &mut Oracle, first: u64) -> Value {
    let value = issue(oracle, 0, first, false);
    end(oracle, 0, true);
    value
}

fn flush(oracle: &mut Oracle) {
    let issued = oracle.now();
    oracle.master.flushed(issued);
}

fn reads(oracle: &mut Oracle, side: Side, first: u64, value: Value) -> bool {
    let from = oracle.now();
    oracle.read(side, first, &[Some(value)], from).is_ok()
}

fn oracle() -> Oracle {
    Oracle::new(false, &[false, false])
}

#[test]
fn an_acknowledged_write_is_read_and_what_it_overwrote_is_not() {
    let mut oracle = oracle();
    assert!(reads(&mut oracle, Side::Master, 3, original(3)));
    let value = write(&mut oracle, 3);
    assert!(!reads(&mut oracle, Side::Master, 3, original(3)));
    assert!(reads(&mut oracle, Side::Master, 3, value));
    assert!(!reads(&mut oracle, Side::Master, 4, value), "another sector");
    let from = oracle.now();
    assert!(oracle.read(Side::Master, 3, &[None], from).is_err(), "a torn sector");
}

#[test]
fn a_write_in_flight_or_failed_may_be_read_or_not() {
    for fails in [false, true] {
        let mut oracle = oracle();
        let value = issue(&mut oracle, 7, 0, false);
        if fails {
            end(&mut oracle, 7, false);
        }
        for seen in [original(0), value] {
            assert!(reads(&mut oracle.clone(), Side::Master, 0, seen), "fails: {fails}");
        }
    }
}

#[test]
fn of_two_writes_at_once_either_wins_but_only_one() {
    let mut oracle = oracle();
    let a = issue(&mut oracle, 1, 0, false);
    let b = issue(&mut oracle, 2, 0, false);
    end(&mut oracle, 1, true);
    end(&mut oracle, 2, true);
    assert!(!reads(&mut oracle.clone(), Side::Master, 0, original(0)));
    assert!(reads(&mut oracle.clone(), Side::Master, 0, a));
    assert!(reads(&mut oracle, Side::Master, 0, b));
    assert!(!reads(&mut oracle, Side::Master, 0, a), "the first read has shown who won");
}

#[test]
fn a_power_cut_may_lose_what_was_not_flushed_and_nothing_else() {
    let mut oracle = oracle();
    let flushed = write(&mut oracle, 0);
    flush(&mut oracle);
    let later = write(&mut oracle, 0);
    oracle.crash(true);
    for (value, allowed) in [(original(0), false), (flushed, true), (later, true)] {
        assert_eq!(reads(&mut oracle.clone(), Side::Master, 0, value), allowed);
    }
    assert!(reads(&mut oracle, Side::Master, 0, flushed));
    assert!(!reads(&mut oracle, Side::Master, 0, later), "what was read after a power cut is the truth");
}

#[test]
fn fua_and_write_through_are_floors_of_their_own() {
    for (write_through, fua) in [(false, true), (true, false)] {
        let mut oracle = Oracle::new(write_through, &[false]);
        issue(&mut oracle, 0, 0, fua);
        end(&mut oracle, 0, true);
        oracle.crash(true);
        assert!(!reads(&mut oracle, Side::Master, 0, original(0)));
    }
}

#[test]
fn a_kill_loses_nothing_and_leaves_what_is_in_flight_open() {
    let mut oracle = oracle();
    let acknowledged = write(&mut oracle, 0);
    let open = issue(&mut oracle, 5, 1, false);
    oracle.crash(false);
    assert!(reads(&mut oracle.clone(), Side::Master, 0, acknowledged));
    assert!(!reads(&mut oracle.clone(), Side::Master, 0, original(0)));
    assert!(reads(&mut oracle.clone(), Side::Master, 1, original(1)));
    assert!(reads(&mut oracle, Side::Master, 1, open));
}

#[test]
fn an_image_holds_what_was_acknowledged_before_it_and_nothing_issued_after_it() {
    let mut oracle = oracle();
    let before = write(&mut oracle, 0);
    oracle.cut_begins(0, 0);
    oracle.cut_done(0, 1).unwrap();
    let after = write(&mut oracle, 0);
    assert!(!reads(&mut oracle, Side::Shadow(0), 0, original(0)));
    assert!(!reads(&mut oracle, Side::Shadow(0), 0, after));
    assert!(reads(&mut oracle, Side::Shadow(0), 0, before));
    assert!(reads(&mut oracle, Side::Shadow(0), 9, original(9)));
}

#[test]
fn an_image_is_of_one_instant() {
    let mut oracle = oracle();
    oracle.cut_begins(0, 0);
    let first = write(&mut oracle, 0);
    let second = write(&mut oracle, 1);
    oracle.cut_done(0, 1).unwrap();
    for (a, b, allowed) in
        [(original(0), original(1), true), (first, original(1), true), (first, second, true)]
    {
        let mut oracle = oracle.clone();
        assert!(reads(&mut oracle, Side::Shadow(0), 0, a));
        assert_eq!(reads(&mut oracle, Side::Shadow(0), 1, b), allowed);
    }
    assert!(reads(&mut oracle, Side::Shadow(0), 1, second));
    assert!(
        !reads(&mut oracle, Side::Shadow(0), 0, original(0)),
        "invariant 4: the second without the first"
    );
}

#[test]
fn an_image_survives_a_power_cut_that_the_master_does_not() {
    let mut oracle = oracle();
    let value = write(&mut oracle, 0);
    oracle.cut_begins(0, 0);
    oracle.cut_done(0, 1).unwrap();
    oracle.crash(true);
    oracle.recovered(0, 1, true).unwrap();
    assert!(!reads(&mut oracle.clone(), Side::Shadow(0), 0, original(0)));
    assert!(reads(&mut oracle, Side::Shadow(0), 0, value));
}

#[test]
fn after_a_crash_in_a_cut_the_epoch_says_which_image_there_is() {
    let mut oracle = oracle();
    oracle.cut_begins(0, 0);
    oracle.cut_done(0, 1).unwrap();
    let value = write(&mut oracle, 0);
    oracle.cut_begins(0, 0);
    oracle.crash(false);
    let mut old = oracle.clone();
    old.recovered(0, 1, true).unwrap();
    assert!(reads(&mut old, Side::Shadow(0), 0, original(0)));
    oracle.recovered(0, 2, true).unwrap();
    assert!(!reads(&mut oracle, Side::Shadow(0), 0, original(0)));
    assert!(reads(&mut oracle, Side::Shadow(0), 0, value));
    assert!(oracle.recovered(0, 1, true).is_err(), "epochs do not go back");
}

#[test]
fn lost_is_lost_until_the_next_image() {
    let mut oracle = oracle();
    oracle.cut_begins(0, 0);
    oracle.cut_done(0, 1).unwrap();
    oracle.lost(0, 0, 8);
    assert!(!reads(&mut oracle, Side::Shadow(0), 0, original(0)));
    oracle.cut_begins(0, 0);
    oracle.cut_done(0, 2).unwrap();
    assert!(reads(&mut oracle, Side::Shadow(0), 0, original(0)));
}

#[test]
fn each_sibling_has_an_image_of_its_own() {
    let mut oracle = oracle();
    oracle.cut_begins(0, 0);
    oracle.cut_done(0, 1).unwrap();
    let between = write(&mut oracle, 0);
    oracle.cut_begins(1, 0);
    oracle.cut_done(1, 1).unwrap();
    let values = oracle.fresh_values(1);
    let now = oracle.now();
    oracle.volume(Side::Shadow(1)).expect("just cut").issue(0, 3, &values, false, now);
    let now = oracle.now();
    oracle.volume(Side::Shadow(1)).expect("just cut").end(0, true, now);
    for (side, first, value) in [
        (Side::Shadow(0), 0, original(0)),
        (Side::Shadow(1), 0, between),
        (Side::Shadow(0), 3, original(3)),
        (Side::Shadow(1), 3, values[0]),
        (Side::Master, 3, original(3)),
    ] {
        assert!(reads(&mut oracle.clone(), side, first, value), "{side:?} {first}");
    }
    assert!(!reads(&mut oracle.clone(), Side::Shadow(0), 0, between));
    assert!(!reads(&mut oracle.clone(), Side::Shadow(1), 0, original(0)));
    assert!(!reads(&mut oracle.clone(), Side::Shadow(0), 3, values[0]));
    oracle.lost(0, 0, 8);
    oracle.forget_image(0);
    assert!(reads(&mut oracle, Side::Shadow(1), 0, between), "what becomes of one is nothing to the other");
}

#[test]
fn a_crash_in_the_cuts_of_two_siblings_leaves_each_on_a_side_of_its_own() {
    let mut oracle = oracle();
    let value = write(&mut oracle, 0);
    oracle.cut_begins(0, 0);
    oracle.cut_begins(1, 0);
    oracle.crash(true);
    oracle.recovered(0, 1, true).unwrap();
    oracle.recovered(1, 0, true).unwrap();
    assert!(oracle.image(1).is_none(), "its cut has not happened");
    assert!(reads(&mut oracle, Side::Shadow(0), 0, value));
}

#[test]
fn a_discard_leaves_anything_but_always_the_same() {
    let mut oracle = oracle();
    let values = oracle.master.unknown_values(1);
    let now = oracle.now();
    oracle.master.issue(0, 0, &values, false, now);
    end(&mut oracle, 0, true);
    assert!(reads(&mut oracle.clone(), Side::Master, 0, original(0)));
    assert!(reads(&mut oracle, Side::Master, 0, 0));
    assert!(!reads(&mut oracle, Side::Master, 0, original(0)));
}

#[test]
fn a_read_in_flight_may_still_return_what_was_durably_overwritten_meanwhile() {
    let mut oracle = Oracle::new(true, &[true]);
    let older = write(&mut oracle, 0);
    let from = oracle.now();
    oracle.master.look(from);
    let newer = write(&mut oracle, 0);
    let newest = write(&mut oracle, 0);
    for seen in [older, newer, newest] {
        assert!(oracle.clone().read(Side::Master, 0, &[Some(seen)], from).is_ok());
    }
    assert!(oracle.read(Side::Master, 0, &[Some(original(0))], from).is_err());
}

#[test]
fn what_overwrites_a_discard_says_nothing_about_what_it_left() {
    let mut oracle = oracle();
    let values = oracle.master.unknown_values(1);
    let now = oracle.now();
    oracle.master.issue(0, 0, &values, false, now);
    end(&mut oracle, 0, true);
    let value = write(&mut oracle, 0);
    assert!(reads(&mut oracle, Side::Master, 0, value));
    oracle.crash(true);
    assert!(reads(&mut oracle, Side::Master, 0, 0), "the power cut lost the write, not the discard");
}

#[test]
fn a_discard_beside_a_write_may_have_left_what_was_there_before_both() {
    let mut oracle = oracle();
    let values = oracle.master.unknown_values(1);
    let now = oracle.now();
    oracle.master.issue(1, 0, &values, false, now);
    let value = issue(&mut oracle, 2, 0, false);
    end(&mut oracle, 1, true);
    flush(&mut oracle);
    end(&mut oracle, 2, true);
    assert!(reads(&mut oracle, Side::Master, 0, value));
    oracle.crash(true);
    assert!(reads(&mut oracle, Side::Master, 0, original(0)));
}

#[test]
fn a_failed_fua_write_that_is_seen_is_not_durable_for_that() {
    let mut oracle = oracle();
    let value = issue(&mut oracle, 0, 0, true);
    end(&mut oracle, 0, false);
    assert!(reads(&mut oracle, Side::Master, 0, value));
    oracle.crash(true);
    assert!(reads(&mut oracle, Side::Master, 0, original(0)));
}

/// How the device of the canary lies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    None,
    LosesWrites,
    TearsASector,
    WritesIntoTheImage,
    ForgetsWhatWasFlushed,
}

/// A device without any engine, honest or not, under a small random workload.
fn canary(seed: u64, lie: Lie) -> Verdict {
    let mut rng = umbra_store::SimRng::new(seed);
    let mut oracle = oracle();
    let mut device: Vec<Value> = (0..16).map(original).collect();
    oracle.cut_begins(0, 0);
    let mut image = device.clone();
    oracle.cut_done(0, 1)?;
    let mut durable = device.clone();
    for step in 0..60 {
        let first = rng.below(16);
        let at = usize::try_from(first).expect("small");
        match rng.below(4) {
            0 | 1 => {
                let value = write(&mut oracle, first);
                if lie != Lie::LosesWrites || step < 50 {
                    device[at] = value;
                }
                if lie == Lie::WritesIntoTheImage && step > 30 {
                    image[at] = value;
                }
            }
            2 => {
                flush(&mut oracle);
                durable.clone_from(&device);
            }
            _ => {
                let from = oracle.now();
                oracle.read(Side::Master, first, &[Some(device[at])], from)?;
                oracle.read(Side::Shadow(0), first, &[Some(image[at])], from)?;
            }
        }
    }
    flush(&mut oracle);
    if lie != Lie::ForgetsWhatWasFlushed {
        durable.clone_from(&device);
    }
    oracle.crash(true);
    for (first, (mine, old)) in (0..).zip(durable.iter().zip(&image)) {
        let from = oracle.now();
        let torn = lie == Lie::TearsASector && first == 5;
        oracle.read(Side::Master, first, &[(!torn).then_some(*mine)], from)?;
        oracle.read(Side::Shadow(0), first, &[Some(*old)], from)?;
    }
    Ok(())
}

#[test]
fn a_device_that_lies_is_caught_and_an_honest_one_is_not() {
    let caught = |lie| (0..50).filter(|seed| canary(*seed, lie).is_err()).count();
    assert_eq!(caught(Lie::None), 0);
    for lie in [Lie::LosesWrites, Lie::TearsASector, Lie::WritesIntoTheImage, Lie::ForgetsWhatWasFlushed] {
        // Not every workload does what the lie is about.
        assert!(caught(lie) >= 25, "{lie:?}: {}", caught(lie));
    }
}
