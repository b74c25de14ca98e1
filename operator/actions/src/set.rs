//! Sets as they are asked for, and what may be done to one.

use umbra_crds::validate::{self, Problem};
use umbra_crds::{
    Bitmap, ChunkSize, ClaimName, CopyLimits, LocalReference, Mode, ObjectName, OnExisting, Publish, Shadow,
    ShadowAccess, Size, VolumeMode, VolumeSet, VolumeSetSpec, VolumeSource,
};

use crate::members;
use crate::refusal::Refusal;

/// What is wanted of a new set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSet {
    /// Its name.
    pub name: ObjectName,
    /// Its master.
    pub master: LocalReference,
    /// How its image is kept.
    pub mode: Mode,
    /// The volume of the image.
    pub shadow: VolumeSource,
    /// The volume of its state; left out, the node sets one aside.
    pub bitmap: Option<VolumeSource>,
    /// Unit of tracking and copying.
    pub chunk: ChunkSize,
    /// What pods may do to the image.
    pub access: ShadowAccess,
    /// The claim through which pods use it.
    pub publish: Option<ClaimName>,
}

/// The object for a new set.
///
/// # Errors
/// What is wrong with it and no rule of the API server finds.
pub fn new_set(wanted: NewSet) -> Result<VolumeSet, Vec<Problem>> {
    let publish = |claim_name| Publish {
        claim_name,
        read_only: wanted.access == ShadowAccess::ReadOnly,
        labels: std::collections::BTreeMap::new(),
        storage_class_name: ObjectName::new("umbra-static"),
        volume_mode: VolumeMode::default(),
        fs_type: None,
        mount_options: Vec::new(),
    };
    let spec = VolumeSetSpec {
        master_ref: wanted.master,
        mode: wanted.mode,
        shadow: Shadow {
            source: wanted.shadow,
            access: wanted.access,
            protected: false,
            publish: wanted.publish.map(publish),
        },
        bitmap: wanted.bitmap.map_or_else(Bitmap::default, |source| Bitmap { source }),
        overflow_ref: None,
        chunk_size: wanted.chunk,
        copy: CopyLimits::default(),
        on_existing: OnExisting::default(),
        adopt_set_id: None,
        initial_quiesce: None,
    };
    let problems = validate::volume_set(&spec);
    if problems.is_empty() { Ok(VolumeSet::new(wanted.name.as_str(), spec)) } else { Err(problems) }
}

/// Whether a set may be deleted.
///
/// # Errors
/// Where its image is protected.
pub fn deletion(set: &VolumeSet) -> Result<(), Refusal> {
    if set.spec.shadow.protected { Err(Refusal::Protected { set: members::name(set) }) } else { Ok(()) }
}

/// What is changed of the limits of a set's copies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewLimits {
    /// Bytes per second at most, or that there shall be no limit.
    pub rate: Option<Option<Size>>,
    /// Chunks at the same time at most.
    pub in_flight: Option<i32>,
}

/// The limits of a set's copies after a change.
///
/// # Errors
/// Where a copy with them would never end, or they cannot be read.
pub fn limits(set: &VolumeSet, change: &NewLimits) -> Result<CopyLimits, Vec<Problem>> {
    let mut spec = set.spec.clone();
    if let Some(rate) = &change.rate {
        spec.copy.max_bytes_per_second.clone_from(rate);
    }
    spec.copy.max_in_flight = change.in_flight.unwrap_or(spec.copy.max_in_flight);
    let problems = validate::volume_set(&spec);
    if problems.is_empty() { Ok(spec.copy) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::examples;
    use crate::written::{object_name, reference, source};

    fn wanted() -> NewSet {
        NewSet {
            name: object_name("pg-1").unwrap(),
            master: reference("pg-data").unwrap(),
            mode: Mode::Dependent,
            shadow: source("pvc:s").unwrap(),
            bitmap: None,
            chunk: ChunkSize::default(),
            access: ShadowAccess::ReadOnly,
            publish: Some(ClaimName::new("pg-1-image")),
        }
    }

    #[test]
    fn what_is_not_said_is_what_the_kinds_say_by_default() {
        let read = json!({
            "masterRef": {"name": "pg-data"},
            "mode": "Dependent",
            "shadow": {"source": {"pvc": {"claimName": "s"}}, "publish": {"claimName": "pg-1-image", "readOnly": true}},
        });
        let read: VolumeSetSpec = serde_json::from_value(read).unwrap();
        assert_eq!(new_set(wanted()).unwrap().spec, read);
        let writable = NewSet { access: ShadowAccess::ReadWrite, ..wanted() };
        assert!(!new_set(writable).unwrap().spec.shadow.publish.unwrap().read_only);
    }

    #[test]
    fn what_no_rule_finds_is_found_here() {
        let small = NewSet { bitmap: Some(source("managed:4Ki").unwrap()), ..wanted() };
        assert!(matches!(new_set(small).unwrap_err()[..], [Problem::ManagedTooSmall { .. }]));
        let mut set = examples::set("s", "m", json!({}));
        let rate = |text: &str| NewLimits { rate: Some(Some(Size::new(text))), in_flight: None };
        assert!(matches!(limits(&set, &rate("0")).unwrap_err()[..], [Problem::RateZero { .. }]));
        set.spec.copy = limits(&set, &rate("100Mi")).unwrap();
        let fewer = NewLimits { rate: None, in_flight: Some(4) };
        set.spec.copy = limits(&set, &fewer).unwrap();
        let CopyLimits { max_bytes_per_second, max_in_flight, .. } = &set.spec.copy;
        assert_eq!((max_bytes_per_second.as_ref().map(Size::as_str), *max_in_flight), (Some("100Mi"), 4));
        let free = NewLimits { rate: Some(None), in_flight: None };
        assert_eq!(limits(&set, &free).unwrap().max_bytes_per_second, None);
    }

    #[test]
    fn a_protected_image_is_not_deleted() {
        let mut set = examples::set("s", "m", json!({}));
        assert_eq!(deletion(&set), Ok(()));
        set.spec.shadow.protected = true;
        assert!(matches!(deletion(&set), Err(Refusal::Protected { .. })));
    }
}
