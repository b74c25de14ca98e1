//! The one picture of everything: masters with their sets, what was done lately, and what is the matter.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use serde::Serialize;
use umbra_crds::conditions::{ConditionType, find};
use umbra_crds::{
    Consistency, CopyDirection, CopyState, CutId, ImagingNode, ImagingOperation, MasterVolume, Mode,
    SetGroup, VolumeSet,
};

use crate::operation;
use crate::standing::{self, Standing};

/// How many operations count as lately.
const OPERATIONS_MAX: usize = 5;
/// For how long a failed operation is something that is the matter.
const FAILURE_SECONDS: i64 = 24 * 3600;

/// What the picture is made from.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// Masters.
    pub masters: Vec<MasterVolume>,
    /// Sets.
    pub sets: Vec<VolumeSet>,
    /// Groups.
    pub groups: Vec<SetGroup>,
    /// Operations.
    pub operations: Vec<ImagingOperation>,
    /// Nodes, unless who asks may not see them.
    pub nodes: Option<Vec<ImagingNode>>,
}

/// The picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Picture {
    /// Nodes that serve volumes, of how many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodeCount>,
    /// Masters, by namespace and name.
    pub masters: Vec<MasterLine>,
    /// Sets whose master does not exist.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sets_without_master: Vec<SetLine>,
    /// Groups, by namespace and name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupLine>,
    /// The latest operations, the latest first.
    pub operations: Vec<OperationLine>,
    /// What is the matter.
    pub problems: Vec<ProblemLine>,
}

/// Nodes that serve volumes, of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NodeCount {
    /// Those that do.
    pub ready: usize,
    /// All.
    pub total: usize,
}

/// Whether an object is ready, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether it is.
    pub ready: bool,
    /// The reason, in one word; `Unseen` where no controller has looked at the object yet.
    pub reason: String,
}

/// A master.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MasterLine {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Node that serves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// The claim through which pods use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Who uses it, as `kind/name`.
    pub users: Vec<String>,
    /// Whether it is served.
    #[serde(flatten)]
    pub readiness: Readiness,
    /// Its sets, by name.
    pub sets: Vec<SetLine>,
}

/// A set.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetLine {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its master.
    pub master: String,
    /// How its image is kept.
    pub mode: Mode,
    /// Its image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageLine>,
    /// The copy that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyLine>,
    /// Whether the image is kept from being replaced.
    pub protected: bool,
    /// Whether the set holds its image.
    #[serde(flatten)]
    pub readiness: Readiness,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageLine {
    /// The cut that made it.
    #[serde(rename = "cutID")]
    pub cut_id: CutId,
    /// How long ago.
    pub age_seconds: i64,
    /// How far it can be relied on.
    pub consistency: Consistency,
    /// How much of the master has changed since.
    pub changed_percent: i32,
    /// Whether the shadow was written since.
    pub written: bool,
    /// Chunks that could not be kept.
    pub lost_chunks: i64,
}

/// A copy that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyLine {
    /// Where it goes.
    pub direction: CopyDirection,
    /// How much is done.
    pub percent: i32,
    /// How fast it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// How long it will take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<i64>,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupLine {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its members.
    pub members: Vec<String>,
    /// Whether it can be cut.
    #[serde(flatten)]
    pub readiness: Readiness,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationLine {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it does.
    pub command: umbra_crds::Command,
    /// To what, as `SET` or `group:GROUP`.
    pub target: String,
    /// How it stands: Complete, Failed, Running, or Waiting.
    pub state: OperationState,
    /// Why, in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The cut it made.
    #[serde(rename = "cutID", skip_serializing_if = "Option::is_none")]
    pub cut_id: Option<CutId>,
    /// How much of its copy is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<i32>,
    /// How long ago it was asked for.
    pub age_seconds: i64,
}

/// How an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum OperationState {
    /// Nobody has begun with it.
    Waiting,
    /// It is being done.
    Running,
    /// It is done.
    Complete,
    /// It has failed.
    Failed,
}

/// Something that is the matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProblemLine {
    /// The object, as `kind/namespace/name`.
    pub object: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, and what can be done.
    pub message: String,
}

/// Makes the picture of these objects at this time.
#[must_use]
pub fn picture(objects: &Objects, now: &Time) -> Picture {
    let mut sets: Vec<SetLine> = objects.sets.iter().map(|set| set_line(set, now)).collect();
    sets.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let mut masters: Vec<MasterLine> = objects.masters.iter().map(master_line).collect();
    masters.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let mut sets_without_master = Vec::new();
    for set in sets {
        let of = |master: &&mut MasterLine| master.namespace == set.namespace && master.name == set.master;
        match masters.iter_mut().find(of) {
            Some(master) => master.sets.push(set),
            None => sets_without_master.push(set),
        }
    }
    let mut groups: Vec<GroupLine> = objects.groups.iter().map(group_line).collect();
    groups.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let mut operations = operation_lines(&objects.operations, now);
    operations.truncate(OPERATIONS_MAX);
    let problems = problems(objects, &sets_without_master, now);
    Picture {
        nodes: objects.nodes.as_deref().map(count),
        masters,
        sets_without_master,
        groups,
        operations,
        problems,
    }
}

fn count(nodes: &[ImagingNode]) -> NodeCount {
    let ready = |node: &&ImagingNode| {
        readiness(conditions(node.status.as_ref().map(|status| &status.conditions))).ready
    };
    NodeCount { ready: nodes.iter().filter(ready).count(), total: nodes.len() }
}

fn conditions(conditions: Option<&Vec<Condition>>) -> &[Condition] {
    conditions.map_or(&[], Vec::as_slice)
}

fn is_true(conditions: &[Condition], condition: ConditionType) -> Option<&Condition> {
    find(conditions, condition).filter(|found| found.status == "True")
}

fn readiness(conditions: &[Condition]) -> Readiness {
    find(conditions, ConditionType::Ready).map_or_else(
        || Readiness { ready: false, reason: "Unseen".to_owned() },
        |found| Readiness { ready: found.status == "True", reason: found.reason.clone() },
    )
}

fn names(metadata: &ObjectMeta) -> (String, String) {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn seconds_since(time: &Time, now: &Time) -> i64 {
    now.0.as_second().saturating_sub(time.0.as_second())
}

fn positive(amount: i64) -> Option<u64> {
    u64::try_from(amount).ok()
}

fn master_line(master: &MasterVolume) -> MasterLine {
    let (namespace, name) = names(&master.metadata);
    let status = master.status.clone().unwrap_or_default();
    MasterLine {
        namespace,
        name,
        node: status.node_name.map(|node| node.to_string()),
        size_bytes: status.size_bytes.and_then(positive),
        claim: status.claim_name.map(|claim| claim.to_string()),
        users: status
            .users
            .iter()
            .map(|user| format!("{}/{}", user.kind.to_lowercase(), user.name))
            .collect(),
        readiness: readiness(&status.conditions),
        sets: Vec::new(),
    }
}

fn set_line(set: &VolumeSet, now: &Time) -> SetLine {
    let (namespace, name) = names(&set.metadata);
    let status = set.status.clone().unwrap_or_default();
    let image = status.image.as_ref().map(|image| ImageLine {
        cut_id: image.cut_id,
        age_seconds: seconds_since(&image.time, now),
        consistency: image.consistency,
        changed_percent: image.changed_percent,
        written: image.written,
        lost_chunks: image.lost_chunks,
    });
    let running = status.copy.as_ref().filter(|copy| copy.state == CopyState::Running);
    let copy = running.and_then(|copy| {
        Some(CopyLine {
            direction: copy.direction?,
            percent: copy.percent,
            bytes_per_second: copy.bytes_per_second.and_then(positive),
            seconds_left: copy.estimated_end.as_ref().map(|end| -seconds_since(end, now)),
        })
    });
    SetLine {
        namespace,
        name,
        master: set.spec.master_ref.name.to_string(),
        mode: set.spec.mode,
        image,
        copy,
        protected: set.spec.shadow.protected,
        readiness: readiness(&status.conditions),
    }
}

fn group_line(group: &SetGroup) -> GroupLine {
    let (namespace, name) = names(&group.metadata);
    let status = group.status.clone().unwrap_or_default();
    GroupLine {
        namespace,
        name,
        members: status.members.iter().map(|member| member.name.to_string()).collect(),
        readiness: readiness(&status.conditions),
    }
}

/// The operations, the latest first.
#[must_use]
pub fn operation_lines(operations: &[ImagingOperation], now: &Time) -> Vec<OperationLine> {
    let mut lines: Vec<OperationLine> =
        operations.iter().map(|operation| operation_line(operation, now)).collect();
    lines.sort_by(|a, b| (a.age_seconds, &a.name).cmp(&(b.age_seconds, &b.name)));
    lines
}

fn operation_line(operation: &ImagingOperation, now: &Time) -> OperationLine {
    let (namespace, name) = names(&operation.metadata);
    let status = operation.status.clone().unwrap_or_default();
    let (state, reason) = match standing::of_operation(operation) {
        Standing::Waiting => (OperationState::Waiting, None),
        Standing::Running { .. } => (OperationState::Running, None),
        Standing::Done { reason } => (OperationState::Complete, Some(reason)),
        Standing::Failed { reason, .. } => (OperationState::Failed, Some(reason)),
    };
    OperationLine {
        namespace,
        name,
        command: operation.spec.command,
        target: operation::written(&operation.spec.target),
        state,
        reason,
        cut_id: status.cut.map(|cut| cut.id),
        percent: status.percent,
        age_seconds: operation
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(0, |time| seconds_since(time, now)),
    }
}

/// What is the matter, the gravest kind of object first.
fn problems(objects: &Objects, sets_without_master: &[SetLine], now: &Time) -> Vec<ProblemLine> {
    let mut found = Vec::new();
    for node in objects.nodes.iter().flatten() {
        let conditions = conditions(node.status.as_ref().map(|status| &status.conditions));
        unready("ImagingNode", &node.metadata, conditions, &mut found);
    }
    for master in &objects.masters {
        let conditions = conditions(master.status.as_ref().map(|status| &status.conditions));
        unready("MasterVolume", &master.metadata, conditions, &mut found);
    }
    for set in &objects.sets {
        let conditions = conditions(set.status.as_ref().map(|status| &status.conditions));
        unready("VolumeSet", &set.metadata, conditions, &mut found);
        let distrusted = find(conditions, ConditionType::ImageTrusted).filter(|found| found.status != "True");
        let short = is_true(conditions, ConditionType::SpaceLow);
        found.extend(
            distrusted.into_iter().chain(short).map(|condition| told("VolumeSet", &set.metadata, condition)),
        );
    }
    found.extend(sets_without_master.iter().map(|set| ProblemLine {
        object: format!("VolumeSet/{}/{}", set.namespace, set.name),
        reason: "MasterMissing".to_owned(),
        message: format!(
            "there is no MasterVolume {} in its namespace: create it, or delete the set",
            set.master
        ),
    }));
    for group in &objects.groups {
        let conditions = conditions(group.status.as_ref().map(|status| &status.conditions));
        unready("SetGroup", &group.metadata, conditions, &mut found);
    }
    for operation in &objects.operations {
        let conditions = conditions(operation.status.as_ref().map(|status| &status.conditions));
        let recent =
            |condition: &&Condition| seconds_since(&condition.last_transition_time, now) < FAILURE_SECONDS;
        let failed = is_true(conditions, ConditionType::Failed).filter(recent);
        found.extend(failed.map(|condition| told("ImagingOperation", &operation.metadata, condition)));
    }
    found
}

/// Notes an object that is not ready, unless it is only on its way there.
fn unready(kind: &str, metadata: &ObjectMeta, conditions: &[Condition], found: &mut Vec<ProblemLine>) {
    let stalled = is_true(conditions, ConditionType::Stalled);
    let waiting = is_true(conditions, ConditionType::Reconciling).is_some() && stalled.is_none();
    match find(conditions, ConditionType::Ready) {
        Some(ready) if ready.status == "True" || waiting => {}
        Some(ready) => found.push(told(kind, metadata, stalled.unwrap_or(ready))),
        None => found.push(ProblemLine {
            object: object(kind, metadata),
            reason: "Unseen".to_owned(),
            message: "no controller has looked at it: is umbra-operator running?".to_owned(),
        }),
    }
}

fn told(kind: &str, metadata: &ObjectMeta, condition: &Condition) -> ProblemLine {
    ProblemLine {
        object: object(kind, metadata),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
    }
}

fn object(kind: &str, metadata: &ObjectMeta) -> String {
    let (namespace, name) = names(metadata);
    if namespace.is_empty() { format!("{kind}/{name}") } else { format!("{kind}/{namespace}/{name}") }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    fn at(text: &str) -> Time {
        Time(text.parse::<Timestamp>().unwrap())
    }

    fn now() -> Time {
        at("2026-11-22T12:00:00Z")
    }

    fn condition(about: &str, status: &str, reason: &str) -> Value {
        let time = "2026-11-22T11:00:00Z";
        json!({"type": about, "status": status, "reason": reason, "message": "why", "lastTransitionTime": time})
    }

    fn master(name: &str, conditions: &Value) -> MasterVolume {
        let master = json!({
            "apiVersion": "imaging.umbra.dev/v1alpha1",
            "kind": "MasterVolume",
            "metadata": {"name": name, "namespace": "prod"},
            "spec": {"source": {"pvc": {"claimName": "c"}}},
            "status": {"conditions": conditions},
        });
        serde_json::from_value(master).unwrap()
    }

    fn set(name: &str, of: &str, status: &Value) -> VolumeSet {
        let set = json!({
            "apiVersion": "imaging.umbra.dev/v1alpha1",
            "kind": "VolumeSet",
            "metadata": {"name": name, "namespace": "prod"},
            "spec": {"masterRef": {"name": of}, "mode": "Dependent", "shadow": {"source": {"pvc": {"claimName": "s"}}}},
            "status": status,
        });
        serde_json::from_value(set).unwrap()
    }

    #[test]
    fn sets_stand_under_their_masters() {
        let good = json!([condition("Ready", "True", "Live")]);
        let in_sync = json!({"conditions": [condition("Ready", "True", "Dependent")]});
        let objects = Objects {
            masters: vec![master("b", &good), master("a", &good)],
            sets: vec![set("s2", "a", &in_sync), set("s1", "a", &in_sync), set("s3", "gone", &in_sync)],
            ..Objects::default()
        };
        let picture = picture(&objects, &now());
        let tree: Vec<(&str, Vec<&str>)> = picture
            .masters
            .iter()
            .map(|master| (master.name.as_str(), master.sets.iter().map(|set| set.name.as_str()).collect()))
            .collect();
        assert_eq!(tree, [("a", vec!["s1", "s2"]), ("b", vec![])]);
        assert_eq!(picture.sets_without_master[0].name, "s3");
        let reasons: Vec<&str> = picture.problems.iter().map(|problem| problem.reason.as_str()).collect();
        assert_eq!(reasons, ["MasterMissing"]);
        assert_eq!(picture.nodes, None, "who may not see nodes is told nothing of them");
    }

    #[test]
    fn an_image_and_its_copy_are_shown_as_of_now() {
        let status = json!({
            "conditions": [condition("Ready", "True", "Copying")],
            "image": {
                "cutID": "7c1e4a52-30c9-4a6a-8f0d-5f0f3c1b9a77", "time": "2026-11-22T09:50:00Z", "consistency": "FileSystem",
                "gateMillis": 4, "trusted": true, "written": false, "recovered": false, "lostChunks": 0, "changedPercent": 3,
            },
            "copy": {"state": "Running", "direction": "ToShadow", "percent": 61, "estimatedEnd": "2026-11-22T12:09:00Z"},
        });
        let line = set_line(&set("s", "m", &status), &now());
        assert_eq!(line.image.unwrap().age_seconds, 7800);
        assert_eq!(line.copy.unwrap().seconds_left, Some(540));
    }

    #[test]
    fn what_is_on_its_way_is_not_the_matter_and_what_is_stuck_is() {
        let reasons = |conditions: &Value| {
            let objects = Objects { masters: vec![master("m", conditions)], ..Objects::default() };
            let problems = picture(&objects, &now()).problems;
            problems.into_iter().map(|problem| problem.reason).collect::<Vec<_>>()
        };
        let starting = condition("Ready", "False", "Starting");
        let going_on = condition("Reconciling", "True", "Progressing");
        assert_eq!(reasons(&json!([starting, going_on])), Vec::<String>::new());
        assert_eq!(
            reasons(&json!([starting, going_on, condition("Stalled", "True", "ForeignMaster")])),
            ["ForeignMaster"]
        );
        assert_eq!(reasons(&json!([starting])), ["Starting"]);
        assert_eq!(reasons(&json!([])), ["Unseen"]);
    }

    #[test]
    fn an_image_in_doubt_is_the_matter_although_the_set_is_ready() {
        let status = json!({"conditions": [
            condition("Ready", "True", "Dependent"),
            condition("ImageTrusted", "False", "LostChunks"),
            condition("SpaceLow", "False", "Ok"),
        ]});
        let good = json!([condition("Ready", "True", "Live")]);
        let objects = Objects {
            masters: vec![master("m", &good)],
            sets: vec![set("s", "m", &status)],
            ..Objects::default()
        };
        let problems = picture(&objects, &now()).problems;
        assert_eq!(problems.len(), 1);
        assert_eq!(
            (problems[0].object.as_str(), problems[0].reason.as_str()),
            ("VolumeSet/prod/s", "LostChunks")
        );
    }
}
