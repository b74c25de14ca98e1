//! The atomics of the shared maps and the orders in which they are used.
//!
//! In a build with `--cfg loom` the tests get loom's atomics, which try every order that the memory model
//! allows, and may weaken an order to see that the model notices.

use std::sync::atomic::Ordering;

#[cfg(all(test, loom))]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64};
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64};

/// For reads: what was done before the value was published is seen by whoever reads it.
#[cfg(not(all(test, loom)))]
pub(crate) const fn acquire() -> Ordering {
    Ordering::Acquire
}

/// For stores: publishes what was done before.
#[cfg(not(all(test, loom)))]
pub(crate) const fn release() -> Ordering {
    Ordering::Release
}

/// For changes of single bits: both.
#[cfg(not(all(test, loom)))]
pub(crate) const fn acquire_release() -> Ordering {
    Ordering::AcqRel
}

#[cfg(all(test, loom))]
pub(crate) use weak::{acquire, acquire_release, release, weaken};

/// Orders that a test can weaken. All threads of a model run on one thread of the system: its own switch.
#[cfg(all(test, loom))]
mod weak {
    use super::Ordering;
    use std::cell::Cell;

    /// An order that is taken away.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Weak {
        /// Reads no longer see what was done before the value was published.
        Reads,
        /// Changes no longer publish what was done before.
        Changes,
    }

    thread_local! {
        static WEAK: Cell<Option<Weak>> = const { Cell::new(None) };
    }

    /// Takes one order away on this thread, or none.
    pub(crate) fn weaken(weak: Option<Weak>) {
        WEAK.with(|cell| cell.set(weak));
    }

    fn unless(weak: Weak, ordering: Ordering) -> Ordering {
        if WEAK.with(Cell::get) == Some(weak) { Ordering::Relaxed } else { ordering }
    }

    pub(crate) fn acquire() -> Ordering {
        unless(Weak::Reads, Ordering::Acquire)
    }

    pub(crate) fn release() -> Ordering {
        unless(Weak::Changes, Ordering::Release)
    }

    pub(crate) fn acquire_release() -> Ordering {
        unless(Weak::Changes, Ordering::AcqRel)
    }
}
#[cfg(all(test, loom))]
pub(crate) use weak::Weak;
