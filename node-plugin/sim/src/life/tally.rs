//! Counts of what happened.

/// What a life has seen; for the summary, and to see that nothing is switched off by accident.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Store operations.
    pub operations: u64,
    /// Of these, before the script had ended.
    pub scripted: u64,
    /// Requests of the workload.
    pub requests: u64,
    /// Of these, refused because they were not of whole blocks.
    pub unaligned: u64,
    /// Kills and power cuts.
    pub crashes: u64,
    /// Points in time.
    pub cuts: u64,
    /// Of these, taken while another set of the master had an image.
    pub cuts_beside: u64,
    /// Cuts over several sets.
    pub groups: u64,
    /// Starts that found one in doubt.
    pub groups_in_doubt: u64,
    /// Restores begun.
    pub restores: u64,
    /// Starts that found a restore under way.
    pub restores_resumed: u64,
    /// Faults injected.
    pub faults: u64,
    /// Operations that waited for others of their device.
    pub waited: u64,
    /// Blocks of metadata, or sectors of a head, that have rotted.
    pub rotten: u64,
    /// Writes of metadata that have gone astray.
    pub strays: u64,
    /// Sectors found lost, or of a set that is offline.
    pub lost: u64,
    /// Independent sets that became complete.
    pub completed: u64,
    /// Sets whose bitmap volume could not be recovered after faults.
    pub given_up: u64,
    /// Sectors read and judged.
    pub judged: u64,
}

impl Tally {
    /// Adds another life's.
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.scripted += other.scripted;
        self.requests += other.requests;
        self.unaligned += other.unaligned;
        self.crashes += other.crashes;
        self.cuts += other.cuts;
        self.cuts_beside += other.cuts_beside;
        self.groups += other.groups;
        self.groups_in_doubt += other.groups_in_doubt;
        self.restores += other.restores;
        self.restores_resumed += other.restores_resumed;
        self.faults += other.faults;
        self.waited += other.waited;
        self.rotten += other.rotten;
        self.strays += other.strays;
        self.lost += other.lost;
        self.completed += other.completed;
        self.given_up += other.given_up;
        self.judged += other.judged;
    }
}
