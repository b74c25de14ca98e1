//! Tags and the states that each goes through.
//!
//! ```text
//! Unfetched ──fetch──> Armed ──request──> Busy ──complete──> Armed
//!                        │                  │
//!                        └──abort──> Dead <─┘ abandon
//! ```

use std::fmt;

/// Slot of a request in its queue: 0 to depth - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(u16);

impl Tag {
    pub(crate) const fn new(number: u16) -> Tag {
        Tag(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Its number, to index tables of a queue's requests.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a tag is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TagState {
    /// Not offered to the kernel yet.
    Unfetched,
    /// Its command is with the kernel, or waits to be submitted.
    Armed,
    /// The caller has its request.
    Busy,
    /// The kernel ended it, or the caller gave it up. For ever: a new fetch on the same open is refused.
    Dead,
}

/// How many tags of a queue are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TagCounts {
    /// Not offered to the kernel yet.
    pub unfetched: u16,
    /// Waiting for a request.
    pub armed: u16,
    /// With the caller.
    pub busy: u16,
    /// Ended.
    pub dead: u16,
}

impl TagCounts {
    fn of(&mut self, state: TagState) -> &mut u16 {
        match state {
            TagState::Unfetched => &mut self.unfetched,
            TagState::Armed => &mut self.armed,
            TagState::Busy => &mut self.busy,
            TagState::Dead => &mut self.dead,
        }
    }
}

fn is_valid(from: TagState, to: TagState) -> bool {
    matches!(
        (from, to),
        (TagState::Unfetched | TagState::Busy, TagState::Armed)
            | (TagState::Armed, TagState::Busy | TagState::Dead)
            | (TagState::Busy, TagState::Dead)
    )
}

/// States of all tags of a queue.
#[derive(Debug)]
pub(crate) struct TagTable {
    states: Box<[TagState]>,
    counts: TagCounts,
}

impl TagTable {
    pub(crate) fn new(depth: u16) -> TagTable {
        TagTable {
            states: vec![TagState::Unfetched; usize::from(depth)].into(),
            counts: TagCounts { unfetched: depth, ..TagCounts::default() },
        }
    }

    /// None if the queue has no such tag.
    pub(crate) fn state(&self, tag: Tag) -> Option<TagState> {
        self.states.get(tag.index()).copied()
    }

    pub(crate) fn counts(&self) -> TagCounts {
        self.counts
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Tag> + use<> {
        let depth = u16::try_from(self.states.len()).expect("made from a 16-bit depth");
        (0..depth).map(Tag)
    }

    /// The only place where a state changes.
    pub(crate) fn transition(&mut self, tag: Tag, to: TagState) {
        let from = self.states[tag.index()];
        assert!(is_valid(from, to), "tag {tag}: {from:?} -> {to:?}");
        self.states[tag.index()] = to;
        *self.counts.of(from) -= 1;
        *self.counts.of(to) += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [TagState; 4] = [TagState::Unfetched, TagState::Armed, TagState::Busy, TagState::Dead];

    #[test]
    fn only_the_drawn_transitions_are_possible() {
        let drawn = [
            (TagState::Unfetched, TagState::Armed),
            (TagState::Armed, TagState::Busy),
            (TagState::Armed, TagState::Dead),
            (TagState::Busy, TagState::Armed),
            (TagState::Busy, TagState::Dead),
        ];
        for from in STATES {
            for to in STATES {
                assert_eq!(is_valid(from, to), drawn.contains(&(from, to)), "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn counts_follow_the_states() {
        let mut table = TagTable::new(3);
        assert_eq!(table.all().count(), 3);
        for tag in table.all() {
            table.transition(tag, TagState::Armed);
        }
        table.transition(Tag(1), TagState::Busy);
        table.transition(Tag(2), TagState::Dead);
        assert_eq!(table.counts(), TagCounts { unfetched: 0, armed: 1, busy: 1, dead: 1 });
        assert_eq!(table.state(Tag(1)), Some(TagState::Busy));
        assert_eq!(table.state(Tag(3)), None);
    }

    #[test]
    #[should_panic(expected = "tag 0: Unfetched -> Busy")]
    fn a_tag_that_was_not_fetched_has_no_request() {
        TagTable::new(1).transition(Tag(0), TagState::Busy);
    }
}
