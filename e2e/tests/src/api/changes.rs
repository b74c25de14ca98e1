//! What may be changed of an object that is there, and what may not.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Case, examples};
use crate::kubernetes::server::{NAMESPACE, Server};

/// A change that is tried on a valid example.
struct Change {
    /// The example.
    example: &'static str,
    /// What is changed, for the name of the case.
    field: &'static str,
    /// The change, as a merge patch of the spec.
    patch: fn() -> Value,
    /// The words of the refusal, or none where the change is good.
    refused: Option<&'static str>,
}

const CHANGES: &[Change] = &[
    Change {
        example: "mastervolume-claim",
        field: "source",
        patch: || json!({"source": {"pvc": {"claimName": "data-pg-1"}}}),
        refused: Some("source cannot be changed"),
    },
    Change {
        example: "mastervolume-device",
        field: "device",
        patch: || json!({"source": {"device": {"id": "/dev/disk/by-id/nvme-other"}}}),
        refused: Some("source cannot be changed"),
    },
    Change {
        example: "mastervolume-device",
        field: "publish",
        patch: || json!({"publish": {"fsType": "ext4"}}),
        refused: Some("publish cannot be changed"),
    },
    Change {
        example: "mastervolume-device",
        field: "publish-removed",
        patch: || json!({"publish": null}),
        refused: Some("publish cannot be changed"),
    },
    Change {
        example: "mastervolume-claim",
        field: "takeover",
        patch: || json!({"takeover": {"policy": "Manual"}, "deletionPolicy": "Keep"}),
        refused: None,
    },
    Change {
        example: "volumeset-dependent",
        field: "masterRef",
        patch: || json!({"masterRef": {"name": "other"}}),
        refused: Some("masterRef cannot be changed"),
    },
    Change {
        example: "volumeset-dependent",
        field: "mode",
        patch: || json!({"mode": "Independent"}),
        refused: Some("mode cannot be changed"),
    },
    Change {
        example: "volumeset-dependent",
        field: "chunkSize",
        patch: || json!({"chunkSize": "4Ki"}),
        refused: Some("chunkSize cannot be changed"),
    },
    Change {
        example: "volumeset-dependent",
        field: "shadow.source",
        patch: || json!({"shadow": {"source": {"pvc": {"claimName": "other"}}}}),
        refused: Some("shadow.source cannot be changed"),
    },
    Change {
        example: "volumeset-dependent",
        field: "bitmap.source",
        patch: || json!({"bitmap": {"source": {"managed": null, "pvc": {"claimName": "other"}}}}),
        refused: Some("bitmap.source cannot be changed"),
    },
    Change {
        example: "volumeset-quiesced",
        field: "initialQuiesce",
        patch: || json!({"initialQuiesce": null}),
        refused: Some("initialQuiesce cannot be changed"),
    },
    Change {
        example: "volumeset-adopted",
        field: "adoptSetID",
        patch: || json!({"adoptSetID": null}),
        refused: Some("adoptSetID cannot be changed"),
    },
    Change {
        example: "volumeset-quiesced",
        field: "publish.claimName",
        patch: || json!({"shadow": {"publish": {"claimName": "other"}}}),
        refused: Some("claimName cannot be changed"),
    },
    Change {
        example: "volumeset-quiesced",
        field: "publish-removed",
        patch: || json!({"shadow": {"publish": null, "protected": false}}),
        refused: None,
    },
    Change {
        example: "volumeset-dependent",
        field: "copy",
        patch: || json!({"copy": {"maxBytesPerSecond": "50Mi", "maxInFlight": 2, "yieldToWorkload": false}}),
        refused: None,
    },
    Change {
        example: "volumeset-dependent",
        field: "publish-added",
        patch: || json!({"shadow": {"publish": {"claimName": "p", "readOnly": true}}}),
        refused: None,
    },
    Change {
        example: "setgroup-by-name",
        field: "members",
        patch: || json!({"volumeSets": [{"name": "pg-1"}]}),
        refused: None,
    },
    Change {
        example: "setgroup-by-name",
        field: "selector",
        patch: || json!({"volumeSets": null, "selector": {"matchLabels": {"a": "b"}}}),
        refused: None,
    },
    Change {
        example: "imagingoperation-cut",
        field: "command",
        patch: || json!({"command": "CopyShadow"}),
        refused: Some("supported values"),
    },
    Change {
        example: "imagingoperation-cut",
        field: "hooks",
        patch: || json!({"quiesce": {"pre": []}}),
        refused: Some("an operation cannot be changed"),
    },
    Change {
        example: "imagingoperation-restore",
        field: "guard",
        patch: || json!({"guard": {"allowWrittenShadow": true}}),
        refused: Some("an operation cannot be changed"),
    },
    Change {
        example: "imagingoperation-restore",
        field: "ttlSecondsAfterFinished",
        patch: || json!({"ttlSecondsAfterFinished": 1}),
        refused: Some("an operation cannot be changed"),
    },
    Change {
        example: "devicegrant-by-id",
        field: "namespaces",
        patch: || json!({"namespaces": ["dev"]}),
        refused: None,
    },
    Change {
        example: "devicegrant-by-id",
        field: "nobody",
        patch: || json!({"namespaces": null}),
        refused: Some("say who is granted the devices"),
    },
];

pub(crate) fn cases() -> Vec<Case> {
    let name = |change: &Change| format!("change/{}/{}", change.example, change.field);
    CHANGES.iter().map(|change| Case::new(name(change), |server| tried(server, change))).collect()
}

fn tried(server: &Server, change: &Change) -> Result<()> {
    let object = examples::valid(change.example)?;
    let kind = object["kind"].as_str().context("no kind")?;
    let name = format!("changed-{}", change.field.to_lowercase());
    let answer = server.apply_as(&name, &object)?;
    ensure!(answer.success, "{}", answer.stderr);
    let before = server.get(kind, &name)?;
    let patch = json!({"spec": (change.patch)()}).to_string();
    let arguments = ["patch", kind, &name, "--namespace", NAMESPACE, "--type=merge", "--patch", &patch];
    match change.refused {
        Some(fragment) => {
            server.expect_refusal(&arguments, fragment)?;
            ensure!(
                server.get(kind, &name)?["spec"] == before["spec"],
                "it was refused, and changed all the same"
            );
        }
        None => {
            server.expect(&arguments)?;
            ensure!(
                server.get(kind, &name)?["spec"] != before["spec"],
                "it was accepted, and changed nothing"
            );
        }
    }
    server.expect(&["delete", kind, &name, "--namespace", NAMESPACE])?;
    Ok(())
}
