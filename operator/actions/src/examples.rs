//! Objects for tests.

use serde_json::{Value, json};
use umbra_crds::{MasterVolume, SetGroup, VolumeSet};

pub(crate) const CUT: &str = "7c1e4a52-30c9-4a6a-8f0d-5f0f3c1b9a77";
pub(crate) const OTHER_CUT: &str = "02d9e7a1-30c9-4a6a-8f0d-5f0f3c1b9a77";

fn object(kind: &str, name: &str, spec: &Value, status: &Value) -> Value {
    json!({
        "apiVersion": "imaging.umbra.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "prod", "generation": 1},
        "spec": spec,
        "status": status,
    })
}

/// A set that is ready, with what else its status says.
pub(crate) fn set(name: &str, master: &str, status: Value) -> VolumeSet {
    let time = "2026-11-22T11:00:00Z";
    let ready = json!({"type": "Ready", "status": "True", "reason": "Dependent", "message": "", "lastTransitionTime": time});
    let mut all = json!({"observedGeneration": 1, "conditions": [ready]});
    if let (Some(all), Value::Object(more)) = (all.as_object_mut(), status) {
        all.extend(more);
    }
    let spec = json!({
        "masterRef": {"name": master},
        "mode": "Dependent",
        "shadow": {"source": {"pvc": {"claimName": format!("{name}-shadow")}}},
    });
    serde_json::from_value(object("VolumeSet", name, &spec, &all)).unwrap()
}

/// An image of this cut, with what else is said of it.
pub(crate) fn image(cut: &str, more: Value) -> Value {
    let mut image = json!({
        "cutID": cut, "time": "2026-11-22T09:50:00Z", "consistency": "FileSystem", "gateMillis": 4, "trusted": true,
        "written": false, "recovered": false, "lostChunks": 0, "changedPercent": 3,
    });
    if let (Some(image), Value::Object(more)) = (image.as_object_mut(), more) {
        image.extend(more);
    }
    json!({"image": image})
}

/// A group whose members are known and that was cut once.
pub(crate) fn group(name: &str, members: &[&str]) -> SetGroup {
    let found: Vec<Value> = members.iter().map(|member| json!({"name": member, "ready": true})).collect();
    let sets: Vec<Value> = members.iter().map(|member| json!({"name": member})).collect();
    let last = json!({"id": CUT, "time": "2026-11-22T09:50:00Z", "maxGateMillis": 4, "consistent": true});
    let status = json!({"observedGeneration": 1, "members": found, "lastCut": last});
    serde_json::from_value(object("SetGroup", name, &json!({"volumeSets": sets}), &status)).unwrap()
}

/// A master with these pods on it.
pub(crate) fn master(name: &str, pods: &[&str]) -> MasterVolume {
    let user = |pod: &&str| json!({"kind": "Pod", "namespace": "prod", "name": pod, "readOnly": false});
    let users: Vec<Value> = pods.iter().map(user).collect();
    let spec = json!({"source": {"pvc": {"claimName": "c"}}});
    serde_json::from_value(object("MasterVolume", name, &spec, &json!({"users": users}))).unwrap()
}
