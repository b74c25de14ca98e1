//! The question before a master is overwritten.

use std::io::{self, BufRead, Write};
use umbra_platform::call::{CopyKind, CopySets, Direction};
use umbra_platform::status::Status;

/// Whether a person must be asked: only about a restore.
pub(crate) fn needed(call: &CopySets) -> bool {
    call.direction == Direction::ToMaster
}

/// What is asked: it names what is overwritten, and with what.
pub(crate) fn question(call: &CopySets, status: &Status) -> String {
    let chunks = match call.kind {
        CopyKind::Full => "every chunk",
        CopyKind::Update => "the chunks that may differ",
    };
    let overwritten = call.sets.as_slice().iter().map(|target| {
        let set = status.sets.iter().find(|set| target.set.matches(set.id, &set.name));
        set.map_or_else(
            // It will be refused, by a better text than there could be here.
            || format!("the master of set {}", target.set),
            |set| {
                format!(
                    "master {} ({}) from the shadow of set {}",
                    set.master_name, set.paths.master, set.name
                )
            },
        )
    });
    let overwritten = overwritten.collect::<Vec<_>>().join(", and of ");
    format!("Overwrite {chunks} of {overwritten}? What was written there since is lost. [y/N] ")
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
    use crate::ctl::render::tests::set;
    use umbra_platform::call::SetTargets;
    use umbra_platform::id::{RequestId, SetRef};
    use umbra_platform::status::{Mode, SetState};

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
        let sets = vec![set("pg-1", Mode::Dependent, SetState::Idle)];
        let status = Status { sets, ..Status::default() };
        let asked = "Overwrite the chunks that may differ of master pg-data (/dev/vdb) from the shadow of set \
                     prod/pg-1, and of the master of set pg-2? What was written there since is lost. [y/N] ";
        assert_eq!(question(&restore, &status), asked);
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
