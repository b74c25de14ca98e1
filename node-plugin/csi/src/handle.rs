//! What a volume is called between Kubernetes and the node: `m/<master>` or `s/<set>`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use umbra_platform::id::{MasterId, SetId};
use umbra_platform::value::InvalidValue;

/// The volume that a handle names. Parsing takes no other spelling than printing gives, so that one volume has one handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum VolumeHandle {
    /// The presented master.
    Master(MasterId),
    /// The presented shadow of a set.
    Shadow(SetId),
}

impl VolumeHandle {
    /// The name of this volume's file in a folder.
    pub(crate) fn file_name(self) -> String {
        format!("{}.json", self.to_string().replacen('/', "-", 1))
    }
}

impl fmt::Display for VolumeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master(id) => write!(f, "m/{id}"),
            Self::Shadow(id) => write!(f, "s/{id}"),
        }
    }
}

impl FromStr for VolumeHandle {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let no_handle = || {
            let problem = format!("{text:.64?} is neither m/ and a master's UUID nor s/ and a set's");
            InvalidValue::new("volume handle", problem)
        };
        let handle = match text.split_once('/') {
            Some(("m", id)) => id.parse().map(Self::Master),
            Some(("s", id)) => id.parse().map(Self::Shadow),
            _ => return Err(no_handle()),
        };
        handle.ok().filter(|handle: &Self| handle.to_string() == text).ok_or_else(no_handle)
    }
}

impl TryFrom<String> for VolumeHandle {
    type Error = InvalidValue;
    fn try_from(text: String) -> Result<Self, InvalidValue> {
        text.parse()
    }
}

impl From<VolumeHandle> for String {
    fn from(handle: VolumeHandle) -> Self {
        handle.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "3f6c0b1e-77aa-4c7e-9d1b-0a4f5d0c8e11";

    #[test]
    fn masters_and_sets_have_handles() {
        for text in [format!("m/{ID}"), format!("s/{ID}")] {
            let handle: VolumeHandle = text.parse().expect("a handle");
            assert_eq!(handle.to_string(), text);
            assert_eq!(handle.file_name(), text.replace('/', "-") + ".json");
        }
    }

    #[test]
    fn what_is_no_handle_is_said_to_be_none() {
        let upper = format!("m/{}", ID.to_uppercase());
        let braces = format!("m/{{{ID}}}");
        let short = format!("s/{}", ID.replace('-', ""));
        let twice = format!("m/{ID}/");
        let export = format!("x/{ID}");
        for text in ["", "/", "m", "m/", ID, "fake-vol-id", &upper, &braces, &short, &twice, &export] {
            let refused = text.parse::<VolumeHandle>().expect_err(text);
            assert!(refused.to_string().contains("m/ and a master's UUID"), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_handle_that_prints_the_same_or_none(text in "\\PC{0,60}|[ms]/[0-9a-f-]{0,40}") {
            if let Ok(handle) = text.parse::<VolumeHandle>() {
                prop_assert_eq!(handle.to_string(), text);
            }
        }
    }
}
