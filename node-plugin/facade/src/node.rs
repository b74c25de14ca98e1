//! What a node says about itself.

use crate::fence::Fence;
use umbra_platform::PlatformError;
use umbra_platform::status::Listing;

/// A kind of thing that keeps a node from serving devices. The words are reasons of conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FindingReason {
    /// The kernel's driver is not there.
    UblkMissing,
    /// The administrator has switched io_uring off.
    IoUringDisabled,
    /// This kernel has a fault that loses data or hangs.
    KernelKnownBad,
    /// The data plane cannot lock its memory.
    MemlockTooLow,
}

impl FindingReason {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UblkMissing => "UblkMissing",
            Self::IoUringDisabled => "IoUringDisabled",
            Self::KernelKnownBad => "KernelKnownBad",
            Self::MemlockTooLow => "MemlockTooLow",
        }
    }
}

/// Something about a node that somebody must see to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// For programs.
    pub reason: FindingReason,
    /// What was found, for people.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// A node, as it sees itself.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct About {
    /// Its name in the cluster.
    pub name: String,
    /// The version of its facade.
    pub version: String,
    /// What keeps it from serving; nothing is what everybody hopes for.
    pub findings: Vec<Finding>,
}

/// A node's highest fence, as far as it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenFence {
    /// No leader has been here.
    Never,
    /// This one.
    Highest(Fence),
    /// Its file cannot be read.
    Unreadable,
}

/// Why a node cannot say what is on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The stable reason of the error.
    pub reason: String,
    /// The error.
    pub text: String,
    /// What a person can do now.
    pub remedy: String,
}

impl From<&PlatformError> for Problem {
    fn from(error: &PlatformError) -> Self {
        Self { reason: error.reason().to_owned(), text: error.to_string(), remedy: error.remedy() }
    }
}

/// A node and what is configured on it. The node is known also where the platform is away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// The node.
    pub about: About,
    /// Its fence.
    pub fence: SeenFence,
    /// What is configured, if the platform says so.
    pub contents: Result<Listing, Problem>,
}
