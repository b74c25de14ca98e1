//! Flush tickets: one flush makes durable everything that was written before it was issued (J2).
//!
//! No timer and no waiting for a group: an item that needs a flush gets the next one issued, and at most
//! [`IN_FLIGHT_MAX`] are in flight per device, so that everything that arrives meanwhile shares the next.

use crate::action::{Durability, FlushTicket};
use std::collections::VecDeque;

/// Flushes in flight per device. Two: one working, one collecting; more was no faster in the model (performance plan, 2.1).
pub(crate) const IN_FLIGHT_MAX: usize = 2;

/// Where all flushes of a master get their tickets.
#[derive(Debug, Default)]
pub(crate) struct Tickets(u64);

impl Tickets {
    /// One that nobody has had.
    pub(crate) fn take(&mut self) -> FlushTicket {
        self.0 += 1;
        FlushTicket(self.0)
    }
}

/// The tickets of one device; `T` is what waits for durability.
#[derive(Debug)]
pub(crate) struct Flusher<T> {
    durability: Durability,
    /// Counts completed writes that asked for durability.
    clock: u64,
    issued: u64,
    in_flight: Vec<(FlushTicket, u64)>,
    waiting: VecDeque<(u64, T)>,
    ready: Vec<T>,
}

impl<T> Flusher<T> {
    pub(crate) fn new(durability: Durability) -> Self {
        Self {
            durability,
            clock: 0,
            issued: 0,
            in_flight: Vec::with_capacity(IN_FLIGHT_MAX),
            waiting: VecDeque::with_capacity(64),
            ready: Vec::with_capacity(64),
        }
    }

    /// Whether writes that must become durable carry FUA.
    pub(crate) fn fua(&self) -> bool {
        self.durability == Durability::Fua
    }

    /// A write has completed; `item` becomes ready when it is durable.
    pub(crate) fn written(&mut self, item: T) {
        match self.durability {
            Durability::WriteThrough | Durability::Fua => self.ready.push(item),
            Durability::Flush => {
                self.clock += 1;
                self.waiting.push_back((self.clock, item));
            }
        }
    }

    /// `item` becomes ready when everything completed so far is durable, FUA or not.
    pub(crate) fn must_flush(&mut self, item: T) {
        if self.durability == Durability::WriteThrough {
            self.ready.push(item);
        } else {
            self.clock += 1;
            self.waiting.push_back((self.clock, item));
        }
    }

    /// The next flush to issue, if one is needed and may be issued now.
    pub(crate) fn issue(&mut self, tickets: &mut Tickets) -> Option<FlushTicket> {
        let needed = self.waiting.back().is_some_and(|(at, _)| *at > self.issued);
        if !needed || self.in_flight.len() >= IN_FLIGHT_MAX {
            return None;
        }
        let ticket = tickets.take();
        self.issued = self.clock;
        self.in_flight.push((ticket, self.clock));
        Some(ticket)
    }

    /// A flush has succeeded.
    pub(crate) fn flushed(&mut self, ticket: FlushTicket) {
        let Some(index) = self.in_flight.iter().position(|(number, _)| *number == ticket) else { return };
        let (_, covers) = self.in_flight.swap_remove(index);
        while let Some((at, _)) = self.waiting.front()
            && *at <= covers
        {
            self.ready.extend(self.waiting.pop_front().map(|(_, item)| item));
        }
    }

    /// Takes one item that is durable.
    pub(crate) fn pop_ready(&mut self) -> Option<T> {
        self.ready.pop()
    }

    /// Whether nothing waits and nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty() && self.ready.is_empty()
    }

    /// Begins anew with another way to durability: a flush that was issued before proves nothing from here on.
    pub(crate) fn restart(&mut self, durability: Durability) {
        self.fail();
        self.durability = durability;
    }

    /// The device has failed: nothing that waits will ever be durable.
    pub(crate) fn fail(&mut self) {
        self.waiting.clear();
        self.in_flight.clear();
        self.ready.clear();
    }
}
