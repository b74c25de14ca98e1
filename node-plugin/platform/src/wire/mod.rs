//! The wire: generated types, and checked conversions between them and the domain types.
//!
//! What comes in is checked once, here, by building domain types from it. Beside this crate only the facade uses it:
//! its answers are made of the same messages.

pub(crate) mod call;
pub mod fault;
pub(crate) mod status;
#[cfg(test)]
mod tests;

use crate::status::{Mode, Role, UnrecordablePolicy, WaitReason};
use crate::{call::AcceptedImages, call::CopyKind, call::Direction, value::InvalidValue};
use std::str::FromStr;

/// What the build made of the proto file.
#[allow(clippy::all, clippy::allow_attributes_without_reason, clippy::too_many_lines, reason = "generated")]
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "generated")]
pub mod pb {
    tonic::include_proto!("umbra.platform.v1alpha1");

    /// Descriptors for server reflection.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("platform");
}

/// A field of a message that is absent or holds no value of its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadField {
    /// The field's name in the proto file.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl BadField {
    /// The field is not there, or empty.
    pub fn missing(field: &'static str) -> Self {
        Self { field, problem: "missing".into() }
    }
}

/// Names the field that a value was read from.
pub trait InField<T> {
    /// The value, or an error that names the field.
    ///
    /// # Errors
    /// If there is none.
    fn within(self, field: &'static str) -> Result<T, BadField>;
}

impl<T> InField<T> for Result<T, InvalidValue> {
    fn within(self, field: &'static str) -> Result<T, BadField> {
        self.map_err(|e| BadField { field, problem: e.to_string() })
    }
}

impl<T> InField<T> for Option<T> {
    fn within(self, field: &'static str) -> Result<T, BadField> {
        self.ok_or_else(|| BadField::missing(field))
    }
}

/// Reads a text field.
///
/// # Errors
/// If it is absent, or no value of its type.
pub fn read<T: FromStr<Err = InvalidValue>>(text: &str, field: &'static str) -> Result<T, BadField> {
    if text.is_empty() {
        return Err(BadField::missing(field));
    }
    text.parse().within(field)
}

/// Reads a text field that may be absent.
///
/// # Errors
/// If it is there and no value of its type.
pub fn read_opt<T: FromStr<Err = InvalidValue>>(
    text: Option<&str>,
    field: &'static str,
) -> Result<Option<T>, BadField> {
    text.map(|text| read(text, field)).transpose()
}

/// An enum of the domain and its twin on the wire, as one table.
macro_rules! enum_table {
    ($domain:ident, $field:literal, $($variant:ident),+) => {
        impl From<$domain> for pb::$domain {
            fn from(value: $domain) -> Self {
                match value { $($domain::$variant => Self::$variant),+ }
            }
        }

        impl TryFrom<pb::$domain> for $domain {
            type Error = BadField;
            fn try_from(value: pb::$domain) -> Result<Self, BadField> {
                match value {
                    pb::$domain::Unspecified => Err(BadField::missing($field)),
                    $(pb::$domain::$variant => Ok(Self::$variant)),+
                }
            }
        }
    };
}

enum_table!(Mode, "mode", Independent, Dependent);
enum_table!(Role, "role", Master, Shadow, Bitmap);
enum_table!(Direction, "direction", ToShadow, ToMaster);
enum_table!(CopyKind, "kind", Full, Update);
enum_table!(UnrecordablePolicy, "policy", Block, FailWrite);
enum_table!(AcceptedImages, "images", Lost, Changed);
enum_table!(
    WaitReason,
    "reason",
    NotThere,
    InUse,
    Foreign,
    IoError,
    Hung,
    Shrunk,
    Recovering,
    Claiming,
    WrittenOutside
);

/// Reads an enum field: the number must be one that this build knows, and not 0.
///
/// # Errors
/// If it is not.
pub fn read_enum<W, D>(number: i32, field: &'static str) -> Result<D, BadField>
where
    W: TryFrom<i32>,
    D: TryFrom<W, Error = BadField>,
{
    let known =
        W::try_from(number).map_err(|_| BadField { field, problem: format!("unknown value {number}") })?;
    D::try_from(known).map_err(|e| BadField { field, ..e })
}
