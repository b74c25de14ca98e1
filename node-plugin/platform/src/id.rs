//! What things are called: UUIDs, names, references, device identities, the epoch.

use crate::value::{InvalidValue, Label, text_form};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new one, of random bits.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;
            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                let uuid = Uuid::parse_str(text);
                uuid.map(Self).map_err(|_| InvalidValue::new($what, format!("not a UUID: {text:.64?}")))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

uuid_newtype!(
    /// Names a master, for ever.
    MasterId, "master UUID"
);
uuid_newtype!(
    /// Names a volume set, for ever.
    SetId, "set UUID"
);
uuid_newtype!(
    /// Names a cut; new for every attempt.
    CutId, "cut id"
);
uuid_newtype!(
    /// Names a request that changes something. The same id sent again gets the same answer and has no second effect.
    RequestId, "request id"
);

/// Counts the cuts of one volume set; 0 before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl FromStr for Epoch {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        text.parse()
            .map(Self)
            .map_err(|_| InvalidValue::new("epoch", format!("no whole number: {text:.64?}")))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Full name of a volume set. Namespace and name together are unique in one interposer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SetName {
    /// The cluster that owns the set, if one does.
    pub cluster: Option<Label>,
    /// Namespace of the object that describes the set, if there is one.
    pub namespace: Option<Label>,
    /// Name of the set.
    pub name: Label,
}

impl fmt::Display for SetName {
    /// `namespace/name`, or `name`: a [`SetRef`] can be read from it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => fmt::Display::fmt(&self.name, f),
        }
    }
}

/// How a caller points at a master: a UUID or a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MasterRef {
    /// By UUID.
    Id(MasterId),
    /// By name.
    Name(Label),
}

impl MasterRef {
    /// Whether the master with this id and name is meant.
    pub fn matches(&self, id: MasterId, name: &Label) -> bool {
        match self {
            Self::Id(wanted) => *wanted == id,
            Self::Name(wanted) => wanted == name,
        }
    }
}

impl FromStr for MasterRef {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}

impl fmt::Display for MasterRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => fmt::Display::fmt(id, f),
            Self::Name(name) => fmt::Display::fmt(name, f),
        }
    }
}
text_form!(MasterRef);

/// How a caller points at a set: a UUID, `name` or `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SetRef {
    /// By UUID.
    Id(SetId),
    /// By name. Without a namespace it means the set of that name in any namespace; if several have it, the
    /// caller must say which (`BAD_ARGUMENT`).
    Name {
        /// Namespace, if given.
        namespace: Option<Label>,
        /// Name of the set.
        name: Label,
    },
}

impl SetRef {
    /// Whether the set with this id and name is meant.
    pub fn matches(&self, id: SetId, of: &SetName) -> bool {
        match self {
            Self::Id(wanted) => *wanted == id,
            Self::Name { namespace: None, name } => *name == of.name,
            Self::Name { namespace, name } => *name == of.name && *namespace == of.namespace,
        }
    }
}

impl From<&SetName> for SetRef {
    fn from(name: &SetName) -> Self {
        Self::Name { namespace: name.namespace.clone(), name: name.name.clone() }
    }
}

impl From<SetId> for SetRef {
    fn from(id: SetId) -> Self {
        Self::Id(id)
    }
}

impl From<MasterId> for MasterRef {
    fn from(id: MasterId) -> Self {
        Self::Id(id)
    }
}

impl FromStr for SetRef {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        match text.split_once('/') {
            Some((namespace, name)) => {
                Ok(Self::Name { namespace: Some(namespace.parse()?), name: name.parse()? })
            }
            None => Ok(Self::Name { namespace: None, name: text.parse()? }),
        }
    }
}

impl fmt::Display for SetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => fmt::Display::fmt(id, f),
            Self::Name { namespace: Some(namespace), name } => write!(f, "{namespace}/{name}"),
            Self::Name { namespace: None, name } => fmt::Display::fmt(name, f),
        }
    }
}
text_form!(SetRef);

/// What a device is recognised by (E19). Text form `kind:value`, for example `wwid:naa.5000c500a1b2c3d4`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceIdentity {
    kind: IdentityKind,
    value: String,
}

/// Where a device's identity comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdentityKind {
    /// World-wide id that the device reports.
    Wwid,
    /// Serial number that the device reports.
    Serial,
    /// UUID of a partition, from the partition table.
    Partition,
    /// UUID of a device-mapper device, as LVM gives them.
    DeviceMapper,
    /// A file, or a loop device over one: device and inode number. Copies share nothing with it, but a file
    /// system that is restored or cloned may give the same numbers to other content: weak.
    File,
}

impl IdentityKind {
    const ALL: [Self; 5] = [Self::Wwid, Self::Serial, Self::Partition, Self::DeviceMapper, Self::File];

    fn as_str(self) -> &'static str {
        match self {
            Self::Wwid => "wwid",
            Self::Serial => "serial",
            Self::Partition => "partuuid",
            Self::DeviceMapper => "dm",
            Self::File => "file",
        }
    }
}

impl DeviceIdentity {
    /// The identity `value` of this kind.
    ///
    /// # Errors
    /// If the value is empty, longer than 200 bytes, or holds a blank or a control character at an end.
    pub fn new(kind: IdentityKind, value: &str) -> Result<Self, InvalidValue> {
        let blank_end = value.trim() != value;
        if value.is_empty() || value.len() > 200 || blank_end || value.chars().any(char::is_control) {
            return Err(InvalidValue::new("device identity", format!("unusable value {value:.64?}")));
        }
        Ok(Self { kind, value: value.to_owned() })
    }

    /// Where it comes from.
    pub fn kind(&self) -> IdentityKind {
        self.kind
    }

    /// The identity proper.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Whether another device may have the same: such a master needs `accept_weak_identity`.
    pub fn is_weak(&self) -> bool {
        self.kind == IdentityKind::File
    }
}

impl FromStr for DeviceIdentity {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let (word, value) = text.split_once(':').unwrap_or((text, ""));
        match IdentityKind::ALL.iter().find(|kind| kind.as_str() == word) {
            Some(kind) => Self::new(*kind, value),
            None => Err(InvalidValue::new(
                "device identity",
                format!("{text:.64?} is none of wwid:, serial:, partuuid:, dm:, file:"),
            )),
        }
    }
}

impl fmt::Display for DeviceIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.value)
    }
}
text_form!(DeviceIdentity);
