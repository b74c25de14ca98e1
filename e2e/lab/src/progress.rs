//! One line per thing that takes time, on standard error, so that nobody wonders whether anything happens.

use std::fmt::Display;
use std::time::Instant;

/// Prints one line of progress.
pub fn say(what: impl Display) {
    eprintln!("lab: {what}");
}

/// Runs `work` between a line that names it and one that tells how long it took.
///
/// # Errors
/// Those of `work`.
pub fn step<T>(what: impl Display, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let begin = Instant::now();
    say(format_args!("{what} …"));
    let result = work()?;
    say(format_args!("{what}: {:.1} s", begin.elapsed().as_secs_f64()));
    Ok(result)
}
