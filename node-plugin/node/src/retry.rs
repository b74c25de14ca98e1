//! What is tried again after a failure: when, and what is said meanwhile.

use std::error::Error;
use std::time::Duration;

/// How long to wait after so many failures in a row, twice as long each time; none: nothing failed.
pub(crate) fn pause(failures: u32, first: Duration, longest: Duration) -> Option<Duration> {
    let before = failures.checked_sub(1)?;
    Some(first.saturating_mul(2_u32.saturating_pow(before)).min(longest))
}

/// An error with all that caused it, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
