//! What people write on a command line or in a form, read into the words of the kinds.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use thiserror::Error;
use umbra_crds::{
    ClaimName, ClaimSource, DeviceId, DevicePattern, DeviceSource, GrantName, GrantReference, LocalReference,
    ManagedSource, NodeName, ObjectName, Role, Size, Target, TargetKind, VolumeSource,
};

/// Where device names begin that are written without a folder.
const BY_ID: &str = "/dev/disk/by-id/";

/// A text that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not {expected}")]
pub struct Unreadable {
    text: String,
    expected: &'static str,
}

fn unreadable(text: &str, expected: &'static str) -> Unreadable {
    Unreadable { text: text.to_owned(), expected }
}

/// The name of an object.
///
/// # Errors
/// Where no object could have it.
pub fn object_name(text: &str) -> Result<ObjectName, Unreadable> {
    name(text).map(ObjectName::new)
}

fn name(text: &str) -> Result<&str, Unreadable> {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let ends = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let good = bytes.first().is_some_and(ends) && bytes.last().is_some_and(ends);
    if good && text.len() <= 253 && text.bytes().all(allowed) {
        Ok(text)
    } else {
        Err(unreadable(text, "a name of an object: small letters, digits, - and ."))
    }
}

/// What a command acts on: `SET` or `group:GROUP`.
///
/// # Errors
/// Where it is neither.
pub fn target(text: &str) -> Result<Target, Unreadable> {
    let (kind, rest) = match text.split_once(':') {
        None => (TargetKind::VolumeSet, text),
        Some(("set", rest)) => (TargetKind::VolumeSet, rest),
        Some(("group", rest)) => (TargetKind::SetGroup, rest),
        Some(_) => return Err(unreadable(text, "a set: SET, or group:GROUP")),
    };
    Ok(Target { kind, name: object_name(rest)? })
}

/// Where storage comes from: `pvc:CLAIM`, `device:GRANT/NODE/ID`, `managed` or `managed:SIZE`. An ID without a folder is below
/// `/dev/disk/by-id`.
///
/// # Errors
/// Where it is none of them.
pub fn source(text: &str) -> Result<VolumeSource, Unreadable> {
    let expected = "storage: pvc:CLAIM, device:GRANT/NODE/ID, managed or managed:SIZE";
    let mut source = VolumeSource { pvc: None, device: None, managed: None };
    match text.split_once(':') {
        None if text == "managed" => source.managed = Some(ManagedSource::default()),
        Some(("managed", size)) => {
            let size = Size::new(size);
            size.bytes().map_err(|error| unreadable(&error.text, error.expected))?;
            source.managed = Some(ManagedSource { size: Some(size) });
        }
        Some(("pvc", claim)) => {
            source.pvc = Some(ClaimSource { claim_name: ClaimName::new(name(claim)?) });
        }
        Some(("device", device)) => {
            let parts: Vec<&str> = device.splitn(3, '/').collect();
            let [grant, node, id] = parts[..] else { return Err(unreadable(text, expected)) };
            source.device = Some(DeviceSource {
                grant_ref: GrantReference { name: GrantName::new(name(grant)?) },
                node_name: NodeName::new(name(node)?),
                id: DeviceId::new(in_folder(id)),
                wipe_signature: None,
            });
        }
        _ => return Err(unreadable(text, expected)),
    }
    Ok(source)
}

/// A pattern of devices. Without a folder it is one of names below `/dev/disk/by-id`.
#[must_use]
pub fn device_pattern(text: &str) -> DevicePattern {
    DevicePattern::new(in_folder(text))
}

fn in_folder(id: &str) -> String {
    if id.starts_with('/') { id.to_owned() } else { format!("{BY_ID}{id}") }
}

/// A role, whatever the size of its letters.
///
/// # Errors
/// Where there is no such role.
pub fn role(text: &str) -> Result<Role, Unreadable> {
    let named = |role: &&Role| role.as_str().eq_ignore_ascii_case(text);
    let found = Role::ALL.iter().find(named).copied();
    found.ok_or_else(|| unreadable(text, "a role: Master, Shadow, Bitmap, Overflow or ImportTarget"))
}

/// A label selector as `kubectl` takes them: `a=b,c!=d,e,!f`.
///
/// # Errors
/// Where a part of it is none of these.
pub fn selector(text: &str) -> Result<LabelSelector, Unreadable> {
    let mut selector = LabelSelector::default();
    for part in text.split(',') {
        let part = part.trim();
        let (key, operator, value) = if let Some((key, value)) = part.split_once("!=") {
            (key, "NotIn", Some(value))
        } else if let Some((key, value)) = part.split_once('=') {
            (key, "In", Some(value.trim_start_matches('=')))
        } else if let Some(key) = part.strip_prefix('!') {
            (key, "DoesNotExist", None)
        } else {
            (part, "Exists", None)
        };
        let allowed =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
        if key.is_empty() || !allowed(key) || !value.is_none_or(allowed) {
            return Err(unreadable(text, "a label selector: a=b, a!=b, a or !a, with commas between"));
        }
        if let ("In", Some(value)) = (operator, value) {
            selector.match_labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        } else {
            selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                key: key.to_owned(),
                operator: operator.to_owned(),
                values: value.map(|value| vec![value.to_owned()]),
            });
        }
    }
    Ok(selector)
}

/// A reference to an object of the same namespace.
///
/// # Errors
/// Where no object could have the name.
pub fn reference(text: &str) -> Result<LocalReference, Unreadable> {
    Ok(LocalReference { name: object_name(text)? })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_name_that_would_leave_its_folder_is_no_name() {
        assert!(object_name("pg-1.a").is_ok());
        for wrong in ["", "..", "../nodes", "a/b", "A", "-a", "a-", "a b", &"a".repeat(254)] {
            assert!(object_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn targets_are_sets_and_groups() {
        let kind = |text: &str| target(text).map(|target| (target.kind, target.name.to_string()));
        assert_eq!(kind("pg-1"), Ok((TargetKind::VolumeSet, "pg-1".to_owned())));
        assert_eq!(kind("group:pg"), Ok((TargetKind::SetGroup, "pg".to_owned())));
        assert!(kind("export:pg").is_err());
        assert!(kind("group:").is_err());
    }

    #[test]
    fn storage_is_read_as_the_kinds_write_it() {
        let read = |text: &str| source(text).map(|source| serde_json::to_value(source).unwrap());
        assert_eq!(read("pvc:data"), Ok(json!({"pvc": {"claimName": "data"}})));
        assert_eq!(read("managed"), Ok(json!({"managed": {}})));
        assert_eq!(read("managed:64Mi"), Ok(json!({"managed": {"size": "64Mi"}})));
        let device =
            |id: &str| json!({"device": {"grantRef": {"name": "spares"}, "nodeName": "node-a", "id": id}});
        assert_eq!(read("device:spares/node-a/nvme-S1"), Ok(device("/dev/disk/by-id/nvme-S1")));
        assert_eq!(read("device:spares/node-a//dev/mapper/vg-s"), Ok(device("/dev/mapper/vg-s")));
        for wrong in ["data", "pvc:", "device:spares/node-a", "managed:much", "nfs:server"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn selectors_say_what_kubectl_makes_of_them() {
        let read = |text: &str| selector(text).map(|selector| serde_json::to_value(selector).unwrap());
        assert_eq!(read("a=b,c==d"), Ok(json!({"matchLabels": {"a": "b", "c": "d"}})));
        let expressions: Value = json!([
            {"key": "a", "operator": "NotIn", "values": ["b"]},
            {"key": "c", "operator": "Exists"},
            {"key": "d.e/f", "operator": "DoesNotExist"},
        ]);
        assert_eq!(read("a!=b,c,!d.e/f"), Ok(json!({"matchExpressions": expressions})));
        for wrong in ["", "a=b,,c", "a in (b)", "=b", "!"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
