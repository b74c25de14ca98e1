//! What is refused, and what is mounted how.

use super::{process, reason};
use crate::mode::AccessMode;
use crate::record::{Pod, SEAL_LASTS};
use crate::request::Access;
use crate::testing::{Memory, State, Upon, directory, leave, master, path, publish, shadow, stage};
use crate::volume::Volume;
use std::sync::Arc;
use umbra_identity::DeviceNumber;
use umbra_platform::id::RequestId;

fn machine(volumes: &[(&Volume, &[&str])]) -> Arc<Memory> {
    let memory = Memory::new(State::default());
    for (minor, (volume, kinds)) in (0..).zip(volumes) {
        memory.with_device(volume, minor, kinds);
    }
    memory
}

fn mounted(memory: &Memory, at: &str) -> Option<(bool, Vec<String>)> {
    let mount = memory.state().mounts.get(&path(at))?.last()?.clone();
    Some((mount.read_only, mount.options))
}

#[test]
fn what_lies_on_the_device_decides_whether_and_how_it_is_mounted() {
    let (of_master, of_shadow) = (master(7), shadow(7));
    let nothing: &[&str] = &[];
    /// The volume, what lies there, the type that is asked for, the outcome, and the options of the mount.
    type Case<'a> = (&'a Volume, &'a [&'a str], Option<&'a str>, &'a str, &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (&of_master, &[], None, "NOT_MOUNTABLE", nothing),
        (&of_master, &["unknown"], None, "NOT_MOUNTABLE", nothing),
        (&of_master, &["swap"], None, "NOT_MOUNTABLE", nothing),
        (&of_master, &["crypto_luks"], None, "NOT_MOUNTABLE", nothing),
        (&of_master, &["lvm2_member"], None, "NOT_MOUNTABLE", nothing),
        (&of_master, &["umbra-bitmap"], None, "NOT_MOUNTABLE", nothing),
        (&of_master, &["gpt"], None, "NOT_MOUNTABLE", nothing),
        (&of_master, &["ext4", "xfs"], None, "NOT_MOUNTABLE", nothing),
        (&of_master, &["ext4"], None, "OK", nothing),
        (&of_master, &["dos", "ext4", "gpt"], Some("ext4"), "OK", nothing),
        (&of_master, &["ext3"], Some("ext4"), "OK", nothing),
        (&of_master, &["ext4"], Some("xfs"), "OTHER_FILE_SYSTEM", nothing),
        (&of_master, &["xfs"], Some("ext4"), "OTHER_FILE_SYSTEM", nothing),
        (&of_master, &["xfs"], None, "OK", nothing),
        (&of_master, &["btrfs"], None, "OK", nothing),
        (&of_shadow, &["ext4"], None, "OK", nothing),
        (&of_shadow, &["xfs"], Some("xfs"), "OK", &["nouuid"]),
        (&of_shadow, &["btrfs"], None, "TWIN", nothing),
        (&of_shadow, &["lvm2_member"], None, "TWIN", nothing),
        (&of_shadow, &["linux_raid_member"], None, "TWIN", nothing),
        (&of_shadow, &[], None, "NOT_MOUNTABLE", nothing),
    ];
    for (volume, kinds, wanted, outcome, options) in cases {
        let memory = machine(&[(volume, kinds)]);
        let kind = wanted.map(str::to_owned);
        let ask = stage(volume, Access::FileSystem { kind, options: Vec::new() });
        let done = process(&memory).0.stage(&ask, volume);
        assert_eq!(reason(&done), *outcome, "{kinds:?} {wanted:?}: {done:?}");
        match done {
            Ok(()) => {
                let is_shadow = volume.twin.is_some();
                let options = options.iter().map(|option| (*option).to_owned()).collect();
                assert_eq!(mounted(&memory, "/stage/7"), Some((is_shadow, options)), "{kinds:?}");
            }
            Err(refusal) => {
                let said = refusal.to_string();
                assert!(kinds.iter().all(|kind| said.contains(kind)), "{kinds:?} are not named: {said}");
                assert_eq!(memory.state(), State::default(), "a refusal changes nothing");
            }
        }
    }
}

#[test]
fn an_empty_device_is_said_to_be_empty() {
    let volume = master(7);
    let refusal = process(&machine(&[(&volume, &[])])).0.stage(&stage(&volume, directory()), &volume);
    let said = refusal.expect_err("never formatted");
    assert!(
        said.to_string().contains("empty") && said.remedy().contains("nothing is ever formatted"),
        "{said}"
    );
}

#[test]
fn a_device_is_given_as_it_is_unless_it_is_a_twin() {
    for (volume, kinds, outcome) in [
        (master(7), &[][..], "OK"),
        (master(7), &["lvm2_member"], "OK"),
        (shadow(7), &["ext4"], "OK"),
        (shadow(7), &[], "OK"),
        (shadow(7), &["lvm2_member"], "TWIN"),
        (shadow(7), &["zfs_member"], "TWIN"),
    ] {
        let memory = machine(&[(&volume, kinds)]);
        let done = process(&memory).0.stage(&stage(&volume, Access::Block), &volume);
        assert_eq!(reason(&done), outcome, "{kinds:?}");
        assert!(memory.state().mounts.is_empty());
    }
}

#[test]
fn modes_that_cannot_be_kept_are_refused() {
    use AccessMode as Mode;
    let cases = [
        (Mode::SingleNodeWriter, "OK", "OK"),
        (Mode::SingleNodeReaderOnly, "OK", "OK"),
        (Mode::SingleNodeSingleWriter, "OK", "OK"),
        (Mode::SingleNodeMultiWriter, "OK", "OK"),
        (Mode::MultiNodeReaderOnly, "MODE_NOT_POSSIBLE", "OK"),
        (Mode::MultiNodeSingleWriter, "MODE_NOT_POSSIBLE", "MODE_NOT_POSSIBLE"),
        (Mode::MultiNodeMultiWriter, "MODE_NOT_POSSIBLE", "MODE_NOT_POSSIBLE"),
    ];
    for (mode, of_master, of_shadow) in cases {
        for (volume, outcome) in [(master(7), of_master), (shadow(7), of_shadow)] {
            let memory = machine(&[(&volume, &["ext4"])]);
            let mut ask = stage(&volume, directory());
            ask.mode = mode;
            let (volumes, _) = process(&memory);
            assert_eq!(reason(&volumes.stage(&ask, &volume)), outcome, "{mode} {}", volume.handle);
            if outcome == "OK" {
                volumes.publish(&publish(&ask, "/pod"), &volume).expect("published");
                let only_reads = mode.only_reads() || volume.twin.is_some();
                assert_eq!(mounted(&memory, "/pod").map(|mount| mount.0), Some(only_reads), "{mode}");
            }
        }
    }
}

#[test]
fn a_shadow_is_written_only_where_its_set_says_so() {
    let volume = shadow(7);
    for is_writable in [false, true] {
        for access in [directory(), Access::Block] {
            let memory = machine(&[(&volume, &["ext4"])]);
            let (volumes, _) = process(&memory);
            let mut ask = stage(&volume, access.clone());
            ask.is_writable_shadow = is_writable;
            volumes.stage(&ask, &volume).expect("staged");
            let done = volumes.publish(&publish(&ask, "/pod"), &volume);
            let outcome = if access == Access::Block && !is_writable { "READ_ONLY_SHADOW" } else { "OK" };
            assert_eq!(reason(&done), outcome, "{access:?} {is_writable}");
            let mut reader = publish(&ask, "/reader");
            reader.is_read_only = true;
            volumes.publish(&reader, &volume).expect("reading is allowed");
            assert_eq!(mounted(&memory, "/reader").map(|mount| mount.0), Some(true));
            if outcome == "OK" {
                assert_eq!(mounted(&memory, "/pod").map(|mount| mount.0), Some(!is_writable));
            }
        }
    }
}

#[test]
fn what_is_there_in_another_way_is_said() {
    let (volume, other) = (master(7), master(8));
    let memory = machine(&[(&volume, &["ext4"]), (&other, &["ext4"])]);
    let (volumes, _) = process(&memory);
    let ask = stage(&volume, directory());
    let early = publish(&ask, "/pod");
    assert_eq!(reason(&volumes.publish(&early, &volume)), "NOT_STAGED");
    volumes.stage(&ask, &volume).expect("staged");
    volumes.stage(&ask, &volume).expect("again");
    let before = memory.state();

    let reading = crate::request::Stage { mode: AccessMode::SingleNodeReaderOnly, ..ask.clone() };
    assert_eq!(reason(&volumes.stage(&reading, &volume)), "STAGED_DIFFERENTLY");
    let as_device = stage(&volume, Access::Block);
    assert_eq!(reason(&volumes.stage(&as_device, &volume)), "STAGED_DIFFERENTLY");
    let elsewhere = crate::request::Stage { at: path("/elsewhere"), ..ask.clone() };
    assert_eq!(reason(&volumes.stage(&elsewhere, &volume)), "STAGED_ELSEWHERE");
    assert_eq!(reason(&volumes.publish(&publish(&elsewhere, "/pod"), &volume)), "NOT_STAGED");
    assert_eq!(reason(&volumes.publish(&publish(&as_device, "/pod"), &volume)), "BAD_REQUEST");
    let over_it = crate::request::Stage { at: path("/stage/7"), ..stage(&other, directory()) };
    assert_eq!(reason(&volumes.stage(&over_it, &other)), "OCCUPIED");
    assert_eq!(memory.state(), before, "refusals change nothing");

    let pod = Pod { namespace: "prod".into(), name: "pg-0".into(), uid: "1".into() };
    let ask = crate::request::Publish { pod: Some(pod.clone()), ..publish(&ask, "/pod") };
    volumes.publish(&ask, &volume).expect("published");
    volumes.publish(&ask, &volume).expect("again");
    let reading = crate::request::Publish { is_read_only: true, ..ask.clone() };
    assert_eq!(reason(&volumes.publish(&reading, &volume)), "PUBLISHED_DIFFERENTLY");
    assert_eq!(reason(&volumes.unstage(&leave(&volume, &path("/stage/7")))), "STILL_PUBLISHED");
    // Another volume is not left by a call that names this one's place.
    volumes.unpublish(&leave(&other, &path("/pod"))).expect("it is not there");
    let in_use = process(&memory).1.in_use(volume.handle).expect("known");
    assert_eq!(in_use.published.iter().map(|entry| entry.pod.as_ref()).collect::<Vec<_>>(), [Some(&pod)]);
    assert!(mounted(&memory, "/pod").is_some() && in_use.staged.is_some() && !in_use.is_free());
    volumes.usage(volume.handle, &path("/pod")).expect("it is there");
    let nowhere = volumes.usage(volume.handle, &path("/elsewhere")).map(drop);
    assert_eq!(reason(&nowhere), "NOT_THERE");
    let anothers = volumes.usage(other.handle, &path("/pod")).map(drop);
    assert_eq!(reason(&anothers), "NOT_THERE");
}

#[test]
fn one_writer_is_one() {
    use AccessMode as Mode;
    let volume = master(7);
    for (first, second, outcome) in [
        (Mode::SingleNodeSingleWriter, Mode::SingleNodeSingleWriter, "PUBLISHED_ELSEWHERE"),
        (Mode::SingleNodeSingleWriter, Mode::SingleNodeWriter, "PUBLISHED_ELSEWHERE"),
        (Mode::SingleNodeWriter, Mode::SingleNodeSingleWriter, "PUBLISHED_ELSEWHERE"),
        (Mode::SingleNodeWriter, Mode::SingleNodeWriter, "OK"),
        (Mode::SingleNodeMultiWriter, Mode::SingleNodeMultiWriter, "OK"),
    ] {
        let memory = machine(&[(&volume, &["ext4"])]);
        let (volumes, _) = process(&memory);
        let mut ask = stage(&volume, directory());
        ask.mode = first;
        volumes.stage(&ask, &volume).expect("staged");
        volumes.publish(&publish(&ask, "/first"), &volume).expect("published");
        ask.mode = second;
        let done = volumes.publish(&publish(&ask, "/second"), &volume);
        assert_eq!(reason(&done), outcome, "{first} {second}");
        volumes.unpublish(&leave(&volume, &path("/first"))).expect("left");
        volumes.publish(&publish(&ask, "/second"), &volume).expect("the first has gone");
    }
}

#[test]
fn a_seal_keeps_users_out_until_it_is_opened_or_ends() {
    let volume = master(7);
    let memory = machine(&[(&volume, &["ext4"])]);
    let (volumes, ledger) = process(&memory);
    let ask = stage(&volume, directory());
    let (owner, stranger) = (RequestId::random(), RequestId::random());
    let sealed = |done| {
        assert_eq!(reason(&done), "SEALED");
        let said = done.expect_err("sealed").to_string();
        assert!(said.contains(&owner.to_string()), "the owner is named: {said}");
    };
    ledger.unseal(volume.handle, owner).expect("it is open");
    ledger.seal(volume.handle, owner).expect("sealed");
    sealed(volumes.stage(&ask, &volume));
    sealed(volumes.publish(&publish(&ask, "/pod"), &volume));
    sealed(ledger.seal(volume.handle, stranger));
    sealed(ledger.unseal(volume.handle, stranger));
    // Another process of the same start of the machine.
    let (volumes, ledger) = process(&memory);
    sealed(volumes.stage(&ask, &volume));
    ledger.unseal(volume.handle, owner).expect("opened");
    volumes.stage(&ask, &volume).expect("staged");
    ledger.seal(volume.handle, owner).expect("it may be staged: that is for others to look at");
    volumes.unstage(&leave(&volume, &ask.at)).expect("leaving is never kept out");
    memory.change(|state| state.uptime += SEAL_LASTS.as_secs() - 1);
    ledger.seal(volume.handle, owner).expect("it lasts from now");
    memory.change(|state| state.uptime += SEAL_LASTS.as_secs() - 1);
    sealed(volumes.stage(&ask, &volume));
    memory.change(|state| state.uptime += 1);
    volumes.stage(&ask, &volume).expect("it has ended");
    ledger.seal(volume.handle, stranger).expect("it has ended");
    ledger.unseal(volume.handle, stranger).expect("opened");
}

#[test]
fn a_seal_outlives_the_machine() {
    let volume = master(7);
    let memory = machine(&[(&volume, &["ext4"])]);
    process(&memory).1.seal(volume.handle, RequestId::random()).expect("sealed");
    memory.change(State::reboot);
    let (volumes, _) = process(&memory);
    let ask = stage(&volume, directory());
    assert_eq!(reason(&volumes.stage(&ask, &volume)), "SEALED");
    memory.change(|state| state.uptime += SEAL_LASTS.as_secs());
    volumes.stage(&ask, &volume).expect("it has ended");
}

#[test]
fn calls_for_one_volume_come_one_after_the_other() {
    let volume = master(7);
    let memory = machine(&[(&volume, &["ext4"])]);
    let (volumes, ledger) = process(&memory);
    let turn = ledger.turn(volume.handle).expect("the first");
    assert_eq!(reason(&volumes.stage(&stage(&volume, directory()), &volume)), "BUSY");
    assert_eq!(reason(&ledger.seal(volume.handle, RequestId::random())), "BUSY");
    ledger.turn(master(8).handle).expect("another volume");
    drop(turn);
    volumes.stage(&stage(&volume, directory()), &volume).expect("staged");
}

/// What a pod of before left there, or somebody put there.
#[test]
fn what_is_in_the_way_is_taken_away_only_if_it_is_empty_and_ours() {
    let volume = master(7);
    let foreign = Upon {
        device: DeviceNumber { major: 8, minor: 1 },
        is_device_node: false,
        read_only: false,
        options: Vec::new(),
    };
    for (access, stale) in
        [(directory(), false), (directory(), true), (Access::Block, true), (Access::Block, false)]
    {
        let memory = machine(&[(&volume, &["ext4"])]);
        memory.change(|state| {
            state.nodes.insert(path("/stage/7"), true);
            state.nodes.insert(path("/pod"), stale);
        });
        let (volumes, _) = process(&memory);
        let ask = stage(&volume, access.clone());
        volumes.stage(&ask, &volume).expect("staged in a directory of before");
        volumes.publish(&publish(&ask, "/pod"), &volume).expect("published");
        assert!(mounted(&memory, "/pod").is_some(), "{access:?}");
        memory.change(|state| {
            state.nodes.insert(path("/taken"), access != Access::Block);
            state.mounts.insert(path("/taken"), vec![foreign.clone()]);
        });
        assert_eq!(reason(&volumes.publish(&publish(&ask, "/taken"), &volume)), "OCCUPIED");
        assert_eq!(memory.state().mounts[&path("/taken")], std::slice::from_ref(&foreign));
    }
}

/// The state directory was lost, and the mounts are there.
#[test]
fn mounts_without_a_ledger_are_found_and_can_be_left() {
    let volume = master(7);
    let memory = machine(&[(&volume, &["ext4"])]);
    let (volumes, _) = process(&memory);
    let ask = stage(&volume, directory());
    volumes.stage(&ask, &volume).expect("staged");
    volumes.publish(&publish(&ask, "/pod"), &volume).expect("published");
    memory.change(|state| state.records.clear());
    let (volumes, ledger) = process(&memory);
    volumes.publish(&publish(&ask, "/second"), &volume).expect("it is staged");
    assert!(ledger.in_use(volume.handle).expect("known").staged.is_some());
    for at in ["/pod", "/second"] {
        volumes.unpublish(&leave(&volume, &path(at))).expect("left");
    }
    volumes.unstage(&leave(&volume, &ask.at)).expect("left");
    let state = memory.state();
    assert!(state.mounts.is_empty() && state.records.is_empty(), "{state:?}");
}

#[test]
fn a_kernel_that_refuses_leaves_nobody_in_the_ledger() {
    let volume = master(7);
    for access in [directory(), Access::Block] {
        let memory = machine(&[(&volume, &["ext4"])]);
        let (volumes, _) = process(&memory);
        let ask = stage(&volume, access);
        for effect in 0..8 {
            memory.refuse(effect);
            let refused = volumes.stage(&ask, &volume).is_err();
            memory.revive();
            if !refused {
                break;
            }
            assert_eq!(memory.state().records.len() + memory.state().mounts.len(), 0, "effect {effect}");
        }
        let staged = memory.state();
        let mut ask = publish(&ask, "/pod");
        ask.is_read_only = true;
        for effect in 0..8 {
            memory.refuse(effect);
            if volumes.publish(&ask, &volume).is_ok() {
                break;
            }
            let state = memory.state();
            assert_eq!((state.records, state.mounts), (staged.records.clone(), staged.mounts.clone()));
        }
        assert_eq!(mounted(&memory, "/pod").map(|mount| mount.0), Some(true));
    }
}
