//! That the API server serves every kind, under its names.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbra_crds::Definition;

use super::{Case, examples, of_each_kind};
use crate::kubernetes::server::{NAMESPACE, Server};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = of_each_kind("manifest", established);
    cases.extend(of_each_kind("manifest-again", unchanged));
    cases.extend(of_each_kind("names", names));
    cases.extend(of_each_kind("unknown-field", unknown_field));
    cases
}

/// The API server accepts the names and the schema.
fn established(server: &Server, definition: &Definition) -> Result<()> {
    let stored: Value =
        serde_json::from_str(&server.expect(&["get", "crd", definition.name(), "--output", "json"])?)?;
    let conditions = stored["status"]["conditions"].as_array().context("no conditions")?;
    let status = |condition: &str| {
        conditions.iter().find(|found| found["type"] == condition).map(|found| &found["status"])
    };
    for wanted in ["NamesAccepted", "Established"] {
        ensure!(status(wanted) == Some(&json!("True")), "{wanted} is {:?}", status(wanted));
    }
    let violations = conditions.iter().find(|found| found["type"] == "NonStructuralSchema");
    ensure!(violations.is_none(), "the schema is not structural: {violations:?}");
    Ok(())
}

/// The manifest is what the types say, and applying it again changes nothing.
fn unchanged(server: &Server, definition: &Definition) -> Result<()> {
    let generation = || {
        server.expect(&["get", "crd", definition.name(), "--output", "jsonpath={.metadata.resourceVersion}"])
    };
    let before = generation()?;
    let answer = server.apply_as(definition.name(), definition.json())?;
    ensure!(answer.success, "{}", answer.stderr);
    let after = generation()?;
    ensure!(before == after, "applied again it became version {after}, was {before}");
    Ok(())
}

/// Plural, kind, short name and category all lead to the objects.
fn names(server: &Server, definition: &Definition) -> Result<()> {
    let mut object = examples::one_of(definition.kind())?;
    object["metadata"]["namespace"] = if definition.is_namespaced() { NAMESPACE.into() } else { Value::Null };
    let name = format!("named-{}", definition.plural());
    let answer = server.apply_as(&name, &object)?;
    ensure!(answer.success, "{}", answer.stderr);
    for called in [definition.plural(), definition.kind(), definition.short_name(), umbra_crds::CATEGORY] {
        let listed = server.expect(&["get", called, "--namespace", NAMESPACE, "--output", "name"])?;
        let wanted = format!("{}.{}/{name}", definition.kind().to_lowercase(), umbra_crds::GROUP);
        ensure!(
            listed.lines().any(|line| line == wanted),
            "kubectl get {called} does not list {wanted}: {listed}"
        );
    }
    Ok(())
}

/// A field that is not in the schema is refused, wherever it stands.
fn unknown_field(server: &Server, definition: &Definition) -> Result<()> {
    for (path, refused) in
        [("/spec", ".spec.noSuchField"), ("/status", ".status.noSuchField"), ("", ".noSuchField")]
    {
        let mut object = examples::one_of(definition.kind())?;
        if path == "/status" {
            object["status"] = json!({});
        }
        let place = object.pointer_mut(path).and_then(Value::as_object_mut).context("no such place")?;
        place.insert("noSuchField".to_owned(), json!(1));
        let answer = server.apply_as("unknown-field", &object)?;
        crate::kubernetes::server::refusal(&answer, &format!("{refused}: field not declared in schema"))?;
    }
    Ok(())
}
