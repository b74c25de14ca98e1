//! Ports on threads of their own, an owner on another, and every order of what they do to the shared maps (F1, F2).
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p umbra-engine --lib shared::model`, which `cargo xtask test` does.
//! Loom runs each model again and again until it has seen every interleaving with a bounded number of preemptions,
//! and every value that a load may return by the memory model.
//!
//! The ports and the maps are the real ones. The owner is a model of the rules, an order of steps that fits on a page:
//! that the real one keeps this order is what the simulator and its mutants check. Each model has twins that break one
//! rule and must fail.
//!
//! A device is one atomic word per chunk. What was done before an operation was submitted is seen by whoever sees its
//! effect complete, as with a real device: a store releases, a load acquires. Everything else has to follow from the
//! maps and the messages.

mod stage;

use crate::action::Side;
use crate::bits::{AtomicBits, AtomicU64, Weak, point, weaken};
use loom::thread;
use stage::{BROKEN, Fault, NEW, OLD, Owner, SET, Shell, World, play};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A chunk is copied while a writer and a reader of the shadow come by.
fn first_write(fault: Option<Fault>) {
    play(
        move || World::new(OLD, 0, false, fault),
        &[|port| port.write(0), |port| port.assert_reads(Side::Shadow(SET), 0, &[OLD])],
        |owner| owner.copy(0),
    );
}

#[test]
fn a_write_passes_behind_its_copy_and_readers_see_the_old_data() {
    first_write(None);
}

#[test]
#[should_panic(expected = "invariant 2")]
fn bits_that_are_published_before_the_record_are_noticed() {
    first_write(Some(Fault::PublishBeforeRecord));
}

#[test]
#[should_panic(expected = "a read through Shadow")]
fn a_write_that_passes_before_readers_are_sent_to_the_copy_is_noticed() {
    first_write(Some(Fault::PassBeforeHeld));
}

#[test]
#[should_panic(expected = "a read through Shadow")]
fn relaxed_changes_of_the_bits_are_noticed() {
    weaken(Some(Weak::Changes));
    first_write(None);
}

#[test]
#[should_panic(expected = "a read through Shadow")]
fn relaxed_reads_of_the_bits_are_noticed() {
    weaken(Some(Weak::Reads));
    first_write(None);
}

/// A chunk is given back to the master beside what the ports do.
fn restore(ports: &'static [fn(&mut Shell)], fault: Option<Fault>) {
    play(
        move || {
            let world = World::new(BROKEN, OLD, true, fault);
            world.maps.wpass.fill(false);
            world.maps.pending.fill(true);
            world.maps.set_restored_from(Some(SET));
            world
        },
        ports,
        |owner| owner.restore(0),
    );
}

const READERS: &[fn(&mut Shell)] = &[
    |port| port.assert_reads(Side::Master, 0, &[OLD]),
    |port| port.assert_reads(Side::Shadow(SET), 0, &[OLD]),
];

#[test]
fn both_sides_read_what_is_restored() {
    restore(READERS, None);
}

#[test]
fn what_is_restored_can_be_read_while_it_is_written() {
    restore(&[|port| port.assert_reads(Side::Master, 0, &[OLD, NEW]), |port| port.write(0)], None);
}

/// The shadow's route changes twice, to the master and back to a copy: a port that looked twice for one answer made
/// reads of no bytes of it.
#[test]
fn what_is_restored_can_be_written_while_both_sides_read_it() {
    restore(
        &[
            |port| {
                port.assert_reads(Side::Master, 0, &[OLD]);
                port.write(0);
            },
            |port| port.assert_reads(Side::Shadow(SET), 0, &[OLD]),
        ],
        None,
    );
}

#[test]
#[should_panic(expected = "a read through")]
fn a_chunk_that_is_given_back_before_it_is_written_is_noticed() {
    restore(READERS, Some(Fault::ClearBeforeWritten));
}

#[test]
#[should_panic(expected = "a read through")]
fn a_chunk_that_is_given_back_by_a_relaxed_change_is_noticed() {
    weaken(Some(Weak::Changes));
    restore(READERS, None);
}

/// A cut, while two ports write to chunks that needed nothing until then.
fn cut(fault: Option<Fault>) {
    play(
        move || World::new(OLD, OLD, true, fault),
        &[|port| port.write(0), |port| port.write(1)],
        Owner::cut,
    );
}

#[test]
fn a_gate_separates_what_was_written_before_from_what_comes_after() {
    cut(None);
}

#[test]
#[should_panic(expected = "invariant ")]
fn a_flip_that_nobody_acknowledged_is_noticed() {
    cut(Some(Fault::FlipUnacknowledged));
}

#[test]
#[should_panic(expected = "invariant ")]
fn a_port_that_acknowledges_what_it_has_not_drained_is_noticed() {
    cut(Some(Fault::AcknowledgeUndrained));
}

/// Two threads mark bits of one word.
fn mark(mark: fn(&AtomicBits, u64)) {
    loom::model(move || {
        point();
        let bits = Arc::new(AtomicBits::new(2, false));
        let other = Arc::clone(&bits);
        let thread = thread::spawn(move || mark(&other, 1));
        mark(&bits, 0);
        thread.join().expect("marking does not panic");
        assert_eq!(bits.word(0), 0b11, "a mark is lost");
    });
}

#[test]
fn marks_of_several_ports_in_one_word_all_count() {
    mark(AtomicBits::set);
}

#[test]
#[should_panic(expected = "a mark is lost")]
fn a_mark_that_overwrites_its_neighbours_is_noticed() {
    mark(|bits, bit| bits.set_word(0, bits.word(0) | 1 << bit));
}

/// However bits are published, whoever sees one sees what was done before; and what was taken back, too.
fn publish(publish: fn(&AtomicBits)) {
    loom::model(move || {
        point();
        let shared = Arc::new((AtomicBits::new(2, false), AtomicU64::new(0)));
        let other = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            other.1.store(1, Relaxed);
            publish(&other.0);
        });
        if shared.0.get(0) {
            assert_eq!(shared.1.load(Relaxed), 1, "a bit is seen without what it stands for");
        }
        thread.join().expect("publishing does not panic");
    });
}

#[test]
fn every_way_to_publish_a_bit_publishes_what_it_stands_for() {
    publish(|bits| bits.set(0));
    publish(|bits| bits.set_word(0, 1));
    publish(|bits| bits.fill(true));
    publish(|bits| {
        bits.set(0);
        bits.clear(1);
    });
}

#[test]
#[should_panic(expected = "a bit is seen without")]
fn a_word_that_is_published_by_a_relaxed_store_is_noticed() {
    weaken(Some(Weak::Changes));
    publish(|bits| bits.set_word(0, 1));
}
