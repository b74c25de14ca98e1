//! How far things have come that somebody waits for.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use umbra_crds::conditions::{ConditionType, OperationFailed, Reason, find};
use umbra_crds::{CopyDirection, CopyState, ImagingOperation, MasterVolume, VolumeSet};

/// Reasons by which a guard, and no fault, has ended an operation.
const GUARDS: [OperationFailed; 6] = [
    OperationFailed::StaleGuard,
    OperationFailed::ShadowWritten,
    OperationFailed::Untrusted,
    OperationFailed::InUse,
    OperationFailed::Protected,
    OperationFailed::NameUsed,
];

/// How far something has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has begun.
    Waiting,
    /// It is being done.
    Running {
        /// What is being done.
        what: String,
        /// How much of it is done.
        percent: Option<i32>,
    },
    /// It is done.
    Done {
        /// How, in one word.
        reason: String,
    },
    /// It will not be done.
    Failed {
        /// Why, in one word.
        reason: String,
        /// Why, and what can be done.
        message: String,
        /// Whether a guard has refused it.
        by_guard: bool,
    },
}

fn is_true(conditions: &[Condition], condition: ConditionType) -> Option<&Condition> {
    find(conditions, condition).filter(|found| found.status == "True")
}

fn failed(condition: &Condition) -> Standing {
    Standing::Failed {
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        by_guard: condition.type_ == ConditionType::Failed.as_str()
            && GUARDS.iter().any(|guard| guard.as_str() == condition.reason),
    }
}

/// How far an operation has come.
#[must_use]
pub fn of_operation(operation: &ImagingOperation) -> Standing {
    let Some(status) = &operation.status else { return Standing::Waiting };
    if let Some(condition) = is_true(&status.conditions, ConditionType::Failed) {
        return failed(condition);
    }
    match is_true(&status.conditions, ConditionType::Complete) {
        Some(condition) => Standing::Done { reason: condition.reason.clone() },
        None if status.start_time.is_some() => {
            Standing::Running { what: operation.spec.command.to_string(), percent: status.percent }
        }
        None => Standing::Waiting,
    }
}

/// How far a set has come on its way to rest: ready, with no operation and no copy.
#[must_use]
pub fn of_set(set: &VolumeSet) -> Standing {
    let Some(status) = &set.status else { return Standing::Waiting };
    if status.observed_generation < set.metadata.generation {
        return Standing::Waiting;
    }
    if let Some(condition) = is_true(&status.conditions, ConditionType::Stalled) {
        return failed(condition);
    }
    if let Some(copy) = status.copy.as_ref().filter(|copy| copy.state == CopyState::Running) {
        let what = match copy.direction {
            Some(CopyDirection::ToMaster) => "restoring to master",
            Some(CopyDirection::ToShadow) | None => "copying to shadow",
        };
        return Standing::Running { what: what.to_owned(), percent: Some(copy.percent) };
    }
    if let Some(operation) = &status.current_operation {
        return Standing::Running { what: operation.to_string(), percent: None };
    }
    match find(&status.conditions, ConditionType::Ready) {
        Some(ready) if ready.status == "True" => Standing::Done { reason: ready.reason.clone() },
        // It does not go on by itself.
        Some(ready) if ready.reason == "Aborted" => failed(ready),
        Some(ready) => Standing::Running { what: ready.reason.clone(), percent: None },
        None => Standing::Waiting,
    }
}

/// How far a master has come on its way to being used through Umbra, its claim swapped where it is taken over.
#[must_use]
pub fn of_master(master: &MasterVolume) -> Standing {
    let Some(status) = &master.status else { return Standing::Waiting };
    if status.observed_generation < master.metadata.generation {
        return Standing::Waiting;
    }
    if let Some(condition) = is_true(&status.conditions, ConditionType::Stalled) {
        return failed(condition);
    }
    let told = |condition: &Condition| match condition.message.as_str() {
        "" => condition.reason.clone(),
        message => format!("{}: {message}", condition.reason),
    };
    let ready = find(&status.conditions, ConditionType::Ready);
    match (find(&status.conditions, ConditionType::TakenOver), ready) {
        (Some(taken), _) if taken.status != "True" => Standing::Running { what: told(taken), percent: None },
        (_, Some(ready)) if ready.status == "True" => Standing::Done { reason: ready.reason.clone() },
        (_, Some(ready)) => Standing::Running { what: told(ready), percent: None },
        (_, None) => Standing::Waiting,
    }
}

/// How far a master has come that is released: it is done when the object is gone.
#[must_use]
pub fn of_release(master: &MasterVolume) -> Standing {
    let conditions = master.status.as_ref().map_or(&[][..], |status| &status.conditions);
    match find(conditions, ConditionType::Ready) {
        _ if master.metadata.deletion_timestamp.is_none() => Standing::Waiting,
        Some(ready)
            if ready.reason == "DeletionBlockedInUse"
                && is_true(conditions, ConditionType::Stalled).is_some() =>
        {
            failed(ready)
        }
        Some(ready) if ready.reason == "DeletionBlockedInUse" && !ready.message.is_empty() => {
            Standing::Running { what: ready.message.clone(), percent: None }
        }
        _ => Standing::Running { what: "it is released".to_owned(), percent: None },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::examples::set;

    fn condition(about: &str, status: &str, reason: &str) -> Value {
        let time = "2026-11-22T11:00:00Z";
        json!({"type": about, "status": status, "reason": reason, "message": "why", "lastTransitionTime": time})
    }

    fn operation(status: Value) -> Standing {
        let object = json!({
            "apiVersion": "imaging.umbra.dev/v1alpha1", "kind": "ImagingOperation", "metadata": {"name": "o"},
            "spec": {"target": {"kind": "VolumeSet", "name": "s"}, "command": "UpdateShadow"}, "status": status,
        });
        of_operation(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn an_operation_waits_runs_and_ends() {
        assert_eq!(operation(json!({})), Standing::Waiting);
        let begun = json!({"startTime": "2026-11-22T11:00:00Z", "percent": 7});
        assert_eq!(operation(begun), Standing::Running { what: "UpdateShadow".to_owned(), percent: Some(7) });
        let done = json!({"conditions": [condition("Failed", "False", "Ok"), condition("Complete", "True", "CutDone")]});
        assert_eq!(operation(done), Standing::Done { reason: "CutDone".to_owned() });
    }

    #[test]
    fn only_guards_refuse() {
        for reason in OperationFailed::explained() {
            let by_reason = json!({"conditions": [condition("Failed", "True", reason.reason)]});
            let Standing::Failed { by_guard, .. } = operation(by_reason) else { panic!("{}", reason.reason) };
            let guards = ["StaleGuard", "ShadowWritten", "Untrusted", "InUse", "Protected", "NameUsed"];
            let expected = guards.contains(&reason.reason);
            assert_eq!(by_guard, expected, "{}", reason.reason);
        }
    }

    #[test]
    fn a_set_is_at_rest_when_nothing_goes_on() {
        let standing = |status: Value| of_set(&set("s", "m", status));
        assert_eq!(standing(json!({})), Standing::Done { reason: "Dependent".to_owned() });
        let copying = json!({"copy": {"state": "Running", "direction": "ToMaster", "percent": 61}});
        let what = "restoring to master".to_owned();
        assert_eq!(standing(copying), Standing::Running { what, percent: Some(61) });
        let operated = standing(json!({"currentOperation": "cut-1"}));
        assert_eq!(operated, Standing::Running { what: "cut-1".to_owned(), percent: None });
        assert_eq!(
            standing(json!({"observedGeneration": 0})),
            Standing::Waiting,
            "a status of before says nothing"
        );
        let starting = json!({"conditions": [condition("Ready", "False", "MasterNotReady")]});
        assert!(matches!(standing(starting), Standing::Running { .. }));
        for stuck in [condition("Ready", "False", "Aborted"), condition("Stalled", "True", "ForeignBitmap")] {
            let standing = standing(json!({"conditions": [stuck]}));
            assert!(matches!(standing, Standing::Failed { by_guard: false, .. }), "{standing:?}");
        }
    }

    #[test]
    fn a_takeover_is_done_when_pods_can_use_the_claim() {
        let standing = |status: Value| {
            let mut master = crate::examples::master("m", &[]);
            let mut all = json!({"observedGeneration": 1});
            all.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
            master.status = serde_json::from_value(all).unwrap();
            of_master(&master)
        };
        let waits =
            [condition("Ready", "False", "TakingOver"), condition("TakenOver", "False", "WaitingForPods")];
        let what = "WaitingForPods: why".to_owned();
        assert_eq!(standing(json!({"conditions": waits})), Standing::Running { what, percent: None });
        let done = [condition("Ready", "True", "Live"), condition("TakenOver", "True", "Done")];
        assert_eq!(standing(json!({"conditions": done})), Standing::Done { reason: "Live".to_owned() });
        let stalled = [condition("Stalled", "True", "NotSupported")];
        assert!(matches!(standing(json!({"conditions": stalled})), Standing::Failed { .. }));
        assert_eq!(standing(json!({"observedGeneration": 0})), Standing::Waiting);
    }
}
