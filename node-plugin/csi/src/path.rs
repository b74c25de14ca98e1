//! The paths that the kubelet names.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use umbra_platform::value::InvalidValue;

/// Longest path: the kernel's.
const BYTES_MAX: usize = 4095;

/// An absolute path of UTF-8 without `.`, `..` and doubled slashes, and never the root itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PlacePath(String);

impl PlacePath {
    /// As a path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl FromStr for PlacePath {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = |problem: &str| Err(InvalidValue::new("path", format!("{text:.128?} {problem}")));
        if text.len() > BYTES_MAX || text.contains('\0') {
            return bad("is too long, or holds a zero byte");
        }
        let mut clean = PathBuf::from("/");
        let mut parts = Path::new(text).components();
        if parts.next() != Some(Component::RootDir) {
            return bad("is not absolute");
        }
        for part in parts {
            match part {
                Component::Normal(name) => clean.push(name),
                _ => return bad("leads through .."),
            }
        }
        match clean.into_os_string().into_string() {
            Ok(clean) if clean != "/" => Ok(Self(clean)),
            _ => bad("is the root"),
        }
    }
}

impl fmt::Display for PlacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for PlacePath {
    type Error = InvalidValue;
    fn try_from(text: String) -> Result<Self, InvalidValue> {
        text.parse()
    }
}

impl From<PlacePath> for String {
    fn from(path: PlacePath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_has_one_spelling() {
        for (text, clean) in [("/a/b", "/a/b"), ("//a///b/", "/a/b"), ("/a/./b/.", "/a/b"), ("/ä b", "/ä b")]
        {
            assert_eq!(text.parse::<PlacePath>().expect(text).to_string(), clean);
        }
        let long = format!("/{}", "a".repeat(BYTES_MAX));
        for text in ["", "a", "some/path", "./a", "/", "//", "/a/../b", "/..", "/a\0b", &long] {
            text.parse::<PlacePath>().expect_err(text);
        }
    }
}
