//! Devices that take only so much at a time, as the rings do: transfers and what blocks (flushes, discards, zeroes)
//! each have their own bound. What comes beyond waits outside, and what has no room to wait is refused.

use super::{StoreOpKind, World};

/// Bounds of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Reads and writes at a time.
    pub transfers: u16,
    /// Flushes, discards and write-zeroes at a time.
    pub blocking: u16,
    /// Of either kind, how many wait; one more ends with `ENOBUFS`.
    pub waiting: [usize; 2],
}

impl Queue {
    fn at_a_time(&self, blocks: bool) -> usize {
        usize::from(if blocks { self.blocking } else { self.transfers })
    }
}

/// Whether an operation is bounded as one that blocks.
pub(super) fn blocks(kind: &StoreOpKind) -> bool {
    !matches!(kind, StoreOpKind::Read { .. } | StoreOpKind::Write { .. })
}

/// What becomes of an operation when it is submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Starts,
    Waits,
    Refused,
}

impl World {
    /// Operations of a kind on a device that have begun and not ended, and that wait.
    fn queued(&self, device: usize, blocking: bool) -> (usize, usize) {
        let of = self.in_flight.iter().filter(|op| op.device == device && blocks(&op.kind) == blocking);
        of.fold((0, 0), |(begun, waiting), op| match op.waits {
            true => (begun, waiting + 1),
            false => (begun + 1, waiting),
        })
    }

    pub(super) fn admit(&self, device: usize, kind: &StoreOpKind) -> Admission {
        let Some(queue) = self.devices[device].queue else { return Admission::Starts };
        let (begun, waiting) = self.queued(device, blocks(kind));
        match waiting {
            0 if begun < queue.at_a_time(blocks(kind)) => Admission::Starts,
            _ if waiting < queue.waiting[usize::from(blocks(kind))] => Admission::Waits,
            _ => Admission::Refused,
        }
    }

    /// What has waited longest begins where there is room. To wait for too long is a fault like to take too long.
    pub(super) fn begin_waiting(&mut self) {
        if !self.in_flight.iter().any(|op| op.waits) {
            return;
        }
        for device in 0..self.devices.len() {
            for blocking in [false, true] {
                let (begun, waiting) = self.queued(device, blocking);
                let queue = self.devices[device].queue;
                let room = queue.map_or(usize::MAX, |queue| queue.at_a_time(blocking).saturating_sub(begun));
                for _ in 0..room.min(waiting) {
                    let next = |op: &&mut super::InFlight| {
                        op.waits && op.device == device && blocks(&op.kind) == blocking
                    };
                    let Some(op) = self.in_flight.iter_mut().filter(next).min_by_key(|op| op.id) else {
                        break;
                    };
                    let waited = self.clock - op.submitted_at;
                    op.waits = false;
                    op.effect_at += waited;
                    op.complete_at += waited;
                }
            }
            let (clock, late) = (self.clock, self.timing.late);
            let waits = |op: &&mut super::InFlight| op.waits && op.device == device && !op.late;
            for op in self.in_flight.iter_mut().filter(waits) {
                if clock - op.submitted_at > late {
                    op.late = true;
                    self.devices[device].injected += 1;
                }
            }
        }
    }

    /// Whether an operation hangs, or waits behind nothing but what hangs.
    pub(super) fn is_stuck(&self, op: &super::InFlight) -> bool {
        if op.hung || !op.waits {
            return op.hung;
        }
        let same = |other: &&super::InFlight| {
            other.device == op.device && !other.waits && blocks(&other.kind) == blocks(&op.kind)
        };
        let full =
            |queue: Queue| self.in_flight.iter().filter(same).count() >= queue.at_a_time(blocks(&op.kind));
        self.devices[op.device].queue.is_some_and(full)
            && self.in_flight.iter().filter(same).all(|op| op.hung)
    }
}
