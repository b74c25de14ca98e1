//! A digest of the master's first bytes, kept where it outlives the process and not the machine: after a kill it tells
//! whether anybody else has written there meanwhile.
//!
//! There is where partition tables, file systems and volume groups count their changes: whatever mounts or repairs the
//! raw device writes there. The digest is of what was read while no write to these bytes was under way, and is taken
//! back before the next one begins. So what is kept is always true, and after a kill in the midst of writes there is none.
//!
//! ```text
//!               write                       write                write
//!   ┌────────────────────────┐   ┌────────────────────┐   ┌─────────────────────────┐
//!   │                        v   v                    │   v                         │
//! Unknown ── quiet ──┐     Written ── quiet ──> Reading ──────> Overtaken ──read──> Written
//!   ^                └───────────────────────────> │ │
//!   └─────────────────── read fails ───────────────┘ └── read ──> Kept ── write ──> Written
//! ```
//! *Quiet*: no write is under way, and none was for a second.

use umbra_engine::{ByteRange, Now};

/// Bytes from the start of the master that are watched: up to and with the superblock of btrfs, the last to come.
pub const FIRST_BYTES: u64 = 68 << 10;

/// A read of them is worth its while after so long without a write, in milliseconds.
const QUIET_MS: u64 = 1000;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// An earlier process may have kept a digest, and that is true.
    Unknown,
    /// None is kept.
    Written,
    /// They are being read; what was kept before is true.
    Reading,
    /// They were written while they were being read; none is kept.
    Overtaken,
    /// A digest is kept.
    Kept,
}

/// What a write must do before it may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Before {
    /// Nothing.
    Nothing,
    /// A digest that may be kept is taken back.
    Withdraw,
}

/// Watches the writes to the first bytes of a master. See the module.
#[derive(Debug)]
pub(crate) struct FirstBytes {
    state: State,
    bytes: u64,
    /// Writes under way. One that was given up may land at any time, and stays.
    writing: u64,
    /// There was a write since the last tick.
    disturbed: bool,
    quiet_since: Now,
}

impl FirstBytes {
    /// Of a master of `size` bytes.
    pub(crate) fn new(size: u64) -> Self {
        Self {
            state: State::Unknown,
            bytes: FIRST_BYTES.min(size),
            writing: 0,
            disturbed: true,
            quiet_since: Now(0),
        }
    }

    /// Whether a write of `range` is one of these bytes.
    pub(crate) fn includes(&self, range: ByteRange) -> bool {
        range.len > 0 && range.start < self.bytes
    }

    /// A write of them is about to begin.
    pub(crate) fn write_begins(&mut self) -> Before {
        self.writing += 1;
        self.disturbed = true;
        let (state, before) = match self.state {
            State::Unknown | State::Kept => (State::Written, Before::Withdraw),
            State::Reading => (State::Overtaken, Before::Withdraw),
            State::Written | State::Overtaken => (self.state, Before::Nothing),
        };
        self.state = state;
        before
    }

    /// A write of them has ended, well or not, and will not land any more.
    pub(crate) fn write_ends(&mut self) {
        self.writing -= 1;
        self.disturbed = true;
    }

    /// How many bytes are to be read now, from the start of the master; none: nothing is to be read.
    pub(crate) fn read_due(&mut self, now: Now) -> Option<u64> {
        if std::mem::take(&mut self.disturbed) {
            self.quiet_since = now;
        }
        let quiet = self.writing == 0 && now.0 >= self.quiet_since.0 + QUIET_MS;
        if !quiet || !matches!(self.state, State::Unknown | State::Written) {
            return None;
        }
        self.state = State::Reading;
        Some(self.bytes)
    }

    /// They were read; true if what was read is there still.
    pub(crate) fn was_read(&mut self, ok: bool) -> bool {
        // It is tried again after another quiet second.
        self.disturbed = true;
        let (state, true_still) = match (self.state, ok) {
            (State::Reading, true) => (State::Kept, true),
            (State::Reading, false) => (State::Unknown, false),
            (State::Overtaken, _) => (State::Written, false),
            (State::Unknown | State::Written | State::Kept, _) => {
                unreachable!("nothing is read in this state")
            }
        };
        self.state = state;
        true_still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(size: u64) -> FirstBytes {
        let mut first = FirstBytes::new(size);
        assert_eq!(first.read_due(Now(500)), None, "not at once");
        first
    }

    #[test]
    fn they_are_read_once_after_a_quiet_second_and_a_write_takes_that_back() {
        let mut first = quiet(1 << 30);
        assert_eq!(first.read_due(Now(1500)), Some(FIRST_BYTES));
        assert_eq!(first.read_due(Now(9000)), None, "they are being read");
        assert!(first.was_read(true));
        assert_eq!(first.read_due(Now(20_000)), None, "they are known");
        assert_eq!(first.write_begins(), Before::Withdraw);
        assert_eq!(first.write_begins(), Before::Nothing, "it was taken back");
        assert_eq!(first.read_due(Now(30_000)), None);
        first.write_ends();
        assert_eq!(first.read_due(Now(40_000)), None, "a write is under way");
        first.write_ends();
        assert_eq!((first.read_due(Now(50_000)), first.read_due(Now(50_999))), (None, None));
        assert_eq!(first.read_due(Now(51_000)), Some(FIRST_BYTES));
    }

    #[test]
    fn what_was_overtaken_by_a_write_is_not_kept() {
        let mut first = quiet(4096);
        assert_eq!(first.read_due(Now(1500)), Some(4096), "a small master is read whole");
        assert_eq!(first.write_begins(), Before::Withdraw, "an earlier process may have kept one");
        first.write_ends();
        assert!(!first.was_read(true), "read before, or after, or in the midst of the write");
        assert_eq!(first.write_begins(), Before::Nothing);
        first.write_ends();
    }

    #[test]
    fn what_cannot_be_read_is_tried_again_and_takes_nothing_back() {
        let mut first = quiet(4096);
        assert_eq!(first.read_due(Now(1500)), Some(4096));
        assert!(!first.was_read(false));
        assert_eq!((first.read_due(Now(3000)), first.read_due(Now(4000))), (None, Some(4096)));
        assert!(!first.was_read(false));
        assert_eq!(first.write_begins(), Before::Withdraw, "an earlier process may have kept one");
    }

    #[test]
    fn a_write_elsewhere_is_none() {
        let first = FirstBytes::new(1 << 30);
        assert!(first.includes(ByteRange::new(FIRST_BYTES - 512, 1024)));
        assert!(!first.includes(ByteRange::new(FIRST_BYTES, 512)));
        assert!(!first.includes(ByteRange::new(0, 0)));
    }
}
