use super::*;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

fn opened() -> (TempDir, StateDir) {
    let home = tempfile::tempdir().unwrap();
    let state = StateDir::open(&home.path().join("a/state")).unwrap();
    (home, state)
}

fn set_record() -> SetRecord {
    SetRecord {
        id: Uuid::from_u128(77),
        index: 3,
        cluster: String::new(),
        namespace: "default".to_owned(),
        name: "nightly".to_owned(),
        independent: false,
        shadow: PathBuf::from("/dev/vdc"),
        bitmap: PathBuf::from("/dev/vdd"),
        chunk_bytes: 65_536,
        shadow_ublk_id: 4,
        shadow_deadline_ms: 5_000,
        bitmap_deadline_ms: 5_000,
        unrecordable_ms: 5_000,
        fail_write: true,
        protected: false,
        copy_limits: CopyLimitsRecord { bytes_per_second: Some(1 << 40), in_flight: 4 },
        restoring: None,
    }
}

fn master_record(name: &str, id: u128) -> MasterRecord {
    MasterRecord {
        id: Uuid::from_u128(id),
        name: name.to_owned(),
        device: PathBuf::from("/dev/vdb"),
        identity: Some("serial:x y".to_owned()),
        size: u64::MAX,
        logical_block: 512,
        physical_block: 4096,
        ublk_id: u32::MAX,
        queue_depth: 128,
        fingerprint: None,
        clean: false,
        sets: vec![set_record()],
    }
}

fn note(set: Id128, epoch: u64) -> EndNote {
    EndNote { set, epoch: Epoch(epoch), cause: OfflineCause::Bitmap, master_incomplete: false }
}

#[test]
fn masters_come_back_after_a_restart_by_name_until_they_are_removed() {
    let (_home, state) = opened();
    let (a, mut b) = (master_record("a", 2), master_record("b", 1));
    state.save_master(&b).unwrap();
    state.save_master(&a).unwrap();
    b.clean = true;
    state.save_master(&b).unwrap();
    let root = state.root.clone();
    drop(state);
    let state = StateDir::open(&root).unwrap();
    assert_eq!(state.masters().unwrap(), [a.clone(), b]);
    state.remove_master(a.id).unwrap();
    state.remove_master(a.id).unwrap();
    assert_eq!(state.masters().unwrap().len(), 1);
}

#[test]
fn the_directory_is_private_has_one_user_and_one_node_id() {
    let (_home, state) = opened();
    let (root, node) = (state.root.clone(), state.node_id());
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    assert_ne!(node, [0; 16]);
    let refused = StateDir::open(&root).unwrap_err();
    assert!(matches!(&refused, StateDirError::InUse(path) if *path == root), "{refused}");
    assert!(refused.to_string().contains("stop that one"), "{refused}");
    drop(state);
    assert_eq!(StateDir::open(&root).unwrap().node_id(), node);
}

#[test]
fn a_node_id_that_is_none_is_refused_and_not_replaced() {
    let (_home, state) = opened();
    let root = state.root.clone();
    drop(state);
    for text in ["", "12", "zzzzzzzz-0000-0000-0000-000000000000", "\u{fffd}"] {
        fs::write(root.join("node-id"), text).unwrap();
        let refused = StateDir::open(&root).unwrap_err().to_string();
        assert!(refused.contains("node-id") && refused.contains("put back a copy"), "{refused}");
        assert_eq!(fs::read_to_string(root.join("node-id")).unwrap(), text);
    }
}

#[test]
fn an_end_never_goes_back_and_is_forgotten_when_told() {
    let (_home, state) = opened();
    let set = Id128([7; 16]);
    assert_eq!(state.ended(set).unwrap(), None);
    for (epoch, expected) in [(4, 4), (2, 4), (9, 9), (u64::MAX, u64::MAX)] {
        state.record_end(&note(set, epoch)).unwrap();
        assert_eq!(state.ended(set).unwrap().map(|ended| ended.epoch), Some(Epoch(expected)));
    }
    assert_eq!(state.ended(Id128([8; 16])).unwrap(), None);
    state.forget_end(set, Epoch(10)).unwrap();
    state.forget_end(set, Epoch(10)).unwrap();
    assert_eq!(state.ended(set).unwrap(), None);
}

#[test]
fn the_end_of_the_present_image_is_not_forgotten_with_those_before() {
    let (_home, state) = opened();
    let set = Id128([7; 16]);
    let incomplete = EndNote { master_incomplete: true, ..note(set, 6) };
    state.record_end(&incomplete).unwrap();
    state.forget_end(set, Epoch(6)).unwrap();
    assert_eq!(state.ended(set).unwrap(), Some(Ended { epoch: Epoch(6), master_incomplete: true }));
    state.forget_end(set, Epoch(7)).unwrap();
    assert_eq!(state.ended(set).unwrap(), None);
}

#[test]
fn records_from_before_restores_say_that_none_is_under_way() {
    let (_home, state) = opened();
    let mut record = master_record("a", 2);
    state.save_master(&record).unwrap();
    let path = state.master_path(record.id);
    let text = fs::read_to_string(&path).unwrap();
    let before = text.replace("\"restoring\": null", "\"unknown\": null");
    assert_ne!(before, text);
    fs::write(&path, before).unwrap();
    assert_eq!(state.masters().unwrap(), [record.clone()]);
    record.sets[0].restoring = Some(12);
    state.save_master(&record).unwrap();
    assert_eq!(state.masters().unwrap(), [record]);
}

#[test]
fn the_first_decision_on_a_cut_holds_also_after_a_restart_until_it_is_forgotten() {
    let (_home, state) = opened();
    let (cut, members) = (Uuid::from_u128(9), [Uuid::from_u128(77), Uuid::from_u128(78)]);
    state.begin_cut(cut, &members).unwrap();
    let record = state.cut(cut).unwrap().unwrap();
    assert_eq!(record, CutRecord { cut, members: members.to_vec(), decision: None });
    assert_eq!(state.decide_cut(&record, Decision::Void).unwrap(), Decision::Void);
    let root = state.root.clone();
    drop(state);
    let state = StateDir::open(&root).unwrap();
    assert_eq!(state.decide_cut(&record, Decision::Commit).unwrap(), Decision::Void);
    assert_eq!(state.cuts().unwrap(), [CutRecord { decision: Some(Decision::Void), ..record }]);
    state.forget_cut(cut).unwrap();
    state.forget_cut(cut).unwrap();
    assert_eq!((state.cut(cut).unwrap(), state.cuts().unwrap()), (None, Vec::new()));
}

#[test]
fn a_decision_that_cannot_be_written_is_not_there() {
    let (_home, state) = opened();
    let cut = Uuid::from_u128(9);
    state.begin_cut(cut, &[Uuid::from_u128(77)]).unwrap();
    let record = state.cut(cut).unwrap().unwrap();
    let beside = state.root.join("cuts").join(cut.to_string()).with_extension("new");
    fs::create_dir(&beside).unwrap();
    state.decide_cut(&record, Decision::Commit).unwrap_err();
    assert_eq!(state.cut(cut).unwrap(), Some(record));
}

#[test]
fn ends_recorded_by_several_threads_at_once_leave_the_newest() {
    let (_home, state) = opened();
    let set = Id128([1; 16]);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let state = &state;
            scope.spawn(move || {
                for epoch in 0..8 {
                    state.record_end(&note(set, epoch * 4 + thread)).unwrap();
                }
            });
        }
    });
    assert_eq!(state.ended(set).unwrap().map(|ended| ended.epoch), Some(Epoch(31)));
}

#[test]
fn a_damaged_end_is_an_error_until_the_end_is_recorded_again() {
    let (_home, state) = opened();
    let set = Id128([7; 16]);
    fs::write(state.ended_path(set), "{\"version\":1,\"epoch\":").unwrap();
    let error = state.ended(set).unwrap_err().to_string();
    assert!(error.contains("reset the set"), "{error}");
    state.record_end(&note(set, 3)).unwrap();
    assert_eq!(state.ended(set).unwrap().map(|ended| ended.epoch), Some(Epoch(3)));
}

#[test]
fn garbage_and_later_versions_are_named_and_the_others_still_read() {
    let (_home, state) = opened();
    let kept = master_record("good", 5);
    state.save_master(&kept).unwrap();
    let path = state.master_path(Uuid::from_u128(6));
    let other_name = String::from_utf8(record::encode(&kept).unwrap()).unwrap();
    let cases = [
        ("", "damaged"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ("\u{0}\u{1}", "damaged"),
        ("{\"version\":1}", "damaged: missing field"),
        ("{\"version\":2,\"shape\":\"other\"}", "version 2, and this umbra-io knows version 1"),
        (&other_name, "it describes master"),
    ];
    for (text, problem) in cases {
        fs::write(&path, text).unwrap();
        let error = state.masters().unwrap_err();
        let StateDirError::Unreadable { path: named, .. } = &error else { panic!("{error}") };
        assert_eq!(*named, path);
        assert!(error.to_string().contains(problem), "{error} has no {problem}");
        let (records, faults) = state.masters_and_faults().unwrap();
        assert_eq!((records, faults.len()), (vec![kept.clone()], 1));
    }
}

#[test]
fn no_damage_to_a_record_is_more_than_an_error() {
    let whole = record::encode(&master_record("m", 5)).unwrap();
    let read = |text: &[u8]| record::decode::<MasterRecord>(text);
    assert_eq!(read(&whole).unwrap(), master_record("m", 5));
    for length in 0..whole.len() {
        assert!(read(&whole[..length]).is_err(), "cut off after {length} bytes");
    }
    let mut refused = 0;
    for at in 0..whole.len() {
        for flip in [0x01, 0x10, 0x80] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            refused += usize::from(read(&damaged).is_err());
        }
    }
    assert!(refused > whole.len(), "most damage is seen: {refused} of {}", 3 * whole.len());
}

#[test]
fn what_a_crash_left_unfinished_is_swept() {
    let (_home, state) = opened();
    let (root, kept) = (state.root.clone(), master_record("a", 1));
    state.save_master(&kept).unwrap();
    drop(state);
    let leftovers = [
        root.join("node-id.new"),
        root.join("masters").join(format!("{}.new", kept.id)),
        root.join("ended/x.new"),
        root.join("answers/y.new"),
    ];
    for path in &leftovers {
        fs::write(path, "{\"versio").unwrap();
    }
    let state = StateDir::open(&root).unwrap();
    assert_eq!(state.masters().unwrap(), [kept]);
    assert!(leftovers.iter().all(|path| !path.exists()));
}

#[test]
fn answers_come_back_after_a_restart_and_the_last_one_counts() {
    let (_home, state) = opened();
    state.remember("one", 5, &serde_json::json!({"cut": "x", "n": u64::MAX})).unwrap();
    state.remember("one", 6, &Value::Null).unwrap();
    state.remember("two", u64::MAX, &Value::from("y")).unwrap();
    let root = state.root.clone();
    drop(state);
    let state = StateDir::open(&root).unwrap();
    assert_eq!(state.recall("one").unwrap(), Some((6, Value::Null)));
    assert_eq!(state.recall("two").unwrap(), Some((u64::MAX, Value::from("y"))));
    assert_eq!(state.recall("three").unwrap(), None);
}

#[test]
fn only_the_newest_answers_are_kept_also_over_a_restart() {
    let (_home, state) = opened();
    let answers = state.root.join("answers");
    let root = state.root.clone();
    drop(state);
    // As if a thousand requests had been answered long ago; writing each durably would take long.
    let text = record::encode(&AnswerRecord { fingerprint: 1, answer: Value::Null }).unwrap();
    let long_ago = SystemTime::now() - std::time::Duration::from_secs(100_000);
    for number in 0..ANSWERS_MAX {
        let file = answers.join(format!("old-{number}"));
        fs::write(&file, &text).unwrap();
        let minutes = u64::try_from(number).unwrap();
        let written = long_ago + std::time::Duration::from_secs(minutes * 60);
        File::options().write(true).open(&file).unwrap().set_modified(written).unwrap();
    }
    let state = StateDir::open(&root).unwrap();
    state.remember("old-0", 2, &Value::Null).unwrap();
    state.remember("new-1", 2, &Value::Null).unwrap();
    state.remember("new-2", 2, &Value::Null).unwrap();
    assert_eq!(fs::read_dir(&answers).unwrap().count(), ANSWERS_MAX);
    for (request, kept) in [("old-0", true), ("old-1", false), ("old-2", false), ("old-3", true)] {
        assert_eq!(state.recall(request).unwrap().is_some(), kept, "{request}");
    }
}

#[test]
fn a_request_id_cannot_leave_its_folder() {
    let (_home, state) = opened();
    let long = "x".repeat(REQUEST_BYTES_MAX + 1);
    for request in ["", "../node-id", "a/b", "a.new", ".", "..", "ü", &long] {
        assert!(matches!(state.remember(request, 0, &Value::Null), Err(StateDirError::RequestId(_))));
        assert!(matches!(state.recall(request), Err(StateDirError::RequestId(_))));
    }
}

#[test]
fn a_failing_disk_is_an_error_that_names_the_file_once() {
    let (_home, state) = opened();
    fs::remove_dir(state.root.join("ended")).unwrap();
    let error = state.record_end(&note(Id128([7; 16]), 1)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("07070707") && text.contains("No such file"), "{text}");
    assert!(std::error::Error::source(&error).is_none(), "a chain would say it twice");
}
