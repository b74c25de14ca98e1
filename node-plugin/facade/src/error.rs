//! Why the facade itself refuses a call: what the platform refuses is a [`PlatformError`](umbra_platform::PlatformError).

use crate::fence::Fence;
use umbra_platform::typed_errors;
use umbra_platform::value::{Detail, DevicePath};

typed_errors! {
    /// Why the facade did not pass a call on. Nothing was changed.
    FacadeError of "facade.umbra.dev";

    /// A newer leader has been here.
    #[error("fence {sent} is stale: this node has seen {highest}")]
    StaleFence = "STALE_FENCE", FailedPrecondition, "let the leader with fence {highest} go on; if you hold the Lease, take a fence above {highest}" {
        /// The fence of the call.
        sent: Fence,
        /// The highest that the node has seen.
        highest: Fence,
    }

    /// The node cannot read or keep the highest fence, so it cannot tell a stale leader from the present one.
    #[error("the fence cannot be kept in {file}: {problem}")]
    FenceNotKept = "FENCE_NOT_KEPT", Internal, "make {file} readable and its directory writable; until then nothing can be changed on this node" {
        /// The file.
        file: Detail,
        /// What was tried, and how it failed.
        problem: Detail,
    }

    /// The caller is not one that may do this.
    #[error("{caller} may not {what} on this node")]
    Forbidden = "FORBIDDEN", PermissionDenied, "use a certificate for spiffe://umbra/CLUSTER/operator of this cluster; one for .../console, or root on the node's own socket, may read" {
        /// Who asks, as far as that is known.
        caller: Detail,
        /// What was asked: "change anything by Copy".
        what: Detail,
    }

    /// The node's administrator keeps the device out of this.
    #[error("device {device} may not be used on this node")]
    DeviceNotAllowed = "DEVICE_NOT_ALLOWED", PermissionDenied, "name a device that --device-allow of umbra-node covers, by a name that it covers, or let the administrator of the node widen it" {
        /// As it was named.
        device: DevicePath,
    }

    /// The facade is about to stop and takes no more calls. The interposer goes on.
    #[error("the facade of this node is stopping: {cause}")]
    NodeStopping = "NODE_STOPPING", Unavailable, "try again with the same request id when it has started anew" {
        /// Why.
        cause: Detail,
    }
}
