//! Regions of the write-intent log that are being made active, and who waits for them.
//!
//! ```text
//!  wanted ──> a record in the journal of every set that tracks ──> each durable, or its set ended ──> active (shared map)
//! ```

use crate::requests::Ticket;
use std::collections::HashMap;

#[derive(Debug, Default)]
struct Activation {
    /// Sets whose record is not durable.
    outstanding: u32,
    waiters: Vec<Ticket>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Regions {
    activations: HashMap<u64, Activation>,
}

impl Regions {
    /// Room for so many at a time.
    pub(crate) fn new(regions: usize) -> Self {
        Self { activations: HashMap::with_capacity(regions) }
    }

    /// Whether no region is on its way.
    pub(crate) fn is_idle(&self) -> bool {
        self.activations.is_empty()
    }

    /// Whether the region is on its way.
    pub(crate) fn is_wanted(&self, region: u64) -> bool {
        self.activations.contains_key(&region)
    }

    /// The region is on its way: so many sets have a record to write.
    pub(crate) fn want(&mut self, region: u64, sets: u32) {
        assert!(sets > 0, "a region that is not active has a set that tracks");
        let was = self.activations.insert(region, Activation { outstanding: sets, waiters: Vec::new() });
        assert!(was.is_none(), "a region is activated once");
    }

    /// A request waits for a region that is on its way.
    pub(crate) fn wait(&mut self, region: u64, ticket: Ticket) {
        self.activations.get_mut(&region).expect("a region on its way").waiters.push(ticket);
    }

    /// One set has the region in its log, or tracks no more. Who waited, if it was the last.
    pub(crate) fn settled(&mut self, region: u64) -> Option<Vec<Ticket>> {
        let activation = self.activations.get_mut(&region)?;
        activation.outstanding -= 1;
        if activation.outstanding > 0 {
            return None;
        }
        self.activations.remove(&region).map(|activation| activation.waiters)
    }

    /// A set tracks no more: counts anew how many sets each region waits for. Those that wait for none, with who waited.
    pub(crate) fn recount(&mut self, sets: impl Fn(u64) -> u32) -> Vec<(u64, Vec<Ticket>)> {
        for (region, activation) in &mut self.activations {
            activation.outstanding = sets(*region);
        }
        let over = self.activations.extract_if(|_, activation| activation.outstanding == 0);
        let mut over: Vec<_> = over.map(|(region, activation)| (region, activation.waiters)).collect();
        over.sort_unstable_by_key(|(region, _)| *region);
        over
    }

    /// Who waits for regions of this kind.
    pub(crate) fn waiters_on(&self, concerned: impl Fn(u64) -> bool) -> impl Iterator<Item = Ticket> {
        let concerned = move |(region, _): &(&u64, &Activation)| concerned(**region);
        self.activations
            .iter()
            .filter(concerned)
            .flat_map(|(_, activation)| activation.waiters.iter().copied())
    }
}
