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
pub(crate) use weak::{Weak, acquire, acquire_release, point, release, weaken};

/// Orders that a test can weaken.
#[cfg(all(test, loom))]
mod weak {
    use super::{AtomicU64, Ordering};
    use std::cell::Cell;

    loom::lazy_static! {
        static ref POINT: AtomicU64 = AtomicU64::new(0);
    }

    /// A place where any other thread may go on instead, before each access. Loom reorders an access with the last
    /// conflicting one of the same word only, and a thread's own load before its change hides the loads of others: a
    /// word that all threads change leaves nothing to overlook, and being relaxed it orders nothing.
    pub(crate) fn point() {
        POINT.fetch_add(1, Ordering::Relaxed);
    }

    /// An order that is taken away.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Weak {
        /// Reads no longer see what was done before the value was published.
        Reads,
        /// Changes no longer publish what was done before.
        Changes,
    }

    // All threads of a model run on one thread of the system: the one of its test.
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
        point();
        unless(Weak::Reads, Ordering::Acquire)
    }

    pub(crate) fn release() -> Ordering {
        point();
        unless(Weak::Changes, Ordering::Release)
    }

    pub(crate) fn acquire_release() -> Ordering {
        point();
        unless(Weak::Changes, Ordering::AcqRel)
    }
}
