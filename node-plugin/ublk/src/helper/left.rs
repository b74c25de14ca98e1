//! Helpers that were given up, as long as they are there.

use super::Helper;

/// Helpers that hang in the kernel at a time, for one purpose. Each is a process and a device that is lost until the
/// machine starts anew: a kernel where so many hang helps nobody by one more.
pub(crate) const HANGING_MAX: usize = 16;

/// Something that may still be in the kernel.
pub(crate) trait Process {
    fn is_there(&mut self) -> bool;
}

impl Process for Helper {
    fn is_there(&mut self) -> bool {
        Helper::is_there(self)
    }
}

/// See the module. Each comes with what it was asked for.
#[derive(Debug)]
pub(crate) struct LeftBehind<P, A> {
    processes: Vec<(P, A)>,
}

impl<P: Process, A> LeftBehind<P, A> {
    pub(crate) const fn new() -> Self {
        Self { processes: Vec::new() }
    }

    pub(crate) fn push(&mut self, process: P, asked: A) {
        self.processes.push((process, asked));
    }

    /// Whether there may be another one.
    pub(crate) fn has_room(&mut self) -> bool {
        self.sweep();
        self.processes.len() < HANGING_MAX
    }

    /// What those are about that have not ended.
    pub(crate) fn unfinished(&mut self) -> impl Iterator<Item = &A> {
        self.sweep();
        self.processes.iter().map(|(_, asked)| asked)
    }

    fn sweep(&mut self) {
        self.processes.retain_mut(|(process, _)| process.is_there());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    /// There, until it is told otherwise.
    #[derive(Clone, Debug)]
    pub(crate) struct Hanging(Rc<Cell<bool>>);

    impl Hanging {
        pub(crate) fn new() -> Self {
            Self(Rc::new(Cell::new(true)))
        }

        pub(crate) fn ends(&self) {
            self.0.set(false);
        }
    }

    impl Process for Hanging {
        fn is_there(&mut self) -> bool {
            self.0.get()
        }
    }

    #[test]
    fn those_that_hang_are_bounded_and_those_that_ended_do_not_count() {
        let mut left = LeftBehind::new();
        let first = Hanging::new();
        left.push(first.clone(), 0);
        for number in 1..HANGING_MAX {
            assert!(left.has_room());
            left.push(Hanging::new(), number);
        }
        assert!(!left.has_room());
        first.ends();
        assert!(left.has_room());
        assert!(left.unfinished().copied().eq(1..HANGING_MAX));
    }
}
