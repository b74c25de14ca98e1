//! Who asks, and what it may do.

use crate::identity::{Identity, Role, Segment};
use std::fmt;

/// What a call needs of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// It only looks.
    Read,
    /// It changes something.
    Change,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The operator of this node's cluster.
    Operator,
    /// The console of this node's cluster.
    Console,
    /// Root on this node, by the node's own socket.
    Root,
    /// Anybody else, in words.
    Nobody(String),
}

impl Caller {
    /// Who has a certificate with these URIs, on a node of this cluster. A certificate of two identities is nobody's.
    pub fn certified<'a>(cluster: &Segment, uris: impl IntoIterator<Item = &'a str>) -> Self {
        let mut uris = uris.into_iter();
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Self::Nobody("a certificate without exactly one URI".into());
        };
        match uri.parse::<Identity>() {
            Ok(identity) if identity.cluster != *cluster => {
                Self::Nobody(format!("{identity}, of another cluster than {cluster},"))
            }
            Ok(Identity { role: Role::Operator, .. }) => Self::Operator,
            Ok(Identity { role: Role::Console, .. }) => Self::Console,
            Ok(node @ Identity { role: Role::Node(_), .. }) => Self::Nobody(node.to_string()),
            Err(_) => Self::Nobody(format!("{uri:.128?}")),
        }
    }

    /// Who a process of this user is, on the node's own socket.
    pub fn local(user: Option<u32>) -> Self {
        match user {
            Some(0) => Self::Root,
            Some(user) => Self::Nobody(format!("user {user}")),
            None => Self::Nobody("a process that the kernel does not name".into()),
        }
    }

    /// Whether it may do what needs this right.
    pub fn may(&self, right: Right) -> bool {
        match (self, right) {
            (Self::Operator, Right::Read | Right::Change) | (Self::Console | Self::Root, Right::Read) => true,
            (Self::Console | Self::Root, Right::Change) | (Self::Nobody(_), _) => false,
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("the operator"),
            Self::Console => f.write_str("the console"),
            Self::Root => f.write_str("root of the node"),
            Self::Nobody(who) => f.write_str(who),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(uris: &[&str]) -> Caller {
        Caller::certified(&"prod".parse().expect("a name"), uris.iter().copied())
    }

    #[test]
    fn who_may_do_what() {
        let operator = "spiffe://umbra/prod/operator";
        let console = "spiffe://umbra/prod/console";
        for (caller, reads, changes) in [
            (by(&[operator]), true, true),
            (by(&[console]), true, false),
            (Caller::local(Some(0)), true, false),
            (Caller::local(Some(1000)), false, false),
            (Caller::local(None), false, false),
            (by(&[]), false, false),
            (by(&[operator, console]), false, false),
            (by(&[operator, operator]), false, false),
            (by(&["spiffe://umbra/staging/operator"]), false, false),
            (by(&["spiffe://umbra/prod/node/a"]), false, false),
            (by(&["spiffe://umbra/prod/operators"]), false, false),
            (by(&["https://umbra/prod/operator"]), false, false),
            (by(&["no URI at all"]), false, false),
        ] {
            assert_eq!((caller.may(Right::Read), caller.may(Right::Change)), (reads, changes), "{caller}");
        }
    }
}
