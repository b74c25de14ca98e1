//! The reference of the kinds for people, written from the schemas, so that it cannot say anything else.

use std::fmt::Write;

use serde_json::Value;

use crate::conditions::{self, Explained};
use crate::definitions::Definition;
use crate::{GROUP, VERSION};

const INTRODUCTION: &str = "\
The custom resources of Umbra, field by field. This page is written from the same schemas that the API server is given;
`kubectl explain <kind>.spec --recursive` shows the same on the command line, and `kubectl get umbra -A` lists every object.

A field marked with `*` must be given. Amounts of bytes are numbers or have a suffix (`120Gi`, `500G`); lengths of time are
written like `30s` or `1m30s`. What is refused, and with which words, is listed under each kind. Examples that are applied
in tests are in `crds/examples/valid`; those in `crds/examples/invalid` say how they are refused.
";

/// All kinds, as one page.
pub(crate) fn markdown(definitions: &[Definition]) -> String {
    let mut page =
        format!("# Kinds of {GROUP}/{VERSION}\n\n<!-- Written by `cargo xtask crds`. -->\n\n{INTRODUCTION}");
    let mut line = |text: &str| {
        page.push_str(text);
        page.push('\n');
    };
    line("\n| kind | short | scope |\n|---|---|---|");
    for one in definitions {
        let scope = if one.is_namespaced() { "namespace" } else { "cluster" };
        let kind = one.kind();
        line(&format!("| [{kind}](#{}) | `{}` | {scope} |", kind.to_lowercase(), one.short_name()));
    }
    definitions.iter().for_each(|definition| page.push_str(&of_kind(definition)));
    page
}

fn of_kind(definition: &Definition) -> String {
    let schema = definition.schema();
    let mut text = format!("\n## {}\n\n{}\n", definition.kind(), description(schema));
    let columns: Vec<String> = definition
        .columns()
        .iter()
        .map(|(name, is_wide)| format!("{}{}", name.to_uppercase(), if *is_wide { " (wide)" } else { "" }))
        .collect();
    text += &format!("\n`kubectl get {}` shows NAME, {}.\n", definition.plural(), columns.join(", "));
    for part in ["spec", "status"] {
        let Some(fields) = schema.pointer(&format!("/properties/{part}")) else { continue };
        text += &format!("\n### {}.{part}\n\n| field | type | meaning |\n|---|---|---|\n", definition.kind());
        rows(&mut text, "", fields);
    }
    let mut refusals = Vec::new();
    rules(schema, "", &mut refusals);
    if !refusals.is_empty() {
        text += &format!("\n### What is refused of a {}\n\n", definition.kind());
        for (path, message) in refusals {
            text +=
                &if path.is_empty() { format!("- {message}\n") } else { format!("- `{path}`: {message}\n") };
        }
    }
    text += &format!(
        "\n### Conditions of a {}\n\n| condition | status | reason | meaning |\n|---|---|---|---|\n",
        definition.kind()
    );
    for Explained { condition, status, reason, meaning } in conditions::of_kind(definition.kind()) {
        text += &format!("| {} | {} | {reason} | {meaning} |\n", condition.as_str(), status.as_str());
    }
    text
}

/// A row for each field, and behind it those of its parts.
fn rows(text: &mut String, path: &str, schema: &Value) {
    // What a list of conditions or a selector is made of is the same everywhere, and known.
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, field) in properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let mark = if required.contains(&name.as_str()) { "\\*" } else { "" };
        let meaning = description(field).replace("\n\n", "<br>").replace('\n', "<br>").replace('|', "\\|");
        // Writing to a string does not fail.
        writeln!(text, "| `{path}`{mark} | {} | {meaning} |", form(field)).ok();
        if name == "conditions" || is_selector(field) {
            continue;
        }
        match field.get("items") {
            Some(items) => rows(text, &format!("{path}[]"), items),
            None => rows(text, &path, field),
        }
    }
}

fn is_selector(field: &Value) -> bool {
    field.pointer("/properties/matchExpressions").is_some()
}

fn description(schema: &Value) -> &str {
    schema.get("description").and_then(Value::as_str).unwrap_or_default()
}

/// Type, default and limits of a field.
fn form(field: &Value) -> String {
    let mut parts = vec![type_of(field)];
    if let Some(default) = field.get("default").filter(|default| !default.is_object()) {
        parts.push(format!("default `{}`", plain(default)));
    }
    match (field.get("minimum"), field.get("maximum")) {
        (Some(min), Some(max)) => parts.push(format!("{min} to {max}")),
        (Some(min), None) if min.as_f64() != Some(0.0) => parts.push(format!("at least {min}")),
        _ => {}
    }
    if let Some(most) = field.get("maxItems") {
        parts.push(format!("at most {most}"));
    }
    parts.join(", ")
}

fn type_of(field: &Value) -> String {
    if is_selector(field) {
        return "label selector".to_owned();
    }
    if field.get("x-kubernetes-int-or-string").is_some() {
        return "bytes".to_owned();
    }
    match field.get("type").and_then(Value::as_str) {
        Some("array") => format!("list of {}", field.get("items").map_or_else(String::new, type_of)),
        Some("string") if field.get("enum").is_some() => "choice".to_owned(),
        Some("string") if field.get("format").and_then(Value::as_str) == Some("date-time") => {
            "time".to_owned()
        }
        Some("object") if field.get("additionalProperties").is_some() => "map".to_owned(),
        other => other.unwrap_or("any").to_owned(),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The messages of the rules of a schema and of everything in it.
fn rules(schema: &Value, path: &str, into: &mut Vec<(String, String)>) {
    let own = schema.get("x-kubernetes-validations").and_then(Value::as_array);
    let message = |rule: &Value| rule.get("message").and_then(Value::as_str).map(str::to_owned);
    into.extend(own.into_iter().flatten().filter_map(message).map(|message| (path.to_owned(), message)));
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        rules(field, &path, into);
        if let Some(items) = field.get("items") {
            rules(items, &format!("{path}[]"), into);
        }
    }
}
