//! The state directory: records that were edited, damaged, or are somebody else's.

use crate::choices::Choices;
use crate::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use umbra_engine::{Epoch, Id128, OfflineCause};
use umbra_lifecycle::files::{FileError, FileName, Files, Folder};
use umbra_lifecycle::state::{
    CopyLimitsRecord, Decision, MasterRecord, SetRecord, SetStage, State, VolumeRecord,
};
use umbra_store::EndNote;
use uuid::Uuid;

const MASTER: Uuid = Uuid::from_u128(1);
const SET: Uuid = Uuid::from_u128(2);
const CUT: Uuid = Uuid::from_u128(3);
const REQUEST: &str = "a-request";

/// Files in memory.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<BTreeMap<FileName, Vec<u8>>>>);

impl Memory {
    fn files(&self) -> MutexGuard<'_, BTreeMap<FileName, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files for Memory {
    async fn read(&self, file: &FileName) -> Result<Option<Vec<u8>>, FileError> {
        Ok(self.files().get(file).cloned())
    }

    async fn write(&self, file: &FileName, bytes: Vec<u8>) -> Result<(), FileError> {
        self.files().insert(file.clone(), bytes);
        Ok(())
    }

    async fn remove(&self, file: &FileName) -> Result<(), FileError> {
        self.files().remove(file);
        Ok(())
    }

    async fn list(&self, folder: Folder) -> Result<Vec<String>, FileError> {
        Ok(self.files().keys().filter(|file| file.folder == folder).map(|file| file.name.clone()).collect())
    }
}

fn set(id: u128, index: u8) -> SetRecord {
    let volume = |letter: char| VolumeRecord {
        device: PathBuf::from(format!("/dev/vd{letter}")),
        volume: Uuid::from_u128(id << 8 | u128::from(u32::from(letter))),
        identity: Some(format!("serial:{id}-{letter}")),
    };
    SetRecord {
        id: Uuid::from_u128(id),
        stage: SetStage::Enabled,
        index,
        cluster: String::new(),
        namespace: "default".to_owned(),
        name: format!("set-{id}"),
        independent: false,
        shadow: volume('c'),
        bitmap: volume('d'),
        chunk_bytes: 65_536,
        shadow_deadline_ms: 5_000,
        bitmap_deadline_ms: 5_000,
        unrecordable_ms: 5_000,
        fail_write: true,
        protected: false,
        copy_limits: CopyLimitsRecord { bytes_per_second: Some(1 << 40), in_flight: 4 },
        restoring: Some(7),
        master_changed: false,
    }
}

fn master() -> MasterRecord {
    MasterRecord {
        id: MASTER,
        name: "db".to_owned(),
        device: "/dev/vdb".into(),
        identity: None,
        size: 1 << 30,
        logical_block: 512,
        physical_block: 4096,
        ublk_wanted: Some(3),
        queue_depth: 128,
        fingerprint: Some("00".to_owned()),
        generation: None,
        quarantined: false,
        clean: false,
        chunk: None,
        accepted: None,
        sets: vec![set(2, 0), set(4, 1)],
    }
}

/// A state directory as this program writes it.
async fn good() -> Memory {
    let memory = Memory::default();
    let state = State::new(memory.clone());
    let note = EndNote {
        set: Id128(*SET.as_bytes()),
        epoch: Epoch(4),
        cause: OfflineCause::Shadow,
        master_incomplete: false,
    };
    state.save_master(&master()).await.expect("in memory");
    state.record_end(&note).await.expect("in memory");
    state.begin_cut(CUT, &[SET, Uuid::from_u128(4)]).await.expect("in memory");
    let begun = state.begin_request(REQUEST, 9, MASTER).await.expect("in memory");
    state.answer_request(REQUEST, &begun, serde_json::json!({ "done": [1, "x"] })).await.expect("in memory");
    memory
}

/// Whether every record was accepted.
pub(crate) fn run(data: &[u8]) -> bool {
    let runtime =
        tokio::runtime::Builder::new_current_thread().build().expect("no more than memory is needed");
    runtime.block_on(async {
        let mut choices = Choices::new(data);
        let memory = good().await;
        let names: Vec<FileName> = memory.files().keys().cloned().collect();
        let name = names[choices.below(names.len())].clone();
        let text = json::changed(&memory.files()[&name], &mut choices);
        let renamed = if choices.byte() % 16 == 1 { choices.text() } else { name.name.clone() };
        memory.files().remove(&name);
        memory.files().insert(FileName { folder: name.folder, name: renamed }, text);
        let state = State::new(memory);
        [check_masters(&state).await, check_cuts(&state).await, check_rest(&state).await]
            .iter()
            .all(|good| *good)
    })
}

async fn check_masters(state: &State<Memory>) -> bool {
    let (masters, faults) = state.masters().await.expect("they can be listed");
    for record in &masters {
        record.check().expect("it was checked when it was read");
        assert!(record.geometry().is_some(), "a checked record has a geometry");
        state.save_master(record).await.expect("in memory");
    }
    assert_eq!(state.masters().await.expect("they can be listed").0, masters, "what is written can be read");
    state.retired(&masters).await.expect("they can be listed");
    faults.is_empty() && masters.len() == 1
}

async fn check_cuts(state: &State<Memory>) -> bool {
    let (cuts, faults) = state.cuts().await.expect("they can be listed");
    for record in &cuts {
        let Ok(holds) = state.decide_cut(record, Decision::Commit).await else { continue };
        let again = state.decide_cut(record, Decision::Void).await;
        assert_eq!(again.as_ref(), Ok(&holds), "a decision is never changed");
        let found = state.cut(record.cut).await.expect("it was written").expect("it is there");
        assert_eq!(found.decision, Some(holds));
    }
    faults.is_empty() && cuts.len() == 1
}

async fn check_rest(state: &State<Memory>) -> bool {
    let set = Id128(*SET.as_bytes());
    let ended = state.ended(set).await;
    let note = EndNote { set, epoch: Epoch(9), cause: OfflineCause::Bitmap, master_incomplete: true };
    state.record_end(&note).await.expect("a damaged record gives way to a whole one");
    let after = state.ended(set).await.expect("it was written").expect("it is there");
    let before = ended.as_ref().ok().and_then(|ended| ended.as_ref()).map_or(Epoch(0), |ended| ended.epoch);
    assert!(after.epoch >= before && after.epoch >= Epoch(9), "what has ended stays ended");
    let request = state.request(REQUEST).await;
    if let Ok(Some(begun)) = &request {
        let again = state.begin_request(REQUEST, begun.fingerprint ^ 1, SET).await;
        assert_eq!(again.as_ref(), Ok(begun), "a request is begun once");
    }
    matches!(ended, Ok(Some(_))) && matches!(request, Ok(Some(_)))
}
