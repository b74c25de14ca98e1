//! A chunk that cannot be restored and that a request of the workload replaces as a whole (E9): the request holds it
//! until the record behind the write is durable.
//!
//! ```text
//!  Siblings ─> Regions ─> Granted ─────> Written ─────> Recording ─> over: lost for the shadow, the master's own
//!     │           │          │ the        │ master       record
//!     │           │          │ request    │ flushed      durable
//!     │           │          └ writes     └─ failed: over, still pending
//!     └───────────┴──────────┴─ the request ends without having written: over, still pending
//! ```

use crate::requests::Ticket;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hold {
    /// Siblings are being made ready.
    Siblings,
    /// Regions of sets that track are being made active.
    Regions,
    /// The request may go.
    Granted,
    /// The master has it, perhaps in a cache.
    Written,
    /// The master has it durably; the record is on its way.
    Recording,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Overwrite {
    by: Option<Ticket>,
    hold: Hold,
}

impl Overwrite {
    /// Held by this request.
    pub(crate) fn new(by: Ticket) -> Self {
        Self { by: Some(by), hold: Hold::Siblings }
    }

    /// The request that holds the chunk; none if it has let go.
    pub(crate) fn by(&self) -> Option<Ticket> {
        self.by
    }

    pub(crate) fn hold(&self) -> Hold {
        self.hold
    }

    /// The request ends without having written. True if the chunk need not be kept any longer.
    pub(crate) fn let_go(&mut self) -> bool {
        assert!(self.hold <= Hold::Granted, "what is written is not let go");
        self.by = None;
        self.hold == Hold::Granted
    }

    /// The next stage.
    pub(crate) fn advance(&mut self, to: Hold) {
        let next = match self.hold {
            Hold::Siblings => Hold::Regions,
            Hold::Regions => Hold::Granted,
            Hold::Granted => Hold::Written,
            Hold::Written | Hold::Recording => Hold::Recording,
        };
        assert_eq!(next, to, "a chunk is overwritten in order");
        self.hold = to;
    }
}
