//! Texts and numbers that the kinds are made of, each with its form and its limit.
//!
//! Every text has a greatest length: the API server weighs schema rules by how long what they compare can be.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// What a name of an object may look like.
const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const LABEL: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// A text that does not have the form its field asks for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not {expected}")]
pub struct InvalidValue {
    /// What was found.
    pub text: String,
    /// What would have been right.
    pub expected: &'static str,
}

impl InvalidValue {
    fn new(text: &str, expected: &'static str) -> Self {
        Self { text: text.to_owned(), expected }
    }
}

text! {
    /// Name of an object in the same namespace.
    ObjectName { "minLength": 1, "maxLength": 253, "pattern": SUBDOMAIN }
}
text! {
    /// Name of a PersistentVolumeClaim in the same namespace.
    ClaimName { "minLength": 1, "maxLength": 253, "pattern": SUBDOMAIN }
}
text! {
    /// Name of a DeviceGrant.
    GrantName { "minLength": 1, "maxLength": 253, "pattern": SUBDOMAIN }
}
text! {
    /// Name of a node of the cluster.
    NodeName { "minLength": 1, "maxLength": 253, "pattern": SUBDOMAIN }
}
text! {
    /// Name of a namespace.
    NamespaceName { "minLength": 1, "maxLength": 63, "pattern": LABEL }
}
text! {
    /// Value of a label.
    LabelText { "maxLength": 63, "pattern": r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$" }
}
text! {
    /// Type of a file system as `mount` knows it, for example `ext4` or `xfs`.
    FileSystemType { "minLength": 1, "maxLength": 32, "pattern": "^[a-z0-9][a-z0-9._-]*$" }
}
text! {
    /// What is found on a device, as `type:uuid`, for example `ext4:0c9f1f0e-5d1c-4c56-9a7e-1f7f3f0a2b11`.
    Signature { "minLength": 3, "maxLength": 128, "pattern": "^[A-Za-z0-9_+-]+:[A-Za-z0-9-]*$" }
}
text! {
    /// A device by a name that stays with it: below `/dev/disk/by-id`, `/dev/disk/by-partuuid`, `/dev/disk/by-path` or
    /// `/dev/mapper`. Names that move between devices, such as `/dev/sda`, and names that a copy of the data takes with
    /// it, such as those by file-system UUID, are refused.
    DeviceId {
        "maxLength": 256,
        "pattern": r"^(/dev/disk/by-(id|partuuid|path)/[A-Za-z0-9:._+@-]+|/dev/mapper/[A-Za-z0-9._+-]+)$",
        "x-kubernetes-validations": serde_json::json!([{
            "rule": "!self.endsWith('/.') && !self.endsWith('/..') && self != '/dev/mapper/control'",
            "message": "this is no device: name one below /dev/disk/by-id, by-partuuid, by-path or /dev/mapper",
        }]),
    }
}

impl DeviceId {
    /// Reads the name of a device.
    ///
    /// # Errors
    /// Where it is none that stays with a device: what the schema refuses.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let named = |name: &str, marks: &str| {
            let allowed = |letter: char| letter.is_ascii_alphanumeric() || marks.contains(letter);
            !name.is_empty() && name != "." && name != ".." && name.chars().all(allowed)
        };
        let links = ["/dev/disk/by-id/", "/dev/disk/by-partuuid/", "/dev/disk/by-path/"];
        let is_link =
            links.iter().any(|folder| text.strip_prefix(folder).is_some_and(|name| named(name, ":._+@-")));
        let is_mapped =
            text.strip_prefix("/dev/mapper/").is_some_and(|name| name != "control" && named(name, "._+-"));
        if text.len() <= 256 && (is_link || is_mapped) {
            Ok(Self::new(text))
        } else {
            Err(InvalidValue::new(
                text,
                "a device below /dev/disk/by-id, by-partuuid, by-path or /dev/mapper",
            ))
        }
    }
}

text! {
    /// A pattern of device names: like a stable device name, where `*` stands for any text without a slash and `?` for
    /// one character.
    DevicePattern {
        "maxLength": 256,
        "pattern": r"^(/dev/disk/by-(id|partuuid|path)/|/dev/mapper/)[A-Za-z0-9:._+@*?-]+$",
    }
}

impl DevicePattern {
    /// Whether the pattern stands for this device's name.
    #[must_use]
    pub fn matches(&self, id: &DeviceId) -> bool {
        let (pattern, text) = (self.0.as_bytes(), id.as_str().as_bytes());
        let (mut at, mut seen) = (0, 0);
        // Where the last star was, and how much of the text it had swallowed: the only place to go back to.
        let mut star: Option<(usize, usize)> = None;
        while seen < text.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, seen));
                    at += 1;
                }
                Some(&wanted) if wanted == text[seen] || (wanted == b'?' && text[seen] != b'/') => {
                    at += 1;
                    seen += 1;
                }
                _ => {
                    let Some((star_at, swallowed)) = star else { return false };
                    if text[swallowed] == b'/' {
                        return false;
                    }
                    star = Some((star_at, swallowed + 1));
                    at = star_at + 1;
                    seen = swallowed + 1;
                }
            }
        }
        pattern[at..].iter().all(|rest| *rest == b'*')
    }
}

/// An amount of bytes as Kubernetes writes it: a number, or one with a suffix such as `Gi` or `G`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Size(String);

impl Size {
    const FORM: &'static str = "an amount of bytes such as 120Gi, 500G or 1073741824";

    /// An amount as it is written.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The amount as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The amount in bytes.
    ///
    /// # Errors
    /// Where the text is no amount, or more than 2^63 - 1 bytes.
    pub fn bytes(&self) -> Result<u64, InvalidValue> {
        let invalid = || InvalidValue::new(&self.0, Self::FORM);
        let digits = self.0.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, suffix) = self.0.split_at(digits);
        let unit: u128 = match suffix {
            "" => 1,
            "k" => 10_u128.pow(3),
            "M" => 10_u128.pow(6),
            "G" => 10_u128.pow(9),
            "T" => 10_u128.pow(12),
            "P" => 10_u128.pow(15),
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            "Pi" => 1 << 50,
            _ => return Err(invalid()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty()
            || whole.len() > 18
            || fraction.len() > 9
            || (fraction.is_empty() && number.contains('.'))
        {
            return Err(invalid());
        }
        let value: u128 = format!("{whole}{fraction}").parse().map_err(|_| invalid())?;
        let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| invalid())?);
        // A part of a byte counts as a whole one.
        let bytes = (value * unit).div_ceil(scale);
        i64::try_from(bytes).ok().and_then(|bytes| u64::try_from(bytes).ok()).ok_or_else(invalid)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(i64),
            Text(String),
        }
        Ok(match Written::deserialize(from)? {
            Written::Number(number) => Self(number.to_string()),
            Written::Text(text) => Self(text),
        })
    }
}

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": r"^[0-9]{1,18}(\.[0-9]{1,9})?(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$",
            "x-kubernetes-int-or-string": true,
        })
    }
}

/// A length of time such as `30s`, `1m30s` or `250ms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(String);

impl Duration {
    const FORM: &'static str = "a length of time such as 30s, 1m30s or 250ms";

    /// A length of time as it is written.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The length of time as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The length of time.
    ///
    /// # Errors
    /// Where the text is none, or is longer than a program can count.
    pub fn length(&self) -> Result<std::time::Duration, InvalidValue> {
        let invalid = || InvalidValue::new(&self.0, Self::FORM);
        let mut rest = self.0.as_str();
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, behind) = rest.split_at(digits);
            let letters = behind.bytes().take_while(u8::is_ascii_lowercase).count();
            let (unit, behind) = behind.split_at(letters);
            let milliseconds: u64 = match unit {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                _ => return Err(invalid()),
            };
            let number: u64 = number.parse().map_err(|_| invalid())?;
            let part = number.checked_mul(milliseconds).ok_or_else(invalid)?;
            total = total.checked_add(part).ok_or_else(invalid)?;
            rest = behind;
        }
        if self.0.is_empty() { Err(invalid()) } else { Ok(std::time::Duration::from_millis(total)) }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(&self.0)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "pattern": "^([0-9]{1,9}(ms|s|m|h))+$",
        })
    }
}

/// An identifier that Umbra gives.
macro_rules! identifier {
    ($(#[doc = $doc:literal])+ $name:ident) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// The identifier of these bits.
            #[must_use]
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Its bits.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(to)
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self).map_err(|_| InvalidValue::new(text, "a UUID"))
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "maxLength": 36,
                    "pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
                })
            }
        }
    };
}

identifier! {
    /// Identifier of one cut: of the act, and of the image it made.
    CutId
}
identifier! {
    /// Identifier of a volume set, as on its bitmap volume.
    SetId
}
identifier! {
    /// Identifier of a master volume.
    MasterId
}

choice! {
    /// Unit of tracking and copying.
    ChunkSize = KiB64 {
        /// 4 KiB: least copied per first write, largest bitmap volume.
        KiB4 = "4Ki",
        /// 8 KiB, the page of PostgreSQL.
        KiB8 = "8Ki",
        /// 16 KiB, the page of InnoDB.
        KiB16 = "16Ki",
        /// 32 KiB.
        KiB32 = "32Ki",
        /// 64 KiB: right for most.
        KiB64 = "64Ki",
        /// 128 KiB.
        KiB128 = "128Ki",
        /// 256 KiB.
        KiB256 = "256Ki",
        /// 512 KiB.
        KiB512 = "512Ki",
        /// 1 MiB.
        MiB1 = "1Mi",
        /// 2 MiB.
        MiB2 = "2Mi",
        /// 4 MiB: for volumes that are written in large pieces only.
        MiB4 = "4Mi",
    }
}

impl ChunkSize {
    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::KiB4 => 4 << 10,
            Self::KiB8 => 8 << 10,
            Self::KiB16 => 16 << 10,
            Self::KiB32 => 32 << 10,
            Self::KiB64 => 64 << 10,
            Self::KiB128 => 128 << 10,
            Self::KiB256 => 256 << 10,
            Self::KiB512 => 512 << 10,
            Self::MiB1 => 1 << 20,
            Self::MiB2 => 2 << 20,
            Self::MiB4 => 4 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_kubernetes_reads_them() {
        let bytes = |text: &str| Size::new(text).bytes().ok();
        assert_eq!(bytes("1073741824"), Some(1 << 30));
        assert_eq!(bytes("120Gi"), Some(120 << 30));
        assert_eq!(bytes("1.5Gi"), Some(3 << 29));
        assert_eq!(bytes("500G"), Some(500_000_000_000));
        assert_eq!(bytes("0.0000001k"), Some(1));
        for wrong in ["", "Gi", "-1Gi", "1gi", "1.", ".5Gi", "1 Gi", "1e3", "999999999999999999Pi", "1.0.0Gi"]
        {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
        let from = |json: &str| serde_json::from_str::<Size>(json).unwrap().bytes();
        assert_eq!(from("4096"), Ok(4096));
        assert_eq!(from("\"4Ki\""), Ok(4096));
        let message = Size::new("lots").bytes().unwrap_err().to_string();
        assert_eq!(message, "\"lots\" is not an amount of bytes such as 120Gi, 500G or 1073741824");
    }

    #[test]
    fn lengths_of_time_are_read_without_a_panic() {
        let length = |text: &str| Duration::new(text).length().ok().map(|length| length.as_millis());
        assert_eq!(length("30s"), Some(30_000));
        assert_eq!(length("1m30s250ms"), Some(90_250));
        assert_eq!(length("2h"), Some(7_200_000));
        for wrong in ["", "s", "30", "-1s", "1.5s", "1d", "99999999999999999999h", "9999999999999999h"] {
            assert_eq!(length(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn patterns_of_devices_stop_at_slashes() {
        let matches = |pattern: &str, id: &str| DevicePattern::new(pattern).matches(&DeviceId::new(id));
        assert!(matches("/dev/disk/by-id/nvme-KIOXIA_*", "/dev/disk/by-id/nvme-KIOXIA_S1"));
        assert!(matches("/dev/disk/by-id/nvme-*-part?", "/dev/disk/by-id/nvme-a-part1-part2"));
        assert!(matches("/dev/mapper/vg-data", "/dev/mapper/vg-data"));
        assert!(!matches("/dev/mapper/vg-data", "/dev/mapper/vg-data2"));
        assert!(!matches("/dev/mapper/*", "/dev/mapper/a/b"));
        assert!(!matches("/dev/mapper/?", "/dev/mapper//"));
        assert!(!matches("/dev/disk/by-id/nvme-*-part?", "/dev/disk/by-id/nvme-a-part"));
        // Many stars do not make it slow.
        let stars = format!("/dev/mapper/{}b", "a*".repeat(60));
        assert!(!matches(&stars, &format!("/dev/mapper/{}", "a".repeat(200))));
    }

    #[test]
    fn identifiers_are_what_they_say() {
        let text = "7c1e4a52-30c9-4a6a-8f0d-5f0f3c1b9a77";
        assert_eq!(text.parse::<CutId>().unwrap().to_string(), text);
        assert_eq!("7c1e".parse::<CutId>().unwrap_err().to_string(), "\"7c1e\" is not a UUID");
    }

    #[test]
    fn a_chunk_has_the_size_of_its_name() {
        for chunk in ChunkSize::ALL {
            assert_eq!(Size::new(chunk.as_str()).bytes(), Ok(u64::from(chunk.bytes())));
        }
    }
}
