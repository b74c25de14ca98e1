//! That `kubectl explain` reads like documentation: every field is there, with what it means.

use anyhow::{Result, ensure};
use serde_json::Value;
use umbra_crds::Definition;

use super::{Case, of_each_kind};
use crate::kubernetes::server::Server;

pub(crate) fn cases() -> Vec<Case> {
    of_each_kind("explain", explained)
}

fn explained(server: &Server, definition: &Definition) -> Result<()> {
    for part in ["spec", "status"] {
        let schema = definition.schema().pointer(&format!("/properties/{part}")).unwrap_or(&Value::Null);
        level(server, &format!("{}.{part}", definition.plural()), schema)?;
    }
    Ok(())
}

/// Asks for a field with fields of its own, and for those in turn.
fn level(server: &Server, path: &str, schema: &Value) -> Result<()> {
    let Some(fields) = schema.get("properties").and_then(Value::as_object) else { return Ok(()) };
    let text = server.expect(&["explain", path])?;
    ensure!(!text.contains("<no description>"), "{path} is not described: {text}");
    for (name, field) in fields {
        let lines: Vec<&str> = text.lines().collect();
        let at = lines.iter().position(|line| line.trim_start().starts_with(&format!("{name}\t")));
        ensure!(at.is_some(), "{path} does not list {name}");
        let description = field.get("description").and_then(Value::as_str).unwrap_or_default();
        // Where a line breaks is up to kubectl; the beginning stays together.
        let begin: String = description.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(begin.len() > 3 && flat.contains(&begin), "{path}.{name} is not explained with {begin:?}");
        level(server, &format!("{path}.{name}"), field.get("items").unwrap_or(field))?;
    }
    Ok(())
}
