//! The wire of what the facade adds to the platform API: generated types, and checked conversions.

use crate::call::{Fenced, FromAbove};
use crate::fence::Fence;
use crate::node::{About, Finding, FindingReason, Inventory, Problem, SeenFence};
use umbra_platform::call::{
    Abort, AcceptMaster, AttachMaster, CopySets, DetachMaster, DisableSet, EnableSet, Reset, SetCopyLimits,
};
use umbra_platform::wire::{BadField, InField, read_enum};

/// What the build made of the proto file.
#[allow(clippy::all, clippy::allow_attributes_without_reason, clippy::too_many_lines, reason = "generated")]
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "generated")]
pub mod pb {
    tonic::include_proto!("umbra.facade.v1alpha1");

    /// Descriptors for server reflection, those of the platform API among them.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("facade");
}

/// Calls with a fence.
macro_rules! fenced {
    ($($call:ident = $wire:ident),+) => {
        $(impl From<Fenced<$call>> for pb::$wire {
            fn from(fenced: Fenced<$call>) -> Self {
                Self { fence: fenced.fence.get(), call: Some(fenced.call.into()) }
            }
        }

        impl TryFrom<pb::$wire> for Fenced<$call> {
            type Error = BadField;
            fn try_from(request: pb::$wire) -> Result<Self, BadField> {
                let fence = Fence::new(request.fence).within("fence")?;
                let call: $call = request.call.within("call")?.try_into()?;
                call.check().within("call")?;
                Ok(Self { fence, call })
            }
        })+
    };
}

fenced!(
    AttachMaster = AttachRequest,
    DetachMaster = DetachRequest,
    AcceptMaster = AcceptMasterRequest,
    EnableSet = EnableRequest,
    DisableSet = DisableRequest,
    CopySets = CopyRequest,
    Abort = AbortRequest,
    SetCopyLimits = SetCopyParametersRequest,
    Reset = ResetRequest
);

impl From<Fence> for pb::FenceRequest {
    fn from(fence: Fence) -> Self {
        Self { fence: fence.get() }
    }
}

impl TryFrom<pb::FenceRequest> for Fence {
    type Error = BadField;
    fn try_from(request: pb::FenceRequest) -> Result<Self, BadField> {
        Self::new(request.fence).within("fence")
    }
}

impl From<()> for pb::FenceResponse {
    fn from((): ()) -> Self {
        Self {}
    }
}

impl TryFrom<pb::FenceResponse> for () {
    type Error = BadField;
    fn try_from(_: pb::FenceResponse) -> Result<Self, BadField> {
        Ok(())
    }
}

impl From<FindingReason> for pb::FindingReason {
    fn from(reason: FindingReason) -> Self {
        match reason {
            FindingReason::UblkMissing => Self::UblkMissing,
            FindingReason::IoUringDisabled => Self::IoUringDisabled,
            FindingReason::KernelKnownBad => Self::KernelKnownBad,
            FindingReason::MemlockTooLow => Self::MemlockTooLow,
        }
    }
}

impl TryFrom<pb::FindingReason> for FindingReason {
    type Error = BadField;
    fn try_from(reason: pb::FindingReason) -> Result<Self, BadField> {
        match reason {
            pb::FindingReason::Unspecified => Err(BadField::missing("reason")),
            pb::FindingReason::UblkMissing => Ok(Self::UblkMissing),
            pb::FindingReason::IoUringDisabled => Ok(Self::IoUringDisabled),
            pb::FindingReason::KernelKnownBad => Ok(Self::KernelKnownBad),
            pb::FindingReason::MemlockTooLow => Ok(Self::MemlockTooLow),
        }
    }
}

impl From<Finding> for pb::Finding {
    fn from(finding: Finding) -> Self {
        let reason = pb::FindingReason::from(finding.reason).into();
        Self { reason, what: finding.what, remedy: finding.remedy }
    }
}

impl TryFrom<pb::Finding> for Finding {
    type Error = BadField;
    fn try_from(finding: pb::Finding) -> Result<Self, BadField> {
        let reason = read_enum::<pb::FindingReason, _>(finding.reason, "reason")?;
        Ok(Self { reason, what: finding.what, remedy: finding.remedy })
    }
}

impl From<Inventory> for pb::ListResponse {
    fn from(inventory: Inventory) -> Self {
        use pb::list_response::Contents;
        let About { name, version, findings } = inventory.about;
        let fence = match inventory.fence {
            SeenFence::Never => Some(0),
            SeenFence::Highest(fence) => Some(fence.get()),
            SeenFence::Unreadable => None,
        };
        let findings = findings.into_iter().map(Into::into).collect();
        let contents = match inventory.contents {
            Ok(listing) => Contents::Listing(listing.into()),
            Err(Problem { reason, text, remedy }) => Contents::Problem(pb::Problem { reason, text, remedy }),
        };
        Self { node: Some(pb::Node { name, version, fence, findings }), contents: Some(contents) }
    }
}

impl TryFrom<pb::ListResponse> for Inventory {
    type Error = BadField;
    fn try_from(answer: pb::ListResponse) -> Result<Self, BadField> {
        use pb::list_response::Contents;
        let pb::Node { name, version, fence, findings } = answer.node.within("node")?;
        let fence = match fence {
            None => SeenFence::Unreadable,
            Some(0) => SeenFence::Never,
            Some(number) => SeenFence::Highest(Fence::new(number).within("node.fence")?),
        };
        let findings = findings.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        let contents = match answer.contents.within("contents")? {
            Contents::Listing(listing) => Ok(listing.try_into()?),
            Contents::Problem(pb::Problem { reason, text, remedy }) => Err(Problem { reason, text, remedy }),
        };
        Ok(Self { about: About { name, version, findings }, fence, contents })
    }
}
