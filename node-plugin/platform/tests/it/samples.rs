//! One error of every variant, with fields as long as they may be.

use umbra_platform::PlatformError as E;
use umbra_platform::call::Direction;
use umbra_platform::error::ObjectKind;
use umbra_platform::id::{CutId, DeviceIdentity, Epoch, IdentityKind, MasterRef, RequestId, SetRef};
use umbra_platform::status::{Role, WaitReason};
use umbra_platform::time::{Millis, WallTime};
use umbra_platform::value::{
    ByteCount, ChunkSize, Detail, DevicePath, LABEL_BYTES_MAX, PATH_BYTES_MAX, SIGNATURE_BYTES_MAX,
    SIGNATURES_MAX, Signature, Signatures,
};

fn path(first: char) -> DevicePath {
    format!("/{}", first.to_string().repeat(PATH_BYTES_MAX - 1)).parse().expect("the longest path")
}

fn detail() -> Detail {
    "percent % and \"quotes\" and ümläüts; ".repeat(30).into()
}

fn set() -> SetRef {
    let label = "s".repeat(LABEL_BYTES_MAX);
    format!("{label}/{label}").parse().expect("the longest name")
}

fn master() -> MasterRef {
    "m".repeat(LABEL_BYTES_MAX).parse().expect("the longest name")
}

fn identity(kind: IdentityKind) -> DeviceIdentity {
    DeviceIdentity::new(kind, &"i".repeat(200)).expect("the longest identity")
}

fn signatures() -> Signatures {
    let long = |i| Signature::new("t", &format!("{i}-{}", "u".repeat(SIGNATURE_BYTES_MAX)));
    Signatures::new((0..SIGNATURES_MAX).map(long).collect()).expect("as many as there can be")
}

const SMALL: ByteCount = ByteCount(4097);
const LARGE: ByteCount = ByteCount(u64::MAX);

pub(crate) fn all() -> Vec<E> {
    [about_volumes(), about_identity(), about_sets(), about_calls()].concat()
}

fn about_volumes() -> Vec<E> {
    let (device, shadow, bitmap) = (path('d'), path('s'), path('b'));
    vec![
        E::NotFound { kind: ObjectKind::Device, name: detail() },
        E::AlreadyExists { kind: ObjectKind::Set, name: detail() },
        E::AlreadyInRole { device: device.clone(), role: Role::Shadow, owner: detail() },
        E::VolumeInUse { device: device.clone(), holder: detail() },
        E::Mounted { device: device.clone(), mount_point: detail() },
        E::SameDevice { device: device.clone(), first: Role::Master, second: Role::Bitmap },
        E::NotAVolume { device: device.clone(), found: detail() },
        E::ShadowTooSmall { shadow, actual: SMALL, needed: LARGE },
        E::BitmapTooSmall { bitmap: bitmap.clone(), actual: SMALL, needed: LARGE },
        E::ReadOnlyDevice { device: device.clone(), role: Role::Bitmap },
        E::BlockSizeMismatch { device: device.clone(), block: LARGE, allowed: SMALL },
        E::BitmapForeign { bitmap: bitmap.clone(), found: detail() },
        E::BitmapStale { bitmap: bitmap.clone(), set: set(), detail: detail() },
        E::BitmapDamaged { bitmap, detail: detail() },
        E::HasOpeners { device: device.clone(), presents: detail(), openers: detail() },
        E::HasSignature { device: device.clone(), role: Role::Shadow, signatures: signatures() },
        E::PresentedDevice { device: device.clone(), presented: detail() },
        E::Hung { device: device.clone(), step: detail(), after: Millis(1500) },
        E::Io { device, operation: detail(), detail: detail() },
    ]
}

fn about_identity() -> Vec<E> {
    let device = path('d');
    let (expected, found) = (identity(IdentityKind::Wwid), identity(IdentityKind::DeviceMapper));
    vec![
        E::SessionOpen { device: device.clone(), node: detail() },
        E::IdentityChanged { device: device.clone(), expected, found },
        E::IdentityWeak { device: device.clone(), identity: identity(IdentityKind::File) },
        E::SizeChanged { device: device.clone(), expected: LARGE, found: SMALL },
        E::MasterWrittenOutside { master: master() },
        E::Foreign { device: device.clone(), expected: detail(), found: detail() },
        E::SameDeviceAs { device: device.clone(), known_as: path('k'), role: Role::Shadow, owner: detail() },
        E::NameTaken { name: "n".repeat(LABEL_BYTES_MAX).parse().expect("the longest name"), device },
        E::Blocked {
            master: master(),
            reason: WaitReason::WrittenOutside,
            waiting_for: detail(),
            since: WallTime::from_unix_millis(u64::MAX),
        },
        E::ChunkSizeFixed { master: master(), asked: ChunkSize::default(), has: ChunkSize::default() },
    ]
}

fn about_sets() -> Vec<E> {
    vec![
        E::MasterIncomplete { set: set(), detail: detail() },
        E::Copying { set: set(), direction: Direction::ToMaster },
        E::CopyPending { set: set(), direction: Direction::ToShadow, pending: u64::MAX },
        E::OppositePending { set: set(), direction: Direction::ToMaster, pending: 1 },
        E::SameMaster { master: master() },
        E::Offline { set: set(), role: Role::Master, cause: detail() },
        E::GivenUp { set: set(), cause: detail() },
        E::Incomplete { set: set(), lost: 3 },
        E::Protected { set: set() },
        E::StaleEpoch { set: set(), expected: Epoch(1), actual: Epoch(u64::MAX) },
        E::CutVoid { cut: CutId::random(), cause: detail() },
    ]
}

fn about_calls() -> Vec<E> {
    vec![
        E::RequestReused { request: RequestId::random() },
        E::BadArgument { argument: detail(), problem: detail() },
        E::LimitReached { limit: detail(), most: 64 },
        E::UnsupportedHost { missing: detail() },
        E::Deadline { operation: detail(), after: Millis(1500) },
        E::Stopping { cause: detail() },
        E::Unavailable { problem: detail(), advice: detail() },
    ]
}
