//! That a status with everything in it is stored as the types say it, and leaves the spec alone.

use anyhow::{Result, bail, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use umbra_crds::conditions::{
    self, ConsistentReason, GrantReady, GroupReady, ImageTrustedReason, InUseReason, IndependentReason,
    MasterReady, NodeReady, OperationComplete, OperationFailed, QuiescedReason, Reason, RecoveryNeededReason,
    ResynchronizingReason, SealedReason, SetReady, ShadowPublishedReason, SpaceLowReason, TakenOverReason,
    UpToDateReason,
};
use umbra_crds::{
    Definition, DeviceGrantStatus, ImagingNodeStatus, ImagingOperationStatus, MasterVolumeStatus,
    SetGroupStatus, VolumeSetStatus,
};

use super::{Case, examples, of_each_kind};
use crate::kubernetes::server::{NAMESPACE, Server};

const CUT: &str = "7c1e4a52-30c9-4a6a-8f0d-5f0f3c1b9a77";
const TIME: &str = "2026-11-22T02:15:00Z";

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = of_each_kind("status", stored);
    cases.push(Case::new("status/impossible", impossible));
    cases
}

fn stored(server: &Server, definition: &Definition) -> Result<()> {
    let name = "with-status";
    let written = write(server, definition, name)?;
    let object = server.get(definition.plural(), name)?;
    ensure!(object["status"] == written, "stored is {}, written was {written}", object["status"]);
    ensure!(object["metadata"]["generation"] == 1, "a status is no new generation");
    Ok(())
}

/// Applies an example under this name, and gives it a status in which everything is set. Returns the status.
pub(crate) fn write(server: &Server, definition: &Definition, name: &str) -> Result<Value> {
    let answer = server.apply_as(name, &examples::one_of(definition.kind())?)?;
    ensure!(answer.success, "{}", answer.stderr);
    let status = status_of(definition.kind())?;
    patch(server, definition.plural(), name, &status)?;
    Ok(status)
}

/// Writes the status of an object.
pub(crate) fn patch(server: &Server, resource: &str, name: &str, status: &Value) -> Result<()> {
    let patch = json!({"status": status}).to_string();
    let arguments =
        ["patch", resource, name, "--namespace", NAMESPACE, "--subresource=status", "--type=merge"];
    server.expect(&[&arguments[..], &["--patch", &patch]].concat())?;
    Ok(())
}

/// A status that could not be true is refused: whoever writes it has a fault.
fn impossible(server: &Server) -> Result<()> {
    let name = "impossible";
    let answer = server.apply_as(name, &examples::one_of("VolumeSet")?)?;
    ensure!(answer.success, "{}", answer.stderr);
    let tries = [
        (json!({"copy": {"state": "Running", "percent": 101}}), "should be less than or equal to 100"),
        (json!({"copy": {"state": "Paused"}}), "supported values"),
        (
            json!({"conditions": [{"type": "Ready", "status": "Maybe", "reason": "A", "message": "", "lastTransitionTime": TIME}]}),
            "supported values",
        ),
        (json!({"setID": "pg-1"}), "should match"),
    ];
    for (status, fragment) in tries {
        let patch = json!({"status": status}).to_string();
        let arguments =
            ["patch", "volumesets", name, "--namespace", NAMESPACE, "--subresource=status", "--type=merge"];
        server.expect_refusal(&[&arguments[..], &["--patch", &patch]].concat(), fragment)?;
    }
    Ok(())
}

/// A status in which everything is set, by way of the types: what they do not know would be lost here.
pub(crate) fn status_of(kind: &str) -> Result<Value> {
    Ok(match kind {
        "MasterVolume" => serde_json::to_value(serde_json::from_value::<MasterVolumeStatus>(master()?)?)?,
        "VolumeSet" => serde_json::to_value(serde_json::from_value::<VolumeSetStatus>(set()?)?)?,
        "SetGroup" => serde_json::to_value(serde_json::from_value::<SetGroupStatus>(group()?)?)?,
        "ImagingOperation" => {
            serde_json::to_value(serde_json::from_value::<ImagingOperationStatus>(operation()?)?)?
        }
        "DeviceGrant" => serde_json::to_value(serde_json::from_value::<DeviceGrantStatus>(grant()?)?)?,
        "ImagingNode" => serde_json::to_value(serde_json::from_value::<ImagingNodeStatus>(node()?)?)?,
        other => bail!("no kind {other}"),
    })
}

fn all(reasons: &[&dyn Reason]) -> Result<Vec<Condition>> {
    let time = Time(TIME.parse::<Timestamp>()?);
    let mut all = Vec::new();
    for reason in reasons {
        conditions::set(&mut all, *reason, "as it is", 1, time.clone());
    }
    Ok(all)
}

fn master() -> Result<Value> {
    Ok(json!({
        "observedGeneration": 1,
        "conditions": all(&[&MasterReady::Live, &TakenOverReason::Done, &SealedReason::HeldByOperation, &InUseReason::PodsUsing])?,
        "masterID": CUT,
        "nodeName": "node-a",
        "sizeBytes": 959_925_190_656_u64,
        "logicalBlock": 512,
        "deviceID": "/dev/disk/by-id/nvme-Samsung_S5H9",
        "devPath": "/dev/umbra/by-id/7c1e4a52-30c9-4a6a-8f0d-5f0f3c1b9a77",
        "frontend": "Ublk",
        "writeCache": "WriteBack",
        "claimName": "data-pg-0",
        "users": [{"kind": "Pod", "namespace": "prod", "name": "pg-0", "readOnly": false}],
        "pvName": "umbra-m-3f6c0b1e",
        "originalPVName": "local-pv-1a2b",
        "takeoverStep": "ClaimSwapped",
        "setCount": 3,
    }))
}

fn set() -> Result<Value> {
    let reasons: [&dyn Reason; 6] = [
        &SetReady::Copying,
        &ImageTrustedReason::Exact,
        &ResynchronizingReason::ToShadow,
        &IndependentReason::LeansOnMaster,
        &ShadowPublishedReason::ClaimBound,
        &SpaceLowReason::Ok,
    ];
    Ok(json!({
        "observedGeneration": 1,
        "conditions": all(&reasons)?,
        "setID": "3f6c0b1e-77aa-4c7e-9d1b-0a4f5d0c8e11",
        "nodeName": "node-a",
        "shadowSizeBytes": 959_925_190_656_u64,
        "image": {
            "cutID": CUT,
            "time": TIME,
            "consistency": "FileSystem",
            "groupCutID": CUT,
            "gateMillis": 41,
            "trusted": true,
            "written": false,
            "recovered": true,
            "lostChunks": 0,
            "changedPercent": 3,
        },
        "copy": {
            "direction": "ToShadow",
            "state": "Running",
            "percent": 61,
            "bytesPerSecond": 327_155_712,
            "estimatedEnd": TIME,
        },
        "bitmapBytes": 1 << 26,
        "overflow": {"usedBytes": 1_u64 << 34},
        "currentOperation": "restore-pg-1",
        "lastOpID": "0b6f7f0e-1f55-4a7b-93a5-4f3a50c7a0b5",
        "roles": [
            {"role": "Shadow", "device": "/dev/disk/by-id/nvme-KIOXIA_S1", "state": "Online"},
            {"role": "Bitmap", "device": "/var/lib/umbra/bitmaps/3f6c0b1e", "state": "Online"},
        ],
    }))
}

fn group() -> Result<Value> {
    Ok(json!({
        "observedGeneration": 1,
        "conditions": all(&[&GroupReady::AllMembersReady, &ConsistentReason::OneInstant])?,
        "members": [
            {"name": "pg-1", "nodeName": "node-a", "ready": true},
            {"name": "pg-wal-1", "nodeName": "node-a", "ready": true},
        ],
        "lastCut": {"id": CUT, "time": TIME, "maxGateMillis": 41, "consistent": true, "operationName": "cut-1"},
    }))
}

fn operation() -> Result<Value> {
    let mut conditions = all(&[
        &OperationComplete::CutDone,
        &OperationFailed::StaleGuard,
        &SealedReason::HeldByOperation,
        &QuiescedReason::Frozen,
    ])?;
    conditions.extend(all(&[&SetReady::InSync])?);
    Ok(json!({
        "observedGeneration": 1,
        "conditions": conditions,
        "startTime": TIME,
        "completionTime": TIME,
        "cut": {"id": CUT, "decision": "Commit", "members": [{"name": "pg-1", "state": "Finalised"}]},
        "safety": {"cutID": CUT},
        "hooks": [{"pod": "pg-0", "exitCode": 0, "millis": 812}],
        "percent": 100,
        "undoHint": "kubectl umbra restore pg-2 -n prod",
    }))
}

fn grant() -> Result<Value> {
    Ok(json!({
        "observedGeneration": 1,
        "conditions": all(&[&GrantReady::Matching])?,
        "matches": [{
            "node": "node-a",
            "id": "/dev/disk/by-id/nvme-KIOXIA_S1",
            "role": "Shadow",
            "usedBy": "VolumeSet/prod/pg-ind",
        }],
    }))
}

fn node() -> Result<Value> {
    Ok(json!({
        "observedGeneration": 1,
        "conditions": all(&[&NodeReady::Serving, &UpToDateReason::Current, &RecoveryNeededReason::NoOrphans])?,
        "nodeUID": "0b6f7f0e-1f55-4a7b-93a5-4f3a50c7a0b5",
        "machineID": "f1c6c1c7a7a94a3f8e2e2a8b0d6f4c11",
        "bootID": "3a0b9d2e-5b0c-4a53-8e6b-6ce9d1f0a001",
        "endpoint": "10.0.0.11:9750",
        "nodeVersion": "0.1.0",
        "ioVersion": "0.1.0",
        "protocol": {"min": 1, "max": 3},
        "formatMax": 1,
        "kernel": "6.12.95+deb12-cloud-amd64",
        "frontend": "Ublk",
        "dataMode": "UserCopy",
        "features": ["Recovery", "UserCopy"],
        "fenceEpoch": 14,
        "lockedMemoryBytes": 1 << 28,
        "masterCount": 2,
        "devices": [
            {"id": "/dev/disk/by-id/nvme-Samsung_S5H9", "sizeBytes": 959_925_190_656_u64, "serial": "S5H9", "role": "Master", "usedBy": "MasterVolume/prod/pg-data"},
            {"id": "/dev/disk/by-id/nvme-root", "sizeBytes": 256_060_514_304_u64, "denied": "Mounted"},
        ],
        "orphans": [{"setID": CUT, "namespace": "prod", "name": "pg-old", "role": "Bitmap"}],
    }))
}
