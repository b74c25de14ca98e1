//! What the ImagingNode of this node should say, and whether that is worth a write.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::fmt;
use umbra_crds::conditions::{self, NodeReady};
use umbra_crds::{DeniedReason, FrontendInUse, ImagingNode, ImagingNodeStatus, NodeDevice};
use umbra_facade::node::{Finding, FindingReason, SeenFence};

/// Longest message of a condition, in characters: a limit of the kind.
const MESSAGE_CHARACTERS_MAX: usize = 4096;

/// Whether the interposer answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Platform {
    /// It does.
    Up {
        /// Masters that it has.
        masters: usize,
        /// Its version, where it says so.
        version: Option<String>,
    },
    /// It does not. What it has is not known, and not nothing.
    Down {
        /// How that was seen, and what to do.
        problem: String,
    },
}

/// The Node of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeUid {
    /// There is one.
    Is(String),
    /// There is none.
    NoNode,
    /// It could not be asked for.
    Unknown,
}

/// What is known of this node at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Observed {
    /// Identity of the installed system.
    pub(crate) machine_id: String,
    /// Identity of the running kernel.
    pub(crate) boot_id: Option<String>,
    pub(crate) node_uid: NodeUid,
    /// Where callers reach the facade.
    pub(crate) endpoint: Option<String>,
    /// Release of the kernel.
    pub(crate) kernel: Option<String>,
    pub(crate) frontend: Option<FrontendInUse>,
    pub(crate) fence: SeenFence,
    pub(crate) platform: Platform,
    /// What keeps the node from serving devices.
    pub(crate) findings: Vec<Finding>,
    /// Why no peer takes up a connection with this node's certificate, where none does.
    pub(crate) uncertified: Option<&'static str>,
    pub(crate) devices: Vec<NodeDevice>,
}

/// Another machine has this node's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForeignMachine {
    pub(crate) node: String,
    pub(crate) theirs: String,
    pub(crate) ours: String,
}

impl fmt::Display for ForeignMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, theirs, ours } = self;
        write!(
            f,
            "ImagingNode {node} is that of machine {theirs}, and this is machine {ours}: nothing is written to it; if this \
             machine has taken the other's place, run `kubectl delete imagingnode {node}`, else give one of them another \
             name (--node)"
        )
    }
}

/// What is to be done with the object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// It says what is so.
    Rest,
    /// It is to say this.
    Write(Box<ImagingNodeStatus>),
    /// It is not ours.
    Refuse(ForeignMachine),
}

/// What is to be done with the object as it is stored.
pub(crate) fn next(stored: &ImagingNode, observed: &Observed, now: Time) -> Step {
    let before = stored.status.clone().unwrap_or_default();
    if let Some(theirs) = before.machine_id.as_ref().filter(|theirs| **theirs != observed.machine_id) {
        return Step::Refuse(ForeignMachine {
            node: stored.metadata.name.clone().unwrap_or_default(),
            theirs: theirs.clone(),
            ours: observed.machine_id.clone(),
        });
    }
    let wanted = wanted(&before, observed, stored.metadata.generation.unwrap_or_default(), now);
    if wanted == before { Step::Rest } else { Step::Write(Box::new(wanted)) }
}

/// What it should say. What the node does not know stays as it is: others may have written it.
fn wanted(before: &ImagingNodeStatus, observed: &Observed, generation: i64, now: Time) -> ImagingNodeStatus {
    let mut conditions = before.conditions.clone();
    let (reason, message) = ready(observed);
    conditions::set(&mut conditions, &reason, shortened(&message), generation, now);
    let masters = match &observed.platform {
        Platform::Up { masters, .. } => Some((*masters).try_into().unwrap_or(i32::MAX)),
        Platform::Down { .. } => before.master_count,
    };
    let io_version = match &observed.platform {
        Platform::Up { version: Some(version), .. } => Some(version.clone()),
        Platform::Up { .. } | Platform::Down { .. } => before.io_version.clone(),
    };
    ImagingNodeStatus {
        observed_generation: Some(generation),
        conditions,
        node_uid: match &observed.node_uid {
            NodeUid::Is(uid) => Some(uid.clone()),
            NodeUid::NoNode => None,
            NodeUid::Unknown => before.node_uid.clone(),
        },
        machine_id: Some(observed.machine_id.clone()),
        boot_id: observed.boot_id.clone(),
        endpoint: observed.endpoint.clone(),
        node_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        io_version,
        kernel: observed.kernel.clone(),
        frontend: observed.frontend,
        fence_epoch: match observed.fence {
            SeenFence::Never => None,
            SeenFence::Highest(fence) => Some(fence.get().try_into().unwrap_or(i64::MAX)),
            SeenFence::Unreadable => before.fence_epoch,
        },
        master_count: masters,
        devices: devices(before, observed),
        ..before.clone()
    }
}

/// Where the interposer does not say what it uses, what it used last is believed: a volume with an image must not look
/// free because a process is away.
fn devices(before: &ImagingNodeStatus, observed: &Observed) -> Vec<NodeDevice> {
    let mut devices = observed.devices.clone();
    if matches!(observed.platform, Platform::Up { .. }) {
        return devices;
    }
    for device in &mut devices {
        let Some(last) = before.devices.iter().find(|last| last.id == device.id && last.role.is_some())
        else {
            continue;
        };
        device.role = last.role;
        device.used_by.clone_from(&last.used_by);
        // That may be an interposer that hangs.
        device.denied = device.denied.filter(|reason| *reason != DeniedReason::Busy);
    }
    devices
}

/// Whether the node serves: what is first in the way, and all of what is in the way with what to do about it.
fn ready(observed: &Observed) -> (NodeReady, String) {
    let found = observed
        .findings
        .iter()
        .map(|finding| (reason_of(finding.reason), format!("{}; {}", finding.what, finding.remedy)));
    let down = match &observed.platform {
        Platform::Up { .. } => None,
        Platform::Down { problem } => Some((NodeReady::IODown, problem.clone())),
    };
    let uncertified = observed.uncertified.map(|why| (NodeReady::CertExpired, why.to_owned()));
    // Why the interposer cannot run comes before that it does not.
    let all: Vec<(NodeReady, String)> = found.chain(down).chain(uncertified).collect();
    let messages: Vec<&str> = all.iter().map(|(_, message)| message.as_str()).collect();
    let first = all.first().map_or(NodeReady::Serving, |(reason, _)| *reason);
    (first, messages.join(". "))
}

const fn reason_of(finding: FindingReason) -> NodeReady {
    match finding {
        FindingReason::UblkMissing => NodeReady::UblkMissing,
        FindingReason::IoUringDisabled => NodeReady::IoUringDisabled,
        FindingReason::KernelKnownBad => NodeReady::KernelKnownBad,
        FindingReason::MemlockTooLow => NodeReady::MemlockTooLow,
    }
}

fn shortened(message: &str) -> String {
    message.chars().take(MESSAGE_CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;
    use umbra_crds::conditions::{ConditionType, RecoveryNeededReason};
    use umbra_crds::{DeviceId, ImagingNodeSpec, Role};
    use umbra_facade::Fence;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).expect("a time"))
    }

    fn device(name: &str) -> NodeDevice {
        let id = DeviceId::new(format!("/dev/disk/by-id/{name}"));
        NodeDevice { id, size_bytes: 1 << 30, serial: None, role: None, used_by: None, denied: None }
    }

    fn observed() -> Observed {
        Observed {
            machine_id: "m1".into(),
            boot_id: Some("b1".into()),
            node_uid: NodeUid::Is("u1".into()),
            endpoint: Some("192.0.2.7:9751".into()),
            kernel: Some("6.18.44".into()),
            frontend: Some(FrontendInUse::Ublk),
            fence: SeenFence::Highest(Fence::new(7).expect("above 0")),
            platform: Platform::Up { masters: 2, version: None },
            findings: Vec::new(),
            uncertified: None,
            devices: vec![device("a"), device("b")],
        }
    }

    fn down() -> Platform {
        Platform::Down { problem: "umbra-io does not answer; start it".into() }
    }

    fn fresh() -> ImagingNode {
        let mut node = ImagingNode::new("node-a", ImagingNodeSpec::default());
        node.metadata.generation = Some(3);
        node
    }

    fn written(stored: &ImagingNode, observed: &Observed, second: i64) -> ImagingNode {
        match next(stored, observed, at(second)) {
            Step::Write(status) => ImagingNode { status: Some(*status), ..stored.clone() },
            other => panic!("{other:?}"),
        }
    }

    fn status(node: &ImagingNode) -> &ImagingNodeStatus {
        node.status.as_ref().expect("a status")
    }

    fn ready_of(node: &ImagingNode) -> (&str, &str, &str) {
        let ready = conditions::find(&status(node).conditions, ConditionType::Ready).expect("always there");
        (&ready.status, &ready.reason, &ready.message)
    }

    #[test]
    fn everything_that_is_known_is_said_once_and_then_nothing_is_written() {
        let node = written(&fresh(), &observed(), 10);
        let said = status(&node);
        assert_eq!(said.machine_id.as_deref(), Some("m1"));
        assert_eq!((said.node_uid.as_deref(), said.boot_id.as_deref()), (Some("u1"), Some("b1")));
        assert_eq!(
            (said.endpoint.as_deref(), said.kernel.as_deref()),
            (Some("192.0.2.7:9751"), Some("6.18.44"))
        );
        assert_eq!(
            (said.fence_epoch, said.master_count, said.observed_generation),
            (Some(7), Some(2), Some(3))
        );
        assert_eq!((said.devices.len(), said.node_version.as_deref()), (2, Some(env!("CARGO_PKG_VERSION"))));
        assert_eq!(ready_of(&node), ("True", "Serving", ""));
        assert!(said.io_version.is_none() && said.conditions.len() == 1, "nothing is made up: {said:?}");
        assert_eq!(next(&node, &observed(), at(20)), Step::Rest, "time alone is nothing new");
    }

    #[test]
    fn each_change_is_written() {
        let node = written(&fresh(), &observed(), 10);
        let changes: [fn(&mut Observed); 9] = [
            |o| o.boot_id = Some("b2".into()),
            |o| o.node_uid = NodeUid::NoNode,
            |o| o.endpoint = None,
            |o| o.kernel = Some("6.19.1".into()),
            |o| o.fence = SeenFence::Highest(Fence::new(8).expect("above 0")),
            |o| o.platform = Platform::Up { masters: 3, version: None },
            |o| o.platform = down(),
            |o| o.uncertified = Some("over"),
            |o| o.devices[0].denied = Some(DeniedReason::Mounted),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut now = observed();
            change(&mut now);
            let after = written(&node, &now, 20);
            assert_eq!(next(&after, &now, at(30)), Step::Rest, "change {index}");
        }
    }

    #[test]
    fn what_the_node_does_not_know_is_left_as_it_is() {
        let node = written(&fresh(), &observed(), 10);
        let told =
            Observed { platform: Platform::Up { masters: 2, version: Some("0.4.1".into()) }, ..observed() };
        let mut node = written(&node, &told, 12);
        let said = node.status.as_mut().expect("a status");
        assert_eq!(said.io_version.as_deref(), Some("0.4.1"));
        conditions::set(&mut said.conditions, &RecoveryNeededReason::NoOrphans, "", 3, at(15));
        let blind = Observed { node_uid: NodeUid::Unknown, fence: SeenFence::Unreadable, ..observed() };
        assert_eq!(next(&node, &blind, at(20)), Step::Rest);
    }

    #[test]
    fn a_volume_does_not_look_free_because_the_interposer_is_away() {
        let mut serving = observed();
        serving.devices[0].role = Some(Role::Shadow);
        serving.devices[0].used_by = Some("VolumeSet/prod/pg-1".into());
        let node = written(&fresh(), &serving, 10);
        let mut away = Observed { platform: down(), ..observed() };
        away.devices[0].denied = Some(DeniedReason::Busy);
        away.devices[1].denied = Some(DeniedReason::Busy);
        let after = written(&node, &away, 20);
        assert_eq!(status(&after).devices[0], serving.devices[0]);
        assert_eq!(status(&after).devices[1].denied, Some(DeniedReason::Busy), "somebody else has that");
        assert_eq!(status(&after).master_count, Some(2));
        // It is back, and uses it no more.
        let back = written(&after, &observed(), 30);
        assert_eq!(status(&back).devices[0].role, None);
    }

    #[test]
    fn the_cause_is_the_reason_and_everything_is_in_the_message() {
        let finding = |reason: FindingReason| Finding {
            reason,
            what: format!("{reason:?} it is"),
            remedy: "mend it".into(),
        };
        let all = [
            (FindingReason::KernelKnownBad, "KernelKnownBad"),
            (FindingReason::UblkMissing, "UblkMissing"),
            (FindingReason::IoUringDisabled, "IoUringDisabled"),
            (FindingReason::MemlockTooLow, "MemlockTooLow"),
        ];
        for (reason, word) in all {
            let now = Observed {
                findings: vec![finding(reason)],
                platform: down(),
                uncertified: Some("the certificate is over"),
                ..observed()
            };
            let node = written(&fresh(), &now, 10);
            let (truth, said, message) = ready_of(&node);
            assert_eq!((truth, said), ("False", word));
            for part in
                [&*format!("{word} it is; mend it"), "umbra-io does not answer; start it", "certificate"]
            {
                assert!(message.contains(part), "{part:?} is not in {message}");
            }
        }
        let away = Observed { platform: down(), uncertified: Some("the certificate is over"), ..observed() };
        assert_eq!(ready_of(&written(&fresh(), &away, 10)).1, "IODown");
        let expired = Observed { uncertified: Some("the certificate is over"), ..observed() };
        assert_eq!(ready_of(&written(&fresh(), &expired, 10)).1, "CertExpired");
        let long = Platform::Down { problem: "ß".repeat(2 * MESSAGE_CHARACTERS_MAX) };
        let long = written(&fresh(), &Observed { platform: long, ..observed() }, 10);
        assert_eq!(ready_of(&long).2.chars().count(), MESSAGE_CHARACTERS_MAX);
    }

    #[test]
    fn the_object_of_another_machine_is_left_alone() {
        let node = written(&fresh(), &observed(), 10);
        let other = Observed { machine_id: "m2".into(), ..observed() };
        let Step::Refuse(foreign) = next(&node, &other, at(20)) else { panic!("it is another machine's") };
        let said = foreign.to_string();
        for part in ["node-a", "machine m1", "machine m2", "kubectl delete imagingnode node-a"] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
    }
}
