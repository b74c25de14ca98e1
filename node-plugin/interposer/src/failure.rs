//! How a command says that it failed: a text for people and a document for programs, of one form for all commands.

use serde::Serialize;
use std::collections::BTreeMap;

/// Why a command failed, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Failure {
    /// Stable name for programs.
    reason: &'static str,
    /// What happened, with the objects.
    message: String,
    /// What a person can do now.
    remedy: String,
    /// The objects and figures, by name.
    fields: BTreeMap<&'static str, String>,
}

impl Failure {
    /// A failure without fields.
    pub(crate) fn new(reason: &'static str, message: impl ToString, remedy: impl Into<String>) -> Self {
        Self { reason, message: message.to_string(), remedy: remedy.into(), fields: BTreeMap::new() }
    }

    /// The same, with these fields.
    pub(crate) fn with(self, fields: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        Self { fields: fields.into_iter().collect(), ..self }
    }

    /// For people: what, with its objects, and what to do.
    pub(crate) fn text(&self) -> String {
        format!("error: {}\n       {} [{}]\n", self.message, self.remedy, self.reason)
    }

    /// One line of JSON.
    pub(crate) fn json(&self) -> String {
        #[derive(Serialize)]
        struct Document<'a> {
            error: &'a Failure,
        }
        let mut line = serde_json::to_string(&Document { error: self }).expect("plain data with text keys");
        line.push('\n');
        line
    }
}
