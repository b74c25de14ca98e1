use super::*;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex as StdMutex};

/// Files in memory, which survive the state directory that uses them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(Arc<StdMutex<BTreeMap<FileName, Vec<u8>>>>);

impl Memory {
    fn put(&self, folder: Folder, name: &str, text: &str) {
        self.0.lock().unwrap().insert(FileName { folder, name: name.to_owned() }, text.into());
    }
}

impl Files for Memory {
    async fn read(&self, file: &FileName) -> Result<Option<Vec<u8>>, FileError> {
        Ok(self.0.lock().unwrap().get(file).cloned())
    }

    async fn write(&self, file: &FileName, bytes: Vec<u8>) -> Result<(), FileError> {
        self.0.lock().unwrap().insert(file.clone(), bytes);
        Ok(())
    }

    async fn remove(&self, file: &FileName) -> Result<(), FileError> {
        self.0.lock().unwrap().remove(file);
        Ok(())
    }

    async fn list(&self, folder: Folder) -> Result<Vec<String>, FileError> {
        let files = self.0.lock().unwrap();
        Ok(files.keys().filter(|file| file.folder == folder).map(|file| file.name.clone()).collect())
    }
}

fn volume(device: &str, id: u128) -> VolumeRecord {
    VolumeRecord { device: device.into(), volume: Uuid::from_u128(id), identity: None }
}

fn set_record() -> SetRecord {
    SetRecord {
        id: Uuid::from_u128(77),
        stage: SetStage::Enabled,
        index: 3,
        cluster: String::new(),
        namespace: "default".to_owned(),
        name: "nightly".to_owned(),
        independent: false,
        shadow: volume("/dev/vdc", 1),
        bitmap: volume("/dev/vdd", 2),
        chunk_bytes: 65_536,
        shadow_deadline_ms: 5_000,
        bitmap_deadline_ms: 5_000,
        unrecordable_ms: 5_000,
        fail_write: true,
        protected: false,
        copy_limits: CopyLimitsRecord { bytes_per_second: Some(1 << 40), in_flight: 4 },
        restoring: None,
        master_changed: false,
    }
}

pub(crate) fn master_record(name: &str, id: u128) -> MasterRecord {
    MasterRecord {
        id: Uuid::from_u128(id),
        name: name.to_owned(),
        device: "/dev/vdb".into(),
        identity: Some("serial:x y".to_owned()),
        size: 1 << 30,
        logical_block: 512,
        physical_block: 4096,
        ublk_wanted: None,
        queue_depth: 128,
        fingerprint: None,
        generation: None,
        quarantined: false,
        clean: false,
        chunk: None,
        accepted: None,
        sets: vec![set_record()],
    }
}

fn note(set: Id128, epoch: u64) -> EndNote {
    EndNote { set, epoch: Epoch(epoch), cause: OfflineCause::Bitmap, master_incomplete: false }
}

#[tokio::test]
async fn masters_come_back_after_a_restart_by_name_until_they_are_removed() {
    let files = Memory::default();
    let state = State::new(files.clone());
    let (a, mut b) = (master_record("a", 2), master_record("b", 1));
    state.save_master(&b).await.unwrap();
    state.save_master(&a).await.unwrap();
    b.clean = true;
    state.save_master(&b).await.unwrap();
    let state = State::new(files);
    assert_eq!(state.masters().await.unwrap(), (vec![a.clone(), b.clone()], vec![]));
    state.remove_master(a.id).await.unwrap();
    state.remove_master(a.id).await.unwrap();
    assert_eq!(state.masters().await.unwrap().0, [b]);
}

#[tokio::test]
async fn one_stray_damaged_or_foreign_file_stops_no_other_master() {
    let files = Memory::default();
    let state = State::new(files.clone());
    let good = master_record("good", 1);
    state.save_master(&good).await.unwrap();
    state.save_master(&master_record("moved", 2)).await.unwrap();
    let moved = files.read(&master_file(Uuid::from_u128(2))).await.unwrap().unwrap();
    let moved = String::from_utf8(moved).unwrap();
    files.put(Folder::Masters, &Uuid::from_u128(3).to_string(), &moved);
    files.put(
        Folder::Masters,
        &Uuid::from_u128(2).to_string(),
        &moved.replace("\"version\": 2", "\"version\": 9"),
    );
    for (name, text) in [("notes.txt", "hello"), ("x", ""), ("y", "\u{0}"), ("z", "{\"version\": 2}")] {
        files.put(Folder::Masters, name, text);
    }
    let (records, faults) = state.masters().await.unwrap();
    assert_eq!(records, [good]);
    assert_eq!(faults.len(), 6, "{faults:?}");
    // The two that are called like masters may be records of masters.
    assert_eq!(faults.iter().filter(|fault| fault.hides_a_master()).count(), 2, "{faults:?}");
    for fault in faults {
        let text = fault.to_string();
        assert!(text.contains("masters/") && text.contains("attach the master again"), "{text}");
    }
}

#[test]
fn what_cannot_be_true_is_refused() {
    type Spoil = (&'static str, fn(&mut MasterRecord));
    let spoil: [Spoil; 12] = [
        ("place", |record| record.sets[0].index = 99),
        ("place", |record| record.sets.push(SetRecord { id: Uuid::from_u128(5), ..set_record() })),
        ("called", |record| record.sets.push(SetRecord { index: 1, ..set_record() })),
        ("called", |record| record.sets[0].id = record.id),
        ("chunks", |record| record.sets[0].chunk_bytes = 3),
        ("chunks", |record| {
            let other = SetRecord { id: Uuid::from_u128(5), index: 1, chunk_bytes: 4096, ..set_record() };
            record.sets.push(other);
        }),
        ("bytes", |record| record.size = 0),
        ("blocks", |record| record.logical_block = 0),
        ("depth", |record| record.queue_depth = 4096),
        ("", |record| record.name = "../x".to_owned()),
        ("", |record| record.device = "vdb".into()),
        ("nothing in flight", |record| record.sets[0].copy_limits.in_flight = 0),
    ];
    assert_eq!(master_record("m", 1).check(), Ok(()));
    for (says, spoil) in spoil {
        let mut record = master_record("m", 1);
        spoil(&mut record);
        let problem = record.check().unwrap_err();
        assert!(problem.contains(says), "{problem}");
    }
}

#[tokio::test]
async fn an_end_never_goes_back_and_is_forgotten_when_told() {
    let state = State::new(Memory::default());
    let set = Id128([7; 16]);
    assert_eq!(state.ended(set).await.unwrap(), None);
    for (epoch, expected) in [(4, 4), (2, 4), (9, 9), (u64::MAX, u64::MAX)] {
        state.record_end(&note(set, epoch)).await.unwrap();
        let ended = state.ended(set).await.unwrap();
        assert_eq!(ended.map(|ended| ended.epoch), Some(Epoch(expected)));
    }
    assert_eq!(state.ended(Id128([8; 16])).await.unwrap(), None);
    state.forget_end(set, Epoch(10)).await.unwrap();
    state.forget_end(set, Epoch(10)).await.unwrap();
    assert_eq!(state.ended(set).await.unwrap(), None);
    state.record_end(&note(set, 12)).await.unwrap();
    state.forget_end(set, Epoch(10)).await.unwrap();
    assert!(state.ended(set).await.unwrap().is_some(), "a later image has ended since");
}

#[tokio::test]
async fn a_decision_is_never_changed() {
    let state = State::new(Memory::default());
    let (cut, members) = (Uuid::from_u128(9), [Uuid::from_u128(1)]);
    state.begin_cut(cut, &members).await.unwrap();
    let record = state.cut(cut).await.unwrap().unwrap();
    assert_eq!(record.decision, None);
    assert_eq!(state.decide_cut(&record, Decision::Void).await, Ok(Decision::Void));
    assert_eq!(state.decide_cut(&record, Decision::Commit).await, Ok(Decision::Void));
    assert_eq!(state.cuts().await.unwrap().0.len(), 1);
    state.forget_cut(cut).await.unwrap();
    assert_eq!(state.cut(cut).await.unwrap(), None);
}

#[tokio::test]
async fn a_request_keeps_the_name_of_what_it_makes() {
    let state = State::new(Memory::default());
    let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let begun = state.begin_request("r", 7, first).await.unwrap();
    assert_eq!(begun, Begun { fingerprint: 7, makes: first, answer: None });
    assert_eq!(state.begin_request("r", 7, second).await.unwrap().makes, first);
    state.answer_request("r", &begun, Value::from("done")).await.unwrap();
    let again = state.begin_request("r", 7, second).await.unwrap();
    assert_eq!((again.makes, again.answer), (first, Some(Value::from("done"))));
    for name in ["", "a/b", "..", &"x".repeat(129)] {
        let refused = state.begin_request(name, 7, first).await.unwrap_err();
        assert!(matches!(refused, StateError::RequestId(_)), "{refused}");
    }
}

#[tokio::test]
async fn old_requests_go_answered_or_not() {
    let state = State::new(Memory::default());
    for number in 0..REQUESTS_MAX + 2 {
        let name = format!("r{number:05}");
        let begun = state.begin_request(&name, 1, Uuid::nil()).await.unwrap();
        if number % 2 == 0 {
            state.answer_request(&name, &begun, Value::Null).await.unwrap();
        }
    }
    assert_eq!(state.files.list(Folder::Answers).await.unwrap().len(), REQUESTS_MAX);
}
