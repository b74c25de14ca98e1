//! The superblock: who the set is, what it is made of, and the engine's header. Two slots, one truth.

use crate::codec::{BLOCK_BYTES, Reader, Writer};
use crate::features::{COMPATIBLE_LABELLED, Features, INCOMPATIBLE_IN_DOUBT};
use crate::in_doubt;
use crate::layout::{HEAD_BYTES_MAX, RING_BLOCKS_MAX, RING_BLOCKS_MIN};
use thiserror::Error;
use umbra_engine::{
    Epoch, Geometry, Id128, InDoubt, Mode, OfflineCause, PLANES, PlaneHeader, RingGeneration, Sequence,
    SetHeader, SetState, SuperblockGeneration, TrackingPair,
};

const MAGIC: [u8; 8] = *b"UMBRASUP";
/// Format version that this code writes.
pub const FORMAT_VERSION: u32 = 1;
/// Largest value of any counter on a bitmap volume. None gets there by counting, and a decoded one can always be
/// incremented.
pub const COUNTER_MAX: u64 = (1 << 56) - 1;
/// Planes that the superblock has room for: the engine's, and those of change tracking to come.
pub const PLANE_ROOM: usize = 16;

const HASH_AT: usize = 16;
const GENERATION_AT: usize = 24;
const FEATURES_AT: usize = 32;
const IDS_AT: usize = 56;
const SHAPE_AT: usize = 184;
const MODE_AT: usize = 248;
const RESERVED_BYTE_AT: usize = 251;
const FLAGS_AT: usize = 252;
const EPOCH_AT: usize = 256;
const PLANES_AT: usize = 312;
const PLANES_END: usize = PLANES_AT + 8 * PLANES;
const NAMES_AT: usize = 512;
const NAMES_END: usize = NAMES_AT + 2 * SHORT_NAME_MAX + NAME_MAX + 2 * HARDWARE_ID_MAX;

/// Offset of the room for the layers of a chain.
pub const FAMILY_AT: usize = 1536;
/// Layers there is room for.
pub const FAMILY_ROOM: usize = 16;
/// Bytes for each.
pub const FAMILY_ENTRY_BYTES: usize = 64;
/// Offset of the room for operation ids with their results.
pub const OPERATIONS_AT: usize = 2560;
/// Operations there is room for.
pub const OPERATIONS_ROOM: usize = 16;
/// Bytes for each.
pub const OPERATION_ENTRY_BYTES: usize = 32;
/// Offset of the room for the identity of an export or import.
pub const EXPORT_AT: usize = 3072;
/// Bytes of it.
pub const EXPORT_BYTES: usize = 128;
/// Offset of the room for a cut over several sets that is not decided.
pub const IN_DOUBT_AT: usize = 3200;
/// Bytes of it.
pub const IN_DOUBT_BYTES: usize = 512;

const _: () = {
    assert!(FEATURES_AT == GENERATION_AT + 8);
    assert!(IDS_AT == FEATURES_AT + 3 * 8);
    assert!(SHAPE_AT == IDS_AT + 8 * 16);
    assert!(MODE_AT == SHAPE_AT + 8 + 8 + 4 + 4 + 5 * 8);
    assert!(RESERVED_BYTE_AT == MODE_AT + 3 && FLAGS_AT == RESERVED_BYTE_AT + 1);
    assert!(EPOCH_AT == FLAGS_AT + 4);
    assert!(PLANES_AT == EPOCH_AT + 8 + 16 + 8 + 3 * 8);
    assert!(PLANES <= PLANE_ROOM && PLANES_AT + 8 * PLANE_ROOM <= NAMES_AT);
    assert!(NAMES_END <= FAMILY_AT);
    assert!(FAMILY_AT + FAMILY_ROOM * FAMILY_ENTRY_BYTES <= OPERATIONS_AT);
    assert!(OPERATIONS_AT + OPERATIONS_ROOM * OPERATION_ENTRY_BYTES <= EXPORT_AT);
    assert!(EXPORT_AT + EXPORT_BYTES <= IN_DOUBT_AT);
    assert!(
        in_doubt::MEMBERS_END <= IN_DOUBT_AT + IN_DOUBT_BYTES && IN_DOUBT_AT + IN_DOUBT_BYTES <= BLOCK_BYTES
    );
};

/// Longest cluster or namespace name, in bytes.
pub const SHORT_NAME_MAX: usize = 64;
/// Longest name of a set, in bytes.
pub const NAME_MAX: usize = 256;
/// Longest hardware identity of a volume, in bytes.
pub const HARDWARE_ID_MAX: usize = 192;

/// What a volume was when the set was enabled.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct VolumeIdentity {
    /// Given by Umbra.
    pub uuid: Id128,
    /// Bytes.
    pub size: u64,
    /// Hash of sampled content at the last clean detach; 0: not known.
    pub fingerprint: u64,
    /// WWID, serial or similar; empty if the device has none.
    pub hardware_id: String,
}

/// The part of the superblock that the engine does not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetIdentity {
    /// The set.
    pub set: Id128,
    /// The volume with live data.
    pub master: VolumeIdentity,
    /// The volume that presents the image.
    pub shadow: VolumeIdentity,
    /// This volume.
    pub bitmap: Id128,
    /// Changes whenever tracking was lost: deltas do not reach across.
    pub tracking: Id128,
    /// The node that has the set attached; zero after a clean detach.
    pub node: Id128,
    /// Random for each attach.
    pub session: Id128,
    /// Whoever sealed the set; zero if nobody did.
    pub seal_owner: Id128,
    /// Dependent or independent.
    pub mode: Mode,
    /// Size and chunks.
    pub geometry: Geometry,
    /// Logical block of the presented devices, in bytes.
    pub logical_block: u32,
    /// Physical block of the presented devices, in bytes.
    pub physical_block: u32,
    /// Blocks of the journal ring.
    pub ring_blocks: u64,
    /// Bytes of the shadow's head kept on this volume.
    pub head_bytes: u64,
    /// May not be disabled or cut without being told so twice.
    pub protected: bool,
    /// Cluster, namespace and name of the object that the set belongs to.
    pub cluster: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Counts commits.
    pub generation: SuperblockGeneration,
    /// Who.
    pub identity: SetIdentity,
    /// The engine's part.
    pub header: SetHeader,
    /// A cut over several sets that is not decided.
    pub doubt: Option<InDoubt>,
    /// The shadow carried this set's label, durably, when this was written: a shadow without one is another. Says
    /// nothing while the head is in place.
    pub labelled: bool,
}

/// Why a block is not a superblock.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SuperblockError {
    /// The magic number is another: never written by Umbra, or overwritten.
    #[error("not an Umbra superblock")]
    Foreign,
    /// Torn or rotten.
    #[error("superblock is damaged: its hash does not match")]
    Damaged,
    /// A later format.
    #[error("superblock has format version {found}; this program reads up to {FORMAT_VERSION}")]
    Version {
        /// What was found.
        found: u32,
    },
    /// A feature that must be understood.
    #[error("superblock needs features {0:#x} that this program does not know; use a later version")]
    Features(u64),
    /// A feature that must be understood by whoever writes to the volume.
    #[error(
        "superblock has features {0:#x} that this program does not know: it may inspect the volume, but not serve \
         the set; use a later version"
    )]
    ReadOnly(u64),
    /// The hash matches, but a field makes no sense: written by a faulty program.
    #[error("superblock field {0} is impossible")]
    Field(&'static str),
}

impl SuperblockError {
    /// Whether the block is as somebody wrote it, and only this program can do nothing with it. Then the other
    /// slot must not be taken in its place: it may be older.
    pub const fn is_whole(&self) -> bool {
        match self {
            Self::Foreign | Self::Damaged => false,
            Self::Version { .. } | Self::Features(_) | Self::ReadOnly(_) | Self::Field(_) => true,
        }
    }
}

const FLAG_MERGING: u32 = 1;
const FLAG_HEAD_MOVED: u32 = 1 << 1;
const FLAG_SHADOW_WRITTEN: u32 = 1 << 2;
const FLAG_RECOVERED: u32 = 1 << 3;
const FLAG_PROTECTED: u32 = 1 << 4;
const FLAG_CLEAN: u32 = 1 << 5;
const FLAGS_KNOWN: u32 = (1 << 6) - 1;

impl Superblock {
    /// Writes the superblock into a block.
    pub fn encode(&self, block: &mut [u8]) {
        let mut w = Writer::new(&mut block[..BLOCK_BYTES]);
        let (identity, header) = (&self.identity, &self.header);
        w.bytes(&MAGIC);
        w.u32(FORMAT_VERSION);
        w.u32(u32::try_from(BLOCK_BYTES).expect("4096"));
        w.at(GENERATION_AT);
        w.u64(self.generation.0);
        let incompatible = if self.doubt.is_some() { INCOMPATIBLE_IN_DOUBT } else { 0 };
        w.u64(if self.labelled && header.head_moved { COMPATIBLE_LABELLED } else { 0 });
        w.u64(0);
        w.u64(incompatible);
        w.at(IDS_AT);
        for id in [
            identity.set,
            identity.master.uuid,
            identity.shadow.uuid,
            identity.bitmap,
            identity.tracking,
            identity.node,
            identity.session,
            identity.seal_owner,
        ] {
            w.id(id);
        }
        w.at(SHAPE_AT);
        w.u64(identity.geometry.master_bytes());
        w.u64(identity.geometry.chunk_bytes());
        w.u32(identity.logical_block);
        w.u32(identity.physical_block);
        w.u64(identity.ring_blocks);
        w.u64(identity.head_bytes);
        w.u64(identity.shadow.size);
        w.u64(identity.master.fingerprint);
        w.u64(identity.shadow.fingerprint);
        w.at(MODE_AT);
        w.u8(mode_code(identity.mode));
        w.u8(state_code(header.state));
        w.u8(u8::from(header.tracking == TrackingPair::Second));
        w.at(FLAGS_AT);
        w.u32(flags(identity, header));
        w.u64(header.epoch.0);
        w.id(header.cut);
        w.u64(header.cut_unix_ms);
        w.u64(header.ring_generation.0);
        w.u64(header.checkpoint_upto.0);
        w.u64(header.confirmed_upto.0);
        w.at(PLANES_AT);
        for plane in header.planes {
            w.u64(plane.epoch.0);
        }
        w.at(NAMES_AT);
        w.string(&identity.cluster, SHORT_NAME_MAX);
        w.string(&identity.namespace, SHORT_NAME_MAX);
        w.string(&identity.name, NAME_MAX);
        w.string(&identity.master.hardware_id, HARDWARE_ID_MAX);
        w.string(&identity.shadow.hardware_id, HARDWARE_ID_MAX);
        if let Some(doubt) = &self.doubt {
            in_doubt::encode(doubt, &mut w);
        }
        w.seal(HASH_AT);
    }

    /// Reads a superblock of a set that is to be served.
    ///
    /// # Errors
    /// [`SuperblockError`] tells a block that never was one from one that is damaged, and both from one that this
    /// program must not touch.
    pub fn decode(block: &[u8; BLOCK_BYTES]) -> Result<Self, SuperblockError> {
        let (superblock, features) = Self::inspect(block)?;
        match features.unknown().read_only_compatible {
            0 => Ok(superblock),
            unknown => Err(SuperblockError::ReadOnly(unknown)),
        }
    }

    /// Reads a superblock of a set that is only looked at.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), which refuses read-only compatible features on top.
    pub fn inspect(block: &[u8; BLOCK_BYTES]) -> Result<(Self, Features), SuperblockError> {
        let mut r = Reader::new(block);
        if r.array::<8>() != MAGIC {
            return Err(SuperblockError::Foreign);
        }
        if !r.hash_matches(HASH_AT) {
            return Err(SuperblockError::Damaged);
        }
        let version = r.u32();
        if version == 0 || version > FORMAT_VERSION {
            return Err(SuperblockError::Version { found: version });
        }
        let block_bytes = r.u32();
        r.at(GENERATION_AT);
        let generation = SuperblockGeneration(r.u64());
        let features = Features { compatible: r.u64(), read_only_compatible: r.u64(), incompatible: r.u64() };
        if features.unknown().incompatible != 0 {
            return Err(SuperblockError::Features(features.unknown().incompatible));
        }
        if usize::try_from(block_bytes) != Ok(BLOCK_BYTES) {
            return Err(SuperblockError::Field("block size"));
        }
        if generation.0 > COUNTER_MAX {
            return Err(SuperblockError::Field("generation"));
        }
        // What an unknown feature keeps, and where, is unknown too.
        let in_doubt = features.incompatible & INCOMPATIBLE_IN_DOUBT != 0;
        if features.unknown().is_empty() && !reserved_is_zero(&r, in_doubt) {
            return Err(SuperblockError::Field("reserved area"));
        }
        Ok((decode_body(&mut r, generation, features)?, features))
    }
}

fn reserved_is_zero(r: &Reader<'_>, in_doubt: bool) -> bool {
    let doubt_end = if in_doubt { in_doubt::MEMBERS_END } else { IN_DOUBT_AT };
    let areas = [
        RESERVED_BYTE_AT..FLAGS_AT,
        PLANES_END..NAMES_AT,
        NAMES_END..FAMILY_AT,
        FAMILY_AT..IN_DOUBT_AT,
        doubt_end..BLOCK_BYTES,
    ];
    let mut flags = r.clone();
    flags.at(FLAGS_AT);
    areas.into_iter().all(|area| r.is_zero(area)) && flags.u32() & !FLAGS_KNOWN == 0
}

fn decode_body(
    r: &mut Reader<'_>,
    generation: SuperblockGeneration,
    features: Features,
) -> Result<Superblock, SuperblockError> {
    let identity = decode_identity(r)?;
    let header = decode_header(r, &identity)?;
    let in_doubt = features.incompatible & INCOMPATIBLE_IN_DOUBT != 0;
    let doubt = in_doubt.then(|| in_doubt::decode(r, identity.mode, &header)).transpose()?;
    let labelled = features.compatible & COMPATIBLE_LABELLED != 0;
    Ok(Superblock { generation, identity, header, doubt, labelled })
}

fn decode_identity(r: &mut Reader<'_>) -> Result<SetIdentity, SuperblockError> {
    let field = SuperblockError::Field;
    r.at(NAMES_AT);
    let mut string = |len| r.string(len).ok_or(field("name"));
    let (cluster, namespace, name) = (string(SHORT_NAME_MAX)?, string(SHORT_NAME_MAX)?, string(NAME_MAX)?);
    let (master_id, shadow_id) = (string(HARDWARE_ID_MAX)?, string(HARDWARE_ID_MAX)?);
    r.at(FLAGS_AT);
    let flags = r.u32();
    r.at(IDS_AT);
    let [set, master, shadow, bitmap, tracking, node, session, seal_owner]: [Id128; 8] =
        std::array::from_fn(|_| r.id());
    let (master_bytes, chunk_bytes) = (r.u64(), r.u64());
    let geometry = Geometry::new(master_bytes, chunk_bytes).map_err(|_| field("geometry"))?;
    let (logical_block, physical_block) = (r.u32(), r.u32());
    let (ring_blocks, head_bytes, shadow_bytes) = (r.u64(), r.u64(), r.u64());
    let (master_fingerprint, shadow_fingerprint) = (r.u64(), r.u64());
    let mode = decode_mode(r.u8()).ok_or(field("mode"))?;
    if !logical_block.is_power_of_two() || !(512..=chunk_bytes).contains(&u64::from(logical_block)) {
        return Err(field("logical block"));
    }
    if !(RING_BLOCKS_MIN..=RING_BLOCKS_MAX).contains(&ring_blocks) {
        return Err(field("ring"));
    }
    let whole = geometry.chunk_count() * chunk_bytes;
    if !head_bytes.is_multiple_of(chunk_bytes) || head_bytes > whole.min(HEAD_BYTES_MAX) {
        return Err(field("head"));
    }
    let master = VolumeIdentity {
        uuid: master,
        size: master_bytes,
        fingerprint: master_fingerprint,
        hardware_id: master_id,
    };
    let shadow = VolumeIdentity {
        uuid: shadow,
        size: shadow_bytes,
        fingerprint: shadow_fingerprint,
        hardware_id: shadow_id,
    };
    Ok(SetIdentity {
        set,
        master,
        shadow,
        bitmap,
        tracking,
        node,
        session,
        seal_owner,
        mode,
        geometry,
        logical_block,
        physical_block,
        ring_blocks,
        head_bytes,
        protected: flags & FLAG_PROTECTED != 0,
        cluster,
        namespace,
        name,
    })
}

fn decode_header(r: &mut Reader<'_>, identity: &SetIdentity) -> Result<SetHeader, SuperblockError> {
    let field = SuperblockError::Field;
    r.at(MODE_AT + 1);
    let state = decode_state(r.u8()).ok_or(field("state"))?;
    let tracking = match r.u8() {
        0 => TrackingPair::First,
        1 => TrackingPair::Second,
        _ => return Err(field("tracking pair")),
    };
    r.at(FLAGS_AT);
    let flags = r.u32();
    let epoch = Epoch(r.u64());
    let (cut, cut_unix_ms) = (r.id(), r.u64());
    let (ring_generation, checkpoint_upto, confirmed_upto) = (r.u64(), r.u64(), r.u64());
    let planes: [PlaneHeader; PLANES] = std::array::from_fn(|_| PlaneHeader { epoch: Epoch(r.u64()) });
    if [epoch.0, ring_generation, confirmed_upto].iter().any(|counter| *counter > COUNTER_MAX) {
        return Err(field("counter"));
    }
    if planes.iter().any(|plane| plane.epoch > epoch) {
        return Err(field("plane epoch"));
    }
    // The ring holds every block behind the checkpoint.
    if confirmed_upto.checked_sub(checkpoint_upto).is_none_or(|used| used > identity.ring_blocks) {
        return Err(field("sequence"));
    }
    let header = SetHeader {
        epoch,
        cut,
        cut_unix_ms,
        state,
        planes,
        tracking,
        merging: flags & FLAG_MERGING != 0,
        head_moved: flags & FLAG_HEAD_MOVED != 0,
        ring_generation: RingGeneration(ring_generation),
        checkpoint_upto: Sequence(checkpoint_upto),
        confirmed_upto: Sequence(confirmed_upto),
        shadow_written: flags & FLAG_SHADOW_WRITTEN != 0,
        recovered: flags & FLAG_RECOVERED != 0,
        clean: flags & FLAG_CLEAN != 0,
    };
    if !is_state_of(identity.mode, state) || (header.merging && identity.mode == Mode::Dependent) {
        return Err(field("state of this mode"));
    }
    Ok(header)
}

/// Whether a set of this mode can be in this state.
pub(crate) fn is_state_of(mode: Mode, state: SetState) -> bool {
    match state {
        SetState::Dependent => mode == Mode::Dependent,
        SetState::Copying | SetState::CopyAborted | SetState::Complete => mode == Mode::Independent,
        SetState::Prepared
        | SetState::Restoring
        | SetState::RestoreAborted
        | SetState::Offline(_)
        | SetState::Disabled => true,
    }
}

fn flags(identity: &SetIdentity, header: &SetHeader) -> u32 {
    [
        (header.merging, FLAG_MERGING),
        (header.head_moved, FLAG_HEAD_MOVED),
        (header.shadow_written, FLAG_SHADOW_WRITTEN),
        (header.recovered, FLAG_RECOVERED),
        (identity.protected, FLAG_PROTECTED),
        (header.clean, FLAG_CLEAN),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .fold(0, |flags, (_, flag)| flags | flag)
}

fn mode_code(mode: Mode) -> u8 {
    match mode {
        Mode::Independent => 1,
        Mode::Dependent => 2,
    }
}

fn decode_mode(code: u8) -> Option<Mode> {
    [Mode::Independent, Mode::Dependent].into_iter().find(|mode| mode_code(*mode) == code)
}

pub(crate) fn state_code(state: SetState) -> u8 {
    match state {
        SetState::Prepared => 1,
        SetState::Dependent => 2,
        SetState::Copying => 3,
        SetState::CopyAborted => 4,
        SetState::Complete => 5,
        SetState::Offline(OfflineCause::Shadow) => 6,
        SetState::Offline(OfflineCause::Bitmap) => 7,
        SetState::Disabled => 8,
        SetState::Restoring => 9,
        SetState::RestoreAborted => 10,
    }
}

pub(crate) fn decode_state(code: u8) -> Option<SetState> {
    [
        SetState::Prepared,
        SetState::Dependent,
        SetState::Copying,
        SetState::CopyAborted,
        SetState::Complete,
        SetState::Offline(OfflineCause::Shadow),
        SetState::Offline(OfflineCause::Bitmap),
        SetState::Disabled,
        SetState::Restoring,
        SetState::RestoreAborted,
    ]
    .into_iter()
    .find(|state| state_code(*state) == code)
}
