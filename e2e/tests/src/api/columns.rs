//! That `kubectl get` shows the columns of each kind, under their headings.

use anyhow::{Context, Result, ensure};
use umbra_crds::Definition;

use super::{Case, examples, of_each_kind, status};
use crate::kubernetes::server::{NAMESPACE, Server};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = of_each_kind("columns", headings);
    cases.extend(of_each_kind("columns-filled", filled));
    cases
}

fn headings(server: &Server, definition: &Definition) -> Result<()> {
    let answer = server.apply_as("headings", &examples::one_of(definition.kind())?)?;
    ensure!(answer.success, "{}", answer.stderr);
    for (output, all) in [("", false), ("wide", true)] {
        let text =
            server.expect(&["get", definition.plural(), "--namespace", NAMESPACE, "--output", output])?;
        let found: Vec<&str> = text.lines().next().context("nothing was shown")?.split_whitespace().collect();
        let columns = definition.columns();
        let shown =
            columns.iter().filter(|(_, is_wide)| all || !is_wide).map(|(name, _)| name.to_uppercase());
        let wanted: Vec<String> = std::iter::once("NAME".to_owned()).chain(shown).collect();
        ensure!(found == wanted, "output {output:?} shows {found:?}, not {wanted:?}");
    }
    Ok(())
}

/// Every column shows something of an object whose status is complete.
fn filled(server: &Server, definition: &Definition) -> Result<()> {
    status::write(server, definition, "filled")?;
    let wide = ["get", definition.plural(), "filled", "--namespace", NAMESPACE, "--output", "wide"];
    let text = server.expect(&wide)?;
    let mut lines = text.lines();
    let (heading, row) = (lines.next().context("no heading")?, lines.next().context("no row")?);
    // Columns stand one under the other; an empty one has only blanks up to the next.
    let begins: Vec<usize> = heading.match_indices(|letter: char| letter != ' ').map(|(at, _)| at).collect();
    let begins: Vec<usize> =
        begins.iter().copied().filter(|at| *at == 0 || heading[..*at].ends_with(' ')).collect();
    for (index, begin) in begins.iter().enumerate() {
        let end = begins.get(index + 1).copied().unwrap_or(row.len()).min(row.len());
        let cell = row.get(*begin..end).unwrap_or_default().trim();
        let name = heading[*begin..].split_whitespace().next().unwrap_or_default();
        ensure!(!cell.is_empty() && cell != "<none>", "column {name} shows nothing:\n{text}");
    }
    Ok(())
}
