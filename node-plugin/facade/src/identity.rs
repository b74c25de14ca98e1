//! Who somebody is in a cluster, as certificates say it: a URI `spiffe://umbra/CLUSTER/ROLE`.
//!
//! Peers verify this identity, never a host name or an address.

use std::fmt;
use std::str::FromStr;
use umbra_platform::value::InvalidValue;

/// What every identity begins with.
const PREFIX: &str = "spiffe://umbra/";
/// Longest part of an identity, in bytes: what Kubernetes allows for a name.
const SEGMENT_BYTES_MAX: usize = 253;

/// A part of an identity, the name of a cluster or a node: 1 to 253 letters, digits, `.`, `_` or `-`, and not only dots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment(String);

impl Segment {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Segment {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = |problem: &str| Err(InvalidValue::new("name", format!("{problem}: {text:.64?}")));
        if text.is_empty() || text.len() > SEGMENT_BYTES_MAX {
            return bad("not 1 to 253 bytes long");
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return bad("only letters, digits, '.', '_' and '-' are allowed");
        }
        if text.bytes().all(|b| b == b'.') {
            return bad("only dots");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A part that a process plays in its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The operator.
    Operator,
    /// The console.
    Console,
    /// The facade of this node.
    Node(Segment),
}

/// A part in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster.
    pub cluster: Segment,
    /// The part.
    pub role: Role,
}

impl FromStr for Identity {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = || InvalidValue::new("identity", format!("not like {PREFIX}CLUSTER/operator: {text:.64?}"));
        let path = text.strip_prefix(PREFIX).ok_or_else(bad)?;
        let (cluster, role) = path.split_once('/').ok_or_else(bad)?;
        let role = match role.split_once('/') {
            None if role == "operator" => Role::Operator,
            None if role == "console" => Role::Console,
            Some(("node", name)) => Role::Node(name.parse()?),
            _ => return Err(bad()),
        };
        Ok(Self { cluster: cluster.parse()?, role })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}/", self.cluster)?;
        match &self.role {
            Role::Operator => f.write_str("operator"),
            Role::Console => f.write_str("console"),
            Role::Node(name) => write!(f, "node/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_one_text() {
        for text in [
            "spiffe://umbra/prod/operator",
            "spiffe://umbra/6f9619ff-8b86-4d01-b42d-00cf4fc964ff/console",
            "spiffe://umbra/prod/node/worker-1.example.com",
        ] {
            assert_eq!(text.parse::<Identity>().expect("an identity").to_string(), text);
        }
    }

    #[test]
    fn what_only_looks_like_an_identity_is_none() {
        for text in [
            "",
            "spiffe://umbra/",
            "spiffe://umbra/prod",
            "spiffe://umbra/prod/",
            "spiffe://umbra//operator",
            "spiffe://umbra/prod/operator/",
            "spiffe://umbra/prod/operator/x",
            "spiffe://umbra/prod/Operator",
            "spiffe://umbra/prod/node",
            "spiffe://umbra/prod/node/",
            "spiffe://umbra/prod/node/a/b",
            "spiffe://umbra/../operator",
            "spiffe://umbra/prod/node/..",
            "spiffe://umbra/pr%6fd/operator",
            "spiffe://umbra/prod/operator?x",
            "spiffe://umbra/prod/operator#x",
            "spiffe://other/prod/operator",
            "SPIFFE://umbra/prod/operator",
            "https://umbra/prod/operator",
            " spiffe://umbra/prod/operator",
        ] {
            text.parse::<Identity>().expect_err(text);
        }
    }
}
