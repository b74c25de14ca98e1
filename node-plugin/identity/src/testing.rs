//! What several tests make up.

use umbra_engine::{Epoch, Geometry, Id128, Mode, SetHeader, SetState, SuperblockGeneration};
use umbra_format::{SetIdentity, Superblock, VolumeIdentity};

/// Size of the master.
pub(crate) const GIB: u64 = 1 << 30;
/// Bytes of a chunk.
pub(crate) const CHUNK: u64 = 64 << 10;
/// The master.
pub(crate) const MASTER: Id128 = Id128([1; 16]);
/// The shadow.
pub(crate) const SHADOW: Id128 = Id128([3; 16]);
/// The bitmap volume.
pub(crate) const BITMAP: Id128 = Id128([4; 16]);
/// This node.
pub(crate) const NODE: Id128 = Id128([5; 16]);

/// A superblock of the set `set`, dependent.
pub(crate) fn superblock(set: Id128) -> Superblock {
    let volume = |uuid| VolumeIdentity { uuid, size: GIB, ..VolumeIdentity::default() };
    let identity = SetIdentity {
        set,
        master: volume(MASTER),
        shadow: volume(SHADOW),
        bitmap: BITMAP,
        tracking: Id128::default(),
        node: NODE,
        session: NODE,
        seal_owner: Id128::default(),
        mode: Mode::Dependent,
        geometry: Geometry::new(GIB, CHUNK).unwrap(),
        logical_block: 512,
        physical_block: 512,
        ring_blocks: 8,
        head_bytes: 1 << 20,
        protected: false,
        cluster: String::new(),
        namespace: String::new(),
        name: "nightly".to_owned(),
    };
    let header = SetHeader {
        epoch: Epoch(1),
        cut: Id128([6; 16]),
        state: SetState::Dependent,
        ..SetHeader::prepared()
    };
    Superblock { generation: SuperblockGeneration(1), identity, header, doubt: None, labelled: false }
}
