//! All copies in progress, and the locks of their chunks: one transition at a time per chunk (common rule 1).

use super::Copy;
use crate::action::CopyId;
use crate::requests::Ticket;
use crate::units::Chunk;
use std::collections::HashMap;

/// See the module.
#[derive(Debug)]
pub(crate) struct Copies {
    copies: HashMap<CopyId, Copy>,
    locks: HashMap<Chunk, CopyId>,
    next: CopyId,
}

impl Copies {
    /// Room for so many copies at a time.
    pub(crate) fn new(copies: usize) -> Self {
        Self { copies: HashMap::with_capacity(copies), locks: HashMap::with_capacity(4096), next: CopyId(0) }
    }

    /// Locks the chunks of a copy that begins.
    pub(crate) fn add(&mut self, copy: Copy) -> CopyId {
        let id = self.next;
        self.next = CopyId(id.0 + 1);
        for chunk in copy.run().chunks() {
            let was = self.locks.insert(chunk, id);
            assert!(was.is_none(), "common rule 1: one transition at a time per chunk");
        }
        self.copies.insert(id, copy);
        id
    }

    /// Unlocks the chunks of a copy that is over.
    pub(crate) fn remove(&mut self, id: CopyId) -> Copy {
        let copy = self.copies.remove(&id).expect("the copy is in progress");
        for chunk in copy.run().chunks() {
            let lock = self.locks.remove(&chunk);
            assert_eq!(lock, Some(id), "common rule 1: a lock is held by one copy");
        }
        copy
    }

    /// A copy, if it is not over.
    pub(crate) fn get(&self, id: CopyId) -> Option<&Copy> {
        self.copies.get(&id)
    }

    /// The same, to change it.
    pub(crate) fn get_mut(&mut self, id: CopyId) -> Option<&mut Copy> {
        self.copies.get_mut(&id)
    }

    /// A copy that is known to be in progress.
    pub(crate) fn of(&self, id: CopyId) -> &Copy {
        self.copies.get(&id).expect("the copy is in progress")
    }

    /// The same, to change it.
    pub(crate) fn of_mut(&mut self, id: CopyId) -> &mut Copy {
        self.copies.get_mut(&id).expect("the copy is in progress")
    }

    /// The copy that has the chunk locked.
    pub(crate) fn lock(&self, chunk: Chunk) -> Option<CopyId> {
        self.locks.get(&chunk).copied()
    }

    /// Whether nothing is copied.
    pub(crate) fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    /// All copies, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Copy> {
        self.copies.values()
    }

    /// The copies of this kind, in the order they began.
    pub(crate) fn ids(&self, of: impl Fn(&Copy) -> bool) -> Vec<CopyId> {
        let ids = self.copies.iter().filter(|(_, copy)| of(copy)).map(|(id, _)| *id);
        let mut ids: Vec<CopyId> = ids.collect();
        ids.sort_unstable();
        ids
    }

    /// Changes every copy.
    pub(crate) fn each(&mut self, change: impl FnMut(&mut Copy)) {
        self.copies.values_mut().for_each(change);
    }

    /// Who waits for copies of this kind.
    pub(crate) fn waiters_on(&self, of: impl Fn(&Copy) -> bool) -> impl Iterator<Item = Ticket> {
        self.copies.values().filter(move |copy| of(copy)).flat_map(|copy| copy.waiters().iter().copied())
    }

    /// Every lock belongs to a copy of its chunk.
    pub(crate) fn self_check(&self) {
        for (chunk, id) in &self.locks {
            assert!(self.of(*id).run().contains(*chunk), "common rule 1: a lock belongs to its copy");
        }
    }
}
