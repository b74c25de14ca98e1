//! What the rules in the schemas cannot say of an object: pure, without looking at any other object.
//!
//! The API server has checked the form of everything that was written since its schemas are in place. What is found
//! here was written before, or asks for arithmetic that the rules do not have. A reader calls this before it acts.

use thiserror::Error;

use crate::device_grant::{DeviceGrantSpec, DeviceMatcher};
use crate::source::{Role, VolumeSource};
use crate::values::{DeviceId, InvalidValue, NamespaceName, Size};
use crate::{ImagingOperationSpec, Quiesce, SetGroupSpec, VolumeSetSpec};

/// What is wrong with an object, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// A text does not have the form that its field asks for.
    #[error("{field}: {error}")]
    Form {
        /// The field.
        field: String,
        /// What was expected.
        error: InvalidValue,
    },
    /// Managed space is smaller than anything could use.
    #[error(
        "{field}: {size} is too small for any bitmap volume: give at least {least} bytes, or leave it out"
    )]
    ManagedTooSmall {
        /// The field.
        field: String,
        /// What was found.
        size: Size,
        /// The least.
        least: u64,
    },
    /// A rate that would never end.
    #[error("{field}: a copy at 0 bytes per second never ends: leave it out for no limit, or give a rate")]
    RateZero {
        /// The field.
        field: String,
    },
    /// A grant's least size is above its greatest.
    #[error("devices[{index}]: minSize {min} is above maxSize {max}: no device meets both")]
    SizesCrossed {
        /// The entry.
        index: usize,
        /// The least size.
        min: Size,
        /// The greatest size.
        max: Size,
    },
}

/// Below this no bitmap volume holds its own header.
pub const BITMAP_BYTES_MIN: u64 = 1 << 20;

fn form<T>(field: &str, result: Result<T, InvalidValue>, problems: &mut Vec<Problem>) -> Option<T> {
    result.map_err(|error| problems.push(Problem::Form { field: field.to_owned(), error })).ok()
}

/// What is wrong with a set's spec.
#[must_use]
pub fn volume_set(spec: &VolumeSetSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    managed("shadow.source", &spec.shadow.source, &mut problems);
    managed("bitmap.source", &spec.bitmap.source, &mut problems);
    if let Some(rate) = &spec.copy.max_bytes_per_second {
        let field = "copy.maxBytesPerSecond";
        if form(field, rate.bytes(), &mut problems) == Some(0) {
            problems.push(Problem::RateZero { field: field.to_owned() });
        }
    }
    if let Some(wanted) = &spec.initial_quiesce {
        quiesce("initialQuiesce", wanted, &mut problems);
    }
    problems
}

/// What is wrong with a group's spec.
#[must_use]
pub fn set_group(spec: &SetGroupSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    form("gateLease", spec.gate_lease.length(), &mut problems);
    problems
}

/// What is wrong with an operation's spec.
#[must_use]
pub fn imaging_operation(spec: &ImagingOperationSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    form("activeDeadline", spec.active_deadline.length(), &mut problems);
    if let Some(wanted) = &spec.quiesce {
        quiesce("quiesce", wanted, &mut problems);
    }
    problems
}

/// What is wrong with a grant's spec.
#[must_use]
pub fn device_grant(spec: &DeviceGrantSpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, entry) in spec.devices.iter().enumerate() {
        let mut bytes = |name: &str, size: &Option<Size>| {
            size.as_ref()
                .and_then(|size| form(&format!("devices[{index}].{name}"), size.bytes(), &mut problems))
        };
        let (min, max) = (bytes("minSize", &entry.min_size), bytes("maxSize", &entry.max_size));
        if let (Some(min), Some(max)) = (min, max)
            && min > max
            && let (Some(min), Some(max)) = (entry.min_size.clone(), entry.max_size.clone())
        {
            problems.push(Problem::SizesCrossed { index, min, max });
        }
    }
    problems
}

fn managed(field: &str, source: &VolumeSource, problems: &mut Vec<Problem>) {
    let Some(size) = source.managed.as_ref().and_then(|managed| managed.size.as_ref()) else { return };
    let field = format!("{field}.managed.size");
    if let Some(bytes) = form(&field, size.bytes(), problems)
        && bytes < BITMAP_BYTES_MIN
    {
        problems.push(Problem::ManagedTooSmall { field, size: size.clone(), least: BITMAP_BYTES_MIN });
    }
}

fn quiesce(field: &str, wanted: &Quiesce, problems: &mut Vec<Problem>) {
    form(&format!("{field}.freezeTimeout"), wanted.freeze_timeout.length(), problems);
    for (list, hooks) in [("pre", &wanted.pre), ("post", &wanted.post)] {
        for (index, hook) in hooks.iter().enumerate() {
            form(&format!("{field}.{list}[{index}].timeout"), hook.timeout.length(), problems);
        }
    }
}

/// A device as a grant looks at it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The name it was asked for by.
    pub id: &'a DeviceId,
    /// Its serial number, where the node knows it.
    pub serial: Option<&'a str>,
    /// Its size.
    pub size_bytes: u64,
}

/// Whether a grant covers a device in a role, as far as the grant's own text decides: whether it selects the node, or the
/// namespace by labels, is for the caller to say.
#[must_use]
pub fn grants(spec: &DeviceGrantSpec, role: Role, device: Candidate<'_>) -> bool {
    spec.roles.contains(&role) && spec.devices.iter().any(|entry| covers(entry, device))
}

/// Whether a grant names a namespace.
#[must_use]
pub fn names(spec: &DeviceGrantSpec, namespace: &NamespaceName) -> bool {
    spec.namespaces.as_ref().is_some_and(|names| names.contains(namespace))
}

/// What cannot be read grants nothing, and neither does an entry that asks for nothing.
fn covers(entry: &DeviceMatcher, device: Candidate<'_>) -> bool {
    let asks = entry.id_pattern.is_some()
        || entry.serial.is_some()
        || entry.min_size.is_some()
        || entry.max_size.is_some();
    let id = entry.id_pattern.as_ref().is_none_or(|pattern| pattern.matches(device.id));
    let serial = entry.serial.as_deref().is_none_or(|serial| device.serial == Some(serial));
    let above = |size: &Size| size.bytes().is_ok_and(|least| device.size_bytes >= least);
    let below = |size: &Size| size.bytes().is_ok_and(|greatest| device.size_bytes <= greatest);
    asks && id
        && serial
        && entry.min_size.as_ref().is_none_or(above)
        && entry.max_size.as_ref().is_none_or(below)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn grant(devices: &serde_json::Value) -> DeviceGrantSpec {
        let spec =
            json!({"nodeSelector": {}, "devices": devices, "roles": ["Shadow"], "namespaces": ["prod"]});
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn a_grant_covers_what_meets_all_of_an_entry() {
        let id = DeviceId::new("/dev/disk/by-id/nvme-KIOXIA_S1");
        let device = Candidate { id: &id, serial: Some("S1"), size_bytes: 1 << 30 };
        let covers = |entry: serde_json::Value| grants(&grant(&json!([entry])), Role::Shadow, device);
        assert!(covers(json!({"idPattern": "/dev/disk/by-id/nvme-KIOXIA_*"})));
        assert!(covers(json!({"serial": "S1", "maxSize": "1Gi"})));
        assert!(!covers(json!({"serial": "S1", "maxSize": "1M"})));
        assert!(!covers(json!({"serial": "S2"})));
        assert!(!covers(json!({"minSize": "nonsense"})), "what cannot be read grants nothing");
        assert!(!covers(json!({})), "what asks for nothing grants nothing");
        let spec = grant(&json!([{"serial": "S1"}]));
        assert!(!grants(&spec, Role::Master, device), "the role is not granted");
        assert!(names(&spec, &NamespaceName::new("prod")));
        assert!(!names(&spec, &NamespaceName::new("dev")));
    }

    #[test]
    fn what_rules_cannot_say_is_found() {
        let spec = grant(&json!([{"serial": "S1"}, {"minSize": "2Gi", "maxSize": "1Gi"}]));
        let found: Vec<String> = device_grant(&spec).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["devices[1]: minSize 2Gi is above maxSize 1Gi: no device meets both"]);
        let set = json!({
            "masterRef": {"name": "m"},
            "mode": "Dependent",
            "shadow": {"source": {"pvc": {"claimName": "c"}}},
            "bitmap": {"source": {"managed": {"size": 4096}}},
            "copy": {"maxBytesPerSecond": "0"},
            "initialQuiesce": {"freezeTimeout": "soon"},
        });
        let found = volume_set(&serde_json::from_value(set).unwrap());
        assert!(
            matches!(&found[0], Problem::ManagedTooSmall { field, .. } if field == "bitmap.source.managed.size")
        );
        assert!(matches!(&found[1], Problem::RateZero { .. }));
        assert!(matches!(&found[2], Problem::Form { field, .. } if field == "initialQuiesce.freezeTimeout"));
        assert_eq!(found.len(), 3);
    }
}
