//! The copy buffers: two pools of fixed size, and who waits for them (E18).
//!
//! ```text
//!  enqueue ──> waits, in order, each pool by itself ──> given ──> lent to operations ──> free when the last is back
//!                 └─ cancel                                             └─ reclaimed from those that were given up
//! ```

use crate::action::{CopyBuf, CopyId, OpId};
use std::collections::VecDeque;

/// Which buffers a copy may have: the copier must not starve first writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pool {
    /// Somebody waits for the copy.
    Write,
    /// The background copier.
    Copier,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// Buffers of lower numbers are the write pool's.
    write_buffers: u16,
    free_write: Vec<CopyBuf>,
    free_copier: Vec<CopyBuf>,
    /// Operations and copies that use each buffer.
    users: Vec<u16>,
    queue: VecDeque<(CopyId, Pool)>,
    /// The buffer of each operation on a shadow side or of a restore: not free before the device is done with it, or was
    /// given up.
    lent: Vec<(OpId, CopyBuf)>,
}

impl Buffers {
    /// So many buffers for first writes and for the copier; `waiting`: copies that may wait at a time.
    pub(crate) fn new(write_buffers: u16, copier_buffers: u16, waiting: usize) -> Self {
        let copier = (write_buffers..write_buffers + copier_buffers).map(CopyBuf);
        Self {
            write_buffers,
            free_write: (0..write_buffers).map(CopyBuf).rev().collect(),
            free_copier: copier.rev().collect(),
            users: vec![0; usize::from(write_buffers + copier_buffers)],
            queue: VecDeque::with_capacity(waiting),
            lent: Vec::with_capacity(256),
        }
    }

    /// A copy waits for a buffer.
    pub(crate) fn enqueue(&mut self, copy: CopyId, pool: Pool) {
        assert!(self.queue.iter().all(|(other, _)| *other != copy), "a copy waits in one place");
        self.queue.push_back((copy, pool));
    }

    /// It waits no longer.
    pub(crate) fn cancel(&mut self, copy: CopyId) {
        self.queue.retain(|(other, _)| *other != copy);
    }

    /// Whether it still does.
    pub(crate) fn is_waiting(&self, copy: CopyId) -> bool {
        self.queue.iter().any(|(other, _)| *other == copy)
    }

    /// The next copy that gets a buffer.
    pub(crate) fn give(&mut self) -> Option<(CopyId, CopyBuf)> {
        let free = |(_, pool): &(CopyId, Pool)| match pool {
            Pool::Write => !self.free_write.is_empty(),
            Pool::Copier => !self.free_copier.is_empty(),
        };
        let at = self.queue.iter().position(free)?;
        let (copy, pool) = self.queue.remove(at)?;
        let buffer = match pool {
            Pool::Write => self.free_write.pop()?,
            Pool::Copier => self.free_copier.pop()?,
        };
        self.users[usize::from(buffer.0)] = 1;
        Some((copy, buffer))
    }

    /// Whether the copier could have a buffer now.
    pub(crate) fn has_free_copier(&self) -> bool {
        !self.free_copier.is_empty()
    }

    /// One user more: an operation beside whoever was given the buffer.
    pub(crate) fn share(&mut self, op: OpId, buffer: CopyBuf) {
        self.users[usize::from(buffer.0)] += 1;
        self.lent.push((op, buffer));
    }

    /// Whoever was given the buffer hands it on to an operation.
    pub(crate) fn lend(&mut self, op: OpId, buffer: CopyBuf) {
        self.lent.push((op, buffer));
    }

    /// An operation has ended: its buffer, which has one user less once it is released. None if it was reclaimed.
    pub(crate) fn back(&mut self, op: OpId) -> Option<CopyBuf> {
        let at = self.lent.iter().position(|(other, _)| *other == op)?;
        Some(self.lent.swap_remove(at).1)
    }

    /// One user less; true if the buffer is free now.
    pub(crate) fn release(&mut self, buffer: CopyBuf) -> bool {
        let users = &mut self.users[usize::from(buffer.0)];
        *users -= 1;
        let free = *users == 0;
        if free {
            let pool = match buffer.0 < self.write_buffers {
                true => &mut self.free_write,
                false => &mut self.free_copier,
            };
            pool.push(buffer);
        }
        free
    }

    /// The operations that buffers are lent to.
    pub(crate) fn lent(&self) -> impl Iterator<Item = OpId> {
        self.lent.iter().map(|(op, _)| *op)
    }

    /// E13, E18: what hangs at one set is not waited for by the others, so its buffers are used again under their
    /// numbers. The memory stays with the executor until the device is done with it. True if a buffer is free now.
    pub(crate) fn reclaim(&mut self, hung: &[OpId]) -> bool {
        let mut any = false;
        for op in hung {
            any |= self.back(*op).is_some_and(|buffer| self.release(buffer));
        }
        any
    }
}
