//! Requests that the owner keeps, until everything they need is there.
//!
//! ```text
//!         keep                 wait(n)              woken n times
//!  port ───────> considered ─────────────> waiting ───────────────> ready ──> considered again
//!                    │                        │
//!                    ├─ let go: Go            └─ failed
//!                    ├─ let go, to be told: written by the port ──> finished
//!                    └─ failed
//! ```
//!
//! A request's number is its place in a table and is used again at once. What waits for something, or holds a chunk, is
//! therefore named by a [`Ticket`], which is never used twice: one that is over wakes nobody and holds nothing.

use crate::action::{Request, RequestId, Side};
use std::collections::VecDeque;

/// Names a request that the owner keeps, or has kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket {
    serial: u64,
    id: RequestId,
}

impl Ticket {
    /// The number by which the port knows the request.
    pub(crate) fn id(self) -> RequestId {
        self.id
    }
}

#[derive(Debug)]
struct Kept {
    ticket: Ticket,
    request: Request,
    /// Things that it waits for.
    outstanding: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Requests {
    slots: Vec<Option<Kept>>,
    next_serial: u64,
    ready: VecDeque<Ticket>,
}

impl Requests {
    /// A table for so many requests at a time.
    pub(crate) fn new(requests: usize) -> Self {
        Self {
            slots: (0..requests).map(|_| None).collect(),
            next_serial: 0,
            ready: VecDeque::with_capacity(requests),
        }
    }

    /// The port has asked for a request.
    pub(crate) fn keep(&mut self, request: Request) -> Ticket {
        let slot = &mut self.slots[request.id.0 as usize];
        assert!(slot.is_none(), "a request asks once");
        let ticket = Ticket { serial: self.next_serial, id: request.id };
        self.next_serial += 1;
        *slot = Some(Kept { ticket, request, outstanding: 0 });
        ticket
    }

    fn kept(&mut self, ticket: Ticket) -> Option<&mut Kept> {
        self.slots[ticket.id.0 as usize].as_mut().filter(|kept| kept.ticket == ticket)
    }

    /// The request, if it is not over.
    pub(crate) fn get(&self, ticket: Ticket) -> Option<&Request> {
        let kept = self.slots[ticket.id.0 as usize].as_ref().filter(|kept| kept.ticket == ticket);
        kept.map(|kept| &kept.request)
    }

    /// Which side a request is for, if it is not over.
    pub(crate) fn side(&self, ticket: Ticket) -> Option<Side> {
        self.get(ticket).map(|request| request.side)
    }

    /// The request that the port knows by this number now.
    pub(crate) fn of_port(&self, id: RequestId) -> Option<Ticket> {
        self.slots[id.0 as usize].as_ref().map(|kept| kept.ticket)
    }

    /// It waits for so many things more.
    pub(crate) fn wait(&mut self, ticket: Ticket, things: u32) {
        if let Some(kept) = self.kept(ticket) {
            kept.outstanding += things;
        }
    }

    /// One of the things that it waits for is there.
    pub(crate) fn wake(&mut self, ticket: Ticket) {
        let Some(kept) = self.kept(ticket) else { return };
        kept.outstanding -= 1;
        if kept.outstanding == 0 {
            self.ready.push_back(ticket);
        }
    }

    /// The next request that waits for nothing any more.
    pub(crate) fn next_ready(&mut self) -> Option<Ticket> {
        self.ready.pop_front()
    }

    /// Whether there is one.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The request is over, one way or the other; false if it was before.
    pub(crate) fn end(&mut self, ticket: Ticket) -> bool {
        let slot = &mut self.slots[ticket.id.0 as usize];
        slot.take_if(|kept| kept.ticket == ticket).is_some()
    }
}
