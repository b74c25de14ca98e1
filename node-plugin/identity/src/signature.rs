//! What lies on a device.

use std::fmt;

/// The confirmation that a wipe needs, `TYPE:UUID`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignatureId(String);

impl SignatureId {
    /// Of this type and UUID.
    pub fn new(kind: &str, uuid: &str) -> Self {
        Self(format!("{kind}:{uuid}"))
    }
}

impl SignatureId {
    /// Whether Umbra itself wrote it.
    pub fn is_umbra(&self) -> bool {
        self.0.starts_with("umbra-")
    }
}

impl fmt::Display for SignatureId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One thing that lies on a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature {
    /// What confirms its destruction.
    pub id: SignatureId,
    /// Where it was recognised, in bytes from the start.
    pub at: u64,
}
