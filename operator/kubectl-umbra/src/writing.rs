//! What commands that change something have in common: a rehearsal, consent, and what they answer.

use std::io::{BufRead, IsTerminal, Write};

use clap::{Args, ValueEnum};
use kube::Resource;
use serde::Serialize;

use crate::error::Failure;
use crate::output::Answer;

/// How far a change goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DryRun {
    /// Nothing is sent.
    Client,
    /// The API server checks it, and stores nothing.
    Server,
}

#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Rehearsal {
    /// Only show what would be written: sent nowhere (client), or checked by the API server and not stored (server).
    #[arg(long, value_enum, value_name = "WHERE")]
    dry_run: Option<DryRun>,
}

impl Rehearsal {
    pub(crate) fn dry_run(self) -> Option<DryRun> {
        self.dry_run
    }
}

#[derive(Debug, Args)]
pub(crate) struct Consent {
    /// Do not ask on a terminal.
    #[arg(long)]
    yes: bool,
    /// The name of what is given up or overwritten: without a terminal nobody can be asked for it.
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
}

impl Consent {
    /// Asks whether something is to be done to the object of this name. Whoever agrees writes the name, so that nobody agrees
    /// by habit.
    pub(crate) fn ask(&self, name: &str, what: &str) -> Result<(), Failure> {
        if let Some(confirmed) = &self.confirm {
            return if confirmed == name {
                Ok(())
            } else {
                Err(Failure::Refused(format!(
                    "nothing was done: --confirm names {confirmed}, and this {what} {name}"
                )))
            };
        }
        if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
            return Err(Failure::Refused(format!(
                "nothing was done: this {what} {name}, and there is no terminal to ask on; say --confirm={name}"
            )));
        }
        if self.yes {
            return Ok(());
        }
        let failed = |error: std::io::Error| Failure::Failed(format!("cannot ask on the terminal: {error}"));
        let mut terminal = std::io::stderr();
        write!(terminal, "This {what} {name}. To go on, write its name: ").map_err(failed)?;
        terminal.flush().map_err(failed)?;
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map_err(failed)?;
        if line.trim() == name {
            Ok(())
        } else {
            Err(Failure::Refused(format!("nothing was done: that is not the name {name}")))
        }
    }
}

/// An object that was written, and what was done to it.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Written<K> {
    object: K,
    #[serde(skip)]
    done: String,
    #[serde(skip)]
    hints: Vec<String>,
}

impl<K: Resource<DynamicType = ()>> Written<K> {
    pub(crate) fn new(mut object: K, done: &str, rehearsal: Rehearsal) -> Self {
        // Who wrote which field is of no use to whoever reads it.
        object.meta_mut().managed_fields = None;
        let how = match rehearsal.dry_run {
            None => "",
            Some(DryRun::Client) => " (dry run)",
            Some(DryRun::Server) => " (server dry run)",
        };
        Self { object, done: format!("{done}{how}"), hints: Vec::new() }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// An object as `kind/name`.
pub(crate) fn named<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{}/{}", K::kind(&()).to_lowercase(), object.meta().name.as_deref().unwrap_or_default())
}

impl<K: Resource<DynamicType = ()> + Serialize> Answer for Written<K> {
    fn table(&self, _: bool, _: bool) -> String {
        format!("{} {}\n", named(&self.object), self.done)
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(vec![named(&self.object)])
    }

    fn hints(&self) -> &[String] {
        &self.hints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_itself_is_consent_where_nobody_can_be_asked() {
        let ask = |yes: bool, confirm: Option<&str>| {
            Consent { yes, confirm: confirm.map(str::to_owned) }.ask("pg-1", "overwrites")
        };
        assert!(ask(false, Some("pg-1")).is_ok());
        assert!(matches!(ask(true, Some("pg-2")), Err(Failure::Refused(_))));
    }
}
