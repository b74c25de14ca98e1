//! JSON that is almost right: some parts of a good text have other values, are gone or there twice, or bytes of it rot.

use crate::choices::Choices;
use serde_json::{Number, Value};

/// The text of a record with up to three changes.
pub(crate) fn changed(good: &[u8], choices: &mut Choices<'_>) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(good).expect("it is good");
    for _ in 0..choices.byte() % 4 {
        change(&mut value, choices);
    }
    let mut text = serde_json::to_vec(&value).expect("a value is a text");
    if choices.byte() % 8 == 1 {
        let at = choices.below(text.len());
        match choices.byte() % 3 {
            0 => text.truncate(at),
            1 => text[at] = choices.byte(),
            _ => drop(text.splice(at..at, [choices.byte()])),
        }
    }
    text
}

/// One part at any depth.
fn change(value: &mut Value, choices: &mut Choices<'_>) {
    match value {
        Value::Object(fields) if !fields.is_empty() && choices.byte() % 8 != 1 => {
            let at = choices.below(fields.len());
            let name = fields.keys().nth(at).cloned().expect("there is one");
            match choices.byte() % 8 {
                1 => drop(fields.remove(&name)),
                2 => {
                    let other = choices.text();
                    let moved = fields.remove(&name).unwrap_or_default();
                    fields.insert(other, moved);
                }
                _ => change(fields.get_mut(&name).expect("it is there"), choices),
            }
        }
        Value::Array(items) if !items.is_empty() && choices.byte() % 8 != 1 => {
            let at = choices.below(items.len());
            match choices.byte() % 4 {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => change(&mut items[at], choices),
            }
        }
        leaf => *leaf = other(leaf, choices),
    }
}

/// Mostly a value of the same kind.
fn other(value: &Value, choices: &mut Choices<'_>) -> Value {
    match value {
        Value::Number(_) if choices.byte() % 4 != 1 => Value::from(choices.edge()),
        Value::String(_) if choices.byte() % 4 != 1 => Value::from(choices.text()),
        Value::Bool(was) => Value::from(!was),
        _ => match choices.byte() % 7 {
            0 => Value::Null,
            1 => Value::from(choices.edge()),
            2 => Value::from(-1),
            3 => Number::from_f64(0.5).map_or(Value::Null, Value::Number),
            4 => Value::from(choices.text()),
            5 => Value::Array(vec![value.clone(); usize::from(choices.byte() % 16)]),
            _ => Value::from(serde_json::Map::from_iter([(choices.text(), value.clone())])),
        },
    }
}
