//! What keeps a master or a set from being started, and what that means for it.
//!
//! | what | a set that its master can do without | one that it cannot do without, or the master itself |
//! |---|---|---|
//! | not there, in use, hangs, I/O error | waited for up to its deadline, then given up (E6, E11) | waited for as long as it takes |
//! | another device in its place | the master waits: put right, the set is served again (E21) | the same |
//! | damaged, or ended by its own word | given up | waited for |
//!
//! To give a set up is to record that its image has ended, before its master is served.

use crate::words::device_path;
use crate::world::{ClaimError, LookError};
use umbra_platform::PlatformError;
use umbra_platform::error::ObjectKind;
use umbra_platform::status::{Role, WaitReason, WaitingFor};
use umbra_platform::time::WallTime;

/// What is to become of what met the obstacle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It may go away by itself, soon.
    Passing,
    /// A person must put something right. No image may be ended for it.
    Mistaken,
    /// The image is known to be bad, or gone.
    Final,
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Obstacle {
    pub(crate) kind: Kind,
    pub(crate) reason: WaitReason,
    pub(crate) error: PlatformError,
}

impl Obstacle {
    pub(crate) fn new(kind: Kind, reason: WaitReason, error: PlatformError) -> Self {
        Self { kind, reason, error }
    }

    /// It may go away by itself: an operation failed.
    pub(crate) fn failed(error: PlatformError) -> Self {
        let reason = match &error {
            PlatformError::Hung { .. } | PlatformError::Deadline { .. } => WaitReason::Hung,
            PlatformError::VolumeInUse { .. }
            | PlatformError::Mounted { .. }
            | PlatformError::HasOpeners { .. } => WaitReason::InUse,
            PlatformError::NotFound { .. } => WaitReason::NotThere,
            PlatformError::Foreign { .. }
            | PlatformError::IdentityChanged { .. }
            | PlatformError::BitmapForeign { .. } => WaitReason::Foreign,
            _ => WaitReason::IoError,
        };
        Self::new(Kind::Passing, reason, error)
    }

    /// For status.
    pub(crate) fn waiting(&self, since: WallTime) -> WaitingFor {
        WaitingFor { reason: self.reason, what: self.error.to_string().into(), since }
    }
}

/// The engine's role in the words of the platform API.
pub(crate) fn platform_role(role: umbra_identity::Role) -> Role {
    match role {
        umbra_identity::Role::Master => Role::Master,
        umbra_identity::Role::Shadow => Role::Shadow,
        umbra_identity::Role::Bitmap => Role::Bitmap,
    }
}

fn not_there(path: &std::path::Path) -> PlatformError {
    PlatformError::NotFound { kind: ObjectKind::Device, name: path.to_string_lossy().as_ref().into() }
}

impl From<LookError> for Obstacle {
    fn from(error: LookError) -> Self {
        let detail = error.to_string();
        match error {
            LookError::NotThere(path) => Self::new(Kind::Passing, WaitReason::NotThere, not_there(&path)),
            LookError::NotAVolume { path, found } => Self::new(
                Kind::Mistaken,
                WaitReason::Foreign,
                PlatformError::NotAVolume { device: device_path(&path), found: found.into() },
            ),
            LookError::Hung(path) => Self::new(Kind::Passing, WaitReason::Hung, hung(&path, "a look at it")),
            LookError::Failed { path, .. } => Self::new(
                Kind::Passing,
                WaitReason::IoError,
                PlatformError::Io {
                    device: device_path(&path),
                    operation: "look".into(),
                    detail: detail.into(),
                },
            ),
        }
    }
}

/// A step that did not end in the time that steps of a start have.
pub(crate) fn hung(path: &std::path::Path, step: &str) -> PlatformError {
    let after = umbra_platform::time::Millis(
        u64::try_from(crate::deadline::STEP_DEADLINE.as_millis()).expect("a few seconds"),
    );
    PlatformError::Hung { device: device_path(path), step: step.into(), after }
}

impl Obstacle {
    /// A claim failed.
    pub(crate) fn claim(error: ClaimError, role: umbra_identity::Role) -> Self {
        match error {
            ClaimError::Changed(path) => Self::new(
                Kind::Passing,
                WaitReason::Foreign,
                PlatformError::Io {
                    device: device_path(&path),
                    operation: "claim".into(),
                    detail: "another device came under its name meanwhile".into(),
                },
            ),
            ClaimError::InUse { path, by } => Self::new(
                Kind::Passing,
                WaitReason::InUse,
                PlatformError::VolumeInUse { device: device_path(&path), holder: by.into() },
            ),
            ClaimError::ReadOnly(path) => {
                let role = platform_role(role);
                let error = PlatformError::ReadOnlyDevice { device: device_path(&path), role };
                Self::new(Kind::Passing, WaitReason::IoError, error)
            }
            ClaimError::Failed { path, detail } => Self::new(
                Kind::Passing,
                WaitReason::IoError,
                PlatformError::Io {
                    device: device_path(&path),
                    operation: "claim".into(),
                    detail: detail.into(),
                },
            ),
        }
    }
}
