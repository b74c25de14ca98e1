//! What lies on a device, as far as its first and last MiB tell.

use crate::generation::FsGeneration;
use crate::signature::Signature;
use std::fmt;
use umbra_engine::SetState;
use umbra_format::{Label, SetIdentity, SuperblockError};

/// What was found on a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    /// All that lies there; empty: the first and the last MiB are zero.
    pub signatures: Vec<Signature>,
    /// The label of a shadow whose head is on its bitmap volume. Only a set that is dependent or copying has
    /// one: in a plain image it is user data.
    pub label: Option<Label>,
    /// The superblock of a bitmap volume.
    pub superblock: Option<UmbraSuperblock>,
    /// Hash of the first 4 KiB.
    pub first_block: u64,
    /// How often the file system was changed, if it says so.
    pub generation: Option<FsGeneration>,
}

/// What identity needs of the newer superblock of a bitmap volume.
#[derive(Clone, Debug, PartialEq)]
pub enum UmbraSuperblock {
    /// It can be read.
    Readable(Box<SuperblockFacts>),
    /// It is Umbra's, and this program can do nothing with it.
    Unusable(SuperblockError),
}

/// Who a bitmap volume says it is.
#[derive(Clone, Debug, PartialEq)]
pub struct SuperblockFacts {
    /// The set and its volumes.
    pub identity: SetIdentity,
    /// The set's durable state.
    pub state: SetState,
    /// Whether the shadow's head is on the bitmap volume.
    pub head_moved: bool,
    /// Whether the slot at the start of the volume is whole: whoever else used the volume would have overwritten it.
    pub first_slot: bool,
}

/// What is known about a content.
#[derive(Clone, Debug, PartialEq)]
pub enum Contents {
    /// It was read.
    Read(Box<Content>),
    /// It was not asked for, or could not be read.
    Unread {
        /// Why.
        why: String,
    },
}

impl Default for Content {
    fn default() -> Self {
        Self {
            signatures: Vec::new(),
            label: None,
            superblock: None,
            first_block: xxhash_rust::xxh3::xxh3_64(&[0; 4096]),
            generation: None,
        }
    }
}

impl Default for Contents {
    /// An empty device.
    fn default() -> Self {
        Self::Read(Box::default())
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unread { why } => write!(f, "content not read: {why}"),
            Self::Read(content) if content.signatures.is_empty() => f.write_str("empty"),
            Self::Read(content) => {
                for (index, signature) in content.signatures.iter().enumerate() {
                    write!(f, "{}{}", if index == 0 { "" } else { ", " }, signature.id)?;
                }
                Ok(())
            }
        }
    }
}
