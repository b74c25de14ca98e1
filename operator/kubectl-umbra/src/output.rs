//! How answers are shown.

use clap::ValueEnum;
use serde::Serialize;

use crate::error::Failure;

/// How an answer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For people with a wide screen.
    Wide,
    /// For programs.
    Yaml,
    /// For programs.
    Json,
    /// The names of the objects, one on a line.
    Name,
}

/// How an answer is shown, and whether with headings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    pub(crate) format: Format,
    pub(crate) headings: bool,
}

/// An answer that can be shown.
pub(crate) trait Answer: Serialize {
    /// As people read it.
    fn table(&self, headings: bool, wide: bool) -> String;
    /// The objects in it, as `kind/name`; none where it is not about objects.
    fn names(&self) -> Option<Vec<String>>;
    /// What people are told beyond the answer itself.
    fn hints(&self) -> &[String] {
        &[]
    }
}

/// The answer in the form that was asked for.
pub(crate) fn show(answer: &impl Answer, style: Style) -> Result<String, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("cannot write the answer: {error}"));
    let hints: String = answer.hints().iter().map(|hint| format!("{hint}\n")).collect();
    let wide = style.format == Format::Wide;
    let text = match style.format {
        Format::Table | Format::Wide => return Ok(answer.table(style.headings, wide) + &hints),
        Format::Yaml => serde_saphyr::to_string(answer).map_err(|error| failed(&error))?,
        Format::Json => serde_json::to_string_pretty(answer).map_err(|error| failed(&error))? + "\n",
        Format::Name => {
            let names = answer.names();
            let names = names
                .ok_or_else(|| Failure::Usage("-o name: this answer is not about objects".to_owned()))?;
            names.iter().map(|name| format!("{name}\n")).collect()
        }
    };
    // Beside what a program reads.
    eprint!("{hints}");
    Ok(text)
}

/// Rows as a table, with spaces between the columns and nothing else.
pub(crate) fn table<const COLUMNS: usize>(
    headings: Option<[&str; COLUMNS]>,
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if let Some(headings) = headings {
        table.set_header(headings);
    }
    for row in rows {
        table.add_row(row);
    }
    let text: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    if text.trim().is_empty() { String::new() } else { text }
}
