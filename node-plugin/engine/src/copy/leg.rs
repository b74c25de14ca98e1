//! What a copy does for one set.
//!
//! ```text
//!  Reading ──spread──> Copying ──data and record durable──> Settled (held)
//!     │                   │
//!     ├──────failed───────┴──> Losing ──record durable──> Settled (lost)
//!     └─ the set's image ends ──> Ending ──recorded──> Settled (ended)      from any state but Settled
//! ```
//!
//! The *held* record has a hash: its block is confirmed only when the journal has been told, once, that the data is
//! durable or given up durably. That is counted apart from the state, because a leg may be lost at any point of it.

use crate::action::SetIndex;
use crate::units::Sequence;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The old data is not there yet.
    Reading,
    /// Data and record are on their way.
    Copying { data: bool, record: bool },
    /// It failed: the record that says lost is on its way.
    Losing,
    /// The set's image is ending: waits until that is recorded.
    Ending,
    /// Held, lost or ended, durably.
    Settled,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Leg {
    set: SetIndex,
    state: State,
    /// The block that the *held* record is in, once it is sealed.
    block: Option<Sequence>,
    /// The record's data is durable, or given up durably.
    data_over: bool,
    /// The journal has been told so.
    told: bool,
}

impl Leg {
    /// A leg of a copy that begins; `ends`: the set's image is ending already.
    pub(crate) fn new(set: SetIndex, ends: bool) -> Self {
        let state = if ends { State::Ending } else { State::Reading };
        Self { set, state, block: None, data_over: false, told: false }
    }

    pub(crate) fn set(&self) -> SetIndex {
        self.set
    }

    /// Whether it wants the old data.
    pub(crate) fn is_reading(&self) -> bool {
        self.state == State::Reading
    }

    /// Whether its data is on its way to the shadow side, or its record to the journal.
    pub(crate) fn is_copying(&self) -> bool {
        matches!(self.state, State::Copying { .. })
    }

    /// Whether it waits for the end of its set's image to be recorded.
    pub(crate) fn is_ending(&self) -> bool {
        self.state == State::Ending
    }

    /// Whether its set has what it needs, or will never have it, durably.
    pub(crate) fn is_settled(&self) -> bool {
        self.state == State::Settled
    }

    /// The old data is there and goes to the shadow side.
    pub(crate) fn spread(&mut self) {
        assert!(self.is_reading(), "old data is spread once");
        self.state = State::Copying { data: false, record: false };
    }

    /// The record is in this block. The block, if its data is over already.
    pub(crate) fn sealed(&mut self, block: Sequence) -> Option<Sequence> {
        self.block = Some(block);
        self.tell()
    }

    /// The data is durable, or given up durably. The block that has to be told, if it has to be now.
    pub(crate) fn data_over(&mut self) -> Option<Sequence> {
        self.data_over = true;
        self.tell()
    }

    fn tell(&mut self) -> Option<Sequence> {
        let block = self.block.filter(|_| self.data_over && !self.told)?;
        self.told = true;
        Some(block)
    }

    /// The data is durable; true if the record is, too.
    pub(crate) fn data_durable(&mut self) -> bool {
        match &mut self.state {
            State::Copying { data, record } => {
                *data = true;
                *record
            }
            State::Reading | State::Losing | State::Ending | State::Settled => false,
        }
    }

    /// The record is durable; true if the data is, too.
    pub(crate) fn record_durable(&mut self) -> bool {
        match &mut self.state {
            State::Copying { data, record } => {
                *record = true;
                *data
            }
            State::Reading | State::Losing | State::Ending | State::Settled => false,
        }
    }

    /// It failed: a record says that the run is lost.
    pub(crate) fn lose(&mut self) {
        assert!(self.is_reading() || self.is_copying(), "a leg that is over is not lost");
        self.state = State::Losing;
    }

    /// Whether a record that says lost is on its way.
    pub(crate) fn is_losing(&self) -> bool {
        self.state == State::Losing
    }

    /// The set's image is ending.
    pub(crate) fn await_end(&mut self) {
        if !self.is_settled() {
            self.state = State::Ending;
        }
    }

    /// It is over; false if it was before.
    pub(crate) fn settle(&mut self) -> bool {
        let was = self.is_settled();
        self.state = State::Settled;
        !was
    }
}
