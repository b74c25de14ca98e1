//! The label that stands at the start of a shadow while its head is on the bitmap volume (E7).
//!
//! It keeps a half copy from being mounted by its label or UUID, tells whose shadow this is when the bitmap
//! volume is not there, and says that an image was given up when the bitmap volume could not.

use crate::codec::{BLOCK_BYTES, Reader, Writer};
use crate::superblock::COUNTER_MAX;
use thiserror::Error;
use umbra_engine::{Epoch, Id128};

const MAGIC: [u8; 8] = *b"UMBRALBL";
const VERSION: u32 = 1;
const HASH_AT: usize = 16;
const SET_AT: usize = 24;
const TEXT_AT: usize = 128;
const TEXT: &str = "This volume is an Umbra shadow whose image is not complete by itself. Its first bytes are on the \
                    set's bitmap volume. Do not format or mount it: use the device that Umbra presents.\n";

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Whose shadow.
    pub set: Id128,
    /// The shadow's own identity.
    pub shadow: Id128,
    /// The image.
    pub epoch: Epoch,
    /// The attach session that wrote it.
    pub session: Id128,
    /// Whether the images up to this epoch have ended, and how.
    pub end: Option<ImageEnd>,
}

/// How an image ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageEnd {
    /// It was given up.
    GivenUp,
    /// It was given up while a restore had chunks left: a part of the master's data is on the shadow only (E9).
    MasterIncomplete,
}

/// Why a block is not a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LabelError {
    /// Something else is there.
    #[error("no Umbra label")]
    Foreign,
    /// Torn or rotten, or of a later version.
    #[error("Umbra label is damaged or of a later version")]
    Damaged,
}

// What a reader needs lies in the first sector: a torn label is one of two labels, or none at all.
const _: () = assert!(SET_AT + 16 + 16 + 8 + 16 <= TEXT_AT && TEXT_AT + TEXT.len() <= 512);

impl Label {
    /// Writes the label into a block.
    pub fn encode(&self, block: &mut [u8]) {
        let mut w = Writer::new(&mut block[..BLOCK_BYTES]);
        w.bytes(&MAGIC);
        w.u32(VERSION);
        w.u32(match self.end {
            None => 0,
            Some(ImageEnd::GivenUp) => 1,
            Some(ImageEnd::MasterIncomplete) => 2,
        });
        w.at(SET_AT);
        w.id(self.set);
        w.id(self.shadow);
        w.u64(self.epoch.0);
        w.id(self.session);
        w.at(TEXT_AT);
        w.bytes(TEXT.as_bytes());
        w.seal(HASH_AT);
    }

    /// Reads a label.
    ///
    /// # Errors
    /// [`LabelError`].
    pub fn decode(block: &[u8; BLOCK_BYTES]) -> Result<Self, LabelError> {
        let mut r = Reader::new(block);
        if r.array::<8>() != MAGIC {
            return Err(LabelError::Foreign);
        }
        if !r.hash_matches(HASH_AT) || r.u32() != VERSION {
            return Err(LabelError::Damaged);
        }
        let end = match r.u32() {
            0 => None,
            1 => Some(ImageEnd::GivenUp),
            2 => Some(ImageEnd::MasterIncomplete),
            _ => return Err(LabelError::Damaged),
        };
        r.at(SET_AT);
        let (set, shadow) = (r.id(), r.id());
        let epoch = Epoch(r.u64());
        // A given-up epoch is where the next one counts on from.
        if epoch.0 > COUNTER_MAX {
            return Err(LabelError::Damaged);
        }
        Ok(Self { set, shadow, epoch, session: r.id(), end })
    }
    /// Whose label a block is, as set and shadow, also if it is damaged: rot elsewhere in it does not make the volume
    /// somebody else's.
    pub fn owner(block: &[u8; BLOCK_BYTES]) -> Option<(Id128, Id128)> {
        let mut r = Reader::new(block);
        if r.array::<8>() != MAGIC {
            return None;
        }
        r.at(SET_AT);
        Some((r.id(), r.id()))
    }
}
