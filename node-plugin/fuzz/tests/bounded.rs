//! Some hundred cases of each target; `umbra-fuzz` runs more of them.

use umbra_fuzz::TARGETS;

/// Runs the first cases of a target. Of what is made up some is accepted and some refused: else it is too tame, or too wild.
fn run(name: &str, cases: u64, accepted: std::ops::Range<u64>) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    let count = (0..cases).filter(|seed| target.run(&target.case(*seed))).count();
    let count = u64::try_from(count).expect("few");
    assert!(accepted.contains(&count), "{count} of {cases} cases of {name} were accepted");
}

#[test]
fn forged_volumes_are_refused_or_read() {
    run("recover", 1000, 300..900);
}

#[test]
fn forged_blocks_are_refused_or_read() {
    run("decode", 4000, 1..3999);
}

#[test]
fn any_device_is_described() {
    run("content", 500, 100..480);
}

#[test]
fn records_that_were_edited_are_refused_or_read() {
    run("state", 1000, 200..900);
}

#[test]
fn a_ledger_that_was_edited_is_refused_or_read() {
    run("ledger", 200, 40..180);
}

#[test]
fn messages_are_refused_or_taken() {
    run("calls", 4000, 800..3600);
}

#[test]
fn calls_of_the_kubelet_are_refused_or_taken() {
    run("kubelet", 1000, 200..900);
}

#[test]
fn a_machine_that_talks_nonsense_is_looked_at() {
    run("kernel", 200, 20..190);
}

#[test]
fn bytes_of_any_length_are_a_case() {
    for target in TARGETS {
        for data in [&[][..], &[0xff; 1000]] {
            target.run(data);
        }
    }
}
