//! The ledger of CSI: records that were edited or damaged, in a real folder.

use crate::choices::Choices;
use crate::json;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use umbra_csi::{Ledger, Linux, VolumeHandle};
use umbra_platform::id::RequestId;
use uuid::Uuid;

const VOLUME: &str = "m/3f6c0b1e-77aa-4c7e-9d1b-0a4f5d0c8e11";
const FILE: &str = "volumes/m-3f6c0b1e-77aa-4c7e-9d1b-0a4f5d0c8e11.json";
/// A record as this program writes it, in another start of the machine, or in this one.
const RECORD: &str = r#"{
    "boot": "0b9f4b1e-6a1c-4a53-8f0e-3c6d2f1a9e77",
    "staged": {"path": "/var/lib/kubelet/stage", "shape": "fileSystem", "readOnly": false, "mode": "single-node-writer"},
    "published": [
        {"path": "/var/lib/kubelet/pods/a", "pod": {"namespace": "n", "name": "p", "uid": "u"}, "readOnly": true, "mode": "single-node-writer"},
        {"path": "/var/lib/kubelet/pods/b", "pod": null, "readOnly": false, "mode": "single-node-writer"}
    ],
    "seal": {"owner": "3f6c0b1e-77aa-4c7e-9d1b-0a4f5d0c8e12", "endsMs": 1}
}"#;

thread_local! {
    static FOLDER: TempDir = {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("volumes")).expect("made");
        folder
    };
}

/// Whether the record was accepted.
pub(crate) fn run(data: &[u8]) -> bool {
    FOLDER.with(|folder| run_in(folder.path(), data))
}

fn run_in(folder: &Path, data: &[u8]) -> bool {
    let mut choices = Choices::new(data);
    let mut text = RECORD.to_owned();
    if choices.byte().is_multiple_of(2)
        && let Ok(boot) = fs::read_to_string("/proc/sys/kernel/random/boot_id")
    {
        text = text.replace("0b9f4b1e-6a1c-4a53-8f0e-3c6d2f1a9e77", boot.trim());
    }
    fs::write(folder.join(FILE), json::changed(text.as_bytes(), &mut choices)).expect("written");
    let volume: VolumeHandle = VOLUME.parse().expect("a handle");
    let world = Arc::new(Linux::new(folder).expect("a folder of our own"));
    let ledger = Ledger::open(Arc::clone(&world)).expect("a record that cannot be read is in nobody's way");
    let Ok(in_use) = ledger.in_use(volume) else { return false };
    let owner = RequestId(Uuid::from_u128(5));
    // Whatever the record says: a seal changes nothing of who uses the volume, and keeps others out.
    if ledger.seal(volume, owner).is_ok() {
        assert_eq!(ledger.in_use(volume).as_ref(), Ok(&in_use));
        ledger.unseal(volume, RequestId(Uuid::from_u128(6))).expect_err("it is another's");
        ledger.unseal(volume, owner).expect("it is ours");
    }
    let again = Ledger::open(world).expect("the folder is ours");
    assert_eq!(again.in_use(volume).as_ref(), Ok(&in_use), "what is written can be read");
    true
}
