//! Who may use a volume at one time.

use crate::wire::csi::volume_capability::access_mode::Mode;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Who may use a volume at one time, in the words of CSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessMode {
    /// Whoever is on one node.
    SingleNodeWriter,
    /// Whoever is on one node, to read.
    SingleNodeReaderOnly,
    /// One pod.
    SingleNodeSingleWriter,
    /// Several pods of one node.
    SingleNodeMultiWriter,
    /// Anybody, to read.
    MultiNodeReaderOnly,
    /// One node to write, others to read.
    MultiNodeSingleWriter,
    /// Anybody.
    MultiNodeMultiWriter,
}

impl AccessMode {
    /// Every mode there is.
    pub(crate) const ALL: [Self; 7] = [
        Self::SingleNodeWriter,
        Self::SingleNodeReaderOnly,
        Self::SingleNodeSingleWriter,
        Self::SingleNodeMultiWriter,
        Self::MultiNodeReaderOnly,
        Self::MultiNodeSingleWriter,
        Self::MultiNodeMultiWriter,
    ];

    /// Whether nobody may write.
    pub(crate) fn only_reads(self) -> bool {
        matches!(self, Self::SingleNodeReaderOnly | Self::MultiNodeReaderOnly)
    }

    /// Whether one node is all that may use it.
    pub(crate) fn is_of_one_node(self) -> bool {
        !matches!(self, Self::MultiNodeReaderOnly | Self::MultiNodeSingleWriter | Self::MultiNodeMultiWriter)
    }

    /// The mode with this number, if it is known here.
    pub(crate) fn from_wire(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| i32::from(mode.wire()) == number)
    }

    fn wire(self) -> Mode {
        match self {
            Self::SingleNodeWriter => Mode::SingleNodeWriter,
            Self::SingleNodeReaderOnly => Mode::SingleNodeReaderOnly,
            Self::SingleNodeSingleWriter => Mode::SingleNodeSingleWriter,
            Self::SingleNodeMultiWriter => Mode::SingleNodeMultiWriter,
            Self::MultiNodeReaderOnly => Mode::MultiNodeReaderOnly,
            Self::MultiNodeSingleWriter => Mode::MultiNodeSingleWriter,
            Self::MultiNodeMultiWriter => Mode::MultiNodeMultiWriter,
        }
    }
}

impl fmt::Display for AccessMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.wire().as_str_name())
    }
}
