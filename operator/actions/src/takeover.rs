//! A takeover of a claim and a release: what they would do, and whether they may be asked for. What keeps a takeover from being
//! carried out is decided from the volume by the same rules as the operator's.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use umbra_crds::raw_volume::{self, RawVolume, TAKEN_BY};
use umbra_crds::{
    ClaimName, ClaimSource, DeletionPolicy, DeviceId, Frontend, MasterVolume, MasterVolumeSpec, ObjectName,
    Takeover, TakeoverPolicy, VolumeSource,
};

use crate::picture::Objects;
use crate::refusal::Refusal;

/// What is wanted of a takeover, and what there is to know about it.
#[derive(Debug, Clone)]
pub struct TakeoverRequest<'a> {
    /// The claim.
    pub claim_name: &'a ClaimName,
    /// What the MasterVolume is called.
    pub name: &'a ObjectName,
    /// The claim, if there is one.
    pub claim: Option<&'a PersistentVolumeClaim>,
    /// Its volume, unless who asks may not see it.
    pub volume: Option<&'a PersistentVolume>,
    /// Pods of the namespace.
    pub pods: &'a [Pod],
    /// Masters of the namespace.
    pub masters: &'a [MasterVolume],
}

/// What a takeover would do.
#[derive(Debug, Clone, PartialEq)]
pub struct TakeoverPlan {
    /// The claim.
    pub claim: ClaimName,
    /// The volume that it is bound to.
    pub volume: Option<String>,
    /// The device, unless who asks may not see the volume.
    pub raw: Option<RawVolume>,
    /// Pods that must stop once.
    pub pods: Vec<String>,
    /// Everything that keeps it from being asked for.
    pub refusals: Vec<Refusal>,
    ask: Ask,
}

/// What is to be written so that a takeover begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// A new object.
    Create(Box<MasterVolume>),
    /// The object that is there, with the word to go.
    Approve(Box<MasterVolume>),
    /// It was asked for already.
    Nothing(Box<MasterVolume>),
}

impl TakeoverPlan {
    /// What is to be written.
    ///
    /// # Errors
    /// Everything that keeps it from being asked for.
    pub fn ask(&self) -> Result<&Ask, &[Refusal]> {
        if self.refusals.is_empty() { Ok(&self.ask) } else { Err(&self.refusals) }
    }
}

/// Plans the takeover of a claim.
#[must_use]
pub fn takeover(request: &TakeoverRequest<'_>) -> TakeoverPlan {
    let volume_name = request.claim.and_then(|claim| claim.spec.as_ref()?.volume_name.clone());
    let mut plan = TakeoverPlan {
        claim: request.claim_name.clone(),
        volume: volume_name.filter(|name| !name.is_empty()),
        raw: None,
        pods: users(request.pods, request.claim_name),
        refusals: Vec::new(),
        ask: Ask::Create(Box::new(new_master(request))),
    };
    let is_of_claim = |master: &MasterVolume| {
        master.spec.source.pvc.as_ref().is_some_and(|source| source.claim_name == *request.claim_name)
    };
    let of_name = |master: &&MasterVolume| master.metadata.name.as_deref() == Some(request.name.as_str());
    let there = request.masters.iter().find(of_name);
    if let Some(other) =
        request.masters.iter().filter(|master| !of_name(master)).find(|other| is_of_claim(other))
    {
        let master = ObjectName::new(other.metadata.name.clone().unwrap_or_default());
        plan.refusals.push(Refusal::ClaimOfMaster { claim: request.claim_name.clone(), master });
    }
    match there {
        Some(master) if !is_of_claim(master) => {
            plan.refusals.push(Refusal::OtherMaster { master: request.name.clone() });
        }
        Some(master) if master.metadata.deletion_timestamp.is_some() => {
            plan.refusals.push(Refusal::MasterReleased { master: request.name.clone() });
        }
        Some(master) => plan.ask = approve(master),
        None => {}
    }
    // What has begun is for the operator to end.
    let is_new = matches!(plan.ask, Ask::Create(_));
    match request.claim {
        None if is_new => plan.refusals.push(Refusal::NoClaim { claim: request.claim_name.clone() }),
        Some(claim) if is_new => preflight(request, claim, &mut plan),
        Some(_) | None => plan.raw = request.volume.and_then(|volume| RawVolume::of(volume).ok()),
    }
    plan
}

fn preflight(request: &TakeoverRequest<'_>, claim: &PersistentVolumeClaim, plan: &mut TakeoverPlan) {
    let is_bound = match request.volume {
        Some(volume) => raw_volume::is_bound(claim, volume),
        None => plan.volume.is_some(),
    };
    if !is_bound || claim.metadata.deletion_timestamp.is_some() {
        plan.refusals.push(Refusal::ClaimUnbound { claim: request.claim_name.clone() });
        return;
    }
    let Some(volume) = request.volume else { return };
    if volume.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(TAKEN_BY)) {
        let volume = volume.metadata.name.clone().unwrap_or_default();
        plan.refusals.push(Refusal::VolumeTaken { volume });
    }
    match RawVolume::of(volume) {
        Ok(raw) => plan.raw = Some(raw),
        Err(error) => plan.refusals.push(Refusal::NotRaw(error)),
    }
}

fn new_master(request: &TakeoverRequest<'_>) -> MasterVolume {
    let claim = ClaimSource { claim_name: request.claim_name.clone() };
    let spec = MasterVolumeSpec {
        source: VolumeSource { pvc: Some(claim), device: None, managed: None },
        takeover: Some(Takeover { policy: TakeoverPolicy::WhenFree }),
        publish: None,
        deletion_policy: DeletionPolicy::default(),
        frontend: Frontend::default(),
        queues: 1,
        queue_depth: 128,
        allow_nbd_frontend: false,
    };
    MasterVolume::new(request.name.as_str(), spec)
}

fn approve(master: &MasterVolume) -> Ask {
    let wanted = Takeover { policy: TakeoverPolicy::WhenFree };
    if master.spec.takeover.as_ref() == Some(&wanted) {
        return Ask::Nothing(Box::new(master.clone()));
    }
    let mut approved = master.clone();
    approved.spec.takeover = Some(wanted);
    Ask::Approve(Box::new(approved))
}

/// The pods that use a claim, as long as they may have it open.
fn users(pods: &[Pod], claim: &ClaimName) -> Vec<String> {
    let has_ended = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    let uses = |pod: &&Pod| {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
        claims.any(|source| source.claim_name == claim.as_str())
    };
    let mut names: Vec<String> = pods
        .iter()
        .filter(|pod| uses(pod) && !has_ended(pod))
        .map(|pod| format!("pod/{}", pod.metadata.name.as_deref().unwrap_or_default()))
        .collect();
    names.sort();
    names
}

/// What a release would do.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleasePlan {
    /// The master.
    pub master: ObjectName,
    /// The claim through which pods use it.
    pub claim: Option<ClaimName>,
    /// Where its device goes back to.
    pub goes_to: GoesTo,
    /// The device.
    pub device: Option<DeviceId>,
    /// Pods that must stop before, as far as is known.
    pub pods: Vec<String>,
    /// Everything that keeps it from being asked for.
    pub refusals: Vec<Refusal>,
}

/// What becomes of a device that is released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GoesTo {
    /// The claim is bound to this volume again, where it was taken from it.
    Claim {
        /// The volume, if it is known.
        volume: Option<ObjectName>,
    },
    /// This volume is left as it is, without a claim.
    Volume {
        /// The volume, if it is known.
        volume: Option<ObjectName>,
    },
    /// Nobody: it was named by an administrator's grant.
    Nobody,
}

/// Plans the release of a master.
#[must_use]
pub fn release(objects: &Objects, name: &ObjectName) -> ReleasePlan {
    let mut plan = ReleasePlan {
        master: name.clone(),
        claim: None,
        goes_to: GoesTo::Nobody,
        device: None,
        pods: Vec::new(),
        refusals: Vec::new(),
    };
    let named = |master: &&MasterVolume| master.metadata.name.as_deref() == Some(name.as_str());
    let Some(master) = objects.masters.iter().find(named) else {
        plan.refusals.push(Refusal::NoMaster { master: name.clone() });
        return plan;
    };
    let sets: Vec<ObjectName> = objects
        .sets
        .iter()
        .filter(|set| set.spec.master_ref.name == *name)
        .map(crate::members::name)
        .collect();
    if !sets.is_empty() {
        plan.refusals.push(Refusal::HasSets { master: name.clone(), sets });
    }
    let status = master.status.clone().unwrap_or_default();
    let own = master.spec.publish.as_ref().map(|publish| publish.claim_name.clone());
    plan.claim = own.or_else(|| master.spec.source.pvc.as_ref().map(|source| source.claim_name.clone()));
    plan.goes_to = match (&master.spec.source.pvc, master.spec.deletion_policy) {
        (None, _) => GoesTo::Nobody,
        (Some(_), DeletionPolicy::ReturnRaw) => GoesTo::Claim { volume: status.original_pv_name },
        (Some(_), DeletionPolicy::Keep) => GoesTo::Volume { volume: status.original_pv_name },
    };
    plan.device = status.device_id;
    let user = |user: &umbra_crds::User| format!("{}/{}", user.kind.to_lowercase(), user.name);
    plan.pods = status.users.iter().map(user).collect();
    plan
}

#[cfg(test)]
mod tests;
