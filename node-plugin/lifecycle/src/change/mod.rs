//! Changes: each is whole, or leaves nothing behind, wherever it stops (E22).
//!
//! | change | on record before its first effect | failed in the middle | killed in the middle |
//! |---|---|---|---|
//! | attach | the master | what was presented ends, the record goes | finished by the next start |
//! | detach | nothing | served again | served again by the next start |
//! | enable | the set, Enabling | taken away; if that fails, Disabling | finished if its image was cut, else taken away |
//! | disable | the set, Disabling | stays Disabling, and can be disabled again | finished by the next start |
//! | cut | over several sets: the cut | every image is what it was | decided once, from what is on record |
//!
//! Every check comes before the first effect, so that a refusal changes nothing. What could not be taken away in the
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
