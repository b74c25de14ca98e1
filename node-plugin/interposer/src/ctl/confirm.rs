//! The question before a master is overwritten.

use std::io::{self, BufRead, Write};
use umbra_platform::call::{CopyKind, CopySets, Direction};

/// Whether a person must be asked: only about a restore.
pub(crate) fn needed(call: &CopySets) -> bool {
    call.direction == Direction::ToMaster
}

/// What is asked.
pub(crate) fn question(call: &CopySets) -> String {
    let names: Vec<String> = call.sets.as_slice().iter().map(|target| target.set.to_string()).collect();
    let what = match call.kind {
        CopyKind::Full => "every chunk",
        CopyKind::Update => "the chunks that may differ",
    };
    let masters = if names.len() == 1 { "the master" } else { "the masters" };
    format!("Overwrite {masters} of {} with {what} of the shadow? [y/N] ", names.join(", "))
}

/// Asks, and reads a line. Everything but `y` and `yes` is no.
pub(crate) fn ask(question: &str, answers: &mut impl BufRead, to: &mut impl Write) -> io::Result<bool> {
    to.write_all(question.as_bytes())?;
    to.flush()?;
    let mut line = String::new();
    answers.read_line(&mut line)?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for (answer, yes) in [("y\n", true), ("Yes\n", true), ("\n", false), ("", false), ("yep\n", false)] {
            let mut shown = Vec::new();
            let said = ask("sure? ", &mut answer.as_bytes(), &mut shown).expect("memory does not fail");
            assert_eq!((said, shown.as_slice()), (yes, &b"sure? "[..]), "{answer:?}");
        }
    }
}
