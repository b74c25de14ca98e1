//! The definitions that the API server is given, made from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value};

use crate::macros::VALUES;
use crate::{DeviceGrant, ImagingNode, ImagingOperation, MasterVolume, SetGroup, VolumeSet};

/// The definition of one kind, finished.
#[derive(Debug, Clone)]
pub struct Definition {
    json: Value,
}

impl Definition {
    fn new(definition: &CustomResourceDefinition) -> Self {
        let mut json = serde_json::to_value(definition).unwrap_or_default();
        finish(&mut json);
        Self { json }
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text("/spec/names/kind")
    }

    /// The name of the definition: plural and group.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// The name of the kind in addresses and on command lines.
    #[must_use]
    pub fn plural(&self) -> &str {
        self.text("/spec/names/plural")
    }

    /// The short name for command lines.
    #[must_use]
    pub fn short_name(&self) -> &str {
        self.text("/spec/names/shortNames/0")
    }

    /// Whether objects of the kind belong to a namespace.
    #[must_use]
    pub fn is_namespaced(&self) -> bool {
        self.text("/spec/scope") == "Namespaced"
    }

    /// The schema of an object.
    #[must_use]
    pub fn schema(&self) -> &Value {
        self.json.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap_or(&Value::Null)
    }

    /// The columns that `kubectl get` shows beside the name: their headings, and whether only with `-o wide`.
    #[must_use]
    pub fn columns<'a>(&'a self) -> Vec<(&'a str, bool)> {
        let columns =
            self.json.pointer("/spec/versions/0/additionalPrinterColumns").and_then(Value::as_array);
        let heading = |column: &'a Value| {
            let is_wide = column.get("priority").and_then(Value::as_i64) == Some(1);
            column.get("name").and_then(Value::as_str).map(|name| (name, is_wide))
        };
        columns.into_iter().flatten().filter_map(heading).collect()
    }

    /// All of it, as the API server takes it.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.json
    }

    fn text(&self, pointer: &str) -> &str {
        self.json.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

/// The definitions of all kinds, in the order in which a reader meets them.
#[must_use]
pub fn definitions() -> Vec<Definition> {
    let all = [
        MasterVolume::crd(),
        VolumeSet::crd(),
        SetGroup::crd(),
        ImagingOperation::crd(),
        DeviceGrant::crd(),
        ImagingNode::crd(),
    ];
    all.iter().map(Definition::new).collect()
}

/// Gives a generated schema its last form, in place.
fn finish(value: &mut Value) {
    match value {
        Value::Object(fields) => finish_object(fields),
        Value::Array(items) => items.iter_mut().for_each(finish),
        _ => {}
    }
}

fn finish_object(fields: &mut Map<String, Value>) {
    // What is absent is left out: with null as a third way to say nothing, rules would have to ask twice.
    if fields.get("nullable") == Some(&Value::Bool(true)) {
        fields.remove("nullable");
    }
    if let Some(Value::String(values)) =
        fields.remove(VALUES).as_mut().and_then(|carrier| carrier.get_mut("description")).map(Value::take)
    {
        let before =
            fields.get("description").and_then(Value::as_str).unwrap_or_default().trim_end().to_owned();
        fields.insert("description".to_owned(), Value::String(format!("{before}\n\n{values}")));
    }
    if let Some(Value::String(description)) = fields.get_mut("description") {
        *description = unwrapped(description);
    }
    // Limits come as floating-point numbers, of fields that hold whole ones.
    for limit in ["minimum", "maximum"] {
        if let Some(value) = fields.get_mut(limit)
            && let Some(whole) = value.as_f64().and_then(whole)
        {
            *value = whole.into();
        }
    }
    // Widths of numbers that the API server does not know.
    if let Some(Value::String(format)) = fields.get("format")
        && format.starts_with("uint")
    {
        fields.remove("format");
    }
    fields.values_mut().for_each(finish);
}

fn whole(number: f64) -> Option<i64> {
    // Through text, in which a whole number is exact.
    (number.fract() == 0.0).then(|| format!("{number:.0}").parse().ok())?
}

/// A description without the line breaks of the source: `kubectl explain` breaks lines itself.
fn unwrapped(description: &str) -> String {
    let paragraphs = description.split("\n\n").map(|paragraph| {
        let lines: Vec<&str> = paragraph.lines().map(str::trim).collect();
        let is_list = lines.iter().any(|line| line.starts_with("- "));
        lines.join(if is_list { "\n" } else { " " })
    });
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_described() {
        for definition in definitions() {
            let mut bare = Vec::new();
            undescribed(definition.schema(), definition.kind(), &mut bare);
            assert_eq!(bare, Vec::<String>::new());
        }
    }

    fn undescribed(schema: &Value, path: &str, into: &mut Vec<String>) {
        for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = format!("{path}.{name}");
            let description = field.get("description").and_then(Value::as_str).unwrap_or_default();
            if description.len() < 8 || description.contains("Auto-generated") {
                into.push(path.clone());
            }
            undescribed(field, &path, into);
            undescribed(field.get("items").unwrap_or(&Value::Null), &path, into);
        }
    }

    #[test]
    fn limits_are_whole_numbers_and_nothing_is_null() {
        for definition in definitions() {
            let text = definition.json().to_string();
            assert!(!text.contains("\"nullable\"") && !text.contains(VALUES), "{}", definition.kind());
            assert!(!text.contains("\"minimum\":0.0"), "{}", definition.kind());
        }
    }

    #[test]
    fn names_are_those_of_the_group() {
        for definition in definitions() {
            assert_eq!(definition.name(), format!("{}.{}", definition.plural(), crate::GROUP));
            assert_eq!(definition.json()["spec"]["versions"][0]["name"], crate::VERSION);
            assert_eq!(definition.json()["spec"]["names"]["categories"][0], crate::CATEGORY);
            assert!(
                definition.short_name().starts_with('u'),
                "short names are rare words: {}",
                definition.kind()
            );
        }
    }
}
