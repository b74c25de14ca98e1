//! What a panic ends: the thread that contains it, or the process.
//!
//! A panic is an assertion about our own state that does not hold. The state of a master belongs to its thread alone,
//! so such a thread may end alone: [`contain`]. Everything else is shared, and nobody knows what of it is still whole:
//! the process ends, and the supervisor starts another, which trusts only what is on disks.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};

thread_local! {
    static IS_CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// From here on a panic outside [`contain`] ends the process, after it was reported.
pub(crate) fn end_the_process_unless_contained() {
    let report = take_hook();
    set_hook(Box::new(move |panic| {
        report(panic);
        if !IS_CONTAINED.get() {
            std::process::abort();
        }
    }));
}

/// The work ended with a panic; whatever it owned has been dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("panicked: {message}")]
pub(crate) struct Panicked {
    /// What the panic said.
    pub message: String,
}

/// Runs work that owns all it changes, so that a panic in it can be survived. A second panic, while the first unwinds,
/// ends the process.
///
/// # Errors
/// [`Panicked`].
pub(crate) fn contain<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    let before = IS_CONTAINED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    IS_CONTAINED.set(before);
    outcome.map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let message = text.or_else(|| payload.downcast_ref::<String>().cloned());
        Panicked { message: message.unwrap_or_else(|| "no message".to_owned()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contained_panic_tells_its_message_and_drops_what_it_owned() {
        struct Owned<'a>(&'a Cell<bool>);
        impl Drop for Owned<'_> {
            fn drop(&mut self) {
                self.0.set(true);
            }
        }
        let dropped = Cell::new(false);
        let owned = Owned(&dropped);
        let outcome: Result<(), Panicked> = contain(|| {
            let _owned = owned;
            let chunk = 7;
            panic!("chunk {chunk} is held twice")
        });
        assert_eq!(outcome.expect_err("it panicked").message, "chunk 7 is held twice");
        assert!(dropped.get(), "rings and devices are closed when the panic is reported");
        assert_eq!(contain(|| 5), Ok(5));
        assert!(!IS_CONTAINED.get(), "a later panic of this thread is nobody's to contain");
    }
}
