//! Calls and answers, both ways.

use super::{BadField, InField, pb, read, read_enum, read_opt};
use crate::call::{
    Abort, AcceptMaster, Answer, AttachMaster, AttachedMaster, Cadence, Copied, CopySets, DetachMaster,
    DisableSet, EnableSet, EnabledSet, MapQuery, Outcome, RecoverShadow, Reset, ResetDone, Scope,
    SetCopyLimits, SetEpoch, SetTarget, SetTargets, Wait, Watch, WipeSignatures,
};
use crate::id::{Epoch, RequestId, SetName};
use crate::map::ChunkMap;
use crate::status::{CopyLimits, Deadlines, Unrecordable};
use crate::time::{IoDeadline, Millis};
use crate::value::{ByteRate, ChunkSize, Columns, InFlight, QueueDepth, UblkId};

impl From<SetName> for pb::SetName {
    fn from(name: SetName) -> Self {
        Self {
            cluster: name.cluster.map(Into::into),
            namespace: name.namespace.map(Into::into),
            name: name.name.into(),
        }
    }
}

impl TryFrom<pb::SetName> for SetName {
    type Error = BadField;
    fn try_from(name: pb::SetName) -> Result<Self, BadField> {
        Ok(Self {
            cluster: read_opt(name.cluster.as_deref(), "name.cluster")?,
            namespace: read_opt(name.namespace.as_deref(), "name.namespace")?,
            name: read(&name.name, "name.name")?,
        })
    }
}

impl From<SetTarget> for pb::SetTarget {
    fn from(target: SetTarget) -> Self {
        Self { set: target.set.into(), expected_epoch: target.expected_epoch.map(|e| e.0) }
    }
}

impl TryFrom<pb::SetTarget> for SetTarget {
    type Error = BadField;
    fn try_from(target: pb::SetTarget) -> Result<Self, BadField> {
        Ok(Self { set: read(&target.set, "set")?, expected_epoch: target.expected_epoch.map(Epoch) })
    }
}

impl From<Deadlines> for pb::Deadlines {
    fn from(deadlines: Deadlines) -> Self {
        Self { shadow_ms: deadlines.shadow.into(), bitmap_ms: deadlines.bitmap.into() }
    }
}

impl TryFrom<pb::Deadlines> for Deadlines {
    type Error = BadField;
    fn try_from(deadlines: pb::Deadlines) -> Result<Self, BadField> {
        Ok(Self {
            shadow: IoDeadline::new(Millis(deadlines.shadow_ms)).within("deadlines.shadow_ms")?,
            bitmap: IoDeadline::new(Millis(deadlines.bitmap_ms)).within("deadlines.bitmap_ms")?,
        })
    }
}

impl From<Unrecordable> for pb::Unrecordable {
    fn from(unrecordable: Unrecordable) -> Self {
        Self {
            timeout_ms: unrecordable.timeout.into(),
            policy: pb::UnrecordablePolicy::from(unrecordable.then).into(),
        }
    }
}

impl TryFrom<pb::Unrecordable> for Unrecordable {
    type Error = BadField;
    fn try_from(unrecordable: pb::Unrecordable) -> Result<Self, BadField> {
        Ok(Self {
            timeout: IoDeadline::new(Millis(unrecordable.timeout_ms)).within("unrecordable.timeout_ms")?,
            then: read_enum::<pb::UnrecordablePolicy, _>(unrecordable.policy, "unrecordable.policy")?,
        })
    }
}

impl From<CopyLimits> for pb::CopyLimits {
    fn from(limits: CopyLimits) -> Self {
        Self {
            bytes_per_second: limits.bytes_per_second.map(ByteRate::get),
            in_flight: limits.in_flight.get().into(),
        }
    }
}

impl TryFrom<pb::CopyLimits> for CopyLimits {
    type Error = BadField;
    fn try_from(limits: pb::CopyLimits) -> Result<Self, BadField> {
        let rate = limits.bytes_per_second.map(ByteRate::new).transpose();
        Ok(Self {
            bytes_per_second: rate.within("limits.bytes_per_second")?,
            in_flight: InFlight::new(limits.in_flight.into()).within("limits.in_flight")?,
        })
    }
}

impl From<AttachMaster> for pb::AttachMasterRequest {
    fn from(call: AttachMaster) -> Self {
        Self {
            request_id: call.request.to_string(),
            device: call.device.into(),
            name: call.name.into(),
            expected_identity: call.expected_identity.map(Into::into),
            accept_weak_identity: call.accept_weak_identity,
            ublk_id: call.ublk.map(UblkId::get),
            queue_depth: call.queue_depth.get().into(),
        }
    }
}

impl TryFrom<pb::AttachMasterRequest> for AttachMaster {
    type Error = BadField;
    fn try_from(call: pb::AttachMasterRequest) -> Result<Self, BadField> {
        let ublk = call.ublk_id.map(|id| UblkId::new(id.into())).transpose();
        Ok(Self {
            request: read(&call.request_id, "request_id")?,
            device: read(&call.device, "device")?,
            name: read(&call.name, "name")?,
            expected_identity: read_opt(call.expected_identity.as_deref(), "expected_identity")?,
            accept_weak_identity: call.accept_weak_identity,
            ublk: ublk.within("ublk_id")?,
            queue_depth: QueueDepth::new(call.queue_depth.into()).within("queue_depth")?,
        })
    }
}

impl From<AttachedMaster> for pb::AttachMasterResponse {
    fn from(answer: AttachedMaster) -> Self {
        Self { id: answer.id.to_string(), device: answer.device.into() }
    }
}

impl TryFrom<pb::AttachMasterResponse> for AttachedMaster {
    type Error = BadField;
    fn try_from(answer: pb::AttachMasterResponse) -> Result<Self, BadField> {
        Ok(Self { id: read(&answer.id, "id")?, device: read(&answer.device, "device")? })
    }
}

impl From<AcceptMaster> for pb::AcceptMasterRequest {
    fn from(call: AcceptMaster) -> Self {
        Self {
            request_id: call.request.to_string(),
            master: call.master.into(),
            images: pb::AcceptedImages::from(call.images).into(),
        }
    }
}

impl TryFrom<pb::AcceptMasterRequest> for AcceptMaster {
    type Error = BadField;
    fn try_from(call: pb::AcceptMasterRequest) -> Result<Self, BadField> {
        Ok(Self {
            request: read(&call.request_id, "request_id")?,
            master: read(&call.master, "master")?,
            images: read_enum::<pb::AcceptedImages, _>(call.images, "images")?,
        })
    }
}

impl From<DetachMaster> for pb::DetachMasterRequest {
    fn from(call: DetachMaster) -> Self {
        Self { request_id: call.request.to_string(), master: call.master.into() }
    }
}

impl TryFrom<pb::DetachMasterRequest> for DetachMaster {
    type Error = BadField;
    fn try_from(call: pb::DetachMasterRequest) -> Result<Self, BadField> {
        Ok(Self { request: read(&call.request_id, "request_id")?, master: read(&call.master, "master")? })
    }
}

impl From<EnableSet> for pb::EnableSetRequest {
    fn from(call: EnableSet) -> Self {
        Self {
            request_id: call.request.to_string(),
            expected_epoch: None,
            master: call.master.into(),
            name: Some(call.name.into()),
            mode: pb::Mode::from(call.mode).into(),
            shadow: call.shadow.into(),
            bitmap: call.bitmap.into(),
            chunk_bytes: call.chunk.map_or(0, ChunkSize::bytes),
            deadlines: Some(call.deadlines.into()),
            unrecordable: Some(call.unrecordable.into()),
            protected: call.protected,
            wipe_signatures: call.wipe.as_slice().iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<pb::EnableSetRequest> for EnableSet {
    type Error = BadField;
    fn try_from(call: pb::EnableSetRequest) -> Result<Self, BadField> {
        if call.expected_epoch.is_some() {
            let problem = "an enable makes a new set, which has no epoch yet; leave it out".into();
            return Err(BadField { field: "expected_epoch", problem });
        }
        let chunk = Some(call.chunk_bytes).filter(|bytes| *bytes > 0).map(ChunkSize::new);
        let wipe: Result<Vec<_>, _> =
            call.wipe_signatures.iter().map(|text| read(text, "wipe_signatures")).collect();
        Ok(Self {
            request: read(&call.request_id, "request_id")?,
            master: read(&call.master, "master")?,
            name: call.name.within("name")?.try_into()?,
            mode: read_enum::<pb::Mode, _>(call.mode, "mode")?,
            shadow: read(&call.shadow, "shadow")?,
            bitmap: read(&call.bitmap, "bitmap")?,
            chunk: chunk.transpose().within("chunk_bytes")?,
            deadlines: call.deadlines.within("deadlines")?.try_into()?,
            unrecordable: call.unrecordable.within("unrecordable")?.try_into()?,
            protected: call.protected,
            wipe: WipeSignatures::new(wipe?).within("wipe_signatures")?,
        })
    }
}

impl From<EnabledSet> for pb::EnableSetResponse {
    fn from(answer: EnabledSet) -> Self {
        Self {
            id: answer.id.to_string(),
            shadow_device: answer.shadow_device.into(),
            cut: answer.cut.to_string(),
            epoch: answer.epoch.0,
        }
    }
}

impl TryFrom<pb::EnableSetResponse> for EnabledSet {
    type Error = BadField;
    fn try_from(answer: pb::EnableSetResponse) -> Result<Self, BadField> {
        Ok(Self {
            id: read(&answer.id, "id")?,
            shadow_device: read(&answer.shadow_device, "shadow_device")?,
            cut: read(&answer.cut, "cut")?,
            epoch: Epoch(answer.epoch),
        })
    }
}

/// Calls that name one set and nothing else.
macro_rules! target_call {
    ($domain:ident, $wire:ident) => {
        impl From<$domain> for pb::$wire {
            fn from(call: $domain) -> Self {
                Self { request_id: call.request.to_string(), target: Some(call.target.into()) }
            }
        }

        impl TryFrom<pb::$wire> for $domain {
            type Error = BadField;
            fn try_from(call: pb::$wire) -> Result<Self, BadField> {
                Ok(Self {
                    request: read(&call.request_id, "request_id")?,
                    target: call.target.within("target")?.try_into()?,
                })
            }
        }
    };
}

target_call!(DisableSet, DisableSetRequest);
target_call!(Abort, AbortRequest);
target_call!(Reset, ResetRequest);

impl From<CopySets> for pb::CopyRequest {
    fn from(call: CopySets) -> Self {
        Self {
            request_id: call.request.to_string(),
            sets: call.sets.into_iter().map(Into::into).collect(),
            direction: pb::Direction::from(call.direction).into(),
            kind: pb::CopyKind::from(call.kind).into(),
            cut: call.cut.map(|cut| cut.to_string()),
        }
    }
}

impl TryFrom<pb::CopyRequest> for CopySets {
    type Error = BadField;
    fn try_from(call: pb::CopyRequest) -> Result<Self, BadField> {
        let targets = call.sets.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(Self {
            request: read(&call.request_id, "request_id")?,
            sets: SetTargets::new(targets).within("sets")?,
            direction: read_enum::<pb::Direction, _>(call.direction, "direction")?,
            kind: read_enum::<pb::CopyKind, _>(call.kind, "kind")?,
            cut: read_opt(call.cut.as_deref(), "cut")?,
        })
    }
}

impl From<SetEpoch> for pb::SetEpoch {
    fn from(set: SetEpoch) -> Self {
        Self { id: set.id.to_string(), name: Some(set.name.into()), epoch: set.epoch.0 }
    }
}

impl TryFrom<pb::SetEpoch> for SetEpoch {
    type Error = BadField;
    fn try_from(set: pb::SetEpoch) -> Result<Self, BadField> {
        Ok(Self {
            id: read(&set.id, "sets.id")?,
            name: set.name.within("sets.name")?.try_into()?,
            epoch: Epoch(set.epoch),
        })
    }
}

impl From<Copied> for pb::CopyResponse {
    fn from(answer: Copied) -> Self {
        Self { cut: answer.cut.to_string(), sets: answer.sets.into_iter().map(Into::into).collect() }
    }
}

impl TryFrom<pb::CopyResponse> for Copied {
    type Error = BadField;
    fn try_from(answer: pb::CopyResponse) -> Result<Self, BadField> {
        let sets = answer.sets.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(Self { cut: read(&answer.cut, "cut")?, sets })
    }
}

impl From<Wait> for pb::WaitRequest {
    fn from(call: Wait) -> Self {
        Self { set: call.set.into(), timeout_ms: call.timeout.0 }
    }
}

impl TryFrom<pb::WaitRequest> for Wait {
    type Error = BadField;
    fn try_from(call: pb::WaitRequest) -> Result<Self, BadField> {
        Ok(Self { set: read(&call.set, "set")?, timeout: Millis(call.timeout_ms) })
    }
}

impl From<RecoverShadow> for pb::RecoverShadowRequest {
    fn from(call: RecoverShadow) -> Self {
        Self { set: call.set.into(), lasts_ms: call.lasts.0 }
    }
}

impl TryFrom<pb::RecoverShadowRequest> for RecoverShadow {
    type Error = BadField;
    fn try_from(call: pb::RecoverShadowRequest) -> Result<Self, BadField> {
        Ok(Self { set: read(&call.set, "set")?, lasts: Millis(call.lasts_ms) })
    }
}

impl From<SetCopyLimits> for pb::SetCopyLimitsRequest {
    fn from(call: SetCopyLimits) -> Self {
        Self {
            request_id: call.request.to_string(),
            target: Some(call.target.into()),
            limits: Some(call.limits.into()),
        }
    }
}

impl TryFrom<pb::SetCopyLimitsRequest> for SetCopyLimits {
    type Error = BadField;
    fn try_from(call: pb::SetCopyLimitsRequest) -> Result<Self, BadField> {
        Ok(Self {
            request: read(&call.request_id, "request_id")?,
            target: call.target.within("target")?.try_into()?,
            limits: call.limits.within("limits")?.try_into()?,
        })
    }
}

impl From<ResetDone> for pb::ResetResponse {
    fn from(answer: ResetDone) -> Self {
        match answer {
            ResetDone::NotNeeded => Self { cut: None },
            ResetDone::Cut { cut, epoch } => {
                Self { cut: Some(pb::reset_response::Cut { cut: cut.to_string(), epoch: epoch.0 }) }
            }
        }
    }
}

impl TryFrom<pb::ResetResponse> for ResetDone {
    type Error = BadField;
    fn try_from(answer: pb::ResetResponse) -> Result<Self, BadField> {
        match answer.cut {
            None => Ok(Self::NotNeeded),
            Some(done) => Ok(Self::Cut { cut: read(&done.cut, "cut.cut")?, epoch: Epoch(done.epoch) }),
        }
    }
}

impl From<RequestId> for pb::OutcomeRequest {
    fn from(request: RequestId) -> Self {
        Self { request_id: request.to_string() }
    }
}

impl TryFrom<pb::OutcomeRequest> for RequestId {
    type Error = BadField;
    fn try_from(request: pb::OutcomeRequest) -> Result<Self, BadField> {
        read(&request.request_id, "request_id")
    }
}

impl From<Outcome> for pb::OutcomeResponse {
    fn from(outcome: Outcome) -> Self {
        use pb::outcome_response::{Done, NotSeen, Outcome as Wire, Running, Unanswered};
        let outcome = match outcome {
            Outcome::NotSeen => Wire::NotSeen(NotSeen {}),
            Outcome::Running => Wire::Running(Running {}),
            Outcome::Unanswered => Wire::Unanswered(Unanswered {}),
            Outcome::Done(Answer::Done(())) => Wire::Done(Done {}),
            Outcome::Done(Answer::Attached(answer)) => Wire::Attached(answer.into()),
            Outcome::Done(Answer::Enabled(answer)) => Wire::Enabled(answer.into()),
            Outcome::Done(Answer::Copied(answer)) => Wire::Copied(answer.into()),
            Outcome::Done(Answer::Reset(answer)) => Wire::Reset(answer.into()),
        };
        Self { outcome: Some(outcome) }
    }
}

impl TryFrom<pb::OutcomeResponse> for Outcome {
    type Error = BadField;
    fn try_from(answer: pb::OutcomeResponse) -> Result<Self, BadField> {
        use pb::outcome_response::Outcome as Wire;
        Ok(match answer.outcome.within("outcome")? {
            Wire::NotSeen(_) => Self::NotSeen,
            Wire::Running(_) => Self::Running,
            Wire::Unanswered(_) => Self::Unanswered,
            Wire::Done(_) => Self::Done(Answer::Done(())),
            Wire::Attached(answer) => Self::Done(Answer::Attached(answer.try_into()?)),
            Wire::Enabled(answer) => Self::Done(Answer::Enabled(answer.try_into()?)),
            Wire::Copied(answer) => Self::Done(Answer::Copied(answer.try_into()?)),
            Wire::Reset(answer) => Self::Done(Answer::Reset(answer.try_into()?)),
        })
    }
}

impl From<Scope> for pb::Scope {
    fn from(scope: Scope) -> Self {
        let scope = match scope {
            Scope::All => None,
            Scope::Master(master) => Some(pb::scope::Scope::Master(master.into())),
            Scope::Set(set) => Some(pb::scope::Scope::Set(set.into())),
        };
        Self { scope }
    }
}

impl TryFrom<Option<pb::Scope>> for Scope {
    type Error = BadField;
    fn try_from(scope: Option<pb::Scope>) -> Result<Self, BadField> {
        match scope.and_then(|scope| scope.scope) {
            None => Ok(Self::All),
            Some(pb::scope::Scope::Master(master)) => Ok(Self::Master(read(&master, "scope.master")?)),
            Some(pb::scope::Scope::Set(set)) => Ok(Self::Set(read(&set, "scope.set")?)),
        }
    }
}

impl From<Watch> for pb::WatchRequest {
    fn from(call: Watch) -> Self {
        let interval_ms = match call.cadence {
            Cadence::OnChange => None,
            Cadence::Every(interval) => Some(interval.0),
        };
        Self { scope: Some(call.scope.into()), interval_ms }
    }
}

impl TryFrom<pb::WatchRequest> for Watch {
    type Error = BadField;
    fn try_from(call: pb::WatchRequest) -> Result<Self, BadField> {
        let cadence = call.interval_ms.map_or(Cadence::OnChange, |ms| Cadence::Every(Millis(ms)));
        Ok(Self { scope: call.scope.try_into()?, cadence })
    }
}

impl From<MapQuery> for pb::MapRequest {
    fn from(call: MapQuery) -> Self {
        Self { set: call.set.into(), columns: call.columns.get().into() }
    }
}

impl TryFrom<pb::MapRequest> for MapQuery {
    type Error = BadField;
    fn try_from(call: pb::MapRequest) -> Result<Self, BadField> {
        Ok(Self {
            set: read(&call.set, "set")?,
            columns: Columns::new(call.columns.into()).within("columns")?,
        })
    }
}

impl From<ChunkMap> for pb::MapResponse {
    fn from(map: ChunkMap) -> Self {
        Self {
            set: map.set.to_string(),
            epoch: map.epoch.0,
            chunk_bytes: map.chunk.bytes(),
            columns: map.columns.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::MapResponse> for ChunkMap {
    type Error = BadField;
    fn try_from(map: pb::MapResponse) -> Result<Self, BadField> {
        Ok(Self {
            set: read(&map.set, "set")?,
            epoch: Epoch(map.epoch),
            chunk: ChunkSize::new(map.chunk_bytes).within("chunk_bytes")?,
            columns: map.columns.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}
