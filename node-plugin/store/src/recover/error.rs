//! Why a set cannot be prepared or recovered.

use super::{Mismatch, Volume};
use crate::block_store::StoreError;
use crate::blocking::Abandoned;
use std::time::Duration;
use thiserror::Error;
use umbra_engine::{Id128, Place};
use umbra_format::SuperblockError;

/// Why a set cannot be prepared or recovered. Each names the volume and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecoverError {
    /// A device did not do what it was asked.
    #[error("{volume} volume: {source}")]
    Device {
        /// Which.
        volume: Volume,
        /// What it said.
        source: StoreError,
    },
    /// A device did not answer in time. What it was asked may still land: until `abandoned` has, both volumes stay
    /// claimed and are used for nothing (E6).
    #[error("the {volume} volume did not answer within {deadline:?}; it stays claimed until it does")]
    Hung {
        /// Which.
        volume: Volume,
        /// Its deadline.
        deadline: Duration,
        /// What is still in flight.
        abandoned: Abandoned,
    },
    /// Nothing of Umbra's is there.
    #[error("not an Umbra bitmap volume: neither superblock slot was ever written; enable a set on it first")]
    Foreign,
    /// Both slots are unreadable.
    #[error("both superblock slots are unusable ({a}; {b}); `umbra-io check` tells more")]
    Damaged {
        /// Slot A.
        a: SuperblockError,
        /// Slot B.
        b: SuperblockError,
    },
    /// A slot is whole, but not for this program: the other one may be older and must not be taken instead (E10).
    #[error("superblock slot {slot:?}: {source}")]
    Unusable {
        /// Which.
        slot: Place,
        /// Why.
        source: SuperblockError,
    },
    /// What is to be written could not be read again.
    #[error("the set cannot be described on a bitmap volume: {0}")]
    Indescribable(SuperblockError),
    /// The two slots are of two sets.
    #[error("the superblock slots name two sets, {a} and {b}: an enable was interrupted; enable again")]
    TwoSets {
        /// In slot A.
        a: Id128,
        /// In slot B.
        b: Id128,
    },
    /// The bitmap volume is not the one that the set's record is about (E21). Nothing was written.
    #[error("{0}; the volumes were exchanged or renumbered: attach the right ones, the set waits for them")]
    NotExpected(Mismatch),
    /// The volume is smaller than its layout.
    #[error("the bitmap volume has {have} bytes; this master needs {need}")]
    BitmapTooSmall {
        /// Bytes there are.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// The shadow is smaller than the master.
    #[error("the shadow volume has {have} bytes; a full-size shadow of this master needs {need}")]
    ShadowTooSmall {
        /// Bytes there are.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// The head would be kept on a volume that cannot be read as finely as the master.
    #[error(
        "the bitmap volume has blocks of {have} bytes; the image's first bytes are kept there and are read in \
         blocks of {need}; name a volume with blocks of at most {need} bytes"
    )]
    BitmapBlocks {
        /// Its logical block.
        have: u32,
        /// The largest that will do.
        need: u32,
    },
    /// The volume belongs to a set that was not disabled.
    #[error("the bitmap volume belongs to set {set} ({name}), which was not disabled")]
    InUse {
        /// That set.
        set: Id128,
        /// Its name.
        name: String,
    },
    /// Something on the volume is newer than its superblock: the superblock is an old version (E10).
    #[error(
        "the journal or a page is of a later time than the newest readable superblock; `umbra-io check --repair` decides"
    )]
    Stale,
    /// Another node had it and did not close it (E7).
    #[error(
        "node {node} has set {set} attached and did not detach it; detach it there or give the shadow up"
    )]
    ForeignSession {
        /// The set.
        set: Id128,
        /// That node.
        node: Id128,
    },
    /// The shadow carries the label of another. Nothing was written.
    #[error(
        "the shadow volume is labelled as shadow {found} of set {found_set}; set {set} expects shadow {expected}; \
         attach the right volume, the set waits for it"
    )]
    Swapped {
        /// The set that is being recovered.
        set: Id128,
        /// Its shadow.
        expected: Id128,
        /// The set that the label names.
        found_set: Id128,
        /// The shadow that the label names.
        found: Id128,
    },
    /// The shadow of a set whose head was moved away carries no label: it is another disk (E21). Nothing was written.
    #[error(
        "the shadow volume carries no label, and shadow {expected} of set {set} does: another disk is in its place; \
         attach the right volume, the set waits for it"
    )]
    Unlabelled {
        /// The set that is being recovered.
        set: Id128,
        /// Its shadow.
        expected: Id128,
    },
    /// The set was disabled.
    #[error("set {0} was disabled; there is nothing to attach")]
    Disabled(Id128),
    /// A restore was interrupted, and what it still had to copy is not known any more (E9).
    #[error(
        "set {0} was restoring its master when its bitmap volume failed: a part of the master's data is on the \
         shadow only, and nothing says which; restore the master from another image"
    )]
    MasterIncomplete(Id128),
}
