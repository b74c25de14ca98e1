//! Calls of CSI that a volume or a mount follows from.

use crate::choices::Choices;
use crate::message::take_one_way;
use std::collections::HashMap;
use umbra_csi::wire::csi;
use umbra_csi::{Leave, Publish, Stage};

use csi::volume_capability::access_mode::Mode;
use csi::volume_capability::{AccessMode, AccessType, MountVolume};

const VOLUME: &str = "s/3f6c0b1e-77aa-4c7e-9d1b-0a4f5d0c8e11";

fn text<const N: usize>(pairs: [(&str, &str); N]) -> HashMap<String, String> {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn capability() -> csi::VolumeCapability {
    let mount = MountVolume {
        fs_type: "ext4".to_owned(),
        mount_flags: vec!["noatime".to_owned(), "discard".to_owned()],
        volume_mount_group: String::new(),
    };
    csi::VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        access_type: Some(AccessType::Mount(mount)),
    }
}

/// Whether the call was accepted.
pub(crate) fn run(data: &[u8]) -> bool {
    let mut choices = Choices::new(data);
    let (volume_id, stage, target) = (VOLUME.to_owned(), "/stage/x".to_owned(), "/pods/y".to_owned());
    let context = text([(umbra_csi::SHADOW_ACCESS, "ReadWrite")]);
    match choices.byte() % 4 {
        0 => take_one_way::<Stage, _>(
            &csi::NodeStageVolumeRequest {
                volume_id,
                staging_target_path: stage,
                volume_capability: Some(capability()),
                volume_context: context,
                ..csi::NodeStageVolumeRequest::default()
            },
            &mut choices,
        ),
        1 => take_one_way::<Publish, _>(
            &csi::NodePublishVolumeRequest {
                volume_id,
                staging_target_path: stage,
                target_path: target,
                volume_capability: Some(capability()),
                readonly: true,
                volume_context: context,
                ..csi::NodePublishVolumeRequest::default()
            },
            &mut choices,
        ),
        2 => take_one_way::<Leave, _>(
            &csi::NodeUnstageVolumeRequest { volume_id, staging_target_path: stage },
            &mut choices,
        ),
        _ => take_one_way::<Leave, _>(
            &csi::NodeUnpublishVolumeRequest { volume_id, target_path: target },
            &mut choices,
        ),
    }
}
