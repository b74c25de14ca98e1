//! Schemas of what Kubernetes itself defines, with the limits that it leaves out.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::values::LabelText;

choice! {
    /// What to ask of a label.
    Operator {
        /// Its value is among the values.
        In,
        /// It is absent, or its value is not among the values.
        NotIn,
        /// It is there.
        Exists,
        /// It is absent.
        DoesNotExist,
    }
}

/// Labels, as many as a claim can sensibly have.
pub(crate) fn labels(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": LabelText::json_schema(generator),
    })
}

/// A label selector with limits, so that the API server can tell what comparing two of them costs at most.
pub(crate) fn label_selector(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = LabelSelector::json_schema(generator).to_value();
    let key = json!({"type": "string", "minLength": 1, "maxLength": 317});
    let value = LabelText::json_schema(generator).to_value();
    let mut set = |pointer: &str, keyword: &str, to: Value| {
        if let Some(Value::Object(fields)) = schema.pointer_mut(pointer) {
            fields.insert(keyword.to_owned(), to);
        }
    };
    set(
        "",
        "description",
        "Selects by labels; what is given must all be met. Empty, it selects everything.".into(),
    );
    set("", "x-kubernetes-map-type", "atomic".into());
    set("/properties/matchLabels", "description", "Labels, each with the value it must have.".into());
    set("/properties/matchLabels", "maxProperties", 16.into());
    set("/properties/matchLabels", "additionalProperties", value.clone());
    set("/properties/matchExpressions", "description", "Requirements on labels.".into());
    set("/properties/matchExpressions", "maxItems", 16.into());
    set("/properties/matchExpressions", "x-kubernetes-list-type", "atomic".into());
    let requirement = json!({
        "type": "object",
        "description": "A requirement on one label.",
        "required": ["key", "operator"],
        "properties": {
            "key": with(key, "description", "The label."),
            "operator": Operator::json_schema(generator),
            "values": {
                "type": "array",
                "description": "The values for In and NotIn.",
                "maxItems": 16,
                "items": value,
                "x-kubernetes-list-type": "atomic",
            },
        },
        "x-kubernetes-validations": [{
            "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
            "message": "In and NotIn need values, Exists and DoesNotExist take none",
        }],
    });
    set("/properties/matchExpressions", "items", requirement);
    Schema::try_from(schema).unwrap_or_default()
}

fn with(mut schema: Value, keyword: &str, to: &str) -> Value {
    schema[keyword] = to.into();
    schema
}

/// Conditions: a list with one entry for each type.
pub(crate) fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let mut item = Condition::json_schema(generator).to_value();
    let mut set = |field: &str, keywords: Value| {
        let found = item.pointer_mut(&format!("/properties/{field}")).and_then(Value::as_object_mut);
        if let (Some(found), Value::Object(keywords)) = (found, keywords) {
            found.extend(keywords);
        }
    };
    set("type", json!({"maxLength": 64, "description": "What the condition is about."}));
    set(
        "status",
        json!({"enum": ["True", "False", "Unknown"], "description": "Whether it is so: True, False or Unknown."}),
    );
    set(
        "reason",
        json!({"minLength": 1, "maxLength": 128, "description": "Why, in one word that programs can rely on."}),
    );
    set(
        "message",
        json!({"maxLength": 4096, "description": "Why, for people: what it is about, and what can be done."}),
    );
    set(
        "observedGeneration",
        json!({"description": "The generation of the object that this was found for."}),
    );
    set("lastTransitionTime", json!({"description": "When the status last changed."}));
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": item,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}
