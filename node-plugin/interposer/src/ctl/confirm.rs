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
    let chunks = match call.kind {
        CopyKind::Full => "every chunk",
        CopyKind::Update => "the chunks that may differ",
    };
    let (masters, shadows) =
        if names.len() == 1 { ("master", "its shadow") } else { ("masters", "their shadows") };
    format!("Overwrite {chunks} of the {masters} of {} from {shadows}? [y/N] ", names.join(", "))
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
    use umbra_platform::call::SetTargets;
    use umbra_platform::id::{RequestId, SetRef};

    #[test]
    fn only_a_restore_is_asked_about_by_name() {
        let sets = ["prod/pg-1", "pg-2"].map(|set| set.parse::<SetRef>().expect("a name").into());
        let sets = SetTargets::new(sets.into()).expect("two");
        let call = |direction, kind| CopySets {
            request: RequestId::random(),
            sets: sets.clone(),
            direction,
            kind,
            cut: None,
        };
        assert!(!needed(&call(Direction::ToShadow, CopyKind::Full)));
        let restore = call(Direction::ToMaster, CopyKind::Update);
        assert!(needed(&restore));
        let asked = "Overwrite the chunks that may differ of the masters of prod/pg-1, pg-2 from their shadows? [y/N] ";
        assert_eq!(question(&restore), asked);
    }

    #[test]
    fn only_yes_is_yes() {
        for (answer, yes) in [("y\n", true), ("Yes\n", true), ("\n", false), ("", false), ("yep\n", false)] {
            let mut shown = Vec::new();
            let said = ask("sure? ", &mut answer.as_bytes(), &mut shown).expect("memory does not fail");
            assert_eq!((said, shown.as_slice()), (yes, &b"sure? "[..]), "{answer:?}");
        }
    }
}
