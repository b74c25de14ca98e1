//! Changes: each is whole, or leaves nothing behind, wherever it stops (E22).
//!
//! | change | on record before its first effect | failed in the middle | killed in the middle |
//! |---|---|---|---|
//! | attach | the master | what was presented ends, the record goes | finished by the next start |
//! | detach | nothing | served again | served again by the next start |
//! | enable | the set, Enabling | taken away; if that fails, Disabling | finished if its image was cut, else taken away |
//! | disable | the set, Disabling | stays Disabling, and can be disabled again | finished by the next start |
//! | cut of one set | nothing | every image is what it was | its bitmap volume says whether it was cut |
//! | cut of several | the cut | every image is what it was; after the decision, but for who drops out | decided once, from what is on record |
//! | restore | the marks of its sets, and as a cut | as a cut, and the marks go | as a cut; the master is not served without its sets |
//!
//! What can be checked beforehand is checked before the first effect, so that such a refusal changes nothing. What only
//! the engine knows, under its gate, and what a device does, come later, and are undone. What could not be taken away in the
//! process is taken away by starting the master again, which is what follows a kill: one way to come back, used often.

pub(crate) mod attach;
pub(crate) mod cut;
pub(crate) mod detach;
pub(crate) mod disable;
pub(crate) mod enable;
mod group;
pub(crate) mod member;
pub(crate) mod outside;
pub(crate) mod restore;
