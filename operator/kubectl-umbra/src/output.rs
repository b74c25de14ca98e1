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
}

/// The answer in the form that was asked for.
pub(crate) fn show(answer: &impl Answer, style: Style) -> Result<String, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(format!("cannot write the answer: {error}"));
    Ok(match style.format {
        Format::Table => answer.table(style.headings, false),
        Format::Wide => answer.table(style.headings, true),
        Format::Yaml => serde_saphyr::to_string(answer).map_err(|error| failed(&error))?,
        Format::Json => serde_json::to_string_pretty(answer).map_err(|error| failed(&error))? + "\n",
        Format::Name => {
            let names = answer.names();
            let names = names
                .ok_or_else(|| Failure::Usage("-o name: this answer is not about objects".to_owned()))?;
            names.iter().map(|name| format!("{name}\n")).collect()
        }
    })
}
