//! What a set's record says its volumes are, compared before anything is written (E21).

use super::RecoverError;
use thiserror::Error;
use umbra_engine::Id128;
use umbra_format::{SetIdentity, Superblock};

/// What the record of a set says that its superblock must say. What is not known is not compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The set.
    pub set: Option<Id128>,
    /// Its master.
    pub master: Option<Id128>,
    /// Bytes of the master.
    pub master_bytes: Option<u64>,
    /// Fingerprint of the master as it is now. Compared if the superblock has one and was closed in order.
    pub fingerprint: Option<u64>,
    /// Bytes of a chunk.
    pub chunk_bytes: Option<u64>,
    /// Its shadow.
    pub shadow: Option<Id128>,
    /// Its bitmap volume.
    pub bitmap: Option<Id128>,
}

/// One thing that is not as it was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Mismatch {
    /// Another set.
    #[error("the bitmap volume is of set {found}, expected was set {expected}")]
    Set {
        /// By the record.
        expected: Id128,
        /// By the superblock.
        found: Id128,
    },
    /// Another master.
    #[error("the bitmap volume is of a set of master {found}, expected was master {expected}")]
    Master {
        /// By the record.
        expected: Id128,
        /// By the superblock.
        found: Id128,
    },
    /// A master of another size.
    #[error("the set is of a master of {found} bytes, expected were {expected}")]
    MasterBytes {
        /// By the record.
        expected: u64,
        /// By the superblock.
        found: u64,
    },
    /// A master with another content.
    #[error(
        "the master was written outside Umbra: its fingerprint is {found:#x}, and was {expected:#x} at detach"
    )]
    Fingerprint {
        /// By the superblock: as it was left.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// Other chunks.
    #[error("the set has chunks of {found} bytes, expected were {expected}")]
    ChunkBytes {
        /// By the record.
        expected: u64,
        /// By the superblock.
        found: u64,
    },
    /// Another shadow.
    #[error("the bitmap volume is of a set with shadow {found}, expected was shadow {expected}")]
    Shadow {
        /// By the record.
        expected: Id128,
        /// By the superblock.
        found: Id128,
    },
    /// Another bitmap volume of the same set.
    #[error("the bitmap volume is {found}, expected was {expected}")]
    Bitmap {
        /// By the record.
        expected: Id128,
        /// By the superblock.
        found: Id128,
    },
}

impl Expected {
    /// Everything that a set's identity says, but for the fingerprint.
    pub fn all_of(identity: &SetIdentity) -> Self {
        Self {
            set: Some(identity.set),
            master: Some(identity.master.uuid),
            master_bytes: Some(identity.geometry.master_bytes()),
            fingerprint: None,
            chunk_bytes: Some(identity.geometry.chunk_bytes()),
            shadow: Some(identity.shadow.uuid),
            bitmap: Some(identity.bitmap),
        }
    }

    /// Compares; the first thing that differs, the set before its parts.
    ///
    /// # Errors
    /// [`RecoverError::NotExpected`].
    pub fn compare(&self, superblock: &Superblock) -> Result<(), RecoverError> {
        let found = Self::all_of(&superblock.identity);
        let differ =
            |expected: Option<Id128>, found: Option<Id128>| expected.zip(found).filter(|(a, b)| a != b);
        let differs = |expected: Option<u64>, found: Option<u64>| expected.zip(found).filter(|(a, b)| a != b);
        let left = Some(superblock.identity.master.fingerprint);
        let left = left.filter(|fingerprint| *fingerprint != 0 && superblock.header.clean);
        let mismatch = differ(self.set, found.set)
            .map(|(expected, found)| Mismatch::Set { expected, found })
            .or(differ(self.master, found.master)
                .map(|(expected, found)| Mismatch::Master { expected, found }))
            .or(differ(self.bitmap, found.bitmap)
                .map(|(expected, found)| Mismatch::Bitmap { expected, found }))
            .or(differ(self.shadow, found.shadow)
                .map(|(expected, found)| Mismatch::Shadow { expected, found }))
            .or(differs(self.master_bytes, found.master_bytes)
                .map(|(expected, found)| Mismatch::MasterBytes { expected, found }))
            .or(differs(self.chunk_bytes, found.chunk_bytes)
                .map(|(expected, found)| Mismatch::ChunkBytes { expected, found }))
            .or(differs(left, self.fingerprint)
                .map(|(expected, found)| Mismatch::Fingerprint { expected, found }));
        mismatch.map_or(Ok(()), |mismatch| Err(RecoverError::NotExpected(mismatch)))
    }
}
