//! Operations as they are asked for.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use umbra_crds::{
    Command, Duration, FileSystemQuiesce, ImagingOperation, ImagingOperationSpec, InUsePolicy, ObjectName,
    Quiesce, Target, TargetKind, WaitFor,
};

/// As many characters as a label may have, so that a name can be one.
const NAME_MAX: usize = 63;
/// Characters that spell no words and are not taken for each other.
const LETTERS: [char; 27] = [
    'b', 'c', 'd', 'f', 'g', 'h', 'j', 'k', 'l', 'm', 'n', 'p', 'q', 'r', 's', 't', 'v', 'w', 'x', 'z', '2',
    '4', '5', '6', '7', '8', '9',
];
const RANDOM_LETTERS: usize = 5;

/// A name for an operation that no other has had or will have: with the second it was asked for in and a random part. Names
/// cannot be left to the API server, which would not say them before the object is there.
#[must_use]
pub fn operation_name(verb: &str, target: &Target, now: &Time, random: u64) -> ObjectName {
    let time = now.0.strftime("%Y%m%d-%H%M%S");
    let base = LETTERS.len() as u64;
    let mut rest = random;
    let mut letters = String::new();
    for _ in 0..RANDOM_LETTERS {
        letters.extend(usize::try_from(rest % base).ok().and_then(|index| LETTERS.get(index)));
        rest /= base;
    }
    let end = format!("-{time}-{letters}");
    let begin: String =
        format!("{verb}-{}", target.name).chars().take(NAME_MAX.saturating_sub(end.len())).collect();
    ObjectName::new(format!("{}{end}", begin.trim_end_matches(['-', '.'])))
}

/// An operation of this name.
#[must_use]
pub fn operation(name: &ObjectName, spec: ImagingOperationSpec) -> ImagingOperation {
    ImagingOperation::new(name.as_str(), spec)
}

/// A command on a target, with nothing said that need not be.
#[must_use]
pub fn plain(target: Target, command: Command) -> ImagingOperationSpec {
    ImagingOperationSpec {
        target,
        command,
        guard: None,
        safety: None,
        quiesce: None,
        in_use_policy: InUsePolicy::default(),
        wait_for: WaitFor::default(),
        active_deadline: Duration::new("1h"),
        ttl_seconds_after_finished: Some(7 * 24 * 3600),
    }
}

/// The file system brought to rest, and no commands run.
pub(crate) fn frozen() -> Quiesce {
    Quiesce {
        file_system: FileSystemQuiesce::Freeze,
        freeze_timeout: Duration::new("30s"),
        pre: Vec::new(),
        post: Vec::new(),
    }
}

/// A target as it is written on a command line.
#[must_use]
pub fn written(target: &Target) -> String {
    match target.kind {
        TargetKind::SetGroup => format!("group:{}", target.name),
        TargetKind::VolumeSet | TargetKind::ShadowExport => target.name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(name: &str) -> Target {
        Target { kind: TargetKind::VolumeSet, name: ObjectName::new(name) }
    }

    #[test]
    fn names_differ_by_time_and_by_chance_and_fit_into_a_label() {
        let now = Time("2026-11-22T02:15:00Z".parse().unwrap());
        let name = |target: &str, random: u64| operation_name("cut", &set(target), &now, random);
        assert_eq!(name("pg-1", 0).as_str(), "cut-pg-1-20261122-021500-bbbbb");
        let many: std::collections::BTreeSet<ObjectName> =
            (0..10_000).map(|random| name("pg-1", random)).collect();
        assert_eq!(many.len(), 10_000);
        let long = name(&format!("{}.b", "a".repeat(34)), u64::MAX);
        assert!(long.as_str().len() <= 63 && !long.as_str().contains(".-"), "{long}");
        assert!(crate::written::object_name(long.as_str()).is_ok(), "{long}");
    }

    #[test]
    fn what_is_not_said_is_what_the_kinds_say_by_default() {
        let read = json!({"target": {"kind": "VolumeSet", "name": "pg-1"}, "command": "Abort"});
        assert_eq!(plain(set("pg-1"), Command::Abort), serde_json::from_value(read).unwrap());
        assert_eq!(frozen(), serde_json::from_value(json!({})).unwrap());
    }
}
