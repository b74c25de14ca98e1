//! Shorthand for the two shapes of which the kinds have many: a choice of named values, and a text of a certain form.
//!
//! Their schemas have no description. Every field of such a type has its own, and an optional field would lose it.

use schemars::{Schema, json_schema};

/// The keyword under which a schema carries what its values mean, until the definition is finished: the description of a
/// field replaces that of its type, and this is added to it. It is one that definitions have and that nothing else uses.
pub(crate) const VALUES: &str = "externalDocs";

/// A choice, with what each of its values means.
pub(crate) fn choice<'a>(values: impl Iterator<Item = (&'a str, &'a str)>) -> Schema {
    let (names, meanings): (Vec<&str>, Vec<String>) =
        values.map(|(name, meaning)| (name, format!("- {name}: {meaning}"))).unzip();
    json_schema!({
        "type": "string",
        "enum": names,
        VALUES: {"url": "", "description": format!("One of:\n{}", meanings.join("\n"))},
    })
}

/// A choice between named values. What each means becomes part of the description of every field of the type.
macro_rules! choice {
    (
        $(#[doc = $doc:literal])+
        $name:ident $(= $default:ident)? {
            $($(#[doc = $meaning:literal])+ $variant:ident $(= $text:literal)?,)+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[doc = $meaning])+ $(#[serde(rename = $text)])? $variant,)+
        }

        impl $name {
            /// Every value, in the order of the schema.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The value as it is written in an object.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => choice!(@text $variant $($text)?),)+
                }
            }
        }

        impl $name {
            const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($meaning),+).trim_ascii(),)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                to.pad(self.as_str())
            }
        }

        $(impl Default for $name {
            fn default() -> Self {
                Self::$default
            }
        })?

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $crate::macros::choice(Self::ALL.iter().map(|value| (value.as_str(), value.meaning())))
            }
        }
    };
    (@text $variant:ident) => { stringify!($variant) };
    (@text $variant:ident $text:literal) => { $text };
}

/// A text of a certain form. The schema holds the form; the type keeps one kind of text from being taken for another.
macro_rules! text {
    ($(#[doc = $doc:literal])+ $name:ident { $($keyword:literal: $value:expr),* $(,)? }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The text as it is; whether it has the form is for the schema to say.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                to.pad(&self.0)
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    $($keyword: $value,)*
                })
            }
        }
    };
}
