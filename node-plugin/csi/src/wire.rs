//! What the build made of the proto files: CSI, and the kubelet's registration of plugins.

/// CSI v1.12.
#[allow(clippy::all, clippy::allow_attributes_without_reason, clippy::too_many_lines, reason = "generated")]
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, rustdoc::all, reason = "generated")]
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// `pluginregistration/v1` of the kubelet.
#[allow(clippy::all, clippy::allow_attributes_without_reason, clippy::too_many_lines, reason = "generated")]
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, rustdoc::all, reason = "generated")]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}
